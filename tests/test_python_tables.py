"""Any table from Python: a DataFrame is read as the CSV of it, its mistakes name its rows, and no text of it runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import analysis
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
        "DataFrame: --baseline: no row has 'standrd' in column 'type'; did you mean standard?",
    ]
    assert problems(lambda: analysis.analyse(frame, id="vall", ood="v2", group="type", baseline="standard")) == [
        "DataFrame: --id: no column 'vall'; did you mean val?"
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


def test_what_a_notebook_shows_runs_no_script(tmp_path):
    frame = make_tables.models()
    frame["type"] = frame["type"].replace("clip", HOSTILE)
    study = analysis.analyse(frame, id="val", ood="v2", group="type", baseline="standard", title=HOSTILE)
    shown = study._repr_html_() + study.findings._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
