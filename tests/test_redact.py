"""No secret in a file or a message: what counts as one, what does not, and that files and messages pass through.

The credentials here are made up, of the shape that their issuers document, and put together when the test runs.
"""

from __future__ import annotations

import ast
import base64
import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ray_robust import redact as module
from ray_robust.errors import Problem, UserError
from ray_robust.files.storage import Storage
from ray_robust.redact import LONGEST, redact, redact_file, redacted
from ray_robust.text.console import Screen
from tests import effort

ROOT = Path(__file__).parents[1]
SECRET = "x7Kq9vLmT2pZ4w"  # stands for any


def drawn(length: int, letters: str = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7") -> str:
    """So many characters that look random."""
    return "".join(letters[(7 * i + i * i // 3) % len(letters)] for i in range(length))


BASIC = base64.b64encode(b"me:hunter2").decode()
JWT = ".".join("eyJ" + drawn(20) if i < 2 else drawn(43) for i in range(3))
PEM = "-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"
FORMATS = {
    "AWS access key": "AKIA" + drawn(16, "A2B3C4D5"),
    "AWS temporary key": "ASIA" + drawn(16, "A2B3C4D5"),
    "GitHub personal": "ghp_" + drawn(36),
    "GitHub OAuth": "gho_" + drawn(36),
    "GitHub user to server": "ghu_" + drawn(36),
    "GitHub server": "ghs_" + drawn(36),
    "GitHub refresh": "ghr_" + drawn(76),
    "GitHub fine-grained": "github_pat_" + drawn(22) + "_" + drawn(59),
    "GitLab personal": "glpat-" + drawn(20),
    "GitLab personal, routable": "glpat-" + drawn(27) + ".01." + drawn(9),
    "GitLab trigger": "glptt-" + drawn(40),
    "GitLab deploy": "gldt-" + drawn(20),
    "GitLab runner": "glrt-" + drawn(20),
    "GitLab job": "glcbt-64_" + drawn(20),
    "npm": "npm_" + drawn(36),
    "PyPI": "pypi-AgE" + drawn(132),
    "TestPyPI": "pypi-AgE" + drawn(140),
    "Hugging Face": "hf_" + drawn(34, "aBcDeFgHiJkLm"),
    "Hugging Face organisation": "api_org_" + drawn(34, "aBcDeFgHiJkLm"),
    "W&B": "wandb_v1_" + drawn(77),
    "W&B, own server": "local-" + drawn(40, "0123456789abcdef"),
    "Azure storage": drawn(86) + "==",
    "Azure Entra secret": drawn(3) + "8Q~" + drawn(34),
    "Azure DevOps": drawn(76) + "AZDO" + drawn(4),
    "Google API": "AIza" + drawn(35),
    "Google OAuth": "ya29." + drawn(60),
    "Google client": "GOCSPX-" + drawn(28),
    "Slack": "xoxb-" + drawn(12, "0123456789") + "-" + drawn(24),
    "Databricks": "dapi" + drawn(32, "0123456789abcdef"),
    "Docker Hub": "dckr_pat_" + drawn(27),
    "Anthropic": "sk-ant-api03-" + drawn(90),
    "OpenAI": "sk-proj-" + drawn(60),
    "Stripe": "sk_live_" + drawn(24),
    "JSON web token": JWT,
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "around", ["{}", "key {} is used", "--header={}", '"{}"', "x='{}', y", "https://h/{}/x", "({})."]
)
def test_tokens_of_known_formats_are_hidden_wherever_they_stand(name, around):
    told = redact(around.format(FORMATS[name]))
    assert FORMATS[name] not in told
    assert told == around.format("REDACTED")


AWS_KEY = "ab/cD3+eF6/gH9jK2mN5pQ8sT1vW4yZ7aB3dE6gH"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # addresses
        (f"s3://AKIA{drawn(16, 'A2B3')}:{SECRET}@bucket/runs?region=eu", "s3://REDACTED@bucket/runs?region=eu"),
        (f"s3://AKIA{drawn(16, 'A2B3')}:{AWS_KEY}@bucket/runs", "s3://REDACTED@bucket/runs"),
        (f"s3://AKIA{drawn(16, 'A2B3')}:12/{AWS_KEY}@bucket/me@x", "s3://REDACTED@bucket/me@x"),
        (f"https://user:{SECRET}@host:9000/path", "https://REDACTED@host:9000/path"),
        ("postgresql://me:pa/ss@w@rd@host/db", "postgresql://REDACTED@host/db"),
        (f"/home/me/s3:/me:{SECRET}@bucket/x: no such folder", "/home/me/s3:/REDACTED@bucket/x: no such folder"),
        (f"s3:/AKIA{drawn(16, 'A2B3')}:{AWS_KEY}@bucket/runs", "s3:/REDACTED@bucket/runs"),
        (f"https://{FORMATS['GitHub personal']}@host/x.git", "https://REDACTED@host/x.git"),
        (f"https://h/x?X-Amz-Signature={SECRET}&X-Amz-Date=1", "https://h/x?X-Amz-Signature=REDACTED&X-Amz-Date=REDACTED"),
        (f"https://h/x?sv=2024-11-04&sig={SECRET}%3D&size=3", "https://h/x?sv=2024-11-04&sig=REDACTED&size=3"),
        (f"s3://b/x?secret_key={SECRET}", "s3://b/x?secret_key=REDACTED"),
        ("https://h/x?page=2&access_token=abcdef#top", "https://h/x?page=2&access_token=REDACTED#top"),
        # names and their values
        (f"AWS_SECRET_ACCESS_KEY={AWS_KEY}", "AWS_SECRET_ACCESS_KEY=REDACTED"),
        (f"db_password: {SECRET}\nnext: 1", "db_password: REDACTED\nnext: 1"),
        (f"the token: '{SECRET}'", "the token: 'REDACTED'"),
        ("password='correct horse, battery'", "password='REDACTED'"),
        ('password: "it\'s \\"mine\\"", n: 1', 'password: "REDACTED", n: 1'),
        ("password=ab,cd&ef;gh more", "password=REDACTED more"),
        ("Config(user=me, password=abc, n=3)", "Config(user=me, password=REDACTED, n=3)"),
        ("PGPASSWORD=abc psql", "PGPASSWORD=REDACTED psql"),
        ("pin password: 123456", "pin password: REDACTED"),
        ("passphrase: correct horse battery staple", "passphrase: REDACTED"),
        ("SSH_PASSPHRASE=correct horse battery\nnext", "SSH_PASSPHRASE=REDACTED\nnext"),
        ("os.environ['DB_PASSWORD'] = 'abc'", "os.environ['DB_PASSWORD'] = 'REDACTED'"),
        (f"API key: {SECRET}", "API key: REDACTED"),
        (f"WANDB_API_KEY={drawn(40, '0123456789abcdef')}", "WANDB_API_KEY=REDACTED"),
        (f"clientSecret = {SECRET}", "clientSecret = REDACTED"),
        (f"//host/:_authToken={SECRET}", "//host/:_authToken=REDACTED"),
        (f"AccountName=x;AccountKey={drawn(86)}==;Suffix=y", "AccountName=x;AccountKey=REDACTED;Suffix=y"),
        (f"SharedAccessKeyName=all;SharedAccessKey={drawn(43)}=", "SharedAccessKeyName=all;SharedAccessKey=REDACTED"),
        ("run --db-password hunter2 --out x", "run --db-password REDACTED --out x"),
        ("curl -u me:hunter2 https://h", "curl -u me:REDACTED https://h"),
        ("curl --user me:hunter2 https://h", "curl --user me:REDACTED https://h"),
        ("curl --proxy-user='me:hunter2' h", "curl --proxy-user='me:REDACTED' h"),
        (f"machine h login me password {SECRET}", "machine h login me password REDACTED"),
        # headers
        (f"Authorization: Basic {BASIC}", "Authorization: Basic REDACTED"),
        (f"sent Basic {BASIC} twice", "sent Basic REDACTED twice"),
        (f"Authorization: Bearer {SECRET}{SECRET}", "Authorization: Bearer REDACTED"),
        (f"with bearer {SECRET}{SECRET}, twice", "with bearer REDACTED, twice"),
        (f'-H "Authorization: token {SECRET}" https://h', '-H "Authorization: token REDACTED" https://h'),
        (f"{{'Proxy-Authorization': 'Basic {BASIC}', 'n': 1}}", "{'Proxy-Authorization': 'Basic REDACTED', 'n': 1}"),
        ("Set-Cookie: session=abc; Path=/", "Set-Cookie: REDACTED"),
        (f"PRIVATE-TOKEN: {SECRET}", "PRIVATE-TOKEN: REDACTED"),
        # keys in PEM
        (PEM.format(kind="", body="MIIE\nabc"), PEM.format(kind="", body="-").replace("\n-\n", "REDACTED")),
        (PEM.format(kind="RSA ", body="Proc-Type: 4,ENCRYPTED\n\nMIIE").replace("\n", "\\n"),
         PEM.format(kind="RSA ", body="-").replace("\n-\n", "REDACTED")),
        (f"-----BEGIN OPENSSH PRIVATE KEY-----\n{drawn(70)}\n{drawn(70)}",  # cut short
         "-----BEGIN OPENSSH PRIVATE KEY-----REDACTED"),
    ],
)  # fmt: skip
def test_secrets_are_hidden(text, told):
    assert redact(text) == told
    assert redact(told) == told


@pytest.mark.parametrize(
    "text",
    [
        "runs/quantity/trials/quantity-16000-s1-8c2f3a",
        "s3://bucket/path/user@host/x",
        "http://host:8080/path/me@example.org",
        "git+ssh://git@host/x.git",
        "C:/me:here/x@y",
        "data:/a/b:c@d",
        "a.csv:/x@y: z",
        "pretrain:\n  text_length: 32\n  tokens: 1000000\n",
        '{"num_tokens": 128000000, "keys": ["a", "b"]}',
        "monkey=gibbon_and_others, keyboard: mechanical",
        "5d41402abc4b2a76b9719d911017c592 is a fingerprint",
        "tokenizer: bert-base-uncased",
        "write to someone@example.org",
        "hf-hub:timm/resnet50.a1_in1k",
        # names of sources and columns that are words for credentials
        "sources: {id_credentials: {weight: 0.5}, wiki: {weight: 0.5}}",
        "id_credentials: cannot be read",
        "id_credentials=0.25,wiki=0.75",
        "token: -0.123",
        "token: 1.5e-05",
        "class_token=nan, token: cls",
        "secret: 0.25",
        "api_key_count: 3",
        # sentences
        "password: must be given",
        "sweep.yaml:3: token: unknown key; did you mean tokens?",
        "Basic authentication is off; the bearer of bad news",
        "unexpected token: expected a comma",
        "the key is used",
        # what only stands for a value
        "password: null, token: ${HF_TOKEN}, api_key: <your key>, secret: ***",
        "private_key_path: ~/.ssh/id_ed25519",
        "password_file: /run/secrets/db",
        "ssh_private_key: ~/.ssh/id_ed25519",
        "secretName: ray-robust",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text
    for suffix in ("log", "csv", "json"):
        assert redact_file(f"x.{suffix}", text) == text


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
TEXTS = st.lists(
    st.sampled_from([SECRET, "password", "token", ": ", "=", '"', "'", "\\", "\n", "://", "@", "/", "a", " ", "&", "?",
                     "sig=", "REDACTED", "Basic ", BASIC, "Bearer ", ",", "{", "}", "- ", "# ", FORMATS["npm"], "é",
                     "authorization: ", "passphrase", "\u2028", "null", "\t", "key", "API ", "--", "1234", "`", "is "]),
    max_size=12,
).map("".join)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.text(max_size=8)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXTS, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(NAMES, TREES, max_size=4))
@settings(deadline=None, max_examples=60)
def test_any_tree_stays_json_and_yaml_and_is_redacted_once(tree):
    clean = redacted(tree)
    assert redacted(clean) == clean
    assert json.loads(redact_file("x.json", json.dumps(tree))) == clean
    assert len(clean) == len(tree)
    file = redact_file("x.yaml", yaml.safe_dump(tree, allow_unicode=True))
    assert redacted(yaml.safe_load(file)) == yaml.safe_load(file)


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
