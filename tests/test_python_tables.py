"""Any table from Python: a DataFrame is read as the CSV of it, its mistakes name its rows, and no text of it runs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import __main__ as program
from analysis.interface.arguments import in_python
from tests import make_tables
from tests.error_lines import problems

HOSTILE = "<script>alert(1)</script>"


def test_a_frame_is_read_as_the_csv_of_it(tmp_path):
    frame = make_tables.models()
    columns = {"id": "val", "ood": "v2", "group": "type", "baseline": "standard"}
    frame.to_csv(tmp_path / "t.csv", index=False)
    before = frame.copy()
    one, other = analysis.analyse(frame, **columns), analysis.analyse(tmp_path / "t.csv", **columns)
    pd.testing.assert_frame_equal(one.groups, other.groups)
    pd.testing.assert_frame_equal(one.contrasts, other.contrasts)
    assert [str(finding) for finding in one.findings] == [str(finding) for finding in other.findings]
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.slow
def test_the_report_of_another_table_of_this_name_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = {"id": "val", "ood": "v2", "group": "type", "baseline": "standard"}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make_tables.models().to_csv(tmp_path / folder / "t.csv", index=False)
    one, other = (analysis.analyse(tmp_path / folder / "t.csv", **columns) for folder in ("a", "b"))
    assert [one.write(), one.write()] == ["t-analysis/index.html"] * 2
    assert problems(other.write) == [
        "t-analysis: has the report of another table, a/t.csv; give another folder by --out"
    ]
    assert other.write("elsewhere") == "elsewhere/index.html"
    command = ["b/t.csv", "--id", "val", "--ood", "v2", "--group", "type", "--baseline", "standard"]
    assert problems(lambda: program.main(command)) == [
        "t-analysis: has the report of another table, a/t.csv; give another folder by --out"
    ]
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    analysis.analyse("linked/t.csv", **columns).write()  # the same table
    assert other.write("t-analysis") == "t-analysis/index.html"  # which was named
    (tmp_path / "b/t.csv").unlink()
    one.write()  # the other table is gone
    assert json.loads((tmp_path / "t-analysis/provenance.json").read_text())["table"] == "../a/t.csv"


def test_groups_that_are_numbers_and_scores_in_per_cent():
    frame = make_tables.models()
    frame["type"] = np.where(frame["type"] == "standard", 0.0, 1.0)
    frame = make_tables.in_percent(frame)
    study = analysis.analyse(frame, id="val", ood="v2", group="type", baseline=0, percent=True, margin=3)
    assert study.groups["group"].tolist() == ["0", "1"]
    assert study.analyses[0].options.margin == 3
    assert study.points["id"].between(0, 1).all()


def test_mistakes_in_a_frame_name_its_rows():
    frame = make_tables.models().astype({"val": object}).set_index("model", drop=False)
    frame.loc[["m3", "m5"], "val"] = ["high", None]
    assert problems(lambda: analysis.analyse(frame, id="val", ood="v2", group="type", baseline="standrd")) == [
        "DataFrame, row 'm3': val: 'high' is no number",
        "DataFrame: baseline: no row has 'standrd' in column 'type'; did you mean standard?",
    ]
    assert problems(lambda: analysis.analyse(frame, id="vall", ood="v2", group="type", baseline="standard")) == [
        "DataFrame: id: no column 'vall'; did you mean val?"
    ]
    several = pd.concat({"a": make_tables.models()}, axis=1)
    assert problems(lambda: analysis.analyse(several, id="val", ood="v2", group="type", baseline="standard")) == [
        "DataFrame: its columns have several levels; give them one name each"
    ]
    assert problems(lambda: analysis.analyse([1, 2], id="val", ood="v2", group="type", baseline="standard")) == [
        "list is no table; wanted: a DataFrame, or the path of a CSV"
    ]
    with pytest.raises(TypeError, match="unexpected keyword argument 'precent'"):
        analysis.analyse(frame, id="val", ood="v2", group="type", baseline="standard", precent=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"percent": "no"}, "percent: must be True or False, not 'no'"),
        ({"margin": "2"}, "margin: must be a number, not '2'"),
        ({"margin": True}, "margin: must be a number, not True"),
        ({"id_min": "0.2"}, "id_min: must be a number, not '0.2'"),
        ({"unit": "val=percent"}, 'unit: must be {column: "percent" or "fraction"}, not \'val=percent\''),
        ({"unit": {"val": "percents"}}, "unit: 'val=percents' is not COL=percent or COL=fraction"),
        ({"id": 3}, "id: must be the name of a column, or several, not 3"),
        ({"id": []}, "id: must be the name of a column, or several, not []"),
        ({"group": None}, "group: must be the name of a column, not None"),
        ({"cluster": 1}, "cluster: must be the name of a column, not 1"),
        ({"title": " "}, "title is empty; wanted: what the report is called, or no title"),
        ({"scale": 2}, "scale: must be text, not 2"),
        ({"scale": "probits"}, "scale: 'probits' is no scale; did you mean probit?"),
        ({"margin": -1.0}, "margin: -1 is not a positive number of percentage points"),
        ({"id_min": 3}, "id_min: the floor does not lie within the scores' range"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(wrong, message):
    right = {"id": "val", "ood": "v2", "group": "type", "baseline": "standard"}
    assert problems(lambda: analysis.analyse(make_tables.models(), **(right | wrong))) == [message]


def test_numbers_may_be_numpy_s():
    study = analysis.analyse(make_tables.models(), id="val", ood="v2", group="type", baseline="standard",
                             margin=np.float32(2), percent=np.bool_(False))  # fmt: skip
    assert study.analyses[0].options.margin == 2


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("--id: no column 'x'", "id: no column 'x'"),
        ("--id-min: the floor", "id_min: the floor"),
        ("are they in per cent? then add --percent", "are they in per cent? then add percent=True"),
        ("say --percent --unit my val=percent", "say percent=True unit={'my val': 'percent'}"),
        (
            "say --unit a=percent --unit b=percent (without --percent)",
            "say unit={'a': 'percent', 'b': 'percent'} (without percent=True)",
        ),
        (
            "(say --unit a=fraction), or (say --unit a=percent)",
            "(say unit={'a': 'fraction'}), or (say unit={'a': 'percent'})",
        ),
        ("say --cluster none", "say cluster='none'"),
        ("say --cluster 'a b'; more", "say cluster='a b'; more"),
        ("does --cluster name one training?", "does cluster name one training?"),
        ("--id a and --ood b hold the same", "id a and ood b hold the same"),
        ("a--b and --identity stay", "a--b and --identity stay"),
    ],
)
def test_flags_are_arguments_in_messages(flags, arguments):
    assert in_python(flags) == arguments


def test_notes_on_a_frame_name_arguments():
    frame = make_tables.models()
    frame["v2"] = frame["val"] - 0.1
    study = analysis.analyse(frame, id="val", ood="v2", group="type", baseline="standard")
    notes = [text for one in study.analyses for text in one.warnings if "without any scatter" in text]
    assert notes
    assert all("--" not in text and text.startswith("ood v2 is") for text in notes)


def test_what_a_notebook_shows_runs_no_script(tmp_path):
    frame = make_tables.models()
    frame["type"] = frame["type"].replace("clip", HOSTILE)
    study = analysis.analyse(frame, id="val", ood="v2", group="type", baseline="standard", title=HOSTILE)
    shown = study._repr_html_() + study.findings._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
