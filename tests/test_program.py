"""The program `ray-robust`: the commands under one name, loaded when they are needed; built-in sweeps by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ray_robust
from ray_robust.__main__ import COMMANDS, main
from ray_robust.errors import Arguments, UserError
from ray_robust.spec.builtin import builtin_sweeps
from ray_robust.spec.class_selection import absolute
from ray_robust.spec.load import load_spec

ROOT = Path(__file__).parents[1]


def test_help_names_every_command_and_loads_none(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in shown] == []
    assert main([]) == 0
    assert capsys.readouterr().out == shown
    code = "import sys; from ray_robust.__main__ import main; main(['--help']); print(*sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ended.stdout.splitlines()[-1].split())
    assert not loaded & {"numpy", "pandas", "rich", "pydantic", "torch", "ray", "altair"}


def test_version_and_an_unknown_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ray-robust {ray_robust.__version__}\n"
    with pytest.raises(UserError, match=r"^'analyze' is no command of ray-robust; did you mean analyse\?$"):
        main(["analyze"])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_called_by_its_name(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ray-robust {name} ")
    assert Arguments.called == ("", "")


def test_a_command_s_mistake_is_its_own_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^absent: no such run folder$"):
        main(["status", "absent"])


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completions_know_commands_and_options(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "--limit", "--baseline", "--download"):
        assert word in script, word


def test_completion_in_bash(capsys, tmp_path):
    pytest.importorskip("shtab")
    main(["completion", "bash"])
    (tmp_path / "it.sh").write_text(capsys.readouterr().out)
    asked = (
        f"source {tmp_path / 'it.sh'}; COMP_WORDS=(ray-robust sweep --pl); COMP_CWORD=2; COMP_TYPE=9; "
        "_shtab_ray_robust; echo ${COMPREPLY[@]}"
    )
    ended = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["--plan"]


def test_built_in_sweeps_are_those_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {file.relative_to(ROOT / "sweeps").with_suffix("").as_posix() for file in (ROOT / "sweeps").rglob("*.yaml")}
    assert set(builtin_sweeps()) == files
    assert load_spec("quantity").name == "quantity"
    assert load_spec("paper/quantity").name == "quantity"


def test_the_table_of_a_built_in_sweep_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = "sweeps/paper/superclasses.csv"
    assert absolute(table) == str(ROOT / table)
    assert absolute("sweeps/mine.csv") == str(tmp_path / "sweeps/mine.csv")
    (tmp_path / table).parent.mkdir(parents=True)
    (tmp_path / table).write_text("class,label\n")
    assert absolute(table) == str(tmp_path / table), "a file here is meant before"


def test_a_name_that_is_no_sweep_is_told_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^nosuch: no such file or built-in sweep; there are algorithm, .*quickstart"):
        load_spec("nosuch")
    with pytest.raises(UserError, match=r"built-in sweep; did you mean '?quantity"):
        load_spec("quantty")


def test_a_file_here_is_meant_before_a_built_in_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quantity").write_text("task: {name: camera-traps}\npretrain: none\nquestion: mine\n")
    assert load_spec("quantity").question == "mine"
    with pytest.raises(UserError, match=r"^quantity\.yaml: no such file$"):
        load_spec("quantity.yaml")
