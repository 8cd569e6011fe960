"""What a user can get wrong with a table, as text; and what a table may look like and still be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.__main__ import Request, main, report_on
from analysis.input.plain_table import read_csv
from analysis.input.run_points import read_run
from analysis.options import Options
from ray_robust.errors import UserError

OOD = (30, 31, 32, 35, 34, 35, 37, 37, 38, 39)
GOOD = "model,kind,id,ood\n" + "".join(
    f"m{i},{'base' if i < 5 else 'new'},0.{50 + i},0.{ood}\n" for i, ood in enumerate(OOD)
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _write(text: str | bytes) -> str:
        Path("t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        return "t.csv"

    return _write


def read(file, **changed):
    columns = {
        "id": "id",
        "ood": "ood",
        "group": "kind",
        "options": Options(changed.pop("baseline", "base")),
        **changed,
    }
    return read_csv(file, **columns)


def mistakes(file, **changed) -> list[str]:
    with pytest.raises(UserError) as error:
        read(file, **changed)
    return [str(problem) for problem in error.value.problems]


def test_a_plain_table(write):
    table = read(write(GOOD))
    assert len(table.points) == 10
    assert table.points["trial"].nunique() == 10
    assert table.keys == ("group", "model")


def test_clusters_and_percent(write):
    table = read(write(GOOD.replace("0.", "")), cluster="model", percent=True)
    assert table.points["id"].tolist()[:2] == pytest.approx([0.50, 0.51])
    assert list(table.points["trial"])[:2] == ["m0", "m1"]


def test_rows_without_scores_are_left_out_and_listed(write):
    table = read(write(GOOD + "m10,new,,0.5\nm11,new,nan,\n\n"))
    assert len(table.points) == 10
    assert table.left_out["reason"].tolist() == ["no score in the table"] * 2


def test_byte_order_mark_and_spaces_in_the_header(write):
    assert len(read(write(("\ufeff" + GOOD).replace("kind,id", "kind, id"))).points) == 10


def test_every_mistake_at_once_with_its_line(write):
    bad = GOOD.replace("m2,base,0.52", "m2,base,high").replace("m7,new,0.57,0.37", "m7,new,0.57,-0.1")
    bad = bad.replace("m9,new", "m9,")
    assert mistakes(write(bad)) == [
        "t.csv:4: id: 'high' is no number",
        "t.csv:11: kind: empty",
        "t.csv:9: ood: -0.1 is under 0: it is no score",
    ]


def test_lines_are_counted_in_the_file(write):
    assert mistakes(write(GOOD.replace("m1,", '"m\n1",').replace("0.53", "x"))) == ["t.csv:6: id: 'x' is no number"]


def test_scores_in_per_cent_are_told_briefly(write):
    said = mistakes(write(GOOD.replace("0.", "")))
    assert said[0] == (
        "t.csv:2: id: 50 is not within 0..1 (a fraction; are the scores in per cent? then add --percent)"
    )
    assert said[3] == "t.csv: and 7 more lines like these"
    assert len(said) == 8


def test_missing_columns(write):
    assert mistakes(write(GOOD), id="ID", group="kinds") == [
        "t.csv:1: --id: no column 'ID'; did you mean id?",
        "t.csv:1: --group: no column 'kinds'; did you mean kind?",
    ]


def test_the_baseline_must_be_there(write):
    assert mistakes(write(GOOD), baseline="bas") == [
        "t.csv: --baseline: no row has 'bas' in column 'kind'; did you mean base?"
    ]


def test_the_baseline_must_make_a_line(write):
    few = "kind,id,ood\nbase,0.5,0.4\nbase,0.6,\nnew,0.5,0.4\n"
    assert mistakes(write(few)) == ["t.csv: the baseline 'base' has 1 row with both scores; a line needs 3"]
    same = "kind,id,ood\n" + "".join(f"base,0.5,0.4{i}\n" for i in range(4))
    assert mistakes(write(same)) == ["t.csv: every row of the baseline 'base' has the same ID score: no line fits"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "t.csv: the file is empty"),
        ("kind,id,ood\n", "t.csv: the table has a header but no rows"),
        ("kind,id,id,ood\nbase,1,1,1\n", "t.csv:1: column 'id' appears twice"),
        ("kind,id,ood\nbase,0.5,0.4\nbase,0.5,0.4,7,8\n",
         "t.csv: not readable as a CSV table: Expected 3 fields in line 3, saw 5"),
    ],
)  # fmt: skip
def test_files_that_are_no_table(write, content, said):
    assert mistakes(write(content)) == [said]


def test_bytes_that_are_no_text(write):
    assert mistakes(write(b"kind,id,ood\n\xff\xfe,1,1\n"))[0].startswith("t.csv: not readable as a CSV table: 'utf-8'")


def test_a_table_that_is_not_there(write):
    write(GOOD)
    assert mistakes("other.csv") == ["other.csv: no such file"]


def test_arguments_are_checked_together(write):
    with pytest.raises(UserError) as error:
        report_on(Request((write(GOOD),), id="id", scale="probits", margin=-1))
    assert [str(p) for p in error.value.problems] == [
        "t.csv: --ood is needed for a table",
        "t.csv: --group is needed for a table",
        "t.csv: --baseline is needed for a table",
        "--scale: 'probits' is no scale; did you mean probit?",
        "--margin: -1 is not a positive number of percentage points",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--at", "1000"], "--at is for --predict"),
        (["--confirm", "runs/y"], "--confirm is for --predict"),
        (["--predict", "--scale", "logit"], "--scale is not for --predict"),
        (["--predict", "--id-min", "3"], "--id-min is not for --predict"),
    ],
)
def test_what_belongs_to_a_prediction_and_what_does_not(arguments, line):
    with pytest.raises(UserError) as error:
        main(["runs/x", *arguments])
    assert str(error.value) == line


def test_a_folder_that_is_no_run(write, tmp_path):
    with pytest.raises(UserError, match=r"no run folder: it has neither spec\.yaml nor plan\.csv"):
        read_run(str(tmp_path))
    with pytest.raises(UserError, match="nothing: no such run folder or table"):
        main(["nothing"])


@pytest.mark.slow
def test_nothing_is_written_after_a_mistake(write):
    with pytest.raises(UserError):
        report_on(Request((write(GOOD),), id="id", ood="odd", group="kind", baseline="base"))
    assert [path.name for path in Path().iterdir()] == ["t.csv"]


@pytest.mark.slow
def test_the_command_exits_with_two_and_no_traceback(write):
    write(GOOD)
    arguments = ["t.csv", "--id", "id", "--ood", "ood", "--group", "kind", "--baseline", "nobody"]
    done = subprocess.run(
        [sys.executable, "-m", "analysis", *arguments], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "t.csv: --baseline: no row has 'nobody' in column 'kind'; known: base, new\n"
