"""Whatever the program writes, prints or raises passes through redaction."""

from __future__ import annotations

import ast
import io
from pathlib import Path
from urllib.parse import quote

import pytest

from ray_robust.errors import Problem, UserError
from ray_robust.files.storage import Storage
from ray_robust.redact import redact, redacted
from ray_robust.text.console import Screen
from tests.make_secrets import SECRET

ROOT = Path(__file__).parents[1]


# --- everything passes through


def test_the_values_of_this_processs_secret_variables_are_hidden_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", f"{SECRET}/0")
    monkeypatch.setenv("MY_TOKEN", "short")
    monkeypatch.setenv("PATH_TO_TOKEN", "/home/me/.ray/auth_token")
    monkeypatch.setenv("MONKEY", "gibbon-and-many-others")
    assert redact(f"curl failed with {SECRET}/0, short") == "curl failed with REDACTED, short"
    assert redact(f"GET /x/{SECRET}%2F0/y") == "GET /x/REDACTED/y"
    assert redacted({"n": [f"<{SECRET}/0>"]}) == {"n": ["<REDACTED>"]}
    for harmless in ("/home/me/.ray/auth_token", "gibbon-and-many-others"):
        assert redact(harmless) == harmless


@pytest.mark.parametrize("name", ["spec.yaml", "log.txt", "plan.csv", "trial.json", "rows.jsonl"])
def test_every_text_that_is_written_passes_through(tmp_path, name):
    Storage(tmp_path).write(name, f"source: s3://K:{SECRET}@bucket/x\n")
    assert (tmp_path / name).read_text() == "source: s3://REDACTED@bucket/x\n"


def test_json_that_is_written_passes_through(tmp_path):
    Storage(tmp_path).write_json("failed.json", {"reason": f"OSError: s3://K:{SECRET}@bucket/x: 403"})
    assert Storage(tmp_path).read_json("failed.json") == {"reason": "OSError: s3://REDACTED@bucket/x: 403"}


def test_the_script_of_a_page_is_left_alone(tmp_path):
    script = 'fetch(url, {credentials: "same-origin"}); password = "abcdefgh"'
    Storage(tmp_path).write("report/index.html", script)
    assert (tmp_path / "report/index.html").read_text() == script


def test_messages_pass_through():
    error = UserError(Problem("sweep.yaml:3", f"s3://K:{SECRET}@bucket: cannot be opened"))
    assert str(error) == "sweep.yaml:3: s3://REDACTED@bucket: cannot be opened"
    assert Storage(f"s3://K:{SECRET}@bucket/x?secret_key={SECRET}").shown == "s3://bucket/x"


def test_what_is_printed_passes_through_cells_of_tables_too():
    from rich.table import Table

    file = io.StringIO()
    screen = Screen(file=file, width=40)
    table = Table("source")
    table.add_row(f"s3://K:{SECRET}@bucket/x")
    screen.print(table)
    screen.print(f"password: {SECRET}", markup=False, soft_wrap=True)
    assert SECRET[:6] not in file.getvalue()
    assert file.getvalue().count("REDACTED") == 2


def test_no_other_terminal_is_made():
    for file in sorted([*(ROOT / "ray_robust").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("Console", "rich.print"), f"{file.name}:{node.lineno}: Screen"


def test_the_journal_of_a_search_keeps_none_and_finds_its_choices_again(tmp_path):
    from ray_robust.launch.search.journal import FILE, Journal

    journal = Journal(Storage(tmp_path))
    journal.append_logs([{"op_code": 4, "value": f"s3://K:{SECRET}@bucket/x"}])
    assert SECRET not in (tmp_path / FILE).read_text()
    assert Journal(Storage(tmp_path)).read_logs(0) == journal.read_logs(0)


@pytest.mark.parametrize("name", ["PGPASSWORD", "SSHPASS", "MYSQL_PWD", "AZURE_STORAGE_KEY", "DB_PASSWORD", "API_KEY"])
@pytest.mark.parametrize("begin", ["", "/", "~", ".", "~/", "./", "//"])
def test_the_value_of_a_secret_variable_is_hidden_however_it_begins(monkeypatch, name, begin):
    value = f"{begin}horse+battery/staple"
    monkeypatch.setenv(name, value)
    assert redact(f"it was {value} again, {quote(value, safe='')}") == "it was REDACTED again, REDACTED"


def test_a_path_to_a_secret_is_none(monkeypatch, tmp_path):
    file = tmp_path / "password-of-the-database"
    file.write_text("x")
    for name in ("DB_PASSWORD", "AZURE_STORAGE_KEY", "API_KEY"):
        monkeypatch.setenv(name, str(file))
    for name in ("PWD", "OLDPWD", "GOOGLE_APPLICATION_CREDENTIALS", "PASSWORD_STORE_DIR", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, "/home/me/where/things/are")  # there or not
    monkeypatch.setenv("SSH_ASKPASS", "the-program-that-asks")
    for text in (f"{file}: no such file", "/home/me/where/things/are/x", "the-program-that-asks"):
        assert redact(text) == text
