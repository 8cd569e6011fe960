"""Numbers, names and files as people keep them: read where they can mean one thing, else refused with their lines."""

from __future__ import annotations

import gzip
import unicodedata
import zipfile

import numpy as np
import pandas as pd
import pytest
from make_tables import in_percent, models, read, refused, verdict_of

from analysis.input.cells import amounts, numbers
from analysis.options import Options
from analysis.study import analyse_all
from ray_robust.errors import UserError
from ray_robust.text.names import lookalikes, normalise, quoted

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.81", 0.81), (" 0.8", 0.8), ("0,81", 0.81), (",5", 0.5), ("8.1e-1", 0.81), ("0.8\u00a0", 0.8),
     ("\u202f0.8", 0.8), ("\uff10.\uff18", 0.8), ("+0.8", 0.8), ("81 %", 81), ("81%", 81), ("81,5\u00a0%", 81.5),
     ("1,000", 1.0), ("\u0660\u066b\u0668", 0.8)],
)  # fmt: skip
def test_a_number_is_a_number_in_any_dress(text, value):
    read = numbers(pd.Series([text]))
    assert read.values.tolist() == [value]
    assert not read.bad.any()
    assert read.signed.tolist() == ["%" in text]


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "NaN", "n/a", "N/A", "#N/A", "-", "–", "—", "NULL", "None", "?", "\u00a0"]
)
def test_a_missing_score_is_missing(text):
    read = numbers(pd.Series([text]))
    assert read.missing.all()
    assert not read.bad.any()


@pytest.mark.parametrize("text", ["inf", "-inf", "Infinity", "1e999", "0.8*", "0.8 ± 0.1", "1,234.5", "1.234,5", "0. 8",
                                  "1_0", "0x1", "high", "True", "0.8 0.9", "²", "--1", "%"])  # fmt: skip
def test_anything_else_is_bad(text):
    read = numbers(pd.Series(["0.5", text]))
    assert read.bad.tolist() == [False, True]


def test_amounts_with_thousands():
    cells = pd.Series(["1,000", "1 000", "1\u202f000", "1'000", "64k", "1.2M", "500", "1e5", ""])
    read, bad, unclear = amounts(cells)
    assert pd.to_numeric(read).tolist()[:8] == [1000, 1000, 1000, 1000, 64000, 1.2e6, 500, 1e5]
    assert not bad.any()
    assert not unclear.any()
    assert amounts(pd.Series(["1.000", "16.000"]))[2].all()
    assert not amounts(pd.Series(["1.000", "0.5"]))[2].any()
    assert amounts(pd.Series(["many", "1"]))[1].tolist() == [True, False]


@pytest.mark.parametrize("percent", [True, False])
def test_a_spreadsheet_in_german(percent, tmp_path):
    """Semicolons, decimal commas, a byte-order mark, CRLF, a line that names the separator, per cent signs."""
    frame = in_percent(models()) if percent else models()
    text = frame.to_csv(index=False, sep=";", decimal=",", lineterminator="\r\n")
    table = read(("\ufeffsep=;\r\n" + text).encode(), tmp_path, percent=percent)
    np.testing.assert_allclose(table.points[["id", "ood"]], models()[["val", "v2"]], atol=1e-12)
    assert table.warnings[0] == "cells are separated by a semicolon"
    assert [note.split(" cells")[0] for note in table.warnings[1:]] == ["val: 42", "v2: 42"]
    bad = refused("sep=;\r\n" + text.replace("m3;", "m3;;;;"), tmp_path, percent=percent)
    assert bad == ["t.csv: not readable as a CSV table: Expected 4 fields in line 6, saw 7"]


@pytest.mark.parametrize("write", ["tab", "bar", "utf-16", "gzip", "zip", "blank lines"])
def test_files_of_other_kinds(write, tmp_path):
    plain = models().to_csv(index=False)
    if write == "zip":
        with zipfile.ZipFile(tmp_path / "z", "w") as archive:
            archive.writestr("t.csv", plain)
    data = {
        "tab": lambda: models().to_csv(index=False, sep="\t"),
        "bar": lambda: models().to_csv(index=False, sep="|"),
        "utf-16": lambda: plain.encode("utf-16"),
        "gzip": lambda: gzip.compress(plain.encode()),
        "zip": lambda: (tmp_path / "z").read_bytes(),
        "blank lines": lambda: "\n\n" + plain.replace("m5,", "\n\nm5,"),
    }[write]()
    assert len(read(data, tmp_path).points) == 42


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04 no archive", "t.csv: not readable as a CSV table: File is not a zip file"),
        (b"type,val,v2\nstandard,0.5,0.4\0\n", "t.csv: not readable as a CSV table: it holds NUL characters"),
        ("type,val,v2\nstandard,0,5,0,4\n",
         "t.csv: not readable as a CSV table: Expected 3 fields in line 2, saw 5; are its decimals written with "
         "commas? then separate the columns with semicolons"),
        ("\n \n", "t.csv: the file is empty"),
    ],
)  # fmt: skip
def test_files_that_are_no_table(data, said, tmp_path):
    assert refused(data, tmp_path) == [said]


def test_a_workbook_is_called_one(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
        archive.writestr("xl/workbook.xml", "")
    data = (tmp_path / "t.csv").read_bytes()
    assert refused(data, tmp_path) == ["t.csv: an Excel workbook, not a CSV: export the sheet as CSV"]


def test_short_rows_are_no_empty_scores(tmp_path):
    text = models().to_csv(index=False).replace("m3,standard", "m3")
    assert refused(text, tmp_path)[-1] == "t.csv:5: fewer cells than the header has columns"


def test_lines_are_those_of_the_file(tmp_path):
    text = "\n\n" + models().to_csv(index=False, sep=";").replace("m3;", '"m\n3";').replace("m9;standard", "m9;")
    assert refused(text, tmp_path)[0] == "t.csv:14: type: empty"


def test_headers_padded_doubled_and_nameless(tmp_path):
    frame = models()
    padded = frame.rename(columns={"val": " val\u00a0", "v2": "v2 "})
    assert read(padded, tmp_path, id="val ").points["id"].tolist() == frame["val"].tolist()
    indexed = frame.assign(**{"": ""}).to_csv()  # an index without a name in front, an empty column behind
    assert read(indexed, tmp_path).keys == ("group", "column 1", "model")
    twice = pd.concat([frame, frame["model"], frame["val"].rename("year"), frame["v2"].rename("year")], axis=1)
    assert read(twice, tmp_path).warnings == (
        "column 'model' appears 2 times: one is kept", "column 'year' appears 2 times: none is used",
    )  # fmt: skip
    assert refused(pd.concat([frame, frame["val"].rename("val ")], axis=1), tmp_path) == [
        "t.csv:1: column 'val' appears twice"
    ]


@pytest.mark.slow
def test_blanks_around_names_are_left_out(tmp_path):
    frame = models()
    frame["type"] = frame["type"].where(frame.index % 2 == 0, frame["type"] + " ")
    for baseline in ("standard", "standard ", "\u00a0standard"):
        table = read(frame, tmp_path, baseline=baseline)
        assert table.points["group"].value_counts().to_dict() == {"standard": 30, "clip": 12}
        assert table.warnings == (
            "type: blanks and what cannot be seen are left out of names, as of 'standard ' (lines 3, 5, 7 and 18 more)",
        )
    verdict_of(frame, tmp_path, id="val", ood="v2", group="type", baseline=" standard ")
    assert "clip" in (tmp_path / "out/groups.csv").read_text()


@pytest.mark.parametrize("hidden", [NFD, f"{NFC}\u200b", f"\u00a0{NFC}", f"{NFC}\ufeff"])
def test_what_cannot_be_seen_is_no_part_of_a_name(hidden, tmp_path):
    frame = models()
    frame["type"] = frame["type"].replace("standard", NFC).mask(frame.index == 4, hidden)
    table = read(frame, tmp_path, baseline=hidden)
    assert table.points["group"].value_counts().to_dict() == {NFC: 30, "clip": 12}
    assert table.warnings[0].startswith("type: blanks and what cannot be seen are left out of names, as of ")
    assert "\\x" in table.warnings[0] or "\\u" in table.warnings[0]


@pytest.mark.parametrize(
    ("other", "said", "why"),
    [("Standard", "'Standard'", "case"),
     ("st\u0430ndard", "'st\u0430ndard' (st\\u0430ndard)", "letters of other scripts"),
     ("\uff53tandard", "'\uff53tandard' (\\uff53tandard)", "Unicode form")],
)  # fmt: skip
def test_names_that_look_alike_stand_side_by_side(other, said, why, tmp_path):
    frame = models()
    frame.loc[4:6, "type"] = other
    assert read(frame, tmp_path).warnings == (
        f"type: 'standard' (27 rows, the baseline) and {said} (3 rows) look alike and are taken as 2 different names; "
        f"they differ in {why}",
    )


def test_a_baseline_that_only_looks_like_one(tmp_path):
    assert refused(models(), tmp_path, baseline="st\u0430ndard") == [
        "t.csv: --baseline: no row has 'st\u0430ndard' (st\\u0430ndard) in column 'type'; did you mean 'standard'?"
    ]


def test_names_that_are_missing(tmp_path):
    frame = models()
    frame.loc[40:, "type"] = "n/a"
    assert read(frame, tmp_path).warnings == ("type: 'n/a' is taken as the name of a group (lines 42 and 43)",)
    assert refused(frame, tmp_path, cluster="type")[0] == "t.csv:42: type: 'n/a' names no cluster"


def test_alike_names():
    assert lookalikes(["1", "1.0", "01", "1e0", "10", "-1"]) == [["1", "1.0", "01", "1e0"]]
    assert lookalikes(["lr 0.1", "lr 01", "a-1", "a_1", "a 1", "b", "B"]) == [["a-1", "a_1", "a 1"], ["b", "B"]]
    assert quoted("caf\u00e9") == "'caf\u00e9' (caf\\xe9)"
    assert normalise("\u200bmore\u00a0data ") == "more data"


def test_other_columns_are_checked_where_they_are_used(tmp_path):
    frame = models().assign(
        num_images=["1,000", "64k"] * 21, epoch=["1", ""] * 21, sources="iNat", id_val=lambda f: 100 * f["val"],
        wise_alpha="",
    )  # fmt: skip
    table = read(frame, tmp_path)
    assert pd.to_numeric(table.points["num_images"]).unique().tolist() == [1000, 64000]
    assert table.points["epoch"].isna().sum() == 21
    assert not {"sources", "id_val", "wise_alpha"} & set(table.points)
    assert [note.partition(":")[0] for note in table.warnings] == ["epoch", "id_val", "sources"]
    (found,) = analyse_all(table, Options("standard"))
    assert not found.refused
    assert refused(frame.assign(num_images="1.000"), tmp_path)[0] == (
        "t.csv: num_images: 1.000 may mean 1 or 1000; write numbers without dots between thousands"
    )


def test_units_are_named_as_they_are(tmp_path):
    models().to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError) as error:
        verdict_of(models(), tmp_path, id="val", ood="v2", group="type", baseline="standard", unit=["val", "v2=pct"])
    assert [str(p) for p in error.value.problems] == [
        "--unit: 'val' is not COL=percent or COL=fraction", "--unit: 'v2=pct' is not COL=percent or COL=fraction",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"--unit: no column 'vall'; did you mean val\?"):
        verdict_of(models(), tmp_path, id="val", ood="v2", group="type", baseline="standard", unit=["vall=percent"])


def quoted_from(first: int, last: int) -> str:
    """A table in which a quote is opened before the group's name on one line and closed behind it on a later one."""
    rows = models().to_csv(index=False).splitlines()
    rows[first - 1] = rows[first - 1].replace(",standard,", ',"standard,')
    rows[last - 1] = rows[last - 1].replace(",standard,", ',standard",')
    return "\n".join(rows)


def test_a_stray_quote_swallows_no_rows(tmp_path):
    said = ["t.csv:8: a cell goes on over lines 8 to 10: is a quote missing?"]
    assert refused(quoted_from(8, 10), tmp_path) == said
    broken = "t.csv:8: type: a name with a line break; is a quote missing?"
    assert broken in refused(quoted_from(8, 9), tmp_path)  # no line in between shows that it was a row


def test_cells_of_several_lines_are_read_where_they_are_no_rows(tmp_path):
    table = models().assign(note="one line, and\nanother")
    assert len(read(table, tmp_path).points) == len(table)
