"""Ranks wait for each other longer than a collective may take, with signs of life; not for one that has gone."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
import torch

from ray_robust.train.context import Context


def _rank(rank: int, address: str, behaviour: str, results: torch.multiprocessing.Queue) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=2)
    )
    beats: list[float] = []
    context = Context(rank=rank, world_size=2, heartbeat=lambda: beats.append(time.monotonic()))
    context.wait_for_all()
    if rank == 1:
        time.sleep(4)
        if behaviour == "goes":
            return
    beats.clear()
    try:
        context.wait_for_all()
        results.put((rank, len(beats), ""))
    except RuntimeError as error:
        results.put((rank, len(beats), str(error)))


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["comes", "goes"])
def test_a_rank_waits_as_long_as_another_works(tmp_path, behaviour):
    spawning = torch.multiprocessing.get_context("spawn")
    results = spawning.Queue()
    address = f"file://{tmp_path}/ranks"
    ranks = [spawning.Process(target=_rank, args=(rank, address, behaviour, results)) for rank in (0, 1)]
    for one in ranks:
        one.start()
    ends = {rank: more for rank, *more in (results.get(timeout=60) for _ in range(1 + (behaviour == "comes")))}
    for one in ranks:
        one.join(60)
        assert one.exitcode is not None
    beats, error = ends[0]
    assert beats > 50  # four seconds, twice what a collective may take here
    assert bool(error) == (behaviour == "goes")
