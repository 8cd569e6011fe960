"""What the driver does when Tune starts a trial, and when one ends or fails.

Passes it on to the live view, the heartbeat watchdog and the count of failures, and keeps shared weights within their
limit.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import tune

from ray_robust.files.storage import Storage
from ray_robust.launch.failures.checkpoint_gc import collect_garbage
from ray_robust.launch.failures.failure_classes import latest_failure
from ray_robust.launch.failures.heartbeat import HeartbeatWatchdog
from ray_robust.launch.failures.recovery import Recovery
from ray_robust.launch.monitor.monitor import Monitor

COLLECT_EVERY = 60.0  # seconds between two looks at the disk space of shared weights


class TrialCallbacks(tune.Callback):
    """`weights` is the folder of shared weights; `limit` the bytes that it may hold, None for no limit; `on_settled` is
    called with the name of a trial that is over, one way or the other.

    error  the first exception of a call about a trial. Tune would take it for the trial's, and run that again: it is
           raised at Tune's next step, and where none follows by `tuner`
    """

    def __init__(
        self,
        monitor: Monitor,
        recovery: Recovery,
        watchdog: HeartbeatWatchdog,
        weights: Storage,
        limit: int | None,
        on_settled: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.monitor, self.recovery, self.watchdog, self.on_settled = monitor, recovery, watchdog, on_settled
        self.weights, self.limit = weights, limit
        self._collected = time.monotonic()
        self._folders: dict[str, str | None] = {}  # of the trials that have not ended, by Tune's ids
        self.error: Exception | None = None

    def __getstate__(self) -> dict:  # Tune writes its callbacks to disk; nobody reads them from there
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name = trial.config["trial"]
        with self._keep_error():
            self._sync_count(trial)
            self.watchdog.started(name, lambda: ray.kill(trial.temporary_state.ray_actor))
            self.monitor.started(name)

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if self.error is not None:
            raise self.error
        folders = self._folders  # Tune makes up a trial's path anew at every question, which ten times a second is work
        self._folders = {
            trial.trial_id: folders.get(trial.trial_id) or trial.local_path
            for trial in trials
            if not trial.is_finished()
        }
        for folder in filter(None, self._folders.values()):
            os.makedirs(folder, exist_ok=True)  # removed, Tune could not write down why a trial failed, and breaks down

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name = trial.config["trial"]
        with self._keep_error():
            self.watchdog.ended(name)
            self.recovery.ran.add(name)
            self.monitor.ended(name)
            if self.recovery.settled(name):
                self.on_settled(name)
            for numbers in (trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps):
                numbers.clear()  # Tune keeps some 20 kB of every trial that nobody reads
            if time.monotonic() - self._collected > COLLECT_EVERY:
                self._collect_garbage(trials)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        with self._keep_error():
            self._record_failure(trial)
            self._sync_count(trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        with self._keep_error():
            self._record_failure(trial)
            if self.recovery.settled(trial.config["trial"]):  # else the failure does not count: it is run again
                self.monitor.ended(trial.config["trial"])
                self.on_settled(trial.config["trial"])

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        self._collect_garbage(trials)

    @contextlib.contextmanager
    def _keep_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def _record_failure(self, trial: Any) -> None:
        self.watchdog.ended(trial.config["trial"])
        self.recovery.record_failure(trial.config["trial"], latest_failure(trial), trial.node_ip or "")

    def _sync_count(self, trial: Any) -> None:
        """Have Tune count what `recovery` counts: it stops retrying where that is too much."""
        trial.run_metadata.num_failures = self.recovery.counted(trial.config["trial"])

    def _collect_garbage(self, trials: list) -> None:
        self._collected = time.monotonic()
        if self.limit is not None:
            wanted = {self.recovery.trials[t.config["trial"]].key for t in trials if not t.is_finished()}
            with contextlib.suppress(OSError):
                collect_garbage(self.weights, self.limit, wanted)
