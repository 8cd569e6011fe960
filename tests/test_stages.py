"""The statistics of seeds in two stages: whose scatter errors go by, and how many seeds that asks for (Stein 1945)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_run import sweep
from scipy import stats

from analysis.input.join_runs import _first_stage
from analysis.options import FirstStage, Options
from analysis.predict.second_stage import Stage, Target, plan_seeds, targets
from analysis.scales import SCALES
from analysis.stats.cluster_robust import mean
from analysis.stats.estimates import Estimate
from analysis.stats.quantities import ErrorSource, Quantity
from analysis.stats.stages import Stages, over_stages
from analysis.stats.task_points import TaskPoints, pairing
from analysis.study import analyse
from ray_robust.run.seed_plan import (
    CAPPED,
    DECIDED,
    MORE,
    NARROW,
    OUT_OF_REACH,
    UNKNOWN,
    UNLIKELY,
    SeedRule,
)

PLANTED = {"num_images=1000": 0.0, "num_images=4000": 4.0}
WIDE = SeedRule(4, 16, 4.0)


def staged(points: pd.DataFrame, seeds: int, bonferroni: float = 1.0) -> Options:
    assert points["seed"].min() == 0  # of fake runs
    return Options("scratch", first_stage=FirstStage("scratch", seeds - 1, seeds - 1, bonferroni))


def of_values(values: list[float], name: str = "trials of a", unit: str = "") -> Quantity:
    """The mean of one value per trial."""
    numbers = np.array(values, float)
    made = mean(numbers, np.arange(len(numbers)), unit or name, name, len(numbers))
    return Quantity(float(numbers.mean()), {made: np.ones(1)})


def target(values: list[float], **more: object) -> Target:
    return Target("a against scratch", of_values(values), {"trials of a": "a"}, **more)


def stage(first: int = 4, most: int = 16, margin: float = 2.0, **fixed: int) -> Stage:
    groups = dict.fromkeys(("a", *fixed), first)
    return Stage(groups | fixed, dict.fromkeys(groups, most) | fixed, dict.fromkeys(groups, 1.0), margin)


def test_a_study_without_a_second_stage_is_as_it_was():
    points = sweep(PLANTED, trials=4)
    plain, same = analyse("t", points, Options("scratch")), analyse("t", points, staged(points, 4))
    for name in ("groups", "contrasts", "trends", "factor_table", "ancova", "survival"):
        pd.testing.assert_frame_equal(getattr(plain, name), getattr(same, name))
    pd.testing.assert_frame_equal(plain.scores.groups, same.scores.groups)
    assert "asks for" in same.target


def test_the_error_of_a_mean_is_that_of_the_first_stage_over_all_trials():
    values = np.array([1.0, 4.0, 2.0, 9.0, -50.0, 80.0])  # what later ones show of scatter changes nothing
    stages = Stages(np.array([True] * 4 + [False] * 2))
    made = over_stages(lambda rows: mean(values[rows], np.flatnonzero(rows), "u", "n", 6), np.arange(6), stages)
    part = made.part(np.ones(1))
    assert part.variance == pytest.approx(np.var(values[:4], ddof=1) / 6)
    assert part.df == 3
    assert made.without.ravel() == pytest.approx(-(values - values.mean()) / 5)  # leaving one out is of all


def test_what_two_groups_share_by_seed_cancels_in_the_second_stage_too():
    random = np.random.default_rng(0)
    common = 3 * random.standard_normal(9)
    own = [common + 0.1 * random.standard_normal(9) for _ in range(2)]
    stages = Stages(np.arange(9) < 4)

    def of(values: np.ndarray, seeds: int):
        numbers = np.arange(seeds)
        return over_stages(lambda rows: mean(values[:seeds][rows], numbers[rows], "seeds", "n", 9), numbers, stages)

    equal = [of(values, 9) for values in own]
    apart = Quantity(0.0, {equal[0]: np.ones(1), equal[1]: -np.ones(1)}).estimate
    assert apart.se**2 == pytest.approx(np.var((own[0] - own[1])[:4], ddof=1) / 9)
    assert apart.df == 3
    fewer = of(own[1], 5)  # of nine seeds five are shared: var(a/9 - b/5) of each, and a/9 of the other four
    apart = Quantity(0.0, {equal[0]: np.ones(1), fewer: -np.ones(1)}).estimate
    a, b = (values[:4] for values in own)
    assert apart.se**2 == pytest.approx(5 * np.var(a / 9 - b / 5, ddof=1) + 4 * np.var(a / 9, ddof=1))


def test_groups_are_paired_by_the_seeds_of_the_first_stage():
    points = sweep(PLANTED, trials=6)
    few = points.loc[(points["group"] != "num_images=1000") | (points["seed"] < 4)].reset_index(drop=True)
    assert pairing(few).seeds == 0
    paired = pairing(few, rule=FirstStage("scratch", 3, 3))
    assert paired.seeds == 4
    assert set(paired.units.values()) == {("seeds", 6)}
    assert pairing(few, rule=FirstStage("scratch", 3, 5)).seeds == 0  # the baseline has others


@pytest.mark.parametrize("paired", [True, False])
def test_every_table_is_made_where_groups_have_seeds_of_their_own(paired):
    points = sweep({**PLANTED, "num_images=16000": 8.0}, trials=6)
    counts = {"num_images=1000": 4, "num_images=4000": 6, "num_images=16000": 5, "scratch": 6}
    some = points.loc[points["seed"] < points["group"].map(counts)].reset_index(drop=True)
    options = staged(points, 4)
    if not paired:
        options = replace(options, first_stage=FirstStage("scratch", 3, 5))
    analysis = analyse("t", some, options)
    first = analyse("t", points.loc[points["seed"] < 4].reset_index(drop=True), options)
    assert np.isfinite(analysis.contrasts[["low", "high"]]).all().all()
    assert np.isfinite(analysis.ancova[["slope_low", "slope_high"]]).all().all()
    assert np.isfinite(analysis.factor_table[["low", "high"]]).all().all()
    assert np.isfinite(analysis.scores.groups[["low", "high"]]).all().all()
    wide, were = ((one.groups["er_high"] - one.groups["er_low"]).to_numpy() for one in (analysis, first))
    assert wide[2] < were[2]
    assert (len(set(analysis.survival["check"])) if "check" in analysis.survival else 1) >= 1


def test_a_group_without_a_trial_of_the_first_stage_has_no_interval():
    points = sweep(PLANTED, trials=6)
    late = points.loc[(points["group"] != "num_images=1000") | (points["seed"] >= 4)].reset_index(drop=True)
    groups = analyse("t", late, staged(points, 4)).groups.set_index("group")
    assert np.isnan(groups.loc["num_images=1000", "er_low"])
    assert np.isfinite(groups.loc["num_images=4000", "er_low"])


def test_a_look_that_was_taken_costs_its_share_of_every_test():
    one, early = Estimate(3.0, 1.0, 6.0), Estimate(3.0, 1.0, 6.0, bonferroni=1.25)
    assert early.p == pytest.approx(1.25 * one.p)
    assert early.p_outside(4.0) == pytest.approx(1.25 * one.p_outside(4.0))
    assert early.high - 3.0 == pytest.approx(stats.t.ppf(0.98, 6))
    assert np.isnan(Estimate(3.0, np.nan, np.nan, 1.25).p)
    for value in np.linspace(2.2, 2.6, 9):  # no p under 5 % stands beside an interval with 0
        at = Estimate(value, 1.0, 6.0, 1.25)
        assert (at.p <= 0.05) == (at.low > 0)


def test_runs_that_are_joined_go_by_the_fewest_first_seeds():
    assert _first_stage([None, None]) is None
    rules = [FirstStage("scratch", 6, 8), None, FirstStage("scratch", 4, 9, 1.25)]
    assert _first_stage(rules) == FirstStage("scratch", 4, 8, 1.25)


def test_the_seeds_are_those_of_stein():
    values = [-2.0, 0.0, 1.0, 3.0]
    variance, t = np.var(values, ddof=1), stats.t.ppf(0.975, 3)
    seeds, (need,) = plan_seeds([target(values)], SeedRule(4, 100, 4.0), stage(most=100))
    assert seeds == {"a": int(np.ceil(t**2 * variance / 2.0**2))}
    assert need.state == MORE
    assert need.width == pytest.approx(2 * t * np.sqrt(variance / 4))
    assert need.planned == pytest.approx(2 * t * np.sqrt(variance / seeds["a"]))
    assert need.least == 0


def test_they_are_those_that_the_analysis_then_finds_enough():
    points = sweep(PLANTED, trials=16, trial_sd=0.012).assign(seed=lambda p: p["seed"] + 1)
    options = Options("scratch", first_stage=FirstStage("scratch", 4, 4))
    found = targets(points.loc[points["seed"] <= 4].reset_index(drop=True), options, WIDE)
    names = ("scratch", *PLANTED)
    seeds, needs = plan_seeds(found, WIDE, Stage(*(dict.fromkeys(names, n) for n in (4, 16, 1)), 2.0))
    assert MORE in {need.state for need in needs}
    both = points.loc[points["seed"] <= points["group"].map(seeds)].reset_index(drop=True)
    table = TaskPoints.of(both, options, ()).compare(SCALES["probit"]).contrasts.set_index(["a", "b"])
    for need in needs:
        row = table.loc[tuple(need.what.split(" against "))]
        assert row["high"] - row["low"] == pytest.approx(need.planned, rel=0.1)  # the baseline's range grows


def test_seeds_are_those_for_the_look_that_er_is_of():
    points = sweep(PLANTED, trials=4)
    for look in ("mean", "last"):
        options = replace(staged(points, 4), look=look)
        named = targets(points, options, WIDE)
        table = analyse("t", points, options).contrasts.set_index(["a", "b"])
        for one in named:
            row, estimate = table.loc[tuple(one.name.split(" against "))], one.quantity.estimate
            assert (estimate.value, estimate.low) == pytest.approx((row["delta_er"], row["low"]))


def test_no_more_than_may_be_and_none_where_it_is_enough():
    values = [-2.0, 0.0, 1.0, 3.0]
    seeds, (need,) = plan_seeds([target(values)], SeedRule(4, 6, 4.0), stage(most=6))
    assert (seeds, need.state) == ({"a": 6}, CAPPED)
    assert "with the 6 that it may have" in need.sentence(SeedRule(4, 6, 4.0))
    seeds, (need,) = plan_seeds([target([v / 100 for v in values])], WIDE, stage())
    assert (seeds, need.state) == ({"a": 4}, NARROW)


def test_what_no_seed_takes_away_is_said_and_not_spent():
    cameras = ErrorSource("OOD groups", 20, 19.0, 19.0)
    one = of_values([-2.0, 0.0, 1.0, 3.0])
    seen = replace(one, replicates={cameras: np.linspace(-0.5, 0.5, 20)})
    rule, fixed = WIDE, Target("a against scratch", seen, {"trials of a": "a"})
    seeds, (need,) = plan_seeds([fixed], rule, stage())
    assert (seeds, need.state) == ({"a": 4}, OUT_OF_REACH)
    assert need.sentence(rule) == (
        f"a against scratch: {need.width:.1f} points wide after 4 seeds; a width of 4 cannot be reached, for "
        f"{need.least:.1f} of it no seed takes away: none was spent on it"
    )
    line = of_values([-2.0, 0.0, 1.0, 3.0], "baseline line")
    both = Quantity(0.5, {**of_values([-0.1, 0.1, 0.2, 0.0]).trials, **line.trials})
    of_line = Target("a against scratch", both, {"trials of a": "a", "baseline line": "scratch"})
    seeds, (need,) = plan_seeds([of_line], rule, stage(scratch=4))  # a baseline whose seeds the spec fixes
    assert (seeds, need.state) == ({"a": 4, "scratch": 4}, OUT_OF_REACH)
    free = Stage(*(dict.fromkeys(("a", "scratch"), n) for n in (4, 16, 1)), 2.0)
    seeds, (need,) = plan_seeds([of_line], rule, free)
    assert seeds["a"] == 4
    assert 4 < seeds["scratch"] <= 16


def test_a_comparison_without_an_interval_gets_no_seeds():
    seeds, (need,) = plan_seeds([Target("a against scratch", Quantity(np.nan), {})], WIDE, stage())
    assert (seeds, need.state) == ({"a": 4}, UNKNOWN)
    assert need.sentence(WIDE).endswith("the first stage gives no interval, so no seed was spent on it")


def test_until_the_margin_decides():
    rule = SeedRule(4, 16, None)
    little, much = [-1.0, 0.4, 0.8, -0.2], [-6.0, 0.0, 1.0, 5.0]
    seeds, (need,) = plan_seeds([target([v + 9 for v in little], decided=True)], rule, stage())
    assert (seeds, need.state) == ({"a": 4}, DECIDED)
    seeds, (need,) = plan_seeds([target(little)], rule, stage())
    assert need.state == MORE
    sd = np.std(little, ddof=1)
    reach = sum(stats.t.ppf(1 - (1 - level) / 1.25, 3) * sd for level in (0.975, 0.95))
    assert seeds["a"] == int(np.ceil((reach / 2.0) ** 2))  # every estimate is then decided, wherever it lies
    seeds, (need,) = plan_seeds([target(much)], rule, stage())
    assert (seeds, need.state) == ({"a": 4}, UNLIKELY)
    seeds, (need,) = plan_seeds([target([v + 12 for v in much])], rule, stage())  # far from 0: a difference is likely
    assert (seeds, need.state) == ({"a": 16}, CAPPED)


def test_more_baseline_seeds_do_not_undo_what_was_narrow():
    """What a group shares with the baseline by seed no longer cancels where only one of the two goes on."""
    common = [-3.0, 0.0, 1.0, 4.0]
    line = of_values([-v for v in common], "baseline line", "seeds")
    nearly = [value + more for value, more in zip(common, (0.02, -0.02, 0.01, -0.01), strict=True)]
    narrow = Quantity(0.0, {**of_values(nearly, "trials of a", "seeds").trials, **line.trials})
    wide = Quantity(0.0, {**of_values([5.0, -4.0, -3.0, 2.0], "trials of b", "seeds").trials, **line.trials})
    names = {"trials of a": "a", "trials of b": "b", "baseline line": "scratch"}
    pair = [Target("a against scratch", narrow, names), Target("b against scratch", wide, names)]
    free = Stage(*(dict.fromkeys(("a", "b", "scratch"), n) for n in (4, 40, 1)), 2.0)
    seeds, needs = plan_seeds(pair, SeedRule(4, 40, 4.0), free)
    assert needs[0].state == NARROW
    assert needs[0].planned <= 4.0
    assert seeds["scratch"] == 4 or seeds["a"] > 4
