"""What an error means to the trial that it ended: in one line, whether another attempt would end alike, and when to
make one."""

from __future__ import annotations

import re
import textwrap
import traceback
from collections.abc import Mapping
from typing import Any

from ray_robust.train.exceptions import BATCH_OF_ONE

LISTED = 3  # reasons of fine-tunings in a line
LONGEST = 300  # characters of a reason
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0  # seconds before another attempt: doubled each time, up to the longest
BY_CHANCE = re.compile(r"CUDA|cuDNN|cuBLAS|CUBLAS|NCCL|HIP error|gloo|[Cc]onnection|[Tt]imed? ?out|[Ss]ocket|"
                       r"[Rr]endezvous|[Bb]roken pipe|unspecified launch")  # fmt: skip
DETERMINISTIC = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError,
                 TypeError, ValueError,
                 FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)  # fmt: skip


def one_line(error: BaseException) -> str:
    """Return an error in one line: its class, its message, and a hint where one is known."""
    message = " ".join(str(error).split())
    hint = "; give batch_size at least 2, or a model without batch normalisation" if BATCH_OF_ONE in message else ""
    name = type(error).__name__
    return f"{name}: {textwrap.shorten(message, LONGEST)}{hint}" if message else name


def of_finetunings(reasons: Mapping[str, str], in_all: int) -> str:
    """Return in one line why a trial failed of which these fine-tunings, of `in_all`, did: by id, their reasons."""
    each = list(dict.fromkeys(reasons.values()))
    listed = "; ".join(each[:LISTED]) + (f"; and {len(each) - LISTED} more" if len(each) > LISTED else "")
    if in_all == 1:
        return listed
    others = "" if len(reasons) == in_all else "; the scores of the others count"
    return f"{len(reasons)} of {in_all} fine-tunings failed: {listed}{others}"


def last_line_of(error: BaseException) -> str:
    """Return the last line of an error's traceback: its class with its module, and its message."""
    return last_line("".join(traceback.format_exception_only(error)))


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty, shortened; "" where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return textwrap.shorten(lines[-1], LONGEST) if lines else ""


def recurs(error: BaseException, attempts: list[dict[str, Any]]) -> bool:
    """Return whether another attempt would end in the same error: it is about what a trial computes, or a file that is
    absent; or the latest of `attempts` ended in it too, unless it comes by chance (a device, a network)."""
    if isinstance(error, DETERMINISTIC) and not isinstance(error, ConnectionError | TimeoutError):
        return True
    by_chance = isinstance(error, OSError) or BY_CHANCE.search(one_line(error))
    if type(error) is RuntimeError and not by_chance:  # torch's own: shapes, types; subclasses speak of devices
        return True
    return not by_chance and bool(attempts) and attempts[-1]["reason"] == last_line_of(error)


def backoff(attempts: list[dict[str, Any]], now: float) -> float:
    """Return the seconds to wait, at the time `now`, before the next attempt of a trial that has these behind it."""
    counted = [attempt for attempt in attempts if attempt["counts"]]
    if not counted:
        return 0.0
    whole = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (len(counted) - 1))
    return min(whole, max(0.0, counted[-1]["time"] + whole - now))
