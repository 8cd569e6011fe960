"""The command `python -m ray_robust.sweep SPEC.yaml`: load, plan, print, run what is missing, report, say where it is.

Owns the order of things and what the user reads. `--plan` stops before anything runs. The same command again continues.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from ray_robust import __version__, rates
from ray_robust.data.mixture import Subset, draw
from ray_robust.data.opened import open_pool, usable
from ray_robust.data.pool import SPLITS, Pool
from ray_robust.data.store import ImageStore, default_root
from ray_robust.errors import DONE, FAILED, INTERRUPTED, Arguments, Problem, UserError, command
from ray_robust.plan import Facts, Plan, Trial, make_plan, pool_key
from ray_robust.results import RunFolder
from ray_robust.spec import Spec, load_spec

DRAWN_FOR_A_PLAN = 100  # mixtures that --plan draws to check them; the run itself checks every one
SHOWN_IN_A_PLAN = 60  # trials, one line each
PACKAGES = ("ray", "torch", "torchvision", "timm", "numpy", "pandas", "statsmodels", "wilds")


@dataclass(frozen=True)
class Sweep:
    """A checked spec with everything it speaks of opened."""

    spec: Spec
    sources: dict[str, Pool]  # by pool_key
    tasks: dict[str, Pool]
    plan: Plan

    def pools(self) -> list[tuple[str, Pool]]:
        """("source" or "task", pool) of each."""
        return [
            *(("source", pool) for pool in self.sources.values()),
            *(("task", pool) for pool in self.tasks.values()),
        ]


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    args = _arguments(argv)
    from ray_robust.launch.monitor import console

    out = console()
    sweep = open_sweep(load_spec(args.spec, tuple(args.set)), args.limit)
    run = RunFolder(args.out or f"runs/{sweep.spec.name}")
    if (folder := run.storage.local()) is not None and folder.is_file():
        raise UserError(f"--out {run.storage.shown}: is a file; give a folder")
    if args.plan:
        subsets = _draw_all(sweep, {}, DRAWN_FOR_A_PLAN)
        if args.out:
            with _sayable(run):
                run.write_plan(sweep.plan.rows())
        _print_plan(out, sweep, subsets)
        if args.out:
            out.print(f"plan  {run.storage.shown}/plan.csv", markup=False)
        return DONE
    subsets = _draw_all(sweep, {})  # before anything is written: an impossible mixture leaves no folder
    with _alone(run):
        try:
            return _run(sweep, subsets, run, args.address, out)
        except KeyboardInterrupt:
            kept = list(run.states().values()).count("done") if run.exists("plan.csv") else 0
            again = shlex.join(["python", "-m", "ray_robust.sweep", *argv])
            out.print(f"\nInterrupted. {kept} finished trials and all checkpoints are kept in {run.storage.shown}; "
                      f"this continues:\n  {again}", markup=False, soft_wrap=True)  # fmt: skip
            return INTERRUPTED


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


def open_sweep(spec: Spec, limit: int | None = None) -> Sweep:
    """Open every source and task of a spec and plan its trials. Raises UserError with the problems of all of them."""
    problems: list[Problem] = []
    sources, tasks = {}, {}
    for level in spec.pretrains:
        for name, section in level.section.sources.items():
            sources[pool_key(name, section)] = ("source", name, section, ("pretrain", "sources", name))
    for level in spec.tasks:
        tasks[pool_key(level.section.name, level.section)] = ("task", level.section.name, level.section, ("task",))

    def opened(wanted: dict[str, tuple]) -> dict[str, Pool]:
        found = {}
        for key, (kind, name, section, path) in wanted.items():
            try:
                pool = open_pool(kind, name, section)
                _ = pool.catalog
                found[key] = pool
            except UserError as error:
                place = spec.place(*path)
                problems.extend(Problem(place, str(problem)) for problem in error.problems)
        return found

    source_pools, task_pools = opened(sources), opened(tasks)
    if problems:
        raise UserError(*problems)
    plan = make_plan(
        spec,
        {key: Facts(pool.meaning, len(pool.catalog)) for key, pool in source_pools.items()},
        {key: Facts(pool.meaning, len(pool.catalog), _split_sizes(pool)) for key, pool in task_pools.items()},
        limit,
    )
    return Sweep(spec, source_pools, task_pools, plan)


def _split_sizes(task: Pool) -> dict[str, int]:
    return {split: len(task.catalog.rows(split)) for split in SPLITS}


def _draw_all(sweep: Sweep, stores: dict[str, ImageStore], most: int | None = None) -> dict[str, Subset]:
    """The subset of every trial that pre-trains, by trial id; at most `most` of them, spread over the plan.

    Raises UserError with every impossible mixture, each once, at the line of what it asks for.
    """
    found: dict[str, Subset] = {}
    problems: dict[str, Problem] = {}
    wanted = [trial for trial in sweep.plan if trial.pretrain is not None]
    if most is not None and len(wanted) > most:
        wanted = [wanted[i] for i in np.linspace(0, len(wanted) - 1, most).astype(int)]
    for trial in wanted:
        assert trial.pretrain is not None
        keys = {name: pool_key(name, section) for name, section in trial.pretrain.sources.items()}
        catalogs = {name: sweep.sources[key].catalog for name, key in keys.items()}
        masks = {name: usable(stores[key]) if key in stores else None for name, key in keys.items()}
        try:
            found[trial.id] = draw(trial.pretrain, catalogs, masks, trial.subset_seed)
        except UserError as error:
            for problem in error.problems:
                path = tuple(problem.what.partition(":")[0].split("."))
                problems.setdefault(problem.what, Problem(sweep.spec.place(*path), f"{problem.what} [{trial.group}]"))
    if problems:
        raise UserError(*problems.values())
    return found


# --- running


def _run(sweep: Sweep, subsets: dict[str, Subset], run: RunFolder, address: str | None, out: Console) -> int:
    begun = time.monotonic()
    before = _finished(run, sweep.plan)
    todo = Plan(tuple(trial for trial in sweep.plan if trial.id not in before))
    out.print(f"[bold]{sweep.spec.name}[/]  {sweep.spec.question}", soft_wrap=True)
    out.print(f"{len(before)} of {len(sweep.plan)} trials are done, {len(todo)} to run   {_estimate(todo, sweep.spec)}")
    if len(todo):
        seconds = _run_trials(sweep, subsets, run, todo, address, out)
        _keep_rate(run, todo, sweep.spec)
        _note_invocation(run, begun, seconds, len(todo))
    else:
        _write_plan(sweep, run)
    run.write_results()
    reported = _report(run, out)
    states = run.states()
    failed = [trial for trial in sweep.plan if states.get(trial.id) != "done"]
    for trial in failed:
        failure = run.trial(trial.id).failure() or {"reason": "did not run", "log": ""}
        out.print(f"[red]failed[/]  {trial.id}: ", end="")
        out.print(f"{failure['reason']} (log: {failure['log']})", markup=False, soft_wrap=True)
    took = time.monotonic() - begun
    out.print(f"{len(sweep.plan) - len(failed)} trials done, {len(failed)} failed, in {took:.0f} s", markup=False)
    out.print(f"results  {run.storage.shown}/results.csv", markup=False, soft_wrap=True)
    if reported:
        out.print(f"report   {run.storage.shown}/report/index.html", markup=False, soft_wrap=True)
    return FAILED if failed else DONE


def _run_trials(
    sweep: Sweep, subsets: dict[str, Subset], run: RunFolder, todo: Plan, address: str | None, out: Console
) -> float:
    """Fill the stores, run the trials; returns the seconds that the trials took."""
    from ray_robust.launch.cluster import connect
    from ray_robust.launch.ingest import ingest
    from ray_robust.launch.monitor import Monitor
    from ray_robust.launch.places import Places
    from ray_robust.launch.tuner import run_plan, slots_of

    root = default_root()
    with connect(address) as cluster:
        import ray

        slots_of(sweep.spec.resources, ray.cluster_resources())
        with out.status("Decoding and rendering images ...") if out.is_terminal else contextlib.nullcontext():
            jobs = _jobs(sweep, todo, subsets)
            stores = ingest([(pool, size, rows) for _, pool, size, rows in jobs], root)
        by_key = {key: store for (key, *_), store in zip(jobs, stores, strict=True)}
        if any(not store.pool.rendered for store in stores):  # only now is it known what cannot be read
            subsets = _draw_all(sweep, by_key)
        _write_plan(sweep, run)
        sizes = {id(store.pool): store for store in stores}
        described = [describe_once(run, kind, sizes[id(pool)]) for kind, pool in sweep.pools() if id(pool) in sizes]
        run.storage.write_json("data.json", {"pools": described})
        _print_composition(out, sweep, subsets)
        if cluster.dashboard:
            out.print(f"Ray dashboard  http://{cluster.dashboard}", markup=False)
        places = Places(run.storage.address, (run.storage.parent / "checkpoints").address, str(root))
        monitor = Monitor(todo, run, out, len(sweep.plan) - len(todo), sweep.spec.name, metrics=True)
        begun = time.monotonic()
        with monitor.watching():
            run_plan(todo, places, sweep.spec.resources, cluster, monitor)
        return time.monotonic() - begun


def describe_once(run: RunFolder, kind: str, store: ImageStore) -> dict[str, Any]:
    """A pool's entry of data.json, imported late: it needs Pillow."""
    from ray_robust.data.samples import describe

    return describe(run, kind, store)


def _jobs(sweep: Sweep, todo: Plan, subsets: dict[str, Subset]) -> list[tuple[str, Pool, int, np.ndarray | None]]:
    """(pool_key, pool, px, rows) of everything that the trials will look at."""
    rows: dict[tuple[str, int], list[np.ndarray]] = {}
    for trial in todo:
        for key in {pool_key(f.task.name, f.task) for f in trial.finetunings}:
            rows.setdefault((key, trial.model.image_size), [])
        if trial.pretrain is not None:
            for share in subsets[trial.id].shares:
                key = pool_key(share.source, trial.pretrain.sources[share.source])
                rows.setdefault((key, trial.model.image_size), []).extend((share.rows, share.held_out_rows))
    pools = {**sweep.sources, **sweep.tasks}
    return [
        (key, pools[key], size, np.unique(np.concatenate(parts)) if parts and key in sweep.sources else None)
        for (key, size), parts in rows.items()
    ]


def _finished(run: RunFolder, plan: Iterable[Trial]) -> set[str]:
    return {trial.id for trial in plan if run.trial(trial.id).has([f.id for f in trial.finetunings])}


def _write_plan(sweep: Sweep, run: RunFolder) -> None:
    provenance = {
        "ray_robust": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }
    text = sweep.spec.resolved + yaml.safe_dump({"provenance": provenance}, sort_keys=False)
    run.write("spec.yaml", text)
    run.write_plan(sweep.plan.rows())


def _report(run: RunFolder, out: Console) -> bool:
    """Analyse the run and say what came out; False when there is nothing to analyse yet."""
    from analysis.__main__ import report_on

    try:
        report_on(run.storage.address)
    except UserError as error:
        for problem in error.problems:
            out.print(f"no report: {problem}", markup=False, soft_wrap=True)
        return False
    return True


@contextlib.contextmanager
def _sayable(run: RunFolder) -> Iterator[None]:
    """A folder that cannot be written is the user's mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {run.storage.shown}: cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """Refuse a second driver on one local run folder. The lock goes with the process, however it ends."""
    path = run.storage.local(".lock")
    if path is None:
        yield
        return
    with _sayable(run):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - the with-block below closes it
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{run.storage.shown}: {file.read().strip() or 'another sweep'} is running in this folder; "
                            "wait for it, or give another --out") from None  # fmt: skip
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:  # a mistake found before anything was written leaves nothing behind
            if os.listdir(path.parent) == [path.name]:
                shutil.rmtree(path.parent, ignore_errors=True)


# --- printing


def _print_plan(out: Console, sweep: Sweep, subsets: dict[str, Subset]) -> None:
    spec, plan = sweep.spec, sweep.plan
    out.print(f"[bold]{spec.name}[/]  {spec.question}", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("trial", "group", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("seed", "pre-training images", "classes", "images seen", "fine-tunings"):
        table.add_column(name, justify="right")
    for trial in plan.trials[:SHOWN_IN_A_PLAN]:
        subset = subsets.get(trial.id)
        table.add_row(trial.id, trial.group, trial.model.name, str(trial.seed),
                      f"{len(subset):,}" if subset else "0" if trial.pretrain is None else "",
                      f"{subset.leaf_classes:,}" if subset else "",
                      f"{trial.pretrain_images:,}", str(len(trial.finetunings)))  # fmt: skip
    out.print(table)
    if len(plan) > SHOWN_IN_A_PLAN:
        out.print(f"... and {len(plan) - SHOWN_IN_A_PLAN:,} more: with --out they are all in plan.csv")
    _print_composition(out, sweep, subsets)
    finetuned = sum(f.images for trial in plan for f in trial.finetunings)
    evaluated = sum(f.evaluated for trial in plan for f in trial.finetunings)
    out.print(f"{len(plan)} trials, {plan.pretrainings} unique pre-trainings")
    out.print(f"images to process: {sum(t.pretrain_images for t in plan):,} in pre-training, {finetuned:,} in "
              f"fine-tuning, {evaluated:,} in evaluation")  # fmt: skip
    out.print(f"time  {_estimate(plan, spec)}")
    out.print(f"disk  about {_disk(sweep, subsets) / 1e6:,.0f} MB of decoded images, besides checkpoints and results")


def _print_composition(out: Console, sweep: Sweep, subsets: dict[str, Subset]) -> None:
    """What every mixture is made of: asked, held and taken."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("mixture", "source"):
        table.add_column(name, no_wrap=True)
    for name in ("available", "held out", "taken", "share", "wanted", "classes", "per class"):
        table.add_column(name, justify="right")
    shown = set()
    for trial in sweep.plan:
        for part in subsets[trial.id].composition if trial.id in subsets else ():
            counts = (f"{part[key]:,}" for key in ("available", "held_out", "selected"))
            shares = (f"{part[key]:.1%}" for key in ("share", "target_share"))
            per_class = f"{part['fewest_per_class']:,}-{part['most_per_class']:,}"
            row = (trial.group, part["source"], *counts, *shares, f"{part['classes']:,}", per_class)
            if row not in shown:
                shown.add(row)
                table.add_row(*row)
    if shown:
        out.print(table)


def _estimate(plan: Plan, spec: Spec) -> str:
    """Time from what earlier runs on this machine measured, or that nothing is known."""
    if not len(plan):
        return ""
    seconds = 0.0
    for trial in plan:
        key = rates.key_of(trial.model.name, trial.model.image_size, spec.resources.gpus_per_worker)
        rate = rates.known(key)
        if rate is None:
            return f"(no time known yet for {trial.model.name} at {trial.model.image_size} px on this machine)"
        seconds += trial.cost / rate
    slots = max(1, (os.cpu_count() or 1) // (spec.resources.workers * spec.resources.cpus_per_worker))
    return f"about {max(1, round(seconds / min(slots, len(plan)) / 60))} min, from the rate of earlier runs here"


def _disk(sweep: Sweep, subsets: dict[str, Subset]) -> float:
    jobs = _jobs(sweep, Plan(tuple(t for t in sweep.plan if t.pretrain is None or t.id in subsets)), subsets)
    return sum((len(pool.catalog) if rows is None else len(rows)) * size * size * 3 for _, pool, size, rows in jobs)


# --- keeping


def _keep_rate(run: RunFolder, todo: Plan, spec: Spec) -> None:
    """Remember images per second and worker, from the trials' own clocks."""
    work: dict[str, list[float]] = {}
    for trial in todo:
        folder = run.trial(trial.id)
        if folder.finished() is None:
            continue
        rows = {row["finetune"]: row for row in folder.rows()}
        seconds = sum(row["seconds_finetune"] for row in rows.values())
        seconds += (next(iter(rows.values()))["seconds_pretrain"] or 0) if rows else 0
        key = rates.key_of(trial.model.name, trial.model.image_size, spec.resources.gpus_per_worker)
        total = work.setdefault(key, [0.0, 0.0])
        total[0] += trial.cost
        total[1] += seconds
    for key, (cost, seconds) in work.items():
        if seconds > 1:
            rates.keep(key, cost / seconds)


def _note_invocation(run: RunFolder, begun: float, seconds: float, trials: int) -> None:
    """run.json: the hardware, and what every run of the command cost."""
    known = run.storage.read_json("run.json") or {"invocations": []}
    known["hardware"] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(),
                         "processor": _processor()}  # fmt: skip
    known["invocations"].append({
        "started": datetime.fromtimestamp(time.time() - (time.monotonic() - begun), UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 1),
        "seconds_in_trials": round(seconds, 1),
        "trials_run": trials,
    })  # fmt: skip
    run.storage.write_json("run.json", known)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit of this code, or None outside a checkout."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False,
                           cwd=Path(__file__).parent)  # fmt: skip
    return asked.stdout.strip() or None


if __name__ == "__main__":
    command(main)
