"""The axes and the lines: scales, the clipping rule, ordinary least squares of h(OOD) on h(ID), on one ID set or more.

Owns `SCALES`, `clip`, `Line`, `fit` and `shares`. What a line's uncertainty is comes from `uncertainty`; nothing here
resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtr, ndtri

UNKNOWN_EXAMPLES = 1_000  # the size a split is taken to have when nobody says: clipping then happens at 1/2000
MIN_POINTS = 3  # a line through fewer points has no residual, hence no R^2 and no error


@dataclass(frozen=True)
class Scale:
    """A monotone map h from a score in (0, 1) to the axis that lines are fitted on, its inverse, and `rate`, the
    inverse's derivative: score per unit of the axis."""

    name: str
    h: Callable[[ArrayLike], np.ndarray]
    inverse: Callable[[ArrayLike], np.ndarray]
    rate: Callable[[ArrayLike], np.ndarray]
    bounded: bool  # h is infinite at 0 and 1, so scores there are clipped

    def of(self, scores: ArrayLike, examples: int | None = None) -> np.ndarray:
        """Scores on this axis, clipped by `clip` where h needs it; `examples` is the size of their split, if known."""
        return self.h(clip(scores, examples) if self.bounded else np.asarray(scores, float))


def _same(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, float)


def _normal_density(z: ArrayLike) -> np.ndarray:
    return np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi)


def _logistic_density(z: ArrayLike) -> np.ndarray:
    return expit(z) * expit(-np.asarray(z, float))


def _one(values: ArrayLike) -> np.ndarray:
    return np.ones_like(values, dtype=float)


SCALES = {
    "probit": Scale("probit", ndtri, ndtr, _normal_density, True),
    "logit": Scale("logit", logit, expit, _logistic_density, True),
    "linear": Scale("linear", _same, _same, _one, False),
}


def clip(scores: ArrayLike, examples: int | None) -> np.ndarray:
    """Scores moved off 0 and 1 by half of one example of their split, float [n].

    A model that gets none (or all) of m examples right is shown at 1/(2m) (or 1 - 1/(2m)), the usual continuity
    correction; probit and logit have no value at 0 and 1, and leaving such points out would bend the line.
    """
    half = 0.5 / (examples or UNKNOWN_EXAMPLES)
    return np.clip(np.asarray(scores, float), half, 1 - half)


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x on a transformed axis. `variance` is the residual one, SSE / (n - 2)."""

    slope: float
    intercept: float
    r2: float
    variance: float
    n: int

    def at(self, x: ArrayLike) -> np.ndarray:
        """The line's height at x."""
        return self.intercept + self.slope * np.asarray(x, float)


def fit(x: np.ndarray, y: np.ndarray) -> Line | None:
    """Least squares of y on x, or None where there is no line: under three points, or every x the same."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < MIN_POINTS or np.ptp(x) < 1e-9:
        return None
    from statsmodels.regression.linear_model import OLS  # late: it takes a second, and mistakes are said before that

    ols = OLS(y, np.column_stack([np.ones_like(x), x])).fit()
    intercept, slope = ols.params
    # With every y the same, statsmodels divides by zero: such a line explains nothing, because there is nothing.
    r2 = float(ols.rsquared) if np.ptp(y) > 1e-12 else 0.0
    return Line(float(slope), float(intercept), r2, float(ols.ssr / max(len(x) - 2, 1)), len(x))


def shares(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """How much each of several ID sets counts on the one axis that stands for them: float [sets], summing to 1.

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
