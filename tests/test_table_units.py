"""Per cent or fractions: every mix is refused with its rows named, and a truly low score can be said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from make_tables import in_percent, models, read, refused

DATA = Path(os.environ.get("RAY_ROBUST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TESTBED = DATA / "imagenet-testbed" / "table.csv"
SETS = ["val", "v2", "sketch", "r", "val_r", "objectnet", "val_objectnet", "a", "val_a"]


def test_both_units_read_the_same(tmp_path):
    fractions, percent = read(models(), tmp_path), read(in_percent(models()), tmp_path, percent=True)
    np.testing.assert_allclose(fractions.points[["id", "ood"]], percent.points[["id", "ood"]], atol=1e-12)
    assert fractions.warnings == percent.warnings == ()


@pytest.mark.parametrize("column", ["val", "v2"])
def test_a_column_in_another_unit(column, tmp_path):
    other = "v2" if column == "val" else "val"
    mixed = in_percent(models(), other)
    assert refused(mixed, tmp_path, percent=True) == [
        f"t.csv:1: {column}: no score is over 1 although the others are in per cent: it is in fractions (say --unit "
        f"{column}=fraction), or truly under 1 % (say --unit {column}=percent)"
    ]
    plain = refused(mixed, tmp_path)
    assert (
        plain[-1]
        == f"t.csv: {other} is in per cent, {column} in fractions: say --unit {other}=percent (without --percent)"
    )
    expected = read(models(), tmp_path).points
    for units in ({"percent": True, "units": {column: "fraction"}}, {"units": {other: "percent"}}):
        np.testing.assert_allclose(read(mixed, tmp_path, **units).points["ood"], expected["ood"], atol=1e-12)


def test_fractions_are_no_per_cent(tmp_path):
    assert refused(models(), tmp_path, percent=True) == [
        "t.csv: no score is over 1 although they were to be per cent: leave --percent out, or, if they truly are under "
        "1 %, say --unit val=percent --unit v2=percent"
    ]


@pytest.mark.parametrize("columns", [("val", "v2"), ("v2",), ("val",)])
def test_some_rows_in_fractions(columns, tmp_path):
    mixed = in_percent(models())
    rows = [3, 7, 11, 20, 28]
    mixed.loc[rows, list(columns)] = (mixed.loc[rows, list(columns)] / 100).round(6)
    said = refused(mixed, tmp_path, percent=True)
    assert [line.partition(" ")[0] for line in said[:3]] == ["t.csv:5:", "t.csv:9:", "t.csv:13:"]
    assert said[0].endswith("in fractions, among scores in per cent")
    assert said[3] == "t.csv: and 2 more lines like these"
    assert said[4].startswith(
        "t.csv: two units: 5 of 30 rows of 'standard' lie nearer to the others when read as fractions"
    )
    assert len(said) == 5
    plain = refused(mixed, tmp_path)
    for column in columns:
        assert any(
            f"{column}: 37 scores over 1 beside 5 of at most 1 (lines 5, 9, 13 and 2 more): two units in one column"
            in line
            for line in plain
        )


def test_a_few_rows_in_per_cent(tmp_path):
    mixed = models()
    mixed.loc[[4, 5], ["val", "v2"]] *= 100
    said = refused(mixed, tmp_path)
    assert len(said) == 4
    assert all("is not within 0..1 (a fraction, as most scores of the column are)" in line for line in said)


def test_a_group_in_fractions(tmp_path):
    mixed = in_percent(models())
    mixed.loc[mixed["type"] == "clip", ["val", "v2"]] /= 100
    said = refused(mixed, tmp_path, percent=True)
    assert len(said) == 1
    assert said[0].startswith(
        "t.csv: group 'clip': none of its 12 rows has a score over 1 (lines 32, 33, 34 and 9 more)"
    )


def test_low_scores_in_per_cent_stay_possible(tmp_path):
    """Down to a tenth of a per cent without a gap: read; with a gap: asked for, and read once it is said."""
    low = models(40, 12, er=0.0)
    steps = np.geomspace(0.001, 0.9, 40)
    low.loc[:39, "val"], low.loc[:39, "v2"] = steps.round(5), (0.7 * steps).round(5)
    table = read(in_percent(low), tmp_path, percent=True)
    assert table.points["id"].min() == pytest.approx(0.001)
    gap = in_percent(models())
    gap.loc[0, ["val", "v2"]] = 0.9, 0.5
    assert refused(gap, tmp_path, percent=True)[0] == "t.csv:2: val 0.9, v2 0.5: in fractions, among scores in per cent"
    said = read(gap, tmp_path, percent=True, units={"val": "percent", "v2": "percent"})
    assert said.points["id"].min() == pytest.approx(0.009)
    signed = gap.astype({"val": str, "v2": str})
    signed.loc[0, ["val", "v2"]] = "0.9 %", "0.5%"
    table = read(signed, tmp_path, percent=True)
    assert table.points.loc[0, ["id", "ood"]].tolist() == pytest.approx([0.009, 0.005])
    assert table.warnings == (
        "val: 1 cell with a % sign read as per cent (line 2)", "v2: 1 cell with a % sign read as per cent (line 2)",
    )  # fmt: skip


def test_units_are_checked_with_several_id_sets(tmp_path):
    mixed = in_percent(models().assign(r=lambda f: (0.9 * f["val"] ** 1.1).round(4)), "val", "v2", "r")
    mixed.loc[[2, 9], "r"] /= 100
    said = refused(mixed, tmp_path, id=["val", "r"], percent=True)
    assert [line.partition(": r")[0] for line in said[:2]] == ["t.csv:4", "t.csv:11"]


@pytest.mark.parametrize("percent", [True, False])
def test_scores_beyond_their_unit(percent, tmp_path):
    frame = in_percent(models()) if percent else models()
    frame.loc[5, "v2"] = -0.2
    frame.loc[6, "val"] = 101 if percent else 1.2
    said = refused(frame, tmp_path, percent=percent)
    assert "t.csv:7: v2: -0.2 is under 0: it is no score" in said
    assert any(line.startswith("t.csv:8: val: ") and "is not within" in line for line in said)


@pytest.mark.data
@pytest.mark.skipif(not TESTBED.is_file(), reason="the published tables are not beside the checkout")
@pytest.mark.parametrize("ood", SETS)
def test_published_tables_are_in_per_cent(ood, tmp_path):
    """Models down to chance, and ImageNet-A where good models score under 1 %: nothing is refused. A tenth of the rows
    turned into fractions is."""
    table = pd.read_csv(TESTBED)
    for own in (name for name in SETS if name != ood):
        frame = table[["model", "type", own, ood]].dropna().reset_index(drop=True)
        assert len(read(frame, tmp_path, id=own, ood=ood, percent=True).points) == len(frame)
        rows = np.random.default_rng(len(own)).choice(len(frame), len(frame) // 10, replace=False)
        frame.loc[rows, [own, ood]] /= 100
        assert any("two units" in line for line in refused(frame, tmp_path, id=own, ood=ood, percent=True))
