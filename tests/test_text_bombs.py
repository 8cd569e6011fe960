"""Specs and tables that claim, nest or repeat far too much: one line each, and little memory."""

from __future__ import annotations

import bz2
import gzip
import os
import zipfile

import pytest

from analysis.input import csv_file
from ray_robust import errors, ingest
from ray_robust.data.readers import table
from ray_robust.data.readers.table import read_table
from ray_robust.errors import UserError
from ray_robust.spec import grid
from ray_robust.spec.load import load_spec
from ray_robust.spec.yaml_lines import read_value
from tests.make_bombs import limited

SPEC = "task: {name: camera-traps}\npretrain: {epochs: 1, sources: {species: 1.0}}\n"


def lines(call, *arguments) -> list[str]:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value).splitlines()


def of_spec(tmp_path, text: str) -> list[str]:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    return [line.removeprefix(f"{tmp_path}/") for line in lines(load_spec, file)]


# --- specs


def levels(line: str, count: int) -> str:
    return "".join(f"a{i}: &a{i} {line.format(*[f'*a{i - 1}'] * 9) if i else '{k: x}'}\n" for i in range(count))


@pytest.mark.parametrize(
    ("text", "says"),
    {
        "aliases": (levels("[{},{},{},{},{},{},{},{},{}]", 9), "x.yaml: holds more than 200,000 values once"),
        "merges": (levels("{{<<: [{},{},{},{},{},{},{},{},{}]}}", 9), "x.yaml: holds more than 200,000 values once"),
        "a wide merge": ("b: &b {" + ",".join(f"k{i}: 1" for i in range(999)) + "}\na: {<<: [" + "*b," * 999 + "]}\n",
                         "x.yaml: holds more than 200,000 values once its aliases are written out"),
        "a merge of itself": ("a: &a {<<: *a}\n", "x.yaml:1: an alias (*name) lies inside the value that it names"),
        "nested lists": (SPEC + "seeds: " + "[" * 5000, "x.yaml: is nested more than 30 levels deep"),
        "nested mappings": (SPEC + "seeds: " + "{a: " * 5000, "x.yaml: is nested more than 30 levels deep"),
        "a number of megabytes": (SPEC + "seeds: " + "9" * 200_000,
                                  "x.yaml:3: a value of 200,000 characters; at most 100,000 are possible"),
        "a key of megabytes": (SPEC + "x" * 900 + ": 1\n" + "? " + "y" * 200_000 + "\n",
                               "x.yaml:4: a value of 200,000 characters; at most 100,000 are possible"),
        "megabytes": ("#" * 9_000_000, "x.yaml: holds 9,000,000 bytes, more than the limit of 8,000,000; wanted: a "
                                       "sweep's YAML file"),
        "a tag before no float": (SPEC + "seeds: !!float ''\n", "x.yaml: no valid YAML: "),
        "a tag before no bool": (SPEC + "seeds: !!bool maybe\n", "x.yaml: no valid YAML: a tag (!!...) before a value"),
        "a tag before no time": (SPEC + "seeds: !!timestamp abc\n", "x.yaml: no valid YAML: "),
    }.values(),
    ids=lambda value: value[:30] if value.startswith("x.yaml") else "",
)  # fmt: skip
def test_a_spec_that_is_a_bomb_is_refused_in_a_line(tmp_path, text, says):
    (line,) = of_spec(tmp_path, text)
    assert line.startswith(says)
    assert len(line) < 200


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ("lattice: [species, fractals], steps: 1000000000000", "makes 1,000,000,000,001 mixtures; at most 1,000,000"),
        (f"lattice: [{','.join(f's{i}' for i in range(900))}], steps: 1000000000000", "makes far too many mixtures"),
        (f"simplex: [{','.join(f's{i}' for i in range(1001))}], draws: 9", "names 1,001 sources; at most 1,000"),
        (
            f"simplex: [{','.join(f's{i}' for i in range(900))}], draws: 1000000",
            "makes 1,000,000 mixtures of 900 sources",
        ),
    ],
)
def test_mixtures_are_counted_before_they_are_made(tmp_path, sources, says):
    said = of_spec(tmp_path, f"task: {{name: camera-traps}}\npretrain: {{epochs: 1, sources: {{{sources}}}}}\n")
    assert f"x.yaml:2: pretrain.sources: {says}" in said[0]


def test_a_long_grid_is_compared_by_hashes():
    """To compare each value with all before it took the square of their number."""
    values = [f"{i}.5" for i in range(100_000)]
    assert grid._bad_grid(values) == ""
    assert grid._bad_grid([*values, "7.50"]) == "'7.50' is given twice"
    assert grid._bad_grid([1, 2, True, None, None]) == "nothing is given twice"


@pytest.mark.parametrize("same", [({"a": 1, "b": [2]}, {"b": [2.0], "a": True}), ({"a": "1"}, {"a": "1"})])
def test_points_that_are_equal_stand_there_twice(same):
    said: list = []
    grid._points([*same, {"a": 3}, {"a": "x"}], set(), lambda place, what: said.append((place, what)))
    assert said == [((*grid.POINTS, 1), "pretrain.points: the same point is given twice")]


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_spec_that_is_no_file_is_not_waited_for(tmp_path, kind):
    os.mkfifo(tmp_path / "x.yaml") if kind == "fifo" else (tmp_path / "x.yaml").symlink_to("/dev/zero")
    (line,) = lines(load_spec, tmp_path / "x.yaml")
    assert (
        line
        == f"{tmp_path}/x.yaml: is a {'FIFO' if kind == 'fifo' else 'device'}, not a file; wanted: a sweep's YAML file"
    )


def test_a_value_on_the_command_line_is_bounded_too():
    assert read_value("[1, 2]", "--set a=[1, 2]") == [1, 2]
    assert lines(read_value, "[" * 5000, "--set a") == ["--set a: is nested more than 30 levels deep"]


@pytest.mark.parametrize("size", ["100000000", "2049", "0", "-1"])
def test_a_size_is_one_that_a_store_can_hold(tmp_path, size):
    said = lines(ingest.main, ["species", "--size", size, "--out", str(tmp_path / "store")])
    assert said == [f"--size: {size} px is no size; wanted: 1 to 2048"]
    assert not (tmp_path / "store").exists()


# --- tables of images


@pytest.mark.parametrize(
    ("write", "says"),
    {
        "a line without end": (lambda file: file.write(b"x" * 200_000), "has a first line of more than 131,072"),
        "holes": (lambda file: file.truncate(100 << 30), "holds 107,374,182,400 bytes, more than the limit of"),
        "columns": (lambda file: file.write(b"a," * 10_001), ":1: has 10,002 columns, more than the limit of 10,000"),
        "a cell": (lambda file: file.write(b"path,label\na,b\n" + b"9" * 500_000 + b",b\n"),
                   "path: the cell of row 2 holds 500,000 bytes, more than the limit of 131,072"),
        "a row": (lambda file: file.write(b"path,label\n" + b"9" * 5_000_000 + b",b\n"),
                  "has a row of more than 1,048,576 bytes; wanted: a path and a label"),
        "a short row": (lambda file: file.write(b"path,label\nroot:x:0:the-secret\n"),
                        "Expected 2 columns, got 1"),
    }.values(),
    ids=["a line without end", "holes", "columns", "a cell", "a row", "a short row"],
)  # fmt: skip
def test_a_table_of_images_is_bounded(tmp_path, write, says):
    with open(tmp_path / "x.csv", "wb") as file:
        write(file)
    (line,) = lines(read_table, tmp_path / "x.csv")
    assert says in line
    assert "secret" not in line
    assert len(line) < 300 + len(str(tmp_path))


def test_a_cell_of_the_longest_kind_is_read(tmp_path):
    (tmp_path / "x.csv").write_text("path,label\n" + "9" * table.LONGEST_CELL + ",b\n")
    assert read_table(tmp_path / "x.csv")[0]["label"].tolist() == ["b"]


# --- tables of scores

ROWS = b"model,id,ood\n" + b"\n".join(b"m%d,0.%d,0.%d" % (i, i, i) for i in range(10, 40)) + b"\n"


def zipped(data: bytes, file) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.csv", data)


PACK = {
    "gzip": lambda data, file: file.write_bytes(gzip.compress(data)),
    "bzip2": lambda data, file: file.write_bytes(bz2.compress(data)),
    "zip": zipped,
}


@pytest.mark.parametrize("kind", PACK)
def test_a_packed_table_of_scores_is_unpacked_in_parts(tmp_path, kind, monkeypatch):
    PACK[kind](ROWS, tmp_path / "x.csv")
    assert len(csv_file.CsvFile(str(tmp_path / "x.csv")).frame) == 30
    PACK[kind](bytes(20 << 20), tmp_path / "y.csv")
    monkeypatch.setattr(csv_file, "LARGEST", 1 << 20)
    what = "not readable as a CSV table: it unpacks to more than 1,048,576 bytes"
    assert lines(csv_file.CsvFile, str(tmp_path / "y.csv")) == [f"{tmp_path}/y.csv: {what}"]


@pytest.mark.parametrize("cell", [b"9" * 5_000_000, b"0." + b"9" * 5_000_000])
def test_a_number_of_megabytes_is_no_score(tmp_path, cell):
    (tmp_path / "x.csv").write_bytes(ROWS + b"m,0.5," + cell + b"\n")
    (line,) = lines(csv_file.CsvFile, str(tmp_path / "x.csv"))
    assert line.startswith(f"{tmp_path}/x.csv:32: a line of 5,000,")
    assert line.endswith("characters; a table's have 1,000,000 at most")


def test_scores_from_a_device_or_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "x.csv")
    for path, kind in ((tmp_path / "x.csv", "FIFO"), ("/dev/zero", "device")):
        assert lines(csv_file.CsvFile, str(path)) == [f"{path}: not readable as a CSV table: is a {kind}, not a file"]


def test_a_command_refuses_what_never_ends_within_little_memory(tmp_path):
    """The real path, in a process that may take 300 MB more than its modules."""
    (tmp_path / "x.csv").symlink_to("/dev/zero")
    (tmp_path / "x.yaml").symlink_to("/dev/zero")
    code = """
from pathlib import Path
from ray_robust.data.readers.table import read_table
from ray_robust.errors import command
from ray_robust.spec.load import load_spec
for call, name in ((read_table, "x.csv"), (load_spec, "x.yaml")):
    try:
        command(lambda argv: call(Path(sys.argv[1]) / name) and 0)
    except SystemExit as end:
        print(end.code)
"""
    done = limited(code, tmp_path, imports="import ray_robust.spec.load, ray_robust.data.readers.table", more=300 << 20)
    assert done.stdout.split() == ["2", "2"], done.stderr
    assert [line.removeprefix(f"{tmp_path}/") for line in done.stderr.splitlines()] == [
        "x.csv: is a device, not a file; wanted: a CSV file",
        "x.yaml: is a device, not a file; wanted: a sweep's YAML file",
    ]


@pytest.mark.slow
def test_of_mistakes_without_number_the_first_are_printed_and_the_rest_counted(tmp_path, capsys):
    file = tmp_path / "x.yaml"
    file.write_text("task: camera-traps\n" + "".join(f"key{i}: 1\n" for i in range(5_000)))
    with pytest.raises(SystemExit) as end:
        errors.command(lambda _: load_spec(file) and 0)
    printed = capsys.readouterr().err.splitlines()
    assert end.value.code == errors.MISTAKE
    assert len(printed) == errors.MOST_LINES + 1
    assert printed[-1].startswith("... and 4,8")
