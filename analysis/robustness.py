"""Effective robustness: how far a point lies above what the baseline trend expects at its ID score.

Owns `Baseline` (the reference line with its replicates), ER per point, and `Mean`, the mean ER of some points with what
is needed to put an interval on it or on any weighted sum of such means. ER is in percentage points everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import bootstrap
from analysis.bootstrap import Estimate, Part, Weights
from analysis.trend import Line, Scale

KNOTS = 257  # the refitted lines are kept at so many ID scores; linear in between is exact to 0.001 points of ER
PP = 100.0  # scores are fractions, ER is percentage points


@dataclass(frozen=True, eq=False)
class Baseline:
    """The reference trend: its line on the transformed axes, its ID range, and what resampling its trials does to it.

    name      the group it was fitted on
    low, high the lowest and highest ID score it was fitted on; outside them there is no ER, only extrapolation
    knots     float [KNOTS], transformed ID scores over that range
    curves    float [replicates, KNOTS], the expected OOD score (a fraction) at each knot under each replicate
    heights   float [replicates, KNOTS], the same on the transformed axis
    clusters, p   what the replicates rest on (see `bootstrap`)
    """

    name: str
    scale: Scale
    line: Line
    low: float
    high: float
    knots: np.ndarray
    curves: np.ndarray
    heights: np.ndarray
    weights: Weights
    p: float

    def part(self, replicates: np.ndarray) -> Part:
        """The part of an estimate's error that comes from the line: `replicates` differ only in the line."""
        return bootstrap.part(replicates, self.weights.clusters, self.p)

    def knot_weights(self, x: np.ndarray) -> np.ndarray:
        """Weights float [KNOTS] with which the knots of a curve give its mean over the points x, by linear
        interpolation: so a replicate costs the same for ten points and for a million."""
        position = np.clip((x - self.knots[0]) / (self.knots[1] - self.knots[0]), 0, KNOTS - 1)
        left = np.minimum(position.astype(int), KNOTS - 2)
        right_share = position - left
        total = np.bincount(left, 1 - right_share, KNOTS) + np.bincount(left + 1, right_share, KNOTS)
        return total / len(x)

    def band(self) -> pd.DataFrame:
        """The line with its mean band (where the line itself is) and its prediction band (where a new baseline point
        is), both 95 % and pointwise: id, expected_ood, mean_low, mean_high, prediction_low, prediction_high; fractions.
        """
        factor, df = bootstrap.correction(self.weights.clusters, self.p)
        t = bootstrap.quantile(bootstrap.TWO_SIDED, df)
        height, variance = self.line.at(self.knots), np.var(self.heights, axis=0) * factor
        reach, wide = t * np.sqrt(variance), t * np.sqrt(variance + self.line.variance)
        back = self.scale.inverse
        return pd.DataFrame(
            {
                "id": back(self.knots),
                "expected_ood": back(height),
                "mean_low": back(height - reach),
                "mean_high": back(height + reach),
                "prediction_low": back(height - wide),
                "prediction_high": back(height + wide),
            }
        )


def baseline_of(points: pd.DataFrame, name: str, scale: Scale, line: Line, weights: Weights) -> Baseline:
    """The baseline from its points (columns id, x, y: the ID score and both transformed scores)."""
    x, y = points["x"].to_numpy(), points["y"].to_numpy()
    slopes, intercepts = bootstrap.lines(weights, x, y)
    knots = np.linspace(x.min(), x.max(), KNOTS)
    heights = intercepts[:, None] + slopes[:, None] * knots
    low, high = points["id"].min(), points["id"].max()
    p = bootstrap.parameters(weights.codes, x)
    return Baseline(name, scale, line, low, high, knots, scale.inverse(heights), heights, weights, p)


def per_point(points: pd.DataFrame, baseline: Baseline) -> pd.DataFrame:
    """`points` with expected_ood (a fraction), er, er_low, er_high (percentage points) and extrapolated.

    ER = OOD - h^-1(a + b h(ID)) (Taori et al. 2020). Its interval here carries the uncertainty of the baseline line
    only: how one fine-tuned model would come out again is not known from one model. Outside the baseline's ID range the
    expectation is an extrapolation, the point is marked and its interval left empty.
    """
    x = points["x"].to_numpy()
    expected = baseline.scale.inverse(baseline.line.at(x))
    er = PP * (points["ood"].to_numpy() - expected)
    outside = ((points["id"] < baseline.low) | (points["id"] > baseline.high)).to_numpy()
    factor, df = bootstrap.correction(baseline.weights.clusters, baseline.p)
    error = np.interp(x, baseline.knots, np.sqrt(np.var(baseline.curves, axis=0) * factor))
    reach = np.where(outside, np.nan, PP * bootstrap.quantile(bootstrap.TWO_SIDED, df) * error)
    return points.assign(expected_ood=expected, er=er, er_low=er - reach, er_high=er + reach, extrapolated=outside)


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean ER of some points of one group. `own` is its error from that group's trials with the line held fixed,
    `by_line` float [replicates] the mean under each refitted line with the trials held fixed."""

    value: float
    points: int
    trials: int
    own: Part
    by_line: np.ndarray


def mean_of(points: pd.DataFrame, weights: Weights, baseline: Baseline, low: float, high: float) -> Mean | None:
    """Mean ER of those points of a group whose ID score lies in low..high (inside the baseline's range), or None.

    `points` are all points of the group, in the order that `weights` was drawn for. The mean is over points; its error
    is over trials. For the baseline itself both errors are one and the same draw, and are taken together.
    """
    inside = (points["id"].between(low, high) & ~points["extrapolated"]).to_numpy()
    if not inside.any():
        return None
    er = np.where(inside, points["er"].to_numpy(), 0.0)
    trials = len(np.unique(weights.codes[inside]))
    replicates = weights.sums(er) / weights.sums(inside.astype(float))
    curves = PP * (baseline.curves @ baseline.knot_weights(points["x"].to_numpy()[inside]))
    by_line = er.sum() / inside.sum() + curves.mean() - curves
    own = bootstrap.part(replicates, trials)
    if points["group"].iloc[0] == baseline.name:
        own, by_line = bootstrap.part(replicates + by_line - by_line.mean(), trials, baseline.p), np.zeros_like(curves)
    return Mean(float(er.sum() / inside.sum()), int(inside.sum()), trials, own, by_line)


def weighted(means: Sequence[Mean], weights: Sequence[float], baseline: Baseline) -> Estimate:
    """sum of weights * means, with an interval: every group's own error, and the line's, which they share."""
    parts = [Part(w * w * m.own.variance, m.own.df) for w, m in zip(weights, means, strict=True) if w]
    shared = sum(w * m.by_line for w, m in zip(weights, means, strict=True))
    value = float(sum(w * m.value for w, m in zip(weights, means, strict=True)))
    return bootstrap.combine(value, [*parts, baseline.part(shared)])
