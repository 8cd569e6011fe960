"""Raw scores against textbook answers: which point of a trial counts, differences, families, macro-F1 over cameras,
slopes; what is said of them, and where they and ER disagree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import ndtr

import analysis as package
from analysis.input.table import Table
from analysis.options import Options
from analysis.report import output, terminal
from analysis.scores.sentences import summary
from analysis.stats import group_jackknife
from analysis.stats.chosen_points import choose
from analysis.stats.contrasts import holm
from analysis.stats.estimates import Estimate
from analysis.study import Analysis, analyse
from analysis.verdict import verdict
from bench.coverage import Truth, simulate
from tests.fake_run import INTERCEPT, SLOPE, sweep

OPTIONS = Options("scratch")
SCHEMA = json.loads((Path(package.__file__).parent / "verdict.schema.json").read_text("utf-8"))


def table_of(scores: Mapping[str, list[tuple[float, float]]], seeds: bool = False) -> pd.DataFrame:
    """One point per trial: group -> (ID, OOD) of its trials, in per cent."""
    rows = [
        {"trial": f"{group}-{i}", "group": group, "id": id_ / 100, "ood": ood / 100, "seed": i if seeds else None}
        for group, own in scores.items()
        for i, (id_, ood) in enumerate(own)
    ]
    return pd.DataFrame(rows)


def three_groups(seed: int, seeds: bool = False) -> tuple[dict[str, np.ndarray], Analysis]:
    random = np.random.default_rng(seed)
    common = random.normal(0, 3, 6) if seeds else 0.0
    planted = {"scratch": 50, "a": 54, "b": 51}
    ood = {name: mean + common + random.normal(0, 1, 6) for name, mean in planted.items()}
    points = table_of({name: [(60 + i, value) for i, value in enumerate(own)] for name, own in ood.items()}, seeds)
    return ood, analyse("task", points if seeds else points.drop(columns="seed"), OPTIONS)


def rows_of(analysis: Analysis, family: str, score: str = "ood") -> pd.DataFrame:
    table = analysis.scores.differences
    return table.loc[(table["family"] == family) & (table["score"] == score)].set_index("a")


# ---- which point counts


def points_of_trial(**columns) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"group": ["g"] * count, "trial": ["t"] * count, **columns})


def test_the_point_with_the_best_id_val_over_epochs_and_rates_counts():
    points = points_of_trial(finetune=["lr1", "lr1", "lr2", "lr2"], epoch=[1, 2, 1, 2], id_val=[0.3, 0.5, 0.7, 0.6])
    choice = choose(points, "g")
    assert (choice.by, choice.rows.tolist(), choice.notes) == ("id_val", [2], ())
    within = choose(points, "g", ["finetune"])
    assert within.rows.tolist() == [1, 2]


def test_points_that_share_the_best_id_val_count_alike():
    points = sweep({"num_images=1000": 0.0})
    same = points.assign(id_val=0.5, epoch=1)
    scores = analyse("task", same, OPTIONS).scores
    for group, own in points.groupby("group"):
        assert scores.mean(group)["mean"] == pytest.approx(100 * own.groupby("trial")["ood"].mean().mean())


def test_without_id_val_the_last_epoch_counts_and_that_is_said():
    points = points_of_trial(finetune=["lr1", "lr1", "lr2", "lr2"], epoch=[1, 2, 1, 3])
    choice = choose(points, "g")
    assert (choice.by, choice.rows.tolist()) == ("last epoch", [1, 3])
    assert choice.notes == ("raw scores are those of the last epoch of every fine-tuning: there is no column id_val to "
                            "choose by",)  # fmt: skip
    half = pd.concat([points.assign(id_val=0.1), points.assign(trial="u", id_val=np.nan)], ignore_index=True)
    assert choose(half, "g").by == "last epoch"
    assert "1 of 2 have no id_val" in choose(half, "g").notes[0]


def test_without_epochs_the_mean_counts_and_rows_of_their_own_need_no_choice():
    several = choose(points_of_trial(ood=[0.1, 0.2]), "g")
    assert (several.by, several.rows.tolist(), len(several.notes)) == ("mean", [0, 1], 1)
    single = choose(points_of_trial(ood=[0.1, 0.2]).assign(trial=["t", "u"]), "g")
    assert (single.by, single.notes) == ("mean", ())


def test_a_baseline_that_was_made_wide_is_compared_at_the_settings_of_the_groups():
    own = points_of_trial(finetune_images=[100, 1000, 1000], id_val=[0.9, 0.5, 0.6]).assign(group="scratch")
    other = points_of_trial(finetune_images=[1000], id_val=[0.7]).assign(trial="u")
    choice = choose(pd.concat([own, other], ignore_index=True), "scratch")
    assert choice.rows.tolist() == [2, 3]
    assert choice.notes == ("raw scores of scratch are those of the 2 of 3 points whose finetune_images other groups "
                            "have too",)  # fmt: skip
    apart = pd.concat([own, other.assign(finetune_images=5)], ignore_index=True)
    assert choose(apart, "scratch").rows.tolist() == [0, 3]  # nothing is shared: all of it is the baseline


def test_the_order_of_rows_changes_nothing():
    points = sweep({"num_images=1000": 1.0, "num_images=4000": 2.0})
    shuffled = points.sample(frac=1, random_state=3).reset_index(drop=True)
    one, two = (analyse("task", each, OPTIONS).scores for each in (points, shuffled))
    pd.testing.assert_frame_equal(one.differences, two.differences, rtol=1e-9)


# ---- differences


def test_scores_are_means_over_trials_with_students_interval():
    ood, found = three_groups(1)
    for name, own in ood.items():
        row = found.scores.mean(name)
        low, high = stats.t.interval(0.95, 5, own.mean(), stats.sem(own))
        assert [row["mean"], row["low"], row["high"]] == pytest.approx([own.mean(), low, high])
    high = analyse("task", table_of({"scratch": [(50, 99), (51, 80), (60, 99.9)]}), OPTIONS).scores.mean("scratch")
    assert high["high"] == 100.0  # no score is higher


@pytest.mark.parametrize("seeds", [False, True])
def test_a_planted_difference_is_welchs_or_the_paired_test_with_holm(seeds):
    ood, found = three_groups(2, seeds)
    test = stats.ttest_rel if seeds else lambda a, b: stats.ttest_ind(a, b, equal_var=False)
    against = rows_of(found, "baseline")
    tests = {name: test(ood[name], ood["scratch"]) for name in ("a", "b")}
    for name, one in tests.items():
        row, ends = against.loc[name], one.confidence_interval()
        delta = ood[name].mean() - ood["scratch"].mean()
        assert [row["delta"], row["p"], row["df"]] == pytest.approx([delta, one.pvalue, one.df])
        assert [row["low"], row["high"]] == pytest.approx([ends.low, ends.high])
    assert against["p_adjusted"].tolist() == pytest.approx(holm([tests["a"].pvalue, tests["b"].pvalue]).tolist())
    outside = [Estimate(row.delta, row.se, row.df).p_outside(2.0) for row in against.itertuples()]
    assert against["p_equivalent"].tolist() == pytest.approx(holm(outside).tolist())
    one = against.loc["a"]
    power = stats.t.ppf(0.975, one["df"]) + stats.t.ppf(0.8, one["df"])
    assert one["smallest_detectable"] == pytest.approx(power * one["se"])


def test_pairing_takes_out_what_seeds_share():
    _, paired = three_groups(2, seeds=True)
    unpaired = analyse("task", paired.points.drop(columns=["seed", "x", "y"]), OPTIONS)
    assert rows_of(paired, "baseline").loc["a", "se"] < rows_of(unpaired, "baseline").loc["a", "se"] / 2
    assert "6 other seeds, which all groups share" in paired.target


def test_against_the_best_all_pairs_are_corrected_for():
    ood, found = three_groups(4)
    behind = rows_of(found, "best")
    assert found.scores.best() == "a"
    assert set(behind.index) == {"scratch", "b"}
    pairs = {pair: stats.ttest_ind(ood[pair[0]], ood[pair[1]], equal_var=False)
             for pair in (("scratch", "a"), ("b", "a"), ("b", "scratch"))}  # fmt: skip
    for name in ("scratch", "b"):
        row, one = behind.loc[name], pairs[name, "a"]
        ends = one.confidence_interval(1 - 0.05 / 3)  # Bonferroni over three pairs
        assert row["p_adjusted"] == pytest.approx(min(3 * one.pvalue, 1))  # likewise
        assert (row["p_adjusted"] < 0.05) == (row["low"] > 0 or row["high"] < 0)
        assert [row["low"], row["high"]] == pytest.approx([ends.low, ends.high])
    assert len(rows_of(found, "best", "id")) == 2


def test_very_many_groups_are_compared_with_the_baseline_alone():
    random = np.random.default_rng(0)
    points = table_of({f"g{i}": [(50 + j, 40 + random.normal()) for j in range(3)] for i in range(30)})
    found = analyse("task", points.drop(columns="seed"), Options("g0"))
    assert (found.scores.differences["family"] == "baseline").all()
    assert len(rows_of(found, "baseline")) == 29


def test_single_trials_have_scores_and_no_interval():
    found = analyse("task", table_of({"scratch": [(50, 40)], "a": [(60, 55)]}), OPTIONS)
    row = rows_of(found, "baseline").loc["a"]
    assert row["delta"] == pytest.approx(15)
    assert row[["low", "high", "p", "smallest_detectable"]].isna().all()
    assert summary(found).deployment.text == (
        "On the shifted test: no gain or loss shown. a scores 55.0 %, scratch 40.0 %: +15.0 points (no interval); more "
        "trials are needed for an interval."
    )


# ---- cameras


@pytest.mark.slow
def test_macro_f1_over_cameras_adds_their_jackknife():
    world = simulate(Truth(er=(0.0, 3.0, 6.0), trials=4, cameras=16, metric="macro_f1"), seed=2)
    points = world.points.drop(columns="seed")  # else groups are paired by it
    found = analyse("simulated", points, OPTIONS, counts=world.counts)
    best = points.loc[points.groupby(["group", "trial"])["id_val"].idxmax()].sort_index()
    for score in ("id", "ood"):
        counts = world.counts[score]
        without = group_jackknife.scores("macro_f1", group_jackknife.leave_one_out_weights(counts.groups), counts)
        source = group_jackknife.error_source("", [counts.images])
        row = rows_of(found, "baseline", score).loc["num_images=1000"]
        value, trials, moved, twice = 0.0, 0.0, 0.0, 0.0
        for group, sign in (("num_images=1000", 1), ("scratch", -1)):
            own = best.loc[best["group"] == group]
            again = 100 * without[own.index]  # trials x cameras
            n, values = len(own), 100 * own[score].to_numpy()
            value, trials = value + sign * values.mean(), trials + values.var(ddof=1) / n
            moved = moved + sign * again.mean(0)
            twice += np.var(again - again.mean(0), axis=1).sum() / n / (n - 1) * source.factor
        cameras = max(np.var(moved) * source.factor - twice, 0.0)
        assert row["delta"] == pytest.approx(value)
        assert row["se"] == pytest.approx(np.sqrt(trials + cameras))
    alone = analyse("simulated", points, OPTIONS)
    assert (found.scores.groups["se"] > alone.scores.groups["se"]).all()


# ---- slopes


def test_the_slope_per_tenfold_is_that_of_the_planted_scores():
    found = analyse("task", sweep({"num_images=1000": 0.0, "num_images=10000": 4.0, "num_images=100000": 8.0},
                                  trials=6, trial_sd=0.001, noise_sd=0.001), OPTIONS)  # fmt: skip
    slopes = found.scores.factors.set_index(["score", "factor"])
    ood, id_ = slopes.loc[("ood", "num_images")], slopes.loc[("id", "num_images")]
    assert ood["low"] < 4.0 < ood["high"]
    assert ood["slope"] == pytest.approx(4.0, abs=1.0)
    assert id_["low"] < 0.0 < id_["high"]
    texts = [finding.text for finding in summary(found).findings]
    assert any(text.startswith("Pre-training images: OOD score +") and "per tenfold" in text for text in texts)


# ---- sentences


def on_the_line(groups: Mapping[str, tuple[float, float]], trials: int = 8) -> pd.DataFrame:
    """Points of one epoch and five rates a trial: group -> (shift of ID on the probit axis, ER in points)."""
    random, rows = np.random.default_rng(7), []
    for group, (shift, er) in groups.items():
        for trial in range(trials):
            for rate in range(5):
                x = -1.0 + 0.4 * rate + shift + 0.02 * random.standard_normal()
                ood = ndtr(INTERCEPT + SLOPE * x) + er / 100 + 0.003 * random.standard_normal()
                rows.append({"trial": f"{group}-{trial}", "group": group, "id": ndtr(x), "ood": ood, "id_val": ndtr(x),
                             "finetune_lr": 10.0 ** -rate, "epoch": 1})  # fmt: skip
    return pd.DataFrame(rows)


def disagreement_of(shift: float, er: float, reach: float = 0.5) -> tuple[str, str] | None:
    """What stands beside the first sentence; the baseline's ID scores reach so far beyond an unshifted group's."""
    points = on_the_line({"scratch": (0.0, 0.0), "a": (shift, er)})
    for further in (-reach, reach):  # worse at validation than the rest, so that it is not what raw scores are read at
        more = on_the_line({"scratch": (further, 0.0)})
        points = pd.concat([points, more.assign(id_val=0.01)], ignore_index=True)
    found = analyse("task", points, OPTIONS)
    texts = [(one.kind, one.text) for one in summary(found).lead if one.text.startswith("a against scratch")]
    return texts[0] if texts else None


@pytest.mark.parametrize(
    ("shift", "er", "kind", "words"),
    [
        (0.3, 0.0, "differs", "better on the shifted test, only because its ID score is higher (ID +"),
        (-0.3, 0.0, "differs", "worse on the shifted test, only because its ID score is lower (ID −"),
        (0.3, 0.8, "differs", "better on the shifted test, mostly because its ID score is higher (ID +"),
        (0.3, -3.0, "differs", "better on the shifted test, yet less robust than its ID score leads to expect"),
        (-0.3, 3.0, "differs", "worse on the shifted test, yet more robust than its ID score leads to expect"),
    ],
)
def test_where_scores_and_er_disagree_it_is_said(shift, er, kind, words):
    found = disagreement_of(shift, er)
    assert found is not None
    assert found[0] == kind
    assert found[1].startswith(f"a against scratch: {words}")


def test_beyond_the_ids_at_which_er_is_compared_no_reason_is_given():
    kind, text = disagreement_of(1.2, 0.0)
    assert kind == "open"
    assert text.startswith("a against scratch: better on the shifted test; the difference at equal ID score (ER) could")
    assert "; at the scored models (" in text
    assert "only because" not in text


def test_robust_but_no_better_for_a_lower_id_score():
    lower = 0.3
    gain = 100 * (ndtr(INTERCEPT + SLOPE * 0.6) - ndtr(INTERCEPT + SLOPE * (0.6 - lower)))
    kind, text = disagreement_of(-lower, gain)
    assert kind in ("differs", "open")
    assert "more robust than its ID score leads to expect, yet no gain" in text
    assert "because its ID score is lower" in text


@pytest.mark.parametrize(("shift", "er"), [(0.0, 5.0), (0.0, -5.0), (0.0, 0.0)])
def test_where_they_agree_nothing_is_added(shift, er):
    assert disagreement_of(shift, er) is None


@pytest.mark.parametrize(
    ("planted", "kind", "says", "end"),
    [(6.0, "differs", "a gain", ")."), (-6.0, "differs", "a loss", ")."),
     (0.0, "equivalent", "no gain or loss beyond 2 points", ")."),
     (1.0, "differs", "a gain", "), smaller than the margin of 2.")],
)  # fmt: skip
def test_the_sentence_for_deployment(planted, kind, says, end):
    found = analyse("task", on_the_line({"scratch": (0.0, 0.0), "a": (0.0, planted)}), OPTIONS)
    one = summary(found).deployment
    row = rows_of(found, "baseline").loc["a"]
    assert one.kind == kind
    assert one.text.endswith(end)
    assert one.text.startswith(f"On the shifted test: {says}. a scores {found.scores.mean('a')['mean']:.1f} %, "
                               f"scratch {found.scores.mean('scratch')['mean']:.1f} %: ")  # fmt: skip
    assert one.sign == (np.sign(planted) if kind == "differs" else 0)
    assert f"(95 %: {row['low']:.1f} to {row['high']:.1f})".replace("-", "−") in one.text
    assert {key: found.scores.differences.iloc[one.index][key] for key in one.row} == dict(one.row)


def test_no_gain_is_said_with_what_could_have_been_found():
    points = sweep({"num_images=1000": 1.0}, trial_sd=0.03, seed=5)
    one = summary(analyse("task", points, OPTIONS)).deployment
    assert one.kind == "open"
    assert one.text.startswith("On the shifted test: no gain seen. ")
    assert "; this design could have found " in one.text


def test_scores_are_there_whatever_becomes_of_the_line():
    points = on_the_line({"scratch": (0.0, 0.0), "a": (0.0, 5.0)})
    poor = points.assign(id=np.random.default_rng(0).uniform(0.3, 0.5, len(points)))
    none = points.loc[(points["group"] == "a") | (points["finetune_lr"] == 1.0)].assign(id=0.4)
    for table in (poor, none):
        found = analyse("task", table, OPTIONS)
        assert found.refused
        sentences = summary(found)
        assert sentences.deployment.kind == "differs"
        start = "Effective robustness (ER, the difference at equal ID score) is not established, because "
        assert sentences.robustness.startswith(start)
        made = verdict([found])
        jsonschema.validate(made, SCHEMA)
        assert next(iter(made)) == "scores"
        assert made["scores"]["groups"]["a"]["ood"]["mean"] == pytest.approx(found.scores.mean("a")["mean"])


def test_without_a_baseline_or_a_score_less_is_said():
    alone = analyse("task", table_of({"a": [(50, 40), (51, 41), (52, 42)]}), OPTIONS)
    text = summary(alone).deployment.text
    assert text.startswith("On the shifted test: a 41.0 % (")
    assert text.endswith("there is no score of scratch to compare it with.")
    empty = analyse("task", pd.DataFrame(columns=["trial", "group", "id", "ood"]), OPTIONS)
    assert summary(empty).deployment is None
    for found in (alone, empty):
        jsonschema.validate(verdict([found]), SCHEMA)


def test_several_id_sets_have_a_score_each():
    points = on_the_line({"scratch": (0.0, 0.0), "a": (0.0, 5.0)})
    random = np.random.default_rng(1)
    points = points.assign(id_1=points["id"], id_2=ndtr(random.normal(0, 1, len(points))))
    found = analyse("task", points, replace(OPTIONS, id_names=("val", "other")))
    assert list(found.scores.groups["score"].unique()) == ["id_1", "id_2", "ood"]
    jsonschema.validate(verdict([found]), SCHEMA)


# ---- where they stand


def test_they_come_first_in_the_terminal_and_have_files_of_their_own(capsys):
    points = sweep({"num_images=1000": 0.0, "num_images=4000": 4.0})
    found = analyse("task", points, OPTIONS)
    table = Table("t", points, (), pd.DataFrame(columns=["trial", "group", "task", "reason"]))
    terminal.show(table, [found], "page")
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert shown[1].startswith(
        ("? On the shifted test: no gain seen. num", "▲ On the shifted test: a gain. num_images=4")
    )
    assert shown[2].startswith("▲ At equal ID score. num_images=4000 against num_images=1000: ")
    assert shown[3].startswith(
        ("At equal ID score (effective robustness, ER): ", "? num_images=4000 against scratch: ")
    )
    files = output.csv_tables(table, [(found, output.views(found))])
    assert {"scores.csv", "score_differences.csv", "score_factors.csv"} <= set(files)
    assert files["scores.csv"]["mean"].between(20, 100).all()  # percentage points
