"""The work that is left of a plan: which trials lack what in a run folder, and how many images that is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ray_robust.plan.plan import Plan, Trial
from ray_robust.run.missing import Missing, Remaining, TrialWork, remaining
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.throughput import EVALUATION_COST
from ray_robust.spec.sections import Finetune, Pretrain


@dataclass(frozen=True)
class StageWork:
    """One training of a trial: what its rate is kept under, and the images that it trains on and evaluates."""

    name: str  # `pretrain`, or the fine-tuning's id
    kind: str  # `pretrain-simclr`, `finetune-full`
    images: int
    evaluated: int
    settings: Pretrain | Finetune

    @property
    def cost(self) -> float:
        """The cost in training images."""
        return self.images + EVALUATION_COST * self.evaluated


@dataclass(frozen=True)
class OpenWork:
    """What a trial has yet to run: its pre-training, if it is missing, and the fine-tunings that are."""

    trial: Trial
    stages: tuple[StageWork, ...]

    @property
    def pretrained(self) -> int:
        """Images to process in pre-training."""
        return sum(stage.images for stage in self.stages if isinstance(stage.settings, Pretrain))

    @property
    def finetuned(self) -> int:
        """Images to process in fine-tuning."""
        return sum(stage.images for stage in self.stages if isinstance(stage.settings, Finetune))

    @property
    def evaluated(self) -> int:
        """Images to evaluate, over all evaluations."""
        return sum(stage.evaluated for stage in self.stages)

    @property
    def cost(self) -> float:
        """The cost in training images."""
        return sum(stage.cost for stage in self.stages)


@dataclass(frozen=True)
class PilotWork:
    """What is open while the pilot of a baseline has not chosen.

    trainings  (trial, fine-tuning) ids of the pilot, which all others of the baseline wait for
    most       the open work of the baseline with the most fine-tunings that can be chosen
    alone      whether what is not of the baseline waits too
    apart      whether it is a run of Ray Tune of its own, after which workers start again
    """

    trainings: frozenset[tuple[str, str]]
    most: tuple[OpenWork, ...]
    alone: bool
    apart: bool


@dataclass(frozen=True)
class Undecided:
    """What a plan cannot count yet: until the pilot of the baseline has chosen, and what a second stage of seeds may
    add, until it is planned."""

    pilot: PilotWork | None = None
    later: Sequence[OpenWork] = ()


ALL_DECIDED = Undecided()


def remaining_of(run: RunFolder, plan: Plan, done: Collection[str]) -> Remaining:
    """Return what a run folder lacks of a plan. `done` are the ids of its trials that lack nothing."""
    works = [TrialWork(trial.id, tuple(f.id for f in trial.finetunings), trial.draws) for trial in plan]
    return remaining(run, works, done)


def lacked_by_either(before: Remaining, now: Remaining) -> Remaining:
    """Return what is lacking now, with the fine-tunings that the trials which it counts lacked before."""
    missing = dict(before.missing)
    for name, one in now.missing.items():
        lacked = () if name not in missing else missing[name].finetunings
        missing[name] = replace(one, finetunings=tuple(dict.fromkeys((*lacked, *one.finetunings))))
    return replace(now, missing=missing)


def finished_trials(run: RunFolder, plan: Plan) -> set[str]:
    """Return the ids of the trials of a plan that are done in a run folder, with all of their fine-tunings."""
    return {trial.id for trial in plan if run.has_rows(trial.id, [f.id for f in trial.finetunings])}


def without(plan: Plan, done: Collection[str]) -> Plan:
    """Return the trials of a plan that are not done."""
    return Plan(tuple(trial for trial in plan if trial.id not in done))


def stopped_trials(run: RunFolder, plan: Plan) -> set[str]:
    """Return the ids of the trials of a search that it has stopped: they are not run again."""
    return {trial.id for trial in plan if run.trial(trial.id).stopped() is not None}


def open_work(plan: Plan, left: Remaining | None) -> list[OpenWork]:
    """Return the work of each trial that lacks something; all of it where `left` is None."""
    if left is None:
        return [work_of(trial) for trial in plan]
    return [work_of(trial, left.missing[trial.id]) for trial in plan if trial.id in left.missing]


def work_of(trial: Trial, missing: Missing | None = None) -> OpenWork:
    """Return what is missing of a trial; all of it where `missing` is None."""
    stages = []
    if trial.pretrain is not None and trial.draws and (missing is None or missing.pretraining):
        stages.append(
            StageWork("pretrain", f"pretrain-{trial.pretrain.method}", trial.pretrain_images, 0, trial.pretrain)
        )
    stages += [
        StageWork(one.id, f"finetune-{one.settings.method}", one.images, one.evaluated, one.settings)
        for one in trial.finetunings
        if missing is None or one.id in missing.finetunings
    ]
    return OpenWork(trial, tuple(stages))
