"""Standard output and error that cannot end a program: what cannot be written there is left out, and the work goes on.

A sweep runs for hours behind `| tee log`, in a terminal that goes with its connection, or into a log on a disk that
fills up; its results lie in the run folder. Owns that closed descriptors are not given to files that are opened later,
and that a character which the terminal's encoding lacks is shown as its escape.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Steady:
    """A text stream that forwards to another one and drops what that does not take."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):  # a reader or terminal that is gone, a full disk
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """Have `sys.stdout` and `sys.stderr` be steady for the time of a with-block."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file would be opened under its number, and printed into
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        for name, stream in zip(("stdout", "stderr"), before, strict=True):
            setattr(sys, name, Steady(_forgiving(stream or nothing)))  # None: it was closed
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = before
            _drop_what_is_stuck()


def _forgiving(stream: TextIO) -> TextIO:
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")
    return stream


def _drop_what_is_stuck() -> None:
    """What a stream has kept, since nobody took it, would be written once more when the program ends, and change its
    exit code to 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
