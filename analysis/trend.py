"""The axes and the lines: scales, the clipping rule, ordinary least squares of h(OOD) on h(ID).

Owns `SCALES`, `clip`, `Line` and `fit`. What a line's uncertainty is comes from `bootstrap`; nothing here resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

UNKNOWN_EXAMPLES = 1_000  # the size a split is taken to have when nobody says: clipping then happens at 1/2000
MIN_POINTS = 3  # a line through fewer points has no residual, hence no R^2 and no error


@dataclass(frozen=True)
class Scale:
    """A monotone map h from a score in (0, 1) to the axis that lines are fitted on, and its inverse."""

    name: str
    h: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    bounded: bool  # h is infinite at 0 and 1, so scores there are clipped


def _same(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, float)


SCALES = {
    "probit": Scale("probit", ndtri, ndtr, True),
    "logit": Scale("logit", logit, expit, True),
    "linear": Scale("linear", _same, _same, False),
}


def clip(scores: np.ndarray, examples: int | None) -> np.ndarray:
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

    def at(self, x: np.ndarray) -> np.ndarray:
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
