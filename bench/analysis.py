"""The analysis at scale: `python -m bench.analysis [--replicates N] [--points N] [--groups N] [--classes N] [--rows N]`

Makes macro-F1 again under draws of test groups for every point, beside a plain loop over scikit-learn's f1_score, which
runs on a sample of the same draws and is scaled up; both give the same scores, or it fails. Then a table of many rows
is read and analysed. The last line has `ours_over_sklearn_loop` (the loop's time over ours), seconds and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis.input.plain_table import read_csv
from analysis.options import Options
from analysis.stats import group_jackknife
from analysis.stats.group_jackknife import Counts
from analysis.study import analyse_all
from bench import show, write_table
from bench.coverage import shares
from bench.resampling import drawn

IMAGES = 42_791  # of iWildCam's OOD test
EQUAL = 1e-12


def main(argv: list[str]) -> None:
    """Measure both, print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.analysis", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--replicates", type=int, default=2_000)
    add("--points", type=int, default=300)
    add("--groups", type=int, default=48)
    add("--classes", type=int, default=182)
    add("--images", type=int, default=IMAGES)
    add("--rows", type=int, default=1_000_000)
    add("--sample", type=int, default=40, help="calls of f1_score that are timed")
    add("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    before = peak_gb()
    sizes = (args.replicates, args.points, args.groups, args.classes, args.images, args.sample)
    (ours, ours_cpu), (loop, loop_cpu) = resampling(*sizes)
    with_counts = peak_gb()
    (read, read_cpu), (analysed, analysed_cpu) = big_table(args.rows)
    told = {
        "ours_over_sklearn_loop": round(loop / ours, 1),
        "cpu_ours_over_sklearn_loop": round(loop_cpu / ours_cpu, 1),
        "seconds_ours": round(ours, 2),
        "cpu_seconds_ours": round(ours_cpu, 2),
        "seconds_sklearn_loop": round(loop, 1),
        "sampled_calls": args.sample,
        "replicates": args.replicates,
        "points": args.points,
        "peak_gb": round(with_counts, 2),
        "peak_gb_before": round(before, 2),
        "rows": args.rows,
        "seconds_rows": round(read + analysed, 2),
        "cpu_seconds_rows": round(read_cpu + analysed_cpu, 2),
        "peak_gb_rows": round(peak_gb(), 2),
    }
    what = f"{args.replicates:,} draws x {args.points} points x {args.classes} classes x {args.groups} groups"
    lines = [
        (f"macro-F1, {what}", f"{ours:.1f} s", f"{ours_cpu:.1f} s", f"{with_counts:.2f} GB"),
        (f"a loop over f1_score ({args.sample} calls, scaled)", f"{loop:,.0f} s", f"{loop_cpu:,.0f} s", ""),
        (f"{args.rows:,} rows: read", f"{read:.1f} s", f"{read_cpu:.1f} s", ""),
        (f"{args.rows:,} rows: analysed", f"{analysed:.1f} s", f"{analysed_cpu:.1f} s", f"{peak_gb():.2f} GB"),
    ]
    header = ("what", "time", "of the processor", "peak memory")
    if args.write:
        write_table(args.write, "speed", [header, *lines])
    show(header, lines, told)


Times = tuple[float, float]  # seconds on the clock, and of the processor: they part where other programs run


def now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def peak_gb() -> float:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def resampling(replicates: int, points: int, count: int, classes: int, images: int, sample: int) -> tuple[Times, Times]:
    """The time of ours, and of the loop, scaled from `sample` of its calls. Raises where the two disagree."""
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    sizes = random.multinomial(images, shares(random.lognormal(0, 1, count)))
    group = np.repeat(np.arange(count), sizes)
    label = np.minimum(random.zipf(1.3, images) - 1, classes - 1)
    label[:classes] = np.arange(classes)
    guesses = [np.where(random.random(images) < 0.6, label, random.permutation(label)).astype(np.int16)
               for _ in range(points)]  # fmt: skip
    counts = counted(group, label, guesses, count, classes)
    draws = drawn(count, replicates, random)
    begun = now()
    found = group_jackknife.scores("macro_f1", draws, counts)
    ours = now() - begun
    rows = [np.flatnonzero(group == g) for g in range(count)]
    calls = random.integers(0, (points, replicates), (sample, 2))
    begun = now()
    for point, replicate in calls:
        picked = np.concatenate([np.tile(own, times) for own, times in zip(rows, draws[replicate], strict=True)])
        truth, guess = label[picked], guesses[point][picked]
        wanted = f1_score(truth, guess, average="macro", labels=np.unique(truth), zero_division=0)
        if abs(wanted - found[point, replicate]) > EQUAL:
            raise AssertionError(f"point {point}, draw {replicate}: {found[point, replicate]} is not {wanted}")
    each = (now() - begun) / sample
    return (*ours,), (*each * points * replicates,)


def counted(group: np.ndarray, label: np.ndarray, guesses: list[np.ndarray], count: int, classes: int) -> Counts:
    """Predictions as counts, every class present."""
    size, at = count * classes, group * classes + label
    truth = np.bincount(at, minlength=size).reshape(count, classes)
    cells, hits, guessed = [], [], []
    for guess in guesses:
        own = np.bincount(group * classes + guess, minlength=size)
        used = np.flatnonzero(own)
        cells.append(used)
        guessed.append(own[used])
        hits.append(np.bincount(at[guess == label], minlength=size)[used])
    starts = np.cumsum([0, *map(len, cells)])
    names = tuple(f"g{i:03d}" for i in range(count)), tuple(map(str, range(classes)))
    joined = (np.concatenate(parts) for parts in (cells, hits, guessed))
    return Counts(*names, truth, truth.sum(1), starts, *joined)


def big_table(rows: int) -> tuple[Times, Times]:
    """The time to read, and to analyse, a CSV of so many points: ten groups, fifty points a trial."""
    random = np.random.default_rng(1)
    x = random.uniform(-1, 1, rows)
    group = np.arange(rows) % 10
    frame = pd.DataFrame(
        {
            "arm": np.array(["scratch", *(f"arm{i}" for i in range(1, 10))])[group],
            "trial": np.arange(rows) // 500 * 10 + group,
            "id": ndtr(x).round(6),
            "ood": ndtr(0.8 * x - 0.6 + 0.02 * group + 0.05 * random.standard_normal(rows)).round(6),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        frame.to_csv(path, index=False)
        options = Options("scratch", unit="cluster")
        begun = now()
        table = read_csv(str(path), id="id", ood="ood", group="arm", cluster="trial", options=options)
        middle = now()
        analyse_all(table, options)
        return (*(middle - begun),), (*(now() - middle),)


if __name__ == "__main__":
    main(sys.argv[1:])
