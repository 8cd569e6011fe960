"""Failed attempts of every trial since the command began: which count, and when a trial is quarantined.

Each failure is kept in the trial's attempts.json; `tuner` has Ray make the next attempt.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from ray_robust.errors import Damaged, Outage
from ray_robust.launch.failures.failure_classes import HUNG, SILENT, Failure
from ray_robust.plan.plan import Trial
from ray_robust.run.run_folder import RunFolder
from ray_robust.trial.oom import next_grad_accum_steps

RETRIES = 3  # failures of a trial that count; after one more it is quarantined
PROGRESS = 0.01  # share of a trial's work by which it must have advanced for its earlier failures to be forgotten
MOST_FAILURES = 20  # in a row without progress, after which those count that else would not: it would go on for ever
REMOVED = "what it left was removed or altered while the sweep ran; the same command again runs what is missing of it"


class Recovery:
    """Failures by trial id, on the driver. `trials`: by id, with what is wanted of each now.

    begun     ids of the trials that were given out
    failures  since the trial last made progress
    hung      why the heartbeat watchdog ended a trial's worker, until that failure is recorded
    ran       trials that ended by themselves
    """

    def __init__(self, trials: dict[str, Trial], run: RunFolder, retries: int = RETRIES) -> None:
        self.trials, self.run, self.retries = trials, run, retries
        self.begun: set[str] = set()
        self.failures: dict[str, list[Failure]] = {}
        self.hung: dict[str, str] = {}
        self.ran: set[str] = set()
        self._furthest: dict[str, float] = {}
        self._asked: dict[str, set[str]] = {}  # the fine-tunings of a trial when it was given out last

    def begin(self, trial: Trial) -> None:
        """Note that a trial is given out. Why it failed in an earlier command goes: a worker that dies before it begins
        would leave it for the reason of this one. So do its failures in this one, where other fine-tunings are asked of
        it now: it has ended since."""
        asked = {finetuning.id for finetuning in trial.finetunings}
        if self._asked.setdefault(trial.id, asked) != asked:
            self._asked[trial.id] = asked
            self.failures.pop(trial.id, None)
            self._furthest.pop(trial.id, None)
        self.trials[trial.id] = trial
        self.begun.add(trial.id)
        with contextlib.suppress(OSError, Damaged):  # a folder where a file belongs: the trial's own attempt says so
            self.run.trial(trial.id).end_attempt()

    def record_failure(self, name: str, failure: Failure, host: str = "") -> Failure:
        """Record a failed attempt and return it as recorded. A trial that failed too often is quarantined; the batches
        of one that was killed for memory are split further.

        Raises Outage when a trial is quarantined since storage is full or away: every other would be so as well.
        """
        if name in self.hung:
            failure = Failure.of(HUNG, "", self.hung.pop(name))
        folder = self.run.trial(name)
        with contextlib.suppress(OSError):
            if failure.split_batch:
                more = next_grad_accum_steps(self.trials[name], folder.grad_accum_steps())
                failure = replace(failure, counts=more is None)
                folder.set_grad_accum_steps(more or folder.grad_accum_steps(), failure.reason)
        if self._made_progress(name):
            self.failures.pop(name, None)
        self.failures.setdefault(name, []).append(failure)
        with contextlib.suppress(OSError):  # the reason stays here, and is reported at the end
            folder.note_attempt({"time": time.time(), "host": host, "kind": failure.kind, "reason": failure.reason,
                                 "counts": failure.counts})  # fmt: skip
        if self.counted(name) > self.retries:
            self.quarantine(name)
            if failure.kind == "outage":
                raise Outage(failure.reason)
        return failure

    def _made_progress(self, name: str) -> bool:
        """Whether a trial is further than at any failure before."""
        folder = self.run.trial(name)
        try:
            progress = folder.progress()
            share = 0.0 if folder.is_earlier(progress) else float(progress.get("share", 0.0))
        except OSError:
            return False
        before = self._furthest.setdefault(name, share)
        self._furthest[name] = max(share, before)
        return share > before + PROGRESS

    def counted(self, name: str) -> int:
        """Return how many failures count against a trial."""
        failures = self.failures.get(name, [])
        return sum(failure.counts for failure in failures) if len(failures) <= MOST_FAILURES else len(failures)

    def quarantine(self, name: str) -> None:
        """Write the reasons to a trial's folder, unless it is done or has its own reason there."""
        folder = self.run.trial(name)
        with contextlib.suppress(OSError):
            if not self.settled(name):
                folder.fail(self.reason(name), quarantined=self.counted(name) > self.retries)

    def quarantine_rest(self, not_begun: Collection[str]) -> None:
        """Leave a reason in the folder of every trial that is not done, but for those that were not to begin."""
        for name in self.trials.keys() - not_begun:
            self.quarantine(name)

    def settled(self, name: str) -> bool:
        """Return whether a trial is done, failed, or stopped by a search."""
        folder = self.run.trial(name)
        return folder.failure() is not None or folder.stopped() is not None or self.done(name)

    def done(self, name: str) -> bool:
        """Return whether a trial is done."""
        return self.run.trial(name).is_done([f.id for f in self.trials[name].finetunings])

    def reason(self, name: str) -> str:
        """Return the reasons of a trial's failures in one line, each once with its count."""
        every = self.counted(name) > MOST_FAILURES
        failures = [failure for failure in self.failures.get(name, ()) if failure.counts or every]
        if not failures:
            return REMOVED if name in self.ran else SILENT
        counts = Counter(failure.reason for failure in failures)
        reasons = "; ".join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in counts.items())
        return f"failed {len(failures)} times; quarantined until the next run: {reasons}"
