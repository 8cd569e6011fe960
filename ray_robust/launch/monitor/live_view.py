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
from ray_robust.text.percent import percent

WIDE, NARROW_NAME = 110, 24  # columns from which whole ids and bars have room, and characters of an id without
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
    work     pre-trainings and fine-tunings that are done, in words
    """

    title: str
    total: int
    counts: Mapping[str, int]
    running: Mapping[str, Mapping[str, Any]]
    elapsed: float
    left: float | None
    work: str = ""


def render(now: Snapshot, width: int = 120) -> Group:
    """Return what a terminal of `width` columns shows of a sweep."""
    speed = sum(progress.get("images_per_second", 0) for progress in now.running.values())
    problems = "".join(f", {now.counts[state]} {state}" for state in PROBLEMS if now.counts[state])
    head = Text.assemble(
        (printable(now.title), "bold"), "  ",
        f"{now.counts['done']} of {now.total} trials done, {len(now.running)} running",
        (problems, "red"),
        f"   {speed:,.0f} images/s",
    )  # fmt: skip
    left = f", about {_clock(now.left)} left" if now.left is not None else ""
    pace = Text(f"{now.work}   {_clock(now.elapsed)} so far{left}".lstrip())
    wide = width >= WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("trial", no_wrap=True)
    for name, justify in (("stage", "left"), ("epoch", "right"), ("images/s", "right"), ("ID", "right"),
                          ("OOD", "right"), ("", "left" if wide else "right")):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True, min_width=len(name) or 4)  # type: ignore[arg-type]
    for name, progress in now.running.items():
        share = progress.get("share", 0)
        table.add_row(
            escape(name if wide else _short(name, now.title)),
            STAGES.get(progress.get("stage", ""), "starting"),
            f"{progress['epoch']:.1f}/{progress['epochs']:.0f}" if progress else "",
            f"{progress['images_per_second']:,.0f}" if progress else "",
            _score(progress.get("id")),
            _score(progress.get("ood")),
            ProgressBar(total=1, completed=share, width=20) if wide else percent(share, 0),
        )
    return Group(head, pace, table)


def _short(trial: str, title: str) -> str:
    """A trial's id for a narrow terminal: without the sweep's name and the hash at its end, and not too long."""
    readable = trial.removeprefix(f"{title}-").rpartition("-")[0] or trial
    return readable if len(readable) <= NARROW_NAME else f"{readable[: NARROW_NAME - 1]}\u2026"


def scores(progress: Mapping[str, Any]) -> str:
    """Return a trial's latest scores as `ID 12.3 %  OOD 4.5 %`; "" where there is no progress."""
    return f"ID {_score(progress.get('id'))}  OOD {_score(progress.get('ood'))}" if progress else ""


def _score(value: float | None) -> str:
    return percent(value, missing="")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
