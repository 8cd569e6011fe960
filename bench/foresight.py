"""Do predictions come true? `python -m bench.foresight [--replicates N] [--only power|surfaces] [--write FILE]`.

Two things are predicted: the power of a design (`analysis.predict.power`) and ER of mixtures that were not trained
(`analysis.predict.predict`). Both are simulated with a known truth, and counted: how often a difference predicted to
be found in 80 % of sweeps is; how often 95 % intervals of a surface hold it, how often pure noise is refused. The last
line is one JSON object. With `--write docs/prediction.md` the tables replace what stands between their marks there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis import study
from analysis.options import Options
from analysis.predict import surface, variances
from analysis.predict.design import Design
from analysis.predict.power import power
from analysis.predict.spread import Spread
from analysis.scales import SCALES
from analysis.stats import contrasts
from analysis.stats.task_points import Comparison, TaskPoints
from bench import filled, show

SLOPE, INTERCEPT = 0.76, -0.86  # of the true baseline line, probit scale
LEVELS = ("low", "middle", "high")
TRIAL_SD, POINT_SD, POINTS = 0.012, 0.008, 6  # of OOD scores, fractions; points of a trial
REFERENCE = 400  # trials a group of the run that a design's power is predicted from
OPTIONS = Options("scratch")
MARGIN = 2.0


# --- power


def simulated(er: Iterable[float], trials: int, seed: int, paired: bool = False) -> pd.DataFrame:
    """Points of a sweep with the baseline and `LEVELS`, each with its true ER in percentage points; `paired`: with the
    seeds of its trials, which all groups share."""
    random, rows = np.random.default_rng(seed), []
    for group, effect in zip(("scratch", *LEVELS), (0.0, *er), strict=True):
        for trial in range(trials):
            offset = effect / 100 + TRIAL_SD * random.standard_normal()
            x = np.linspace(-0.8, 1.0, POINTS) + 0.08 * random.standard_normal(POINTS)
            ood = ndtr(INTERCEPT + SLOPE * x) + offset + POINT_SD * random.standard_normal(POINTS)
            columns = {"trial": f"{group}-{trial}", "group": group, "finetune": [f"lr{i}" for i in range(POINTS)]}
            columns |= {"seed": trial} if paired else {}
            rows.append(pd.DataFrame({**columns, "id": ndtr(x), "ood": np.clip(ood, 0.001, 0.999)}))
    return pd.concat(rows, ignore_index=True)


def analysed(points: pd.DataFrame) -> Comparison:
    """The steps of an analysis that contrasts need, and no other."""
    comparison = TaskPoints.of(points, OPTIONS, ()).compare(SCALES[OPTIONS.scale])
    assert comparison is not None
    return comparison


def spread() -> Spread:
    """What a large run of the simulated world says about the spread of ER."""
    return variances.spread_of(study.analyse("task", simulated((0, 0, 0), REFERENCE, 1), OPTIONS), "a simulated run")


def found(seed: int, trials: int, paired: bool, group: float, pair: float, provable: float) -> list[bool]:
    """One sweep: is the group's effect found, the pair's, none where there is none, and equivalence proved?"""
    comparison = analysed(simulated((0.0, group, pair), trials, 1_000 + seed, paired))
    rows = contrasts.contrast(comparison.groups, comparison.baseline, provable).set_index(["a", "b"])
    null = rows.loc[("low", "scratch")]
    proved = max(abs(null.low90), abs(null.high90)) < provable  # by itself, before Holm's correction
    return [rows.p["middle", "scratch"] < 0.05, rows.p["high", "low"] < 0.05, null.p < 0.05, bool(proved)]


def power_rows(replicates: int, each: Callable[..., Any], trials: Iterable[int] = (3, 5, 10)) -> list[dict[str, Any]]:
    """Predicted and simulated power of designs with so many trials a group."""
    told, known = [], spread()
    for count, paired in product(trials, (True, False)):
        design = Design(dict.fromkeys(LEVELS, count), count, POINTS, POINTS, {}, margin=MARGIN, same_seeds=paired)
        group, pair = power(design, known)
        job = partial(
            found, trials=count, paired=paired, group=group.detectable, pair=pair.detectable, provable=group.provable
        )
        shares = np.mean(list(each(job, range(replicates))), axis=0)
        keys = ("group found", "pair found", "found where none is", "proved")
        predicted = {"trials": count, "seeds": "the same" if paired else "others", "group": group.detectable,
                     "pair": pair.detectable, "provable": group.provable}  # fmt: skip
        told.append({**predicted, **dict(zip(keys, shares.tolist(), strict=True))})
    return told


# --- surfaces


def _hill(x: np.ndarray) -> np.ndarray:
    return 6 * x[:, 0] - 12 * (x[:, 0] - 0.8) ** 2 + 2 * x[:, 1] - 8 * (x[:, 2] - 0.6) ** 2


def _waves(x: np.ndarray) -> np.ndarray:
    return 3 * np.sin(3 * x[:, 0]) + 2 * np.cos(4 * x[:, 1] * x[:, 2])


def _plane(x: np.ndarray) -> np.ndarray:
    return 5 * x[:, 0] + x[:, 1]


def _nothing(x: np.ndarray) -> np.ndarray:
    return np.zeros(len(x))


# name: surface, mixtures, trials of each, standard deviation of a trial
SURFACES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, int, float]] = {
    "a hill, 30 mixtures": (_hill, 30, 1, 1.0),
    "a hill, 60 mixtures, more noise": (_hill, 60, 1, 1.5),
    "a hill, 30 mixtures of two trials": (_hill, 30, 2, 1.5),
    "waves, 40 mixtures": (_waves, 40, 1, 0.5),
    "a plane, 40 mixtures": (_plane, 40, 1, 1.0),
    "nothing but noise, 30 mixtures": (_nothing, 30, 1, 1.0),
}


def surfaced(seed: int, name: str) -> list[float]:
    """One search over three parameters: the share of places in the tried region whose interval holds the truth, whether
    that of the best does, how far the best falls short of the true top, whether the surface is refused, and the share
    of measured values inside the interval that was made without them."""
    truth, mixtures, trials, noise = SURFACES[name]
    random = np.random.default_rng([seed, len(name)])
    x = random.random((mixtures, 3))
    each = truth(x)[:, None] + noise * random.standard_normal((mixtures, trials))
    y, counts = each.mean(1), np.full(mixtures, float(trials))
    within, df = float(((each - y[:, None]) ** 2).sum()), float(mixtures * (trials - 1))
    chosen = np.array([random.choice(mixtures, 4, replace=False) for _ in range(200)])
    places = np.einsum("ij,ijk->ik", random.dirichlet(np.ones(4), 200), x[chosen])
    values, real = surface.fit(x, y, counts, within, df).at(places), truth(places)
    low, high = values.interval()
    held, best = (low <= real) & (real <= high), int(values.value.argmax())
    check = surface.cross_validate(x, y, counts, within, df, seed)
    seen = (check.low <= y) & (y <= check.high)
    return [held.mean(), float(held[best]), float(real.max() - real[best]), float(not check.trusted), seen.mean()]


def surface_rows(replicates: int, each: Callable[..., Any], names: Iterable[str] = SURFACES) -> list[dict[str, Any]]:
    """What becomes of every known surface."""
    keys = ("covered", "covered at the best", "behind the top", "refused", "left out, inside")
    told = []
    for name in names:
        shares = np.mean(list(each(partial(surfaced, name=name), range(replicates))), axis=0)
        told.append({"surface": name, **dict(zip(keys, shares.tolist(), strict=True))})
    return told


# --- the command


def main(argv: list[str]) -> None:
    """Simulate, print the tables and the JSON line, write the document's tables when asked to."""
    parser = argparse.ArgumentParser("python -m bench.foresight", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--only", choices=("power", "surfaces"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the tables into this document")
    args = parser.parse_args(argv)
    made = {"power": power_rows, "surfaces": surface_rows}
    found = {}
    with multiprocessing.Pool(args.processes) as pool:
        for name in [args.only] if args.only else made:
            begun = time.perf_counter()
            found[name] = rows = made[name](args.replicates, partial(pool.imap, chunksize=5))
            print(f"{name}: {args.replicates} replicates in {time.perf_counter() - begun:.0f} s\n{_markdown(rows)}\n")
            if args.write:
                args.write.write_text(filled(args.write.read_text("utf-8"), {name: _markdown(rows)}), "utf-8")
    show([], [], {"replicates": args.replicates, **found})


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [" | ".join(rows[0]), "|".join("---" for _ in rows[0])]
    lines += [" | ".join(_cell(key, value) for key, value in row.items()) for row in rows]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _cell(key: str, value: Any) -> str:
    if isinstance(value, str | int):
        return str(value)
    points = key in ("group", "pair", "provable", "behind the top")
    return f"{value:.2f}" if points else f"{value:.1%}"


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
