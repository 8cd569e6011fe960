"""The command `python -m ray_robust.sweep SPEC.yaml`: load, plan, print, run what is missing, report.

`ray_robust.sweep(...)` does the same from Python: this module can be called.
`--plan` stops before anything runs. The same command again continues. `launch.run_sweep` does the running.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import sys
import time
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from ray_robust.data.opened import forget_pools
from ray_robust.errors import DONE, FAILED, INTERRUPTED, Arguments, Problem, Unfinished, UserError, command
from ray_robust.interface.run import Run, why_unfinished
from ray_robust.launch.cluster.address import check_address
from ray_robust.plan.plan import Plan
from ray_robust.prepare import baseline_spread, provenance
from ray_robust.prepare.candidates import Preview, check_choices, preview
from ray_robust.prepare.estimate import can_time
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.prepare.plan_text import print_plan
from ray_robust.prepare.search_text import print_space
from ray_robust.prepare.subsets import Subsets, draw_all
from ray_robust.prepare.work import PilotWork, finished_trials, remaining_of, stopped_trials
from ray_robust.run.lease import hold_lease
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec, load_spec
from ray_robust.spec.python_values import is_of_dict, overrides_of
from ray_robust.text.console import console
from ray_robust.text.names import count_noun

DRAWN_FOR_A_PLAN = 100  # mixtures that --plan draws to check them; the run itself checks every one


@dataclass(frozen=True)
class Asked:
    """What a sweep was asked for beside its spec, and when; `command` runs it again, from a shell."""

    out: str | None
    address: str | None
    limit: int | None
    plan: bool
    command: str
    begun: float = field(default_factory=time.monotonic)


def main(argv: list[str]) -> int:
    """Run the command; return its exit code. Raises UserError."""
    args = _arguments(argv)
    spec = load_spec(args.spec, tuple(args.set))
    asked = Asked(args.out, args.address, args.limit, args.plan, provenance.command(argv))
    return _carry_out(spec, asked, console())[0]


def sweep(
    spec: str | os.PathLike[str] | Mapping[str, Any] | Spec,
    *,
    set: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    address: str | None = None,
    limit: int | None = None,
    quiet: bool = False,
) -> Run:
    """Run a sweep, or what is still missing of it, write its report, and return its folder. The command is the same.

    spec     a YAML file, the name of a built-in sweep (`"quickstart"`), a dict with the same keys, or a loaded Spec
    set      values that replace single ones of the spec: `{"pretrain.epochs": 2}`
    out      the run folder, a path or a URI; None: `runs/<name of the spec>`. A dict has no name, and needs it
    address  a Ray cluster to run on; None: RAY_ADDRESS, else this machine's cores
    limit    only the first so many trials
    quiet    whether nothing is printed

    Raises UserError before anything is written, Unfinished where trials failed or were not run, Outage where a disk,
    storage or a cluster went away, KeyboardInterrupt when it is interrupted. Finished work is kept: the same call
    continues.
    """
    overrides = overrides_of(set or {})
    loaded = load_spec(spec if isinstance(spec, Mapping | Spec) else os.fspath(spec), overrides)
    place = None if out is None else os.fspath(out)
    _check_limit("limit", limit)
    if is_of_dict(loaded.document):
        if place is None:
            raise UserError("out: a spec that is a dict has no name; say where the run goes, e.g. out='runs/first'")
        loaded = replace(loaded, name=RunFolder(place).storage.shown.rstrip("/").rpartition("/")[2])
    source = loaded.document.file if isinstance(spec, Mapping | Spec) else os.fspath(spec)
    again = _again(source, loaded, {"out": place, "address": address, "limit": limit})
    asked = Asked(place, address, limit, False, again)
    code, run = _carry_out(loaded, asked, console(quiet))
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != DONE:
        raise Unfinished(why_unfinished(run), run.storage.shown)
    return Run(run.storage.address)


def _again(source: str, spec: Spec, asked: Mapping[str, Any]) -> str:
    """The command that continues a sweep which was begun from Python. A dict is read from the `spec.yaml` of its run,
    which it cannot be from an object store."""
    out = asked["out"]
    flags = [word for name, value in asked.items() if value is not None for word in (f"--{name}", str(value))]
    if not is_of_dict(spec.document):
        sets = [word for text in spec.document.overridden.values() for word in ("--set", text)]
        return provenance.command([source, *sets, *flags])
    if RunFolder(out).storage.local() is None:
        return f"ray_robust.sweep(spec, out={out!r}) in Python, with the same dict"
    return provenance.command([f"{out}/spec.yaml", *flags])


def _carry_out(spec: Spec, args: Asked, out: Console) -> tuple[int, RunFolder]:
    """Plan or run a sweep; return the exit code and the run folder. Raises UserError."""
    if not args.plan:
        check_address(args.address)  # before anything is written, and before minutes of work
    forget_pools()  # of an earlier call in this process
    bare = replace(open_sweep(spec, args.limit, plan_only=args.plan), command=args.command)
    run = RunFolder(args.out or f"runs/{bare.spec.name}")
    if (folder := run.storage.local()) is not None and folder.is_file():
        raise UserError(f"--out {run.storage.shown}: is a file; give a folder")
    sweep = _with_spread(bare, run, args.limit)
    subsets, first = _draw(sweep, args.plan)
    if args.plan:
        pilot = baseline_spread.pilot_work(bare, run, args.limit)
        code = _plan(sweep, (subsets, first), pilot, run, args, out)
        if baseline_spread.wanted(spec):
            spread = baseline_spread.spread_sentence(bare, baseline_spread.recorded(bare, run))
            out.print(f"spread  {spread}", markup=False, soft_wrap=True)
        return code, run
    from ray_robust.launch.monitor.loggers import check_loggers

    check_loggers(sweep.spec.track, sweep.spec.location("track"), remote=folder is None)
    return _run(spec, bare, sweep, (subsets, first), run, args, out), run


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
    args: Asked,
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
        this = SweepRun(sweep, subsets, run, out, args.address, cluster, begun=args.begun)
        try:
            if baseline_spread.wanted(bare.spec) and not baseline_spread.recorded(bare, run).decided:
                choice = run_pilot(bare, this, stack, args.limit)
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
    sweep: Sweep,
    drawn: tuple[Subsets, Preview | None],
    pilot: PilotWork | None,
    run: RunFolder,
    args: Asked,
    out: Console,
) -> int:
    """Print what --plan prints, and write plan.csv where --out is given and no run is there: status, results and report
    of a run go by its own plan.csv, also where the spec has changed since."""
    subsets, first = drawn
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
    print_plan(out, sweep, subsets, left, run.storage.shown, can_time(sweep.spec.resources, args.address), pilot)
    if learns and run.exists("plan.csv"):
        ended = sum(state in ("done", "stopped") for state in run.states().values())
        done = f"done  {count_noun(ended, 'trial')} of this search, in {run.storage.shown}"
        out.print(f"{done}: it continues from there; the cost above is of the whole", markup=False, soft_wrap=True)
    if args.out:
        kept = f"not written: {run.storage.shown} has a run, which goes by its own plan.csv; give another --out"
        out.print(f"plan  {kept if keep else f'{run.storage.shown}/plan.csv'}", markup=False, soft_wrap=True)
    return DONE


def parser(add_help: bool = True) -> Arguments:
    """Return the parser of this command's arguments."""
    what = "Run a sweep from its YAML, or what is still missing of it."
    parser = Arguments("python -m ray_robust.sweep", description=what, add_help=add_help)
    parser.add_argument("spec", metavar="SPEC.yaml", help="a file, or the name of a built-in sweep: quantity, ...")
    parser.add_argument("--plan", action="store_true", help="print every trial and its cost; run nothing")
    parser.add_argument("--out", help="the run folder, a path or a URI (default: runs/<spec name>)")
    parser.add_argument("--address", help="a Ray cluster to run on (default: RAY_ADDRESS, else this machine's cores)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one value of the spec")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N trials")
    return parser


def _arguments(argv: list[str]) -> argparse.Namespace:
    args = parser().parse_args(argv)
    _check_limit("--limit", args.limit)
    return args


def _check_limit(name: str, limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"{name}: must be at least 1, not {limit}")


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


class _Callable(types.ModuleType):
    """This module as the function of its name: `ray_robust.sweep` is one object, however it was imported."""

    def __call__(self, *args: Any, **options: Any) -> Run:
        return sweep(*args, **options)


_Callable.__call__.__doc__ = sweep.__doc__
__signature__ = inspect.signature(sweep)  # what a notebook shows of `ray_robust.sweep(`
sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    command(main)
