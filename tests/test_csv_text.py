"""CSVs that are safe to open in a spreadsheet and in a terminal, and that the project reads back as they were."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.input.csv_file import CsvFile
from ray_robust.run.run_folder import RunFolder
from ray_robust.text.names import visible
from ray_robust.text.safe_csv import cell, cells, frame_of, text_of, value

SIGNS = st.one_of(st.characters(exclude_categories=()), st.sampled_from("'=+-@\\xun0a1\t\r\n,;\"\x1b\u202e\ud800"))
ANY = st.text(SIGNS, max_size=12)
VALID = st.text(
    st.one_of(st.characters(exclude_categories=("Cs",)), st.sampled_from("'=+-@\\xun0a1\t\r\n,\"\x1b")), max_size=12
)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("-2+3", "'-2+3"), ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", r"'\t=1"), ("\r=1", r"'\r=1"), ("\uff1d1+1", "'\uff1d1+1"), ("a\x1b[31m", r"'a\x1b[31m"),
        ("'=1", "''=1"), (r"'a\x1b", r"''a\x5cx1b"), ("-inf", "'-inf"),
    ],
)  # fmt: skip
def test_what_a_spreadsheet_would_compute_is_text(text, written):
    assert cell(text) == written
    assert value(written) == text


@pytest.mark.parametrize("text", ["-5", "+0.25", "-1e-05", "-.5", "-", "'90s", "a=b", "num_images=1000", r"C:\new\x1b",
                                  "", "it's", '{"a\\u001b": 1.0}', "שלום"])  # fmt: skip
def test_numbers_and_other_texts_stay_as_they_are(text):
    assert cell(text) == text
    assert value(text) == text


@given(ANY)
def test_every_text_comes_back(text):
    written = cell(text)
    assert value(written) == text
    assert visible(written) == written
    assert len(written) < 2 or (written[0] not in "=@\t\r" and (written[0] not in "+-" or float(written) is not None))


@settings(max_examples=25)
@given(st.lists(st.tuples(VALID, VALID, st.floats(allow_nan=False)), min_size=1, max_size=4), VALID)
def test_every_table_comes_back(rows, column):
    frame = pd.DataFrame([(*row, -1) for row in rows], columns=["name", f"x{column}", "score", "whole"])
    read = frame_of(text_of(frame).encode())
    assert list(read) == list(frame)
    assert read.iloc[:, :2].to_numpy().tolist() == frame.iloc[:, :2].to_numpy().tolist()
    assert read["score"].astype(float).tolist() == frame["score"].tolist()
    assert set(read["whole"]) == {"-1"}


@given(st.lists(ANY, min_size=1, max_size=5))
def test_every_row_comes_back(row):
    text = io.StringIO()
    csv.writer(text).writerow(cells([*row, -2.5, 3]))
    (read,) = csv.reader(io.StringIO(text.getvalue(), newline=""))
    assert [value(one) for one in read] == [*row, "-2.5", "3"]


def test_a_plan_keeps_names_as_they_were(tmp_path):
    names = ["=1+1", "a\x1b[31m", "'=x", "-5", "b\u202e"]
    run = RunFolder(tmp_path)
    run.write_plan([
        {"trial": f"t{i}", "group": name, "cost_images": -1, "model": "m", "finetunes": "{}"}
        for i, name in enumerate(names)
    ])  # fmt: skip
    assert run.plan()["group"].tolist() == names
    text = (tmp_path / "plan.csv").read_text("utf-8")
    assert "\x1b" not in text
    assert "t0,'=1+1,-1" in text


def test_a_users_table_is_read_without_the_marks(tmp_path):
    names = ["=1+1", "plain", "a\x1bb", "-5"]
    frame = pd.DataFrame({"name": names, "=score": [-0.5, 0.25, 1.0, 2.0]})
    (tmp_path / "t.csv").write_text(text_of(frame), "utf-8")
    read = CsvFile(str(tmp_path / "t.csv"), ["=score"])
    assert read.frame["name"].tolist() == names
    assert read.frame["=score"].astype(float).tolist() == frame["=score"].tolist()
    (note,) = read.notes
    assert note.startswith(
        "column 'name': 2 cells begin with an apostrophe that keeps spreadsheets from computing them"
    )


def test_two_names_of_a_user_never_become_one(tmp_path):
    (tmp_path / "t.csv").write_text("name,score\n'-x,1\n-x,2\n", "utf-8")
    read = CsvFile(str(tmp_path / "t.csv"), ["score"])
    assert read.frame["name"].tolist() == ["'-x", "-x"]
    assert read.notes == []
