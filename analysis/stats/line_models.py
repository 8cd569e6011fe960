"""What the expected OOD score may be made of: the straight line, and what a doubter would put in its place.

Owns `LineModel` (columns of a design, weights of its rows, known errors of ID scores), the models, and `solve`. The
straight line is what a study reports; the others serve to see which of its claims hold without it (`sensitivity`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats import curvature
from analysis.stats.cluster_robust import Robust, robust

Design = Callable[[np.ndarray, pd.DataFrame], np.ndarray]
SINGULAR = 1e-10  # reciprocal condition number of a design under which its coefficients are not determined
LEAST_RELIABLE = 0.5  # share of the variance of h(ID) that must be no sampling error, if it is to be corrected


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


def straight(axes: Sequence[str] = ("x",)) -> LineModel:
    """One and the transformed ID score; of several ID sets a plane (Shi et al. 2023)."""
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
    """The line and the square of the axis, centred where the baseline's points `x` are."""
    middle, wide = float(x.mean()), float(x.std()) or 1.0
    return LineModel("parabola", _beside(tuple(axes), lambda at, _: [((at - middle) / wide) ** 2]))


def spline(axes: Sequence[str], x: np.ndarray) -> LineModel | None:
    """A natural cubic spline with four knots at quantiles of the baseline's points `x`, or three (see `curvature`);
    None where they fall together."""
    at = curvature.knots(x)
    if at is None:
        return None
    return LineModel("spline", _beside(tuple(axes), lambda here, _: list(curvature.spline(here, at).T)))


def broken(axes: Sequence[str], x: np.ndarray) -> LineModel:
    """A line that may change its slope at each quartile of the baseline's points `x`."""
    at = np.quantile(x, (0.25, 0.5, 0.75))
    return LineModel("broken line", _beside(tuple(axes), lambda here, _: [np.maximum(here - q, 0.0) for q in at]))


def with_columns(axes: Sequence[str], columns: Sequence[Callable[[pd.DataFrame], np.ndarray]], name: str) -> LineModel:
    """The line and further properties of the points, such as their epoch."""
    return LineModel(name, _beside(tuple(axes), lambda _, points: [column(points) for column in columns]))


def noisy(axes: Sequence[str], variances: Sequence[str]) -> LineModel:
    """The line as it would be without the sampling error of the ID scores, whose variance on each axis is in the
    columns `variances`: Fuller, "Measurement Error Models" (1987), section 2.2: (X'X - S)^-1 X'y, S their sums."""

    def noise(points: pd.DataFrame) -> np.ndarray:
        return np.column_stack([np.zeros(len(points)), *(points[c].to_numpy(float) for c in variances)])

    return LineModel("errors in ID", _straight(tuple(axes)), noise=noise)


def unequal(axes: Sequence[str], x: np.ndarray, residuals: np.ndarray) -> LineModel:
    """The line weighted by a residual variance that changes along the axis: log residual^2 on x (Harvey 1976), within a
    factor of 100."""
    middle, wide = float(x.mean()), float(x.std()) or 1.0
    logs = np.log(np.maximum(residuals**2, 1e-4 * float(np.mean(residuals**2)) + 1e-300))
    slope = float(np.polyfit((x - middle) / wide, logs, 1)[0])

    def weights(points: pd.DataFrame) -> np.ndarray:
        powers = np.clip(slope * (points["x"].to_numpy() - middle) / wide, -np.log(10), np.log(10))
        return np.exp(-powers)

    return LineModel("unequal noise", _straight(tuple(axes)), weights=weights)


def coefficients(
    design: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None, noise: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Least squares of y [points] or [points, many] on `design` [points, k], and (X'WX - S)^-1 [k, k]; None where the
    design does not determine them, or hardly anything but error is left of a column."""
    left = design if weights is None else design * weights[:, None]
    products = left.T @ design
    scale = np.sqrt(np.maximum(np.diag(products), 1e-300))
    if noise is not None:
        error = noise.sum(0)
        centred = np.diag(products) - left.sum(0) ** 2 / len(design)
        if (error > 0).any() and (1 - error / np.maximum(centred, 1e-300))[error > 0].min() < LEAST_RELIABLE:
            return None
        products = products - np.diag(error)
    if np.linalg.cond(products / np.outer(scale, scale)) > 1 / SINGULAR:
        return None
    inverse = np.linalg.inv(products)
    return inverse @ (left.T @ y), inverse


def solve(
    design: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    noise: np.ndarray | None,
    clusters: np.ndarray,
    count: int,
    unit: str,
    name: str = "",
) -> tuple[np.ndarray, Robust] | None:
    """The coefficients with their error over clusters (see `clustered.robust`), or None."""
    found = coefficients(design, y, weights, noise)
    if found is None:
        return None
    values, inverse = found
    residuals = y - design @ values
    root = np.ones(len(y)) if weights is None else np.sqrt(weights)
    plain = robust(design * root[:, None], residuals * root, clusters, unit, name, count=count)
    if noise is None:
        return values, plain
    scores = np.zeros((count, design.shape[1]))  # of the corrected normal equations, which are 0 in sum
    np.add.at(scores, clusters, design * residuals[:, None] + noise * values)
    used = plain.used
    wider = np.sqrt(used / (used - 1)) if used > 1 else np.nan
    return values, Robust(unit, name, scores @ inverse * wider, plain.without, plain.df, used)
