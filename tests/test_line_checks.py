"""Is the line a line? Every check on a truth that it must see and on one that it must not, and its numbers against
independent ways to the same."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

from analysis.line import gaps
from analysis.line.checks import check_line
from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats import curvature, reliability
from analysis.stats.transform import transformed
from bench import line_checks as bench
from bench.line_checks import SCENARIOS, Truth, checked, simulate
from bench.simulated import counted

PROBIT = SCALES["probit"]


def check(points: pd.DataFrame, **options):
    asked = Options("scratch", **options)
    found = check_line(transformed(points, SCALES[asked.scale], asked), asked)
    assert found is not None
    return found


def told(found, check: str, state: str) -> str:
    """The sentence of a check, which is in this state."""
    (one,) = [one for one in found.verdicts if one.check == check]
    assert one.state == state
    return one.text


def named(found, test: str) -> pd.Series:
    return found.tests.set_index("test").loc[test]


# --- curvature


def test_the_spline_is_the_natural_cubic_one():
    """Its space is that of patsy's `cr`, and it is straight outside of its knots."""
    cr = pytest.importorskip("patsy").cr  # comes with statsmodels

    x = np.sort(np.random.default_rng(0).normal(size=80))
    at = curvature.knots(x)
    ours = np.column_stack([np.ones(80), x, curvature.spline(x, at)])
    theirs = np.asarray(cr(x, knots=at[1:-1], lower_bound=at[0], upper_bound=at[-1]))
    assert ours @ np.linalg.lstsq(ours, theirs, rcond=None)[0] == pytest.approx(theirs, abs=1e-8)
    beyond = curvature.spline(np.array([at[-1], at[-1] + 1, at[-1] + 2]), at)
    assert np.diff(beyond, 2, axis=0) == pytest.approx(0, abs=1e-9)
    assert (curvature.spline(np.array([at[0] - 1]), at) == 0).all()


def test_few_different_scores_have_fewer_knots_or_none():
    assert len(curvature.knots(np.arange(30.0))) == 4
    assert len(curvature.knots(np.repeat([0.0, 1.0, 2.0, 3.0], [4, 5, 4, 4]))) == 3
    assert curvature.knots(np.repeat([0.0, 1.0, 2.0], 10)) is None


def test_the_bend_is_the_distance_of_parabola_and_line():
    points = simulate(SCENARIOS["curved"], 1)
    found, own = check(points), points.loc[points["group"] == "scratch"]
    x, y = ndtri(own["id"]), ndtri(own["ood"])
    grid = ndtri(found.curve["id"].to_numpy())
    line, square = (np.polyval(np.polyfit(x, y, degree), grid) for degree in (1, 2))
    assert ndtri(found.curve["line"]).to_numpy() == pytest.approx(line)
    assert ndtri(found.curve["square"]).to_numpy() == pytest.approx(square)
    bend, at = found.bend
    where = int(np.abs(found.curve["id"] - at).argmin())
    assert bend.value == pytest.approx(100 * (ndtr(square) - ndtr(line))[where], rel=0.1)  # to first order
    assert named(found, "square of ID")["value"] == bend.value


def test_a_bend_is_told_with_its_size_and_no_bend_is_not():
    said = " ".join(checked(SCENARIOS["curved, 12 trials"], 3).warnings)
    assert "the baseline bends (square of ID: p" in said
    assert "natural cubic spline: p" in said
    assert "points of OOD from the line, a parabola +" in said
    straight = checked(SCENARIOS["straight, 12 trials"], 3)
    assert {one.state for one in straight.verdicts} == {"passes"}
    assert [one.check for one in straight.verdicts] == list(bench.COLUMNS)


def test_what_cannot_be_excluded_is_noted():
    found = checked(Truth(trials=2), 5)
    assert found.warnings == []
    assert "points, more than the margin of 2, are not excluded" in told(found, "curvature", "open")


# --- slope


def test_lines_that_fall_or_are_flat():
    falls = checked(SCENARIOS["falling"], 0).warnings
    assert falls[0].startswith("the baseline line falls: its slope is −0.")
    for seed in range(5):
        flat = told(checked(SCENARIOS["flat"], seed), "slope", "fails")
        assert "is not shown to rise: its slope" in flat or "is flat: over its ID range it rises by" in flat


# --- reliability of ID


def confusion(random: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """True and guessed classes of images: four uneven classes, each taken for the next rather than for others."""
    truth = random.choice(4, images, p=[0.5, 0.25, 0.15, 0.1])
    wrong = random.random(images) > np.array([0.8, 0.6, 0.7, 0.4])[truth]
    return truth, np.where(wrong, (truth + random.choice([1, 1, 2, 3], images)) % 4, truth)


@pytest.mark.parametrize("metric", ["accuracy", "class_accuracy", "macro_f1"])
def test_the_sampling_variance_is_what_other_images_show(metric):
    from analysis.stats.group_jackknife import scores

    seen, said = [], []
    for seed in range(300):
        truth, guess = confusion(np.random.default_rng(seed), 400)
        counts = counted("id", np.zeros(400, int), truth, guess[None, :], 4)
        seen.append(scores(metric, np.ones((1, 1)), counts)[0, 0])
        said.append(reliability.variance_of(counts, metric)[0])
    assert np.mean(said) == pytest.approx(np.var(seen), rel=0.2)  # 300 draws know a variance to 8 %


def test_the_worst_group_is_as_sure_as_its_own_images():
    truth = np.zeros(100, int)
    guess = np.where(np.arange(100) % 4 == 0, 1, 0)
    guess[:20] = 1
    counts = counted("id", np.repeat([0, 1], [20, 80]), truth, guess[None, :], 2)
    assert reliability.variance_of(counts, "worst_group")[0] == 0
    assert reliability.variance_of(counts, "made up") is None


def test_errors_in_id_flatten_the_line_by_its_reliability():
    """Fuller 1987: plim of the slope is reliability x slope."""
    random = np.random.default_rng(0)
    x = random.normal(0, 0.4, 20_000)
    seen = random.binomial(200, ndtr(x)) / 200
    points = pd.DataFrame({"id": seen, "x": PROBIT.of(seen, 200), "id_images": 200, "metric": "accuracy"})
    table = reliability.reliabilities(points, ("id",), ("x",), PROBIT)
    found = np.polyfit(points["x"], x, 1)[0]
    assert table["reliability"][0] == pytest.approx(found, abs=0.005)
    assert table["given_others"][0] == pytest.approx(table["reliability"][0])


def test_a_coarse_id_score_is_told_with_what_it_does():
    points = simulate(Truth(trials=12), 1)
    own = points["group"] == "scratch"
    points.loc[own, "id"] = ndtr(0.3 * ndtri(points.loc[own, "id"]))  # a narrow baseline
    points["id_images"] = 100
    said = told(check(points), "reliability", "fails")
    assert "are measured with a reliability of 0." in said
    assert "under 0.95: the line is too flat by about" in said
    assert "points better than it is" in said


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"metric": "macro_f1"}, "macro_f1 without counts per class"),
        ({"id_images": None}, "id_images is empty or 0 for some points"),
    ],
)
def test_a_reliability_that_is_not_known_is_not_guessed(columns, why):
    found = check(simulate(Truth(), 0).assign(**columns))
    assert np.isnan(found.reliability["reliability"][0])
    assert told(found, "reliability", "open") == f"how well ID scores are measured is not known: {why}"
    points = simulate(Truth(), 0).drop(columns="id_images")
    assert "no column id_images" in told(check(points), "reliability", "open")


def test_counts_per_class_are_taken_where_they_are_given():
    points = simulate(Truth(), 0).assign(metric="macro_f1", id_variance=0.02**2)
    found = check(points).reliability.iloc[0]
    own = points.loc[points["group"] == "scratch"]
    x = ndtri(own["id"])
    noise = np.mean(0.02**2 / PROBIT.rate(x) ** 2)
    assert found["source"] == "counts per class"
    assert found["reliability"] == pytest.approx(1 - noise / x.var(ddof=1))


# --- schedule


def test_longer_training_that_leaves_the_line_is_told_with_the_groups_that_trained_otherwise():
    points = simulate(SCENARIOS["longer training leaves the line"], 0)
    points = points.loc[(points["group"] != "high") | (points["epoch"] == 2)]
    found = check(points)
    said = told(found, "schedule", "fails")
    assert said.startswith("epochs of fine-tuning move baseline points off the line (+")
    assert "points per epoch (" in said
    assert said.endswith("; fine-tuned at other epochs than the baseline (2, 4): high")
    assert found.others.set_index("group")["other_epochs"].to_dict() == {"scratch": False, "low": False, "high": True}
    rows = found.schedule.loc[found.schedule["what"] == "epoch"].set_index("value")
    own = found.residuals.groupby("epoch")["residual"].mean()
    assert rows["residual"].to_dict() == pytest.approx(own.to_dict())
    assert (rows["low"] < rows["residual"]).all()


def test_a_learning_rate_in_the_middle_that_leaves_the_line_is_seen_among_categories():
    found = checked(Truth(rate=0.15, trials=12), 1)
    assert named(found, "learning rate, any level")["fails"]
    assert "the learning rate moves baseline points off the line" in told(found, "schedule", "fails")


def test_groups_at_other_epochs_are_noted_where_nothing_shows_that_it_matters():
    points = simulate(SCENARIOS["straight, 12 trials"], 3)
    points.loc[points["group"] == "low", "epoch"] += 4
    found = check(points)
    said = told(found, "schedule", "open")
    assert said.startswith("no effect on the baseline's residuals is shown (p = ")
    assert said.endswith(", but fine-tuned at other epochs than the baseline (2, 4): low")


def test_without_epochs_and_rates_there_is_no_schedule():
    found = check(simulate(Truth(), 0).drop(columns=["epoch", "finetune_lr"]))
    assert found.schedule.empty
    assert found.others.empty
    assert "schedule" not in {one.check for one in found.verdicts} | set(found.tests["check"])


def test_many_epochs_are_put_together():
    points = pd.concat([simulate(Truth(), seed).assign(epoch=2 * seed + 1) for seed in range(40)], ignore_index=True)
    table = check(points).schedule
    assert (table["what"] == "epoch").sum() == 16
    assert table.loc[table["what"] == "epoch", "points"].sum() == 40 * 30


# --- scatter, gaps


def test_scatter_that_grows_is_told():
    found = checked(Truth(fan=30.0, trials=12), 0)
    assert "times as widely at low ID scores as at the other end" in told(found, "scatter", "fails")
    assert found.noise["sd_axis"].iloc[0] > 2 * found.noise["sd_axis"].iloc[-1]
    assert found.noise["points"].sum() == 72


def test_groups_in_a_gap_are_named():
    found = checked(SCENARIOS["a gap with the groups inside"], 0)
    said = told(found, "gaps", "fails")
    assert "of its range, where points of low (18 of 18 points) and high (18 of 18 points) lie" in said
    first = found.gaps.iloc[0]
    assert (first["group"], first["inside"], first["wide"]) == ("scratch", 0, True)


def test_a_gap_is_wide_when_chance_would_not_leave_it():
    random = np.random.default_rng(0)
    scattered = np.sort(random.random((4_000, 18)), axis=1)
    widest = np.diff(scattered, axis=1).max(1) / np.ptp(scattered, axis=1)
    assert np.mean(widest > gaps.wide(18)) == pytest.approx(0.05, abs=0.012)
    assert gaps.wide(18) > gaps.wide(60) == gaps.WIDE
    assert gaps.wide(2) == 1


# --- shapes of studies


def test_several_id_sets_go_the_same_way():
    """The plane bends along its axis; each set has its reliability, also given the other."""
    points = simulate(SCENARIOS["curved, 12 trials"], 2)
    other = ndtri(points["id"]) + 0.3 * np.random.default_rng(0).normal(size=len(points))
    points = points.assign(id_1=points["id"], id_2=ndtr(other), id_1_images=150, id_2_images=4_000)
    found = check(points, id_names=("here", "there"))
    assert "the baseline bends" in told(found, "curvature", "fails")
    assert list(found.reliability["id_set"]) == ["id_1", "id_2"]
    assert (found.reliability["given_others"] < found.reliability["reliability"]).all()
    said = told(found, "reliability", "fails")
    assert "of ID set here are measured with a reliability of" in said
    assert "of ID set there" not in said


def test_every_row_its_own_trial():
    points = simulate(SCENARIOS["curved, 12 trials"], 0)
    found = check(points.assign(trial=[f"row {i}" for i in range(len(points))]))
    assert "the baseline bends" in told(found, "curvature", "fails")
    assert named(found, "square of ID")["df2"] > 12


def test_scatter_within_trials_is_that_beside_an_intercept_of_each():
    found = simulate(Truth(fan=5.0), 3).query("group == 'scratch'")
    codes, x, y = pd.factorize(found["trial"])[0], ndtri(found["id"]), ndtri(found["ood"])
    design = np.column_stack([codes[:, None] == np.arange(5), x]).astype(float)
    expected = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    own = check(simulate(Truth(fan=5.0), 3))
    order = np.argsort(x.to_numpy(), kind="stable")
    parts = np.array_split(expected.to_numpy()[order] ** 2, len(own.noise))
    assert own.noise["within"].to_numpy() == pytest.approx([part.mean() ** 0.5 for part in parts])


def test_a_large_table_needs_no_matrix_of_rows_by_trials():
    """60,000 rows of as many clusters, and of 15,000: megabytes, and the bend is seen."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, 60_000)
    points = pd.DataFrame({"group": "scratch", "id": ndtr(x)})
    points["ood"] = ndtr(-0.8 + 0.7 * x + 0.02 * x**2 + 0.05 * random.standard_normal(len(x)))
    for trials in (60_000, 15_000):
        tracemalloc.start()
        found = check(points.assign(trial=np.arange(len(x)) % trials))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200e6
        assert named(found, "square of ID")["fails"]


@pytest.mark.parametrize("scale", ["linear", "logit"])
def test_other_scales(scale):
    assert len(check(simulate(Truth(), 0), scale=scale).tests) >= 6


def test_what_makes_no_line_has_no_checks():
    points = simulate(Truth(), 0)
    options = Options("scratch")
    for few in (points.head(2), points.assign(id=0.5), points.loc[points["group"] != "scratch"]):
        assert check_line(transformed(few, PROBIT, options), options) is None


def test_a_line_without_any_residual_fails_nothing():
    points = simulate(Truth(), 0)
    found = check(points.assign(ood=ndtr(-0.8 + 0.7 * ndtri(points["id"]))))
    assert found.warnings == []


def test_one_trial_can_test_nothing_and_says_so():
    points = simulate(Truth(trials=1), 0)
    found = check(points)
    assert not found.tests["fails"].any()
    said = told(found, "curvature", "open")
    assert said == "whether the baseline bends cannot be tested with 1 trial and 6 points"
    assert "without an interval" in told(found, "slope", "open")
    assert "scatter" not in {one.check for one in found.verdicts}  # six points show no scatter either


# --- by simulation: a few of each, `python -m bench.line_checks` has the hundreds


@pytest.mark.slow
def test_checks_of_a_straight_line_fail_seldom():
    found = bench.run("straight", 60)
    assert max(found.values()) <= 9 / 60  # P(10 or more of 60 at 5 %) is 0.0004
    assert found["reliability"] == 0


@pytest.mark.parametrize(
    ("name", "check", "least"),
    [
        ("curved", "curvature", 0.5),
        ("kinked, 12 trials", "curvature", 0.7),
        ("longer training leaves the line", "schedule", 0.7),
        ("the learning rate leaves the line", "schedule", 0.2),
        ("a gap with the groups inside", "gaps", 0.9),
        ("falling", "slope", 0.9),
    ],
)
def test_checks_see_what_is_there(name, check, least):
    assert bench.run(name, 15)[check] >= least


def test_the_bench_prints_its_table_and_writes_it(tmp_path, capsys):
    document = tmp_path / "d.md"
    document.write_text("<!-- line checks -->\nold\n<!-- /line checks -->\n")
    bench.main(["--replicates", "2", "--only", "straight", "--write", str(document)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["straight"]["reliability"] == 0
    assert "| straight | 2 |" in document.read_text()
