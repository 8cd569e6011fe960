"""The trials of a plan, one after the other: which is next, which is tried again, and when there are no more.

The baseline's come first. Where a pilot has yet to choose its fine-tunings the pilot comes before them, and what does
not depend on the choice runs beside it. Independent of Ray; `tune_searcher` gives the trials to Tune.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ray_robust.launch.failures.recovery import Recovery
from ray_robust.launch.first_trials.baseline_first import NO_BASELINE, BaselineFirst
from ray_robust.plan.plan import Plan, Trial
from ray_robust.prepare.work import without

TRIES = 20  # times that a trial is given out while it fails in ways that do not count


@dataclass(frozen=True)
class PilotTrials:
    """The trials of a pilot, and `choose`, called once they are done: the baseline that follows from them, None where
    it cannot be said."""

    trials: Plan
    choose: Callable[[], Chosen | None]


@dataclass(frozen=True)
class Chosen:
    """The trials of a baseline, which may have the ids of its pilot's, and the ids of those that are done."""

    trials: Plan
    done: Collection[str]


class PlannedTrials:
    """The trials of a plan.

    recovery   knows how a trial has ended
    baseline   the trials that come first, and whether others may begin
    pilot      comes before the plan's trials without pre-training, which `choose` replaces
    not_begun  ids of trials that are not given out, or were to be given out again, since the baseline makes no line or
               its pilot has failed
    """

    asha = None

    def __init__(
        self, plan: Plan, recovery: Recovery, baseline: BaselineFirst = NO_BASELINE, pilot: PilotTrials | None = None
    ) -> None:
        self.recovery, self.baseline = recovery, baseline
        self.not_begun: set[str] = set()
        trials = {trial.id: trial for trial in plan}
        ordered = [trials[name] for name in baseline.order(trials)]
        self._pilot, self._undecided = pilot, set[str]()  # ids of the trials that wait for the pilot
        if pilot is not None:
            self._undecided = {trial.id for trial in ordered if trial.pretrain is None}
            ordered = [*pilot.trials, *(trial for trial in ordered if trial.pretrain is not None)]
        self._of_pilot = set() if pilot is None else {trial.id for trial in pilot.trials}  # those that are not over
        self._queue = deque(ordered)
        self._running: dict[str, Trial] = {}
        self._stopped = False  # whether a pilot has failed
        self._times = Counter[str]()

    def next(self) -> Trial | None:
        """Return the trial to run now. None when there is none yet, or, once it is `complete`, none any more."""
        self._choose()
        if not self._queue:
            return None
        others = self._others_may_begin()
        trial = next((one for one in self._queue if others or self._comes_first(one)), None)
        if trial is not None:
            self._queue.remove(trial)
            self._running[trial.id] = trial
            self._times[trial.id] += 1
        return trial

    def ended(self, name: str) -> None:
        """Note that a trial has ended, however. One that is not over is queued again."""
        trial = self._running.pop(name)
        if not self.recovery.settled(name) and self.recovery.failures.get(name) and self._times[name] < TRIES:
            (self._queue.appendleft if self._comes_first(trial) else self._queue.append)(trial)
            if self._stopped:
                self._give_up({name})
        elif name in self._of_pilot:
            self._of_pilot.remove(name)
            if not self.recovery.done(name):
                self._pilot_failed()

    def settled(self, name: str) -> None:
        """Note that a trial is over: one of the baseline, unless it was the pilot's part of it."""
        if name not in self._of_pilot:
            self.baseline.settled(name)

    @property
    def complete(self) -> bool:
        """Whether no trial is left to be given out."""
        self._choose()
        return not self._queue and self._pilot is None

    def _choose(self) -> None:
        """Once the pilot is over, queue what its choice asks for."""
        if self._pilot is None or self._of_pilot:
            return
        chosen = self._pilot.choose()
        if chosen is None:
            self._pilot_failed()
            return
        self._pilot, self._undecided = None, set()
        self.recovery.trials.update((trial.id, trial) for trial in chosen.trials)
        left = {trial.id: trial for trial in without(chosen.trials, chosen.done)}
        self._queue.extendleft(left[name] for name in reversed(self.baseline.order(left)))

    def _pilot_failed(self) -> None:
        """Nothing more begins: without a baseline nothing else is measured."""
        self._give_up({trial.id for trial in self._queue} | self._undecided)
        self._pilot, self._stopped = None, True

    def _comes_first(self, trial: Trial) -> bool:
        return trial.id in self._of_pilot or trial.id in self.baseline.trials

    def _others_may_begin(self) -> bool:
        """Whether trials that are not the baseline's may begin now. Where nothing of it is left to run and there is no
        verdict, it is made on what there is."""
        may_go_on = self.baseline.may_go_on
        if may_go_on is None and not self._running and not any(map(self._comes_first, self._queue)):
            self.baseline.conclude()
            may_go_on = self.baseline.may_go_on
        if may_go_on is False:
            self._give_up({trial.id for trial in self._queue if not self._comes_first(trial)})
        return bool(may_go_on)

    def _give_up(self, names: set[str]) -> None:
        to_run = {trial.id for trial in self._queue if trial.id in names}
        self.not_begun |= to_run | (names - self._times.keys())
        self._queue = deque(trial for trial in self._queue if trial.id not in names)
