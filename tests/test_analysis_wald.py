"""The test of several coefficients against its definition, exact special cases and R's clubSandwich."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.stats import cluster_robust
from analysis.stats.wald import wald


def by_definition(x, residuals, b, c, clusters):
    """AHT with whole matrices, element by element of the variance."""
    m = np.linalg.inv(x.T @ x)
    left = np.eye(len(x)) - x @ m @ x.T
    values, vectors = np.linalg.eigh(c @ m @ c.T)
    g = vectors @ np.diag(values**-0.5) @ vectors.T
    rows = []
    for cluster in np.unique(clusters):
        own = np.flatnonzero(clusters == cluster)
        value, vector = np.linalg.eigh(left[np.ix_(own, own)])
        root = vector @ np.diag(np.where(value > 1e-9, np.abs(value) ** -0.5, 0)) @ vector.T
        w = np.zeros((len(c), len(x)))
        w[:, own] = (root @ x[own] @ m @ c.T).T
        rows.append(w)
    q, v, total = len(c), np.zeros((len(c), len(c))), 0.0
    for w in rows:
        v += np.outer(w @ residuals, w @ residuals)
    u = [g @ w @ left for w in rows]
    for a in u:
        for h in u:
            p = a @ h.T
            total += np.trace(p) ** 2 + (p * p.T).sum()
    eta = q * (q + 1) / total
    f = (c @ b) @ np.linalg.solve(v, c @ b) * (eta - q + 1) / (eta * q)
    return f, q, eta - q + 1, stats.f.sf(f, q, eta - q + 1)


def fitted(x, y):
    b = np.linalg.lstsq(x, y, rcond=None)[0]
    return b, y - x @ b


@pytest.mark.parametrize("seed", range(5))
def test_it_is_its_definition(seed):
    random = np.random.default_rng(seed)
    clusters = np.sort(np.concatenate([np.arange(8), random.integers(0, 8, 32)]))
    x = np.column_stack([np.ones(40), random.normal(size=(40, 3)) * [1, 100, 1e-3]])
    b, e = fitted(x, random.normal(size=40))
    c = random.normal(size=(2, 4))
    assert wald(x, e, b, c, clusters) == pytest.approx(by_definition(x, e, b, c, clusters))


def test_of_one_coefficient_it_is_the_square_of_t():
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(6), 5)
    x = np.column_stack([np.ones(30), random.normal(size=(30, 2))])
    b, e = fitted(x, random.normal(size=30))
    one = cluster_robust.robust(x, e, clusters, "", "trials").part(np.array([0.0, 0, 1]))
    found = wald(x, e, b, np.array([[0.0, 0, 1]]), clusters)
    assert found.f == pytest.approx(b[2] ** 2 / one.variance)
    assert found.df2 == pytest.approx(one.df)


def test_of_a_vector_mean_it_is_hotellings():
    """Every cluster is one vector: the exact T^2 test, F(q, m - q)."""
    random = np.random.default_rng(1)
    m, q = 9, 3
    y = random.multivariate_normal([0.5, 0, 0], [[1, 0.6, 0], [0.6, 2, 0], [0, 0, 1]], m)
    x = np.tile(np.eye(q), (m, 1))
    b, e = fitted(x, y.ravel())
    t2 = m * y.mean(0) @ np.linalg.solve(np.cov(y.T), y.mean(0))
    found = wald(x, e, b, np.eye(q), np.repeat(np.arange(m), q))
    assert found[:3] == pytest.approx(((m - q) / (q * (m - 1)) * t2, q, m - q))


def of_waves():
    """Eight clusters of 3 to 13 rows that any program can make again."""
    i = np.arange(60)
    clusters = np.repeat(np.arange(8), [3, 5, 8, 4, 12, 6, 13, 9])
    g = clusters + 1
    x = np.sin(i) + 0.3 * g
    design = np.column_stack([np.ones(60), x, x**2, np.cos(1.7 * i) * np.sqrt(g)])
    y = 1 + x + 0.2 * x**2 + np.sin(g * g) + 0.5 * np.sin(7 * i)
    return design, *fitted(design, y), clusters


@pytest.mark.parametrize(
    ("rows", "f", "df2", "p"),
    [
        ([2, 3], 1.37819303955119, 3.48728814964986, 0.362193827266437),
        ([1, 2, 3], 10.0553384088265, 2.14417389830115, 0.0820516896506585),
        ([2], 3.45743313380614, 4.01745696868367, 0.136181704511971),
    ],
)
def test_it_is_what_r_gives(rows, f, df2, p):
    """clubSandwich 0.5.8: Wald_test(fit, constrain_zero(rows), vcovCR(fit, clusters, type = "CR2"), test = "HTZ")."""
    x, b, e, clusters = of_waves()
    assert wald(x, e, b, np.eye(4)[rows], clusters) == pytest.approx((f, len(rows), df2, p), rel=1e-10)


def test_neither_units_nor_the_wording_of_the_constraints_matter():
    x, b, e, clusters = of_waves()
    first = wald(x, e, b, np.eye(4)[[2, 3]], clusters)
    units = np.array([1, 1e6, 1e-5, 40])
    again = wald(x * units, e, b / units, np.array([[0, 0, 1e-5, 40.0], [0, 0, 2e-5, -40.0]]), clusters)
    assert again == pytest.approx(first)


def test_a_direction_that_one_cluster_decides_is_no_test():
    """Its residual there is 0 whatever is true; what the others decide is tested all the same."""
    x, _, _, clusters = of_waves()
    x = np.column_stack([x, clusters == 3])
    y = np.cos(np.arange(60.0) ** 2)
    b, e = fitted(x, y)
    assert np.isnan(wald(x, e, b, np.eye(5)[[2, 4]], clusters).p)
    others = wald(x, e, b, np.eye(5)[[2, 3]], clusters)
    assert others == pytest.approx(by_definition(x, e, b, np.eye(5)[[2, 3]], clusters))


def test_what_cannot_be_tested_is_not():
    x, b, e, clusters = of_waves()
    one = wald(x, e, b, np.eye(4)[[2, 3]], np.zeros(60, int))
    two = wald(x, e, b, np.eye(4)[[1, 2, 3]], clusters % 2)
    double = wald(np.column_stack([x, x[:, 1]]), e, np.append(b, 0.0), np.eye(5)[[1, 4]], clusters)
    repeated = wald(x, e, b, np.eye(4)[[2, 2]], clusters)
    empty = wald(np.column_stack([x, np.zeros(60)]), e, np.append(b, 0.0), np.eye(5)[[4]], clusters)
    for each in (one, two, double, repeated, empty):
        assert np.isnan([each.f, each.df2, each.p]).all()


def test_it_finds_at_its_level_where_there_is_nothing():
    """Ten uneven clusters with offsets of their own: not more than a binomial of 5 % allows, and not never."""
    random = np.random.default_rng(2)
    clusters = np.repeat(np.arange(10), [2, 2, 3, 4, 6, 6, 8, 8, 10, 11])
    x = np.column_stack([np.ones(60), random.normal(size=(60, 3))])
    hits = 0
    for _ in range(400):
        b, e = fitted(x, random.normal(size=10)[clusters] + random.normal(size=60))
        hits += wald(x, e, b, np.eye(4)[[2, 3]], clusters).p <= 0.05
    assert 2 <= hits <= 32
