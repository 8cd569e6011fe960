"""Which groups cannot be told from the best one: the set itself, and where it is said."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from fake_run import sweep
from scipy import stats

from analysis.decisions.best import best_sentence
from analysis.options import Options
from analysis.predict.predict import Prediction
from analysis.predict.text import _trained, facts
from analysis.stats.best_set import ER, OOD, best_set, best_sets
from analysis.study import Analysis, analyse, so_far
from analysis.verdict import verdict
from bench.best_sets import World, bonferroni, looked_at, study
from ray_robust.run.interim import Interim

SCHEMA = json.loads((Path(__file__).parents[1] / "analysis/verdict.schema.json").read_text("utf-8"))


def analysed(planted: dict[str, float], **of_sweep) -> Analysis:
    made = analyse("camera-traps", sweep(planted, **of_sweep), Options("scratch"), checked=False)
    er = {group: mean.quantity for group, mean in made.means.items()}
    return replace(made, best=best_sets(er, made.scores.means, "scratch"))


def members(table: pd.DataFrame) -> set[str]:
    return set(table.loc[table["in_set"].astype(bool), "group"])


def test_two_groups_are_a_one_sided_test():
    """Of two groups the lower one is out where Welch's one-sided test says so at 5 %, which the simulated level nearly
    is."""
    world = World("two", 2, 8, spread=2.0)
    for seed in range(6):
        means = study(world, 0.8, np.random.default_rng(seed))
        table = best_set(means, OOD).set_index("group")
        low, high = table["value"].idxmin(), table["value"].idxmax()
        parts = [means[name].estimate for name in (low, high)]
        se = float(np.hypot(*(one.se for one in parts)))
        df = se**4 / sum(one.se**4 / one.df for one in parts)
        difference = table.loc[high, "value"] - table.loc[low, "value"]
        reach = stats.t.ppf(0.95, df) * se
        assert table.loc[low, "at_least_behind"] == pytest.approx(max(0.0, difference - reach), abs=0.06 * reach)
        assert table.loc[low, "at_most_behind"] == pytest.approx(difference + reach, abs=0.06 * reach)
        assert table.loc[low, "in_set"] == (table.loc[low, "at_least_behind"] == 0)


def test_a_clear_best_stands_alone_and_equal_ones_do_not():
    random = np.random.default_rng(0)
    assert members(best_set(study(World("x", 4, 5), 60.0, random), OOD)) == {"group 3"}
    assert len(members(best_set(study(World("x", 4, 5), 0.0, random), OOD))) >= 3


def test_what_all_groups_share_widens_nothing():
    """A seed's effect on all groups, or a camera's, leaves differences as they are."""
    for shared in ({"seeds": 50.0}, {"cameras": 24}):
        one = best_set(study(World("x", 5, 6, **shared), 12.0, np.random.default_rng(3)), OOD)
        assert members(one) <= {"group 3", "group 4"}


def test_a_group_without_an_interval_stays_and_sends_nobody_out():
    means = study(World("x", 4, 5), 0.0, np.random.default_rng(1))
    lone = study(World("x", 1, 1), 0.0, np.random.default_rng(2))["group 0"]
    table = best_set({**means, "lone": replace(lone, value=1_000.0)}, OOD).set_index("group")
    assert table.loc["lone", "in_set"]
    assert not table.loc["lone", "known"]
    assert np.isnan(table.loc["lone", "at_most_behind"])
    pd.testing.assert_frame_equal(
        table.drop(index="lone").drop(columns="best"), best_set(means, OOD).set_index("group").drop(columns="best")
    )


def test_the_same_numbers_give_the_same_set_and_few_or_very_many_groups_none():
    means = study(World("x", 5, 4), 3.0, np.random.default_rng(5))
    pd.testing.assert_frame_equal(best_set(means, ER), best_set(means, ER))
    assert best_set({"a": means["group 0"]}, ER).empty
    assert best_set({str(i): means["group 0"] for i in range(101)}, ER).empty


@pytest.mark.slow
@pytest.mark.parametrize("world", [
    World("unequal", 6, 3, spread=3.0), World("seeds", 6, 3, seeds=2.0), World("cameras", 5, 4, cameras=12),
])  # fmt: skip
def test_the_best_is_in_the_set(world):
    """A few of the studies of `python -m bench.best_sets`: three standard errors of its 95 %."""
    table = np.array([looked_at(world, 2_000, seed) for seed in range(120)], float)
    alike, *_, best, size, others = table.mean(0)
    assert 0.90 <= alike <= 0.985
    assert best >= 0.95
    assert size < others


def test_bonferroni_of_the_bench_keeps_more():
    means = study(World("x", 6, 5), 4.0, np.random.default_rng(7))
    assert members(best_set(means, OOD)) <= bonferroni(means)


def test_sentences_and_verdict():
    made = analysed({"num_images=1000": 0.0, "num_images=4000": 8.0, "num_images=64000": 8.5}, trials=4)
    assert members(made.best.loc[made.best["measure"] == ER]) == {"num_images=4000", "num_images=64000"}
    assert "scratch" not in set(made.best.loc[made.best["measure"] == ER, "group"])
    assert "scratch" in set(made.best.loc[made.best["measure"] == OOD, "group"])
    assert best_sentence(made, ER) == (
        "The best by ER is among num_images=64000 and num_images=4000 (95 %), of 3 groups."
    )
    found = verdict([made])
    jsonschema.validate(found, SCHEMA)
    assert found["best_sets"]["er"]["set"] == ["num_images=64000", "num_images=4000"]
    assert found["best_sets"]["er"]["text"] == best_sentence(made, ER)

    alone = analysed({"num_images=1000": 0.0, "num_images=4000": 2.0, "num_images=64000": 20.0}, trials=4)
    assert best_sentence(alone, ER) == "Best by ER (95 %): num_images=64000, of 3 groups."
    assert best_sentence(alone, OOD).endswith("of 4 groups, scratch among them.")
    alike = analysed({"num_images=1000": 0.0, "num_images=4000": 0.0, "num_images=64000": 0.0}, trials=3)
    assert best_sentence(alike, ER) == "No group can be told from the best by ER (95 %): all 3 may be."
    single = analysed({"num_images=1000": 0.0, "num_images=4000": 1.0}, trials=1)
    assert best_sentence(single, ER) == "Which group is best by ER cannot be told: none has an interval."


def test_while_trials_are_missing_nobody_is_sent_out():
    made = analysed({"num_images=1000": 0.0, "num_images=4000": 2.0, "num_images=64000": 20.0}, trials=4)
    held = so_far(made, Interim(0.0, True, 3, 9, {}))
    assert held.best["in_set"].all()
    assert (held.best["at_least_behind"] == 0).all()
    assert best_sentence(held, ER) == ""
    jsonschema.validate(verdict([held]), SCHEMA)


def test_the_prediction_names_the_set_of_what_was_trained():
    prediction = Prediction("t", None, refused="x", best_set=("a=1", "a=2"), compared=5)
    assert _trained(prediction) == [
        "Of 5 groups trained, the one with the highest ER is among a=1 and a=2 (95 %, measured)."
    ]
    assert facts(prediction, None)["best_set"] == {"groups": ["a=1", "a=2"], "of": 5}
