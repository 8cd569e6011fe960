"""The live table of a sweep on a terminal: one line for the sweep, and one for each running trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ray_robust.status.progress import STAGES
from ray_robust.text.names import printable

PROBLEMS = ("failed", "quarantined", "stopped")  # states that are shown in red


@dataclass(frozen=True)
class Snapshot:
    """A sweep at one moment.

    title    its name
    total    how many trials it has
    counts   trials by state
    running  by trial id, what its progress.json holds; {} before there is one
    elapsed  seconds since this command began
    left     seconds to go; None when it is too early to tell
    """

    title: str
    total: int
    counts: Mapping[str, int]
    running: Mapping[str, Mapping[str, Any]]
    elapsed: float
    left: float | None


def render(now: Snapshot) -> Group:
    """Return what a terminal shows of a sweep."""
    speed = sum(progress.get("images_per_second", 0) for progress in now.running.values())
    problems = "".join(f", {now.counts[state]} {state}" for state in PROBLEMS if now.counts[state])
    head = Text.assemble(
        (printable(now.title), "bold"), "  ",
        f"{now.counts['done']} of {now.total} trials done, {len(now.running)} running",
        (problems, "red"),
        f"   {speed:,.0f} images/s   {_clock(now.elapsed)} so far",
        f", about {_clock(now.left)} left" if now.left is not None else "",
    )  # fmt: skip
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, justify in (("trial", "left"), ("stage", "left"), ("epoch", "right"), ("images/s", "right"),
                          ("ID", "right"), ("OOD", "right"), ("", "left")):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name, progress in now.running.items():
        table.add_row(
            escape(name),
            STAGES.get(progress.get("stage", ""), "starting"),
            f"{progress['epoch']:.1f}/{progress['epochs']:.0f}" if progress else "",
            f"{progress['images_per_second']:,.0f}" if progress else "",
            percent(progress.get("id")),
            percent(progress.get("ood")),
            ProgressBar(total=1, completed=progress.get("share", 0), width=20),
        )
    return Group(head, table)


def scores(progress: Mapping[str, Any]) -> str:
    """Return a trial's latest scores as `ID 12.3 %  OOD 4.5 %`; "" where there is no progress."""
    return f"ID {percent(progress.get('id'))}  OOD {percent(progress.get('ood'))}" if progress else ""


def percent(score: float | None) -> str:
    """Return a score (0-1) as `12.3 %`, "" for None."""
    return "" if score is None else f"{100 * score:.1f} %"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
