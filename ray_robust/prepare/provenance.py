"""Where a run came from and what it cost: versions, commit, hardware, the time of every command, the measured rate."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ray_robust import __version__
from ray_robust.data.pool import Pool
from ray_robust.plan.plan import Plan
from ray_robust.prepare.estimate import rate_key
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.work import OpenWork
from ray_robust.redact import redact
from ray_robust.run import throughput
from ray_robust.run.declared import declare
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Resources

PLAN_EVERY = 5.0  # seconds between two writings of a plan that grows
PACKAGES = ("ray", "torch", "torchvision", "timm", "numpy", "pandas", "statsmodels", "wilds")


def versions() -> dict[str, Any]:
    """Return the versions of the software that runs, for the run's spec.yaml."""
    return {
        "ray_robust": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def command(argv: list[str]) -> str:
    """Return the command that continues a sweep, with the Python that runs now: another may lack the packages."""
    return redact(shlex.join([sys.orig_argv[0], "-m", "ray_robust.sweep", *argv]))


def record_throughput(run: RunFolder, work: Iterable[OpenWork], resources: Resources) -> None:
    """Record images per second and worker, measured by the trials' own clocks: of a model, and of each kind of training
    of it. Only what this command ran counts: what it found may come from another machine."""
    spent: dict[str, list[float]] = {}
    for one in work:
        trial, folder = one.trial, run.trial(one.trial.id)
        ran = {stage.name for stage in one.stages}
        # none of one whose files have changed since
        counted = folder.rows() if folder.finished() is not None else folder.rows_so_far()
        rows = {row["finetune"]: row for row in counted if row["finetune"] in ran}
        key = throughput.group_key(rate_key(trial.model, resources.gpus_per_worker), resources.workers)
        for stage in one.stages:
            row = next(iter(rows.values()), None) if stage.name == "pretrain" else rows.get(stage.name)
            if row is None:  # it was not run
                continue
            seconds = row.get("seconds_pretrain" if stage.name == "pretrain" else "seconds_finetune") or 0.0
            for name in (key, throughput.stage_key(key, stage.kind)):
                total = spent.setdefault(name, [0.0, 0.0])
                total[0] += stage.cost
                total[1] += seconds * (resources.workers if stage.name == "pretrain" else 1)  # which all trained
    for name, (cost, seconds) in spent.items():
        if seconds > 1:
            throughput.record_rate(name, cost / seconds)


def record_invocation(run: RunFolder, begun: float, seconds: float, trials: int) -> None:
    """Add to run.json the hardware and what this run of the command cost: seconds since `begun` (monotonic), seconds in
    trials, trials run."""
    record = run.storage.recall_json("run.json") or {}
    before = record.get("invocations")
    record["hardware"] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(),
                         "processor": processor()}  # fmt: skip
    record["invocations"] = [*(before if isinstance(before, list) else ()), {
        "started": datetime.fromtimestamp(time.time() - (time.monotonic() - begun), UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 1),
        "seconds_in_trials": round(seconds, 1),
        "trials_run": trials,
    }]  # fmt: skip
    run.write("run.json", json.dumps(record, indent=1) + "\n")


def identified_by_size(run: RunFolder, pools: Iterable[tuple[str, Pool]]) -> Iterator[str]:
    """Yield why trials of a run folder do not count any more: it is older than the identity of images by contents.
    `pools` are those of the sweep, each with its kind."""
    old = {(entry.get("kind"), entry.get("name")) for entry in run.data().get("pools", ()) if "identity" not in entry}
    for kind, pool in pools:
        if pool.identity == "content" and (kind, pool.name) in old:
            yield (
                f"{pool.name}: an earlier version identified its images by names and sizes; trials that it ran here "
                "stay in their folders, and are run again under ids of what the files contain"
            )


def processor() -> str:
    """Return the name of this machine's processor."""
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
    """Return the git commit of this code, else $RAY_ROBUST_COMMIT (a job's package has no history), or None. What is
    installed inside a repository, as in an environment of a user's project, is not of that repository's commits."""
    here = Path(__file__)
    with contextlib.suppress(OSError):
        for words in (["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty"]):
            answer = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=here.parent)
            if answer.returncode or not answer.stdout.strip():
                break
        else:
            return answer.stdout.strip()
    return os.environ.get("RAY_ROBUST_COMMIT")


def write_plan(sweep: Sweep, run: RunFolder) -> None:
    """Write spec.yaml, with versions, the command and the keys as the user wrote them; what it declares of the
    analysis; and plan.csv."""
    declare(run, yaml.safe_load(sweep.spec.resolved), time.time())  # before spec.yaml, which it compares with
    made = {**versions(), "command": sweep.command, "written": sweep.spec.written}
    text = sweep.spec.resolved + yaml.safe_dump({"provenance": made}, sort_keys=False, allow_unicode=True, width=1000)
    run.write("spec.yaml", text)
    run.write_plan(sweep.plan.rows())


def plan_writer(run: RunFolder) -> Callable[[Plan], None]:
    """Return a function that keeps plan.csv up with a search that grows, though not at every trial."""
    last = time.monotonic()

    def write(plan: Plan) -> None:
        nonlocal last
        if time.monotonic() - last > PLAN_EVERY:
            run.write_plan(plan.rows())
            last = time.monotonic()

    return write
