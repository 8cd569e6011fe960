"""Resampling whole trials: against direct computation, against textbook intervals, and on simulated sweeps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis import bootstrap
from analysis.bootstrap import Estimate, Part, combine, draw, lines, parameters


def test_refitted_lines_are_weighted_least_squares():
    random = np.random.default_rng(1)
    clusters = [f"t{i // 4}" for i in range(20)]
    x, y = random.normal(size=20) + 3, random.normal(size=20) - 5
    weights = draw(clusters, "g", 7)
    slopes, intercepts = lines(weights, x, y)
    for r in range(7):
        root = np.sqrt(weights.values[r][weights.codes])
        expected = np.linalg.lstsq(np.column_stack([x, np.ones(20)]) * root[:, None], y * root, rcond=None)[0]
        assert [slopes[r], intercepts[r]] == pytest.approx(expected, abs=1e-9)


def test_points_of_a_trial_travel_together():
    weights = draw(["a", "a", "b", "c", "c"], "g", 100)
    assert weights.clusters == 3
    assert list(weights.codes) == [0, 0, 1, 2, 2]
    assert weights.values.sum(1) == pytest.approx(np.full(100, 3.0))


def test_draws_depend_on_names_alone():
    assert (draw(["a", "b"], "x", 5).values == draw(["a", "b"], "x", 5).values).all()
    assert (draw(["a", "b"], "x", 5).values != draw(["a", "b"], "y", 5).values).all()


@pytest.mark.parametrize("count", [3, 5, 30])
def test_interval_of_a_mean_is_students(count):
    values = np.random.default_rng(count).normal(2.0, 1.0, count)
    weights = draw(range(count), "g", 40_000)
    replicates = weights.sums(values) / count
    estimate = combine(values.mean(), [bootstrap.part(replicates, count)])
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert [estimate.low, estimate.high] == pytest.approx([low, high], rel=0.03)


def test_a_single_cluster_has_no_interval():
    estimate = combine(1.0, [bootstrap.part(np.ones(10), 1)])
    assert np.isnan([estimate.low, estimate.high, estimate.p, estimate.smallest_detectable]).all()
    assert not estimate.equivalent(100.0)


def test_parameters_follow_where_the_spread_lies():
    codes = np.repeat([0, 1, 2], 4)
    assert parameters(codes, np.tile([0.0, 1.0, 2.0, 3.0], 3)) == pytest.approx(1.0)
    assert parameters(np.arange(5), np.arange(5.0)) == pytest.approx(2.0)


def test_parts_add_up_by_welch_satterthwaite():
    estimate = combine(1.0, [Part(0.04, 2), Part(0.09, 10)])
    assert estimate.se == pytest.approx(np.sqrt(0.13))
    assert estimate.df == pytest.approx(0.13**2 / (0.04**2 / 2 + 0.09**2 / 10))


def test_equivalence_is_two_one_sided_tests():
    inside, outside = Estimate(0.5, 0.5, 10.0), Estimate(1.2, 0.5, 10.0)
    assert inside.equivalent(2.0)
    assert not outside.equivalent(2.0)
    # the larger of the two one-sided p-values decides
    assert stats.t.sf((2.0 - 0.5) / 0.5, 10) < 0.05 < stats.t.sf((2.0 - 1.2) / 0.5, 10)


def test_smallest_detectable_has_eighty_per_cent_power():
    estimate = Estimate(0.0, 1.0, 200.0)
    assert estimate.smallest_detectable == pytest.approx(1.96 + 0.84, abs=0.03)
