"""What `soak.py` reads of a sweep from outside: how far it is, who trains now, and what was done twice."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from ray_robust.data.images.pack import RECORD
from ray_robust.run.run_folder import RunFolder


def workers_of(driver: subprocess.Popen) -> list[psutil.Process]:
    """The processes in which trials of this driver train now."""
    below = psutil.Process(driver.pid).children(recursive=True)
    return [p for p in below if "train_here" in _title(p) or "ray::ImplicitFunc" in _title(p)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def share_done(run: Path) -> float:
    """The share of the work that is done, 0-1; 0 before the folder has a plan."""
    folder, whole, done = RunFolder(str(run)), 0.0, 0.0
    for trial in folder.plan().to_dict("records"):
        cost, own = float(trial["cost_images"]), folder.trial(trial["trial"])
        whole += cost
        if own.is_done(list(json.loads(trial["finetunes"]))):
            done += cost
        else:
            done += cost * (own.storage.read_json("progress.json") or {}).get("share", 0.0)
    return done / whole if whole else 0.0


def running_trials(run: Path) -> dict[str, dict[str, Any]]:
    """The progress.json of every trial that is training, by id."""
    folder, running = RunFolder(str(run)), {}
    for name in folder.plan().get("trial", ()):
        own = folder.trial(name)
        progress = own.storage.read_json("progress.json")
        if progress and own.finished() is None and time.time() - progress["time"] < 10:
            running[name] = progress
    return running


def hung(run: Path) -> int:
    """How many times the heartbeat watchdog ended a worker."""
    attempts = (folder.attempts() for folder in map(RunFolder(str(run)).trial, os.listdir(run / "trials")))
    return sum(attempt["kind"] == "hung" for each in attempts for attempt in each)


def images_in(store: Path) -> dict[str, int]:
    """How many images a store holds, how many records say so, and how many places for images were taken: a place
    without a record is an image that was made and lost."""
    count = {"images": 0, "records": 0, "places": 0}
    for log in store.glob("*/log.records"):
        records = np.fromfile(log, RECORD)
        size = json.loads(log.with_name("meta.json").read_text())["size"]
        count["images"] += len(np.unique(records["address"]))
        count["records"] += len(records)
        count["places"] += log.with_name("pixels.u8").stat().st_size // (3 * size * size)
    return count


def epochs_of(running: Iterable[dict[str, Any]]) -> float:
    """Images of one epoch of each of these trainings, from their progress."""
    return sum(one["images"] / one["epoch"] for one in running if one["epoch"])


def needed_images(run: Path) -> int:
    """Training images that the trials of a finished run need."""
    return sum(_needed(run / "trials" / name) for name in RunFolder(str(run)).plan()["trial"])


def _needed(folder: Path) -> int:
    trial = json.loads((folder / "trial.json").read_text())
    rows = pd.read_json(folder / "rows.jsonl", lines=True).groupby("finetune")
    return int(trial["pretrain_images_seen"]) + sum(int(r["step"].max()) * min(128, int(r["finetune_images"].max()))
                                                    for _, r in rows)  # fmt: skip


def done_twice(run: Path) -> int:
    """How many stages of trials ended more than once."""
    count = 0
    for log in (file.read_text() for file in (run / "trials").glob("*/log.txt")):
        ended = [line.split("fine-tuned ")[1].split()[0] for line in log.splitlines() if "fine-tuned " in line]
        count += len(ended) - len(set(ended)) + max(0, log.count("pre-trained in ") - 1)
    return count
