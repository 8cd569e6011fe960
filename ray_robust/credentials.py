"""What counts as a credential: names that hold one, values that look like one, the formats of well-known tokens.

Owns the lists and the judgement of one name and one value; finding them in texts is `ray_robust.redact`. Formats are
those that the issuers document or that public secret scanners look for. Everything here takes linear time.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from urllib.parse import quote

HIDDEN = "REDACTED"  # plain text in JSON, YAML and addresses alike
SHORTEST = 12  # characters of an environment variable's value that is hidden wherever it stands: less may be a word


class Kind(Enum):
    """How sure a name is to hold a credential, hence which of its values are hidden."""

    PASSWORD = "any value, numbers of four digits too"
    PHRASE = "any value, to the end of the line"
    HEADER = "all but the scheme, to the end of the line"
    SECRET = "any value but a number"
    TOKEN = "values that look random: `token: cls` is one of many harmless uses of the word"


_PASSWORDS = ("password", "passwd", "passcode", "pwd")
_KEYS = re.compile(
    r"(?:^|_)(?:api|app|access|account|auth|client|consumer|deploy|encryption|host|master|private|secret|service|shared"
    r"|signing|ssh|storage|subscription)_?keys?(?=_|$)"
)
_TOKENS = {"token", "credential", "credentials", "auth", "jwt", "pat", "sas"}
_ABOUT = {  # last words of names that say something about a secret, not the secret
    "age", "column", "count", "dir", "enabled", "error", "expires", "expiry", "field", "file", "filename", "folder",
    "format", "hint", "id", "ids", "index", "kind", "label", "len", "length", "limit", "manager", "mode", "name",
    "names", "path", "policy", "prompt", "provider", "rate", "ref", "required", "size", "store", "ttl", "type", "uri",
    "url", "version",
}  # fmt: skip
_COUNTS = {"n", "num", "number", "max", "min", "total", "has", "is", "use", "no", "without"}  # first words of such
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
IN_QUERY = re.compile(r"sig|signature|key|x-(?:amz|goog)-.*|awsaccesskeyid", re.IGNORECASE)  # names in an address
PROSE = {  # what a sentence goes on with after `password:`
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "cannot", "could", "did", "does", "expected", "for",
    "from", "given", "has", "have", "if", "in", "incorrect", "invalid", "is", "it", "may", "missing", "must", "needs",
    "no", "not", "of", "on", "one", "only", "or", "required", "see", "should", "that", "the", "this", "to", "unknown",
    "use", "was", "which", "with", "wrong", "you", "your",
}  # fmt: skip


def kind_of(name: str) -> Kind | None:
    """Return what a name holds: `AWS_SECRET_ACCESS_KEY`, `dbPassword`, `--api-key`; None for a name that holds none."""
    return _kind_of(name[-100:])


@lru_cache(maxsize=4096)
def _kind_of(name: str) -> Kind | None:
    words = [word.lower() for word in _WORD.findall(name)]
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    if not words or words[0] in _COUNTS:
        return None
    last, joined = words[-1], "_".join(words)
    if last in _ABOUT and not joined.endswith("access_key_id"):
        return None
    if last in ("authorization", "cookie"):
        return Kind.HEADER
    if any(word.endswith("passphrase") for word in words) or joined.endswith("pass_phrase"):
        return Kind.PHRASE
    if last in ("pass", "sshpass") or any(word.endswith(_PASSWORDS) for word in words):
        return Kind.PASSWORD
    if any(word.endswith("secret") for word in words) or _KEYS.search(joined):
        return Kind.SECRET
    return Kind.TOKEN if last in _TOKENS or last.endswith("token") else None


_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?%?|[-+]?\.?(?:nan|inf)", re.IGNORECASE)
_NO_VALUE = re.compile(
    r"(?:null|none|nil|true|false|undefined|unset|empty|~|\*+|x{3,}|\.{2,}|-+|<[^>]*>|\$\{?[A-Z_][A-Z0-9_]*\}?"
    r"|%\(?\w*\)?s?|\{\w*\}|" + HIDDEN + r".*)",
    re.IGNORECASE | re.DOTALL,
)


def hides(kind: Kind, value: str, quoted: bool = True) -> bool:
    """Return whether `value` of a name of this kind is a credential. `quoted`: where it begins and ends is sure."""
    if not value or _NO_VALUE.fullmatch(value):
        return False
    if _NUMBER.fullmatch(value):
        return kind is Kind.PASSWORD and value.isdigit() and len(value) >= 4
    if kind is Kind.TOKEN:
        return is_random(value)
    return (quoted or kind is not Kind.SECRET or len(value) >= 4) and not _is_path(value)


def is_random(value: str) -> bool:
    """Return whether a value is rather drawn by a program than written by a person: letters and digits, or long."""
    if len(value) < 12 or HIDDEN in value or any(sign.isspace() for sign in value) or _is_path(value):
        return False
    if _NUMBER.fullmatch(value):
        return False
    digits = sum(sign.isdigit() for sign in value)
    letters = sum(sign.isalpha() for sign in value)
    mixed = value != value.lower() and value != value.upper()
    return (digits >= 2 and letters >= 2) or (mixed and len(value) >= 16) or len(value) >= 32


def _is_path(value: str) -> bool:
    """Return whether a value names a file. A key in base64 may begin with a slash too, but goes on at random."""
    if not value.startswith(("/", "~/", "./", "../")):
        return False
    return not any(len(part) >= 20 and part.isalnum() and is_random(part) for part in re.split(r"[/+=]", value))


def is_basic(value: str) -> bool:
    """Return whether a value is what stands behind `Basic`: user and password in base64."""
    try:
        pair = base64.b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        try:
            pair = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return False
    return b":" in pair and pair.isascii()


# A quantifier without an upper bound is possessive or its match is used up, so that no text is read twice.
SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"A(?:KIA|SIA)[0-9A-Z]{16}"  # AWS
    r"|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{22,}"
    r"|gl(?:pat|ptt|dt|rt|rtr|cbt|ft|soat|agent|imt|oas|ffct)-[\w-]{20,}(?:\.[\w.-]{8,})?"  # GitLab
    r"|npm_[A-Za-z0-9]{30,}|pypi-AgE[\w-]{30,}|dckr_pat_[\w-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}"  # Hugging Face
    r"|wandb_v\d_\w{20,}|local-[0-9a-f]{40}"  # W&B; keys of before have no mark but their name
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"  # Google
    r"|[\w~.-]{3}\dQ~[\w~.-]{31,}|[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}|[A-Za-z0-9+/]{86}=="  # Azure
    r"|xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{20,}|dapi[0-9a-f]{32}"  # Slack, Databricks
    r"|[rs]k_live_\w{20,}|sk-(?:ant|proj|svcacct|or)-[\w-]{20,}|sk-[A-Za-z0-9]{32,}"  # Stripe, Anthropic, OpenAI
    r"|(?<![\w-])eyJ[\w-]{10,}+\.eyJ[\w-]{10,}+\.[\w-]{10,}"  # a JSON web token
    r")"
)
# In small letters: where none of these stands, nothing that the rules of this module or of `redact` hide is there.
SHAPE_MARKS = (  # of `SHAPES`, one of every alternative
    "akia", "asia", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "_pat", "glpat-", "glptt-", "gldt-", "glrt", "glcbt-",
    "glft-", "glsoat-", "glagent-", "glimt-", "gloas-", "glffct-", "npm_", "pypi-age", "hf_", "api_org_", "wandb_v",
    "local-", "aiza", "ya29.", "gocspx-", "q~", "azdo", "==", "xox", "xapp-", "dapi", "k_live_", "sk-", "eyj",
)  # fmt: skip
MARKS = (
    ":/", "pass", "pwd", "secret", "token", "key", "credential", "auth", "cookie", "jwt", "_sas", "sig=", "signature",
    "x-amz-", "x-goog-", "bearer", "basic", "--user", "--proxy-user", "-u ", *SHAPE_MARKS,
)  # fmt: skip


def any_of(words: Iterable[str]) -> str:
    """Return a regular expression for any of these words, which share what they begin with: several times as quick as a
    search for each, and as the words side by side."""
    rest: dict[str, list[str]] = {}
    for word in sorted(words):
        rest.setdefault(word[:1], []).append(word[1:])
    if "" in rest:  # a word ends here: longer ones find no more
        return ""
    parts = [re.escape(first) + any_of(words) for first, words in rest.items()]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:SECRET|TOKEN|PASS|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|"
                              r"ACCOUNT_KEY|PRIVATE_KEY|CREDENTIALS?)(?:_|$)")  # fmt: skip


_WORKING = ("PWD", "OLDPWD")  # a shell's folders: no passwords


def own_secrets() -> list[str]:
    """Return the values of this process's secret variables, the longest first. A path to a secret is none."""
    values = {value for name, value in os.environ.items() if len(value) >= SHORTEST and _is_own_secret(name, value)}
    values |= {quote(value, safe="") for value in values}  # as it stands in an address
    return sorted(values, key=len, reverse=True)


def _is_own_secret(name: str, value: str) -> bool:
    kind, listed = _variable(name)
    if kind is None and not listed:
        return False
    if _is_path(value):  # of a password that looks like one there is no such file
        return kind not in (None, Kind.TOKEN) and not os.path.exists(os.path.expanduser(value))
    return listed or (kind is not None and hides(kind, value))


@lru_cache(maxsize=4096)
def _variable(name: str) -> tuple[Kind | None, bool]:
    """What a variable of the environment holds by its name, and whether any value of it is hidden."""
    if name in _WORKING:
        return None, False
    return kind_of(name), _SECRET_VARIABLE.search(name.upper()) is not None
