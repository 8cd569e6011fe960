"""Figures as SVG, PDF and PNG, drawn in a process of its own: one that fails costs that figure and nothing else.

Owns `draw`, `NotDrawn`, and the process (`renderer`), which is started once, in good time by `warm_up`, and again after
it ended. Takes a report no longer than drawing here would: the process starts while the analysis computes.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from ray_robust.text.names import printable, printable_in

SCRIPT = Path(__file__).with_name("renderer.py")
LIMIT = 600.0  # seconds that one figure may take; on a busy core the first one can take half a minute
_ONE_AT_A_TIME = threading.Lock()


class NotDrawn(Exception):
    """One figure could not be drawn; its text says why, in one line."""


class _Renderer:
    """The process and its two pipes."""

    def __init__(self) -> None:
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.questions: IO[bytes] = self.process.stdin
        self.answers: IO[bytes] = self.process.stdout
        self.late = False

    def ask(self, line: bytes) -> dict[str, bytes]:
        """Return the files of one figure. Raises NotDrawn; EOFError and OSError where the process has ended."""
        watch = threading.Timer(LIMIT, self._too_long)
        watch.daemon = True
        watch.start()
        try:
            self.questions.write(line)
            self.questions.flush()
            head = self.answers.readline()
            if not head.endswith(b"\n"):
                raise EOFError
            sizes = json.loads(head)
            if "error" in sizes:
                raise NotDrawn(printable(sizes["error"]))
            return {ending: self._exactly(size) for ending, size in sizes.items()}
        finally:
            watch.cancel()

    def end(self) -> str:
        """Stop the process; return how it ended, in words."""
        for pipe in (self.questions, self.answers):
            with contextlib.suppress(OSError):  # what was not written yet has nobody to go to
                pipe.close()
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.late:
            return f"it took more than {LIMIT:.0f} s"
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return f"the process that draws ended {how}{self._panic()}"

    def _too_long(self) -> None:
        self.late = True
        self.process.kill()

    def _exactly(self, size: int) -> bytes:
        content = self.answers.read(size)
        if len(content) < size:
            raise EOFError
        return content

    def _panic(self) -> str:
        """What Rust says of a panic stands on the line behind the place of it."""
        with contextlib.suppress(OSError, ValueError):
            self.complaints.seek(0)
            lines = self.complaints.read(100_000).decode(errors="replace").splitlines()
            for place, message in pairwise(lines):
                if "panicked at" in place:
                    return f" ({printable(message.strip())[:160]})"
        return ""


_renderer: _Renderer | None = None


def warm_up() -> None:
    """Start the process, so that it is ready when the first figure is."""
    with _ONE_AT_A_TIME, contextlib.suppress(OSError):
        _started()


def draw(spec: Mapping[str, Any]) -> dict[str, bytes]:
    """Return ending (svg, pdf, png at twice the size) -> file, of a Vega-Lite specification that holds its data. Texts
    in it are shown cleaned. Raises NotDrawn."""
    line = json.dumps(printable_in(spec)).encode() + b"\n"
    with _ONE_AT_A_TIME:
        try:
            return _started().ask(line)
        except (EOFError, ValueError) as error:
            raise NotDrawn(_ended() or str(error)) from None
        except OSError as error:  # the pipe is broken, or no process could be started
            raise NotDrawn(_ended() or f"no process to draw in: {error.strerror}") from None


def _started() -> _Renderer:
    global _renderer
    if _renderer is None:
        _renderer = _Renderer()
    return _renderer


def _ended() -> str:
    """Give the process up; how it ended."""
    global _renderer
    renderer, _renderer = _renderer, None
    return renderer.end() if renderer is not None else ""


@atexit.register
def _stop() -> None:
    if _renderer is not None:
        _renderer.process.kill()
