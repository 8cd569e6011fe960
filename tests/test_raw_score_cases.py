"""Raw scores of awkward studies: what is compared at which cost, the group that is picked for its score, few cameras,
ties, levels on no straight line, and claims that hold only with images seen before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.input.plain_table import read_csv
from analysis.options import Options
from analysis.report.score_tables import score_tables
from analysis.scores import disagreement
from analysis.scores.sentences import summary
from analysis.stats.chosen_points import choose
from analysis.stats.raw_scores import OTHER_MODELS, without_images
from analysis.stats.resampled import scores_of
from analysis.study import Analysis, analyse, analyse_all
from analysis.verdict import verdict
from bench import best
from bench.simulated import Truth, simulate
from tests.fake_run import sweep

OPTIONS = Options("scratch")


def analysed(points: pd.DataFrame) -> Analysis:
    return analyse("task", points, OPTIONS)


def deployment(points: pd.DataFrame) -> str:
    return summary(analysed(points)).deployment.text


def one_point_each(groups: dict[str, np.ndarray]) -> pd.DataFrame:
    """Groups of OOD scores in per cent, a trial each; ID scores are all different."""
    rows = [
        (f"{name}-{i}", name, 0.5 + i / 100, value / 100) for name, own in groups.items() for i, value in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["trial", "group", "id", "ood"])


# ---- a table whose groups have other models

TABLE = """standard,54.2,41.0
standard,61.5,48.3
standard,66.0,53.1
standard,70.4,57.9
standard,74.1,62.0
standard,77.3,65.8
web,68.9,62.7
web,72.8,66.4
web,75.6,69.5"""  # of docs/papers_table.md


def of_table(unit: str = "cluster", **columns: list) -> Analysis:
    rows = [line.split(",") for line in TABLE.splitlines()]
    points = pd.DataFrame({"group": [row[0] for row in rows], "trial": [f"m{i}" for i in range(len(rows))]})
    points = points.assign(id=[float(row[1]) / 100 for row in rows], ood=[float(row[2]) / 100 for row in rows])
    return analyse("task", points.assign(**columns), Options("standard", unit=unit))


def test_a_table_whose_groups_may_have_other_models_has_a_caution():
    """Its baseline is spread over the ID scores on purpose: its mean is that of other models than the group's."""
    found = of_table()
    assert summary(found).deployment.text.endswith(
        " These are means over the rows of each, at ID scores of 68.9 % to 75.6 % against 54.2 % to 77.3 %, perhaps of "
        "other kinds of models; at equal ID score, see ER."
    )
    assert verdict([found])["warnings"].count(OTHER_MODELS) == 1
    assert "sweep" not in verdict([found])["advice"][0]["action"]
    other = of_table(model=[f"m{i}" for i in range(9)])  # a column that says that they are others
    assert OTHER_MODELS in other.warnings


@pytest.mark.parametrize(
    "given",
    [
        {"unit": "trial"},  # a sweep trains every group alike
        {"model": ["a", "b", "c"] * 3},
        {"id_val": [0.5] * 9},  # the point of each training that its user keeps
        {"model": [*"abcdef", *"abc"]},  # of the baseline those that the group has are compared
    ],
)
def test_groups_of_the_same_models_have_no_caution(given):
    found = of_table(**given)
    assert "other kinds" not in summary(found).deployment.text
    assert OTHER_MODELS not in found.warnings


def test_means_over_the_rows_of_a_cluster_are_told_in_words_of_a_table():
    found = of_table(trial=["a", "a", "b", "b", "c", "c", "d", "e", "e"])
    assert "raw scores are means over all rows of a cluster" in found.warnings
    assert not any("id_val" in warning for warning in found.warnings)


# ---- at equal cost


def test_longer_fine_tunings_are_no_fair_comparison_and_that_is_said():
    points = sweep({"num_images=1000": 0.0})
    equal = deployment(points)
    assert "equal cost" not in equal
    shorter = points.loc[(points["group"] == "scratch") | (points["epoch"] <= 6)]
    assert deployment(shorter).endswith(
        " Not at equal cost: num_images=1000 was fine-tuned for up to 6 epochs, scratch for up to 12."
    )


def test_fine_tunings_on_more_images_are_no_fair_comparison_and_that_is_said():
    points = sweep({"num_images=1000": 0.0})
    own = points["group"] == "scratch"
    assert deployment(points.assign(finetune_images=np.where(own, 7315, 1500))).endswith(
        " Not at equal cost: num_images=1000 was fine-tuned on up to 1,500 images, scratch on up to 7,315."
    )
    assert "equal cost" not in deployment(points.assign(finetune_images=1500))


def test_lengths_and_rates_that_only_the_baseline_has_widen_its_line_and_enter_no_score():
    points = sweep({"num_images=1000": 0.0})
    own = points["group"] == "scratch"
    longer = points.loc[(points["epoch"] <= 6) | (own & (points["finetune"] == "lr0.003"))]
    choice = choose(longer.reset_index(drop=True), "scratch")
    note = "raw scores of scratch are those of the 12 of 24 points whose number of epochs other groups have too"
    assert choice.notes == (note,)
    assert choice.effort["scratch"].epochs == choice.effort["num_images=1000"].epochs == 6
    rates = points.loc[own | (points["finetune"] == "lr0.001")].reset_index(drop=True)
    choice = choose(rates, "scratch")
    assert "finetune_lr" in choice.notes[0]
    assert set(rates["finetune"].iloc[choice.rows]) == {"lr0.001"}


def test_many_more_fine_tunings_to_choose_from_are_said():
    points = sweep({"num_images=1000": 0.0})
    drawn = points.assign(finetune_lr=np.random.default_rng(0).uniform(1e-4, 1e-2, len(points)))
    fewer = drawn.loc[(drawn["group"] == "scratch") | (drawn["finetune"] == "lr0.001")]
    assert deployment(fewer).endswith(
        " Not at equal cost: num_images=1000 had 1 fine-tuning per trial to choose from, scratch 3."
    )
    nearly = drawn.drop(drawn.index[(drawn["trial"] == drawn["trial"].iloc[-1]) & (drawn["finetune"] == "lr0.001")])
    assert "equal cost" not in deployment(nearly)  # 2.67 a trial against 3


def test_unequal_numbers_of_fine_tunings_weigh_trials_alike():
    points = sweep({"num_images=1000": 0.0}).drop(columns="id_val")
    first = points["trial"] == points["trial"].iloc[0]
    some = points.loc[~first | (points["finetune"] == "lr0.001")]
    last = some.loc[some["epoch"] == 12].groupby(["group", "trial"])["ood"].mean()
    found = analysed(some).scores
    assert found.choice.by == "last epoch"
    assert found.mean("scratch")["mean"] == pytest.approx(100 * last["scratch"].mean())


def test_a_point_without_id_val_is_not_chosen():
    points = sweep({"num_images=1000": 0.0})
    best = points.groupby("trial")["id_val"].idxmax()
    missing = points.assign(id_val=points["id_val"].where(points.index != best.iloc[0]))
    choice = choose(missing, "scratch")
    assert (choice.by, choice.notes) == ("id_val", ())
    assert best.iloc[0] not in choice.rows
    assert len(choice.rows) == missing["trial"].nunique()


# ---- the group that is picked


def test_the_picked_group_has_an_interval_for_having_been_picked():
    random = np.random.default_rng(5)
    groups = {name: mean + random.normal(0, 2, 6) for name, mean in {"scratch": 40, "a": 44, "b": 43, "c": 42}.items()}
    found = analysed(one_point_each(groups))
    row = found.scores.difference("a")
    test = stats.ttest_ind(groups["a"], groups["scratch"], equal_var=False)
    ends = test.confidence_interval(1 - 2 * 0.05 / 4)  # three groups may be too high, the best one too low
    assert [row["picked_low"], row["picked_high"]] == pytest.approx([ends.low, ends.high])
    one = summary(found).deployment
    assert f"a, the highest of 3 groups, scores {found.scores.mean('a')['mean']:.1f} %" in one.text
    assert f"points (95 %: {ends.low:.1f} to {ends.high:.1f})" in one.text.replace("−", "-")
    assert "picks the highest of 3 groups" in score_tables(found)["scores"].note
    pair = analysed(one_point_each({name: groups[name] for name in ("scratch", "a")})).scores.difference("a")
    assert [pair["picked_low"], pair["picked_high"]] == pytest.approx([pair["low"], pair["high"]])


def test_the_first_sentence_claims_no_more_than_its_own_interval():
    """Of twenty groups one whose own interval excludes 0."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, 5)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    groups = {f"g{i}": 40 + noise for i in range(20)} | {"scratch": 40 + noise, "best": 42 + noise}
    found = analysed(one_point_each(groups))
    row, one = found.scores.difference("best"), summary(found).deployment
    assert row["low"] > 0 > row["picked_low"]
    assert one.kind == "open"
    assert "the highest of 21 groups" in one.text
    reach = row["picked_high"] - row["delta"] + stats.t.ppf(0.8, row["df"]) * row["se"]
    assert one.text.startswith("On the shifted test: no gain seen. best")
    assert one.text.endswith(f"; this design could have found {reach:.1f} points or more.")


def test_of_equal_groups_none_is_lower_than_the_best_in_more_than_a_twentieth_of_studies():
    studies = 4_000
    error = 3 * np.sqrt(0.05 * 0.95 / studies)
    for paired in (False, True):
        found = best.shares(groups=6, trials=5, paired=paired, replicates=studies)
        assert found["Holm"] <= 0.05 + error
        assert found["Hsu"] > 0.05 + error  # why it is not used


@pytest.mark.slow
def test_the_bench_of_procedures_counts_what_the_differences_claim():
    """Its steps of Holm are those of the analysis: the same draws, one study after another."""
    scores = np.random.default_rng(0).standard_normal((40, 3, 4))
    claimed = []
    for study in scores:
        rows = [(f"g{g}-{i}", f"g{g}", i, 0.5 + i / 100, 0.5 + value / 20)
                for g, own in enumerate(study) for i, value in enumerate(own)]  # fmt: skip
        points = pd.DataFrame(rows, columns=["trial", "group", "seed", "id", "ood"])
        table = scores_of(points, Options("g0")).differences
        own = table.loc[(table["family"] == "best") & (table["score"] == "ood")]
        claimed.append((own["p_adjusted"] <= 0.05).any())
    shares = best.shares(groups=3, trials=4, paired=True, replicates=40)
    assert shares["Holm"] == pytest.approx(np.mean(claimed))


@pytest.mark.slow
def test_er_of_the_leading_group_is_there_beyond_the_groups_that_have_a_sentence():
    points = sweep({f"num_images={1000 + i}": 5.0 * (i == 29) for i in range(30)}, epochs=(3, 6), trial_sd=0.002)
    found = summary(analysed(points))
    assert "num_images=1029" in found.deployment.text
    assert "num_images=1029 against scratch: " in found.robustness


# ---- few of something


def test_ties_are_no_precision():
    points = sweep({"num_images=1000": 0.0}).assign(id=0.5, ood=0.4, id_val=0.5)
    assert deployment(points) == (
        "On the shifted test: no gain or loss shown. num_images=1000 scores 40.0 %, scratch 40.0 %: 0.0 points (no "
        "interval); the difference of every trial is the same, which leaves its spread unknown."
    )


@pytest.mark.slow
@pytest.mark.parametrize(("cameras", "speaks_of_these"), [(1, False), (2, True), (7, True), (8, False)])
def test_few_cameras_are_said_to_be_those_that_the_interval_is_of(cameras, speaks_of_these):
    world = simulate(Truth(er=(0.0, 3.0, 6.0), trials=3, cameras=cameras), seed=3)
    points = world.points.astype({"ood_groups": "Int64"})
    found = analyse("task", points, OPTIONS, counts=world.counts)
    text = summary(found).deployment.text
    assert (f"of these {cameras} test groups" in text) == speaks_of_these
    alone = analyse("task", world.points, OPTIONS).scores.groups["se"]
    assert (found.scores.groups["se"] > alone).all() == (cameras >= 8)


@pytest.mark.slow
def test_every_task_has_scores_of_its_own(tmp_path):
    one = sweep({"num_images=1000": 6.0}, trials=6, trial_sd=0.002)
    other = sweep({"num_images=1000": -6.0}, trials=6, trial_sd=0.002).assign(task="other")
    file = tmp_path / "points.csv"
    both = pd.concat([one, other])
    both[["id", "ood", "id_val"]] *= 100
    both.to_csv(file, index=False)
    table = read_csv(str(file), id="id", ood="ood", group="group", options=OPTIONS, cluster="trial", percent=True)
    first, second = analyse_all(table, OPTIONS)
    for found, points in ((first, one), (second, other)):
        plain = analysed(points).scores.difference("num_images=1000")
        assert found.scores.difference("num_images=1000")["delta"] == pytest.approx(plain["delta"])
    made = verdict([first, second])
    assert made["scores"]["best"] == "num_images=1000"
    assert made["tasks"]["other"]["scores"]["best"] == "scratch"


# ---- levels on no straight line


def test_no_slope_is_claimed_of_scores_that_rise_and_fall():
    points = sweep({"num_images=1000": 0.0, "num_images=10000": 8.0, "num_images=100000": 0.0}, trials=8,
                   trial_sd=0.002, noise_sd=0.002)  # fmt: skip
    found = analysed(points)
    texts = [one.text for one in summary(found).findings]
    assert any(
        text.startswith("Not established: one slope of the OOD score over pre-training images") for text in texts
    )
    up = next(one for one in summary(found).findings if one.text.startswith("num_images=10000 against num_images=1000"))
    row = found.scores.levels.iloc[up.index]
    assert (up.kind, up.table, row["score"]) == ("differs", "score_levels", "ood")
    assert up.text == (f"num_images=10000 against num_images=1000: OOD score +{row['delta_er']:.1f} points "
                       f"({row['low']:.1f} to {row['high']:.1f}).")  # fmt: skip
    means = [found.scores.mean(f"num_images={n}")["mean"] for n in (1000, 10000)]
    assert row["delta_er"] == pytest.approx(means[1] - means[0])
    shows = {row["score"]: row["shows"] for row in table_rows(found, "score_factors")}
    assert shows["OOD"] == "not straight"


def table_rows(analysis: Analysis, name: str) -> list[dict[str, str]]:
    table = score_tables(analysis)[name]
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


# ---- images that occur elsewhere


@pytest.mark.slow
def test_claims_that_do_not_hold_without_duplicates_are_held_back():
    gain = sweep({"num_images=1000": 8.0}, trials=6, trial_sd=0.002, noise_sd=0.002)
    none = gain.assign(ood=gain["ood"] - 0.08 * (gain["group"] != "scratch"))
    kept, lost = (without_images(analysed(gain).scores, analysed(other).scores) for other in (gain, none))
    assert "duplicates" in kept.difference("num_images=1000")["survived"]
    assert lost.difference("num_images=1000")["not_robust_to"] == "duplicates"
    found = summary(replace(analysed(gain), scores=lost)).deployment
    assert found.kind == "fragile"
    assert found.text.startswith("On the shifted test: ")
    assert found.text.endswith("does not hold without duplicate test images.")
    assert not lost.difference("num_images=1000", "id")["not_robust_to"]


@pytest.mark.parametrize(
    ("low", "high", "p", "equivalent", "words"),
    [(1.3, 2.0, 0.01, False, "at equal ID score a difference is shown, but not in every check"),
     (-1.5, 1.4, 0.8, True, "no effect within 2 points is shown at equal ID score, but not in every check")],
)  # fmt: skip
def test_a_difference_at_equal_id_score_that_fails_a_check_is_not_called_absent(
    low, high, p, equivalent, words, monkeypatch
):
    monkeypatch.setattr(disagreement, "scored_outside", lambda *_: "")
    er = {
        "low": low,
        "high": high,
        "p_adjusted": p,
        "equivalent": equivalent,
        "not_robust_to": "a curve",
        "margin": 2.0,
    }
    kind, text = disagreement._verdict(None, "a", {"equivalent": False}, er, (1, 1, None))
    assert (kind, text) == ("fragile", f"better on the shifted test; {words}")
