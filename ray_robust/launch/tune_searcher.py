"""The trials of a plan or of a search as a Tune `Searcher`, which gives them to Tune one by one.

Owns how many trials Tune has at once, and how a trial reaches its worker: in Tune's config, as a string that carries
the trial and the rule by which it may be stopped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ray.tune.search import Searcher

from ray_robust.launch.search.asha import Asha
from ray_robust.plan.plan import Trial

AHEAD = 1  # trials that wait for a worker, so that one that gets free is used again and not ended
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"  # how many trials Tune lets wait; its default for searchers is one
NO_LIMIT = "1000"


class Trials(Protocol):
    """What says which trial is next: `PlannedTrials` or a `Search`."""

    @property
    def asha(self) -> Asha | None:
        """The rule by which pre-trainings may be stopped."""

    @property
    def complete(self) -> bool:
        """Whether no trial will be given any more, unless one that runs fails."""

    def next(self) -> Trial | None:
        """Return the trial to run now; None where there is none, or none yet."""

    def ended(self, name: str) -> None:
        """Note that Tune is over with a trial, however it ended: its folder says how."""


class TrialRef(str):
    """A trial's id that carries the trial: Tune copies, prints and compares it as a string."""

    trial: Trial
    asha: Asha | None

    def __new__(cls, trial: Trial, asha: Asha | None = None) -> TrialRef:
        self = super().__new__(cls, trial.id)
        self.trial, self.asha = trial, asha
        return self

    def __reduce__(self) -> tuple:
        return TrialRef, (self.trial, self.asha)

    def __deepcopy__(self, memo: dict) -> TrialRef:
        return self


class TuneSearcher(Searcher):
    """Answers Tune's requests for trials. Tune's own results are ignored: the run folder has them.

    max_concurrent  trials that may run at once; `placement` sets it as the cluster grows and shrinks
    on_begin        called with each trial before Tune has it
    ahead           trials beside these that wait for a worker; none where each trial has workers of its own
    error           what ended it all, to be raised once the trials that run have ended
    """

    def __init__(self, trials: Trials, slots: int, on_begin: Callable[[Trial], None], ahead: int = AHEAD) -> None:
        super().__init__()
        self.trials, self.max_concurrent, self.on_begin, self.ahead = trials, slots, on_begin, ahead
        self.error: Exception | None = None
        self._running: dict[str, str] = {}  # Tune's id -> ours; also of trials that wait for a worker
        self._ended: list[str] = []  # trials of which `trials` has yet to hear

    def __getstate__(self) -> dict:  # Tune writes its searcher to disk; nobody reads it from there
        return {}

    def suggest(self, trial_id: str) -> Any:
        self.pass_on_ends()
        if len(self._running) >= self.max_concurrent + self.ahead:
            return None
        if self.error is None:
            try:
                return self._next(trial_id)
            except Exception as error:  # Tune would hide it in its own log
                self.error = error
        return Searcher.FINISHED

    def _next(self, trial_id: str) -> Any:
        trial = self.trials.next()
        if trial is None:
            return Searcher.FINISHED if self.trials.complete else None
        self.on_begin(trial)
        self._running[trial_id] = trial.id
        return {"trial": TrialRef(trial, self.trials.asha if trial.pretrain is not None else None)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        name = self._running.pop(trial_id, None)
        if name is not None:  # Tune runs a trial again whose end it could not pass on
            self._ended.append(name)

    def pass_on_ends(self) -> None:
        """Tell of the trials that have ended. Not at once: Tune calls this first, and then what writes down how."""
        ended, self._ended = self._ended, []
        for name in ended:
            try:
                self.trials.ended(name)
            except Exception as error:
                self.error = self.error or error

    def save(self, checkpoint_path: str) -> None:
        """Tune's state of it is never read again: the run folder is."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


@contextlib.contextmanager
def no_pending_limit() -> Iterator[None]:
    """Let a Tuner keep as many trials pending as its searcher gives out, for the time of a with-block."""
    before = os.environ.get(PENDING)
    os.environ[PENDING] = NO_LIMIT
    try:
        yield
    finally:
        os.environ.pop(PENDING)
        if before is not None:
            os.environ[PENDING] = before
