"""Least squares whose rows come in clusters (trials): coefficients, their error, and tests of one or several of them.

Owns `ClusteredFit` and the two ways to one: `least_squares`, plain and safe for columns that nearly coincide, and
`solve`, with weights and known errors in the columns. Errors are those of `cluster_robust`, of a study in two stages
by way of `stages`; joint tests those of `wald`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from analysis.stats import cluster_robust
from analysis.stats.cluster_robust import LEAST_DF, Robust, robust
from analysis.stats.estimates import Estimate, combine
from analysis.stats.stages import Stages, over_stages
from analysis.stats.wald import Wald, wald

SINGULAR = 1e-10  # reciprocal condition number of a design under which its coefficients are not determined
LEAST_RELIABLE = 0.5  # share of the variance of h(ID) that must be no sampling error, if it is to be corrected


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which rows belong together.

    codes  int [rows], the cluster of each
    count  how many clusters the unit has; codes are under it
    unit   what the clusters are: fits of the same unit share them (see `cluster_robust.Robust`)
    name   of the error that they make, for tables
    stages of a study in two stages, which clusters are of the first
    """

    codes: np.ndarray
    count: int
    unit: str = ""
    name: str = "trials"
    stages: Stages | None = None

    @staticmethod
    def of(codes: np.ndarray) -> Clusters:
        """Return the clusters of one fit by itself, numbered from 0."""
        return Clusters(codes, int(codes.max()) + 1)


@dataclass(frozen=True, eq=False)
class ClusteredFit:
    """Coefficients [k] of y [rows] on `design` [rows, k] that leave `residuals` [rows].

    corrected  the error of the coefficients where it is not that of plain least squares (weights, errors in columns)
    """

    design: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray
    clusters: Clusters
    corrected: Robust | None = None

    @cached_property
    def errors(self) -> Robust:
        """The error of the coefficients over the clusters."""
        return self.corrected or _robust(self.design, self.residuals, self.clusters)

    @property
    def fitted(self) -> np.ndarray:
        """The fitted values, float [rows]."""
        return self.design @ self.coefficients

    def estimate(self, combination: np.ndarray) -> Estimate:
        """Return combination [k] @ coefficients with its error for few clusters."""
        return combine(float(combination @ self.coefficients), [self.errors.part(combination)])

    def coefficient(self, column: int) -> Estimate:
        """Return one coefficient with its error."""
        return self.estimate(np.eye(len(self.coefficients))[column])

    def joint(self, columns: range) -> Wald:
        """Return the test that the coefficients of these columns are all 0."""
        constraints = np.eye(len(self.coefficients))[list(columns)]
        return wald(self.design, self.residuals, self.coefficients, constraints, self.clusters.codes)


def least_squares(design: np.ndarray, y: np.ndarray, clusters: np.ndarray) -> ClusteredFit | None:
    """Return the fit of y [rows] on `design` [rows, k] with clusters int [rows], numbered from 0; None where the design
    is short of rank or leaves no residual."""
    scale = np.sqrt((design * design).sum(0))  # columns of any unit
    if len(y) <= design.shape[1] or not (scale > 0).all() or np.linalg.matrix_rank(design / scale) < design.shape[1]:
        return None
    values = np.linalg.lstsq(design / scale, y, rcond=None)[0] / scale
    return ClusteredFit(design, values, y - design @ values, Clusters.of(clusters))


def solve(
    design: np.ndarray,
    y: np.ndarray,
    clusters: Clusters,
    weights: np.ndarray | None = None,
    noise: np.ndarray | None = None,
) -> ClusteredFit | None:
    """Return the fit of y [rows] on `design` [rows, k], or None (see `coefficients`).

    weights  float [rows], of the squared residuals; None: all alike
    noise    float [rows, k], known variance of the error in each column; None: none
    """

    def errors(rows: np.ndarray) -> Robust | None:
        left = None if weights is None else weights[rows]
        own = _solved(design[rows], y[rows], replace(clusters, codes=clusters.codes[rows]), left,
                      None if noise is None else noise[rows])  # fmt: skip
        return None if own is None else own.errors

    whole = _solved(design, y, clusters, weights, noise)
    if whole is None or clusters.stages is None:
        return whole
    return replace(whole, corrected=over_stages(errors, clusters.codes, clusters.stages))


def _solved(
    design: np.ndarray, y: np.ndarray, clusters: Clusters, weights: np.ndarray | None, noise: np.ndarray | None
) -> ClusteredFit | None:
    """The fit of `solve` in one stage."""
    solution = coefficients(design, y, weights, noise) if len(y) else None
    if solution is None:
        return None
    values, inverse = solution
    residuals = y - design @ values
    root = np.ones(len(y)) if weights is None else np.sqrt(weights)
    errors = _robust(design * root[:, None], residuals * root, clusters)
    if noise is not None:
        scores = np.zeros((clusters.count, design.shape[1]))  # of the corrected normal equations; they sum to 0
        np.add.at(scores, clusters.codes, design * residuals[:, None] + noise * values)
        used = errors.used
        wider = np.sqrt(used / (used - 1)) if used > 1 else np.nan
        errors = Robust(errors.unit, errors.name, scores @ inverse * wider, errors.without, errors.df, used)
    return ClusteredFit(design, values, residuals, clusters, errors)


def errors_of(
    design: np.ndarray, y: np.ndarray, residuals: np.ndarray, clusters: Clusters, least_df: float = LEAST_DF
) -> Robust:
    """Return the error of the plain least squares of y [rows] on `design` [rows, k], of full rank, that leave the
    `residuals` [rows]."""

    def errors(rows: np.ndarray) -> Robust | None:
        own, left = design[rows], residuals[rows]
        if not rows.all():  # the first stage by itself
            if np.linalg.matrix_rank(own) < own.shape[1]:
                return None
            left = y[rows] - own @ np.linalg.lstsq(own, y[rows], rcond=None)[0]
        return robust(own, left, clusters.codes[rows], clusters.unit, clusters.name, least_df, clusters.count)

    made = over_stages(errors, clusters.codes, clusters.stages)
    assert made is not None  # it has full rank
    return made


def mean_error(values: np.ndarray, used: np.ndarray, clusters: Clusters) -> Robust:
    """Return the error of the mean of one value per cluster, float [n]; `used` int [n] are the clusters."""

    def errors(rows: np.ndarray) -> Robust:
        return cluster_robust.mean(values[rows], used[rows], clusters.unit, clusters.name, clusters.count)

    made = over_stages(errors, used, clusters.stages)
    assert made is not None
    return made


def coefficients(
    design: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None, noise: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return least squares of y [rows] or [rows, many] on `design` [rows, k], and (X'WX - S)^-1 [k, k], S the summed
    `noise`; None where the design does not determine them, or hardly anything but error is left of a column (Fuller
    1987, section 2.2)."""
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


def _robust(design: np.ndarray, residuals: np.ndarray, clusters: Clusters) -> Robust:
    return robust(design, residuals, clusters.codes, clusters.unit, clusters.name, count=clusters.count)
