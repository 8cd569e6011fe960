"""A search's trials handed to Tune one by one, as Tune's own kind of searcher.

Owns how many are out at once, and how a trial travels: in Tune's config, as a text that knows its trial and what it is
compared with on its way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from ray.tune.search import Searcher

from ray_robust.errors import UserError
from ray_robust.launch.search.asha import Halving
from ray_robust.launch.search.search import Search
from ray_robust.plan.plan import Trial

AHEAD = 1  # trials that wait for a worker, so that one that gets free is used again and not ended
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"  # how many trials Tune lets wait; its default for searchers is one


class Sent(str):
    """A trial's id that carries the trial: Tune copies, prints and compares it as text."""

    trial: Trial
    halving: Halving | None

    def __new__(cls, trial: Trial, halving: Halving | None = None) -> Sent:
        self = super().__new__(cls, trial.id)
        self.trial, self.halving = trial, halving
        return self

    def __reduce__(self) -> tuple:
        return Sent, (self.trial, self.halving)

    def __deepcopy__(self, memo: dict) -> Sent:
        return self


class Handing(Searcher):
    """Tune asks, the search answers. `begun` is told each trial before Tune has it; Tune's own results say nothing.

    max_concurrent  trials that may run at once; follows the cluster
    """

    def __init__(self, search: Search, slots: int, begun: Callable[[Trial], None]) -> None:
        super().__init__()
        self.search, self.max_concurrent, self.begun = search, slots, begun
        self.mistake: UserError | None = None
        self._out: dict[str, str] = {}  # Tune's id -> ours

    def suggest(self, trial_id: str) -> Any:
        if len(self._out) >= self.max_concurrent + AHEAD:
            return None
        try:
            trial = None if self.mistake else self.search.next()
        except UserError as error:  # Tune would bury it: it is said when all that runs has ended
            trial, self.mistake = None, error
        if self.mistake is not None:
            return Searcher.FINISHED
        if trial is None:
            return Searcher.FINISHED if self.search.over and not self._out else None
        self.begun(trial)
        self._out[trial_id] = trial.id
        return {"trial": Sent(trial, self.search.halving if trial.pretrain is not None else None)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        try:
            self.search.ended(self._out.pop(trial_id))
        except UserError as error:
            self.mistake = error

    def save(self, checkpoint_path: str) -> None:
        """Tune's state of a search is never read again: the run folder is."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    @contextlib.contextmanager
    def let_wait(self) -> Iterator[None]:
        """Inside, a Tuner lets as many trials wait as are out at most."""
        before = os.environ.get(PENDING)
        os.environ[PENDING] = str(self.max_concurrent + AHEAD)
        try:
            yield
        finally:
            os.environ.pop(PENDING)
            if before is not None:
                os.environ[PENDING] = before
