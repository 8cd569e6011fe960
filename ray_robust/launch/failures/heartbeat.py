"""The heartbeat watchdog: ends the worker of a trial that hangs, so that it is tried again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ray_robust.launch.failures.recovery import Recovery

LONGEST_INTERVAL = 30.0  # seconds between two checks at most
UNREAD = object()


@dataclass
class _Running:
    """A running trial: how to end its worker, its latest heartbeat (UNREAD before it was looked for) with the time at
    which that was first seen, and whether it has yet to give one."""

    kill: Callable[[], None]
    heartbeat: Any
    since: float
    waits: bool


class HeartbeatWatchdog:
    """Kills the worker of a trial whose progress.json stays as it is for `limit` seconds.

    A heartbeat is any change of the time in that file, forwards or backwards: clocks of two machines need not agree.

    groups  whether trials are worker groups, each driven by an actor that may wait for its workers as long as others
            have the room: such a trial is watched from its first heartbeat on
    """

    def __init__(self, recovery: Recovery, limit: float, groups: bool = False) -> None:
        self.recovery, self.limit, self.groups = recovery, limit, groups
        self._running: dict[str, _Running] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()

    def started(self, name: str, kill: Callable[[], None]) -> None:
        """Watch a trial from now on; `kill` ends its worker."""
        earlier: Any = UNREAD if self.groups else None
        if self.groups:
            with contextlib.suppress(OSError):
                earlier = self._heartbeat(name)  # of an attempt before: no sign of this one's workers
        with self._lock:
            self._running[name] = _Running(kill, earlier, time.monotonic(), self.groups)

    def ended(self, name: str) -> None:
        """Watch a trial no more."""
        with self._lock:
            self._running.pop(name, None)

    def check(self, now: float) -> None:
        """Look for new heartbeats at the time `now` (seconds, monotonic), and kill the workers that have none."""
        with self._lock:
            running = dict(self._running)
        for name, trial in running.items():
            try:
                heartbeat = self._heartbeat(name)
            except OSError:  # the storage is away: the trial cannot write either, so its time begins after that
                trial.since = now
                continue
            if trial.heartbeat is UNREAD:
                trial.heartbeat, trial.since = heartbeat, now
            elif heartbeat != trial.heartbeat:
                trial.heartbeat, trial.since, trial.waits = heartbeat, now, False
            elif not trial.waits and now - trial.since > self.limit:
                if self._stop.is_set():  # storage was slow, and Ray may be gone: asked then, it would start anew
                    return
                with self._lock:
                    if self._running.get(name) is not trial:  # it ended, or began again, meanwhile
                        continue
                    del self._running[name]
                self.recovery.hung[name] = f"no heartbeat for {self.limit:.0f} s; its worker was ended"
                trial.kill()

    def _heartbeat(self, name: str) -> Any:
        return self.recovery.run.trial(name).progress().get("time")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Check in the background for the time of a with-block."""
        thread = threading.Thread(target=self._watch, name="heartbeat watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(timeout=10)

    def _watch(self) -> None:
        while not self._stop.wait(min(LONGEST_INTERVAL, self.limit / 4)):
            self.check(time.monotonic())
