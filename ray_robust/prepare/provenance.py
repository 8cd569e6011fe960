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
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ray_robust import __version__
from ray_robust.data.pool import Pool
from ray_robust.plan.plan import Plan
from ray_robust.redact import redact
from ray_robust.run import throughput
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec

PACKAGES = ("ray", "torch", "torchvision", "timm", "numpy", "pandas", "statsmodels", "wilds")


def versions() -> dict[str, Any]:
    """What the run's spec.yaml says of the software that ran it."""
    return {
        "ray_robust": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def command(argv: list[str]) -> str:
    """The command that continues a sweep, by the Python that runs, as it was called: another may lack the packages."""
    return redact(shlex.join([sys.orig_argv[0], "-m", "ray_robust.sweep", *argv]))


def keep_rate(run: RunFolder, todo: Plan, spec: Spec) -> None:
    """Remember images per second and worker, from the trials' own clocks."""
    work: dict[str, list[float]] = {}
    for trial in todo:
        folder = run.trial(trial.id)
        if folder.finished() is None:  # also one that is not as it was left
            continue
        rows = {row["finetune"]: row for row in folder.rows()}
        seconds = sum(row["seconds_finetune"] for row in rows.values())
        seconds += (next(iter(rows.values()))["seconds_pretrain"] or 0) if rows else 0
        key = throughput.key_of(trial.model.name, trial.model.image_size, spec.resources.gpus_per_worker)
        total = work.setdefault(key, [0.0, 0.0])
        total[0] += trial.cost
        total[1] += seconds
    for key, (cost, seconds) in work.items():
        if seconds > 1:
            throughput.keep(key, cost / seconds)


def note_invocation(run: RunFolder, begun: float, seconds: float, trials: int) -> None:
    """run.json: the hardware, and what every run of the command cost."""
    known = run.storage.recall_json("run.json") or {}
    before = known.get("invocations")
    known["hardware"] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(),
                         "processor": processor()}  # fmt: skip
    known["invocations"] = [*(before if isinstance(before, list) else ()), {
        "started": datetime.fromtimestamp(time.time() - (time.monotonic() - begun), UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 1),
        "seconds_in_trials": round(seconds, 1),
        "trials_run": trials,
    }]  # fmt: skip
    run.write("run.json", json.dumps(known, indent=1) + "\n")


def told_apart_by_size(run: RunFolder, pools: Iterable[tuple[str, Pool]]) -> Iterator[str]:
    """Why trials of a run folder do not count any more: it is from before contents were looked at. `pools` are those of
    the sweep, each with its kind."""
    old = {(entry.get("kind"), entry.get("name")) for entry in run.data().get("pools", ()) if "identity" not in entry}
    for kind, pool in pools:
        if pool.identity == "content" and (kind, pool.name) in old:
            yield (
                f"{pool.name}: an earlier version told its images apart by names and sizes; trials that it ran here "
                "stay in their folders, and are run again under ids of what the files contain"
            )


def processor() -> str:
    """The name of this machine's processor."""
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
    """The git commit of this code, else what RAY_ROBUST_COMMIT says of it (a job's package has no history), or None."""
    with contextlib.suppress(OSError):
        asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False,
                               cwd=Path(__file__).parent)  # fmt: skip
        if asked.stdout.strip():
            return asked.stdout.strip()
    return os.environ.get("RAY_ROBUST_COMMIT")
