"""How far decoding and rendering are: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ray_robust.text.durations import duration

LINE_EVERY = 30.0  # seconds between two lines where there is no terminal


@contextmanager
def image_progress(out: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[int, int], None]]:
    """Show, for the time of a with-block, how many of how many images are done: yield what takes both counts."""
    if not out.is_terminal:
        yield _lines(out, clock)
        return
    columns = (
        TextColumn("Decoding and rendering images"),
        BarColumn(20),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=0, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def _lines(out: Console, clock: Callable[[], float]) -> Callable[[int, int], None]:
    begun = latest = clock()

    def report(done: int, total: int) -> None:
        nonlocal latest
        now = clock()
        if now - latest < LINE_EVERY or not done:
            return
        latest = now
        left = (now - begun) * (total - done) / done
        out.print(f"images   {done:,} of {total:,} decoded or rendered, about {duration(left)} left")

    return report
