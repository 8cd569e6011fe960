"""Effective robustness: how far a point lies above what the baseline trend expects at its ID score.

Owns `Baseline` (the reference line with its error), `Arm` (a group's points with what they can be repeated over), ER
per point, and the numbers that contrasts are made of: the mean ER of an arm, and its own line. ER is in percentage
points everywhere. Which curve the line may be is in `line_models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.scales import PP, Scale
from analysis.stats import cluster_robust, estimates
from analysis.stats.cluster_robust import Robust
from analysis.stats.group_jackknife import Resampled
from analysis.stats.line_models import LineModel, coefficients, solve
from analysis.stats.quantities import Quantity, Source
from analysis.stats.trend import Line, fit

KNOTS = 129  # the bands of the line are drawn through so many ID scores
LINE = "baseline line"  # the name of its error, beside those of trials and groups


def effective_robustness(ood: ArrayLike, height: ArrayLike, scale: Scale, unit: float = PP) -> np.ndarray:
    """Return the effective robustness of each point: OOD - h^-1(height), of which the height is that of the baseline's
    line at the point's ID score, a + b h(ID).

    ood     OOD scores, fractions, any shape
    height  expected OOD scores on the transformed axis, of the same shape
    unit    how many of it a score of 1 is: 100 for percentage points, 1 for fractions
    Taori et al., "Measuring Robustness to Natural Distribution Shifts in Image Classification" (NeurIPS 2020), eq. 1;
    the transformed axes are those of Miller et al., "Accuracy on the Line" (ICML 2021).
    """
    return unit * (np.asarray(ood, float) - scale.inverse(height))


@dataclass(frozen=True, eq=False)
class Baseline:
    """The reference trend: its curve on the transformed axes, its ID range, and how sure it is.

    name      the group it was fitted on
    line      the straight line through its points, whatever the model
    low, high the lowest and highest ID score it was fitted on; outside them there is no ER, only extrapolation
    ids       its ranges, one per ID set: (column, lowest, highest), transformed; a point outside of one is outside
    shares    float [sets], how the ID sets make the axis (see `trend.shares`)
    model     what the expectation is made of; `coefficients` float [k] are those of its columns
    errors    of the coefficients, over the baseline's trials
    on_axis   ER is measured along the transformed axis, as if a unit of it were one point everywhere
    """

    name: str
    scale: Scale
    line: Line
    low: float
    high: float
    ids: tuple[tuple[str, float, float], ...]
    shares: np.ndarray
    model: LineModel
    coefficients: np.ndarray
    errors: Robust
    on_axis: bool = False

    def height(self, points: pd.DataFrame) -> np.ndarray:
        """The transformed OOD score that is expected of each point: float [points]."""
        return self.model.design(points["x"].to_numpy(), points) @ self.coefficients

    def gradient(self, points: pd.DataFrame) -> np.ndarray:
        """What one unit of every coefficient does to the expected OOD score of each point: float [points, k].

        The line's error enters through it, to first order: its cost does not grow with what rests on it.
        """
        design = self.model.design(points["x"].to_numpy(), points)
        return design if self.on_axis else self.scale.rate(design @ self.coefficients)[:, None] * design

    def er(self, ood: np.ndarray, height: np.ndarray) -> np.ndarray:
        """ER in percentage points (see `effective_robustness`). Along the axis: h(OOD) - height."""
        if self.on_axis:
            return PP * (self.scale.h(np.clip(ood, 1e-9, 1 - 1e-9)) - height)
        return effective_robustness(ood, height, self.scale)

    def outside(self, points: pd.DataFrame) -> np.ndarray:
        """Which points lie beyond the scores that the line was fitted on, on any ID set: bool [points]."""
        beyond = np.zeros(len(points), bool)
        for name, low, high in self.ids:
            beyond |= ((points[name] < low) | (points[name] > high)).to_numpy()
        return beyond

    def band(self, arm: Arm) -> pd.DataFrame:
        """The line with its mean band (where the line itself is) and its prediction band (where a new baseline point
        is), both 95 % and pointwise: id, expected_ood, mean_low, mean_high, prediction_low, prediction_high; fractions.

        `arm` is the baseline's own. With several ID sets each moves along with the axis as it does in the baseline.
        """
        points, x = arm.points, arm.points["x"].to_numpy()
        knots, spread = np.linspace(x.min(), x.max(), KNOTS), x - x.mean()
        along = {name: points[name].mean() + (knots - x.mean()) * (spread @ points[name].to_numpy()) / (spread @ spread)
                 for name, _, _ in self.ids}  # fmt: skip
        at = self.model.design(knots, pd.DataFrame({**along, "x": knots}))
        height = at @ self.coefficients
        parts = [(((self.errors.effects @ at.T) ** 2).sum(0), self._df(at))]
        for r in arm.redrawn:
            parts.append((np.var(r.coefficients @ at.T, axis=0) * r.source.factor, np.full(KNOTS, r.source.df)))
        variance = np.sum([v for v, _ in parts], axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            df = variance**2 / np.sum([v**2 / d for v, d in parts], axis=0)
        t = estimates.quantiles(estimates.TWO_SIDED, df)
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

    def _df(self, designs: np.ndarray) -> np.ndarray:
        return np.array([self.errors.df(row) for row in designs])

    def errors_of(self, points: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Standard error (percentage points) and degrees of freedom of every point's expectation, [points] each; the
        latter read between some knots, since they change slowly along the line."""
        gradient = self.gradient(points)
        error = PP * np.sqrt(np.einsum("ij,jk,ik->i", gradient, self.errors.effects.T @ self.errors.effects, gradient))
        order = np.argsort(points["x"].to_numpy(), kind="stable")
        some = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), 33)).astype(int))]
        x = points["x"].to_numpy()
        return error, np.interp(x, x[some], self._df(gradient[some]))


@dataclass(frozen=True, eq=False)
class Redrawn:
    """Points without each of the task's groups in turn, the baseline's curve refitted every time.

    x, y, ood  float [points, replicates], or [points, 1] where the groups are not of that side; x and y transformed
    er         float [points, replicates], percentage points; `coefficients` float [replicates, k] are the baseline's.
               Both are empty until there is a baseline (see `with_baseline`)
    """

    source: Source
    x: np.ndarray
    y: np.ndarray
    ood: np.ndarray
    er: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    coefficients: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def of(self, rows: np.ndarray) -> Redrawn:
        """The same for some of the points."""
        er = self.er[rows] if len(self.er) else self.er
        return replace(self, x=self.x[rows], y=self.y[rows], ood=self.ood[rows], er=er)


@dataclass(frozen=True, eq=False)
class Arm:
    """The points of one group: columns trial, group, id, ood, x, y (transformed), then er, extrapolated.

    unit, codes, count   what its error over trials rests on: int [points], which cluster of the unit a point is of
    redrawn              the points without each of the task's groups, per set of them
    gradient             of what the baseline expects of each point, by its coefficients: float [points, k] (see
                         `Baseline.gradient`); empty until there is a baseline
    """

    name: str
    points: pd.DataFrame
    unit: str
    codes: np.ndarray
    count: int
    redrawn: tuple[Redrawn, ...] = ()
    gradient: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def trials(self) -> int:
        """How many trials it has."""
        return int(self.points["trial"].nunique())

    @cached_property
    def id(self) -> np.ndarray:
        """ID scores, float [points]."""
        return self.points["id"].to_numpy(float)

    @cached_property
    def inside(self) -> np.ndarray:
        """Which points lie in the baseline's range, bool [points]."""
        return ~self.points["extrapolated"].to_numpy(bool)

    def within(self, low: float, high: float) -> np.ndarray:
        """Which points have an ID score in low..high, bool [points]."""
        return (self.id >= low) & (self.id <= high)

    def of(self, rows: np.ndarray) -> Arm:
        """The same with some of its points (int)."""
        points = self.points.iloc[rows].reset_index(drop=True)
        gradient = self.gradient[rows] if len(self.gradient) else self.gradient
        redrawn = tuple(r.of(rows) for r in self.redrawn)
        return replace(self, points=points, codes=self.codes[rows], redrawn=redrawn, gradient=gradient)

    def between(self, low: float, high: float) -> Arm:
        """The arm's points whose ID score lies in low..high."""
        return self.of(np.flatnonzero(self.within(low, high)))


def baseline_of(
    arm: Arm,
    scale: Scale,
    line: Line,
    model: LineModel,
    axes: tuple[str, ...],
    shares: np.ndarray,
    on_axis: bool = False,
) -> Baseline | None:
    """The baseline from its arm (columns id, x, y and the transformed ID sets `axes`) and the straight line through it;
    None where its points do not determine the model."""
    points, y = arm.points, arm.points["y"].to_numpy()
    design = model.design(points["x"].to_numpy(), points)
    fitted = solve(design, y, model.weights(points), model.noise(points), arm.codes, arm.count, arm.unit, LINE)
    if fitted is None:
        return None
    coefficients, errors = fitted
    line = replace(line, variance=line.variance * (line.n - 2) / max(line.n - 1 - len(axes), 1))
    weights = model.weights(points)
    used = points if weights is None else points.loc[weights > 0]
    ranges = tuple((str(c), float(used[c].min()), float(used[c].max())) for c in axes)
    low, high = float(used["id"].min()), float(used["id"].max())
    return Baseline(arm.name, scale, line, low, high, ranges, shares, model, coefficients, errors, on_axis)


def per_point(points: pd.DataFrame, baseline: Baseline) -> pd.DataFrame:
    """`points` with expected_ood (a fraction), er (percentage points) and extrapolated: outside the baseline's ID range
    the expectation is an extrapolation, and the point is marked."""
    height = baseline.height(points)
    er = baseline.er(points["ood"].to_numpy(float), height)
    return points.assign(expected_ood=baseline.scale.inverse(height), er=er, extrapolated=baseline.outside(points))


def with_intervals(points: pd.DataFrame, baseline: Baseline) -> pd.DataFrame:
    """The same with er_low and er_high, which carry the uncertainty of the baseline line only: how one fine-tuned model
    would come out again is not known from one model. Empty where the expectation is an extrapolation."""
    error, df = baseline.errors_of(points)
    outside, er = points["extrapolated"].to_numpy(), points["er"]
    reach = estimates.quantiles(estimates.TWO_SIDED, df) * np.where(outside, np.nan, error)
    return points.assign(er_low=er - reach, er_high=er + reach)


def redraw(points: pd.DataFrame, resampled: Resampled, scale: Scale, clip: Mapping) -> Redrawn:
    """The transformed scores of all points in every replicate of `resampled` (rows aligned with `points`). `clip` moves
    scores off 0 and 1, by column."""
    given = {"id": resampled.id, "ood": resampled.ood}
    scores = {side: points[side].to_numpy(float)[:, None] if own is None else own for side, own in given.items()}
    x, y = (scale.h(clip[side](scores[side])) for side in ("id", "ood"))
    return Redrawn(resampled.source, x, y, scores["ood"])


def with_baseline(arms: Mapping[str, Arm], baseline: Baseline) -> dict[str, Arm]:
    """The arms with ER per point, and in every replicate under the curve refitted to the scores of that replicate."""
    reference = arms[baseline.name]
    lines = [_refitted(drawn, reference, baseline) for drawn in reference.redrawn]
    return {
        name: replace(
            arm,
            points=per_point(arm.points, baseline),
            gradient=baseline.gradient(arm.points),
            redrawn=tuple(_against(drawn, arm, baseline, own) for drawn, own in zip(arm.redrawn, lines, strict=True)),
        )
        for name, arm in arms.items()
    }


def _refitted(drawn: Redrawn, reference: Arm, baseline: Baseline) -> np.ndarray:
    """The baseline's coefficients in every replicate, float [replicates, k]; NaN where they are not determined."""
    points, model = reference.points, baseline.model
    weights, noise = model.weights(points), model.noise(points)
    many = max(drawn.x.shape[1], drawn.y.shape[1])
    refitted = np.full((many, len(baseline.coefficients)), np.nan)
    for first in range(drawn.x.shape[1]):
        rows = slice(first, first + 1) if drawn.x.shape[1] > 1 else slice(None)
        y = drawn.y[:, rows] if drawn.y.shape[1] > 1 else drawn.y
        fitted = coefficients(model.design(drawn.x[:, first], points), y, weights, noise)
        if fitted is not None:
            refitted[rows] = fitted[0].T
    return refitted


def _against(drawn: Redrawn, arm: Arm, baseline: Baseline, lines: np.ndarray) -> Redrawn:
    if drawn.x.shape[1] == 1:
        heights = baseline.model.design(drawn.x[:, 0], arm.points) @ lines.T
    else:
        designs = (baseline.model.design(x, arm.points) @ line for x, line in zip(drawn.x.T, lines, strict=True))
        heights = np.column_stack(list(designs))
    return replace(drawn, er=baseline.er(drawn.ood, heights), coefficients=lines)


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts of y on x along the first axis, [replicates] each; NaN where every x is the same."""
    mx, my = x.mean(0), y.mean(0)
    u = x - mx
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = (u * (y - my)).sum(0) / (u * u).sum(0)
    return slopes, my - slopes * mx


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean ER of some points of one group, of so many points and trials."""

    quantity: Quantity
    points: int
    trials: int

    @property
    def value(self) -> float:
        """In percentage points."""
        return self.quantity.value


def mean_of(arm: Arm, baseline: Baseline, low: float, high: float, chosen: np.ndarray | None = None) -> Mean | None:
    """Mean ER of those points of an arm whose ID score lies in low..high (inside the baseline's range), or None.

    `chosen` bool [points] restricts it further. It is the mean over trials of each trial's mean: a trial with many
    points is still one pre-training. Its error is over trials, the baseline's line and the task's groups.
    """
    inside = arm.within(low, high) & arm.inside
    if chosen is not None:
        inside = inside & chosen
    if not inside.any():
        return None
    used, codes = np.unique(arm.codes[inside], return_inverse=True)
    by_trial = _means(arm.points["er"].to_numpy()[inside, None], codes)[:, 0]
    own = cluster_robust.mean(by_trial, used, arm.unit, f"trials of {arm.name}", arm.count)
    line = -PP * _means(arm.gradient[inside], codes).mean(0)
    groups, twice = {}, {}
    for drawn in arm.redrawn:
        groups[drawn.source], twice[drawn.source] = _under_groups(drawn, _means(drawn.er[inside], codes))
    quantity = Quantity(float(by_trial.mean()), {own: np.ones(1), baseline.errors: line}, groups, twice)
    return Mean(quantity, int(inside.sum()), len(used))


def _means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Means by code: [points, k] -> [codes, k]."""
    sums = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums / np.bincount(codes)[:, None]


def _under_groups(drawn: Redrawn, by_trial: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean ER without each group, float [replicates], and the variance in it that the spread between trials holds
    too: how differently trials of one arm take to one group (the interaction of trial and group). by_trial is each
    trial's mean, float [trials, replicates].

    The spread between trials is seen on one set of groups and so contains that interaction; what leaving groups out
    shows contains it again. It is taken off once, as two-way clustering does (Cameron, Gelbach and Miller 2011).
    """
    mean, trials = by_trial.mean(0), len(by_trial)
    if trials < 2:
        return mean, 0.0
    apart = np.var(by_trial - mean, axis=1)
    return mean, float(apart.sum()) / trials**2 * trials / (trials - 1) * drawn.source.factor


@dataclass(frozen=True, eq=False)
class OwnLine:
    """The line through an arm's own points, with what its trials and the task's groups do to it.

    errors  of intercept and slope, in this order, over the arm's trials
    groups  per source the refitted (slopes, intercepts), [replicates] each
    """

    line: Line
    errors: Robust
    groups: Mapping[Source, tuple[np.ndarray, np.ndarray]]

    def quantity(self, slope: float, intercept: float, value: float) -> Quantity:
        """The quantity of that value that moves by `slope` per unit of the slope, `intercept` per unit of the other."""
        groups = {source: slope * slopes + intercept * heights for source, (slopes, heights) in self.groups.items()}
        return Quantity(value, {self.errors: np.array([intercept, slope])}, groups)

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
    design = np.column_stack([np.ones_like(x), x])
    name = f"trials of {arm.name}"
    errors = cluster_robust.robust(design, y - line.at(x), arm.codes, arm.unit, name, count=arm.count)
    return OwnLine(line, errors, groups)
