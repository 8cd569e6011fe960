"""Power before spending: what a design could see, and that it really sees so much, on simulated sweeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis.__main__ as analysis_command
from analysis.options import Options
from analysis.predict import variances
from analysis.predict.design import Design, design_of
from analysis.predict.power import by_seed, chance, kinds, parts, power, seeds_for
from analysis.predict.spread import PUBLISHED_SD, Cause, published
from analysis.study import analyse
from bench import foresight
from ray_robust import sweep
from ray_robust.errors import UserError
from ray_robust.prepare import power as planning
from tests.fake_run import run_folder
from tests.fake_run import sweep as simulated

ROOT = Path(__file__).parents[1]
LEVELS = {"num_images=1000": 0.0, "num_images=4000": 0.0, "num_images=16000": 0.0}


def design(seeds: int = 3, same: bool = False, **more) -> Design:
    return design_of(rows(seeds, same), "scratch", 2.0, **more)


def rows(seeds: int, same: bool = False) -> list[dict]:
    """The rows of a plan; not the `same` seeds: every group has its own."""
    finetunes = json.dumps({"a": "camera-traps", "b": "camera-traps", "c": "camera-traps"})
    images = {"scratch": 0, **{name: int(name.partition("=")[2]) for name in LEVELS}}
    return [{"group": group, "num_images": count, "num_classes": None, "finetunes": finetunes,
             "seed": seed if same else f"{group}-{seed}"}
            for group, count in images.items() for seed in range(seeds)]  # fmt: skip


def without_line(design: Design):
    return replace(published(design), line=Cause(0.0, 0.0))


def test_a_design_is_read_from_a_plan():
    found = design()
    assert (found.groups, found.baseline) == (dict.fromkeys(LEVELS, 3), 3)
    assert (found.finetunings, found.baseline_finetunings) == (3, 3)
    assert list(found.factors) == ["num_images"]
    assert found.factors["num_images"] == pytest.approx(np.log10([1000, 4000, 16000]))
    assert found.with_seeds(7).baseline == 7
    assert [kind.name for kind in kinds(found)] == [
        "a group against the baseline", "two groups", "trend over num_images, per tenfold"
    ]  # fmt: skip


def test_published_seed_spread_asks_for_the_known_numbers_of_models():
    """Two arms of n models each: n = 2 (z.975 + z.80)^2 sd^2 / d^2 is 10.0 at 2 points and 39.9 at 1, one or two more
    by Student's t; for equivalence, with z.95 + z.90, 10.9 and 43.6."""
    planned = design()
    spread = without_line(planned)
    assert pytest.approx(1.5946, abs=1e-4) == PUBLISHED_SD
    found = [seeds_for(margin, 1, planned, spread, lambda row: row.detectable) for margin in (2.0, 1.0)]
    proved = [seeds_for(margin, 1, planned, spread, lambda row: row.provable) for margin in (2.0, 1.0)]
    assert found == pytest.approx([11.5, 41.5], abs=0.5)
    assert proved == pytest.approx([12, 44.5], abs=0.5)


def test_groups_of_the_same_seeds_are_paired_and_have_fewer_degrees_of_freedom():
    """As a paired t-test: n = 2 (z.975 + z.80)^2 sd^2 / d^2 with n - 1 degrees of freedom in place of 2 n - 2."""
    apart, same = design(), design(same=True)
    assert (apart.paired, same.paired, same.with_seeds(2).paired) == (False, True, False)
    spread = without_line(same)
    (pair,) = [kind for kind in kinds(same) if kind.name == "two groups"]
    (part,) = by_seed([part for part in parts(pair, same, spread) if part.name == "trials"], same)
    assert (part.variance, part.df) == (pytest.approx(2 * PUBLISHED_SD**2 / 3), 2.0)
    assert part.df < sum(one.df for one in parts(pair, apart, spread) if one.name == "trials")
    for few, more in zip(power(same, published(same)), power(apart, published(apart)), strict=True):
        assert (few.se, few.detectable > more.detectable) == (pytest.approx(more.se), True)


def test_a_part_shrinks_with_its_units_and_what_groups_share_cancels_in_a_pair():
    shared = Cause(4.0, 4.0)
    assert shared.part(np.ones(1), 8, "cameras").variance == pytest.approx(0.5)
    assert shared.part(np.array([1.0, -1.0]), 8, "cameras").variance == pytest.approx(0.0)
    assert Cause(4.0, 1.0).part(np.array([1.0, -1.0]), 2, "").variance == pytest.approx(3.0)
    assert np.isnan(Cause(4.0).part(np.ones(1), 1, "").df)


def test_test_groups_set_a_floor_that_seeds_cannot_lower():
    planned = design(test_groups={"OOD groups": 20})
    spread = replace(published(planned), test_groups={"OOD groups": Cause(80.0, 0.0)})
    most = power(planned.with_seeds(2_000), spread)[0]
    assert most.se == pytest.approx(2.0, rel=0.01)
    assert seeds_for(2.0, 0, planned, spread, lambda row: row.detectable) is None
    assert max(most.shares, key=most.shares.__getitem__) == "OOD groups"


def test_one_trial_a_group_finds_trends_only():
    alone = Design(dict.fromkeys("abcdefgh", 1), 3, 3, 3, {"num_images": tuple(np.linspace(3, 5, 8))})
    group, pair, trend = power(alone, published(alone))
    assert np.isnan([group.detectable, pair.detectable]).all()
    assert 0 < trend.detectable < 10
    assert planning.line(Design({"a": 1, "b": 1}, 1, 3, 3, {})).startswith("one trial a group: no difference")


def test_chance_is_80_percent_at_the_detectable_difference_and_5_at_none():
    planned = design(4)
    spread = published(planned)
    for kind, row in zip(kinds(planned), power(planned, spread), strict=True):
        assert chance(kind, planned, spread, row.detectable) == pytest.approx(0.80, abs=0.01)
        assert chance(kind, planned, spread, 0.0) <= 0.055
        assert row.after_holm >= row.detectable - 1e-9


def test_degrees_of_freedom_of_a_trend_are_those_of_textbook_regression_for_a_balanced_design():
    planned = Design({"low": 10, "high": 10}, 10, 1, 1, {"num_images": (3.0, 4.0)})
    (trend,) = [kind for kind in kinds(planned) if kind.name.startswith("trend")]
    assert trend.own[0] == (pytest.approx(0.2), pytest.approx(18.0))


def test_variances_of_a_run_are_those_that_were_planted():
    points = simulated(LEVELS, trials=60, trial_sd=0.02, noise_sd=0.03, seed=1)
    trials, finetunings, df, count = variances.between(
        analyse("task", points, Options("scratch")).points.query("group != 'scratch'")
    )
    assert trials == pytest.approx(2.0, rel=0.12)
    assert finetunings == pytest.approx(3.0 / np.sqrt(4), rel=0.12)  # the mean over four looks
    assert (df, count) == (3 * 59, 3)


@pytest.mark.slow
def test_a_run_foretells_another_size(tmp_path):
    run_folder(tmp_path / "run", simulated(LEVELS, trials=12, trial_sd=0.02, seed=3))
    spread = variances.of_run(str(tmp_path / "run"))
    assert spread.df == 33
    (large,) = [row for row in power(design(48), spread) if row.kind == "two groups"]
    (small,) = [row for row in power(design(12), spread) if row.kind == "two groups"]
    assert large.se == pytest.approx(small.se / 2, rel=1e-6)
    assert small.se == pytest.approx(2.0 * np.sqrt(2 / 12), rel=0.25)


@pytest.mark.slow
def test_a_run_that_says_nothing_of_the_spread_is_refused(tmp_path):
    run_folder(tmp_path / "run", simulated(LEVELS, trials=1))
    with pytest.raises(UserError, match="no group but scratch has two trials"):
        variances.of_run(str(tmp_path / "run"))


def test_a_run_without_a_line_is_refused_for_that_reason(tmp_path):
    points = simulated(LEVELS, seed=3)
    own = points["group"] != "scratch"
    points["ood"] = 1 - points["ood"]
    points.loc[own, "id"] = points.loc[own, "id"] * 0.5  # outside the baseline's range, which is another note
    run_folder(tmp_path / "run", points)
    with pytest.raises(UserError, match="says nothing about the spread of ER: the baseline line falls"):
        variances.of_run(str(tmp_path / "run"))


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    run_folder(tmp_path / "run", simulated(LEVELS))
    spec = ["power", "--spec", "sweeps/quantity.yaml"]
    assert analysis_command.main([*spec, "--seeds", "3,10"]) == 0
    said = capsys.readouterr().out
    assert "baseline 3, num_images=1000 3, num_images=4000 3" in said
    assert "published figures: the ER of a model varies by 1.6 points" in said
    assert "figures speak of these groups only" in said
    assert analysis_command.main([*spec, "--from", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "run: 12 trials, 6 degrees of freedom" in said
    table = pd.read_csv(tmp_path / "out/power.csv")
    assert set(table["seeds"]) == {1, 2, 3, 5, 10, 20, 50}
    pairs = table[table["kind"] == "two groups"].set_index("seeds")["detectable"]
    assert np.isnan(pairs[1])
    assert pairs.dropna().sort_index().is_monotonic_decreasing


def test_mistakes_in_a_line_each(monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = ["power", "--spec", "sweeps/quantity.yaml"]
    for arguments, told in (
        (["power"], "--spec"),
        (["power", "quantity", "--spec", "quantity"], "once"),
        ([*spec, "--seeds", "3,x"], "--seeds: '3,x' is no list of numbers"),
        ([*spec, "--margin", "0"], "--margin: 0 is not a positive number"),
        ([*spec, "--from", "nowhere"], "no run folder"),
        ([*spec, "--set", "pretrain=none"], "plans no group beside the baseline"),
        ([*spec, "--set", "baseline=none"], "plans no trial of a baseline: there is no line, hence no ER"),
    ):
        with pytest.raises(UserError, match=told):
            analysis_command.main(arguments)


def test_the_sentence_of_a_plan_has_what_the_report_can_claim():
    """Not what one contrast alone could, before Holm's correction over its family."""
    design = Design({f"g{i}": 3 for i in range(4)}, 3, 3, 3, {}, same_seeds=True)
    first = power(design, published(design))[0]
    assert first.after_holm > 1.5 * first.detectable
    assert f"a group against the baseline from {first.after_holm:.1f} points of ER" in planning.line(design)


@pytest.mark.slow
def test_a_spec_is_named_as_help_says(capsys):
    assert analysis_command.main(["power", "quantity", "--seeds", "2"]) == 0
    assert "two groups" in capsys.readouterr().out


def test_a_plan_says_what_it_could_see(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert sweep.main(["sweeps/quantity.yaml", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "power in four sweeps of five it would find a group against the baseline from " in said
    assert " on, after Holm's correction, as the report claims it; " in said
    assert "for these test groups alone (24 ID groups, 24 OOD groups): intervals that hold for others, too" in said


@pytest.mark.slow
def test_predicted_power_is_the_real_one():
    """Differences of the predicted size are found in 80 % of simulated sweeps; `bench.foresight` in small."""
    replicates = 60
    for row in foresight.power_rows(replicates, map, (4,)):
        for share in ("group found", "pair found", "proved"):
            assert row[share] == pytest.approx(0.8, abs=3 * np.sqrt(0.8 * 0.2 / replicates)), row
        assert row["found where none is"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / replicates), row


def test_parts_have_the_names_of_the_analysis():
    planned = design(test_groups={"OOD groups": 5})
    found = analyse("task", simulated(LEVELS), Options("scratch"))
    names = {name.split(" of ")[0] for name in found.errors["source"]}
    assert names <= {part.name for part in parts(kinds(planned)[0], planned, published(planned))}


def test_trends_are_one_family_and_prove_nothing_between_levels():
    levels = {f"{images}-{classes}": (images, classes) for images in (1e3, 1e4, 1e5, 1e6) for classes in (10, 100)}
    factors = {name: np.log10([pair[i] for pair in levels.values()]) for i, name in enumerate(("images", "classes"))}
    planned = Design(dict.fromkeys(levels, 3), 3, 3, 3, factors)
    rows = power(planned, published(planned))
    trends = [row for row in rows if row.of_trend]
    assert [row.family for row in trends] == [2, 2]
    assert all(row.after_holm > row.detectable for row in trends)
    best = min(row.provable for row in rows if not row.of_trend)
    assert f"no effect within {best:.1f} at best" in planning.line(planned)
    assert min(row.provable for row in trends) < best


def test_seeds_are_sought_up_to_the_most_and_no_groups_are_blamed_that_are_not_there():
    planned = design()
    spread = published(planned)
    floor = power(planned.with_seeds(2_000), spread)[0].provable
    assert 1_024 < seeds_for(1.05 * floor, 0, planned, spread, lambda row: row.provable) <= 2_000
    said = planning._seeds_sentence(0, power(planned, spread)[0], replace(planned, margin=floor / 2), spread)
    assert f"with more than 2,000 seeds, with which it is {floor:.2g}" in said
