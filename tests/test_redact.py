"""No secret in a file or a message: what counts as one, what does not, and that files and messages pass through."""

from __future__ import annotations

import json

import pytest
import yaml

from ray_robust.errors import Problem, UserError
from ray_robust.redact import redact
from ray_robust.storage import Storage

SECRET = "x7Kq9vLmT2pZ4w"  # stands for any


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/runs?region=eu", "s3://REDACTED@bucket/runs?region=eu"),
        (f"https://user:{SECRET}@host:9000/path", "https://REDACTED@host:9000/path"),
        (f"https://h/x?X-Amz-Signature={SECRET}&X-Amz-Date=1", "https://h/x?X-Amz-Signature=REDACTED&X-Amz-Date=REDACTED"),
        (f"https://h/x?sig={SECRET}&size=3", "https://h/x?sig=REDACTED&size=3"),
        (f"s3://b/x?secret_key={SECRET}", "s3://b/x?secret_key=REDACTED"),
        (f"AWS_SECRET_ACCESS_KEY={SECRET}", "AWS_SECRET_ACCESS_KEY=REDACTED"),
        (f"db_password: {SECRET}\nnext: 1", "db_password: REDACTED\nnext: 1"),
        (f'{{"api_key": "{SECRET}", "n": 1}}', '{"api_key": "REDACTED", "n": 1}'),
        (f"the token: '{SECRET}'", "the token: 'REDACTED'"),
        ("key AKIAIOSFODNN7EXAMPLE is used", "key REDACTED is used"),
        ("hf_" + "a" * 34, "REDACTED"),
        ("ghp_" + "A1" * 18, "REDACTED"),
        (f"Authorization: Bearer {SECRET}{SECRET}", "Authorization: Bearer REDACTED"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\nabc\n-----END PRIVATE KEY-----",
         "-----BEGIN PRIVATE KEY-----REDACTED-----END PRIVATE KEY-----"),
    ],
)  # fmt: skip
def test_secrets_are_hidden(text, told):
    assert redact(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "runs/quantity/trials/quantity-16000-s1-8c2f3a",
        "s3://bucket/path/user@host/x",
        "pretrain:\n  text_length: 32\n  tokens: 1000000\n",
        '{"num_tokens": 128000000, "keys": ["a", "b"]}',
        "monkey=gibbon_and_others, keyboard: mechanical",
        "5d41402abc4b2a76b9719d911017c592 is a fingerprint",
        "tokenizer: bert-base-uncased",
        "write to someone@example.org",
        "hf-hub:timm/resnet50.a1_in1k",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_json_and_yaml_around_a_secret_stay_valid():
    tree = {"path": f"s3://K:{SECRET}@b/x", "options": {"password": SECRET, "n": 3}, "note": f'say "token={SECRET}"'}
    for text, read in ((json.dumps(tree, indent=1), json.loads), (yaml.safe_dump(tree), yaml.safe_load)):
        told = read(redact(text))
        assert SECRET not in str(told)
        assert told["options"]["n"] == 3
        assert set(told) == set(tree)


def test_the_values_of_this_processs_secret_variables_are_hidden_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", f"{SECRET}0")
    monkeypatch.setenv("MY_TOKEN", "short")
    monkeypatch.setenv("PATH_TO_TOKEN", "/home/me/.ray/auth_token")
    monkeypatch.setenv("MONKEY", "gibbon-and-many-others")
    assert redact(f"curl failed with {SECRET}0, short") == "curl failed with REDACTED, short"
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
    script = 'fetch(url, {credentials: "same-origin"})'
    Storage(tmp_path).write("report/index.html", script)
    assert (tmp_path / "report/index.html").read_text() == script


def test_messages_pass_through():
    error = UserError(Problem("sweep.yaml:3", f"s3://K:{SECRET}@bucket: cannot be opened"))
    assert str(error) == "sweep.yaml:3: s3://REDACTED@bucket: cannot be opened"
    assert Storage(f"s3://K:{SECRET}@bucket/x?secret_key={SECRET}").shown == "s3://bucket/x"
