"""What trials of a search have used: training images, and hours of a device, of which a budget has so many."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ray_robust.plan.plan import Trial
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.run_sections import Resources


@dataclass(frozen=True)
class Spent:
    """Training images, and seconds of a device: a GPU, or the CPU of a worker that has none."""

    images: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.images + other.images, self.seconds + other.seconds)


def images_of(trial: Trial, done: Collection[str] = ()) -> int:
    """Return the training images that a trial processes; where some of its fine-tunings are `done`, so is its
    pre-training."""
    rest = sum(f.images for f in trial.finetunings if f.id not in done)
    return rest if done else rest + trial.pretrain_images


def finished_finetunings(run: RunFolder, trial: Trial) -> set[str]:
    """Return the ids of the fine-tunings that a trial is done with, whether or not it is with all."""
    folder = run.trial(trial.id)
    return {f.id for f in trial.finetunings if run.has_rows(trial.id, [f.id]) or folder.has_finetuning(f.id)}


def spent_on(run: RunFolder, trial: Trial, resources: Resources) -> Spent:
    """Return what a trial that is not running has used, from its folder: what is done, was stopped, or was worked at by
    attempts that failed or were interrupted. All workers pre-train together; each fine-tuning runs on one."""
    each, folder = resources.gpus_per_worker or 1, run.trial(trial.id)
    if done := {f.id for f in trial.finetunings if run.has_rows(trial.id, [f.id])}:
        rows = [row for row in folder.rows() if row["finetune"] in done]
        images = trial.pretrain_images + sum(f.images for f in trial.finetunings if f.id in done)
        pretrained = max((row.get("seconds_pretrain") or 0.0 for row in rows), default=0.0)
        return Spent(images, each * (pretrained * resources.workers + _finetuned(rows)))
    if (stopped := folder.stopped()) is not None:
        return Spent(stopped.get("images_seen", 0), each * resources.workers * stopped.get("seconds", 0.0))
    used = folder.progress()
    images = min(images_of(trial), used.get("worked", 0))
    return Spent(images, each * resources.workers * used.get("seconds", 0.0))


def _finetuned(rows: list[dict[str, Any]]) -> float:
    return sum({row["finetune"]: row.get("seconds_finetune") or 0.0 for row in rows}.values())
