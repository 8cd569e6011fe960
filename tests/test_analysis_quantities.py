"""Numbers with their errors: against textbook tests and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.stats import cluster_robust
from analysis.stats.estimates import Estimate, Part, combine
from analysis.stats.quantities import Quantity, weighted


@pytest.mark.parametrize("count", [3, 5, 30])
def test_interval_of_a_mean_is_students(count):
    values = np.random.default_rng(count).normal(2.0, 1.0, count)
    estimate = mean_of(values).estimate
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert [estimate.low, estimate.high] == pytest.approx([low, high])
    assert estimate.p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)


def mean_of(values: np.ndarray, unit: str = "trials", clusters: np.ndarray | None = None) -> Quantity:
    clusters = np.arange(len(values)) if clusters is None else clusters
    error = cluster_robust.mean(values, clusters, unit, "trials", int(clusters.max()) + 1)
    return Quantity(float(values.mean()), {error: np.ones(1)})


def test_a_single_cluster_has_no_interval():
    estimate = mean_of(np.array([1.0])).estimate
    assert np.isnan([estimate.low, estimate.high, estimate.p, estimate.smallest_detectable]).all()
    assert np.isnan(estimate.p_outside(100.0))


def test_two_groups_are_welchs_test_and_paired_ones_the_paired_test():
    random = np.random.default_rng(2)
    a, b = random.normal(0, 1, 4), random.normal(0, 3, 7)
    apart = weighted([mean_of(a, "a"), mean_of(b, "b")], [1.0, -1.0]).estimate
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert (apart.p, apart.df) == pytest.approx((welch.pvalue, welch.df))
    seeds = random.normal(0, 2, 6)
    a, b = seeds + random.normal(0, 1, 6), seeds + random.normal(0, 1, 6)
    paired = weighted([mean_of(a, "seeds"), mean_of(b, "seeds")], [1.0, -1.0]).estimate
    test = stats.ttest_rel(a, b)
    assert (paired.p, paired.df) == pytest.approx((test.pvalue, 5))


def test_without_one_trial_is_the_number_without_it():
    random = np.random.default_rng(3)
    a, b = random.normal(3, 1, 5), random.normal(0, 1, 4)
    difference = weighted([mean_of(a, "a"), mean_of(b, "b")], [1.0, -1.0])
    left = [np.delete(a, i).mean() - b.mean() for i in range(5)] + [a.mean() - np.delete(b, i).mean() for i in range(4)]
    assert difference.without_one == pytest.approx((min(left), max(left)))


def test_parts_add_up_by_welch_satterthwaite():
    estimate = combine(1.0, [Part(0.04, 2), Part(0.09, 10)])
    assert estimate.se == pytest.approx(np.sqrt(0.13))
    assert estimate.df == pytest.approx(0.13**2 / (0.04**2 / 2 + 0.09**2 / 10))


def test_equivalence_is_two_one_sided_tests():
    inside, outside = Estimate(0.5, 0.5, 10.0), Estimate(1.2, 0.5, 10.0)
    assert inside.p_outside(2.0) == pytest.approx(stats.t.sf((2.0 - 0.5) / 0.5, 10))
    assert outside.p_outside(2.0) == pytest.approx(stats.t.sf((2.0 - 1.2) / 0.5, 10))  # the larger of both decides
    assert Estimate(-1.2, 0.5, 10.0).p_outside(2.0) == outside.p_outside(2.0)
    # at 5 % it is the 90 % interval inside the margin
    assert inside.p_outside(2.0) < 0.05
    assert -2.0 < inside.inner[0] < inside.inner[1] < 2.0
    assert outside.p_outside(2.0) > 0.05
    assert outside.inner[1] > 2.0


def test_smallest_detectable_has_eighty_per_cent_power():
    estimate = Estimate(0.0, 1.0, 200.0)
    assert estimate.smallest_detectable == pytest.approx(1.96 + 0.84, abs=0.03)
