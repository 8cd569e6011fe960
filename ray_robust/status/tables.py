"""A status as lines and tables, for `show` of the command and for the live view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.table import Table

from ray_robust.run.run_folder import RunFolder
from ray_robust.status.progress import STAGES, STATES, Status
from ray_robust.text.durations import duration
from ray_robust.text.percent import percent

SHOWN = 40  # started trials, one line each; after many interruptions there may be thousands


def headline(status: Status, run: RunFolder) -> Iterator[str]:
    """Yield the lines on the whole: the run, its trials by state, the work and time left, and what is missing."""
    yield f"{run.storage.shown}  {status.question}".rstrip()
    counts = Counter(status.states.values())
    listed = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state] or state == "done")
    undrawn = f" of {status.total}" if status.total > len(status.states) else ""  # of a search, the rest is to be drawn
    left = "" if status.left is None else f", about {duration(status.left)} left"
    yield f"{len(status.states)}{undrawn} trials: {listed}; {percent(status.share_done, 0)} of the work is done{left}"
    if status.driver:
        yield f"driver   {status.driver}"
    if status.pilot:
        yield "pilot    fine-tunings of the baseline's first seed come first; their scores decide how many it has"
    if status.remaining.missing:
        yield f"to do {status.remaining.counts()}"
        yield from (f"      {line}" for line in status.remaining.lines())


def by_group(status: Status) -> dict[str, dict[str, int]]:
    """Return how many trials of each group are in each state: the groups in their order, the states that occur."""
    counts = {group: Counter[str]() for group in status.groups.values()}
    for name, state in status.states.items():
        counts[status.groups[name]][state] += 1
    present = [state for state in STATES if any(states[state] for states in counts.values())]
    return {group: {state: states[state] for state in present} for group, states in counts.items()}


def group_table(status: Status) -> Table:
    """Return one line per group of the sweep: its trials by state, and its mean ER where there is one."""
    counts = by_group(status)
    present = next(iter(counts.values()), {})
    table = _table(("group",), (*present, *(("ER",) if status.er.means else ())))
    for group, states in counts.items():
        er = status.er.of_group(group)
        shown = () if not status.er.means else ("" if er is None else f"{er:+.1f} pp",)
        table.add_row(group, *(str(states[state] or "") for state in present), *shown)
    return table


def started_table(status: Status, now: float) -> Table:
    """Return one line per started trial, the latest progress first: how long ago that was tells a running trial from
    one that was interrupted."""
    table = _table(("started", "stage"), ("epoch", "images/s", "ID", "OOD", "done", "updated"))
    for name, progress in sorted(status.progress.items(), key=lambda item: -item[1].get("time", 0.0))[:SHOWN]:
        if progress.get("stage", "starting") == "starting":
            table.add_row(name, "starting")
            continue
        table.add_row(name, STAGES.get(progress["stage"], progress["stage"]),
                      f"{progress['epoch']:.1f}/{progress['epochs']:.0f}",
                      f"{progress['images_per_second']:,.0f}",
                      percent(progress.get("id"), missing=""), percent(progress.get("ood"), missing=""),
                      percent(progress["share"], 0), f"{duration(now - progress['time'])} ago")  # fmt: skip
    return table


def _table(left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right")
    return table
