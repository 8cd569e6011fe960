"""The work that is left of a plan: which trials lack what in a run folder, and how many images that is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ray_robust.plan.plan import Plan, Trial
from ray_robust.run.missing import Missing, Remaining, TrialWork, remaining
from ray_robust.run.run_folder import RunFolder


@dataclass(frozen=True)
class OpenWork:
    """The images that a trial has yet to process: in pre-training, in fine-tuning, in evaluation."""

    trial: Trial
    pretrained: int
    finetuned: int
    evaluated: int


def remaining_of(run: RunFolder, plan: Plan, done: Collection[str]) -> Remaining:
    """Return what a run folder lacks of a plan. `done` are the ids of its trials that lack nothing."""
    works = [TrialWork(trial.id, tuple(f.id for f in trial.finetunings), trial.draws) for trial in plan]
    return remaining(run, works, done)


def finished_trials(run: RunFolder, plan: Plan) -> set[str]:
    """Return the ids of the trials of a plan that are done in a run folder, with all of their fine-tunings."""
    return {trial.id for trial in plan if run.has_rows(trial.id, [f.id for f in trial.finetunings])}


def open_work(plan: Plan, left: Remaining | None) -> list[OpenWork]:
    """Return the work of each trial that lacks something; all of it where `left` is None."""
    if left is None:
        return [_work(trial, None) for trial in plan]
    return [_work(trial, left.missing[trial.id]) for trial in plan if trial.id in left.missing]


def _work(trial: Trial, missing: Missing | None) -> OpenWork:
    own = [f for f in trial.finetunings if missing is None or f.id in missing.finetunings]
    pretrained = trial.pretrain_images if missing is None or missing.pretraining else 0
    return OpenWork(trial, pretrained, sum(f.images for f in own), sum(f.evaluated for f in own))
