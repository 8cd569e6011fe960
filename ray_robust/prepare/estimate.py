"""How long the open work of a plan will take: stage by stage, on as many slots as this machine has.

Rates come from earlier runs here, or else from a few timed steps (`train.timing`), which are kept for the next plan.
Beside the trials a command starts Ray and its workers, decodes images and writes a report: counted too, so that the
time is that of the whole command, which it prints at its end. Until a pilot has chosen the baseline's fine-tunings it
is a range, up to the most that can be chosen.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_robust.data.images.form import Form
from ray_robust.data.images.store import ImageStore, default_root
from ray_robust.data.pool import Pool
from ray_robust.data.published import StandIn
from ray_robust.plan.plan import Trial
from ray_robust.prepare.work import OpenWork, PilotWork, StageWork
from ray_robust.run import throughput
from ray_robust.run.throughput import EVALUATION_COST
from ray_robust.spec.run_sections import Resources
from ray_robust.spec.sections import Finetune, ModelSection, Pretrain
from ray_robust.text.durations import duration_range

PER_TRIAL = 0.5  # seconds of a trial beside its trainings: building models, writing files
MOST_TIMED = 8  # trainings that are timed side by side
SWITCH = "RAY_ROBUST_TIMING"  # 0: a plan times no steps
GPUS = Path("/proc/driver/nvidia/gpus")
DECODED = {True: 10_000.0, False: 1_000.0}  # images per second and core by `Pool.rendered`, until it was measured


@dataclass(frozen=True)
class Rate:
    """Training images per second of a trial, and what an evaluated image costs in training images."""

    images: float
    evaluation_cost: float = EVALUATION_COST

    def seconds(self, stage: StageWork) -> float:
        """Return how long a training takes, with its evaluations."""
        return (stage.images + self.evaluation_cost * stage.evaluated) / self.images


RateOf = Callable[[Trial, StageWork], Rate | None]


@dataclass(frozen=True)
class Estimate:
    """Seconds of the whole command, at least and at `most`; `timed`: some rates come from timed steps. `unknown` names
    the models without a rate, and then the seconds are those of the others. `gpu_hours`: of all GPUs together, at least
    and at most, in training and evaluation; None without GPUs."""

    seconds: float
    most: float
    timed: bool
    unknown: tuple[str, ...]
    gpu_hours: tuple[float, float] | None = None

    def text(self, how: str = "") -> str:
        """Return the estimate as a plan prints it; `how` says when one without rates will be known."""
        if self.unknown:
            return f"(no time known yet for {', '.join(self.unknown)} on this machine{how})"
        source = "a few timed steps" if self.timed else "the rate of earlier runs here"
        return f"about {duration_range(self.seconds, self.most)}, from {source}"

    def cost(self, price: float | None) -> str:
        """Return what it costs, as a plan prints it, at the `price` of an hour of a GPU (where none is used, of this
        machine); "" where there is nothing to say."""
        if self.unknown or (self.gpu_hours is None and price is None):
            return ""
        least, most = self.gpu_hours or (self.seconds / 3600, self.most / 3600)
        what = "hours of this machine" if self.gpu_hours is None else "GPU-hours"
        return f"about {hours_and_price(least, most, what, price)}, from the same rates"


def estimate(
    work: Sequence[OpenWork],
    resources: Resources,
    decoding: float = 0.0,
    pilot: PilotWork | None = None,
    later: Sequence[OpenWork] = (),
) -> Estimate:
    """Return how long a command takes for this work. `decoding`: seconds for the images that are not decoded yet;
    `pilot`: one that has yet to choose; `later`: what a second stage adds at most."""
    clock, beside = _Clock(resources), throughput.measured_overhead(pilot is not None and pilot.apart) + decoding
    upper = work
    if pilot is None:
        least = most = clock.seconds(work)
    else:
        upper = dearest(work, pilot)
        least, most = (clock.seconds_with_pilot(each, pilot) for each in (work, upper))
    most = max(least, most) + clock.seconds(later)
    gpus = resources.workers * resources.gpus_per_worker
    hours = [clock.summed(each) * gpus / 3600 for each in (work, [*upper, *later])]
    return Estimate(
        least + beside, most + beside, clock.timed, tuple(clock.unknown),
        (hours[0], max(hours)) if gpus else None,
    )  # fmt: skip


def dearest(work: Sequence[OpenWork], pilot: PilotWork) -> list[OpenWork]:
    """Return the work with the most that the pilot of a baseline can choose."""
    baseline = {one.trial.id for one in pilot.most}
    return [*pilot.most, *(one for one in work if one.trial.id not in baseline)]


def hours_and_price(least: float, most: float, what: str, price: float | None) -> str:
    """Return `1,230 GPU-hours, 3,080 at 2.5 an hour`, or a range of both."""
    text = f"{_range(least, most)} {what}"
    return text if price is None else f"{text}, {_range(price * least, price * most)} at {price:g} an hour"


def _range(least: float, most: float) -> str:
    low, high = (f"{one:.2g}" if one < 10 else f"{float(f'{one:.3g}'):,.0f}" for one in (least, most))
    return low if low == high else f"{low} to {high}"


class _Clock:
    """Adds up the seconds of trainings, and notes whose rates are from timed steps or not known."""

    def __init__(self, resources: Resources) -> None:
        self.slots, self.timed, self.unknown = slots_here(resources), False, dict[str, None]()
        self._measured, self._from_steps = measured_rate(resources), timed_rate(resources)

    def seconds(self, work: Sequence[OpenWork]) -> float:
        """Return the seconds until all of the work is done."""
        return makespan([self._of_trial(one.trial, one.stages) for one in work if one.stages], self.slots)

    def seconds_with_pilot(self, work: Sequence[OpenWork], pilot: PilotWork) -> float:
        """Return the same where the rest of the baseline, or all else, begins once the pilot is over."""
        first, rest, others = list[float](), list[float](), list[float]()
        for one in work:
            parts: tuple[list[StageWork], list[StageWork]] = [], []
            for stage in one.stages:
                parts[(one.trial.id, stage.name) not in pilot.trainings].append(stage)
            own, after = parts
            if own:
                first.append(self._of_trial(one.trial, own))
            if after:
                waits = pilot.alone or one.trial.pretrain is None
                (rest if waits else others).append(self._of_trial(one.trial, after))
        over = makespan(first, self.slots)
        chain = over + makespan(rest, self.slots)
        return chain if pilot.alone else max(chain, makespan([*first, *others, *rest], self.slots))

    def _of_trial(self, trial: Trial, stages: Iterable[StageWork]) -> float:
        return PER_TRIAL + sum(self._seconds(trial, stage) for stage in stages)

    def summed(self, work: Sequence[OpenWork]) -> float:
        """Return the seconds of all trainings, one after the other."""
        return sum(self._seconds(one.trial, stage) for one in work for stage in one.stages)

    def _seconds(self, trial: Trial, stage: StageWork) -> float:
        rate = self._measured(trial, stage)
        if rate is None:
            rate, self.timed = self._from_steps(trial, stage), True
        if rate is None:
            self.unknown[f"{trial.model.name} at {trial.model.image_size} px"] = None
            return 0.0
        return rate.seconds(stage)


def rate_key(model: ModelSection, gpus: float) -> str:
    """Return the name under which the rate of a model is kept, as its images are stored."""
    return throughput.key_of(model.name, model.image_size, gpus, model.stored_side)


def measured_rate(resources: Resources) -> RateOf:
    """Return a function to the rate that earlier runs measured for a training: for its kind, else for its model. It
    goes by what is kept now."""
    rates = throughput.measured_rates()

    def rate(trial: Trial, stage: StageWork) -> Rate | None:
        key = throughput.group_key(rate_key(trial.model, resources.gpus_per_worker), resources.workers)
        images = rates.get(throughput.stage_key(key, stage.kind)) or rates.get(key)
        return None if images is None else Rate(images * resources.workers)

    return rate


def timed_rate(resources: Resources) -> RateOf:
    """Return a function to the rate that a few timed steps gave, kept by `time_unknown`, by what is kept now."""
    rates = throughput.measured_rates()

    def rate(trial: Trial, stage: StageWork) -> Rate | None:
        key = _timing_key(trial, stage, resources)
        trained, evaluated = rates.get(key), rates.get(f"{key}/evaluated")
        if trained is None or evaluated is None:
            return None
        if isinstance(stage.settings, Finetune) and stage.settings.method == "linear":  # features alone: forward passes
            return Rate(evaluated * resources.workers, 1.0)
        return Rate(trained * resources.workers, trained / evaluated)

    return rate


def prior_rate(resources: Resources) -> RateOf:
    """Return a function to the rate of a training before a run has measured it: of earlier runs, else of timed
    steps."""
    measured, from_steps = measured_rate(resources), timed_rate(resources)
    return lambda trial, stage: measured(trial, stage) or from_steps(trial, stage)


def unknown_trainings(work: Iterable[OpenWork], resources: Resources) -> dict[str, tuple[Trial, StageWork]]:
    """Return one training of each kind that has no rate yet, by the name under which its timing is kept."""
    rate = prior_rate(resources)
    return {
        _timing_key(one.trial, stage, resources): (one.trial, stage)
        for one in work
        for stage in one.stages
        if rate(one.trial, stage) is None
    }


def can_time(resources: Resources, address: str | None) -> bool:
    """Return whether timing steps here says something: not where trials run elsewhere, or need a GPU that is not
    here."""
    here = address is None and not os.environ.get("RAY_ADDRESS") and os.environ.get(SWITCH) != "0"
    return here and (not resources.gpus_per_worker or bool(gpus_here()))


def time_unknown(trainings: dict[str, tuple[Trial, StageWork]], resources: Resources, trials: int) -> None:
    """Time a few steps of these trainings (see `unknown_trainings`), as many at once as `trials` would run, and keep
    their rates."""
    from ray_robust.train.timing import TimedTraining, time_trainings  # late: multiprocessing

    timed = [
        TimedTraining(
            trial.model,
            stage.settings if isinstance(stage.settings, Pretrain) else None,
            stage.settings if isinstance(stage.settings, Finetune) else None,
        )
        for trial, stage in trainings.values()
    ]
    processes = max(1, min(slots_here(resources), trials, MOST_TIMED))
    speeds = time_trainings(timed, processes, resources.cpus_per_worker, resources.gpus_per_worker > 0)
    for key, speed in zip(trainings, speeds, strict=True):
        if speed is not None:
            throughput.record_rate(key, speed.trained)
            throughput.record_rate(f"{key}/evaluated", speed.evaluated)


def _timing_key(trial: Trial, stage: StageWork, resources: Resources) -> str:
    model, settings = trial.model, stage.settings
    key = rate_key(model, resources.gpus_per_worker)
    how = f"{model.precision}-{settings.batch_size}-{settings.augment}-{resources.cpus_per_worker}"
    return throughput.stage_key(key, f"timed-{stage.kind}-{how}")


def makespan(seconds: Iterable[float], slots: int) -> float:
    """Return when the last of these is over, each begun in order as soon as one of `slots` is free."""
    free = [0.0] * slots
    for one in seconds:
        heapq.heappush(free, heapq.heappop(free) + one)
    return max(free)


def slots_here(resources: Resources) -> int:
    """Return how many trials run at once on this machine."""
    slots = (os.cpu_count() or 1) // (resources.workers * resources.cpus_per_worker)
    if resources.gpus_per_worker and (gpus := gpus_here()):
        slots = min(slots, int(gpus / (resources.workers * resources.gpus_per_worker)))
    return max(1, slots)


def gpus_here() -> int:
    """Return how many GPUs this machine has, without importing torch."""
    return sum(1 for _ in GPUS.iterdir()) if GPUS.is_dir() else 0


def decoding_seconds(jobs: Iterable[tuple[str, Pool, Form, np.ndarray | None]]) -> float:
    """Return how long it takes to decode and render what of these (see `decode_jobs`) is in no store here yet."""
    seconds = 0.0
    for _, pool, form, rows in jobs:
        if isinstance(pool, StandIn):
            continue
        store = ImageStore(default_root(), pool, form)
        wanted = rows if pool.rendered and rows is not None else np.arange(len(pool.catalog))
        count = len(store.missing(wanted)) if store.folder.is_dir() and not len(pool.unread()) else len(wanted)
        rate = throughput.measured_rate(decoding_key(pool.rendered))
        seconds += count / (rate or DECODED[pool.rendered] * (os.cpu_count() or 1))
    return seconds


def decoding_key(rendered: bool) -> str:
    """Return the name under which the images per second of this whole machine are kept."""
    return "rendering" if rendered else "decoding"
