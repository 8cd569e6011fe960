"""One test of several least-squares coefficients at once when rows come in clusters (trials), for few clusters.

Owns the approximate Hotelling test ("AHT", in R's clubSandwich "HTZ") of Pustejovsky and Tipton (2018, Journal of
Business & Economic Statistics 36:672): the Wald statistic of the bias-reduced cluster-robust variance ("CR2"), which is
taken to be Wishart with the degrees of freedom that match the total variance of its elements under independent errors.
Of a single coefficient it is the square of the t test of `cluster_robust`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import fdtrc

from analysis.stats.cluster_robust import WHOLE

LEAST_DF = 1.0  # of the denominator; with fewer there is no test
LOADS = 1e-6  # a share of a constraint's variance that counts as none


class Wald(NamedTuple):
    """F statistic, its degrees of freedom, and p; all NaN but `df1` where there is no test."""

    f: float
    df1: float
    df2: float
    p: float


def wald(
    design: np.ndarray, residuals: np.ndarray, coefficients: np.ndarray, constraints: np.ndarray, clusters: np.ndarray
) -> Wald:
    """Test whether constraints [q, k] @ coefficients [k] are all 0, for least squares on `design` [rows, k] that leaves
    `residuals` [rows]; `clusters` int [rows] are numbered from 0.

    No test (NaN) where the design or the constraints are short of rank, where a constraint rests on a direction that
    one cluster decides alone (its residual there is 0 whatever is true), or where under `LEAST_DF` degrees of freedom
    are left. Only k x k sums per cluster are needed: the cost grows with rows and clusters, not with their squares.
    """
    constraints = np.atleast_2d(np.asarray(constraints, float))
    (q, k), count = constraints.shape, int(clusters.max()) + 1
    none = Wald(np.nan, float(q), np.nan, np.nan)
    scale = np.sqrt((design * design).sum(0))  # columns of any unit
    if not (scale > 0).all() or np.linalg.matrix_rank(design / scale) < k or np.linalg.matrix_rank(constraints) < q:
        return none
    design, constraints = design / scale, constraints / scale
    values = constraints @ (np.asarray(coefficients, float) * scale)
    xx, xe = np.zeros((count, k, k)), np.zeros((count, k))
    for i in range(k):
        xe[:, i] = np.bincount(clusters, design[:, i] * residuals, count)
        for j in range(k):
            xx[:, i, j] = np.bincount(clusters, design[:, i] * design[:, j], count)
    root = np.linalg.cholesky(np.linalg.inv(xx.sum(0)))  # L, with L L' = (X'X)^-1
    # C L, turned so that the constraints are independent and of variance 1 under independent errors: any full-rank
    # transformation of them is the same test
    lower = np.linalg.cholesky(constraints @ root @ root.T @ constraints.T)
    loads = np.linalg.solve(lower, constraints @ root)  # [q, k]
    values = np.linalg.solve(lower, values)
    share, v = np.linalg.eigh(root.T @ xx @ root)  # s^2 and V of X_g L = U s V'
    turned = np.einsum("gji,qj->giq", v, loads)  # V' L' C'
    alone = share >= WHOLE
    if (turned[alone] ** 2 > LOADS).any():
        return none
    shrink = np.where(alone, 0.0, 1 / np.sqrt(np.maximum(1 - share, 1 - WHOLE)))  # A_g = U diag(shrink) U' + ...
    effects = np.einsum("giq,gi,gi->gq", turned, shrink, np.einsum("gji,gj->gi", v, xe @ root))
    eta = _degrees_of_freedom(turned, share, shrink, v)
    df2 = eta - q + 1
    variance = effects.T @ effects
    if not df2 >= LEAST_DF - 1e-9 or np.linalg.matrix_rank(variance, hermitian=True) < q:
        return none
    f = float(values @ np.linalg.solve(variance, values)) * df2 / (eta * q)
    return Wald(f, float(q), df2, float(fdtrc(q, df2, f)))


def _degrees_of_freedom(turned: np.ndarray, share: np.ndarray, shrink: np.ndarray, v: np.ndarray) -> float:
    """eta = q (q + 1) / sum of the variances of the elements of the standardised CR2 variance.

    With u_gs the weights that cluster g's part of constraint s puts on the errors, element (s, t) is the sum over g of
    (u_gs'e)(u_gt'e), and P_gh[s, t] = u_gs'u_ht is D_g[s, t] for g = h, less z_gs'z_ht (what the fit takes).
    """
    q = turned.shape[2]
    z = np.einsum("gij,gjq->giq", v, (share * shrink)[:, :, None] * turned)  # [clusters, k, q]
    d = np.einsum("gis,gi,git->gst", turned, share * shrink**2, turned)
    own = np.einsum("gis,git->gst", z, z)
    traces = np.einsum("gss->g", d)
    flat = z.reshape(len(z), -1)
    both = (flat.T @ flat).reshape(z.shape[1], q, z.shape[1], q)  # sum over clusters of z[a, s] z[b, t]
    straight = (traces**2).sum() - 2 * (traces * np.einsum("gss->g", own)).sum() + (both**2).sum()
    crossed = (d**2).sum() - 2 * (d * own).sum() + np.einsum("asbt,atbs->", both, both)
    total = straight + crossed
    return float(q * (q + 1) / total) if total > 1e-300 else np.nan
