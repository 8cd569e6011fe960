"""Effective robustness: how far a point lies above what the baseline trend expects at its ID score.

Owns `Baseline` (the reference line with its replicates), `Arm` (a group's points with their resampling), ER
per point, and the numbers that contrasts are made of: the mean ER of an arm, and its own line. ER is in percentage
points everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import bootstrap, clustered
from analysis.bootstrap import Quantity, Source, Weights
from analysis.groups import Resampled
from analysis.trend import Line, Scale, fit

KNOTS = 129  # the bands of the line are drawn through so many ID scores
PP = 100.0  # scores are fractions, ER is percentage points


@dataclass(frozen=True, eq=False)
class Baseline:
    """The reference trend: its line on the transformed axes, its ID range, and what resampling its trials does to it.

    name      the group it was fitted on
    low, high the lowest and highest ID score it was fitted on; outside them there is no ER, only extrapolation
    ids       its ranges, one per ID set: (column, lowest, highest), transformed; a point outside of one is outside
    shares    float [sets], how the ID sets make the axis (see `trend.shares`)
    changes   float [replicates, 1 + sets], the refitted coefficients less the fitted ones
    source    the line as a source of error
    p         the parameters that its trials pay for (see `bootstrap`)
    """

    name: str
    scale: Scale
    line: Line
    low: float
    high: float
    ids: tuple[tuple[str, float, float], ...]
    shares: np.ndarray
    changes: np.ndarray
    source: Source
    weights: Weights
    p: float

    def gradient(self, points: pd.DataFrame) -> np.ndarray:
        """What one unit of every coefficient does to the expected OOD score of each point: float [points, 1 + sets].

        The refitted lines enter errors through it, to first order: a replicate then costs the same for ten points and
        for a million, and any number of ID sets goes the same way.
        """
        rate = self.scale.rate(self.line.at(points["x"].to_numpy()))
        columns = [points[name].to_numpy() for name, _, _ in self.ids]
        return rate[:, None] * np.column_stack([np.ones(len(points)), *columns])

    def outside(self, points: pd.DataFrame) -> np.ndarray:
        """Which points lie beyond the scores that the line was fitted on, on any ID set: bool [points]."""
        found = np.zeros(len(points), bool)
        for name, low, high in self.ids:
            found |= ((points[name] < low) | (points[name] > high)).to_numpy()
        return found

    def band(self, arm: Arm) -> pd.DataFrame:
        """The line with its mean band (where the line itself is) and its prediction band (where a new baseline point
        is), both 95 % and pointwise: id, expected_ood, mean_low, mean_high, prediction_low, prediction_high; fractions.

        `arm` is the baseline's own. With several ID sets each moves along with the axis as it does in the baseline.
        """
        points = arm.points
        x = points["x"].to_numpy()
        knots = np.linspace(x.min(), x.max(), KNOTS)
        height, variance, spread = self.line.at(knots), np.zeros(KNOTS), x - x.mean()
        columns = [
            points[name].mean() + (knots - x.mean()) * (spread @ points[name].to_numpy()) / (spread @ spread)
            for name, _, _ in self.ids
        ]
        at = np.column_stack([np.ones(KNOTS), *columns])
        parts = [(self.source, self.changes @ at.T)]
        parts += [(r.source, r.lines[1][:, None] + r.lines[0][:, None] * knots) for r in arm.redrawn]
        each = [np.var(heights, axis=0) * source.factor for source, heights in parts]
        variance = np.sum(each, axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            df = variance**2 / np.sum([v**2 / s.df for v, (s, _) in zip(each, parts, strict=True)], axis=0)
        t = np.array([bootstrap.quantile(bootstrap.TWO_SIDED, d) for d in df])
        reach, wide = t * np.sqrt(variance), t * np.sqrt(variance + self.line.variance)
        back = self.scale.inverse
        return pd.DataFrame(
            {
                "id": back(knots),
                "expected_ood": back(height),
                "mean_low": back(height - reach),
                "mean_high": back(height + reach),
                "prediction_low": back(height - wide),
                "prediction_high": back(height + wide),
            }
        )


def baseline_of(arm: Arm, scale: Scale, line: Line, axes: Sequence[str], shares: np.ndarray) -> Baseline:
    """The baseline from its arm (columns id, x, y and the transformed ID sets `axes`) and the line through it."""
    points, weights = arm.points, arm.weights
    columns, x, y = points[list(axes)].to_numpy(float), points["x"].to_numpy(), points["y"].to_numpy()
    line = replace(line, variance=line.variance * (line.n - 2) / max(line.n - 1 - len(axes), 1))
    fitted = np.array([line.intercept, *(line.slope * shares)])
    changes = bootstrap.planes(weights, columns, y) - fitted
    p = bootstrap.parameters(weights.codes, x)
    source = Source("baseline line", weights.clusters, *bootstrap.correction(weights.clusters, p))
    ranges = tuple((str(c), float(points[c].min()), float(points[c].max())) for c in axes)
    low, high = float(points["id"].min()), float(points["id"].max())
    return Baseline(arm.name, scale, line, low, high, ranges, shares, changes, source, weights, p)


def per_point(points: pd.DataFrame, baseline: Baseline) -> pd.DataFrame:
    """`points` with expected_ood (a fraction), er, er_low, er_high (percentage points) and extrapolated.

    ER = OOD - h^-1(a + b h(ID)) (Taori et al. 2020). Its interval here carries the uncertainty of the baseline line
    only: how one fine-tuned model would come out again is not known from one model. Outside the baseline's ID range the
    expectation is an extrapolation, the point is marked and its interval left empty.
    """
    expected = baseline.scale.inverse(baseline.line.at(points["x"].to_numpy()))
    er = PP * (points["ood"].to_numpy() - expected)
    outside, gradient = baseline.outside(points), baseline.gradient(points)
    covariance = np.atleast_2d(np.cov(baseline.changes, rowvar=False, bias=True)) * baseline.source.factor
    error = np.sqrt(np.einsum("ij,jk,ik->i", gradient, covariance, gradient))
    reach = PP * bootstrap.quantile(bootstrap.TWO_SIDED, baseline.source.df) * np.where(outside, np.nan, error)
    return points.assign(expected_ood=expected, er=er, er_low=er - reach, er_high=er + reach, extrapolated=outside)


@dataclass(frozen=True, eq=False)
class Redrawn:
    """Points without each of the task's groups in turn, the baseline's line refitted every time.

    x, y    float [points, replicates] or [points, 1] where the groups are not of that side, transformed scores
    er      float [points, replicates], percentage points
    lines   the baseline's slopes and intercepts, float [replicates] each
    """

    source: Source
    x: np.ndarray
    y: np.ndarray
    er: np.ndarray
    lines: tuple[np.ndarray, np.ndarray]

    def of(self, rows: np.ndarray) -> Redrawn:
        """The same for some of the points."""
        return replace(self, x=self.x[rows], y=self.y[rows], er=self.er[rows])


def redraw(points: pd.DataFrame, resampled: Resampled, baseline: str, scale: Scale, clip: Mapping) -> Redrawn:
    """Transformed scores and ER of all points in every replicate of `resampled` (rows aligned with `points`), the
    baseline's line refitted to the scores of the same replicate. `clip` moves scores off 0 and 1, by column."""
    given = {"id": resampled.id, "ood": resampled.ood}
    moved = {
        side: clip[side](points[side].to_numpy(float)[:, None] if scores is None else scores)
        for side, scores in given.items()
    }
    x, y = scale.h(moved["id"]), scale.h(moved["ood"])
    own = (points["group"] == baseline).to_numpy()
    slopes, intercepts = least_squares(x[own], y[own])
    ood = points["ood"].to_numpy(float)[:, None] if resampled.ood is None else resampled.ood
    er = PP * (ood - scale.inverse(intercepts + slopes * x))
    return Redrawn(resampled.source, x, y, er, (slopes, intercepts))


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts of y on x along the first axis, [replicates] each; NaN where every x is the same."""
    mx, my = x.mean(0), y.mean(0)
    u = x - mx
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = (u * (y - my)).sum(0) / (u * u).sum(0)
    return slopes, my - slopes * mx


@dataclass(frozen=True, eq=False)
class Arm:
    """A group of the study: its points (with x, y, er, extrapolated), the weights of its trials, and its points without
    each of the task's groups. Rows of all three are aligned."""

    name: str
    points: pd.DataFrame
    weights: Weights
    redrawn: tuple[Redrawn, ...] = ()

    @property
    def trials(self) -> int:
        return self.weights.clusters

    def between(self, low: float, high: float) -> Arm:
        """The arm's points whose ID score lies in low..high."""
        rows = np.flatnonzero(self.points["id"].between(low, high))
        points = self.points.iloc[rows].reset_index(drop=True)
        return Arm(self.name, points, self.weights.of(rows), tuple(drawn.of(rows) for drawn in self.redrawn))


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean ER of some points of one group, of so many points and trials."""

    quantity: Quantity
    points: int
    trials: int

    @property
    def value(self) -> float:
        return self.quantity.value


def mean_of(arm: Arm, baseline: Baseline, low: float, high: float, chosen: np.ndarray | None = None) -> Mean | None:
    """Mean ER of those points of an arm whose ID score lies in low..high (inside the baseline's range), or None.

    `chosen` bool [points] restricts it further. The mean is over points; its error is over trials, the baseline's line
    and the task's groups. For the baseline itself the first two are one and the same draw, and are taken together.
    """
    points = arm.points
    inside = (points["id"].between(low, high) & ~points["extrapolated"]).to_numpy()
    if chosen is not None:
        inside = inside & chosen
    if not inside.any():
        return None
    codes, count = arm.weights.codes, int(inside.sum())
    er = np.where(inside, points["er"].to_numpy(), 0.0)
    trials = len(np.unique(codes[inside]))
    replicates = arm.weights.sums(er) / arm.weights.sums(inside.astype(float))
    by_line = -PP * (baseline.changes @ baseline.gradient(points.loc[inside]).mean(0))
    shared, twice = {}, {}
    for drawn in arm.redrawn:
        shared[drawn.source], twice[drawn.source] = _under_groups(drawn, inside, codes)
    name = f"trials of {arm.name}"
    if arm.name == baseline.name:
        own = bootstrap.part(replicates + by_line, trials, baseline.p, name)
    else:
        own, shared[baseline.source] = bootstrap.part(replicates, trials, name=name), by_line
    return Mean(Quantity(float(er.sum() / count), (own,), shared, twice), count, trials)


def _under_groups(drawn: Redrawn, inside: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean ER without each group, float [replicates], and the variance in it that the spread between trials holds
    too: how differently trials of one arm take to one group (the interaction of trial and group).

    The spread between trials is seen on one set of groups and so contains that interaction; what leaving groups out
    shows contains it again. It is taken off once, as two-way clustering does (Cameron, Gelbach and Miller 2011).
    """
    er, codes = drawn.er[inside], np.unique(codes[inside], return_inverse=True)[1]
    size = np.bincount(codes)
    by_trial = np.zeros((len(size), er.shape[1]))
    np.add.at(by_trial, codes, er)
    mean, share = er.mean(0), size / size.sum()
    if len(size) < 2:
        return mean, 0.0
    apart = np.var(by_trial / size[:, None] - mean, axis=1)
    return mean, float((share**2) @ apart) * len(size) / (len(size) - 1) * drawn.source.factor


@dataclass(frozen=True, eq=False)
class OwnLine:
    """The line through an arm's own points, with what its trials and the task's groups do to it.

    design     float [points, 2], one and the transformed ID score; `residuals` [points] and `clusters` int [points]
               are those of its rows
    groups     per source the refitted (slopes, intercepts), [replicates] each
    """

    arm: str
    line: Line
    design: np.ndarray
    residuals: np.ndarray
    clusters: np.ndarray
    groups: Mapping[Source, tuple[np.ndarray, np.ndarray]]

    def quantity(self, slope: float, intercept: float, value: float) -> Quantity:
        """The quantity of that value that moves by `slope` per unit of the slope, `intercept` per unit of the other."""
        combination = np.array([intercept, slope])
        own = clustered.part(self.design, self.residuals, combination, self.clusters, f"trials of {self.arm}")
        groups = {source: slope * slopes + intercept * heights for source, (slopes, heights) in self.groups.items()}
        return Quantity(value, (own,), groups)

    @property
    def slope(self) -> Quantity:
        """The slope, per unit of the transformed axes."""
        return self.quantity(1.0, 0.0, self.line.slope)

    @property
    def intercept(self) -> Quantity:
        """The height at h(ID) = 0."""
        return self.quantity(0.0, 1.0, self.line.intercept)

    def score_at(self, x: float, scale: Scale) -> Quantity:
        """The OOD score that the line has at the transformed ID score x, in percentage points."""
        height = float(self.line.at(x))
        rate = PP * float(scale.rate(np.float64(height)))
        return self.quantity(rate * x, rate, PP * float(scale.inverse(np.float64(height))))


def own_line(arm: Arm) -> OwnLine | None:
    """The line through an arm's points with what makes it uncertain, its trials and the task's groups; None where
    there is none (see `trend.fit`)."""
    x, y = arm.points["x"].to_numpy(), arm.points["y"].to_numpy()
    line = fit(x, y)
    if line is None:
        return None
    groups = {drawn.source: least_squares(drawn.x, drawn.y) for drawn in arm.redrawn}
    return OwnLine(arm.name, line, np.column_stack([np.ones_like(x), x]), y - line.at(x), arm.weights.codes, groups)
