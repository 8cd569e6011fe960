"""Where a sweep's processor time goes: `python -m bench.profile [SPEC] [--set KEY=VALUE] [--tree DIR]`.

py-spy samples every Python process of the command, Ray's own and the workers too, while it is at work; samples are
counted by what the project was doing. `--tree` profiles another checkout of the project, such as the one before a
change, with the same installed packages. Shares of all samples, in per cent.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import command_of, show, write_table

RATE = 50  # samples a second of each process
ROOT = Path(__file__).parents[1]
# the first of these of which one call stands in a stack says what it is: "function file", or any function of a file
PARTS: dict[str, tuple[str, ...]] = {
    "imports": ("importlib._bootstrap>",),
    "seeding of steps": ("manual_seed torch/random.py", "seed_device ray_robust/train/loop.py"),
    "states and weights on disk": ("ray_robust/train/checkpoints.py",),
    "evaluation": ("predict ray_robust/train/evaluate.py",),
    "batches: gather, augment, normalise": ("batch ray_robust/train/loop.py",),
    "optimizer": ("torch/optim/",),
    "forward and backward passes": ("_step ray_robust/train/loop.py", "ray_robust/train/turns.py"),
    "rendering": ("ray_robust/data/world/", "ray_robust/data/store.py"),
    "rows, logs, progress": ("ray_robust/launch/trial_log.py", "ray_robust/launch/tables.py",
                             "ray_robust/train/points.py"),
    "the rest of a trial": ("run_trial ray_robust/launch/trial.py",),
    "report": ("report_on analysis/__main__.py", "warm_up analysis/__main__.py"),
    "live view and metrics": ("ray_robust/launch/monitor.py", "ray_robust/launch/gauges.py"),
    "the rest of the command": ("ray_robust/sweep.py",),
}  # fmt: skip
RAY = "Ray"


def _mark(text: str) -> str:
    function, _, file = text.rpartition(" ")
    return rf"(?:^|;){re.escape(function)} \([^;]*{re.escape(file)}" if function else re.escape(file)


MARKS = {name: re.compile("|".join(map(_mark, marks))) for name, marks in PARTS.items()}


def main(argv: list[str]) -> None:
    """Profile one sweep and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.profile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", nargs="?", default="sweeps/quantity.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to profile (default: this one)")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    parser.add_argument("--name", default="profile", help="of the table in that document")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        stacks = sampled(args.spec, args.set, args.tree, Path(folder))
    counts = counted(stacks)
    whole = sum(counts.values())
    rows = [(name, f"{100 * count / whole:.1f}", f"{count / RATE:.1f}") for name, count in counts.most_common()]
    header = ("what", "% of samples", "core-seconds")
    if args.write:
        write_table(args.write, args.name, [header, *rows], command_of("bench.profile", argv))
    shares: dict[str, Any] = {name: round(count / whole, 4) for name, count in counts.items()}
    show(header, rows, {"samples": whole, "shares": shares})


def sampled(spec: str, settings: list[str], tree: Path, folder: Path) -> list[str]:
    """Collapsed stacks with their counts, as py-spy writes them, of a whole sweep in empty folders."""
    home = {"RAY_ROBUST_STORE": f"{folder}/store", "RAY_ROBUST_CACHE": f"{folder}/cache", "PYTHONPATH": str(tree)}
    words = [sys.executable, "-m", "ray_robust.sweep", str(Path(spec).resolve()), "--out", f"{folder}/run"]
    words += [word for setting in settings for word in ("--set", setting)]
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--subprocesses", "--rate", str(RATE), "--format",
           "raw", "--full-filenames", "--output", f"{folder}/stacks", "--"]  # fmt: skip
    done = subprocess.run([*spy, *words], env={**os.environ, **home}, cwd=tree, capture_output=True, text=True,
                          check=False)  # fmt: skip
    if not (Path(folder) / "stacks").exists():
        raise SystemExit(f"py-spy ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    summary = json.loads((Path(folder) / "run/run.json").read_text())["invocations"][-1]
    print(f"the sweep took {summary['seconds']} s under the profiler", flush=True)
    return (Path(folder) / "stacks").read_text("utf-8", "replace").splitlines()


def counted(stacks: Iterable[str]) -> Counter[str]:
    """Samples by part."""
    counts: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        counts[part_of(stack)] += int(count)
    return counts


def part_of(stack: str) -> str:
    """What a stack, outermost call first, is part of."""
    for name, marks in MARKS.items():
        if marks.search(stack):
            return name
    return RAY


if __name__ == "__main__":
    main(sys.argv[1:])
