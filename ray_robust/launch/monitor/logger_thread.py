"""A thread for each logger, so that a tool whose server is away holds nobody up: calls wait in a queue for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from ray_robust.redact import redact

MOST_WAITING = 10_000  # calls; beyond these progress is dropped, ends of trials are not


class LoggerThread:
    """Opens a logger and calls it, in order. After the first error it does nothing more, with one line to the user."""

    def __init__(self, name: str, opener: Callable[[], Any], warn: Callable[[str], None]) -> None:
        self.name, self._opener, self._warn = name, opener, warn
        self._calls: queue.Queue[Callable[[Any], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name=f"track {name}", daemon=True)
        self._thread.start()

    def call(self, call: Callable[[Any], None], may_drop: bool = False) -> None:
        """Have the logger called as soon as it is free; `may_drop`: unless too much waits already."""
        if self._thread.is_alive() and not (may_drop and self._calls.qsize() >= MOST_WAITING):
            self._calls.put(call)

    def end(self, call: Callable[[Any], None]) -> None:
        """Have the logger called for the last time."""
        self._calls.put(call)
        self._calls.put(None)

    def finished(self, timeout: float) -> bool:
        """Return whether everything is done, at the latest after so many seconds."""
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            logger = self._opener()
            while (call := self._calls.get()) is not None:
                call(logger)
        except Exception as error:  # whatever a tool may raise, it is not the sweep's failure
            line = " ".join(f"{type(error).__name__}: {error}".split())
            self._warn(redact(f"track: {self.name} is left out from here on: {line}"))
