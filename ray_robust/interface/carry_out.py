"""What `python -m ray_robust.sweep` and `ray_robust.sweep(...)` do once they know what is asked: plan, print, run.

`--plan` stops before anything runs. The same command again continues. `launch.run_sweep` does the running. It is apart
from the command since its imports take half a second, which an argument that is wrong, or `--help`, need not wait for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from ray_robust.data.opened import forget_pools
from ray_robust.errors import DONE, INTERRUPTED, Problem, Unfinished, UserError
from ray_robust.files.retry import check_patience
from ray_robust.interface.run import Run, why_unfinished
from ray_robust.launch.cluster.address import check_address
from ray_robust.plan.plan import Plan
from ray_robust.prepare import baseline_spread, provenance, second_stage, stored_form
from ray_robust.prepare.candidates import Preview, check_choices, preview
from ray_robust.prepare.devices import Device
from ray_robust.prepare.estimate import can_time
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.prepare.plan_text import print_plan
from ray_robust.prepare.search_text import print_space
from ray_robust.prepare.subsets import Subsets, draw_all
from ray_robust.prepare.work import PilotWork, Undecided, finished_trials, remaining_of, stopped_trials
from ray_robust.run.lease import hold_lease
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec, load_spec
from ray_robust.spec.python_values import is_of_dict, overrides_of
from ray_robust.text.console import console
from ray_robust.text.names import count_noun

DRAWN_FOR_A_PLAN = 100  # mixtures that --plan draws to check them; the run itself checks every one


@dataclass(frozen=True)
class Asked:
    """What a sweep was asked for beside its spec, and when; `command` runs it again, from a shell; `on` is the card
    whose hours a plan is to tell."""

    out: str | None
    address: str | None
    limit: int | None
    plan: bool
    command: str
    begun: float = field(default_factory=time.monotonic)
    on: Device | None = None


def run_from_python(
    spec: str | os.PathLike[str] | Mapping[str, Any] | Spec,
    overrides: Mapping[str, Any],
    out: str | os.PathLike[str] | None,
    address: str | None,
    limit: int | None,
    quiet: bool,
) -> Run:
    """Return the run of `ray_robust.sweep(...)`, which explains the arguments and what is raised."""
    if not isinstance(spec, str | os.PathLike | Mapping | Spec):
        raise UserError(f"spec: must be a file, the name of a built-in sweep, a dict or a Spec, not {spec!r}")
    loaded = load_spec(spec if isinstance(spec, Mapping | Spec) else os.fspath(spec), overrides_of(overrides))
    place = None if out is None else os.fspath(out)
    if is_of_dict(loaded.document):
        if place is None:
            raise UserError("out: a spec that is a dict has no name; say where the run goes, e.g. out='runs/first'")
        loaded = replace(loaded, name=RunFolder(place).storage.shown.rstrip("/").rpartition("/")[2])
    source = loaded.document.file if isinstance(spec, Mapping | Spec) else os.fspath(spec)
    again = _again(source, loaded, {"out": place, "address": address, "limit": limit})
    asked = Asked(place, address, limit, False, again)
    code, run = carry_out(loaded, asked, console(quiet))
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


def carry_out(spec: Spec, args: Asked, out: Console) -> tuple[int, RunFolder]:
    """Plan or run a sweep; return the exit code and the run folder. Raises UserError."""
    check_patience()
    if not args.plan:
        check_address(args.address)  # before anything is written, and before minutes of work
    forget_pools()  # of an earlier call in this process
    run = RunFolder(args.out or f"runs/{spec.name}")
    if (folder := run.storage.local()) is not None and folder.is_file():
        raise UserError(f"--out {run.storage.shown}: is a file; give a folder")
    with _errors_of(run, "read"):
        form = stored_form.recorded(run)
    bare = replace(open_sweep(spec, args.limit, args.plan, form), command=args.command)
    sweep = _with_choices(bare, run, args.limit)
    subsets, first = _draw(sweep, args.plan)
    if args.plan:
        pilot = baseline_spread.pilot_work(bare, run, args.limit)
        code = _plan(sweep, (subsets, first), pilot, run, args, out)
        for line in _seed_sentences(sweep, run):
            out.print(f"seeds  {line}", markup=False, soft_wrap=True)
        if baseline_spread.wanted(spec):
            spread = baseline_spread.spread_sentence(bare, baseline_spread.recorded(bare, run))
            out.print(f"spread  {spread}", markup=False, soft_wrap=True)
        return code, run
    from ray_robust.launch.monitor.loggers import check_loggers

    check_loggers(sweep.spec.track, sweep.spec.location("track"), remote=folder is None)
    return _run(spec, bare, sweep, (subsets, first), run, args, out), run


def _with_choices(bare: Sweep, run: RunFolder, limit: int | None) -> Sweep:
    """Return a sweep with what earlier results in this folder decided: the baseline that `baseline.spread: auto` chose,
    or so far has, and the seeds of a second stage."""
    sweep = bare
    if baseline_spread.wanted(bare.spec):
        sweep = baseline_spread.with_choice(bare, baseline_spread.recorded(bare, run), limit)
    planned = second_stage.recorded(sweep, run)
    return sweep if planned is None else second_stage.with_plan(sweep, planned.seeds, limit)


def _seed_sentences(sweep: Sweep, run: RunFolder) -> list[str]:
    """Return what `--plan` prints of seeds in two stages; nothing where they are fixed."""
    if not second_stage.wanted(sweep):
        return []
    planned = second_stage.recorded(sweep, run)
    return [second_stage.sentence(sweep)] if planned is None else planned.sentences()


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
    from ray_robust.launch.first_trials.pilot import Pilot
    from ray_robust.launch.ingest.pool_files import read_pool_files
    from ray_robust.launch.run_sweep import SweepRun, report
    from ray_robust.launch.search.run_search import run_search

    cluster, again, clusters = None, sweep.command, contextlib.ExitStack()
    with contextlib.ExitStack() as stack:
        stack.callback(clusters.close)
        try:
            if sweep.unread():  # what the files contain is part of what every trial means
                cluster = read_pool_files(sweep, args.address, out, clusters)
                bare = replace(open_sweep(spec, args.limit, form=bare.form), command=again)
                sweep = _with_choices(bare, run, args.limit)
                drawn = _draw(sweep)
            lease = stack.enter_context(hold_lease(run.storage, lambda who: _print_waiting(out, who)))
        except KeyboardInterrupt:
            out.print(f"\nInterrupted. What was decoded is kept; this continues:\n  {again}", markup=False,
                      soft_wrap=True)  # fmt: skip
            return INTERRUPTED
        stack.callback(clusters.close)  # before the lease is released: workers write into the folder
        stored_form.record(run, bare.form)
        subsets, first = drawn
        this = SweepRun(sweep, subsets, run, out, args.address, cluster, begun=args.begun, limit=args.limit,
                        lease=lease)  # fmt: skip
        if baseline_spread.wanted(bare.spec) and not baseline_spread.recorded(bare, run).decided:
            this.pilot = Pilot(bare, run, lambda: _with_choices(bare, run, args.limit))
        if second_stage.wanted(sweep) or (this.pilot is not None and first is not None):
            this.stack = clusters  # one cluster for both stages, and for the pilot of a search and what follows
        try:
            return this.execute() if first is None else run_search(this, first, args.limit)
        except KeyboardInterrupt:
            lease.check()
            clusters.close()  # what still trains would write beside the results
            if first is None and run.exists("trials") and not run.exists("plan.csv"):  # removed meanwhile
                provenance.write_plan(this.sweep, run)
            finished = list(run.states().values()).count("done") if run.exists("plan.csv") else 0
            if finished or (run.exists("plan.csv") and (run.results()["status"] == "done").any()):
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
        with hold_lease(run.storage, lambda who: _print_waiting(out, who)), _errors_of(run, "written"):
            run.write_plan(sweep.plan.rows())
    left = None
    learns = first is not None and sweep.spec.search.adaptive  # what it runs later is not what is drawn here
    if not sweep.unread() and not sweep.absent() and not learns and run.exists("trials"):  # else ids are provisional
        stopped = set() if first is None else stopped_trials(run, sweep.plan)
        left = remaining_of(run, sweep.plan, finished_trials(run, sweep.plan) | stopped)
    timing = can_time(sweep.spec.resources, args.address)
    undecided = Undecided(pilot, second_stage.later_work(sweep, run, args.limit))
    print_plan(out, sweep, subsets, left, run.storage.shown, timing, undecided, args.on)
    if learns and run.exists("plan.csv"):
        ended = sum(state in ("done", "stopped") for state in run.states().values())
        done = f"done  {count_noun(ended, 'trial')} of this search, in {run.storage.shown}"
        out.print(f"{done}: it continues from there; the cost above is of the whole", markup=False, soft_wrap=True)
    if args.out:
        kept = f"not written: {run.storage.shown} has a run, which goes by its own plan.csv; give another --out"
        out.print(f"plan  {kept if keep else f'{run.storage.shown}/plan.csv'}", markup=False, soft_wrap=True)
    return DONE


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
def _errors_of(run: RunFolder, done: str) -> Iterator[None]:
    """Raise UserError for a folder that cannot be read or written, whichever is done to it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {run.storage.shown}: cannot be {done}: {error.strerror or error}") from None
