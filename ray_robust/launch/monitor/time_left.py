"""How much of a sweep is done and how long the rest takes, from what its trials really took.

Each kind of training has a rate of its own: a pre-training, a linear probe and a fine-tuning with many evaluations
differ. What this run has measured comes first, then what earlier runs or timed steps gave.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any

from ray_robust.plan.plan import Trial
from ray_robust.prepare.estimate import PER_TRIAL, Rate, RateOf, makespan, rate_key
from ray_robust.prepare.work import OpenWork, StageWork, work_of
from ray_robust.run.throughput import stage_key

STARTING = 6.0  # seconds until a worker trains, until the first trial has ended
LEAST = 2.0  # seconds of a training before its rate says anything
Progress = Mapping[str, Any]  # the content of a progress.json


class TimeLeft:
    """The open work of a run.

    work   by trial, what it lacked when the run began
    prior  the rate of a training before this run has measured one
    after  seconds that the report takes
    gpus   of a worker
    slots  how many trials run at once; where the cluster grows, as many as run now
    then   work that follows a pilot, at the rates that this has shown
    """

    def __init__(
        self,
        work: Iterable[OpenWork],
        prior: RateOf = lambda trial, stage: None,
        after: float = 0.0,
        gpus: float = 0.0,
        slots: int = 1,
        then: Iterable[OpenWork] = (),
    ) -> None:
        self.work: dict[str, OpenWork] = {}
        self._shapes: dict[str, Hashable] = {}  # by trial, equal where the work takes equally long
        self._cost, self._trainings = 0.0, (0, 0)  # of all
        self._done, self._trainings_done = 0.0, (0, 0)  # of work that is done and was followed by more of its trial
        for one in work:
            self._add(one)
        self.prior, self.after, self.gpus, self.slots = prior, after, gpus, slots
        self._ended: dict[str, tuple[float, float]] = {}  # cost and seconds by kind, of trainings that are over
        self._running: dict[tuple[str, str], tuple[str, float, float]] = {}  # by trial and stage: kind, cost, seconds
        self._overheads: list[float] = []
        self._then: TimeLeft | None = None
        if then := list(then):
            self._then = TimeLeft(then, prior, after, gpus, slots)
            self._then._ended, self._then._running = self._ended, self._running

    def expect(self, trial: Trial) -> None:
        """Add a trial that a search has drawn."""
        if trial.id not in self.work:
            self._add(work_of(trial))

    def part_ended(self, name: str) -> None:
        """Take what a trial lacked for done: a pilot was it, and what else the trial has is not decided yet."""
        before = self.work.get(name)
        if before is None:
            return
        self._done += before.cost
        self._trainings_done = _added(self._trainings_done, _trainings(before.stages))
        self._replace(OpenWork(before.trial, ()))
        self._cost += before.cost
        self._trainings = _added(self._trainings, _trainings(before.stages))

    def expect_more(self, work: Iterable[OpenWork], done: Collection[str]) -> None:
        """Take this for what trials lack from now on, in place of what they lacked, and those that are `done` lack
        nothing; nothing else follows."""
        for one in (*work, *(OpenWork(self.work[name].trial, ()) for name in self.work.keys() & done)):
            self._replace(one)
        self._then = None

    def _replace(self, one: OpenWork) -> None:
        before = self.work.get(one.trial.id)
        if before is not None:
            self._cost -= before.cost
            self._trainings = _added(self._trainings, _trainings(before.stages), -1)
        self._add(one)

    def _add(self, one: OpenWork) -> None:
        model = one.trial.model
        self.work[one.trial.id] = one
        self._shapes[one.trial.id] = (
            (model.name, model.image_size, model.precision),
            tuple(
                (stage.kind, stage.images, stage.evaluated, stage.settings.batch_size, stage.settings.augment)
                for stage in one.stages
            ),
        )
        self._cost += one.cost
        self._trainings = _added(self._trainings, _trainings(one.stages))

    def on_progress(self, name: str, progress: Progress) -> None:
        """Take over what a running trial reports of its present training."""
        speed, epochs = progress.get("images_per_second", 0.0), progress.get("epochs", 0.0)
        stages = [stage for stage in self._stages(name) if _is_of(stage, str(progress.get("stage", "")))]
        if not stages or speed <= 0 or epochs <= 0 or not progress.get("images"):
            return
        done = min(1.0, progress["epoch"] / epochs)
        seconds = progress["images"] / speed
        if seconds >= LEAST:
            kind = self._kind(name, stages[0])
            self._running[name, progress["stage"]] = kind, stages[0].cost * done, seconds

    def on_end(self, name: str, rows: Iterable[Mapping[str, Any]], seconds: float) -> None:
        """Take over what a trial took that is over: `rows` of its results, `seconds` from its beginning to its end."""
        for key in [key for key in self._running if key[0] == name]:
            del self._running[key]
        by_finetuning = {row["finetune"]: row for row in rows}
        if not by_finetuning:
            return
        first, trained, whole = next(iter(by_finetuning.values())), 0.0, True
        for stage in self._stages(name):
            row = first if stage.name == "pretrain" else by_finetuning.get(stage.name)
            if row is None:  # it failed: its time is not known
                whole = False
                continue
            took = row.get("seconds_pretrain" if stage.name == "pretrain" else "seconds_finetune") or 0.0
            cost, before = self._ended.get(self._kind(name, stage), (0.0, 0.0))
            self._ended[self._kind(name, stage)] = cost + stage.cost, before + took
            trained += took
        if whole:
            self._overheads.append(max(0.0, seconds - trained))

    def counts(
        self, running: Mapping[str, Progress], ended: Collection[str]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return ((pre-trainings, fine-tunings) that are over, how many there were to do)."""
        over = self._trainings_done
        for name in {*running, *ended} & self.work.keys():
            left = {stage.name for stage, _ in self._left_of(name, running, ended)}
            over = _added(over, _trainings(stage for stage in self.work[name].stages if stage.name not in left))
        return over, self._trainings if self._then is None else _added(self._trainings, self._then._trainings)

    def share_done(self, running: Mapping[str, Progress], ended: Collection[str]) -> float:
        """Return the share of the open work that is done, 0-1, by its cost."""
        begun = {*running, *ended} & self.work.keys()
        done = self._done + sum(self.work[name].cost for name in begun)
        done -= sum(cost for name in begun for _, cost in self._left_of(name, running, ended))
        whole = self._cost + (0.0 if self._then is None else self._then._cost)
        return done / whole if whole else 1.0

    def left(self, running: Mapping[str, Progress], ended: Collection[str], undrawn: float = 1.0) -> float | None:
        """Return the seconds until the report is written, None while the rate of a training is not known.

        running  by trial that runs now, in the order in which they began
        ended    trials that are over, however
        undrawn  how many times the work there will be, where a search draws more
        """
        seconds: list[float] = []
        waiting: dict[Hashable, float | None] = {}  # seconds of trials that have not begun, by their shape
        order = [*running, *(name for name in self.work if name not in running and name not in ended)]
        slots = max(self.slots, len(running))
        for place, name in enumerate(order):
            if name in running:
                trained = self._seconds_of(name, running, ended)
            else:
                shape = self._shapes[name]
                if shape not in waiting:
                    waiting[shape] = self._seconds_of(name, running, ended)
                trained = waiting[shape]
            if trained is None:
                return None
            begins = place < slots and not running.get(name) and not self._overheads
            seconds.append(trained + (STARTING if begins else self._overhead()))
        after = self.after if self._then is None else self._then.left({}, ())
        if not seconds or after is None:
            return after
        more = (undrawn - 1.0) * sum(seconds) / slots
        return makespan(seconds, slots) + more + after

    def _seconds_of(self, name: str, running: Mapping[str, Progress], ended: Collection[str]) -> float | None:
        """Seconds of the trainings that a trial has yet to run, None while the rate of one is not known."""
        seconds = 0.0
        for stage, cost in self._left_of(name, running, ended):
            rate = self._rate(name, stage)
            if rate is None:
                return None
            seconds += rate.seconds(stage) * cost / max(stage.cost, 1e-9)
        return seconds

    def _left_of(
        self, name: str, running: Mapping[str, Progress], ended: Collection[str]
    ) -> Iterator[tuple[StageWork, float]]:
        """What a trial has yet to run: each training, and its cost that is left. Its images are done in order."""
        if name in ended:
            return
        stages = self._stages(name)
        trial = self.work[name].trial
        whole = trial.pretrain_images + sum(f.images for f in trial.finetunings)
        missing = sum(stage.images for stage in stages)
        done = running.get(name, {}).get("share", 0.0) * whole - (whole - missing)
        for stage in stages:
            own = min(max(0.0, done), stage.images)
            done -= own
            if own < stage.images:
                yield stage, stage.cost * (1.0 - own / stage.images)

    def _rate(self, name: str, stage: StageWork) -> Rate | None:
        kind = self._kind(name, stage)
        cost, seconds = self._ended.get(kind, (0.0, 0.0))
        for other, own_cost, own_seconds in self._running.values():
            if other == kind:
                cost, seconds = cost + own_cost, seconds + own_seconds
        if cost > 0 and seconds > LEAST:
            return Rate(cost / seconds)
        return self.prior(self.work[name].trial, stage)

    def _overhead(self) -> float:
        """Of a trial that has yet to begin. The first trials wait for their workers to start, the later do not."""
        return min(self._overheads, default=PER_TRIAL)

    def _stages(self, name: str) -> tuple[StageWork, ...]:
        return self.work[name].stages if name in self.work else ()

    def _kind(self, name: str, stage: StageWork) -> str:
        return stage_key(rate_key(self.work[name].trial.model, self.gpus), stage.kind)


def _trainings(stages: Iterable[StageWork]) -> tuple[int, int]:
    """(pre-trainings, fine-tunings)."""
    names = [stage.name for stage in stages]
    return (first := names.count("pretrain")), len(names) - first


def _added(one: tuple[int, int], other: tuple[int, int], times: int = 1) -> tuple[int, int]:
    return one[0] + times * other[0], one[1] + times * other[1]


def _is_of(stage: StageWork, name: str) -> bool:
    return (stage.name == "pretrain") == (name == "pretrain") and name in ("pretrain", "finetune")
