"""Which property matters: mean ER of the groups regressed on the numbers that the sweep varies, in tenfolds.

Owns the choice of the factors and their regression. A factor enters as its decimal logarithm, so a slope reads
"points of ER per tenfold".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import robustness
from analysis.bootstrap import Estimate
from analysis.robustness import Baseline, Mean

FACTORS = {"num_images": "pre-training images", "num_classes": "classes"}  # images per class is their ratio
WORST_CONDITION = 30.0  # Belsley, Kuh and Welsch (1980): beyond it two factors cannot be told apart


@dataclass(frozen=True)
class Factor:
    """A factor's slope in percentage points of ER per tenfold, and the share of the variance between trials that it
    explains beyond the other factors."""

    name: str
    slope: Estimate
    partial_r2: float
    levels: int


def factors(
    groups: Mapping[str, pd.DataFrame], means: Mapping[str, Mean], baseline: Baseline
) -> tuple[list[Factor], list[str]]:
    """The regression over all groups but the baseline, and what had to be left out of it, as sentences.

    groups, means   by name; the points carry trial, er, extrapolated and the factors' columns
    The slopes are weighted least squares over the groups' means, weighted by trials: weighted sums of means, whose
    intervals follow from resampling whole trials and refitting the baseline, as everywhere. They are tests of a trend
    over ordered levels, one in place of all pairs.
    """
    names = [name for name in means if name != baseline.name and not _between_weights(groups[name])]
    levels = {name: {f: _level(groups[name], f) for f in FACTORS} for name in names}
    varied = [f for f in FACTORS if len({levels[name][f] for name in names} - {None}) > 1]
    if not varied:
        return [], []
    short = [f"{f} has no single value in some groups: no trend is fitted" for f in varied
             if any(levels[name][f] is None for name in names)]  # fmt: skip
    if short:
        return [], short
    x = np.log10([[levels[name][f] for f in varied] for name in names])
    trials = np.array([means[name].trials for name in names], float)
    if len(names) < len(varied) + 2:
        return [], [f"{len(names)} groups are too few for a trend over {' and '.join(varied)}"]
    spread = (x - x.mean(0)) / x.std(0)
    if np.linalg.cond(spread) > WORST_CONDITION:
        return [], [f"{' and '.join(varied)} were never varied apart: their effects cannot be told from each other"]
    design = np.column_stack([np.ones(len(names)), x])
    solve = np.linalg.solve(design.T @ (design * trials[:, None]), (design * trials[:, None]).T)
    ordered = [means[name] for name in names]
    per_trial = _trial_means({name: groups[name] for name in names}, dict(zip(names, design, strict=True)))
    return [
        Factor(f, robustness.weighted(ordered, solve[i].tolist(), baseline), _partial_r2(*per_trial, i),
               len(np.unique(x[:, i - 1])))
        for i, f in enumerate(varied, 1)
    ], []  # fmt: skip


def _between_weights(points: pd.DataFrame) -> bool:
    """Whether these are points of WiSE-FT: their trials already enter as what they were fine-tuned to."""
    return "wise_alpha" in points and bool(points["wise_alpha"].notna().any())


def _level(points: pd.DataFrame, factor: str) -> float | None:
    """The positive number that all points of a group share, or None."""
    if factor not in points:
        return None
    values = pd.to_numeric(points[factor], errors="coerce").dropna().unique()
    return float(values[0]) if len(values) == 1 and values[0] > 0 else None


def _trial_means(groups: Mapping[str, pd.DataFrame], rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Design [trials, k] and mean ER [trials], one row per trial with points inside the baseline's range."""
    design, er = [], []
    for name, points in groups.items():
        means = points.loc[~points["extrapolated"]].groupby("trial", sort=False)["er"].mean()
        design += [rows[name]] * len(means)
        er += means.tolist()
    return np.array(design), np.array(er)


def _partial_r2(design: np.ndarray, er: np.ndarray, column: int) -> float:
    """(SSE without the column - SSE with it) / SSE without it."""

    def sse(x: np.ndarray) -> float:
        return float(((er - x @ np.linalg.lstsq(x, er, rcond=None)[0]) ** 2).sum())

    without = sse(np.delete(design, column, axis=1))
    return 1 - sse(design) / without if without > 0 else float("nan")
