"""Why a trial failed, read from an error or its text, and whether and when another attempt is worth it.

Owns the kinds of failure: `fault_of` is the one place that knows by what each is recognised.
"""

from __future__ import annotations

import re
import textwrap
import traceback
from dataclasses import dataclass
from typing import Any

FIRST_REST, LONGEST_REST = 1.0, 60.0  # seconds before a trial is tried again: doubled each time, up to the longest
SILENT = "the worker ended without a word"
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
    left = [line for line in lines if "exceptions.Preempted: " in line]
    if left:
        return Fault("left", textwrap.shorten(left[-1].partition("exceptions.Preempted: ")[2], 300), False)
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
