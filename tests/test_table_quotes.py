"""Quotes in a CSV of images that are not closed, or not where they belong: no row is lost without a word."""

from __future__ import annotations

import re

import pytest
from make_pools import open_pool

from ray_robust.data.labels.class_labels import read_map
from ray_robust.data.readers.table import read_table
from ray_robust.errors import UserError
from tests import make_images as make

CLOSED = "wanted: each quote closed on the line that opens it"
OVER_ROWS = f", over what looks like rows of the table; {CLOSED}"


def problems(call, *arguments) -> list[str]:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value).splitlines()


def listed(tmp_path, text: str, **options):
    """The catalog of a source by a CSV of four images."""
    for name in "abcd":
        make.write(tmp_path / f"{name}.jpg")
    (tmp_path / "x.csv").write_text(text)
    return open_pool("source", "folder", {"path": str(tmp_path / "x.csv"), **options}).catalog


@pytest.mark.parametrize(
    ("text", "says"),
    {
        "two in one column": (
            'path,label\na.jpg,"cat\nb.jpg,dog\nc.jpg,"dog\nd.jpg,cat\n',
            f":2: column 'label': a text runs on to line 4{OVER_ROWS}",
        ),
        "one to the end": (
            'path,label\na.jpg,cat\nb.jpg,"dog\nc.jpg,dog\nd.jpg,cat\n',
            f":3: column 'label': a text runs on to line 5{OVER_ROWS}",
        ),
        "of a comment": (
            'path,comment,label\na.jpg,"near,dog\nb.jpg,"far",cat\nc.jpg,,dog\nd.jpg,,cat\n',
            f":2: column 'comment': a text runs on to line 3{OVER_ROWS}",
        ),
        "before the path": (
            'comment,path,label\n"near,a.jpg,dog\n"far",b.jpg,cat\nx,c.jpg,dog\nx,d.jpg,cat\n',
            f":2: column 'comment': a text runs on to line 3{OVER_ROWS}",
        ),
        "of a path": (
            'path,label\n"a.jpg,cat\nb.jpg",dog\nc.jpg,dog\n',
            f":2: column 'path': a name runs on to line 3; {CLOSED}",
        ),
        "of a header": (
            'path,"label\na.jpg,cat\nb.jpg,"dog"\n',
            f": has a column's name that runs over several lines; {CLOSED}",
        ),
    }.values(),
    ids=["two in one column", "one to the end", "of a comment", "before the path", "of a path", "of a header"],
)
def test_a_quote_that_is_not_closed_swallows_no_row(tmp_path, text, says):
    assert problems(listed, tmp_path, text) == [f"{tmp_path}/x.csv{says}"]


@pytest.mark.parametrize(("column", "options"), [("split", {}), ("group", {}), ("kind", {})])
def test_no_name_runs_over_lines(tmp_path, column, options):
    text = f'path,label,{column}\na.jpg,cat,"x\n\ny"\nb.jpg,cat,x\nc.jpg,dog,x\nd.jpg,dog,x\n'
    if column == "split":  # of a source it is not used
        text = text.replace("x\n\ny", "train\n\n").replace(",x", ",train")
        assert len(listed(tmp_path, text)) == 4
        return
    right = ", or the column left out with `parents`" if column == "kind" else ""
    what = f"column {column!r}: a name runs on to line 4; {CLOSED}{right}"
    assert problems(listed, tmp_path, text) == [f"{tmp_path}/x.csv:2: {what}"]


def test_texts_have_lines_of_their_own(tmp_path):
    """A caption may have a line break, even one that is parted by commas as a row is; lines count as in an editor."""
    text = 'path,label,caption\na.jpg,cat,"one\nred, green, blue"\nb.jpg,cat,"v.\r\n2"\nc.jpg,dog,x\ne.jpg,dog,y\n'
    assert problems(listed, tmp_path, text) == [f"{tmp_path}/x.csv:7: e.jpg is no file in {tmp_path}"]
    catalog = listed(tmp_path, text.replace("e.jpg", "d.jpg"))
    assert (len(catalog), catalog.classes) == (4, ("cat", "dog"))


def test_rows_are_told_apart_without_suffixes(tmp_path):
    (tmp_path / "x.csv").write_text('class,label,note\na1,x,"open\nb2,y,z\nc3,x,"open\n')
    what = f"{tmp_path}/x.csv:2: column 'note': a text runs on to line 4{OVER_ROWS}"
    assert problems(read_map, str(tmp_path / "x.csv")) == [what]
    (tmp_path / "x.csv").write_text('class,label,note\na1,x,"a text\nof two, or, more lines"\nb2,y,z\n')
    assert read_map(str(tmp_path / "x.csv")) == {"a1": "x", "b2": "y"}


def test_quotes_behind_a_blank_are_no_part_of_a_name(tmp_path):
    """`"cat"` became a second class, with its quotes."""
    text = 'path,label\na.jpg, "cat"\nb.jpg,cat\nc.jpg, dog\nd.jpg,"dog" \n'
    what = "column 'label': a blank before the quote makes the quotes part of the name"
    assert problems(listed, tmp_path, text) == [f"{tmp_path}/x.csv:2: {what}; wanted: no blank between comma and quote"]
    assert listed(tmp_path, text.replace(', "', ',"')).classes == ("cat", "dog")
    assert listed(tmp_path, 'path,label\na.jpg,5" pot\nb.jpg,"5"" pot"\nc.jpg,"""q"""\n').classes == ('"q"', '5" pot')


def test_every_such_name_is_counted(tmp_path):
    rows = "".join(f'{i}.jpg, "cat"\n' for i in range(9))
    said = problems(listed, tmp_path, f"path,label\n{rows}")
    assert [re.match(r".*x\.csv(:\d+)?", line)[1] for line in said] == [":2", ":3", ":4", ":5", ":6", None]
    assert said[-1].endswith("and 4 more like the last one")


@pytest.mark.parametrize("blank", ["\n", "\r\n \r\n", ",\n"])
def test_blank_lines_above_the_header_are_skipped(tmp_path, blank):
    catalog = listed(tmp_path, f"{blank}path,label\na.jpg,cat\nb.jpg,dog\n")
    assert catalog.classes == ("cat", "dog")
    count = blank.count("\n")
    assert problems(listed, tmp_path, f"{blank}path,lable\na.jpg,cat\n") == [
        f"{tmp_path}/x.csv:{count + 1}: has no column 'label'; did you mean lable?"
    ]
    said = problems(listed, tmp_path, f"{blank}path,label\na.jpg,cat\nz.jpg,dog\n")
    assert said == [f"{tmp_path}/x.csv:{count + 3}: z.jpg is no file in {tmp_path}"]
    assert problems(listed, tmp_path, blank) == [
        f"{tmp_path}/x.csv: is empty; wanted: a header and a line for each image"
    ]


def test_a_cell_that_is_too_long_for_a_quote_says_so(tmp_path):
    rows = "".join(f"{i:06d}.jpg,dog\n" for i in range(12_000))
    (tmp_path / "x.csv").write_text(f'path,label\na.jpg,"cat\n{rows}')
    (line,) = problems(read_table, tmp_path / "x.csv")
    assert line.endswith(f"more than the limit of 131,072; {CLOSED}")
