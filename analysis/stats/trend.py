"""The trend: ordinary least squares of h(OOD) on h(ID), on one ID set or more.

Owns `Line`, `fit` and `shares`. What a line's uncertainty is comes from `estimates`; nothing here resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MIN_POINTS = 3  # a line through fewer points has no residual, hence no R^2 and no error


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x on a transformed axis. `variance` is the residual one, SSE / (n - 2)."""

    slope: float
    intercept: float
    r2: float
    variance: float
    n: int

    def at(self, x: ArrayLike) -> np.ndarray:
        """Return the line's height at x."""
        return self.intercept + self.slope * np.asarray(x, float)


def fit(x: np.ndarray, y: np.ndarray) -> Line | None:
    """Return least squares of y on x, [points] each, or None where there is no line: under three points, or every x the
    same."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < MIN_POINTS or np.ptp(x) < 1e-9:
        return None
    from statsmodels.regression.linear_model import OLS  # late: it takes a second, and errors are reported before that

    ols = OLS(y, np.column_stack([np.ones_like(x), x])).fit()
    intercept, slope = ols.params
    # With every y the same, statsmodels divides by zero: such a line explains nothing, because there is nothing.
    r2 = float(ols.rsquared) if np.ptp(y) > 1e-12 else 0.0
    return Line(float(slope), float(intercept), r2, float(ols.ssr / max(len(x) - 2, 1)), len(x))


def shares(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return the share of each of several ID sets in the one axis that stands for them: float [sets], summing to 1.

    x float [points, sets], y [points], both transformed. Shi et al., "Effective Robustness against Natural Distribution
    Shifts for Models with Different Training Data" (NeurIPS 2023): the expectation is the least-squares plane of h(OOD)
    on the h(ID) of every ID set. Its coefficients over their sum are the shares, so that a line on the axis x @ shares
    is that plane, with its R^2 and residuals. None where there is no such plane: too few points, sets that are copies
    of each other, or coefficients that do not add up to a rising plane.
    """
    sets = x.shape[1]
    if sets == 1:
        return np.ones(1)
    design = np.column_stack([np.ones(len(x)), x])
    if len(x) < MIN_POINTS + sets - 1 or np.linalg.matrix_rank(design - design.mean(0) * [0, *[1] * sets]) <= sets:
        return None
    slopes = np.linalg.lstsq(design, y, rcond=None)[0][1:]
    return slopes / slopes.sum() if slopes.sum() > 1e-6 else None
