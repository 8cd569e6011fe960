"""Rows of one training taken as independent: what a plain table claims then, and how often it is asked about them.

`python -m bench.dependence [--replicates N] [--only RHO] [--write FILE]`. Four groups without any effect, 5 trainings
each, 6 points a training whose distances from the line correlate by rho, written as a CSV and read as the command reads
it. The last line is one JSON object. With `--write docs/statistics.md` the rows of these correlations replace theirs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis.findings import findings
from analysis.input.plain_table import read_csv
from analysis.input.table import Table
from analysis.options import Options
from analysis.study import Analysis, analyse_all
from bench import show, table_in, write_table
from ray_robust.errors import UserError

SLOPE, INTERCEPT = 0.76, -0.86  # of the true line, probit scale
SD = 0.0144  # of a point's distance from it, as a fraction of OOD scores
OPTIONS = Options("scratch")
CORRELATIONS = (0.0, 0.1, 0.3, 0.7)
# how the column that tells trainings apart may be called: by a telling name; by another, with a number per training, or
# with numbers that every group has (of text that lies in one group each is asked whatever its rows say)
COLUMNS = {"trial": "trial", "seed": "seed", "folder": "training", "number": "seed"}


def null_sweep(correlation: float, seed: int, levels: int = 4, each: int = 5, points: int = 6) -> pd.DataFrame:
    """Groups without any effect; columns group, trial (a name of its own), seed (0, 1, ... in every group), rate, id,
    ood."""
    random = np.random.default_rng(seed)
    group, trial, rate = (axis.ravel() for axis in np.indices((levels, each, points)))
    x = -0.6 + 0.25 * rate + 0.08 * random.standard_normal(len(rate))
    shared = random.standard_normal((levels, each))[group, trial]
    away = SD * (np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * random.standard_normal(len(x)))
    names = [f"g{number}" if number else "scratch" for number in group]
    return pd.DataFrame(
        {
            "group": names,
            "trial": [f"{name}-{number}" for name, number in zip(names, trial, strict=True)],
            "seed": trial,
            "rate": rate,
            "id": ndtr(x).round(5),
            "ood": (ndtr(INTERCEPT + SLOPE * x) + away).clip(0.001, 0.999).round(5),
        }
    )


def replicate(correlation: float, seed: int) -> dict[str, Any]:
    """One sweep: whether each name of the column is asked for, and what is claimed of its rows and of its trainings."""
    frame = null_sweep(correlation, seed).assign(training=lambda f: pd.factorize(f["trial"])[0])
    with tempfile.TemporaryDirectory() as folder:
        read = partial(_read, Path(folder, "t.csv"))
        said: dict[str, Any] = {}
        for name, old in COLUMNS.items():
            table = read(frame[["group", "rate", "id", "ood"]].assign(**{name: frame[old]}), None)
            said[f"asked for {name}"] = table is None
            said[f"named {name}"] = table is None or any(repr(name) in note for note in table.warnings)
        for what, cluster in (("rows", "none"), ("trainings", "trial")):
            table = read(frame, cluster)
            assert table is not None
            found = analyse_all(table, OPTIONS)[0]
            said[what] = any(finding.kind == "differs" for finding in findings(found))
            said[f"covered {what}"] = _covered(found)
    return said


def _read(file: Path, frame: pd.DataFrame, cluster: str | None) -> Table | None:
    """The table, or None where it is refused."""
    frame.to_csv(file, index=False)
    try:
        return read_csv(str(file), id="id", ood="ood", group="group", options=OPTIONS, cluster=cluster)
    except UserError:
        return None


def _covered(found: Analysis) -> float:
    """The share of groups whose interval of the mean ER holds 0."""
    groups = found.groups.loc[found.groups["group"] != "scratch"]
    return float(((groups["er_low"] <= 0) & (groups["er_high"] >= 0)).mean())


def run(correlation: float, replicates: int, processes: int) -> pd.DataFrame:
    """All replicates, a row each."""
    work, seeds = partial(replicate, correlation), range(replicates)
    if processes == 1:
        return pd.DataFrame([work(seed) for seed in seeds])
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pd.DataFrame(pool.map(work, seeds, chunksize=8))


def summary(said: pd.DataFrame) -> dict[str, float]:
    """Shares over the replicates; "left NAME" is that of sweeps with a false claim that were not asked about, "unmarked
    NAME" that of those without a note either."""
    found = {"sweeps": len(said), **{key: round(float(said[key].mean()), 4) for key in said}}
    for name in COLUMNS:
        found[f"left {name}"] = round(float((said["rows"] & ~said[f"asked for {name}"]).mean()), 4)
        found[f"unmarked {name}"] = round(float((said["rows"] & ~said[f"named {name}"]).mean()), 4)
    return found


def rows(found: dict[float, dict[str, float]]) -> Iterator[tuple[str, ...]]:
    """The table: a line per correlation."""
    unnamed = ("folder", "number")
    yield ("correlation", "sweeps", "rows: false claims", "coverage", "`--cluster`: false claims", "coverage",
           "`trial`, `seed`: asked", "claims left",
           *(f"`{name}`: {what}" for name in unnamed for what in ("asked", "claims left", "unmarked")))  # fmt: skip
    keys = ("rows", "covered rows", "trainings", "covered trainings", "asked for trial", "left trial",
            *(f"{what} {name}" for name in unnamed for what in ("asked for", "left", "unmarked")))  # fmt: skip
    for correlation, one in found.items():
        yield (f"{correlation:g}", f"{one['sweeps']:.0f}", *(f"{100 * one[key]:.1f} %" for key in keys))


def main(argv: list[str]) -> None:
    """Run all correlations, print the table and the JSON line, write the document's table when asked to."""
    parser = argparse.ArgumentParser("python -m bench.dependence", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--only", type=float, action="append", choices=CORRELATIONS, help="these correlations")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    found = {}
    for correlation in args.only or CORRELATIONS:
        begun = time.perf_counter()
        found[correlation] = summary(run(correlation, args.replicates, args.processes))
        print(f"{correlation:g}: {time.perf_counter() - begun:.0f} s {found[correlation]}", flush=True)
    lines = list(rows(found))
    if args.write:
        known = {row[0]: row for row in [*table_in(args.write, "dependence")[1:], *lines[1:]]}
        write_table(args.write, "dependence", [lines[0], *(known[key] for key in sorted(known, key=float))])
    show(lines[0], lines[1:], {f"{correlation:g}": one for correlation, one in found.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
