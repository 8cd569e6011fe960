"""Kill a sweep at random moments, run it again until it is done, and compare with an undisturbed run, bit for bit.

A moment is a share of the work that is behind, as the run folder tells it, so that a kill always hits a sweep at work.

    python tests/soak.py SPEC.yaml --kills 3 --victim driver --seed 1 [--set KEY=VALUE ...]

Prints every kill and, last, one JSON object: kills, runs, seconds of both, and whether every score is the same.
`--victim worker` kills one training process and leaves the driver to cope.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from ray_robust.errors import UserError
from ray_robust.results import RunFolder
from ray_robust.status import read_status

SCORES = ["upstream_accuracy", "id_val", "ood_val", "id", "ood", "id_accuracy", "ood_accuracy"]
SAME = ["trial", "group", "status", "finetune", "epoch", "step", *SCORES]


def run(spec: str, out: Path, settings: list[str]) -> subprocess.Popen:
    """Start the sweep in a process group of its own, with its own stores, so that only it is hit."""
    home = out.parent
    environment = {**os.environ, "RAY_ROBUST_STORE": str(home / "store"), "RAY_ROBUST_CACHE": str(home / "cache")}
    command = [sys.executable, "-m", "ray_robust.sweep", spec, "--out", str(out)]
    command += [word for setting in settings for word in ("--set", setting)]
    with open(home / "log.txt", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def workers_of(driver: subprocess.Popen) -> list[psutil.Process]:
    """The processes in which trials of this driver train now."""
    below = psutil.Process(driver.pid).children(recursive=True)
    return [p for p in below if "_train_here" in _title(p) or "ray::ImplicitFunc" in _title(p)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def behind(run: Path) -> float:
    """The share of the work that is done, 0-1; 0 as long as the folder cannot tell."""
    try:
        return read_status(RunFolder(str(run))).behind
    except UserError:
        return 0.0


def soak(spec: str, kills: int, victim: str, seed: int, settings: list[str]) -> dict:
    """Run once in peace, once under fire; returns the summary."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        peace, war = Path(folder, "peace"), Path(folder, "war")
        for home in (peace, war):
            home.mkdir()
        begun = time.monotonic()
        if (code := run(spec, peace / "run", settings).wait()) != 0:
            raise SystemExit(f"the undisturbed run ended with {code}: {(peace / 'log.txt').read_text()[-2000:]}")
        undisturbed = time.monotonic() - begun
        done, runs, begun = 0, 1, time.monotonic()
        driver = run(spec, war / "run", settings)
        for moment in sorted(rng.uniform(0.1, 0.85) for _ in range(kills)):
            hit: list[psutil.Process] = []
            while driver.poll() is None and not (behind(war / "run") >= moment and (hit := workers_of(driver))):
                time.sleep(0.05)
            if driver.poll() is not None:
                break
            if victim == "driver":
                os.kill(driver.pid, signal.SIGKILL)
                driver.wait()
                driver, runs = run(spec, war / "run", settings), runs + 1
            else:
                rng.choice(hit).kill()
            done += 1
            print(f"kill {done} of {kills}: {victim}, {behind(war / 'run'):.0%} of the work behind it", flush=True)
        code = driver.wait()
        disturbed = time.monotonic() - begun
        tables = [pd.read_csv(home / "run" / "results.csv") for home in (peace, war)]
        same = code == 0 and tables[0][SAME].equals(tables[1][SAME])
        if not same:
            print((war / "log.txt").read_text()[-3000:])
        return {"victim": victim, "kills": done, "runs": runs, "exit": code, "points": len(tables[0]),
                "undisturbed_s": round(undisturbed, 1), "disturbed_s": round(disturbed, 1), "same": same}  # fmt: skip


def main() -> None:
    """Read the arguments, print the summary; exit code 1 when a score differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--victim", choices=("driver", "worker"), default="driver")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    summary = soak(args.spec, args.kills, args.victim, args.seed, args.set)
    print(json.dumps(summary))
    sys.exit(0 if summary["same"] else 1)


if __name__ == "__main__":
    main()
