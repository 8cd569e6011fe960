"""The error of least-squares coefficients when rows come in clusters (trials), for few clusters.

Owns `Robust`, what each cluster does to the coefficients, with the bias-reduced cluster-robust variance ("CR2") and its
degrees of freedom (Bell and McCaffrey 2002; Imbens and Kolesar 2016): each cluster's residuals are divided by the root
of what the fit leaves of their variance, and the degrees of freedom match the first two moments that the estimate has
under independent errors. A coefficient that one cluster decides alone has no error that could be seen, and gets none
(Pustejovsky and Tipton 2018, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.stats.estimates import Part

LEAST_DF = 1.0  # of an interval; Student's t is then as wide as it is for two observations
WHOLE = 1 - 1e-9  # the share of a direction that one cluster has, from which on it decides it alone
NOTHING = 1e-12  # a combination that is rounding
LOADS = 1e-9  # the share of a combination's squared length that may lie on such a direction: rounding


@dataclass(frozen=True, eq=False)
class Robust:
    """Coefficients whose error rests on clusters. Of two that have the same `unit`, cluster i is the same: their errors
    are added cluster by cluster before they are squared.

    unit     what the clusters are: the trials of one group, or the seeds that all groups share
    name     of this source of error, for tables
    effects  float [clusters, k], what each cluster adds to the coefficients' error; the variance of c @ coefficients is
             the sum of (effects @ c)^2
    without  float [clusters, k], by how much the coefficients change when that cluster is left out
    df       c [k] -> degrees of freedom of that variance; NaN where it cannot be known
    used     how many clusters have any row
    bonferroni  see `Estimate`
    """

    unit: str
    name: str
    effects: np.ndarray
    without: np.ndarray
    df: Callable[[np.ndarray], float]
    used: int
    bonferroni: float = 1.0

    def part(self, combination: np.ndarray) -> Part:
        """Return the error of `combination` [k] @ coefficients by itself."""
        if np.abs(combination).max() < NOTHING:  # what two groups share has cancelled
            return Part(0.0, np.inf, self.name, self.used, self.bonferroni)
        df = self.df(combination)
        variance = float(((self.effects @ combination) ** 2).sum())
        return Part(variance if np.isfinite(df) else np.nan, df, self.name, self.used, self.bonferroni)


def robust(
    design: np.ndarray,
    residuals: np.ndarray,
    clusters: np.ndarray,
    unit: str,
    name: str,
    least_df: float = LEAST_DF,
    count: int | None = None,
) -> Robust:
    """Return the CR2 error of least squares on `design` [rows, k], of full rank; `clusters` int [rows] under `count` of
    the unit.

    Only k x k sums per cluster are needed: with L L' = (X'X)^-1 and X_g L = U s V', the root enters as
    V diag(1/sqrt(1 - s^2)) V'. Degrees of freedom are NaN under `least_df`, and where one cluster decides.
    """
    count, k = int(clusters.max()) + 1 if count is None else count, design.shape[1]
    xx, xe = np.zeros((count, k, k)), np.zeros((count, k))
    for i in range(k):
        xe[:, i] = np.bincount(clusters, design[:, i] * residuals, count)
        for j in range(k):
            xx[:, i, j] = np.bincount(clusters, design[:, i] * design[:, j], count)
    root = np.linalg.cholesky(np.linalg.inv(xx.sum(0)))  # L
    share, v = np.linalg.eigh(root.T @ xx @ root)  # s^2 and V of every cluster
    whole = share >= WHOLE
    scale = np.where(whole, 0.0, 1 / np.sqrt(np.maximum(1 - share, 1 - WHOLE)))
    scores = np.einsum("gkj,gk->gj", v, xe @ root)
    effects = np.einsum("gij,gj->gi", v, scale * scores) @ root.T
    without = -np.einsum("gij,gj->gi", v, scale**2 * scores) @ root.T

    def df(combination: np.ndarray) -> float:
        turned = np.einsum("gji,j->gi", v, root.T @ combination)  # V' L' c
        length = float((turned[0] ** 2).sum()) if len(turned) else 0.0
        if whole.any() and float((turned**2 * whole).max()) > LOADS * length:
            return np.nan
        d = (turned**2 * share * scale**2).sum(1)
        z = np.einsum("gij,gj->gi", v, share * scale * turned)  # so that Z (X'X)^-1 Z' of the text-book is z z'
        diagonal, small = (z**2).sum(1), z.T @ z
        trace, square = d.sum() - diagonal.sum(), (d**2).sum() - 2 * (d @ diagonal) + np.trace(small @ small)
        value = float(trace**2 / square) if square > 1e-300 else np.nan
        return value if np.isfinite(value) and value >= least_df - 1e-9 else np.nan

    return Robust(unit, name, effects, without, df, len(np.unique(clusters)))


def mean(values: np.ndarray, clusters: np.ndarray, unit: str, name: str, count: int) -> Robust:
    """Return the error of the mean of one value per cluster, [n] each: CR2 of a constant, which is Student's."""
    n = len(values)
    deviations = np.zeros((count, 1))
    deviations[clusters, 0] = values - values.mean()
    effects, without = deviations / np.sqrt(max(n * (n - 1), 1)), -deviations / max(n - 1, 1)
    return Robust(unit, name, effects, without, lambda _: float(n - 1) if n > 1 else np.nan, n)
