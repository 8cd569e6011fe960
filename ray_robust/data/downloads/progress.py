"""How far a download is: a bar with rate and remaining time on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ray_robust.text.percent import percent

Report = Callable[[int, int | None], None]
STEP, SECONDS = 0.1, 60.0  # a plain line whenever so much more of a file, or so much time, has passed
LEAST = 2.0  # seconds between two plain lines


@contextmanager
def bytes_progress(out: Console, stage: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """Yield what is called with the bytes that are there, and those in all where that is known."""
    if not out.is_terminal:
        yield _Lines(out, stage, clock)
        return
    columns = (TextColumn(f"{stage:<12}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


class _Lines:
    """Prints `download  12,345,678 of 99,003,388 bytes (12 %), 3.1 MB/s` at every tenth of it and every minute."""

    def __init__(self, out: Console, stage: str, clock: Callable[[], float]) -> None:
        self.out, self.stage, self.clock = out, stage, clock
        self.began: tuple[float, int] | None = None
        self.last: tuple[float, int] = (0.0, 0)

    def __call__(self, done: int, of: int | None) -> None:
        now = self.clock()
        if self.began is None or done < self.last[1]:  # of a file that is begun anew
            self.began = self.last = (now, done)
            return
        share, seconds = (done - self.last[1]) / of if of else 0.0, now - self.last[0]
        if done == self.last[1] or seconds < LEAST or (share < STEP and seconds < SECONDS):
            return
        self.last = (now, done)
        rate = (done - self.began[1]) / max(now - self.began[0], 1e-3) / 1e6
        amount = f"{done:,} of {of:,} bytes ({percent(done / of, 0)})" if of else f"{done:,} bytes"
        self.out.print(f"{self.stage:<12} {amount}, {rate:.1f} MB/s", markup=False)
