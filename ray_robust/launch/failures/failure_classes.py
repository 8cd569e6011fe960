"""The kinds of failure of a trial, and how each is recognised: by the class of an exception where Ray hands one over.

Tune pickles the `RayTaskError` or `RayActorError` that ended a trial; what the trial raised is inside, and for a worker
group what every rank raised. A new kind is one entry of `FAILURE_CLASSES`. Text is read in two cases only: Ray has one
class, `ActorDiedError`, for a worker that died, was told to end or lost its node, and gives the cause in its message;
and Tune keeps other errors (`OutOfMemoryError` of a killed worker) as text alone.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.train import ControllerError, PreemptionError, WorkerGroupError

from ray_robust.errors import Outage
from ray_robust.train.exceptions import Preempted
from ray_robust.trial.failure import LONGEST, last_line, last_line_of

SILENT = "the worker ended without an error message"


@dataclass(frozen=True)
class FailureClass:
    """One way to fail.

    kind         its name in attempts.json
    types        exceptions that mean it
    text         matches a message of Ray's that means it
    counts       whether it brings the trial nearer to quarantine; a machine that went away says nothing about the trial
    reason       in one line: `{message}` is the exception's own, `{line}` its last line, class included
    split_batch  whether the trial was killed before it could split its batches, so that the driver has to
    """

    kind: str
    types: tuple[type[BaseException], ...] = ()
    text: str = ""
    counts: bool = True
    reason: str = "{line}"
    split_batch: bool = False


NODE_TEXT = r"its node (has )?died|node (was|is) dead|node .{0,80}(terminated|was removed)|actor is temporarily unavail"
DIED_TEXT = r"worker (process )?(has )?died|unexpectedly exit|SYSTEM_ERROR|connection error code"

# The first entry counts that the error, or any error inside it, belongs to.
FAILURE_CLASSES = (
    FailureClass("left", (Preempted,), counts=False, reason="{message}"),
    FailureClass("left", (PreemptionError,), counts=False, reason="its node is drained"),
    FailureClass("left", text="receives a SIGTERM", counts=False, reason="its worker was told to end (SIGTERM)"),
    FailureClass("outage", (Outage,), reason="{message}"),
    FailureClass(
        "node",
        (NodeDiedError, ActorUnavailableError),
        text=NODE_TEXT,
        counts=False,
        reason="its node was lost or cut off",
    ),
    FailureClass(
        "memory",
        (OutOfMemoryError,),
        text="low on memory|memory usage threshold",
        counts=False,
        reason="out of memory: {line}",
        split_batch=True,
    ),
    FailureClass("memory", (MemoryError,), counts=False, reason="out of memory: {line}"),  # a rank has split them
    FailureClass("died", (RayActorError, WorkerCrashedError), text=DIED_TEXT, reason="its worker died: {line}"),
)
ERROR = FailureClass("error")  # any other
HUNG = FailureClass("hung")  # ended by the heartbeat watchdog


@dataclass(frozen=True)
class Failure:
    """A failed attempt of a trial; `kind`, `counts` and `split_batch` as in its class, `reason` one line."""

    kind: str
    reason: str
    counts: bool
    split_batch: bool = False

    @classmethod
    def of(cls, failure_class: FailureClass, message: str, line: str) -> Failure:
        """Return a failure of that class."""
        reason = textwrap.shorten(failure_class.reason.format(message=message, line=line), LONGEST)
        return cls(failure_class.kind, reason, failure_class.counts, failure_class.split_batch)


def latest_failure(trial: Any) -> Failure:
    """Return the latest failure of a Tune trial, read from the files that Tune keeps of it on the driver."""
    error = None
    if (file := trial.pickled_error_file) is not None:
        with suppress(Exception):  # whatever the classes inside may raise; the text is left
            error = cloudpickle.loads(Path(file).read_bytes())
        Path(file).unlink(missing_ok=True)  # Tune leaves it where a later error cannot be pickled
    text = ""
    with suppress(OSError, TypeError):  # TypeError: there is none
        text = Path(trial.error_file).read_text("utf-8").rpartition("Failure # ")[2].partition("\n")[2]
    return classify(error, text)


def classify(error: BaseException | None, text: str = "") -> Failure:
    """Return the failure that an error means: by its class and those of the errors inside it, else by what Ray says.
    `text` is for an error of which nothing else is kept."""
    errors = list(_unwrapped(error)) if error is not None else []
    own = [str(one) for one in errors if isinstance(one, RayError)] if errors else [text]  # messages of Ray's
    for failure_class in FAILURE_CLASSES:
        for one in errors:
            if isinstance(one, failure_class.types):
                line = _died_line(str(one)) if isinstance(one, RayError) else last_line_of(one)
                return Failure.of(failure_class, " ".join(str(one).split()), line)
        for message in own:
            if failure_class.text and re.search(failure_class.text, message, re.IGNORECASE):
                return Failure.of(failure_class, message, _died_line(message))
    if errors:
        return Failure.of(ERROR, str(errors[-1]), last_line_of(errors[-1]))
    if not text.strip():
        return Failure("died", f"its worker died: {SILENT}", True)
    return Failure.of(ERROR, text, last_line(text))


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    """The errors that an error of Ray's stands for: what the task raised, or what each rank of its worker group did."""
    inside: list[Any] = []
    if isinstance(error, RayTaskError):
        inside = [error.cause]
    elif isinstance(error, WorkerGroupError):
        inside = list(error.worker_failures.values())
    elif isinstance(error, ControllerError):
        inside = [error.controller_failure]
    elif isinstance(health := getattr(error, "health_check_failure", None), BaseException):  # of a rank that is away
        inside = [health]
    if not inside:
        yield error
    for one in inside:
        yield from _unwrapped(one)


def _died_line(message: str) -> str:
    """The line of a message of Ray's that says most: why a worker died, else the last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if "worker process has died" in line), lines[-1] if lines else SILENT)
