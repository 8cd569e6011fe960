"""From points to numbers and words on simulated sweeps: effect, no effect, not established, refused, too little."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from analysis import findings as words
from analysis.input.run_points import read_run
from analysis.input.table import Table
from analysis.options import Options
from analysis.stats.contrasts import holm
from analysis.study import analyse, analyse_all
from analysis.verdict import verdict
from tests.fake_run import run_folder, sweep

OPTIONS = Options("scratch")
QUIET = {"trial_sd": 0.002, "noise_sd": 0.002}


def findings(analysis) -> list[str]:
    return [finding.text for finding in words.findings(analysis)]


@pytest.fixture(scope="module")
def quantity():
    planted = {"num_images=16000": 6.0, "num_images=1000": 0.0}
    return analyse("task", sweep({**planted, "num_images=4000": 3.0}, **QUIET), OPTIONS)


def test_er_is_the_distance_to_the_line(quantity):
    points, line = quantity.points, quantity.baseline.line
    assert points["expected_ood"].to_numpy() == pytest.approx(ndtr(line.at(points["x"])), abs=1e-12)
    assert points["er"].to_numpy() == pytest.approx(100 * (points["ood"] - points["expected_ood"]), abs=1e-9)


def test_means_leave_extrapolated_points_out(quantity):
    points = quantity.points
    outside = (points["id"] < quantity.baseline.low) | (points["id"] > quantity.baseline.high)
    assert (points["extrapolated"] == outside).all()
    assert points.loc[outside, ["er_low", "er_high"]].isna().all(axis=None)
    for row in quantity.groups.itertuples():
        used = points.loc[(points["group"] == row.group) & ~outside]
        assert row.er == pytest.approx(used.groupby("trial")["er"].mean().mean())
        assert row.n_used + row.extrapolated == row.n_points


def test_groups_come_in_the_order_of_their_level(quantity):
    assert list(quantity.groups["group"]) == ["scratch", "num_images=1000", "num_images=4000", "num_images=16000"]


def test_planted_effects_are_found(quantity):
    groups = quantity.groups.set_index("group")
    assert groups.loc["num_images=16000", "er"] == pytest.approx(6.0, abs=0.5)
    assert groups.loc["num_images=16000", "er_low"] > 0
    slope = quantity.factors[0]
    assert slope.name == "num_images"
    assert slope.slope.low > 0
    assert 0.9 < slope.partial_r2 <= 1
    sentence = findings(quantity)[0]
    assert sentence.startswith("Pre-training images: +")
    assert sentence.endswith("over 3 levels.")


def test_no_effect_needs_the_equivalence_test(quantity):
    said = next(s for s in findings(quantity) if s.startswith("num_images=1000 against scratch"))
    assert "no effect within 2 points" in said
    noisy = analyse("task", sweep({"num_images=1000": 0.0}, trial_sd=0.03, seed=4), OPTIONS)
    assert findings(noisy)[0].startswith("Not established: num_images=1000 against scratch: ")
    assert "this design could have found" in findings(noisy)[0]


def test_a_poor_line_refuses_the_verdict():
    points = sweep({"num_images=1000": 5.0})
    points["ood"] = np.random.default_rng(0).uniform(0.1, 0.5, len(points))
    found = analyse("task", points, OPTIONS)
    assert found.refused
    assert found.groups["er"].isna().all()
    assert found.contrasts["delta_er"].isna().all()
    assert findings(found)[0].startswith("Not established: effective robustness, because R² of the baseline line is 0.")
    assert any("under the floor of 0.8" in w for w in found.warnings)


def test_a_single_trial_has_no_interval():
    found = analyse("task", sweep({"num_images=1000": 5.0}, trials=1), OPTIONS)
    assert found.groups["er"].notna().all()
    assert found.groups[["er_low", "er_high"]].isna().all(axis=None)
    assert "scratch, num_images=1000: a single trial, so no interval can be given; the spread between trials is " \
        "unknown" in found.warnings  # fmt: skip
    assert findings(found) == [
        f"Not established: num_images=1000 against scratch: +{found.groups.er[1]:.1f} points of ER (no interval); "
        "more trials are needed for an interval."
    ]


def test_two_trials_are_told():
    found = analyse("task", sweep({"num_images=1000": 5.0}, trials=2), OPTIONS)
    assert found.groups["er_low"].notna().all()
    assert "scratch, num_images=1000: two trials, whose spread is hardly known; intervals are as wide as that" \
        in found.warnings  # fmt: skip


def test_two_trials_beside_more_are_told():
    points = sweep({"num_images=1000": 5.0}, trials=4)
    of_group = points["group"] == "num_images=1000"
    few = points.loc[of_group, "trial"].unique()[2:]
    less = "intervals are as wide as that, and beside groups of more trials hold the truth less often than in 95 % of "
    warnings = analyse("task", points[~points["trial"].isin(few)], OPTIONS).warnings
    assert f"num_images=1000: two trials, whose spread is hardly known; {less}cases" in warnings


def test_a_group_beyond_the_line_gets_no_number():
    points = sweep({"num_images=1000": 0.0}, **QUIET)
    far = points["group"] != "scratch"
    points.loc[far, "id"] = np.linspace(0.95, 0.99, far.sum())
    found = analyse("task", points, OPTIONS)
    assert "num_images=1000: no point lies in the baseline's ID range, so nothing is said about this group" \
        in found.warnings  # fmt: skip
    assert "for lack of points at ID scores that they share" in findings(found)[0]


def test_too_few_points_still_give_an_analysis():
    points = sweep({"num_images=1000": 0.0})
    none = analyse("task", points.loc[points["group"] != "scratch"], OPTIONS)
    assert none.warnings[0] == "no effective robustness: the baseline 'scratch' has 0 points, too few for a line"
    assert findings(none) == ["Not established: effective robustness, because no baseline line can be fitted."]
    empty = analyse("task", points.iloc[:0], OPTIONS)
    assert verdict([empty])["groups"] == {}


def test_scores_of_zero_and_one_are_clipped_and_counted():
    points = sweep({"num_images=1000": 0.0})
    points.loc[0, "ood"] = 0.0
    found = analyse("task", points, OPTIONS)
    assert found.points["clipped"].sum() == 1
    assert found.points["y"].min() == pytest.approx(-3.4808, abs=1e-3)  # the probit of half of one example of 2,000
    assert found.trends.set_index(["group", "scale"])["clipped"].to_dict()["scratch", "linear"] == 0


def test_holm():
    assert holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)


def test_contrasts_use_the_shared_range(quantity):
    row = quantity.contrasts.set_index(["a", "b"]).loc[("num_images=16000", "num_images=1000")]
    low, high = row["id_low"], row["id_high"]
    points = quantity.points.loc[quantity.points["id"].between(low, high) & ~quantity.points["extrapolated"]]
    means = points.groupby(["group", "trial"])["er"].mean().groupby("group").mean()
    assert row["delta_er"] == pytest.approx(means["num_images=16000"] - means["num_images=1000"])


def test_factors_never_varied_apart_are_refused():
    points = sweep({"num_images=1000": 0.0, "num_images=4000": 1.0, "num_images=16000": 2.0, "num_images=64000": 3.0})
    points["num_classes"] = points["num_images"] // 10
    found = analyse("task", points, OPTIONS)
    assert found.factors == []
    assert "num_images and num_classes were never varied apart: their effects cannot be told from each other" \
        in found.warnings  # fmt: skip


def test_two_factors_varied_apart_are_told_apart():
    planted = {f"num_images={n}": 0.0 for n in (1000, 4000, 16000, 64000)}
    points = sweep(planted, **QUIET)
    images = points["num_images"].replace(0, 1000)
    points["num_classes"] = images.map({1000: 100, 4000: 1000, 16000: 1000, 64000: 100})
    points.loc[points["num_images"] > 0, "ood"] += 0.02 * np.log10(images / 1000)
    found = analyse("task", points, OPTIONS)
    slopes = {f.name: f.slope for f in found.factors}
    assert slopes["num_images"].low <= 2.0 <= slopes["num_images"].high
    assert slopes["num_classes"].low <= 0.0 <= slopes["num_classes"].high


def test_influence_and_selection(quantity):
    assert set(quantity.influence["group"]) == set(quantity.groups["group"])
    assert quantity.influence["change"].abs().is_monotonic_decreasing
    selection = quantity.selection.set_index("group")
    chosen = quantity.points.loc[quantity.points["group"] == "num_images=16000"]
    by = [chosen.loc[chosen.groupby("trial")[key].idxmax()].set_index("trial") for key in ("id_val", "ood_val")]
    best = by[0].loc[~by[0]["extrapolated"] & ~by[1]["extrapolated"], "er"].mean()
    for group, row in selection.iterrows():
        assert 100 * row["ood_by_id_val"] == pytest.approx(quantity.scores.mean(group)["mean"])  # the same points
    assert selection.loc["num_images=16000", "er_by_id_val"] == pytest.approx(best)


def test_the_seed_decides_and_the_order_of_rows_does_not():
    points = sweep({"num_images=1000": 1.0})
    shuffled = points.sample(frac=1, random_state=1).reset_index(drop=True)
    first, again = analyse("task", points, OPTIONS), analyse("task", shuffled, OPTIONS)
    columns = ["er", "er_low", "er_high"]
    pd.testing.assert_frame_equal(
        first.groups.set_index("group")[columns], again.groups.set_index("group")[columns], rtol=1e-9
    )


def test_several_tasks_are_analysed_apart():
    one, two = sweep({"num_images=1000": 1.0}), sweep({"num_images=1000": 4.0}, seed=9).assign(task="other")
    table = Table(
        "t", pd.concat([one, two], ignore_index=True), (), pd.DataFrame(columns=["trial", "group", "task", "reason"])
    )
    found = verdict(analyse_all(table, OPTIONS))
    assert found["task"] == "camera-traps"
    assert set(found["tasks"]) == {"other"}
    assert found["tasks"]["other"]["groups"]["num_images=1000"]["er"] > found["groups"]["num_images=1000"]["er"]


def test_a_run_says_what_is_missing(tmp_path):
    points = sweep({"num_images=1000": 0.0, "num_images=4000": 3.0})
    lost = points.loc[points["group"] == "num_images=1000", "trial"].iloc[0]
    run_folder(tmp_path / "run", points, failed={lost: "the loss became NaN"}, unfinished=2)
    table, options = read_run(str(tmp_path / "run"))
    assert options == Options("scratch", "probit", 2.0, 0.8)
    assert table.left_out.to_dict("records")[0]["reason"] == "the loss became NaN"
    assert table.warnings == ("2 of 9 trials have not finished yet: this is a partial run",)
    found = analyse_all(table, options)
    assert json.loads(json.dumps(verdict(found), allow_nan=False))["left_out"][0]["trial"] == lost
