"""Effective robustness: how far a point lies above what the baseline's line expects at its ID score.

Owns the formula, `Baseline` (the reference line with its error), and ER per point. ER is in percentage points
everywhere. Which curve the line may be is in `line_models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.scales import PP, Scale
from analysis.stats import estimates
from analysis.stats.cluster_robust import Robust
from analysis.stats.least_squares import coefficients
from analysis.stats.line_models import LineModel
from analysis.stats.quantities import Quantity
from analysis.stats.study_group import Group, GroupJackknife
from analysis.stats.trend import Line

KNOTS = 129  # the bands of the line are drawn through so many ID scores
LINE = "baseline line"  # the name of its error, beside those of trials and test groups


def effective_robustness(ood: ArrayLike, height: ArrayLike, scale: Scale, unit: float = PP) -> np.ndarray:
    """Return the effective robustness of each point: OOD - h^-1(height), of which the height is that of the baseline's
    line at the point's ID score, a + b h(ID).

    ood      OOD scores, fractions, any shape
    height   expected OOD scores on the transformed axis, of the same shape
    unit     how many of it a score of 1 is: 100 for percentage points, 1 for fractions

    `er_gradient` is its derivative and changes with it.
    Taori et al., "Measuring Robustness to Natural Distribution Shifts in Image Classification" (NeurIPS 2020), eq. 1;
    the transformed axes are those of Miller et al., "Accuracy on the Line" (ICML 2021).
    """
    return unit * (np.asarray(ood, float) - scale.inverse(height))


def er_gradient(expectation: np.ndarray) -> np.ndarray:
    """Return the derivative of ER in percentage points, by what `expectation` is the derivative of the expected OOD
    score by (see `Baseline.gradient`), of the same shape: the line's error enters ER through it (delta method)."""
    return -PP * expectation


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
        """Return the transformed OOD score that is expected of each point: float [points]."""
        return self.model.design(points["x"].to_numpy(), points) @ self.coefficients

    def slope(self, group: Group) -> Quantity:
        """Return the slope of the line with its error; `group` is the baseline's own. With several ID sets the sum of
        the plane's slopes: the axis is made of the same points, and a line fitted along it would take it as given."""
        along = np.zeros(len(self.coefficients))
        along[1 : 1 + len(self.ids)] = 1.0
        replicates = {each.source: each.coefficients @ along for each in group.jackknife}
        return Quantity(self.line.slope, {self.errors: along}, replicates)

    def gradient(self, points: pd.DataFrame) -> np.ndarray:
        """Return the derivative of each point's expected OOD score by the coefficients: float [points, k]."""
        design = self.model.design(points["x"].to_numpy(), points)
        return design if self.on_axis else self.scale.rate(design @ self.coefficients)[:, None] * design

    def er(self, ood: np.ndarray, y: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Return ER in percentage points (see `effective_robustness`) of OOD scores `ood`, transformed `y`; along the
        axis y - height, as if a unit of it were a score of 1."""
        return PP * (y - height) if self.on_axis else effective_robustness(ood, height, self.scale)

    def outside(self, points: pd.DataFrame) -> np.ndarray:
        """Return which points lie outside the scores that the line was fitted on, on any ID set: bool [points]."""
        beyond = np.zeros(len(points), bool)
        for name, low, high in self.ids:
            beyond |= ((points[name] < low) | (points[name] > high)).to_numpy()
        return beyond

    def band(self, group: Group) -> pd.DataFrame:
        """Return the line with its mean band (of the line itself) and its prediction band (of a new baseline point),
        both 95 % and pointwise: id, expected_ood, mean_low, mean_high, prediction_low, prediction_high; fractions.

        `group` is the baseline's own. With several ID sets each moves along with the axis as it does in the baseline.
        """
        points, x = group.points, group.points["x"].to_numpy()
        knots, spread = np.linspace(x.min(), x.max(), KNOTS), x - x.mean()
        along = {name: points[name].mean() + (knots - x.mean()) * (spread @ points[name].to_numpy()) / (spread @ spread)
                 for name, _, _ in self.ids}  # fmt: skip
        at = self.model.design(knots, pd.DataFrame({**along, "x": knots}))
        height = at @ self.coefficients
        parts = [(((self.errors.effects @ at.T) ** 2).sum(0), self._df(at))]
        for jackknife in group.jackknife:
            source = jackknife.source
            parts.append((np.var(jackknife.coefficients @ at.T, axis=0) * source.factor, np.full(KNOTS, source.df)))
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
        """Return the standard error (percentage points) and degrees of freedom of every point's ER, [points] each, as
        far as the line decides them; the latter interpolated between some knots: they change slowly along the line."""
        gradient = self.gradient(points)
        covariance = self.errors.effects.T @ self.errors.effects
        error = np.abs(er_gradient(np.sqrt(np.einsum("ij,jk,ik->i", gradient, covariance, gradient))))
        order = np.argsort(points["x"].to_numpy(), kind="stable")
        some = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), 33)).astype(int))]
        x = points["x"].to_numpy()
        return error, np.interp(x, x[some], self._df(gradient[some]))


def fit_baseline(
    group: Group,
    scale: Scale,
    line: Line,
    model: LineModel,
    axes: tuple[str, ...],
    shares: np.ndarray,
    on_axis: bool = False,
) -> Baseline | None:
    """Return the baseline from its group (columns id, x, y and the transformed ID sets `axes`) and the straight line
    through it; None where its points do not determine the model."""
    points, fitted = group.points, model.fit(group.points, group.clusters(LINE))
    if fitted is None:
        return None
    line = replace(line, variance=line.variance * (line.n - 2) / max(line.n - 1 - len(axes), 1))
    weights = model.weights(points)
    used = points if weights is None else points.loc[weights > 0]
    ranges = tuple((str(c), float(used[c].min()), float(used[c].max())) for c in axes)
    low, high = float(used["id"].min()), float(used["id"].max())
    return Baseline(group.name, scale, line, low, high, ranges, shares, model, fitted.coefficients, fitted.errors,
                    on_axis)  # fmt: skip


def per_point(points: pd.DataFrame, baseline: Baseline) -> pd.DataFrame:
    """Return `points` with expected_ood (a fraction), er (percentage points) and extrapolated, which marks points
    outside the baseline's ID range, where the expectation is an extrapolation."""
    height = baseline.height(points)
    er = baseline.er(points["ood"].to_numpy(float), points["y"].to_numpy(float), height)
    return points.assign(expected_ood=baseline.scale.inverse(height), er=er, extrapolated=baseline.outside(points))


def with_intervals(points: pd.DataFrame, baseline: Baseline) -> pd.DataFrame:
    """Return `points` with er_low and er_high, which carry the uncertainty of the baseline's line only: the spread of
    one fine-tuned model cannot be estimated from one model. NaN where the expectation is an extrapolation."""
    error, df = baseline.errors_of(points)
    outside, er = points["extrapolated"].to_numpy(), points["er"]
    reach = estimates.quantiles(estimates.TWO_SIDED, df) * np.where(outside, np.nan, error)
    return points.assign(er_low=er - reach, er_high=er + reach)


def with_baseline(groups: Mapping[str, Group], baseline: Baseline) -> dict[str, Group]:
    """Return the groups with ER per point, also in every replicate, under the curve refitted to that replicate."""
    reference = groups[baseline.name]
    curves = [_refitted(each, reference, baseline) for each in reference.jackknife]
    return {
        name: replace(
            group,
            points=per_point(group.points, baseline),
            gradient=baseline.gradient(group.points),
            jackknife=tuple(
                _against(each, group, baseline, curve) for each, curve in zip(group.jackknife, curves, strict=True)
            ),
        )
        for name, group in groups.items()
    }


def _refitted(jackknife: GroupJackknife, reference: Group, baseline: Baseline) -> np.ndarray:
    """The baseline's coefficients in every replicate, float [replicates, k]; NaN where they are not determined."""
    points, model = reference.points, baseline.model
    weights, noise = model.weights(points), model.noise(points)
    many = max(jackknife.x.shape[1], jackknife.y.shape[1])
    refitted = np.full((many, len(baseline.coefficients)), np.nan)
    for first in range(jackknife.x.shape[1]):
        rows = slice(first, first + 1) if jackknife.x.shape[1] > 1 else slice(None)
        y = jackknife.y[:, rows] if jackknife.y.shape[1] > 1 else jackknife.y
        fitted = coefficients(model.design(jackknife.x[:, first], points), y, weights, noise)
        if fitted is not None:
            refitted[rows] = fitted[0].T
    return refitted


def _against(jackknife: GroupJackknife, group: Group, baseline: Baseline, lines: np.ndarray) -> GroupJackknife:
    if jackknife.x.shape[1] == 1:
        heights = baseline.model.design(jackknife.x[:, 0], group.points) @ lines.T
    else:
        designs = (baseline.model.design(x, group.points) @ line for x, line in zip(jackknife.x.T, lines, strict=True))
        heights = np.column_stack(list(designs))
    return replace(jackknife, er=baseline.er(jackknife.ood, jackknife.y, heights), coefficients=lines)
