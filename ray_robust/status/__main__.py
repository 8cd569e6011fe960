"""The command `python -m ray_robust.status RUN_DIR`: how far a sweep is, read from its folder alone.

Needs no cluster and starts nothing, so it works on any machine that sees the folder. `progress` reads the folder,
`follow` does so again and again; this module prints.
"""

from __future__ import annotations

import math
import time
from collections import Counter

from rich.console import Console

from ray_robust.errors import DONE, FAILED, Arguments, UserError, command
from ray_robust.files.retry import check_patience
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.trial_rows import RERUN
from ray_robust.status import tables
from ray_robust.status.follow import INTERVAL, follow
from ray_robust.status.progress import Status, read_status
from ray_robust.status.tables import group_table, headline, started_table
from ray_robust.text.console import console
from ray_robust.text.durations import duration

LEAST_INTERVAL = 0.1  # seconds between two looks


def main(argv: list[str]) -> int:
    """Print the status. Return exit code 1 when a trial failed, else 0, whether the sweep is finished or not; of one
    that is followed also 1 where its driver is gone before it was done. Raises UserError."""
    args = parser().parse_args(argv)
    if args.interval is not None and not args.follow:
        raise UserError("--interval is for --follow")
    if args.interval is not None and not LEAST_INTERVAL <= args.interval < math.inf:
        raise UserError(f"--interval: must be at least {LEAST_INTERVAL:g} s, not {args.interval:g}")
    check_patience()
    out, unfinished = console(), False
    if args.follow:
        ending = follow(RunFolder(args.run), out, args.interval or INTERVAL)
        unfinished = not ending.done
    run, now = RunFolder(args.run), time.time()
    status = read_status(run, now)
    show(status, run, out, now)
    if args.follow:
        out.print(f"ended    {ending.text}", markup=False, soft_wrap=True)
    return FAILED if status.failures or unfinished else DONE


def parser(add_help: bool = True) -> Arguments:
    """Return the parser of this command's arguments."""
    what = "How far a sweep is, from its folder alone."
    parser = Arguments("python -m ray_robust.status", description=what, add_help=add_help)
    parser.add_argument("run", metavar="RUN_DIR", help="a run folder, a path or a URI")
    parser.add_argument("--follow", action="store_true", help="show it until it is done or its driver is gone")
    parser.add_argument("--interval", type=float, metavar="SECONDS", help=f"with --follow (default: {INTERVAL:g})")
    return parser


def show(status: Status, run: RunFolder, out: Console, now: float) -> None:
    """Print a status as of the time `now`, in seconds since the epoch."""
    shown, counts = run.storage.shown, Counter(status.states.values())
    for line in headline(status, run):
        out.print(line, markup=False, soft_wrap=True)
    out.print(group_table(status), markup=False)
    if status.progress:
        out.print(started_table(status, now), markup=False)
        if len(status.progress) > tables.SHOWN:
            out.print(f"... and {len(status.progress) - tables.SHOWN:,} more started", markup=False)
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
            interim = ""
            if title == "report" and run.exists("report/interim"):
                stamp = run.storage.stamp(file)
                age = f", written {duration(now - stamp[1] / 1e9)} ago" if stamp is not None else ""
                interim = f"  (interim{age})"
            out.print(f"{title:<8} {shown}/{file}{interim}", markup=False, soft_wrap=True)
    if status.command and (status.altered or set(counts) - {"done", "stopped"}):
        out.print(f"again    {status.command}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    command(main)
