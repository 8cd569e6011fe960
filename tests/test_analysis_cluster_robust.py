"""The cluster-robust error against its definition, written out with whole matrices; and against two-sample tests."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.stats import cluster_robust


def by_definition(x: np.ndarray, residuals: np.ndarray, c: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """CR2's variance and degrees of freedom with the roots of I - H taken directly."""
    inverse = np.linalg.inv(x.T @ x)
    left = np.eye(len(x)) - x @ inverse @ x.T
    variance, pulls = 0.0, []
    for cluster in np.unique(clusters):
        own = np.flatnonzero(clusters == cluster)
        values, vectors = np.linalg.eigh(left[np.ix_(own, own)])
        pull = vectors @ np.diag(values**-0.5) @ vectors.T @ x[own] @ inverse @ c
        variance += float(pull @ residuals[own]) ** 2
        pulls.append(np.zeros(len(x)))
        pulls[-1][own] = pull
    moments = np.array(pulls) @ left @ np.array(pulls).T
    return variance, float(np.trace(moments) ** 2 / np.trace(moments @ moments))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_its_definition(seed):
    random = np.random.default_rng(seed)
    clusters = np.sort(np.concatenate([np.arange(6), random.integers(0, 6, 24)]))
    x = np.column_stack([np.ones(30), random.normal(size=(30, 2))])
    y, c = random.normal(size=30), random.normal(size=3)
    residuals = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    found = cluster_robust.robust(x, residuals, clusters, "", "trials").part(c)
    assert (found.variance, found.df) == pytest.approx(by_definition(x, residuals, c, clusters))
    assert (found.name, found.clusters) == ("trials", 6)


def test_two_groups_are_welchs_test():
    random = np.random.default_rng(1)
    a, b = random.normal(0, 1, 4), random.normal(0, 3, 7)
    arm, y = np.repeat([0.0, 1.0], [4, 7]), np.concatenate([a, b])
    x = np.column_stack([np.ones(11), arm])
    residuals = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    found = cluster_robust.robust(x, residuals, np.arange(11), "", "trials").part(np.array([0.0, 1.0]))
    assert found.variance == pytest.approx(a.var(ddof=1) / 4 + b.var(ddof=1) / 7)


def test_one_cluster_says_nothing():
    x = np.column_stack([np.ones(5), np.arange(5.0)])
    found = cluster_robust.robust(x, np.array([1.0, -1, 0, -1, 1]), np.zeros(5, int), "", "trials").part(
        np.array([0.0, 1.0])
    )
    assert np.isnan([found.variance, found.df]).all()
