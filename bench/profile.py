"""Where the processor time of a sweep's trials goes: `python -m bench.profile [SPEC] [--set KEY=VALUE] [--tree DIR]`.

Runs one trial of every cost in a process of its own, as a worker of the sweep would, while py-spy samples it; samples
are counted by what the project was doing. (A sweep itself cannot be sampled: Ray's workers are no children of its
command.) `--tree` profiles another checkout of the project, such as the one before a change, with the same packages.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RATE = 50  # samples a second of each process
ROOT = Path(__file__).parents[1]
# a stack belongs to the first part of which it contains a call: "function file", or any function of a file
PARTS: dict[str, tuple[str, ...]] = {
    "imports": ("importlib._bootstrap>",),
    "seeding of steps": ("manual_seed torch/random.py", "seed_device ray_robust/train/loop.py"),
    "states and weights on disk": ("ray_robust/train/checkpoints.py",),
    "evaluation": ("_predict_batches ray_robust/train/evaluate.py",),
    "batches: gather, augment, normalise": ("batch ray_robust/train/loop.py",),
    "optimizer": ("torch/optim/",),
    "forward and backward passes": ("_step ray_robust/train/loop.py", "run ray_robust/train/interleave.py"),
    "rendering": ("ray_robust/data/world/", "ray_robust/data/images/store.py"),
    "rows, logs, progress": ("ray_robust/trial/trial_log.py", "ray_robust/trial/outputs.py",
                             "ray_robust/train/points.py"),
    "the rest of a trial": ("run_trial ray_robust/trial/run_trial.py",),
}  # fmt: skip
REST = "everything else"


def _mark(text: str) -> str:
    function, _, file = text.rpartition(" ")
    return rf"(?:^|[;.]){re.escape(function)} \([^;]*{re.escape(file)}" if function else re.escape(file)


MARKS = {name: re.compile("|".join(map(_mark, marks))) for name, marks in PARTS.items()}


def main(argv: list[str]) -> None:
    """Profile some trials and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.profile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", nargs="?", default="sweeps/quantity.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to profile (default: this one)")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    parser.add_argument("--name", default="profile", help="of the table in that document")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside is not None:
        run_trials(args.spec, args.set, args.inside)
        return
    from bench import command_of, show, write_table

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        stacks = sampled(args.spec, args.set, args.tree, Path(folder))
    counts = counted(stacks)
    whole = sum(counts.values())
    rows = [(name, f"{100 * count / whole:.1f}", f"{count / RATE:.1f}") for name, count in counts.most_common()]
    header = ("what", "% of samples", "seconds")
    if args.write:
        write_table(args.write, args.name, [header, *rows], command_of("bench.profile", argv))
    shares: dict[str, Any] = {name: round(count / whole, 4) for name, count in counts.items()}
    show(header, rows, {"samples": whole, "shares": shares})


def run_trials(spec: str, settings: list[str], folder: Path) -> None:
    """Run one trial of every cost, one after the other on one thread, in this process."""
    import torch

    from ray_robust.launch.ingest.ingest import ingest
    from ray_robust.prepare.open_sweep import open_sweep
    from ray_robust.prepare.subsets import decode_jobs, draw_all
    from ray_robust.spec.load import load_spec
    from ray_robust.train.context import Context
    from ray_robust.trial.paths import RunPaths
    from ray_robust.trial.run_trial import run_trial

    torch.set_num_threads(1)
    sweep = open_sweep(load_spec(spec, tuple(settings)))
    ingest([(pool, size, rows) for _, pool, size, rows in decode_jobs(sweep, sweep.plan, draw_all(sweep, {}))],
           folder / "store")  # fmt: skip
    for trial in {(trial.pretrain_images, trial.cost): trial for trial in sweep.plan}.values():
        run_trial(trial, RunPaths(f"{folder}/run", f"{folder}/checkpoints", f"{folder}/store"), Context())


def sampled(spec: str, settings: list[str], tree: Path, folder: Path) -> list[str]:
    """Return collapsed stacks with their counts, as py-spy writes them."""
    home = {"RAY_ROBUST_CACHE": f"{folder}/cache", "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", str(Path(__file__).resolve()), str(Path(spec).resolve()), "--inside", str(folder)]
    words += [word for setting in settings for word in ("--set", setting)]
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--rate", str(RATE), "--format", "raw",
           "--full-filenames", "--output", f"{folder}/stacks", "--"]  # fmt: skip
    done = subprocess.run([*spy, *words], env={**os.environ, **home}, cwd=tree, capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"py-spy ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return (Path(folder) / "stacks").read_text("utf-8", "replace").splitlines()


def counted(stacks: Iterable[str]) -> Counter[str]:
    """Count samples by part."""
    counts: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        counts[part_of(stack)] += int(count)
    return counts


def part_of(stack: str) -> str:
    """Return the part that a stack, outermost call first, belongs to."""
    for name, marks in MARKS.items():
        if marks.search(stack):
            return name
    return REST


if __name__ == "__main__":
    main(sys.argv[1:])
