"""What counts as a secret, and what does not."""

from __future__ import annotations

import pytest

from ray_robust.redact import redact, redact_file
from tests.make_secrets import BASIC, FORMATS, PEM, SECRET, drawn


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
