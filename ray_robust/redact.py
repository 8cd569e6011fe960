"""No secret in a file or a message: `redact(text)` puts REDACTED where a text holds a credential.

Owns what counts as one: the user and password of an address, a signed query, a value that stands behind a key such as
`password` or `api_key`, the shapes of well-known tokens, and the values of this process's own secret environment
variables. `storage.Storage` passes every text through it that it writes, `errors.Problem` every line that it says.
"""

from __future__ import annotations

import os
import re

HIDDEN = "REDACTED"  # plain text in JSON, YAML and addresses alike
_NAMES = r"secret|passw(?:or)?d|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?"
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s\"'@]+(?=@)")
_IN_QUERY = re.compile(r"([?&](?:sig|key|x-amz-[\w-]+|\w*(?:signature|" + _NAMES + r"))=)[^&\s\"']+", re.IGNORECASE)
# `db_password: abc`, `"api_key": "abc"`, `AWS_SECRET_ACCESS_KEY=abc`; a bare number is a count, not a secret
_NAMED = re.compile(
    r"((?:" + _NAMES + r")(?:[_-][a-z]+)*\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!\d+(?:\.\d+)?\b)[^\s\"',}&\\]{6,}",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"\b(?:A(?:KIA|SIA)[0-9A-Z]{16}|gh[opsu]_\w{30,}|github_pat_\w{30,}|hf_[A-Za-z0-9]{30,}|AIza[\w-]{35}"
    r"|sk-[\w-]{20,}|xox[abp]-[\w-]{10,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
)
_BEARER = re.compile(r"(?<=Bearer )[\w.~+/=-]{16,}")
_PRIVATE_KEY = re.compile(r"(?<=PRIVATE KEY-----).*?(?=-----END)", re.DOTALL)
_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:SECRET|TOKEN|PASSWORD|PASSWD|API_KEY|ACCESS_KEY|CREDENTIALS?)(?:_|$)")
SHORTEST = 12  # characters of an environment variable's value that is hidden wherever it stands: less may be a word


def redact(text: str) -> str:
    """`text` with REDACTED in the place of every credential; the rest, JSON and YAML around it too, stays as it was."""
    text = _IN_ADDRESS.sub(HIDDEN, text)
    text = _IN_QUERY.sub(rf"\g<1>{HIDDEN}", text)
    text = _NAMED.sub(rf"\g<1>{HIDDEN}", text)
    for pattern in (_SHAPES, _BEARER, _PRIVATE_KEY):
        text = pattern.sub(HIDDEN, text)
    for value in _own_secrets():
        text = text.replace(value, HIDDEN)
    return text


def _own_secrets() -> list[str]:
    """The values of secret environment variables, the longest first. A path to a secret is none."""
    found = {
        value
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name.upper()) and len(value) >= SHORTEST and value[0] not in "/~."
    }
    return sorted(found, key=len, reverse=True)
