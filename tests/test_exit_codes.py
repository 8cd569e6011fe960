"""What a command ends with: 0, 1, 2 or 130, and never a traceback on the screen, whatever goes wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from analysis import __main__ as analysis
from analysis.writing import Unwritable
from ray_robust import ingest, sweep
from ray_robust.errors import Outage, UserError, command
from ray_robust.launch import run_sweep
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.status import __main__ as status
from tests import make_disk, make_tables

COMMANDS = {"sweep": sweep.main, "ingest": ingest.main, "status": status.main, "analysis": analysis.main,
            "power": lambda argv: analysis.main(["power", *argv])}  # fmt: skip


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def ended(main, capsys) -> tuple[int, list[str]]:
    """The exit code of a program, and its lines on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        command(main)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return exit_.value.code, printed.err.splitlines()


def raising(error: BaseException):
    def main(argv: list[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x.yaml: is wrong"), 2, "x.yaml: is wrong"),
        (Outage("the disk is full"), 1, "the disk is full"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
    ids=repr,
)
def test_what_is_foreseen_has_its_code(error, code, line, capsys):
    assert ended(raising(error), capsys) == (code, [line])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("x"), 1, "KeyError: 'x'"),
        (ValueError("a\nb"), 1, "ValueError: a b"),
        (RuntimeError(), 1, "RuntimeError:"),
        (OSError(5, "Input/output error", "store/x"), 1, "store/x: Input/output error"),
        (PermissionError(13, "Permission denied", "runs/x"), 2, "runs/x: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), 2, "a.csv: No such file or directory"),
    ],
    ids=repr,
)
def test_what_nobody_has_foreseen_is_a_line_and_its_traceback_a_file(error, code, line, capsys):
    got, (said,) = ended(raising(error), capsys)
    assert got == code
    match = re.fullmatch(rf"{re.escape(line)} \(traceback: (\S+)\)", said)
    assert match, said
    assert "in main\n    raise error" in Path(match[1]).read_text()


def test_a_traceback_that_cannot_be_kept_leaves_the_line(monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", "/proc/self/fdinfo")
    assert ended(raising(KeyError("x")), capsys) == (1, ["KeyError: 'x'"])


WRONG = {
    "sweep": [[], ["--nope"], ["absent.yaml"], ["x.yaml", "--limit", "x"], ["x.yaml", "--address", "nowhere"]],
    "ingest": [[], ["--nope"], ["specie"], ["species", "--size", "x"], ["species", "--size", "0"], ["folder"],
               ["species", "--set", "seed"], ["species", "--set", "seed=[1"], ["species", "--set", "sed=1"],
               ["species", "--limit", "-1"], ["species", "--address", "http://127.0.0.1:8265"],
               ["folder", "--root", "absent"], ["species", "--fit", "round"],
               ["species", "--limit", "2", "--out", "s3://bucket/store"]],
    "status": [[], ["--nope"], ["absent"], ["."]],
    "analysis": [[], ["--nope"], ["absent"],
                 ["absent.csv", "--id", "a", "--ood", "b", "--group", "c", "--baseline", "d"]],
    "power": [["--nope"], ["--spec", "absent.yaml"]],
}  # fmt: skip


@pytest.mark.parametrize(("name", "argv"), [(name, argv) for name in WRONG for argv in WRONG[name]], ids=str)
def test_a_mistake_in_the_arguments_of_any_command_is_a_line_and_2(name, argv, monkeypatch, capsys):
    Path("x.yaml").write_text("task: {name: camera-traps}\npretrain: none\n")
    monkeypatch.setattr(sys, "argv", [name, *argv])
    code, lines = ended(COMMANDS[name], capsys)
    assert code == 2
    assert len(lines) == 1, lines
    assert not lines[0].startswith("usage")


@pytest.mark.parametrize("variable", ["RAY_ROBUST_STORE", "RAY_ROBUST_CACHE"])
def test_what_is_kept_on_this_machine_goes_to_no_address(variable, monkeypatch, capsys):
    """As a path it would be a folder called `s3:` in the working directory."""
    monkeypatch.delenv("RAY_ROBUST_STORE", raising=False)
    monkeypatch.setenv(variable, "s3://bucket/store")
    monkeypatch.setattr(sys, "argv", ["ingest", "species", "--limit", "2"])
    line = f"{variable}: must be a folder of this machine, not the address s3://bucket/store"
    assert ended(COMMANDS["ingest"], capsys) == (2, [line])
    assert not Path("s3:").exists()


def test_a_report_that_breaks_down_leaves_what_was_trained_and_says_so(monkeypatch, capsys, tmp_path):
    def broken(*_: object) -> None:
        raise KeyError("id")

    monkeypatch.setattr(analysis, "report_on", broken)
    assert run_sweep.report(RunFolder(tmp_path), Console(width=300)) is None
    said = capsys.readouterr().out
    assert said.startswith("no report: KeyError: 'id' (traceback: ")
    assert "Traceback" not in said


@pytest.mark.parametrize(("works", "code"), [(True, 0), (False, 1)])
def test_a_sweep_whose_report_broke_down_does_not_end_with_0(works, code, monkeypatch, capsys):
    """All of its trials are done: nothing is run, and no Ray started."""
    Path("x.yaml").write_text("task: {name: camera-traps}\npretrain: none\n")
    for trial in open_sweep(load_spec("x.yaml")).plan:
        rows = [{**trial.columns(), "finetune": f.id, "epoch": 1} for f in trial.finetunings]
        RunFolder("run").trial(trial.id).finish(rows, {})
    monkeypatch.setattr(analysis, "report_on", lambda *_: "page" if works else {}["id"])
    assert sweep.main(["x.yaml", "--out", "run"]) == code
    assert ("no report: KeyError: 'id' (traceback: " in capsys.readouterr().out) is not works


@pytest.mark.slow
def test_a_report_into_a_folder_that_cannot_be_written_names_the_folder_and_out(monkeypatch, capsys, tmp_path):
    make_tables.models().to_csv("x.csv", index=False)
    Path("kept.csv").write_text("a user's")
    Path("only-read").mkdir()
    argv = ["x.csv", "--id", "val", "--ood", "v2", "--group", "type", "--baseline", "standard"]
    with make_disk.mounted(tmp_path / "only-read", "ro", ""):
        lines = {
            "only-read": "only-read: cannot be written: Read-only file system; give another folder by --out",
            "only-read/a": "only-read/a: cannot be written: Read-only file system; give another folder by --out",
            "kept.csv": "kept.csv: is a file, where the report's folder belongs; give a folder by --out",
        }
        for out, line in lines.items():
            monkeypatch.setattr(sys, "argv", ["analysis", *argv, "--out", out])
            assert ended(analysis.main, capsys) == (2, [line])
    assert Path("kept.csv").read_text() == "a user's"


def test_a_sweep_whose_report_cannot_be_written_does_not_end_with_0(monkeypatch, capsys, tmp_path):
    def denied(*_: object) -> None:
        raise Unwritable("report: cannot be written: Permission denied")

    monkeypatch.setattr(analysis, "report_on", denied)
    assert run_sweep.report(RunFolder(tmp_path), Console(width=300)) is None
    assert capsys.readouterr().out == "no report: report: cannot be written: Permission denied\n"


SPEAKS = "import sys; from ray_robust.errors import command; from ray_robust.text.console import console\n"


def program(body: str, *, after: str = "", tmp_path: Path, **environment: str) -> tuple[int, list[str]]:
    """The exit code and the lines of a command whose main is `body`, started by a shell that redirects it."""
    (tmp_path / "it.py").write_text(f"{SPEAKS}def main(argv):\n    {body}\n    return 0\ncommand(main)\n")
    line = f"{sys.executable} it.py {after}"
    if after.startswith("|"):
        line += "; exit ${PIPESTATUS[0]}"
    into = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    done = subprocess.run(
        ["bash", "-c", line], env=into, cwd=tmp_path, capture_output=True, text=True, errors="replace"
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("after", ["| true", "2>&1 | head -1", ">&-", ">&- 2>&- <&-", "> /dev/full", "&> /dev/full"])
def test_a_program_goes_on_when_nobody_reads_it(tmp_path, after):
    speak = "print(text, flush=True), console().print(text), print(text, file=sys.stderr), time.sleep(0.01)"
    body = f"import time; text = 'y' * 5000; [({speak}) for _ in range(40)];"
    code, lines = program(f"{body} open('done', 'w').write(str(len('x')))", after=after, tmp_path=tmp_path)
    assert code == 0, lines
    assert (tmp_path / "done").read_text() == "1"
    assert not [line for line in lines if "Error" in line or "Exception" in line]


def test_a_closed_descriptor_is_not_given_to_a_file(tmp_path):
    body = "import os; file = open('kept', 'w'); os.write(1, b'of a process that was started'); file.write('whole')"
    assert program(body, after=">&-", tmp_path=tmp_path)[0] == 0
    assert (tmp_path / "kept").read_text() == "whole"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_terminal_cannot_show_is_an_escape(tmp_path, encoding):
    code, lines = program("console().print('R\\u00b2 \\u2212 1'); print('\\u2212')", tmp_path=tmp_path,
                          PYTHONIOENCODING=encoding, PYTHONUTF8="0")  # fmt: skip
    assert code == 0
    assert lines[-1] == "\\u2212"


def test_a_working_directory_that_is_gone_is_a_line(tmp_path):
    (tmp_path / "gone").mkdir()
    body = "import os; print('ran')"
    (tmp_path / "it.py").write_text(f"{SPEAKS}def main(argv):\n    {body}\n    return 0\ncommand(main)\n")
    line = f"cd gone && rmdir ../gone && {sys.executable} ../it.py || {sys.executable} {tmp_path}/it.py; exit $?"
    into = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(["bash", "-c", line], env=into, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "the working directory is gone; change to one that is there"


@pytest.mark.parametrize(("sent", "before", "ended"), [("TERM", "DFL", 130), ("HUP", "DFL", 130), ("HUP", "IGN", 0)])
def test_a_signal_to_end_is_an_interruption_unless_it_is_ignored(sent, before, ended):
    code = f"""
import os, signal
from ray_robust.errors import command
signal.signal(signal.SIG{sent}, signal.SIG_{before})  # as the shell, or nohup, leaves it
command(lambda _: os.kill(os.getpid(), signal.SIG{sent}) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "Interrupted." in done.stderr) == (ended, ended == 130)
