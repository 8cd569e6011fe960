"""Following a run from its folder: `python -m ray_robust.status RUN_DIR --follow`.

On a terminal a table that is drawn again, elsewhere a line for each trial that ends. Ends by itself when the run is
done or no driver runs it any more, and says which. Looks are cheap (`StatusReader`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live

from ray_robust.run.lease import EXPIRY, Driver, driver_of
from ray_robust.run.run_folder import RunFolder
from ray_robust.status.progress import OPEN, Status, StatusReader
from ray_robust.status.tables import group_table, headline, started_table
from ray_robust.text.durations import duration
from ray_robust.text.names import count_noun
from ray_robust.text.percent import percent

INTERVAL = 2.0  # seconds between two looks, unless --interval says otherwise
LINE_EVERY = 300.0  # seconds after which a line about the whole is printed where there is no terminal


@dataclass(frozen=True)
class Ending:
    """Whether a run that was followed is done, and how it ended, in a line."""

    done: bool
    text: str


class DriverWatch:
    """Tells whether a driver runs, from one look at its lease after the other."""

    def __init__(self) -> None:
        self.latest: Driver | None = None
        self._changed = 0.0

    def gone(self, driver: Driver | None, now: float) -> str:
        """Return why no driver runs, "" while one does. `now` is on a clock that only this process reads."""
        if driver is None:
            return "no driver runs it" if self.latest is None else f"its driver, {self.latest.name}, has ended"
        if self.latest is None or self.latest.renewal != driver.renewal:
            self.latest, self._changed = driver, now
        if driver.alive is False:
            return f"its driver, {driver.name}, is gone"
        if driver.alive is None and now - self._changed > EXPIRY:
            return f"its driver, {driver.name}, is gone: it has not renewed its lease for {EXPIRY:.0f} s"
        return ""


def follow(
    run: RunFolder,
    out: Console,
    interval: float = INTERVAL,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Ending:
    """Show a run until it is done or its driver is gone; return which. Raises UserError where it is no run,
    or is removed.

    wait   passes the seconds between two looks
    clock  measures how long a lease stays as it is
    wall   is compared with the times in the folder
    """
    reader, watch = StatusReader(run), DriverWatch()
    view = Live(console=out, transient=True, auto_refresh=False) if out.is_terminal else None
    lines = None if view is not None else _Lines(out, clock)
    with view or nullcontext():
        while True:
            gone = watch.gone(driver_of(run.storage), clock())  # first: what it left is there before it goes
            status = reader.read(wall())
            if view is not None:
                view.update(_AsIs(Group(*_view(status, run, wall()))), refresh=True)
            if lines is not None:
                lines.show(status)
            if gone:
                return _end(status, gone)
            wait(interval)


def _end(status: Status, gone: str) -> Ending:
    left = sum(state in OPEN for state in status.states.values()) + status.total - len(status.states)
    if not left:
        return Ending(True, f"the run is done: {_counts(status)}")
    have = "has" if left == 1 else "have"
    return Ending(False, f"{gone}: {count_noun(left, 'trial')} {have} yet to run; the same command again continues it")


def _counts(status: Status) -> str:
    counts = Counter(status.states.values())
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _view(status: Status, run: RunFolder, now: float) -> Iterator[RenderableType]:
    """What a terminal shows."""
    yield from headline(status, run)
    yield group_table(status)
    if status.progress:
        yield started_table(status, now)
    yield "Ctrl-C ends this view, not the sweep"


@dataclass(frozen=True)
class _AsIs:
    """Something in whose texts brackets are brackets: names are no markup."""

    inner: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.inner, options.update(markup=False))


class _Lines:
    """What a log or a pipe shows: a line for each trial that ended, and now and then one about the whole."""

    def __init__(self, out: Console, clock: Callable[[], float]) -> None:
        self.out, self.clock = out, clock
        self._states: dict[str, str] | None = None
        self._printed = clock()

    def show(self, status: Status) -> None:
        """Print what is new since the last time; the first time how far the run is."""
        first = self._states is None
        before = status.states if self._states is None else self._states
        ended = [
            name for name, state in status.states.items() if state not in OPEN and before.get(name) in (*OPEN, None)
        ]
        self._states = status.states
        over = sum(state not in OPEN for state in status.states.values())
        for number, name in enumerate(ended, over - len(ended) + 1):
            reason = status.failures.get(name, {}).get("reason", "")
            outcome = f"{status.states[name]}: {reason}" if reason else status.states[name]
            self._print(f"[{number}/{status.total}] {name}  {outcome}{_left(status)}")
        if first or self.clock() - self._printed > LINE_EVERY:
            working = sum(state == "started" for state in status.states.values())
            share = f"{percent(status.share_done, 0)} of the work is done{_left(status)}"
            self._print(f"{over} of {status.total} trials have ended, {working} are started; {share}")

    def _print(self, line: str) -> None:
        self.out.print(line, markup=False, soft_wrap=True)
        self._printed = self.clock()


def _left(status: Status) -> str:
    return "" if status.left is None else f"   about {duration(status.left)} left"
