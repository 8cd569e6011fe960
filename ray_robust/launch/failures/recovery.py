"""What becomes of a trial that broke off: the driver's word on why, whether that counts against it, and when it rests.

Owns the reading of Ray's errors, the count towards quarantine and the watch over trials that give no sign of life. Each
break is kept in the trial's attempts.json; Ray is told what to try again by `tuner`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ray_robust.errors import Outage
from ray_robust.plan.plan import Trial
from ray_robust.run.run_folder import RunFolder
from ray_robust.trial.failure import KILLED, SILENT, Fault, fault_of
from ray_robust.trial.oom import more_parts

RETRIES = 3  # of a trial whose worker died or that broke off by itself; after one more it is left alone
GOT_ON = 0.01  # share of a trial's work by which it must be further than at its faults before
REMOVED = "what it left was removed or altered while the sweep ran; the same command again runs what is missing of it"
LOSSES = 20  # faults that count for nothing, since a trial got on, after which they do: it would go on for ever


class Recovery:
    """The faults of every trial since the command began, on the driver."""

    def __init__(self, trials: Mapping[str, Trial], run: RunFolder, retries: int = RETRIES) -> None:
        self.trials, self.run, self.retries = trials, run, retries
        self.faults: dict[str, list[Fault]] = {}  # since the trial last got on
        self.furthest: dict[str, float] = {}
        self.hung: dict[str, str] = {}  # trials whose worker was killed here, and why
        self.ran: set[str] = set()  # trials that ended by themselves

    def broke_off(self, name: str, said: str, host: str = "") -> Fault:
        """Note a fault; a trial that had too many is quarantined. Memory that was short is answered by more parts.

        Raises Outage when a trial gave up on storage that is full or away: every other would do so as well.
        """
        fault = Fault("hung", self.hung.pop(name), True) if name in self.hung else fault_of(said)
        folder = self.run.trial(name)
        with contextlib.suppress(OSError):
            if fault.kind == "memory" and KILLED.search(said):
                more = more_parts(self.trials[name], folder.parts())
                fault = replace(fault, counts=more is None)
                folder.divide(more or folder.parts(), fault.reason)
        if self._got_on(name):
            self.faults.pop(name, None)
        self.faults.setdefault(name, []).append(fault)
        with contextlib.suppress(OSError):  # the reason stays here, and is told at the end
            folder.note_attempt({"time": time.time(), "host": host, **vars(fault)})
        if self.counted(name) > self.retries:
            self.give_up(name)
            if fault.kind == "outage":
                raise Outage(fault.reason)
        return fault

    def _got_on(self, name: str) -> bool:
        """Whether a trial is further than it was at any fault before: then those do not count any more."""
        try:
            share = float(self.run.trial(name).progress().get("share", 0.0))
        except OSError:
            return False
        before = self.furthest.setdefault(name, share)
        self.furthest[name] = max(share, before)
        return share > before + GOT_ON

    def counted(self, name: str) -> int:
        """How many faults count against a trial."""
        faults = self.faults.get(name, [])
        return sum(fault.counts for fault in faults) if len(faults) <= LOSSES else len(faults)

    def give_up(self, name: str) -> None:
        """Leave the trial's failure in its folder, unless it is done or has said itself why it failed."""
        folder = self.run.trial(name)
        with contextlib.suppress(OSError):
            if not self.settled(name):
                folder.fail(self.reason(name), quarantined=self.counted(name) > self.retries)

    def settled(self, name: str) -> bool:
        """Whether a trial is done, failed, or stopped by a search."""
        folder = self.run.trial(name)
        return (
            folder.failure() is not None
            or folder.stopped() is not None
            or folder.is_done([f.id for f in self.trials[name].finetunings])
        )

    def reason(self, name: str) -> str:
        """Every reason in a line, the same ones once."""
        faults = [fault for fault in self.faults.get(name, ()) if fault.counts or self.counted(name) > LOSSES]
        if not faults:
            return REMOVED if name in self.ran else SILENT
        counts = Counter(fault.reason for fault in faults)
        told = "; ".join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in counts.items())
        return f"broke off {len(faults)} times and is left alone until the command is run again: {told}"


class Watch:
    """Kills the worker of a trial that gives no sign of life: whose progress.json stays as it is for `limit` seconds.

    What changes is what matters, not the time in it: the clocks of two machines need not agree.
    """

    def __init__(self, recovery: Recovery, limit: float) -> None:
        self.recovery, self.limit = recovery, limit
        self._kills: dict[str, Callable[[], None]] = {}
        self._seen: dict[str, tuple[Any, float]] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()

    def started(self, name: str, kill: Callable[[], None]) -> None:
        """A trial runs from now on; `kill` ends its worker."""
        with self._lock:
            self._kills[name] = kill
            self._seen[name] = (None, time.monotonic())

    def ended(self, name: str) -> None:
        """A trial runs no more."""
        with self._lock:
            self._kills.pop(name, None)
            self._seen.pop(name, None)

    def look(self, now: float) -> None:
        """See who has given a sign since the last look, and kill the worker of who has been silent for too long."""
        with self._lock:
            running = list(self._kills)
        for name in running:
            try:
                sign = self.recovery.run.trial(name).progress().get("time")
            except OSError:  # not its fault, nor can it write: its silence begins after
                with self._lock:
                    if name in self._seen:
                        self._seen[name] = (self._seen[name][0], now)
                continue
            with self._lock:
                seen, since = self._seen.get(name, (None, now))
                kill = self._kills.get(name)
                if kill is None:
                    continue
                if sign != seen:
                    self._seen[name] = (sign, now)
                    continue
                if now - since <= self.limit:
                    continue
                del self._kills[name], self._seen[name]
            self.recovery.hung[name] = f"gave no sign of life for {self.limit:.0f} s and was ended"
            kill()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look in the background for the time of a with-block."""
        thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(timeout=10)

    def _watch(self) -> None:
        while not self._stop.wait(min(30.0, self.limit / 4)):
            self.look(time.monotonic())
