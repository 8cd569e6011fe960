"""The curves that the baseline's line may be: the straight line, and the alternatives of the sensitivity analysis.

Owns `LineModel` (columns of a design, weights of its rows, known errors of ID scores) and the models. The straight line
is what a study reports; the others show which of its claims depend on it (`sensitivity`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats import curvature
from analysis.stats.least_squares import ClusteredFit, Clusters, solve

Design = Callable[[np.ndarray, pd.DataFrame], np.ndarray]


def _no_values(_: pd.DataFrame) -> np.ndarray | None:
    return None


@dataclass(frozen=True, eq=False)
class LineModel:
    """A curve through the baseline's points, linear in its coefficients.

    design   (transformed ID scores on the axis [points], the points' other columns) -> float [points, k]
    weights  points -> float [points], of their squared residuals; None: all alike
    noise    points -> float [points, k], known variance of the error in each column; None: none
    """

    name: str
    design: Design
    weights: Callable[[pd.DataFrame], np.ndarray | None] = _no_values
    noise: Callable[[pd.DataFrame], np.ndarray | None] = _no_values

    def fit(self, points: pd.DataFrame, clusters: Clusters) -> ClusteredFit | None:
        """Return the fit of the points' `y`, or None where they do not determine it."""
        design = self.design(points["x"].to_numpy(), points)
        return solve(design, points["y"].to_numpy(), clusters, self.weights(points), self.noise(points))


def straight(axes: Sequence[str] = ("x",)) -> LineModel:
    """Return the straight line: a constant and the transformed ID score; of several ID sets a plane (Shi et al.
    2023)."""
    return LineModel("straight line", _straight(tuple(axes)))


def _straight(axes: tuple[str, ...]) -> Design:
    def design(x: np.ndarray, points: pd.DataFrame) -> np.ndarray:
        columns = [x] if len(axes) == 1 else [points[axis].to_numpy(float) for axis in axes]
        return np.column_stack([np.ones(len(x)), *columns])

    return design


def _beside(axes: tuple[str, ...], more: Callable[[np.ndarray, pd.DataFrame], Sequence[np.ndarray]]) -> Design:
    base = _straight(axes)
    return lambda x, points: np.column_stack([base(x, points), *more(x, points)])


def parabola(axes: Sequence[str], x: np.ndarray) -> LineModel:
    """Return the line and the square of the axis, centred where the baseline's points `x` are."""
    middle, wide = float(x.mean()), float(x.std()) or 1.0
    return LineModel("parabola", _beside(tuple(axes), lambda at, _: [((at - middle) / wide) ** 2]))


def spline(axes: Sequence[str], x: np.ndarray) -> LineModel | None:
    """Return a natural cubic spline with four knots at quantiles of the baseline's points `x`, or three (see
    `curvature`); None where they fall together."""
    at = curvature.knots(x)
    if at is None:
        return None
    return LineModel("spline", _beside(tuple(axes), lambda here, _: list(curvature.spline(here, at).T)))


def broken(axes: Sequence[str], x: np.ndarray) -> LineModel:
    """Return a line that may change its slope at each quartile of the baseline's points `x`."""
    at = np.quantile(x, (0.25, 0.5, 0.75))
    return LineModel("broken line", _beside(tuple(axes), lambda here, _: [np.maximum(here - q, 0.0) for q in at]))


def with_columns(axes: Sequence[str], columns: Sequence[Callable[[pd.DataFrame], np.ndarray]], name: str) -> LineModel:
    """Return the line and further properties of the points, such as their epoch."""
    return LineModel(name, _beside(tuple(axes), lambda _, points: [column(points) for column in columns]))


def noisy(axes: Sequence[str], variances: Sequence[str]) -> LineModel:
    """Return the line as it would be without the sampling error of the ID scores, whose variance on each axis is in the
    columns `variances`: Fuller, "Measurement Error Models" (1987), section 2.2: (X'X - S)^-1 X'y, S their sums."""

    def noise(points: pd.DataFrame) -> np.ndarray:
        return np.column_stack([np.zeros(len(points)), *(points[c].to_numpy(float) for c in variances)])

    return LineModel("errors in ID", _straight(tuple(axes)), noise=noise)


def unequal(axes: Sequence[str], x: np.ndarray, residuals: np.ndarray) -> LineModel:
    """Return the line weighted by a residual variance that changes along the axis: log residual^2 on x (Harvey 1976),
    within a factor of 100."""
    middle, wide = float(x.mean()), float(x.std()) or 1.0
    logs = np.log(np.maximum(residuals**2, 1e-4 * float(np.mean(residuals**2)) + 1e-300))
    slope = float(np.polyfit((x - middle) / wide, logs, 1)[0])

    def weights(points: pd.DataFrame) -> np.ndarray:
        powers = np.clip(slope * (points["x"].to_numpy() - middle) / wide, -np.log(10), np.log(10))
        return np.exp(-powers)

    return LineModel("unequal noise", _straight(tuple(axes)), weights=weights)
