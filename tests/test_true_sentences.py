"""What sentences and tables say in corners: a slope larger than the margin, levels that barely overlap, trials of
unequal length, ties, small numbers, interim lines, several ID sets, columns of plain tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.special import ndtr, ndtri

from analysis.findings import findings, holm_p, inner_span, small_note
from analysis.formatting import effect, p_equals
from analysis.input import run_curves
from analysis.input.columns import NUMERIC
from analysis.input.plain_table import read_csv
from analysis.learned import shift, upstream
from analysis.options import Options, check_options
from analysis.scores.disagreement import scored_outside
from analysis.scores.sentences import summary
from analysis.stats.contrasts import state
from analysis.study import Analysis, analyse, so_far
from ray_robust.errors import did_you_mean
from ray_robust.run.interim import Interim
from tests.fake_run import sweep
from tests.make_tables import in_percent, models, read, refused

OPTIONS = Options("scratch")
SURE = {"trial_sd": 0.001, "noise_sd": 0.002}  # trials that hardly differ


def of(points: pd.DataFrame, options: Options = OPTIONS) -> Analysis:
    return analyse("task", points, options)


def texts(found: Analysis) -> list[str]:
    return [finding.text for finding in findings(found)]


def test_a_slope_over_the_margin_is_not_called_smaller_than_it():
    found = of(sweep({"num_images=20000": 0.0, "num_images=28000": 0.6, "num_images=40000": 1.2}, trials=6, **SURE))
    row = found.factor_table.iloc[0]
    assert row["slope"] > 2, "points per tenfold, of levels that are a factor of two apart"
    assert row["equivalent"]
    assert texts(found)[0].endswith(", smaller than the margin of 2 between any two levels, over 3 levels.")
    assert small_note({"equivalent": True, "margin": 2.0}) == ", smaller than the margin of 2"


def test_the_trials_of_a_contrast_are_those_at_id_scores_that_both_groups_have():
    points = sweep({"num_images=1000": 0.0, "num_images=4000": 8.0}, trials=5, **SURE)
    low, high = points["group"] == "num_images=1000", points["group"] == "num_images=4000"
    first = points["seed"] < 3  # of one group three trials lie under 0.5, of the other over it
    keep = ~((low & first & (points["id"] > 0.45)) | (high & first & (points["id"] < 0.55)))
    found = of(points.loc[keep].reset_index(drop=True))
    (row,) = (row for row in found.contrasts.to_dict("records") if row["family"] == "pairs")
    shared = found.points["id"].between(row["id_low"], row["id_high"]) & ~found.points["extrapolated"]
    trials = [found.points.loc[shared & (found.points["group"] == row[side]), "trial"].nunique() for side in "ab"]
    (text,) = (finding.text for finding in findings(found) if finding.row == {"a": row["a"], "b": row["b"]})
    assert f", from {trials[0]} and {trials[1]} trials" in text


def test_a_group_with_two_trials_at_shared_scores_is_said_to_have_two():
    points = sweep({"num_images=1000": 5.0}, trials=5, **SURE)
    far = (points["group"] != "scratch") & (points["seed"] < 3)
    points.loc[far, "id"] = 0.999  # beyond the baseline
    notes = of(points).warnings
    assert any(note.startswith("num_images=1000: two trials, whose spread is hardly known") for note in notes)


def test_influence_is_on_the_mean_over_trials():
    points = sweep({"num_images=1000": 5.0}, trials=4, trial_sd=0.03)
    first = points.loc[points["group"] != "scratch", "trial"].iloc[0]
    long = pd.concat([points, *[points.loc[points["trial"] == first]] * 5], ignore_index=True)
    found = of(long)
    own = found.points.loc[(found.points["group"] != "scratch") & ~found.points["extrapolated"]]
    by_trial = own.groupby("trial")["er"].mean()
    assert by_trial.mean() == pytest.approx(found.groups.set_index("group").loc["num_images=1000", "er"])
    changes = found.influence.loc[found.influence["group"] == "num_images=1000"].set_index("trial")["change"]
    for trial in by_trial.index:
        assert changes[trial] == pytest.approx(by_trial.drop(trial).mean() - by_trial.mean())
    baseline = found.influence.loc[found.influence["group"] == "scratch"].iloc[0]
    rest = found.points.loc[(found.points["group"] == "scratch") & (found.points["trial"] != baseline["trial"])]
    line = smf.ols("y ~ x", rest).fit().params
    er = own.assign(er=100 * (own["ood"] - ndtr(line["Intercept"] + line["x"] * own["x"]))).groupby("trial")["er"]
    assert baseline["change"] == pytest.approx(er.mean().mean() - by_trial.mean())


def test_scores_along_epochs_are_means_over_trials_as_er_is():
    points = sweep({"num_images=1000": 5.0}, trials=3, trial_sd=0.03)
    first = points.loc[points["group"] != "scratch", "trial"].iloc[0]
    found = of(pd.concat([points, *[points.loc[points["trial"] == first]] * 5], ignore_index=True))
    own = found.points.loc[(found.points["group"] == "num_images=1000") & ~found.points["extrapolated"]]
    row = found.progress.loc[(found.progress["group"] == "num_images=1000") & (found.progress["epoch"] == 6)].iloc[0]
    means = own.loc[own["epoch"] == 6].groupby("trial")[["id", "ood"]].mean().mean()
    assert row[["id", "ood"]].tolist() == pytest.approx(means.tolist())


def test_along_the_axis_a_score_of_nothing_is_half_an_example():
    baseline = of(sweep({"num_images=1000": 5.0})).baseline
    along = replace(baseline, on_axis=True)
    y = ndtri(0.5 / 200)
    assert along.er(np.array([0.0]), np.array([y]), np.array([-1.0])) == pytest.approx(100 * (y + 1.0))


def test_a_tie_of_recalls_has_no_interval_and_no_p():
    one = shift._Estimates(np.array([3.2, 3.2]), np.array([1e-15, 0.5]), np.array([2.0, 2.0]))
    assert np.isnan([one.low[0], one.high[0], one.p[0]]).all()
    assert np.isfinite([one.low[1], one.high[1], one.p[1]]).all()


@pytest.mark.parametrize("trials", [2, 3, 7])
def test_trials_that_tie_have_no_interval(trials: int):
    """The mean of equal numbers is not always that number."""
    points = sweep({"num_images=1000": 0.0, "num_images=4000": 0.0}, trials=trials)
    ood = points["group"].map({"scratch": 0.432, "num_images=1000": 0.552, "num_images=4000": 0.5})
    found = of(points.assign(ood=ood, id=0.5, id_val=0.5))
    table = found.scores.differences
    assert table.loc[table["score"] == "ood", ["low", "high", "p"]].isna().all(axis=None)
    text = summary(found).deployment.text
    assert text.startswith(
        "On the shifted test: no gain or loss shown. num_images=1000, the highest of 2 groups, scores"
    )
    assert (
        "+12.0 points (no interval); the difference of every trial is the same, which leaves its spread unknown" in text
    )
    assert not any("nan" in one.text or "Holm" in one.text for one in summary(found).findings)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((6.24, 4.8, 7.5), "+6.2 points of ER (4.8 to 7.5)"),
        ((0.03, 0.01, 0.05), "+0.03 points of ER (0.01 to 0.05)"),
        ((-0.06, -0.12, -0.004), "−0.060 points of ER (−0.120 to −0.004)"),
        ((0.03, -0.01, 0.07), "0.0 points of ER (0.0 to 0.1)"),
        ((1.0, float("nan"), float("nan")), "+1.0 points of ER (no interval)"),
    ],
)  # fmt: skip
def test_an_interval_that_excludes_0_is_seen_to(numbers: tuple[float, float, float], text: str):
    assert effect(*numbers) == text


def test_a_p_value_over_5_percent_is_seen_to_be():
    def shown(p: float) -> str:
        return holm_p({"low": 1.0, "high": 2.0, "p_adjusted": p})

    assert [shown(p) for p in (0.0504, 0.056, 0.3)] == [", p = 0.0504", ", p = 0.06", ", p = 0.30"]
    assert [p_equals(p, 0.05) for p in (0.0002, 0.013, 0.0503)] == ["p < 0.001", "p = 0.013", "p = 0.0503"]
    near = {"low90": -0.3, "high90": 1.97, "margin": 2.0}
    assert inner_span(near) == "(90 %: −0.30 to 1.97)"
    assert inner_span({**near, "high90": 1.2}) == "(90 %: −0.3 to 1.2)"


@pytest.mark.parametrize(
    ("at", "shown"), [(93.81, "52.40 % to 93.76 %; at the scored models (93.81 %)"),
                      (95.0, "52.4 % to 93.8 %; at the scored models (95.0 %)")]
)  # fmt: skip
def test_an_id_score_outside_a_range_is_seen_to_be(at: float, shown: str):
    row = {"a": "g", "b": "scratch", "id_low": 0.524, "id_high": 0.9376}
    scores = SimpleNamespace(mean=lambda *_: {"mean": at})
    assert shown in scored_outside(SimpleNamespace(contrasts=pd.DataFrame([row]), options=OPTIONS, scores=scores), "g")


def steeper() -> pd.DataFrame:
    """A group whose line is steeper than the baseline's."""
    points = sweep({"num_images=1000": 0.0}, trials=6, **SURE)
    rows = points["group"] != "scratch"
    x = ndtri(points.loc[rows, "id"])
    points.loc[rows, "ood"] = ndtr(ndtri(points.loc[rows, "ood"]) + 0.5 * (x - x.mean()))
    return points


def test_of_an_interim_run_no_lines_are_said_to_differ():
    whole = of(steeper())
    assert whole.ancova["slopes_differ"].all()
    assert any("their lines differ in slope" in text for text in texts(whole))
    found = so_far(whole, Interim(0.0, True, 7, 12, {}))
    assert not found.ancova[["slopes_differ", "heights_differ"]].any(axis=None)
    assert found.ancova["not_robust_to"].str.contains("missing trials").all()
    assert "differs" not in {state(row) for row in found.at_ids.to_dict("records")}
    assert not any("differ in slope" in text for text in texts(found))


def test_a_handful_of_held_out_images_does_not_say_that_nothing_was_learned():
    rows = [("a", "g", "supervised", 5 / 12, 12.0, 4.0, 0.25), ("b", "h", "supervised", 0.25, 1000.0, 4.0, 0.25)]
    table = upstream.upstream_table(pd.DataFrame(rows, columns=list(run_curves.UPSTREAM)), {}, ["g", "h"])
    assert table["hardly_learned"].tolist() == [False, True]
    few, hardly = upstream.warnings(table)
    assert few == ("too few held-out images tell whether pre-training learned: upstream accuracy of g 41.7 % (19.3 to "
                   "68.0; chance 25.0) on 12 images")  # fmt: skip
    assert hardly.startswith("pre-training hardly learned: upstream accuracy is not clearly above chance of h 25.0 %")
    assert upstream.headline(table).startswith("Not tested for h: ")
    assert upstream.headline(table, interim=True) == ""


# --- several ID sets


def plane(seed: int) -> pd.DataFrame:
    """OOD scores that one of two ID sets decides, of which the other hardly varies."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((26, 2)) * [1.0, 0.1]
    ood = ndtr(0.7 * x[:, 0] - 0.3 + 0.1 * random.standard_normal(26))
    kind = np.where(np.arange(26) < 20, "base", "new")
    return pd.DataFrame({"kind": kind, "a": ndtr(x[:, 0]), "b": ndtr(x[:, 1]), "ood": ood})


def of_plane(frame: pd.DataFrame, folder: Path, names: tuple[str, ...]) -> Analysis:
    frame.to_csv(folder / "t.csv", index=False)
    options = Options("base", id_names=names if len(names) > 1 else (), unit="row", min_r2=0.0)
    table = read_csv(str(folder / "t.csv"), id=list(names), ood="ood", group="kind", options=options)
    return analyse("task", table.points, options)


def line_of(found: Analysis) -> Mapping[str, float]:
    lines = found.trends.loc[found.trends["scale"] == found.options.scale].set_index("group")
    assert len(found.options.ids) == 1 or lines.loc["new", ["slope_low", "intercept_low"]].isna().all()
    return lines.loc["base"]


@pytest.mark.slow
def test_the_interval_of_a_slope_along_several_id_sets_is_the_planes(tmp_path):
    """The sum of the slopes is 0.7; the axis is made of the same points, which a line along it takes as given."""
    held = planes = 0
    for seed in range(16):
        found = of_plane(plane(seed), tmp_path, ("a", "b"))
        if found.baseline is None:  # the plane falls along one of them
            continue
        row = line_of(found)
        held += row["slope_low"] < 0.7 < row["slope_high"]
        planes += 1
        own = found.line.tests.query("check == 'slope' and test == 'slope'").iloc[0]
        assert own[["value", "low", "high"]].tolist() == pytest.approx(
            row[["slope", "slope_low", "slope_high"]].tolist()
        )
    assert planes >= 5
    assert held >= 0.9 * planes


def test_of_one_id_set_the_slope_is_that_of_the_line(tmp_path):
    found = of_plane(plane(0), tmp_path, ("a",))
    own = found.baseline.slope(found.resampled.task_points.compare(found.baseline.scale).groups["base"]).estimate
    row = line_of(found)
    assert [own.value, own.low, own.high] == pytest.approx(row[["slope", "slope_low", "slope_high"]].tolist())


# --- columns of plain tables


def test_numbers_of_a_plain_table_are_numbers(tmp_path):
    frame = models()
    columns = {name: np.arange(1, len(frame) + 1) for name in NUMERIC if name != "wise_alpha"}
    points = read(frame.assign(**columns), tmp_path, cluster="none").points
    assert all(pd.api.types.is_numeric_dtype(points[name]) for name in columns)


def test_a_baseline_with_longer_trainings_is_asked_for_those_of_equal_length(tmp_path):
    rows = sweep({"num_images=1000": 5.0}, epochs=(3, 6), trial_sd=0.02)
    longer = sweep({}, epochs=(9, 12), trial_sd=0.02, seed=1)
    frame = pd.concat([rows, longer], ignore_index=True)[["trial", "group", "id", "ood", "epoch"]]
    points = read(frame, tmp_path, id="id", ood="ood", group="group", baseline="scratch", cluster="trial").points
    assert "equal epochs" in set(of(points).survival["how"])


def test_other_metrics_of_a_plain_table_are_in_the_unit_of_its_scores(tmp_path):
    frame = in_percent(models().assign(id_accuracy=lambda f: f["val"], ood_accuracy=lambda f: f["v2"]),
                       "val", "v2", "id_accuracy", "ood_accuracy")  # fmt: skip
    points = read(frame, tmp_path, percent=True, cluster="none").points
    assert points["id_accuracy"].to_numpy() == pytest.approx(points["id"].to_numpy())
    assert points["ood_accuracy"].to_numpy() == pytest.approx(points["ood"].to_numpy())
    mixed = frame.assign(val=frame["val"] / 100, v2=frame["v2"] / 100)
    table = read(mixed, tmp_path, cluster="none")
    assert not {"id_accuracy", "ood_accuracy"} & set(table.points)
    assert any("id_accuracy: not scores in fractions" in note for note in table.warnings)


def test_how_many_test_groups_a_plain_table_has_is_said(tmp_path):
    frame = models().assign(ood_groups=4)
    found = of(read(frame, tmp_path, cluster="none").points, Options("standard", unit="row"))
    assert "of these 4 test groups" in summary(found).deployment.text


def test_a_column_in_per_cent_is_said_once_and_with_what_is_right(tmp_path):
    (line,) = refused(in_percent(models(), "val"), tmp_path, cluster="none")
    assert line.endswith("val is in per cent, v2 in fractions: say --unit val=percent (without --percent)")


def test_a_margin_is_less_than_all_points(tmp_path):
    told = [problem.what for problem in check_options(Options("standard", margin=200.0))]
    assert told == ["--margin: 200 is no margin: scores differ by 100 points at most"]


def test_a_name_in_other_letters_is_meant():
    assert did_you_mean("path", ["PATH", "LABEL"]) == "; did you mean PATH?"
