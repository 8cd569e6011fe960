"""What the sweep costs over the training in it: `python -m bench.overhead [SPEC] [--set KEY=VALUE] [--parts ...]`.

Runs the trials of a sweep three ways on one machine: as bare PyTorch loops (one single-thread process per core, their
clock starting when all images are in memory; half of those that pre-train before the sweep and the others after it,
since the speed of a shared machine varies, the baseline's as its pilot chose them; their wall time is that of the list
in the plan's order, each process taking the next trial when it is free), through the sweep (a fresh process, everything
counted: Ray's start, rendering, analysis, report), and as a plain Ray user writes them (one Tune trial with a nested
trainer per fine-tuning, pre-training repeated, ImageFolder and DataLoader). The last is run for a sample of the
fine-tunings, `--sample` of every cost in images, and scaled to their number.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import command_of, show, write_table
from bench.overhead.bare import makespan, time_bare
from bench.overhead.images import prepare
from bench.overhead.plain_ray import sample, time_plain_ray
from ray_robust.prepare import baseline_spread
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec


def main(argv: list[str]) -> None:
    """Run the parts asked for and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default="sweeps/quantity.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--parts", nargs="+", choices=("bare", "sweep", "ray"), default=["bare", "sweep", "ray"])
    parser.add_argument("--write", type=Path, help="put the table into this document")
    parser.add_argument("--sample", type=int, default=1, help="fine-tunings of each cost that plain Ray runs")
    args = parser.parse_args(argv)
    sweep = open_sweep(load_spec(args.spec, tuple(args.set)))
    rows: list[tuple[str, float, str]] = []
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ["RAY_ROBUST_STORE"] = f"{folder}/store"
        data = prepare(sweep, Path(folder, "store")) if {"bare", "ray"} & set(args.parts) else {}
        bare: dict[str, float] = {}
        if "bare" in args.parts:
            bare |= time_bare([trial for trial in sweep.plan if trial.pretrain is not None][::2], data)
        if "sweep" in args.parts:
            seconds["sweep"] = time_sweep(args.spec, args.set, Path(folder))
            rows.append(("sweep", seconds["sweep"], "everything counted, nothing kept from before"))
            sweep = as_run(sweep, RunFolder(f"{folder}/sweep/run"))
        if "bare" in args.parts:
            bare |= time_bare([trial for trial in sweep.plan if trial.id not in bare], data)
            seconds["bare"] = makespan([bare[trial.id] for trial in sweep.plan], os.cpu_count() or 1)
            rows.append(
                ("bare loops", seconds["bare"], "images in memory, imports not counted; half before, half after")
            )
        finetunings = sum(len(trial.finetunings) for trial in sweep.plan)
        if "ray" in args.parts:
            sampled = sample(sweep, args.sample)
            seconds["ray"] = time_plain_ray(sweep, sampled, data, Path(folder))
            ran = f"{sum(len(runs) for runs, _ in sampled)} of {finetunings} fine-tunings run"
            rows.append(("plain Ray", seconds["ray"], f"{ran}, scaled by what they cost"))
    summary: dict[str, Any] = {"trials": len(sweep.plan), "finetunings": finetunings, "cores": os.cpu_count()}
    summary |= {f"{name}_s": round(value, 1) for name, value in seconds.items()}
    for name in sorted({"bare", "ray"} & set(seconds)) if "sweep" in seconds else ():
        summary[f"{name}_over_sweep"] = round(seconds[name] / seconds["sweep"], 3)
    header = ("way", "seconds", "over the sweep", "what is counted")
    table = [(name, f"{value:.0f}", f"{value / seconds['sweep']:.2f}" if "sweep" in seconds else "", note)
             for name, value, note in rows]  # fmt: skip
    if args.write:
        write_table(args.write, "overhead", [header, *table], command_of("bench.overhead", argv))
    show(header, table, summary)


def as_run(sweep: Sweep, run: RunFolder) -> Sweep:
    """The sweep as it was run there: with the baseline's fine-tunings that its pilot chose."""
    choice = baseline_spread.recorded(sweep, run)
    assert choice.decided or not baseline_spread.wanted(sweep.spec)
    return baseline_spread.with_choice(sweep, choice, None) if choice.decided else sweep


def time_sweep(spec: str, overrides: list[str], folder: Path) -> float:
    """Seconds of the whole command in empty folders."""
    home = Path(folder, "sweep")
    environment = {**os.environ, "RAY_ROBUST_STORE": str(home / "store"), "RAY_ROBUST_CACHE": str(home / "cache")}
    command = [sys.executable, "-m", "ray_robust.sweep", spec, "--out", str(home / "run")]
    command += [word for override in overrides for word in ("--set", override)]
    begun, both = time.monotonic(), {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, env=environment, text=True, check=False, **both)
    seconds = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(f"the sweep ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return seconds


if __name__ == "__main__":
    main(sys.argv[1:])
