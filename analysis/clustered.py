"""The error of a combination of least-squares coefficients when rows come in clusters (trials), for few clusters.

Owns the bias-reduced cluster-robust variance ("CR2") and its degrees of freedom (Bell and McCaffrey 2002; Imbens and
Kolesar 2016): each cluster's residuals are divided by the root of what the fit leaves of their variance, and the
degrees of freedom match the first two moments that the estimate has under independent errors.
"""

from __future__ import annotations

import numpy as np

from analysis.bootstrap import Part

LEAST_DF = 1.0  # of an interval; Student's t is then as wide as it is for two observations
WHOLE = 1 - 1e-9  # a direction that one cluster decides alone has no residual


def part(
    design: np.ndarray, residuals: np.ndarray, combination: np.ndarray, clusters: np.ndarray, name: str,
    least_df: float = LEAST_DF,
) -> Part:  # fmt: skip
    """The error of `combination` [k] @ coefficients of least squares on `design` [rows, k]; `clusters` int [rows].

    Only k x k sums per cluster are needed: with L L' = (X'X)^-1 and X_g L = U s V', the root enters as
    V diag(1/sqrt(1 - s^2)) V'. NaN where fewer than `least_df` degrees of freedom are left.
    """
    count, k = int(clusters.max()) + 1, design.shape[1]
    xx, xe = np.zeros((count, k, k)), np.zeros((count, k))
    for i in range(k):
        xe[:, i] = np.bincount(clusters, design[:, i] * residuals, count)
        for j in range(k):
            xx[:, i, j] = np.bincount(clusters, design[:, i] * design[:, j], count)
    root = np.linalg.cholesky(np.linalg.inv(xx.sum(0)))  # L
    share, v = np.linalg.eigh(root.T @ xx @ root)  # s^2 and V of every cluster
    scale = np.where(share < WHOLE, 1 / np.sqrt(np.maximum(1 - share, 1 - WHOLE)), 0.0)
    turned = np.einsum("gji,j->gi", v, root.T @ combination)  # V' L' c
    effects = np.einsum("gi,gi,gi->g", turned, scale, np.einsum("gji,gj->gi", v, xe @ root))
    d = (turned**2 * share * scale**2).sum(1)
    z = np.einsum("gij,gj->gi", v, share * scale * turned)  # L'z of the text-book's Z, so that Z (X'X)^-1 Z' is z z'
    diagonal = (z**2).sum(1)
    small = z.T @ z
    trace, square = d.sum() - diagonal.sum(), (d**2).sum() - 2 * (d @ diagonal) + np.trace(small @ small)
    df = float(trace**2 / square) if square > 1e-300 else np.nan
    known = np.isfinite(df) and df >= least_df - 1e-9
    return Part(float((effects**2).sum()) if known else np.nan, df if known else np.nan, name, count)
