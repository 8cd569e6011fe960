"""Ranks wait for each other longer than a collective may take, with signs of life; not for one that has gone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from deadlines import HANG, wait_for

from ray_robust.train.context import WAITING, Context

LIMIT = 2.0  # seconds, of a collective
LONG = round(2 * LIMIT / WAITING)  # signs of life of one that waits twice as long


def _rank(rank: int, folder: Path, behaviour: str, results: torch.multiprocessing.Queue) -> None:
    address, limit = f"file://{folder}/ranks", timedelta(seconds=LIMIT)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=limit)
    beats: list[None] = []

    def heartbeat() -> None:
        beats.append(None)
        if rank == 0 and len(beats) == LONG:
            (folder / "waited").touch()

    Context(rank=rank, world_size=2).wait_for_all()
    if rank == 1:
        wait_for((folder / "waited").exists)
        if behaviour == "goes":
            return
    try:
        Context(rank=rank, world_size=2, heartbeat=heartbeat).wait_for_all()
        results.put((rank, len(beats), ""))
    except RuntimeError as error:
        results.put((rank, len(beats), str(error)))


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["comes", "goes"])
def test_a_rank_waits_as_long_as_another_works(tmp_path, behaviour):
    spawning = torch.multiprocessing.get_context("spawn")
    results = spawning.Queue()
    ranks = [spawning.Process(target=_rank, args=(rank, tmp_path, behaviour, results)) for rank in (0, 1)]
    for one in ranks:
        one.start()
    ends = {rank: more for rank, *more in (results.get(timeout=HANG) for _ in range(1 + (behaviour == "comes")))}
    for one in ranks:
        one.join(HANG)
    beats, error = ends[0]
    assert beats >= LONG
    assert bool(error) == (behaviour == "goes")
