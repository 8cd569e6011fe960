"""What claims survive: each check holds back the claim that it is there for, and leaves a true one alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

from analysis.findings import findings
from analysis.options import Options
from analysis.stats.sensitivity import CHECKS
from analysis.study import Analysis, analyse
from bench.designs import Design, Group, draw
from bench.scenarios import APART, KINKED, WIDE, levels, placed

QUIET = {"trial_sd": 0.004, "point_sd": 0.004}


def analysed(design: Design, seed: int = 3) -> Analysis:
    return analyse("t", draw(design, seed).points, Options("scratch"))


def of_group(analysis: Analysis, level: str) -> tuple[set[str], set[str]]:
    """The checks that a group's claim against the baseline holds in, and those that it does not hold in."""
    row = analysis.contrasts.set_index(["a", "b"]).loc[f"num_images={level}", "scratch"]
    return tuple(set(filter(None, row[column].split("; "))) for column in ("survived", "not_robust_to"))


def test_a_true_effect_survives_every_check_that_can_be_made():
    study = analysed(Design(levels((0, 5, 10)), **QUIET))
    held, failed = of_group(study, "100000")
    assert {"any one trial", "a curve", "errors in ID", "unequal noise", "other scales"} <= held <= set(CHECKS)
    assert not failed
    slope = study.factor_table.iloc[0]
    assert "any one level" in slope["survived"]
    assert slope["not_robust_to"] == ""


def test_no_effect_of_a_number_is_not_said_to_hold_without_a_trial():
    """It rests on every pair of levels; the row has the slope's ends without a trial, which are another number."""
    study = analysed(Design(levels((0, 0, 0)), **QUIET))
    assert study.factor_table["equivalent"].all()
    checked = study.survival.loc[study.survival["check"] == "any one trial"]
    assert set(checked["table"]) == {"contrasts", "levels"}
    assert "any one trial" not in study.factor_table.iloc[0]["survived"]


@pytest.mark.parametrize("er", [(0, 6, 6, 6), (0, 0, 0, 6)])
def test_the_slope_of_a_step_does_not_survive_without_the_level_that_makes_it(er):
    study = analysed(Design(levels(er, Group(trials=3), trials=3), trial_sd=0.012, point_sd=0.008))
    row = study.factor_table.iloc[0]
    values = study.regression.factors[0].without_level
    assert min(values) < row["slope"] / 2
    assert not any(one.kind == "differs" and "per tenfold" in one.text for one in findings(study))


def test_without_a_level_the_slope_is_that_of_least_squares_on_the_others():
    study = analysed(Design(levels((0, 3, 4, 8)), **QUIET))
    inside = study.points.loc[~study.points["extrapolated"] & (study.points["group"] != "scratch")]
    by_trial = inside.groupby(["num_images", "trial"])["er"].mean().reset_index()
    slopes = []
    for level in by_trial["num_images"].unique():
        rest = by_trial.loc[by_trial["num_images"] != level]
        slopes.append(np.polyfit(np.log10(rest["num_images"].astype(float)), rest["er"], 1)[0])
    assert study.regression.factors[0].without_level == pytest.approx((min(slopes), max(slopes)))


def test_epoch_is_seen_to_move_the_baseline_where_the_rate_rises_along_the_line_too():
    """Of six points along the line the first three have one rate, the others another, and epochs go round: together
    they are nearly the ID score, and neither can be told beside the other."""
    long = Group(epochs=(4, 8, 12))
    study = analysed(Design(levels((0, 0, 0), long, epochs=(1, 2, 3)), by_epoch=0.3, **QUIET))
    checked = study.survival.loc[study.survival["check"] == "the schedule"]
    assert "with epoch" in set(checked["how"])
    claims = [one for one in findings(study) if one.table == "contrasts" and one.row.get("b") == "scratch"]
    assert not any(one.kind == "differs" for one in claims)
    assert any("the schedule" in one.not_robust_to for one in claims)


def test_no_claim_holds_where_id_scores_are_mostly_error():
    """A narrow baseline on few images: the correction itself cannot be made."""
    design = Design(placed((8, 8, 8), Group(low=-0.05, high=0.1), ((-0.05, 0.1),) * 3), images=150, **QUIET)
    study = analyse("t", draw(design, 3).points, Options("scratch", min_r2=0.0))
    if study.refused:  # its slope is hardly known: take the sweep whose line is not refused
        study = next(s for seed in range(40) if not (s := analyse("t", draw(design, seed).points,
                     Options("scratch", min_r2=0.0))).refused)  # fmt: skip
    rows = study.survival.loc[study.survival["check"] == "errors in ID"]
    assert len(rows)
    assert not rows["holds"].any()
    assert not any(one.kind in ("differs", "equivalent") for one in findings(study))


@pytest.mark.slow
def test_no_claim_holds_where_there_is_no_line_without_duplicates():
    study = analysed(Design(levels((0, 5, 10)), **QUIET))
    without = replace(study, refused=True)
    points = draw(Design(levels((0, 5, 10)), **QUIET), 3).points
    again = analyse("t", points, Options("scratch"), without_duplicates=without)
    rows = again.survival.loc[again.survival["check"] == "duplicates"]
    assert len(rows)
    assert not rows["holds"].any()
    kept = analyse("t", points, Options("scratch"), without_duplicates=study)
    assert kept.survival.loc[kept.survival["check"] == "duplicates", "holds"].all()


def test_a_baseline_before_any_fine_tuning_still_has_its_epochs_asked():
    long = Group(epochs=(0, 8, 12))
    study = analysed(Design(levels((0, 0, 0), long, epochs=(1, 2, 3)), by_epoch=0.3, **QUIET))
    assert "with epoch" in set(study.survival.loc[study.survival["check"] == "the schedule", "how"])


def test_a_kink_is_followed_by_a_broken_line():
    study = analysed(Design(placed((0, 0, 0), WIDE, APART), **KINKED, **QUIET))
    assert not any(one.kind == "differs" for one in findings(study))
    held = study.survival.loc[
        (study.survival["how"] == "broken line") & (study.survival["claim"] == "differs"), "holds"
    ]
    assert len(held)
    assert not held.all()


# --- differences of slope


def slopes(points: pd.DataFrame) -> pd.Series:
    study = analyse("t", points, Options("scratch"))
    return study.ancova.set_index(["a", "b"]).loc["num_images=1000", "scratch"]


@pytest.mark.slow
def test_a_line_over_few_images_is_not_said_to_be_flatter():
    """A narrow range of ID scores on few images is flattened more than a wide one."""
    design = Design((Group(), Group(low=-0.2, high=0.3)), images=150, trial_sd=0.001, point_sd=0.001)
    rows = [slopes(draw(design, seed).points) for seed in range(16)]
    suspected = [row for row in rows if row["slope_p_adjusted"] <= 0.05]
    assert len(suspected) >= 4
    assert sum(row["slopes_differ"] for row in suspected) <= 1  # of 16 where nothing differs
    assert sum("errors in ID" in row["not_robust_to"] for row in suspected) >= len(suspected) / 2


def test_a_slope_between_trials_is_not_one_within_them():
    """Trials of a group lie the higher, the higher their ID scores; each by itself follows the baseline's line."""
    points = draw(Design(levels((0,), trials=8), trial_sd=0.0, point_sd=0.002), 1).points
    own = points["group"] != "scratch"
    number = points["seed"].to_numpy()
    share = np.where(own, number / 8, 0.0)
    points["id"] = np.where(own, ndtr(0.25 * ndtri(points["id"]) + 1.0 * share - 0.5), points["id"])
    points["ood"] = np.where(own, ndtr(-0.86 + 0.76 * ndtri(points["id"]) + 0.3 * (share - 0.5)), points["ood"])
    row = slopes(points)
    assert row["slope_p_adjusted"] <= 0.05
    assert "within trials" in row["not_robust_to"]
    assert not row["slopes_differ"]


def test_a_slope_that_the_epoch_makes_is_none_at_equal_epochs():
    """The better a model of the group, the longer it was trained, and training leaves the line."""
    points = draw(Design(levels((0,)), trial_sd=0.002, point_sd=0.002), 1).points
    own = points["group"] != "scratch"
    rank = points.groupby("trial")["id"].rank() + points["seed"] % 3
    points["epoch"] = np.where(own, rank, points["epoch"])
    points["ood"] = ndtr(ndtri(points["ood"]) - 0.04 * points["epoch"])
    row = slopes(points)
    assert row["slope_p_adjusted"] <= 0.05
    assert "the schedule" in row["not_robust_to"]
    assert not row["slopes_differ"]


@pytest.mark.slow
def test_a_slope_that_one_trial_makes_is_none():
    """One trial of a group has forty points, three have two: of lines that are one, some seem to differ."""
    many = {"trials": 4, "points": (40, 2, 2, 2)}
    design = Design(levels((0,), Group(**many), **many))
    rows = [slopes(draw(design, seed).points) for seed in range(20)]
    held_back = [row for row in rows if row["slope_p_adjusted"] <= 0.05 and "any one trial" in row["not_robust_to"]]
    assert held_back
    assert not any(row["slopes_differ"] for row in held_back)
