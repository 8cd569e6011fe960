"""A search while it runs: which trial is next, the outcome of those before, and when the search is over.

The baseline's trials come first; then configurations, drawn at random or proposed by a `Sampler`. What has been drawn
is read from the sampler's journal and the run folder, so that a search that was killed continues where it was: what it
had begun comes first, and nothing is run twice. Independent of Ray; `tune_searcher` gives the trials to Tune.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray_robust.errors import UserError
from ray_robust.launch.search.asha import Asha
from ray_robust.launch.search.objective import Objective, lines_of
from ray_robust.launch.search.sampler import Candidates, Sampler
from ray_robust.launch.search.spending import Spent, finished_finetunings, images_of, spent_on
from ray_robust.plan.plan import Configuration, Plan, Trial, hash_of
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.shifts import OWN
from ray_robust.spec.load import Spec
from ray_robust.spec.search_section import EFFECTIVE_ROBUSTNESS

PATIENCE = 1_000  # proposals in a row that cannot be run or were there before: then the space holds no more
SHARED = ("task", "model", "pretrain", "finetune")  # keys of the spec that hold for every configuration
SAMPLED = 50  # of them the sampler's own choice; the others are drawn from the prior, which repeats itself less

Identity = tuple[str, frozenset[str]]  # a trial's id, and its fine-tunings'


@dataclass
class Open:
    """A configuration that is being run. `name` is the sampler's ("" when it is not to be told the outcome); `waiting`
    the ids of trials that have not ended."""

    configuration: Configuration
    name: str
    waiting: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Outcome:
    """How a configuration ended: its state (done, stopped or failed) and its value (None where there is none)."""

    configuration: Configuration
    state: str
    value: float | None


class Search:
    """The trials of a search, one after the other.

    baseline  trials that come first
    sampler   makes the sampler, given the name of the study; None for a method that does not learn
    limit     the largest number of trials to run in all; None: as many as the spec says
    on_plan   called with the plan whenever it has grown
    may_go_on returns whether anything but the baseline may begin; None: that is not decided yet
    """

    def __init__(
        self,
        spec: Spec,
        candidates: Candidates,
        baseline: Plan,
        run: RunFolder,
        sampler: Callable[[str], Sampler] | None = None,
        limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec, self.settings, self.candidates, self.run, self.limit = spec, spec.search, candidates, run, limit
        self.clock = clock
        self.baseline = tuple(baseline)[:limit]
        self.trials: dict[str, Trial] = {trial.id: trial for trial in self.baseline}  # every one that was handed out
        self.outcomes: list[Outcome] = []
        self.over = ""  # why no more trials are given out
        self.on_plan: Callable[[Plan], None] = lambda plan: None
        self.may_go_on: Callable[[], bool | None] = lambda: True
        self.impossible = self.repeated = 0
        self.objective: Objective | None = None
        self._running: dict[str, tuple[float, Trial, Spent]] = {}  # by id: since when, what, and what it had used then
        self._failed: set[Identity] = set()  # in this run of the command: those that failed before are tried again
        self._queue: deque[Trial] = deque(trial for trial in self.baseline if not self.settled(trial))
        self._open: dict[str, Open] = {}  # by configuration key
        self._drawn: set[str] = set()  # ids of trials of configurations
        self._seen: set[str] = set()
        self._number = 0  # the next draw from the prior
        self._accepted = 0
        self._spent: dict[str, Spent] = {}  # by the id of a trial that is over
        self._study = self._study_name()
        self._sampler = sampler(self._study) if sampler is not None else None
        self._warm_starts: deque[dict[str, Any]] = deque()
        if self._sampler is not None:
            self._resume(self._sampler)

    # --- called by the scheduler

    def next(self) -> Trial | None:
        """Return the trial to run now. None when there is none yet, or, once `over` says why, none any more."""
        self._learn()
        may_go_on = self.may_go_on()
        if may_go_on is False and not self.over:
            self.over = "the baseline makes no line, and baseline.stop_if_no_line ends the sweep there"
            self._queue.clear()
        while may_go_on and not self._queue and not self.over and self._may_propose():
            self._propose()
            self._learn()  # its trials may have been done by an earlier search
        # Of two that share a pre-training and differ in their fine-tunings the second waits for the first.
        trial = next((one for one in self._queue if one.id not in self._running), None)
        if trial is None or (not may_go_on and trial.id in self._drawn):
            return None
        if trial.id in self._drawn and (why := self._over_budget(self._more(trial))):
            self.over = why
            self._queue.clear()
            return None
        self._queue.remove(trial)
        whole = self.trials[trial.id]
        self._running[trial.id] = self.clock(), whole, spent_on(self.run, whole, self.spec.resources)
        return whole

    def ended(self, name: str) -> None:
        """Note that a trial has ended: done, stopped or failed, as its folder says; or neither: it is run again."""
        used, trial = self._used(name), self._running.pop(name)[1]
        if self.run.trial(name).failure() is not None:
            self._failed.add(_identity(trial))
            spent = spent_on(self.run, trial, self.spec.resources)
            self._spent[name] = Spent(spent.images, max(spent.seconds, used.seconds))  # one that hung reports nothing
        if not self.settled(trial):
            self._queue.appendleft(trial)
        for one in list(self._open.values()):
            for own in [own for own in one.configuration.trials if own.id == name]:
                if _identity(trial) in self._failed and set(own.finetunings) <= set(trial.finetunings):
                    self._failed.add(_identity(own))
                if self.settled(own):
                    one.waiting.discard(name)
                if self.state(own) == "stopped":
                    self._stop_others(one)
        self._queue = deque(one for one in self._queue if not self.settled(one))
        self._learn()

    @property
    def complete(self) -> bool:
        """Whether nothing is left to run, so that no cluster need be started."""
        if self._running or self._queue:
            return False
        trial = self.next()
        if trial is not None:
            self._running.pop(trial.id)
            self._queue.appendleft(trial)
        return trial is None and bool(self.over)

    # --- state

    @property
    def asha(self) -> Asha | None:
        """The rule by which weak pre-trainings are stopped; None where none is, or the objective is not ready yet."""
        if self.settings.stop is None or self.objective is None:
            return None
        return Asha(self.settings.stop, self.objective, self._study)

    @property
    def plan(self) -> Plan:
        """Every trial that was given out, the baseline's first."""
        return Plan(tuple(self.trials.values()))

    @property
    def expected(self) -> int:
        """How many trials there will be, by what has been drawn so far."""
        each = max((len(outcome.configuration.trials) for outcome in self.outcomes), default=0)
        each = max([each, *(len(one.configuration.trials) for one in self._open.values()), len(self.spec.seeds)])
        whole = len(self.baseline) + (self.settings.trials or self._accepted) * each
        return min(whole, self.limit) if self.limit else whole

    def settled(self, trial: Trial) -> bool:
        """Whether a trial is over, one way or the other."""
        return _identity(trial) in self._failed or self.state(trial) != "planned"

    def state(self, trial: Trial) -> str:
        """Done, stopped, failed in this run of the command, or still to be run. One that shares its pre-training with
        what failed, was stopped or interrupted, or runs now, is done once its own fine-tunings have ended well."""
        wanted = {f.id for f in trial.finetunings}
        if wanted == {row["finetune"] for row in self.run.rows_of(trial.id, wanted) if row["finetune"] in wanted}:
            return "done"
        if self.settings.stop is not None and self.run.trial(trial.id).stopped() is not None:
            return "stopped"
        return "failed" if _identity(trial) in self._failed else "planned"

    def spent(self) -> tuple[float, float]:
        """(training images, device-hours) of every trial that was begun, in this run of the command or before."""
        resources, total = self.spec.resources, Spent()
        for name, trial in self.trials.items():
            if name in self._running:
                total += self._used(name)
                continue
            spent = self._spent.get(name) or spent_on(self.run, trial, resources)
            total += self._spent.setdefault(name, spent) if name in self._spent or self.settled(trial) else spent
        return total.images, total.seconds / 3600

    def _used(self, name: str) -> Spent:
        """What a trial that runs has used and will, in earlier attempts too."""
        began, trial, before = self._running[name]
        devices = self.spec.resources.workers * (self.spec.resources.gpus_per_worker or 1)
        return Spent(images_of(trial), before.seconds + devices * (self.clock() - began))

    def _more(self, trial: Trial) -> int:
        """The images that a trial has yet to process."""
        return images_of(trial, finished_finetunings(self.run, trial))

    def ranked(self) -> list[Outcome]:
        """The configurations with a value, best first."""
        best_last = self.settings.mode == "min"
        valued = [outcome for outcome in self.outcomes if outcome.value is not None and outcome.state == "done"]
        return sorted(valued, key=lambda outcome: (outcome.value or 0.0) if best_last else -(outcome.value or 0.0))

    # --- proposing

    def _may_propose(self) -> bool:
        """Whether more configurations are wanted, and there is enough to choose them by."""
        if self.settings.trials is not None and self._accepted >= self.settings.trials:
            self.over = f"all {self.settings.trials:,} configurations were drawn"
        elif self.limit is not None and len(self.trials) >= self.limit:
            self.over = f"--limit {self.limit}"
        waits = self.settings.stop is not None or (
            self._sampler is not None and self._accepted >= self.settings.startup and not self._warm_starts
        )
        return not self.over and not (waits and self.objective is None)

    def _propose(self) -> None:
        """Draw until a configuration can be run and is new, and queue its trials."""
        for attempt in range(PATIENCE):
            name, values = self._values(attempt)
            try:
                configuration = self.candidates.configure(values)
            except UserError:
                self.impossible += 1
                if self._sampler is not None:
                    self._sampler.reject(name)
                continue
            if configuration.key in self._seen:
                self.repeated += 1
                if self._sampler is not None:
                    self._sampler.refuse(name)
                continue
            more = [trial.id for trial in configuration.trials if trial.id not in self.trials]
            if self.limit is not None and len(self.trials) + len(more) > self.limit:
                self.over = f"--limit {self.limit}"
            if why := self.over or self._over_budget(min(map(self._more, configuration.trials))):
                self.over = why
                if self._sampler is not None:
                    self._sampler.refuse(name)
                return
            if self._sampler is not None:
                self._sampler.accept(name, values)
            self._begin(configuration, name)
            return
        self.over = f"{PATIENCE:,} draws in a row were impossible or there before: the space holds no more"

    def _values(self, attempt: int) -> tuple[str, dict[str, Any]]:
        """The next proposal: draws from the prior first, and where the sampler only repeats itself."""
        if self._sampler is None:
            return "", self._draw()
        if self._warm_starts:
            return self._sampler.propose(self._warm_starts.popleft())
        prior = self._accepted < self.settings.startup or attempt >= SAMPLED
        return self._sampler.propose(self._draw() if prior else None)

    def _draw(self) -> dict[str, Any]:
        self._number += 1
        return self.candidates.draw(self._number - 1)

    def _begin(self, configuration: Configuration, name: str) -> None:
        """Add a configuration to the search, and queue its trials that have not ended."""
        self._seen.add(configuration.key)
        self._accepted += 1
        one = Open(configuration, name)
        self._open[configuration.key] = one
        for trial in configuration.trials:
            self.trials[trial.id] = trial.joined(self.trials.get(trial.id))
            self._spent.pop(trial.id, None)
            self._drawn.add(trial.id)
            if not self.settled(trial):
                one.waiting.add(trial.id)
                self._queue.append(trial)
        if any(self.state(trial) == "stopped" for trial in configuration.trials):
            self._stop_others(one)
        self.on_plan(self.plan)

    def _resume(self, sampler: Sampler) -> None:
        """Take up what an earlier driver had begun. A new study begins with what other studies of this folder ran."""
        is_new = True
        for name, values, is_open in sampler.accepted():
            is_new = False
            try:
                configuration = self.candidates.configure(values)
            except UserError:  # the data has changed
                if is_open:
                    sampler.refuse(name)
                continue
            if configuration.key not in self._seen:  # what failed is tried again, without telling the outcome twice
                self._begin(configuration, name if is_open else "")
        self._number = self._accepted
        if is_new:
            self._warm_starts.extend(values for values in sampler.warm_starts if sampler.contains(values))

    # --- learning

    def _learn(self) -> None:
        """Fit the baseline's line once its trials are over, and tell the sampler the outcome of configurations."""
        if self.objective is None and not any(trial.id in self._running for trial in self.baseline):
            if not self.may_go_on() or any(not self.settled(trial) for trial in self.baseline):
                return
            self.objective = self._objective()
        if self.objective is None:
            return
        for key, one in list(self._open.items()):
            if not one.waiting:
                del self._open[key]
                outcome = self._outcome(one.configuration)
                self.outcomes.append(outcome)
                if self._sampler is None or not one.name:
                    continue
                if outcome.state == "stopped":
                    decision = next(t for t in map(self._stopped, one.configuration.trials) if t)
                    self._sampler.tell_stopped(one.name, float(decision["value"]), int(decision["milestone"]))
                else:
                    self._sampler.tell(one.name, outcome.value)

    def _objective(self) -> Objective:
        name, analysis = self.settings.objective, self.spec.analysis
        if name != EFFECTIVE_ROBUSTNESS:
            return Objective(name, {})
        rows = [row for trial in self.baseline for row in self._rows(trial)]
        try:
            return Objective(name, lines_of(rows, analysis.scale, analysis.min_r2))
        except UserError:
            if self.settings.adaptive:
                raise
            return Objective(name, {})  # random draws go on: the report will say why there is no ER

    def _outcome(self, configuration: Configuration) -> Outcome:
        states = {self.state(trial) for trial in configuration.trials}
        if "stopped" in states:
            return Outcome(configuration, "stopped", None)
        rows = [own for own in map(self._rows, configuration.trials) if own]
        value = self.objective.value(rows) if self.objective is not None else None
        return Outcome(configuration, "done" if rows else "failed", value)

    def _rows(self, trial: Trial) -> list[dict[str, Any]]:
        """The rows of a trial that is done or failed, as the report counts them; none of another."""
        wanted = {f.id: f.task_label for f in trial.finetunings}
        if self.state(trial) not in ("done", "failed"):
            return []
        rows = [row for row in self.run.rows_of(trial.id, wanted) if row.get("shift", OWN) == OWN]
        own = (row for row in rows if row["finetune"] in wanted and row.get("wise_alpha") is None)
        return [{**row, "task": wanted[row["finetune"]]} for row in own]

    def _stopped(self, trial: Trial) -> dict[str, Any] | None:
        decision = self.run.trial(trial.id).stopped()
        return decision if decision is not None and decision.get("value") is not None else None

    def _stop_others(self, one: Open) -> None:
        """A configuration is stopped as a whole: its trials that have not begun are not, and say why."""
        which = next(trial.id for trial in one.configuration.trials if self.state(trial) == "stopped")
        for trial in [trial for trial in self._queue if trial in one.configuration.trials]:
            self._queue.remove(trial)
            one.waiting.discard(trial.id)
            self.run.trial(trial.id).stop(f"not begun, since {which} of the same configuration was stopped", {})

    # --- the budget

    def _over_budget(self, more: int) -> str:
        """Why `more` images may not begin, "" while they may."""
        budget = self.settings.budget
        if budget is None:
            return ""
        images, hours = self.spent()
        if budget.images is not None and images + more > budget.images:
            return f"the budget of {budget.images:,} images is spent ({images:,.0f})"
        if budget.device_hours is not None and hours >= budget.device_hours:
            return f"the budget of {budget.device_hours:g} device-hours is spent ({hours:.2f})"
        return ""

    def _study_name(self) -> str:
        """A hash of what a value of this search means: another task, space, objective, baseline or rule of stopping is
        another study, and so is another key of the spec that all configurations share."""
        settings = [self.settings.objective, self.settings.mode, self.spec.analysis.scale, self.settings.seed]
        dimensions = [one.meaning() for one in self.spec.space.dimensions]
        baseline = sorted([trial.key, sorted(f.id for f in trial.finetunings)] for trial in self.baseline)
        shared = {key: self.spec.written.get(key) for key in SHARED}
        stop = None if self.settings.stop is None else self.settings.stop.model_dump()
        return hash_of([settings, dimensions, baseline, list(self.spec.seeds), shared, stop])


def _identity(trial: Trial) -> Identity:
    """What a trial is to a search: the same pre-training with other fine-tunings is another one."""
    return trial.id, frozenset(f.id for f in trial.finetunings)
