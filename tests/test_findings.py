"""Sentences on tables whose truth is known: an effect, equivalence, nothing established, refusal; each sentence says
the numbers of the row that it is tied to. verdict.json is what its schema says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import views
from analysis.findings import findings, two_levels
from analysis.formatting import counted, format_value, interval, listed, name, p_value, pair, signed, span
from analysis.input.table import Table
from analysis.options import Options
from analysis.report import charts, output
from analysis.report.tables import TWO_LEVELS, report_tables
from analysis.stats.contrasts import state
from analysis.stats.estimates import Estimate
from analysis.stats.factors import Factor, Regression, factor_table
from analysis.study import Analysis, analyse
from analysis.verdict import verdict
from tests.fake_run import sweep

SCHEMA = json.loads((Path(analysis.__file__).parent / "verdict.schema.json").read_text("utf-8"))
OPTIONS = Options("scratch")
SURE = {"trial_sd": 0.001, "noise_sd": 0.002}  # trials that hardly differ


def of(planted: dict[str, float], options: Options = OPTIONS, trials: int = 6, **spread: float) -> Analysis:
    return analyse("camera-traps", sweep(planted, trials=trials, **spread), options)


def said_of(found: Analysis) -> list[tuple[str, str]]:
    return [(finding.kind, finding.text) for finding in findings(found)]


@pytest.fixture(scope="module")
def effect() -> Analysis:
    return of({"num_images=1000": 0.0, "num_images=4000": 4.0, "num_images=16000": 8.0}, **SURE)


def test_an_effect_of_an_ordered_factor(effect):
    first = findings(effect)[0]
    row = effect.factor_table.iloc[0]
    assert first.kind == "differs"
    assert first.text == (
        f"Pre-training images: {signed(row['slope'])} points of ER per tenfold {span(row['low'], row['high'])}, over 3 "
        "levels."
    )
    assert row["low"] < 4 / np.log10(4) < row["high"]


def test_groups_with_an_effect_and_without_one(effect):
    told = dict(zip(("1000", "4000", "16000"), findings(effect)[1:], strict=True))
    assert told["1000"].kind == "equivalent"
    assert told["1000"].text.startswith("num_images=1000 against scratch: no effect within 2 points, ")
    assert "(90 %: " in told["1000"].text
    assert [told[name].kind for name in ("4000", "16000")] == ["differs", "differs"]
    assert ", from 6 and 6 trials" in told["16000"].text


def test_nothing_is_established_by_few_trials_that_differ_much():
    found = findings(of({"a": 1.0, "b": 1.0}, trials=3, trial_sd=0.03))
    assert {finding.kind for finding in found} == {"open"}
    assert all(finding.text.startswith("Not established: ") for finding in found)
    assert "this design could have found " in found[0].text


def test_an_effect_that_is_smaller_than_the_margin_is_said_to_be():
    found = findings(of({"a": 1.2}, replace(OPTIONS, margin=3.0), **SURE))
    assert found[0].kind == "differs"
    assert ", smaller than the margin of 3, from 6 and 6 trials" in found[0].text


def test_a_single_trial_gives_no_interval_and_no_claim():
    points = sweep({"a": 9.0}, trials=4, **SURE)
    points = points[(points["group"] == "scratch") | points["trial"].str.startswith("a-s0")]
    (only,) = findings(analyse("t", points, OPTIONS))
    assert only.kind == "open"
    assert only.text.endswith("; more trials are needed for an interval.")


def test_refused_where_the_baseline_makes_no_line():
    points = sweep({"a": 5.0})
    own = points["group"] == "scratch"
    points.loc[own, "ood"] = np.random.default_rng(0).uniform(0.2, 0.6, own.sum())
    found = analyse("t", points, OPTIONS)
    r2 = found.baseline.line.r2
    ((kind, text),) = said_of(found)
    assert kind == "open"
    assert text.startswith("Not established: effective robustness, because R² of the baseline line is 0.")
    assert ", under the floor of 0.8 and the baseline line is not shown to rise, slope " in text
    assert "no verdict" not in text  # which each refusal says for itself
    assert len(found.refusals) == 2
    assert found.refusals[0].startswith(f"R² of the baseline line is {r2:.2f}, under the floor of 0.8")
    assert findings(found)[0].row == {"group": "scratch", "scale": "probit"}
    assert verdict([found])["refused"] is True


def test_refused_without_a_baseline():
    found = analyse("t", sweep({"a": 5.0}).query("group != 'scratch'"), OPTIONS)
    assert said_of(found) == [
        ("open", "Not established: effective robustness, because no baseline line can be fitted.")
    ]


def factor(name: str, label: str, value: float, error: float, per: str = "tenfold") -> Factor:
    slope = Estimate(value, error, 30.0)
    return Factor(name, slope, 0.5, 3, label=label, per=per, standardised=0.5, inner=slope.inner,
                  p_equivalent=slope.p_outside(2.0))  # fmt: skip


def with_factors(analysis: Analysis, factors: list[Factor]) -> Analysis:
    regression = Regression(factors, 30, 30)
    return replace(analysis, regression=regression, factor_table=factor_table(regression, 2.0))


def test_factors_are_told_by_what_is_established(effect):
    factors = [
        factor("granularity=order", "labels order against species", 2.2, 2.0, "level"),
        factor("num_images", "pre-training images", 6.2, 0.65),
        factor("sources=fractals", "fractals in place of species", -3.0, 0.4, "all of it"),
        factor("num_classes", "classes", 0.15, 0.37),
    ]
    found = said_of(with_factors(effect, factors))[:4]
    assert found == [
        ("differs", "Pre-training images: +6.2 points of ER per tenfold (4.9 to 7.5), over 3 levels."),
        ("differs", "Fractals in place of species: −3.0 points of ER from none of it to all (−3.8 to −2.2)."),
        ("equivalent", "Classes: no effect within 2 points between any two levels (90 %: −0.5 to 0.8)."),
        ("open", "Not established: an effect of labels order against species on ER: +2.2 points of ER (−1.9 to 6.3)."),
    ]


def test_factors_are_corrected_for_each_other(effect):
    borderline = [factor(f"f{i}", f"factor {i}", 4.2, 2.0) for i in range(4)]  # p = 0.044 each
    (alone,) = said_of(with_factors(effect, borderline[:1]))[:1]
    assert alone[0] == "differs"
    together = said_of(with_factors(effect, borderline))[:4]
    assert {kind for kind, _ in together} == {"open"}
    assert together[0][1].startswith("Not established after Holm's correction: an effect of factor 0 on ER: +4.2")
    assert together[0][1].endswith("p = 0.18.")


def test_pairs_are_told_where_no_factor_speaks_for_them():
    found = findings(of({"order": 3.0, "family": 3.0}, **SURE))
    assert [f.row for f in found] == [
        {"a": "order", "b": "scratch"}, {"a": "family", "b": "scratch"}, {"a": "family", "b": "order"},
    ]  # fmt: skip
    assert [f.kind for f in found] == ["differs", "differs", "equivalent"]


def test_many_pairs_are_counted():
    *_, last = findings(of({f"g{i}": float(i) for i in range(7)}, trials=2, **SURE))
    assert re.fullmatch(
        r"\d+ of the 21 pairs of groups differ after Holm's correction; all are in contrasts\.csv\.", last.text
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "none of the 3 pairs differs"), (1, "1 of the 3 pairs differs"), (2, "2 of the 3 pairs differ")],
)
def test_a_count_and_its_verb_agree(count, text):
    assert counted(count, 3, "pairs", "differ") == text


def test_where_slopes_differ_it_is_told_at_three_scores(effect):
    at = [{"a": "num_images=16000", "b": "scratch", "id": x, "delta_er": d, "low": d - 1, "high": d + 1}
          for x, d in ((0.3, 9.0), (0.5, 8.0), (0.7, 6.0))]  # fmt: skip
    told = findings(replace(effect, at_ids=pd.DataFrame(at)))
    assert told[3].text.endswith(
        "; their lines differ in slope: +9.0 (8.0 to 10.0) at ID 30 %, +8.0 (7.0 to 9.0) at ID 50 % and "
        "+6.0 (5.0 to 7.0) at ID 70 %."
    )
    assert "differ in slope" not in told[2].text


CASES = {
    "factor": lambda: of({"num_images=1000": 0.0, "num_images=4000": 4.0, "num_images=16000": 8.0}, **SURE),
    "groups": lambda: of({"order": 3.0, "family": 3.2, "species": -0.5}),
    "none": lambda: analyse("t", sweep({"a": 1.0}).query("group != 'scratch'"), OPTIONS),
    "only the baseline": lambda: of({}),
    "one trial": lambda: of({"a": 1.0}, trials=1),
}


@pytest.mark.parametrize("case", CASES)
def test_every_sentence_says_the_numbers_of_its_row(case):
    found = CASES[case]()
    table = Table("t", found.points, ("trial", "group"), found.left_out)
    files = output.csv_tables(table, [(found, [views.own_view(found)])])
    for evidence, finding in zip(verdict([found])["findings"], findings(found), strict=True):
        rows = files[evidence["table"]]
        if not evidence["row"]:
            continue
        for key, value in evidence["row"].items():
            rows = rows[rows[key] == value]
        (row,) = rows.to_dict("records")
        if evidence["table"] == "trends.csv":
            continue
        kind = finding.kind
        if evidence["table"] != "equivalence.csv":  # which holds no Holm's p, and needs none
            assert state(row | ({"equivalent": False} if kind == "open" else {})) == kind
        value = row["slope"] if "slope" in row else row["delta_er"]
        low, high = (row["low90"], row["high90"]) if kind == "equivalent" else (row["low"], row["high"])
        assert signed(value) in finding.text
        assert interval(low, high) in finding.text or not np.isfinite(low)
        assert finding.index is not None


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_what_its_schema_says(case):
    made = json.loads(json.dumps(verdict([CASES[case]()]), allow_nan=False))
    jsonschema.Draft202012Validator(SCHEMA).validate(made)


def test_the_schema_is_one_and_refuses_what_is_wrong():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    checker = jsonschema.Draft202012Validator(SCHEMA)
    good = json.loads(json.dumps(verdict([CASES["groups"]()])))
    assert checker.is_valid(good)
    wrong = (
        lambda v: v.pop("groups"), lambda v: v.update(scale="log"), lambda v: v.update(margin=0),
        lambda v: v["groups"]["order"].update(n_trials=-1), lambda v: v["findings"][0].update(kind="sure"),
        lambda v: v.update(refused=True), lambda v: v.update(tasks={}), lambda v: v["findings"].append("no full stop"),
    )  # fmt: skip
    for spoil in wrong:
        spoilt = json.loads(json.dumps(good))
        spoil(spoilt)
        assert not checker.is_valid(spoilt)


def test_several_tasks_are_one_verdict():
    both = [of({"a": 1.0}), replace(of({"a": 2.0}), task="second")]
    made = json.loads(json.dumps(verdict(both)))
    jsonschema.Draft202012Validator(SCHEMA).validate(made)
    assert (made["task"], list(made["tasks"])) == ("camera-traps", ["second"])


def test_many_groups_are_counted(effect):
    rows = pd.concat([effect.contrasts.query("family == 'baseline'").assign(a=f"m{i}") for i in range(10)])
    groups = pd.DataFrame({"group": ["scratch", *(f"m{i}" for i in range(10))], "n_trials": 6})
    *told, last = findings(replace(effect, contrasts=rows, groups=groups))
    assert len(told) == 1 + 24  # the factor, and as many groups as are told
    assert last.text == "20 of the 30 groups differ from scratch after Holm's correction; all are in contrasts.csv."


def test_long_names_and_names_from_right_to_left():
    long = name("x" * 300)
    assert (len(long), long[39]) == (60, "…")
    assert name("two\nlines") == "two lines"
    assert pair("num_images=64", "num_images=32") == "num_images=64 − 32"
    assert pair("scratch", "שלום") == "scratch − \u2068שלום\u2069"


def test_how_numbers_are_said():
    assert [signed(v) for v in (6.24, -0.36, 0.04, -0.04, float("nan"))] == ["+6.2", "−0.4", "0.0", "0.0", "–"]
    assert interval(-0.04, 7.46) == "0.0 to 7.5"
    assert span(float("nan"), 1.0) == "(no interval)"
    assert [p_value(p) for p in (0.0004, 0.0131, float("nan"))] == ["< 0.001", "0.013", "–"]
    assert format_value([1, 12_345, 0.12345, None, True]) == "1, 12,345, 0.1235, –, yes"
    assert [listed(list(text)) for text in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_a_claim_needs_the_interval_and_the_correction():
    row = {"low": 0.1, "high": 2.0, "p_adjusted": 0.04, "equivalent": False}
    assert state(row) == "differs"
    assert state(row | {"p_adjusted": 0.06}) == "open"
    assert state(row | {"low": -0.1, "equivalent": True}) == "equivalent"
    assert state(row | {"low": float("nan"), "high": float("nan"), "p_adjusted": float("nan")}) == "open"


def test_a_number_with_two_levels_is_their_contrast_once():
    """The slope compares each group at its own ID scores, the contrast both at the same: only one is claimed."""
    made = of({"num_images=1000": 0.0, "num_images=4000": 6.0}, **SURE)
    (own,) = [one for one in findings(made) if one.row.get("b") != "scratch"]
    assert own.row == {"a": "num_images=4000", "b": "num_images=1000"}
    assert (own.kind, own.table, own.sign) == ("differs", "contrasts", 1)
    assert made.contrasts.iloc[own.index]["family"] == "pairs"
    table = report_tables(made, [])["factors"]
    assert table.rows[0][table.columns.index("shows")] == "see the contrast"
    assert TWO_LEVELS in table.note
    assert charts.factors(made) is None


def test_a_number_with_three_levels_or_two_beside_another_has_a_slope(effect):
    row = effect.factor_table.iloc[0].to_dict()
    assert two_levels(effect, row) is None
    assert charts.factors(effect) is not None


def test_a_finding_counts_the_trials_it_rests_on():
    points = sweep({"a": 4.0}, trials=6, **SURE)
    beyond = points["trial"].isin(points.loc[points["group"] == "a", "trial"].unique()[:2])
    points.loc[beyond, "id"] = 0.99
    (finding, *_) = findings(analyse("camera-traps", points, OPTIONS))
    assert ", from 4 and 6 trials" in finding.text
