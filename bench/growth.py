"""How the time grows with the work: `python -m bench.growth [--parts trials images points] [--largest N]`.

Whole commands in fresh folders: a sweep of 10, 100 and 1,000 tiny trials, 16 thousand to 1.6 million images rendered
into a store, an analysis of 1,000 to 100,000 points. For each the exponent c of seconds = a + b * work^c, where a is
what a command costs by itself: 1 is proportional. All three are fitted at once to the logarithms of the seconds, so
that a few percent of a start are not taken for the work of a small amount. What is over soon is run again, and the
median taken.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.optimize import least_squares

from bench import command_of, show, write_table

PX = 16
TINY: dict[str, Any] = {
    "task": {"name": "camera-traps", "species": 4, "train_images": 64, "id_val_images": 64, "ood_val_images": 64,
             "id_test_images": 64, "ood_test_images": 64},
    "model": {"name": "test_byobnet", "image_size": 32},
    "pretrain": {"sources": {"species": 1.0}, "num_images": 400, "images_seen": 128, "batch_size": 64},
    "finetune": {"epochs": 1, "lr": 1e-3, "batch_size": 32},
    "baseline": {"name": "scratch"},
}  # fmt: skip
SIZES = {"trials": (10, 100, 1_000), "images": (16_000, 160_000, 1_600_000), "points": (1_000, 10_000, 100_000)}
NOTHING = {"trials": 2, "images": 16, "points": 20}  # the smallest of each
OFTEN, LONG = 5, 120.0  # runs of a command, unless so many seconds have passed


def main(argv: list[str]) -> None:
    """Time every size of every part and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--largest", type=float, default=1.0, help="a share: 0.1 ends every part one size earlier")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    ways: dict[str, Callable[[int, Path], list[str]]] = {"trials": trials, "images": images, "points": points}
    rows: list[tuple[str, str, str, str]] = []
    found: dict[str, Any] = {"cores": os.cpu_count()}
    for part in args.parts:
        sizes = [size for size in SIZES[part] if size <= args.largest * SIZES[part][-1]]
        alone, *times = (seconds_of(ways[part], size) for size in (NOTHING[part], *sizes))
        found[part] = exponent([NOTHING[part], *sizes], [alone, *times])
        found[f"{part}_s"] = [round(took, 1) for took in (alone, *times)]
        for size, took in zip((NOTHING[part], *sizes), (alone, *times), strict=True):
            rows.append((part, f"{size:,}", f"{took:.1f}", f"{1e3 * took / size:.2f}"))
    header = ("part", "of them", "seconds", "ms each")
    if args.write:
        exponents = [(part, "exponent", f"{found[part]:.2f}", "") for part in args.parts]
        write_table(args.write, "growth", [header, *rows, *exponents], command_of("bench.growth", argv))
    show(header, rows, found)


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """c of seconds = a + b * size^c, by least squares on the logarithms of the seconds; a and b are not negative."""
    log_sizes, log_seconds = np.log(sizes), np.log(seconds)

    def residuals(logs: np.ndarray) -> np.ndarray:
        own, each, power = logs
        return np.logaddexp(own, each + power * log_sizes) - log_seconds

    start = (log_seconds[0], log_seconds[-1] - log_sizes[-1], 1.0)
    return round(float(least_squares(residuals, start).x[2]), 3)


def seconds_of(command: Callable[[int, Path], list[str]], size: int) -> float:
    """Seconds of a command, the median of several runs where it takes little."""
    taken: list[float] = []
    while len(taken) < OFTEN and sum(taken) < LONG:
        taken.append(seconds_of_one(command, size))
    return median(taken)


def seconds_of_one(command: Callable[[int, Path], list[str]], size: int) -> float:
    """Seconds of one run in folders of its own. Raises SystemExit when it fails."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        words = [sys.executable, "-m", *command(size, Path(folder))]
        home = {"RAY_ROBUST_STORE": f"{folder}/store", "RAY_ROBUST_CACHE": f"{folder}/cache"}
        begun = time.monotonic()
        done = subprocess.run(words, env={**os.environ, **home}, capture_output=True, text=True, check=False)
        took = time.monotonic() - begun
        if done.returncode:
            raise SystemExit(
                f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return took


def trials(count: int, folder: Path) -> list[str]:
    """A sweep of so many trials, half of them from scratch."""
    spec = folder / "tiny.yaml"
    spec.write_text(yaml.safe_dump({**TINY, "seeds": count // 2}, sort_keys=False), "utf-8")
    return ["ray_robust.sweep", str(spec), "--out", str(folder / "run")]


def images(count: int, folder: Path) -> list[str]:
    """So many images rendered into a store."""
    per_class = max(1, count // 200)
    return ["ray_robust.ingest", "species", "--size", str(PX), "--set", f"images_per_class={per_class}",
            "--limit", str(count), "--out", str(folder / "filled")]  # fmt: skip


def points(count: int, folder: Path) -> list[str]:
    """An analysis of a table with so many points, ten of every cluster, in five groups."""
    random = np.random.default_rng(0)
    ability = random.normal(0.3, 0.5, count)
    group = np.arange(count) // 10 % 5
    table = pd.DataFrame({
        "id": 1 / (1 + np.exp(-ability)),
        "ood": 1 / (1 + np.exp(-(0.8 * ability - 0.9 + 0.1 * group + random.normal(0, 0.1, count)))),
        "group": [f"level-{level}" for level in group],
        "trial": [f"trial-{i // 10}" for i in range(count)],
    })  # fmt: skip
    path = folder / "points.csv"
    table.to_csv(path, index=False)
    columns = ["--id", "id", "--ood", "ood", "--group", "group", "--baseline", "level-0", "--cluster", "trial"]
    return ["analysis", str(path), *columns, "--out", str(folder / "report")]


if __name__ == "__main__":
    main(sys.argv[1:])
