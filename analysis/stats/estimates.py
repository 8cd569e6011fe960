"""`Estimate`, a number with its interval, and `Part`, one source of its error.

Variances add, with degrees of freedom by Welch and Satterthwaite, and Student's t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
TWO_SIDED = 0.5 + LEVEL / 2
POWER = 0.80
TIED = 1e-9  # of a number: a standard error up to it is that of equal numbers, but for rounding


@dataclass(frozen=True)
class Part:
    """One independent source of error: its variance and the degrees of freedom behind it, NaN where unknown; its name
    and how many clusters (trials, groups) it rests on are for the tables; `bonferroni` as in `Estimate`."""

    variance: float
    df: float
    name: str = ""
    clusters: int = 0
    bonferroni: float = 1.0


def tied(value: ArrayLike, se: ArrayLike) -> np.ndarray:
    """Return whether a standard error is that of equal numbers, 0 but for rounding: their spread is not seen."""
    return np.asarray(se) <= TIED * np.maximum(1.0, np.abs(value))


def quantile(level: float, df: float) -> float:
    """Return Student's t quantile; NaN for unknown degrees of freedom."""
    return float(stdtrit(df, level)) if np.isfinite(df) else np.nan


def quantiles(level: float, df: np.ndarray) -> np.ndarray:
    """Return Student's t quantiles, [n]; NaN for unknown degrees of freedom."""
    return np.where(np.isfinite(df), stdtrit(np.where(np.isfinite(df), df, 1.0), level), np.nan)


def keeps_half(value: float, low: float, high: float) -> bool:
    """Return whether the values that a number has without each of some parts, from low to high, keep its sign and half
    of its size."""
    nearest = low if value > 0 else high
    return bool(np.sign(nearest) == np.sign(value) and abs(nearest) >= abs(value) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and degrees of freedom; `se` is NaN where no interval can be given.

    bonferroni  by how much error probabilities are divided, because the study was looked at before it was complete:
                tests multiply p by it, intervals are that much more certain
    """

    value: float
    se: float
    df: float
    bonferroni: float = 1.0

    def reach(self, level: float) -> float:
        """Return how far the end of an interval lies from the number, one that is right with probability `level`."""
        one_sided = level if self.bonferroni == 1 else 1 - (1 - level) / self.bonferroni
        return quantile(one_sided, self.df) * self.se

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - self.reach(TWO_SIDED)

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + self.reach(TWO_SIDED)

    @property
    def p(self) -> float:
        """Two-sided p-value of "the truth is 0"."""
        return self._spent(2 * stdtr(self.df, -abs(self.value) / self.se)) if self.se > 0 else np.nan

    @property
    def inner(self) -> tuple[float, float]:
        """The 90 % interval, which the equivalence test looks at."""
        reach = self.reach(LEVEL)
        return self.value - reach, self.value + reach

    def p_outside(self, margin: float) -> float:
        """Return the p-value of "the truth lies at or beyond -margin or +margin": the larger of two one-sided tests
        (Schuirmann 1987). At 5 % it says that the 90 % interval lies inside; NaN without an interval."""
        if not self.se > 0:
            return np.nan
        return self._spent(stdtr(self.df, (abs(self.value) - margin) / self.se))

    def _spent(self, p: float) -> float:
        return float(p) if self.bonferroni == 1 else float(np.minimum(self.bonferroni * p, 1.0))

    @property
    def smallest_detectable(self) -> float:
        """The true effect that a two-sided 5 % test of this precision would find with 80 % power."""
        return self.reach(TWO_SIDED) + quantile(POWER, self.df) * self.se


def combine(value: float, parts: Sequence[Part]) -> Estimate:
    """Return a sum of independent parts: variances add, degrees of freedom by Welch-Satterthwaite."""
    variance = sum(p.variance for p in parts)
    if not parts or not np.isfinite(variance):
        return Estimate(value, np.nan, np.nan)
    df = variance**2 / sum(p.variance**2 / p.df for p in parts) if variance > 0 else min(p.df for p in parts)
    return Estimate(value, float(np.sqrt(variance)), df, max(p.bonferroni for p in parts))
