"""What no screen, page or file can show as it is: written as an escape, and nothing else is."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from ray_robust.errors import Outage, Problem, UserError
from ray_robust.files.storage import Storage
from ray_robust.spec.yaml_lines import parse
from ray_robust.text.console import Screen
from ray_robust.text.names import isolate, printable, printable_in, visible

ANY = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from("\x1b\x07\r\n\t\u202e\u2028\ufffe\ud800\\"))
)
HOSTILE = {
    "\x1b[31mred": r"\x1b[31mred", "\x1b]0;title\x07": r"\x1b]0;title\x07", "a\x00b": r"a\x00b", "\x9b2J": r"\x9b2J",
    "a\u2028b\u2029": r"a\u2028b\u2029", "a\ufffe\uffff": r"a\ufffe\uffff", "a\ud800": r"a\ud800",
    "file\udcff.png": r"file\udcff.png", "a\u202egnp.exe": r"a\u202egnp.exe", "\u200fa\u2066": r"\u200fa\u2066",
    "a\u200bb\ufeff": r"a\u200bb\ufeff", "a\U000e0041": r"a\U000e0041", "\U0010ffff": r"\U0010ffff",
    "two\nlines": r"two\nlines", "tab\there\r": r"tab\there\r",
}  # fmt: skip


@pytest.mark.parametrize(("name", "shown"), HOSTILE.items(), ids=map(ascii, HOSTILE))
def test_what_cannot_be_printed_is_an_escape(name, shown):
    assert visible(name) == shown


@pytest.mark.parametrize(
    "name", ["café", "cafe\u0301", "שלום עולם", "क्\u200dष", "👩\u200d🔬", "a\\b", r"\x1b", "\u00a0x", "日本"]
)
def test_other_names_stay_as_they_are(name):
    assert visible(name) == printable(name) == name


@given(ANY)
def test_nothing_that_cannot_be_printed_is_left(name):
    shown, lines = visible(name), printable(name)
    assert visible(shown) == shown
    assert printable(lines) == lines
    for text in (shown, lines):
        text.encode()
        assert {unicodedata.category(sign) for sign in text} & {"Cs", "Zl", "Zp"} == set()
        assert not any(0x7F <= ord(sign) < 0xA0 or ord(sign) & 0xFFFE == 0xFFFE for sign in text)
    assert not any(sign < " " for sign in shown)
    assert {sign for sign in lines if sign < " "} <= {"\n", "\t"}
    assert [sign for sign in shown if sign not in name] == [] or "\\" in shown


@given(ANY)
def test_a_name_set_apart_stays_so_and_cannot_end_it(name):
    line = f"a {isolate(visible(name))} b"
    assert printable(line) == line


def test_values_of_json_are_cleaned_at_every_depth():
    assert printable_in({"a\x1b": ["b\x07", {"c": ("\ud800", 1, None, True)}]}) == {
        r"a\x1b": [r"b\x07", {"c": [r"\ud800", 1, None, True]}]
    }


@given(st.lists(ANY, min_size=1, max_size=3))
def test_no_name_is_an_order_to_the_terminal(names):
    screen = io.StringIO()
    out = Screen(file=screen, width=400)
    table = Table(box=None)
    table.add_column("name")
    for name in names:
        table.add_row(name)
        out.print(name, markup=False, soft_wrap=True)
    out.print(table, markup=False)
    text = screen.getvalue()
    assert printable(text) == text
    text.encode()


def test_a_name_is_neither_markup_nor_a_picture_nor_measured_wrongly():
    screen = io.StringIO()
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("name", "n"):
        table.add_column(name, no_wrap=True)
    table.add_row("\x1b[2J :smile: [/]", "1")
    Screen(file=screen, width=40).print(table, markup=False)
    assert screen.getvalue().splitlines()[1].rstrip() == r"\x1b[2J :smile: [/] 1"


def test_messages_are_lines_of_text():
    assert str(Problem("a\x1b[31m.csv:3", "the group\n'b\u202e' is\ud800 none")) == (
        r"a\x1b[31m.csv:3: the group 'b\u202e' is\ud800 none"
    )
    assert str(Outage("s3://a\x1b[0m: away")) == r"s3://a\x1b[0m: away"


def test_a_file_is_written_whatever_its_text_holds(tmp_path):
    Storage(tmp_path).write("page.html", "a\ud800b")
    assert (tmp_path / "page.html").read_text("utf-8") == r"a\ud800b"


def test_half_a_character_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "s.yaml").write_text('task: {name: camera-traps}\npretrain:\n  sources: {"a\\ud800": 1.0}\n', "utf-8")
    with pytest.raises(UserError, match=r"s\.yaml:3: 'a\\ud800' holds \\ud800, half of a character, which no file"):
        parse(tmp_path / "s.yaml")


def test_no_name_is_lost_to_one_that_is_written_with_its_escape():
    assert printable_in({"a\x1b": 1, "a\\x1b": 2}) == {"a\\x1b": 1, "a\\x1b'": 2}
