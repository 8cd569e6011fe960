"""The baseline's trials come first; once they are over, whether they make a line, and whether the sweep ends there.

The verdict is the analysis' (`prepare.baseline_line`), made in a thread, so that it never holds the scheduler.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable

from ray_robust.errors import UserError, unforeseen
from ray_robust.prepare.baseline_line import BaselineLine


class BaselineFirst:
    """Which trials are the baseline's, and the verdict on their line.

    trials  the ids of all of them, done or not
    judge   returns the verdict on what the run folder holds
    show    prints one line
    stop    whether no other trial may begin before the verdict, and none at all where there is no line
    done    ids of trials that an earlier command has run: the verdict does not wait for them
    """

    def __init__(
        self,
        trials: frozenset[str],
        judge: Callable[[], BaselineLine],
        show: Callable[[str], None],
        stop: bool,
        done: Collection[str] = (),
    ) -> None:
        self.trials, self.judge, self.show, self.stop = trials, judge, show, stop
        self.verdict: BaselineLine | None = None
        self._waiting: set[str] = set(trials) - set(done)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def order(self, names: Iterable[str]) -> list[str]:
        """Return trials with the baseline's first, else in their order."""
        return sorted(names, key=lambda name: name not in self.trials)

    def settled(self, *names: str) -> None:
        """Note that trials are over; after the last one of the baseline the verdict begins to be made."""
        with self._lock:
            before, self._waiting = self._waiting, self._waiting - set(names)
            if before and not self._waiting and self._thread is None:
                self._begin()

    def wait(self) -> None:
        """Wait for a verdict that is being made."""
        if self._thread is not None:
            self._thread.join()

    def conclude(self) -> None:
        """Make the verdict now, on the trials that there are, unless it is made already; return when it is there."""
        with self._lock:
            if self._thread is None:
                self._begin()
        self.wait()

    @property
    def may_go_on(self) -> bool | None:
        """Whether other trials than the baseline's may begin; None while that is not decided yet."""
        if not self.stop:
            return True
        return None if self.verdict is None else self.verdict.holds

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._judge, name="the baseline's line", daemon=True)
        self._thread.start()

    def _judge(self) -> None:
        try:
            verdict = self.judge()
        except UserError as error:
            verdict = BaselineLine(True, tuple(f"baseline  cannot be judged yet: {one}" for one in error.problems))
        except Exception as error:  # what is trained is not lost for it: the report is made from the whole
            verdict = BaselineLine(True, (f"baseline  cannot be judged yet: {unforeseen(error)}",))
        for sentence in verdict.sentences:
            self.show(sentence)
        self.verdict = verdict


NO_BASELINE = BaselineFirst(frozenset(), lambda: BaselineLine(True, ()), lambda line: None, stop=False)
