"""Ranks wait for each other longer than a collective may take, with signs of life of those that work; not for one that
has gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deadlines import HANG, wait_for

from ray_robust.files.storage import Storage
from ray_robust.run.trial_folder import TrialFolder
from ray_robust.train import context as context_module
from ray_robust.train.context import WAITING, Context, Progress, signs_of_life
from ray_robust.trial.trial_log import TrialLog

LIMIT = 2.0  # seconds, of a collective
LONG = round(2 * LIMIT / WAITING)  # looks of one that waits twice as long
BEATS = 3


def _rank(rank: int, folder: Path, behaviour: str, results: torch.multiprocessing.Queue) -> None:
    address, limit = f"file://{folder}/ranks", timedelta(seconds=LIMIT)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=limit)
    context = Context(rank=rank, world_size=2)
    context.wait_for_all()  # as `run_trial` does while all ranks are there
    if rank == 1:
        trial: Any = SimpleNamespace(pretrain_images=0, finetunings=())
        report = TrialLog(trial, TrialFolder(Storage(folder)), context).reporter("finetune")

        def waited() -> bool:
            if behaviour != "hangs":
                report(Progress("finetune", 0.0, 1.0, 0, 0.0))
            return (folder / "waited").exists()

        wait_for(waited)
        if behaviour == "goes":
            return
    beats, looks = [], []

    def look() -> int:
        looks.append(rank)
        if rank == 0 and len(looks) >= LONG and len(beats) >= (0 if behaviour == "hangs" else BEATS):
            (folder / "waited").touch()
        return signs_of_life()

    context_module.signs_of_life = look
    try:
        replace(context, heartbeat=lambda: beats.append(None)).wait_for_all()
        results.put((rank, len(looks), len(beats), ""))
    except RuntimeError as error:
        results.put((rank, len(looks), len(beats), str(error)))


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["comes", "goes", "hangs"])
def test_a_rank_waits_as_long_as_another_works(tmp_path, behaviour):
    spawning = torch.multiprocessing.get_context("spawn")
    results = spawning.Queue()
    ranks = [spawning.Process(target=_rank, args=(rank, tmp_path, behaviour, results)) for rank in (0, 1)]
    for one in ranks:
        one.start()
    ends = {rank: more for rank, *more in (results.get(timeout=HANG) for _ in range(1 + (behaviour != "goes")))}
    for one in ranks:
        one.join(HANG)
    looks, beats, error = ends[0]
    assert looks >= LONG
    assert bool(error) == (behaviour == "goes")
    assert (beats == 0) if behaviour == "hangs" else (beats >= BEATS)
