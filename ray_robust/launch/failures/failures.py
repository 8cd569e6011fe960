"""What becomes of a trial that broke off: the driver's word on why, whether that counts against it, and when it rests.

Owns the reading of Ray's errors, the count towards quarantine and the watch over trials that give no sign of life. Each
break is kept in the trial's attempts.json; Ray is told what to try again by `tuner`.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_robust.errors import Outage
from ray_robust.plan.plan import Trial
from ray_robust.run.run_folder import RunFolder
from ray_robust.trial.oom import more_parts

RETRIES = 3  # of a trial whose worker died or that broke off by itself; after one more it is left alone
FIRST_REST, LONGEST_REST = 1.0, 60.0  # seconds before a trial is tried again: doubled each time, up to the longest
GOT_ON = 0.01  # share of a trial's work by which it must be further than at its faults before
SILENT = "the worker ended without a word"
REMOVED = "what it left was removed or altered while the sweep ran; the same command again runs what is missing of it"
LOSSES = 20  # faults that count for nothing, since a trial got on, after which they do: it would go on for ever
LOST_NODE = re.compile(r"its node (has )?died|node (was|is) dead|NodeDiedError|node .{0,80}(terminated|was removed)|"
                       r"ActorUnavailableError|actor is temporarily unavailable", re.I)  # fmt: skip
SHORT = re.compile(r"OutOfMemoryError|low on memory|memory usage threshold|out of memory|MemoryError", re.I)
KILLED = re.compile(r"low on memory|memory usage threshold", re.I)  # by Ray: the trial itself could not answer it
DIED = re.compile(r"worker (process )?(has )?died|ActorDiedError|WorkerCrashedError|unexpectedly exit|SYSTEM_ERROR|"
                  r"ActorUnavailableError|connection error code", re.I)  # fmt: skip


BY_CHANCE = re.compile(r"CUDA|cuDNN|cuBLAS|CUBLAS|NCCL|HIP error|gloo|[Cc]onnection|[Tt]imed? ?out|[Ss]ocket|"
                       r"[Rr]endezvous|[Bb]roken pipe|unspecified launch")  # fmt: skip
SURE = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError,
        ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)  # fmt: skip
BATCH_OF_ONE = "more than 1 value per channel"  # what torch says of batch normalisation


@dataclass(frozen=True)
class Fault:
    """Why a trial broke off: left (told to leave its machine), node, outage (of storage), memory, hung, died or error;
    and the reason in a line. One that `counts` brings the trial nearer to quarantine; a machine that went away says
    nothing about it, and short memory is answered by smaller parts until there are none."""

    kind: str
    reason: str
    counts: bool


def fault_of(said: str) -> Fault:
    """Read what Ray says of a trial that broke off: the text of an error, with or without its traceback."""
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()] or [SILENT]
    last = textwrap.shorten(lines[-1], 300)
    left = [line for line in lines if "context.Leaving: " in line]
    if left:
        return Fault("left", textwrap.shorten(left[-1].partition("context.Leaving: ")[2], 300), False)
    if "receives a SIGTERM" in said:
        return Fault("left", "its worker was told to end (SIGTERM)", False)
    if "errors.Outage: " in said:
        return Fault("outage", textwrap.shorten(said.rpartition("errors.Outage: ")[2].partition("\n")[0], 300), True)
    if LOST_NODE.search(said):
        return Fault("node", "its node was lost or cut off", False)
    if SHORT.search(said):
        return Fault("memory", f"out of memory: {last}", False)
    if DIED.search(said) or lines == [SILENT]:
        told = next((line for line in lines if "worker process has died" in line), last)
        return Fault("died", textwrap.shorten(f"its worker died: {told}", 300), True)
    return Fault("error", last, True)


def line_of(error: BaseException) -> str:
    """An error in a line: its kind, its message, and what would help where that is known."""
    said = " ".join(str(error).split())
    hint = "; give batch_size at least 2, or a model without batch normalisation" if BATCH_OF_ONE in said else ""
    return f"{type(error).__name__}: {textwrap.shorten(said, 300)}{hint}" if said else type(error).__name__


def recurs(error: BaseException, attempts: list[dict[str, Any]]) -> bool:
    """Whether another try would end in the same error: it is about what a trial computes, or about a file that is not
    there; or the latest of `attempts` ended in the very same, unless that comes by chance (a device, a network)."""
    if isinstance(error, SURE) and not isinstance(error, ConnectionError | TimeoutError):
        return True
    by_chance = isinstance(error, OSError) or BY_CHANCE.search(line_of(error))
    if type(error) is RuntimeError and not by_chance:  # torch's own: shapes, types; subclasses speak of devices
        return True
    before = attempts[-1] if attempts else {"kind": "", "reason": ""}
    said = fault_of("".join(traceback.format_exception_only(error)))
    return not by_chance and (before["kind"], before["reason"]) == (said.kind, said.reason) == ("error", said.reason)


def rest(attempts: list[dict[str, Any]], now: float) -> float:
    """Seconds, at the time `now`, before a trial with these attempts behind it is tried again."""
    counted = [attempt for attempt in attempts if attempt["counts"]]
    if not counted:
        return 0.0
    whole = min(LONGEST_REST, FIRST_REST * 2 ** (len(counted) - 1))
    return min(whole, max(0.0, counted[-1]["time"] + whole - now))


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
            or folder.has([f.id for f in self.trials[name].finetunings])
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
