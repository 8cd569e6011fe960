"""The command `python -m ray_robust.status RUN_DIR`: how far a sweep is, read from its folder alone.

Needs no cluster and starts nothing, so it works on any machine that sees the folder. `progress` reads the folder; this
module prints.
"""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console
from rich.table import Table

from ray_robust.errors import DONE, FAILED, Arguments, command
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.trial_folder import RERUN
from ray_robust.status.progress import STAGES, STATES, Status, read_status
from ray_robust.text.console import console
from ray_robust.text.durations import duration

SHOWN = 40  # started trials, one line each; after many interruptions there may be thousands


def main(argv: list[str]) -> int:
    """Print the status. Return exit code 1 when a trial failed, else 0, whether the sweep is finished or not. Raises
    UserError."""
    run = RunFolder(parser().parse_args(argv).run)
    now = time.time()
    status = read_status(run, now)
    show(status, run, console(), now)
    return FAILED if status.failures else DONE


def parser(add_help: bool = True) -> Arguments:
    """Return the parser of this command's arguments."""
    what = "How far a sweep is, from its folder alone."
    parser = Arguments("python -m ray_robust.status", description=what, add_help=add_help)
    parser.add_argument("run", metavar="RUN_DIR", help="a run folder, a path or a URI")
    return parser


def show(status: Status, run: RunFolder, out: Console, now: float) -> None:
    """Print a status as of the time `now`, in seconds since the epoch."""
    shown = run.storage.shown
    out.print(f"{shown}  {status.question}".rstrip(), markup=False, soft_wrap=True)
    counts = Counter(status.states.values())
    listed = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state] or state == "done")
    left = "" if status.left is None else f", about {duration(status.left)} left"
    out.print(f"{len(status.states)} trials: {listed}; {status.share_done:.0%} of the work is done{left}", markup=False)
    if status.remaining.missing:
        out.print(f"to do {status.remaining.counts()}", markup=False)
        for line in status.remaining.lines():
            out.print(f"      {line}", markup=False, soft_wrap=True)
    out.print(_groups(status), markup=False)
    if status.progress:
        out.print(_started(status, now), markup=False)
        if len(status.progress) > SHOWN:
            out.print(f"... and {len(status.progress) - SHOWN:,} more started", markup=False)
    for name, failure in status.failures.items():
        reason = f"{name}: {failure.get('reason', '')} (log: {failure.get('log', '')})"
        out.print(f"{status.states[name]:<7} {reason}", markup=False, soft_wrap=True)
    for name, damage in status.damage.items():
        out.print(f"damaged {name}: {damage}; {RERUN}", markup=False, soft_wrap=True)
    for line in status.altered:
        out.print(f"altered {line}", markup=False, soft_wrap=True)
    if status.er.why:
        out.print(status.er.why, markup=False, soft_wrap=True)
    for title, file in (("results", "results.csv"), ("report", "report/index.html")):
        if run.exists(file):
            out.print(f"{title:<8} {shown}/{file}", markup=False, soft_wrap=True)
    if status.command and (status.altered or set(counts) - {"done", "stopped"}):
        out.print(f"again    {status.command}", markup=False, soft_wrap=True)


def _groups(status: Status) -> Table:
    """One line per group of the sweep: its trials by state, and its mean ER where there is one."""
    counts = {group: Counter[str]() for group in status.groups.values()}
    for name, state in status.states.items():
        counts[status.groups[name]][state] += 1
    present = [state for state in STATES if any(states[state] for states in counts.values())]
    table = _table(("group",), (*present, *(("ER",) if status.er.means else ())))
    for group, states in counts.items():
        er = status.er.of_group(group)
        shown = () if not status.er.means else ("" if er is None else f"{er:+.1f} pp",)
        table.add_row(group, *(str(states[state] or "") for state in present), *shown)
    return table


def _started(status: Status, now: float) -> Table:
    """One line per started trial, the latest progress first: how long ago that was tells a running trial from one that
    was interrupted."""
    table = _table(("started", "stage"), ("epoch", "images/s", "ID", "OOD", "done", "updated"))
    for name, progress in sorted(status.progress.items(), key=lambda item: -item[1].get("time", 0.0))[:SHOWN]:
        if progress.get("stage", "starting") == "starting":
            table.add_row(name, "starting")
            continue
        table.add_row(name, STAGES.get(progress["stage"], progress["stage"]),
                      f"{progress['epoch']:.1f}/{progress['epochs']:.0f}",
                      f"{progress['images_per_second']:,.0f}",
                      _percent(progress.get("id")), _percent(progress.get("ood")),
                      f"{progress['share']:.0%}", f"{duration(now - progress['time'])} ago")  # fmt: skip
    return table


def _table(left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _percent(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.1f} %"


if __name__ == "__main__":
    command(main)
