"""The command `python -m ray_robust.sweep SPEC.yaml`: load, plan, print, run what is missing, report.

`--plan` stops before anything runs. The same command again continues. `launch.run_sweep` does the running.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console

from ray_robust.data.opened import forget_pools
from ray_robust.errors import DONE, FAILED, INTERRUPTED, Arguments, Problem, UserError, command
from ray_robust.launch.cluster.address import check_address
from ray_robust.plan.plan import Plan
from ray_robust.prepare import baseline_spread, provenance
from ray_robust.prepare.candidates import Preview, check_choices, preview
from ray_robust.prepare.estimate import can_time
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.prepare.plan_text import print_plan
from ray_robust.prepare.search_text import print_space
from ray_robust.prepare.subsets import Subsets, draw_all
from ray_robust.prepare.work import finished_trials, remaining_of, stopped_trials
from ray_robust.run.lease import hold_lease
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec, load_spec
from ray_robust.text.console import console
from ray_robust.text.names import count_noun

DRAWN_FOR_A_PLAN = 100  # mixtures that --plan draws to check them; the run itself checks every one


def main(argv: list[str]) -> int:
    """Run the command; return its exit code. Raises UserError."""
    args = _arguments(argv)
    out = console()
    spec = load_spec(args.spec, tuple(args.set))
    if not args.plan:
        check_address(args.address)  # before anything is written, and before minutes of work
    forget_pools()  # of an earlier call in this process
    bare = replace(open_sweep(spec, args.limit, plan_only=args.plan), command=provenance.command(argv))
    run = RunFolder(args.out or f"runs/{bare.spec.name}")
    if (folder := run.storage.local()) is not None and folder.is_file():
        raise UserError(f"--out {run.storage.shown}: is a file; give a folder")
    sweep = _with_spread(bare, run, args.limit)
    subsets, first = _draw(sweep, args.plan)
    if args.plan:
        code = _plan(sweep, subsets, first, run, args, out)
        if baseline_spread.wanted(spec):
            spread = baseline_spread.spread_sentence(bare, baseline_spread.recorded(bare, run))
            out.print(f"spread  {spread}", markup=False, soft_wrap=True)
        return code
    from ray_robust.launch.monitor.loggers import check_loggers

    check_loggers(sweep.spec.track, sweep.spec.location("track"), remote=folder is None)
    return _run(spec, bare, sweep, (subsets, first), run, args, out)


def _with_spread(bare: Sweep, run: RunFolder, limit: int | None) -> Sweep:
    """Return a sweep with the baseline that `baseline.spread: auto` chose in this folder, or so far has."""
    if not baseline_spread.wanted(bare.spec):
        return bare
    return baseline_spread.with_choice(bare, baseline_spread.recorded(bare, run), limit)


def _run(
    spec: Spec,
    bare: Sweep,
    sweep: Sweep,
    drawn: tuple[Subsets, Preview | None],
    run: RunFolder,
    args: argparse.Namespace,
    out: Console,
) -> int:
    """Run what is missing, under the folder's lease; an interruption reports what is done. Return the exit code."""
    from ray_robust.launch.run_sweep import SweepRun, read_pool_files, report, run_pilot, run_search, write_plan

    cluster, again = None, sweep.command
    with contextlib.ExitStack() as stack:
        try:
            if sweep.unread():  # what the files contain is part of what every trial means
                cluster = read_pool_files(sweep, args.address, out, stack)
                bare = replace(open_sweep(spec, args.limit), command=again)
                sweep = _with_spread(bare, run, args.limit)
                drawn = _draw(sweep)
            lease = stack.enter_context(hold_lease(run.storage, lambda who: _print_waiting(out, who)))
        except KeyboardInterrupt:
            out.print(f"\nInterrupted. What was decoded is kept; this continues:\n  {again}", markup=False,
                      soft_wrap=True)  # fmt: skip
            return INTERRUPTED
        subsets, first = drawn
        this = SweepRun(sweep, subsets, run, out, args.address, cluster)
        try:
            if baseline_spread.wanted(bare.spec) and not baseline_spread.recorded(bare, run).decided:
                choice = run_pilot(bare, this, stack)
                if choice is None:
                    return FAILED
                this.sweep = baseline_spread.with_choice(bare, choice, args.limit)
            return this.execute() if first is None else run_search(this, first, args.limit)
        except KeyboardInterrupt:
            lease.check()
            if first is None and run.exists("trials") and not run.exists("plan.csv"):  # removed meanwhile
                write_plan(sweep, run)
            finished = list(run.states().values()).count("done") if run.exists("plan.csv") else 0
            if finished:
                run.write_results()
                report(run, out)
            out.print(f"\nInterrupted. {finished} finished trials and all checkpoints are kept in "
                      f"{run.storage.shown}; this continues:\n  {again}", markup=False, soft_wrap=True)  # fmt: skip
            return INTERRUPTED


def _plan(
    sweep: Sweep, subsets: Subsets, first: Preview | None, run: RunFolder, args: argparse.Namespace, out: Console
) -> int:
    """Print what --plan prints, and write plan.csv where --out is given and no run is there: status, results and report
    of a run go by its own plan.csv, also where the spec has changed since."""
    if first is not None:
        print_space(out, sweep.spec, first, sweep.plan)
        sweep = replace(sweep, plan=Plan((*sweep.plan, *first.plan)[: args.limit]))
    keep = bool(args.out) and any(map(run.exists, ("spec.yaml", "trials")))
    if args.out and not keep:
        with hold_lease(run.storage, lambda who: _print_waiting(out, who)), _write_errors_of(run):
            run.write_plan(sweep.plan.rows())
    left = None
    learns = first is not None and sweep.spec.search.adaptive  # what it runs later is not what is drawn here
    if not sweep.unread() and not sweep.absent() and not learns and run.exists("trials"):  # else ids are provisional
        stopped = set() if first is None else stopped_trials(run, sweep.plan)
        left = remaining_of(run, sweep.plan, finished_trials(run, sweep.plan) | stopped)
    print_plan(out, sweep, subsets, left, run.storage.shown, can_time(sweep.spec.resources, args.address))
    if learns and run.exists("plan.csv"):
        ended = sum(state in ("done", "stopped") for state in run.states().values())
        done = f"done  {count_noun(ended, 'trial')} of this search, in {run.storage.shown}"
        out.print(f"{done}: it continues from there; the cost above is of the whole", markup=False, soft_wrap=True)
    if args.out:
        kept = f"not written: {run.storage.shown} has a run, which goes by its own plan.csv; give another --out"
        out.print(f"plan  {kept if keep else f'{run.storage.shown}/plan.csv'}", markup=False, soft_wrap=True)
    return DONE


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Arguments(
        "python -m ray_robust.sweep", description="Run a sweep from its YAML, or what is still missing of it."
    )
    parser.add_argument("spec", metavar="SPEC.yaml")
    parser.add_argument("--plan", action="store_true", help="print every trial and its cost; run nothing")
    parser.add_argument("--out", help="the run folder, a path or a URI (default: runs/<spec name>)")
    parser.add_argument("--address", help="a Ray cluster to run on (default: RAY_ADDRESS, else this machine's cores)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one value of the spec")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N trials")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit: must be at least 1, not {args.limit}")
    return args


def _draw(sweep: Sweep, plan_only: bool = False) -> tuple[Subsets, Preview | None]:
    """Return the images of every trial (of some, for a plan), and of a search the draws that it begins with. Raises
    UserError for what cannot be drawn, before anything is written: an impossible mixture leaves no folder."""
    first = _first_draws(sweep, plan_only) if sweep.spec.space.dimensions else None
    subsets = draw_all(sweep, {}, DRAWN_FOR_A_PLAN if plan_only else None)
    if first is not None:
        subsets.add(first.subsets)
    return subsets, first


def _first_draws(sweep: Sweep, plan_only: bool) -> Preview:
    """The draws that a search begins with, for a plan all of them. Raises UserError where a choice has a value that no
    draw can have, or where no draw can be run."""
    if not sweep.absent():
        check_choices(sweep)
    search = sweep.spec.search
    begin = min(search.startup, search.trials or search.startup)
    first = preview(sweep, (search.trials or begin) if plan_only else begin)
    if not first.configurations:
        what = f"search: none of the first {first.rejected:,} draws can be run"
        raise UserError(Problem(sweep.spec.location("search"), what), *first.reasons)
    return first


def _print_waiting(out: Console, who: str) -> None:
    out.print(f"{who} was here: waiting to see whether it still runs ...")


@contextlib.contextmanager
def _write_errors_of(run: RunFolder) -> Iterator[None]:
    """Raise UserError for a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {run.storage.shown}: cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    command(main)
