"""The command `python -m ray_robust.sweep SPEC.yaml`: load, plan, print, run what is missing, report, say where it is.

Owns the order of things and what the user reads. `--plan` stops before anything runs. The same command again continues.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from ray_robust.data.opened import forget_pools, usable
from ray_robust.data.store import ImageStore, default_root
from ray_robust.errors import DONE, FAILED, INTERRUPTED, Arguments, Outage, Problem, UserError, command, unforeseen
from ray_robust.launch.cluster.address import check_address
from ray_robust.plan.plan import Plan, Trial
from ray_robust.prepare import provenance
from ray_robust.prepare.candidates import Candidates, Preview, check_choices, preview
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.prepare.plan_text import estimate, print_composition, print_failures, print_plan, print_title
from ray_robust.prepare.search_text import print_best, print_space, write_search_table
from ray_robust.prepare.subsets import Subsets, decode_jobs, draw_all
from ray_robust.run.checkpoint_paths import shared_weights
from ray_robust.run.lease import held
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec, load_spec

if TYPE_CHECKING:
    from ray_robust.launch.cluster.connect import Cluster
    from ray_robust.launch.search.search import Search

PLAN_EVERY = 5.0  # seconds between two writings of a plan that grows
DRAWN_FOR_A_PLAN = 100  # mixtures that --plan draws to check them; the run itself checks every one


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    args = _arguments(argv)
    from ray_robust.text.console import console

    out = console()
    spec = load_spec(args.spec, tuple(args.set))
    if not args.plan:
        check_address(args.address)  # before anything is written, and before minutes of work
    forget_pools()  # of an earlier call in this process
    again = provenance.command(argv)
    sweep = replace(open_sweep(spec, args.limit, plan_only=args.plan), command=again)
    run = RunFolder(args.out or f"runs/{sweep.spec.name}")
    if (folder := run.storage.local()) is not None and folder.is_file():
        raise UserError(f"--out {run.storage.shown}: is a file; give a folder")
    subsets, first = _drawn(sweep, args.plan)
    if args.plan:
        return _plan(sweep, subsets, first, run, args, out)
    from ray_robust.launch.monitor.loggers import check

    check(sweep.spec.track, sweep.spec.location("track"), remote=folder is None)
    with contextlib.ExitStack() as stack:
        try:
            cluster = None
            if sweep.unread():  # what the files contain is part of what every trial means
                cluster = _read_files(sweep, args.address, out, stack)
                sweep = replace(open_sweep(spec, args.limit), command=again)
                subsets, first = _drawn(sweep)
            lease = stack.enter_context(held(run.storage, lambda who: _waiting(out, who)))
        except KeyboardInterrupt:
            out.print(f"\nInterrupted. What was decoded is kept; this continues:\n  {again}", markup=False,
                      soft_wrap=True)  # fmt: skip
            return INTERRUPTED
        try:
            if first is not None:
                return _run_search(sweep, first, subsets, run, args, out, cluster)
            return _run(sweep, subsets, run, args.address, out, cluster=cluster)
        except KeyboardInterrupt:
            lease.check()
            if first is None and run.exists("trials") and not run.exists("plan.csv"):  # removed meanwhile
                _write_plan(sweep, run)
            kept = list(run.states().values()).count("done") if run.exists("plan.csv") else 0
            if kept:
                run.write_results()
                _report(run, out)
            out.print(f"\nInterrupted. {kept} finished trials and all checkpoints are kept in {run.storage.shown}; "
                      f"this continues:\n  {again}", markup=False, soft_wrap=True)  # fmt: skip
            return INTERRUPTED


def _waiting(out: Console, who: str) -> None:
    out.print(f"{who} was here: waiting to see whether it still runs ...")


def _drawn(sweep: Sweep, plan_only: bool = False) -> tuple[Subsets, Preview | None]:
    """The images of every trial (of some, for a plan), and of a search what it begins with. Raises UserError for what
    cannot be drawn, before anything is written: an impossible mixture leaves no folder."""
    first = _first_draws(sweep, plan_only) if sweep.spec.space.dimensions else None
    subsets = draw_all(sweep, {}, DRAWN_FOR_A_PLAN if plan_only else None)
    if first is not None:
        subsets.add(first.subsets)
    return subsets, first


def _plan(
    sweep: Sweep, subsets: Subsets, first: Preview | None, run: RunFolder, args: argparse.Namespace, out: Console
) -> int:
    """What --plan prints and writes."""
    if first is not None:
        print_space(out, sweep.spec, first, sweep.plan)
        sweep = replace(sweep, plan=Plan((*sweep.plan, *first.plan)[: args.limit]))
    kept = bool(args.out) and bool(sweep.unread() or sweep.absent()) and run.exists("plan.csv")
    if args.out and not kept:  # not into a folder where a sweep runs: it goes by its own plan
        with held(run.storage, lambda who: _waiting(out, who)), _sayable(run):
            run.write_plan(sweep.plan.rows())
    print_plan(out, sweep, subsets)
    if args.out:
        why = ": left as it is, since these ids are provisional" if kept else ""
        out.print(f"plan  {run.storage.shown}/plan.csv{why}", markup=False, soft_wrap=True)
    return DONE


def _read_files(sweep: Sweep, address: str | None, out: Console, stack: contextlib.ExitStack) -> Cluster | None:
    """Read, hash and decode the files of every pool that has unread ones; returns the cluster that did it, if any."""
    from ray_robust.launch.ingest.ingest import read_files

    pools = list({id(pool): pool for pool in sweep.unread()}.values())
    for pool in pools:
        out.print(f"{pool.name}: reads {len(pool.unread()):,} of {len(pool.catalog):,} files, which are new or were "
                  "touched since", markup=False, soft_wrap=True)  # fmt: skip
    sizes = sorted({level.section.image_size for level in sweep.spec.models})
    with out.status("Reading and decoding images ...") if out.is_terminal else contextlib.nullcontext():
        return read_files([(pool, size, None) for pool in pools for size in sizes], address, stack)


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


# --- running


def _draws(spec: Spec, plan_only: bool) -> int:
    """How many configurations are drawn beforehand: all of them for a plan, else those that a search begins with."""
    begin = min(spec.search.startup, spec.search.trials or spec.search.startup)
    return (spec.search.trials or begin) if plan_only else begin


def _first_draws(sweep: Sweep, plan_only: bool) -> Preview:
    """The draws that a search begins with. Raises UserError where a choice has a value that no draw can have, or where
    no draw can be run."""
    if not sweep.absent():
        check_choices(sweep)
    first = preview(sweep, _draws(sweep.spec, plan_only))
    if not first.configurations:
        what = f"search: none of the first {first.rejected:,} draws can be run"
        raise UserError(Problem(sweep.spec.location("search"), what), *first.reasons)
    return first


def _run_search(
    sweep: Sweep,
    first: Preview,
    subsets: Subsets,
    run: RunFolder,
    args: argparse.Namespace,
    out: Console,
    cluster: Cluster | None = None,
) -> int:
    """Run a search, or go on with it: its trials are known as they come."""
    from ray_robust.launch.search.sampler import sampler_of
    from ray_robust.launch.search.search import Search

    spec, baseline = sweep.spec, sweep.plan
    search = Search(spec, Candidates(sweep), baseline, run, sampler_of(spec, run), args.limit)
    known = {trial.id: trial for trial in (*search.plan, *first.plan)}
    begins = replace(sweep, plan=Plan(tuple(known.values())))
    try:
        code = _run(begins, subsets, run, args.address, out, search, cluster)
    except UserError:  # it cannot be steered: what there is is told all the same
        run.write_plan(search.plan.rows())
        run.write_results()
        raise
    finally:  # also of one that was interrupted, whose plan.csv may be some seconds behind
        run.write_plan(search.plan.rows())
        write_search_table(run, spec, search.outcomes)
    print_best(out, spec, search.ranked(), search.outcomes, search.over)
    return code


def _run(
    sweep: Sweep,
    subsets: Subsets,
    run: RunFolder,
    address: str | None,
    out: Console,
    search: Search | None = None,
    cluster: Cluster | None = None,
) -> int:
    begun = time.monotonic()
    run.storage.tidy(deep=False)  # trials do so in their own folders
    before = _finished(run, sweep.plan)
    mended = [trial.id for trial in sweep.plan if trial.id not in before and run.trial(trial.id).mend()]
    before |= _finished(run, [trial for trial in sweep.plan if trial.id in mended])
    todo = Plan(tuple(trial for trial in sweep.plan if trial.id not in before))
    print_title(out, sweep.spec)
    whole = len(sweep.plan) if search is None else max(search.expected, len(sweep.plan))
    expected = f"   {estimate(todo, sweep.spec)}" if search is None else ""
    out.print(f"{len(before)} of {whole} trials are done, {whole - len(before)} to run{expected}")
    for name in mended:
        out.print(f"mended   {name}: rows.jsonl was not as it was left; made again from its fine-tunings", markup=False)
    for line in (*run.damaged(trial.id for trial in sweep.plan), *provenance.identified_by_size(run, sweep.pools())):
        out.print(line, markup=False, soft_wrap=True)
    outage: Outage | None = None
    if len(todo) if search is None else not search.complete:
        try:
            seconds = _run_trials(sweep, subsets, run, todo, address, out, search, cluster)
            if search is not None:
                todo = Plan(tuple(trial for trial in search.plan if trial.id not in before))
            provenance.record_throughput(run, todo, sweep.spec)
            provenance.record_invocation(run, begun, seconds, len(todo))
        except Outage as said:  # what is done is told all the same
            outage = said
    if search is not None:
        sweep = replace(sweep, plan=search.plan)
    _write_plan(sweep, run)  # again: the results go by it, and it may have been removed or altered meanwhile
    run.write_results()
    reported = _report(run, out)
    states = run.states()
    stopped = sum(states.get(trial.id) == "stopped" for trial in sweep.plan) if search is not None else 0
    failed = [trial for trial in sweep.plan if states.get(trial.id) not in ("done", *(["stopped"] if stopped else []))]
    failures = print_failures(out, run, failed)
    took = time.monotonic() - begun
    others = {"failed": failures, "stopped": stopped, "not run": len(failed) - failures}
    told = "".join(f", {count} {what}" for what, count in others.items() if count or what == "failed")
    out.print(f"{len(sweep.plan) - len(failed) - stopped} trials done{told}, in {took:.0f} s", markup=False)
    out.print(f"results  {run.storage.shown}/results.csv", markup=False, soft_wrap=True)
    if reported:
        out.print(f"report   {run.storage.shown}/report/index.html", markup=False, soft_wrap=True)
    if outage is not None:
        raise outage
    return FAILED if failed or reported is None else DONE


def _run_trials(
    sweep: Sweep,
    subsets: Subsets,
    run: RunFolder,
    todo: Plan,
    address: str | None,
    out: Console,
    search: Search | None = None,
    cluster: Cluster | None = None,
) -> float:
    """Fill the stores, run the trials, of a search those that it gives; returns the seconds that they took."""
    import analysis.__main__ as analysis
    from ray_robust.launch.cluster.connect import connect
    from ray_robust.launch.ingest.ingest import head_start, ingest
    from ray_robust.launch.monitor.live_view import Monitor
    from ray_robust.launch.monitor.loggers import open_logs
    from ray_robust.launch.placement import slots_now
    from ray_robust.launch.tuner import run_plan
    from ray_robust.trial.paths import RunPaths

    root = default_root()
    jobs = {key: (pool, size, rows) for key, pool, size, rows in decode_jobs(sweep, todo, subsets)}
    with contextlib.ExitStack() as stack:
        if cluster is None:
            with head_start(list(jobs.values()), root):
                cluster = stack.enter_context(connect(address))
        slots_now(sweep.spec.resources)
        with out.status("Decoding and rendering images ...") if out.is_terminal else contextlib.nullcontext():
            stores = ingest(list(jobs.values()), root)
        by_key = dict(zip(jobs, stores, strict=True))
        if any(usable(store) is not None for store in stores):  # only now is it known what cannot be read
            subsets = draw_all(sweep, by_key)
        _write_plan(sweep, run)
        _describe(sweep, run, stores, out)
        print_composition(out, sweep, subsets)
        if cluster.note:
            out.print(cluster.note, markup=False, soft_wrap=True)
        if cluster.dashboard:
            asks = "; it asks for the token that `ray get-auth-token` prints" if cluster.locked else ""
            out.print(f"Ray dashboard  http://{cluster.dashboard}{asks}", markup=False)
        paths = RunPaths(run.storage.address, shared_weights(run.storage).address, str(root))
        logs = open_logs(sweep.spec, run, todo, cluster.scratch, lambda line: out.print(line, markup=False))
        monitor = Monitor(todo, run, out, len(sweep.plan) - len(todo), sweep.spec.name, metrics=True, logs=logs)
        monitor.when_ending = analysis.warm_up
        if search is not None:
            monitor.total = max(monitor.total, search.expected)
            search.on_plan = _kept(sweep, run)
        begun = time.monotonic()
        with monitor.watching():
            run_plan(todo, paths, sweep.spec.resources, cluster, monitor, search)
        return time.monotonic() - begun


def _describe(sweep: Sweep, run: RunFolder, stores: list[ImageStore], out: Console) -> None:
    """data.json: the entry of every pool of the sweep, and images that are there more than once; a pool that nothing is
    left to read of keeps its old entries."""
    from ray_robust.data.duplicate_entries import renewed  # late: it needs Pillow, as does the next one
    from ray_robust.data.samples import describe

    old = {
        (entry.get("kind"), entry.get("name"), entry.get("fingerprint")): entry for entry in run.data().get("pools", ())
    }
    read = {id(store.pool): store for store in stores}
    entries = []
    for kind, pool in sweep.pools():
        if id(pool) in read:
            entries.append(describe(run, kind, read[id(pool)]))
        elif (before := old.get((kind, pool.name, pool.catalog.fingerprint))) is not None:
            entries.append(before)
    tasks, sources = (
        [store for store in stores if any(store.pool is pool for pool in pools.values())]
        for pools in (sweep.tasks, sweep.sources)
    )
    duplicates = renewed(run, tasks, sources, (pool for _, pool in sweep.pools()))
    run.write("data.json", json.dumps({"pools": entries, "duplicates": duplicates}, indent=1) + "\n")
    for line in (f"{entry['name']}: {entry['line']}" for entry in duplicates if entry.get("line")):
        out.print("[yellow]duplicates[/]  ", end="")
        out.print(f"{line}; listed in data.json, and ER is also given without them", markup=False, soft_wrap=True)


def _finished(run: RunFolder, plan: Iterable[Trial]) -> set[str]:
    return {trial.id for trial in plan if run.has_rows(trial.id, [f.id for f in trial.finetunings])}


def _write_plan(sweep: Sweep, run: RunFolder) -> None:
    made = {**provenance.versions(), "command": sweep.command}
    text = sweep.spec.resolved + yaml.safe_dump({"provenance": made}, sort_keys=False, allow_unicode=True, width=1000)
    run.write("spec.yaml", text)
    run.write_plan(sweep.plan.rows())


def _kept(sweep: Sweep, run: RunFolder) -> Callable[[Plan], None]:
    """What keeps plan.csv up with a search that grows: not at every trial, and whole again at the end."""
    last = time.monotonic()

    def keep(plan: Plan) -> None:
        nonlocal last
        if time.monotonic() - last > PLAN_EVERY:
            run.write_plan(plan.rows())
            last = time.monotonic()

    return keep


def _report(run: RunFolder, out: Console) -> bool | None:
    """Analyse the run and show the result; False when there is nothing to analyse yet, None when the analysis broke
    down, or its folder cannot be written: what was trained is complete all the same."""
    from analysis.__main__ import report_on
    from analysis.writing import Unwritable

    try:
        report_on(run.storage.address)
    except UserError as error:
        for problem in error.problems:
            out.print(f"no report: {problem}", markup=False, soft_wrap=True)
        return None if isinstance(error, Unwritable) else False
    except Exception as error:
        out.print(f"no report: {unforeseen(error)}", markup=False, soft_wrap=True)
        return None
    return True


@contextlib.contextmanager
def _sayable(run: RunFolder) -> Iterator[None]:
    """A folder that cannot be written is the user's mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {run.storage.shown}: cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    command(main)
