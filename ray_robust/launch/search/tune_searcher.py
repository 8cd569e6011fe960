"""A search as a Tune `Searcher`, which gives its trials to Tune one by one.

Owns how many trials Tune has at once, and how a trial reaches its worker: in Tune's config, as a string that carries
the trial and the rule by which it may be stopped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from ray.tune.search import Searcher

from ray_robust.errors import UserError
from ray_robust.launch.search.asha import Asha
from ray_robust.launch.search.search import Search
from ray_robust.plan.plan import Trial

AHEAD = 1  # trials that wait for a worker, so that one that gets free is used again and not ended
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"  # how many trials Tune lets wait; its default for searchers is one


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
    """Answers Tune's requests for trials from a search. Tune's own results are ignored: the run folder has them.

    max_concurrent  trials that may run at once; `placement` sets it as the cluster grows and shrinks
    on_begin        called with each trial before Tune has it
    error           the user's mistake that ended the search, to be raised once all running trials have ended
    """

    def __init__(self, search: Search, slots: int, on_begin: Callable[[Trial], None]) -> None:
        super().__init__()
        self.search, self.max_concurrent, self.on_begin = search, slots, on_begin
        self.error: UserError | None = None
        self._running: dict[str, str] = {}  # Tune's id -> ours; also of trials that wait for a worker

    def __getstate__(self) -> dict:  # Tune writes its searcher to disk; nobody reads it from there
        return {}

    def suggest(self, trial_id: str) -> Any:
        if len(self._running) >= self.max_concurrent + AHEAD:
            return None
        try:
            trial = None if self.error else self.search.next()
        except UserError as error:  # Tune would hide it in its own log
            trial, self.error = None, error
        if self.error is not None:
            return Searcher.FINISHED
        if trial is None:
            return Searcher.FINISHED if self.search.over and not self._running else None
        self.on_begin(trial)
        self._running[trial_id] = trial.id
        return {"trial": TrialRef(trial, self.search.asha if trial.pretrain is not None else None)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        try:
            self.search.ended(self._running.pop(trial_id))
        except UserError as error:
            self.error = error

    def save(self, checkpoint_path: str) -> None:
        """Tune's state of a search is never read again: the run folder is."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    @contextlib.contextmanager
    def pending_limit(self) -> Iterator[None]:
        """Let a Tuner keep as many trials pending as this searcher gives out, for the time of a with-block."""
        before = os.environ.get(PENDING)
        os.environ[PENDING] = str(self.max_concurrent + AHEAD)
        try:
            yield
        finally:
            os.environ.pop(PENDING)
            if before is not None:
                os.environ[PENDING] = before
