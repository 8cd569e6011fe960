"""Values and files that hold secrets stay valid, and redaction takes time that grows with the text alone."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ray_robust import redact as module
from ray_robust.files.storage import Storage
from ray_robust.redact import LONGEST, redact, redact_file, redacted
from tests import effort
from tests.make_secrets import BASIC, PEM, SECRET, TEXTS

# --- values and files


TREE = {
    "path": f"s3://K:{SECRET}@b/x",
    "options": {"password": 'a"b\\c: d', "n": 3, "passwords": ["free text stays"], "api_keys": [SECRET, "zz99"]},
    "note": f'say "token={SECRET}"',
    "inner": json.dumps({"api_key": SECRET, "n": 1.5}),
    "pin_password": 123456,
    "headers": {"Authorization": f"Basic {BASIC}"},
    "sources": {"id_credentials": {"weight": 0.5}, "token": -0.123, "secret": 1},
    "key": PEM.format(kind="", body="MIIE"),
    "wiki": None,
}
CLEAN = {
    **TREE,
    "path": "s3://REDACTED@b/x",
    "options": {"password": "REDACTED", "n": 3, "passwords": ["free text stays"], "api_keys": ["REDACTED"] * 2},
    "note": 'say "token=REDACTED"',
    "inner": json.dumps({"api_key": "REDACTED", "n": 1.5}),
    "pin_password": "REDACTED",
    "headers": {"Authorization": "Basic REDACTED"},
    "key": PEM.format(kind="", body="-").replace("\n-\n", "REDACTED"),
}


def test_values_are_judged_by_the_key_above_them_and_all_others_stay():
    assert redacted(TREE) == CLEAN
    assert redacted(CLEAN) == CLEAN


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("x.json", json.dumps, json.loads),
        ("x.jsonl", lambda tree: json.dumps(tree) + "\n" + json.dumps(tree) + "\n",
         lambda text: [json.loads(line) for line in text.splitlines()][1]),
        ("x.yaml", lambda tree: yaml.safe_dump(tree, width=30), yaml.safe_load),
    ],
)  # fmt: skip
def test_files_of_values_stay_valid(tmp_path, name, write, read):
    Storage(tmp_path).write(name, write(TREE))
    assert read((tmp_path / name).read_text()) == CLEAN
    Storage(tmp_path).write(name, write(CLEAN))
    assert (tmp_path / name).read_text() == write(CLEAN)  # not even laid out anew


def test_a_table_is_judged_by_its_header_and_stays_one(tmp_path):
    rows = [
        ["trial", "api_key", "sources"],
        ["a, b", 'q"uo"ted', json.dumps({"password": "abc", "w": 1})],
        ["c", "", "{}"],
    ]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    Storage(tmp_path).write("plan.csv", text.getvalue())
    with open(tmp_path / "plan.csv", newline="") as file:
        told = list(csv.reader(file))
    assert told == [rows[0], ["a, b", "REDACTED", json.dumps({"password": "REDACTED", "w": 1})], rows[2]]


def test_a_comment_of_a_yaml_file_is_a_line():
    text = f"# api_key: {SECRET}\nname: a  # x\n"
    assert redact_file("x.yaml", text) == "# api_key: REDACTED\nname: a  # x\n"


def test_a_file_that_is_not_what_its_name_says_is_read_by_lines():
    assert redact_file("x.json", f'{{"api_key": "{SECRET}"') == '{"api_key": "REDACTED"'
    assert redact_file("x.yaml", f"a: [\npassword: {SECRET}\n") == "a: [\npassword: REDACTED\n"


NAMES = st.sampled_from(["password", "api_key", "token", "passphrase", "Authorization", "n", "note", "x y", "id"])


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.text(max_size=8)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXTS, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(NAMES, TREES, max_size=4))
@example({"password": {"# authorization: ": None}})  # a key that looks like a comment with a credential
@example({"note": {"# token": "abc # password: x1y2"}})
@settings(deadline=None, max_examples=60)
def test_any_tree_stays_json_and_yaml_and_is_redacted_once(tree):
    clean = redacted(tree)
    assert redacted(clean) == clean
    assert json.loads(redact_file("x.json", json.dumps(tree))) == clean
    assert len(clean) == len(tree)
    text = yaml.safe_dump(tree, allow_unicode=True)
    assert yaml.safe_load(redact_file("x.yaml", text)) == redacted(yaml.safe_load(text))


@given(TEXTS | st.text())
@example("token=REDACTED,token=REDACTED")
@example("passphrase: is password: abc")
@example("://://://@")
@settings(deadline=None, max_examples=200)
def test_a_line_is_redacted_once(text):
    assert redact(redact(text)) == redact(text)


@given(NAMES.filter(lambda name: name in ("password", "api_key", "passphrase")), st.sampled_from(['"', "'"]), TEXTS)
@settings(deadline=None, max_examples=40)
def test_no_part_of_a_quoted_password_stays(name, sign, before):
    value = f"{SECRET} and, {SECRET}; more"
    assert SECRET not in redact(f"{name}: {sign}{value}{sign}")
    assert SECRET not in redacted({"x": [{name: value}]})["x"][0][name]


# --- time


REPEATED = [
    "token-", "token ", "token_", "token=", "token: is ", "password: is ", "passphrase: is ", "passphrase: <", "://a:b/",
    "://", "a@", "://u:p@", "token=/", "token=REDACTED", "cookie: REDACTED ", "sk-", "-eyJabc", "eyJabcdefghijkl.",
    "password='", 'password="\\"', 'token=\\"', 'token:"x ', "&key", "?sig=", "login ", "-u a", "bearer ", "basic ",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n", "glpat-", "=", "\\", "'", "password:{", " --token",
    "secret,a", "password=a,", "password: abc\n", "aa:/a:@",
]  # fmt: skip


class Read:
    """Counts the characters that the rules for lines look at, by the lengths of what they are asked to match."""

    def __init__(self, monkeypatch) -> None:
        self.count = 0
        for name, pattern in list(vars(module).items()):
            if hasattr(pattern, "search") and hasattr(pattern, "pattern"):
                monkeypatch.setattr(module, name, Counted(pattern, self))
        monkeypatch.setattr(
            module, "_QUOTED", {sign: Counted(pattern, self) for sign, pattern in module._QUOTED.items()}
        )


class Counted:
    def __init__(self, pattern, read: Read) -> None:
        self._pattern, self._read = pattern, read

    def _seen(self, found, text, at):
        self._read.count += 1 + (found.end() - at if found else min(len(text) - at, LONGEST))
        return found

    def match(self, text, at=0, *to):
        return self._seen(self._pattern.match(text, at, *to), text, at)

    def fullmatch(self, text):
        self._read.count += len(text)
        return self._pattern.fullmatch(text)

    def finditer(self, text):
        self._read.count += len(text)
        return self._pattern.finditer(text)

    def search(self, text, at=0):
        return self._seen(self._pattern.search(text, at), text, at)

    def sub(self, new, text):
        self._read.count += len(text)
        return self._pattern.sub(new, text)


@pytest.mark.parametrize("unit", REPEATED)
def test_twice_the_text_is_twice_the_work(unit, monkeypatch):
    counted = []
    for size in (20_000, 40_000):
        with monkeypatch.context() as patch:
            read = Read(patch)
            calls = effort.calls(lambda size=size: redact(unit * (size // len(unit))))
            counted.append((calls, read.count))
    for small, large in zip(*counted, strict=True):
        assert large <= 2.2 * small + 2000


SEVERAL = st.lists(TEXTS, min_size=1, max_size=6)


@given(SEVERAL)
@example(["passphrase: abc", "def"])
@example(['password: "ab', 'c" d'])
@example(["API ", "key: abcd1234", "password:", " abc"])
@settings(deadline=None, max_examples=200)
def test_lines_are_redacted_together_as_they_are_one_by_one(texts):
    lines = [line for text in texts for line in text.split("\n") if "PRIVATE KEY" not in line]
    assert redact("\n".join(lines)) == "\n".join(map(redact, lines))


def test_a_credential_in_every_line_costs_little_more_than_one_line_of_them():
    """Rules go over many lines at once: what Python does for each line is little, and does not grow with the rules."""
    line = "2026-11-25 10:11:12 worker 812 password: hunter2 connected in 0.123 s\n"
    few, many = (effort.calls(lambda n=n: redact(line * n)) for n in (10, 1010))
    assert (many - few) / 1000 < 40


def test_a_log_without_marks_costs_no_work_per_line():
    line = "2026-11-25 10:11:12 pretrain: step 812 of 2000, loss 0.123\n"
    few, many = (effort.calls(lambda n=n: redact(line * n)) for n in (10, 10_000))
    assert many == few
