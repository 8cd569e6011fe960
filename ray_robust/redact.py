"""Redaction: no credential leaves the program; REDACTED stands where one was.

There are three entries: `redacted(value)` for a tree of values that is about to be serialised, so that JSON, YAML and
CSV stay valid and a value is judged by the key above it; `redact(text)` for lines that people read, as in logs,
messages and tracebacks; `redact_file(name, text)` for a file whose name says which of the two it is. `Storage` passes
all that it writes through the first and the last, `errors` every line that it reports, `text.console` what is printed,
`launch.monitor.loggers` what other tools get. `ray_robust.credentials` defines what counts as a credential.

The time is linear in the length of the text: lines that hold no mark of a credential are scanned once, every quantifier
is possessive, and a rule consumes what it has matched. Lines that follow each other go through the rules at once, so
that a log with a credential in every line takes a few times as long as one without.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from ray_robust.credentials import (
    HIDDEN,
    IN_QUERY,
    MARKS,
    PROSE,
    SHAPE_MARKS,
    SHAPES,
    Kind,
    any_of,
    hides,
    is_basic,
    is_random,
    kind_of,
    own_secrets,
)

__all__ = ["HIDDEN", "redact", "redact_file", "redacted"]

LONGEST = 512  # characters of a value that is judged; a longer one behind such a name is hidden
STRUCTURES = ("{", "[", "(", "<")  # a mapping or a list whose parts have names of their own; `<your key>`
MOST_PASSES = 8  # over a line in which something is hidden; two nearly always
DEEPEST = 8  # JSON inside of a text inside of JSON ...: deeper is read as a line


def redact(text: str) -> str:
    """Return `text` with REDACTED in the place of every credential. For lines that are read, not parsed."""
    return _redact(text, own_secrets())


def redacted(value: Any) -> Any:
    """Return a tree of dicts, lists and texts, as JSON or YAML can hold, without credentials; numbers stay numbers.

    A text below a key such as `password` is judged by that key, any other is read as a line. A text that is JSON itself
    stays JSON. What holds no credential is returned equal.
    """
    return _redacted(value, own_secrets(), None, 0)


def redact_file(name: str, text: str) -> str:
    """Return the text of a file without credentials, still what its suffix says. Unchanged where there is nothing to
    hide; a page is made of texts that were read back from such files and is not touched, as scripts do not bear it."""
    suffix = name.rpartition("/")[2].rpartition(".")[2].lower()
    if suffix in ("html", "svg"):
        return text
    secrets = own_secrets()
    if suffix in _FORMATS and (suffix in ("yaml", "yml") or _suspicious(text, secrets)):
        try:
            return _FORMATS[suffix](text, secrets)
        except (ValueError, yaml.YAMLError, csv.Error, RecursionError):  # not what its name says
            pass
    return _redact(text, secrets)


# --- values


def _redacted(value: Any, secrets: list[str], kind: Kind | None, depth: int) -> Any:
    """`kind` is that of the nearest key above."""
    if isinstance(value, str):
        return _redacted_text(value, secrets, kind, depth)
    if isinstance(value, dict):
        return _redacted_dict(value, secrets, depth)
    if isinstance(value, list | tuple):
        return [_redacted(item, secrets, kind, depth + 1) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and kind is Kind.PASSWORD and hides(kind, str(value)):
        return HIDDEN
    return value


def _redacted_dict(tree: dict, secrets: list[str], depth: int) -> dict:
    clean: dict[Any, Any] = {}
    for key, value in tree.items():
        name = _redact(key, secrets) if isinstance(key, str) else key
        while name in clean:  # two keys that were told apart by what is hidden now
            name = f"{name}'"
        kind = kind_of(key) if isinstance(key, str) else None
        clean[name] = _redacted(value, secrets, kind, depth + 1)
    return clean


def _redacted_text(text: str, secrets: list[str], kind: Kind | None, depth: int) -> str:
    if kind is Kind.HEADER:
        scheme, _, rest = text.strip().partition(" ")
        return f"{scheme} {HIDDEN}" if rest and scheme.isalpha() else HIDDEN if text else text
    if kind is not None and hides(kind, text):
        return HIDDEN
    if text[:1] in ("{", "[") and depth < DEEPEST:
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            tree = None
        if isinstance(tree, dict | list):
            clean = _redacted(tree, secrets, None, depth + 1)
            return text if clean == tree else json.dumps(clean)
    return _redact(text, secrets)


# --- files


def _json(text: str, secrets: list[str]) -> str:
    tree = json.loads(text)
    clean = _redacted(tree, secrets, None, 0)
    return text if clean == tree else json.dumps(clean, indent=1, ensure_ascii=False) + "\n"


def _json_lines(text: str, secrets: list[str]) -> str:
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.strip():
            tree = json.loads(line)
            clean = _redacted(tree, secrets, None, 0)
            lines[number] = line if clean == tree else json.dumps(clean)
    return "\n".join(lines)


def _yaml(text: str, secrets: list[str]) -> str:
    """Comments are lines of the text, not values: a file that has some goes through both, and loses them where what
    looks like one was part of a key or a value."""
    tree = yaml.safe_load(text)
    clean = _redacted(tree, secrets, None, 0)
    if clean == tree:
        without = "".join(map(_without(secrets), text.splitlines(keepends=True))) if "#" in text else text
        if without == text or _reads_as(without, tree):
            return without
    return yaml.safe_dump(clean, sort_keys=False, allow_unicode=True, width=120)


def _reads_as(text: str, tree: Any) -> bool:
    try:
        return yaml.safe_load(text) == tree
    except yaml.YAMLError:
        return False


def _without(secrets: list[str]) -> Callable[[str], str]:
    def clean(line: str) -> str:
        before, mark, comment = line.partition("#")
        return before + mark + _redact(comment, secrets)

    return clean


def _csv(text: str, secrets: list[str]) -> str:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    kinds = [kind_of(name) for name in rows[0]] if rows else []
    clean = [[_redact(name, secrets) for name in row] for row in rows[:1]]
    for row in rows[1:]:
        by_cell = [*kinds, *[None] * (len(row) - len(kinds))]
        clean.append([_redacted_text(cell, secrets, kind, 0) for cell, kind in zip(row, by_cell, strict=False)])
    if clean == rows:
        return text
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n" if "\r\n" in text else "\n").writerows(clean)
    return buffer.getvalue()


_FORMATS: dict[str, Callable[[str, list[str]], str]] = {
    "json": _json, "jsonl": _json_lines, "yaml": _yaml, "yml": _yaml, "csv": _csv,
}  # fmt: skip


# --- lines

_PRIVATE_KEY = re.compile(
    r"(?<=PRIVATE KEY-----)(?:[^-]*+(?:-(?!----)[^-]*+)*+(?=-----END)|(?:(?:\s|\\[nr])*+[A-Za-z0-9+/]{16,}+=*+)++)"
)
_ADDRESS = re.compile(
    r"://(?!git@|\[)(?:[^\s/\"'`<>]*@"  # up to the last @ of the authority; or a key with slashes behind the first :
    r"|[^\s/:@\"'`<>]*+:(?:(?<=A[KS]IA[A-Z0-9]{16}:)|(?!\d{1,5}[/?#]))"  # not a port
    r"(?:[^\s\"'`<>@:]|:(?!//))*+@(?:[^\s/\"'`<>@]*@)*)"
)
_FOLDED = re.compile(  # an address that went through a path, which has one slash where it had two
    r"(?<=[A-Za-z0-9]{2}:)/(?!/)(?:[^\s/:@\"'`<>]*+:[^\s/\"'`<>]*@|A[KS]IA[A-Z0-9]{16}:[^\s:@\"'`<>]*+@)"
)
_KEY = re.compile(
    r"(?<![\w.-])(?:(?P<pair>(?:-u|--user|--proxy-user)[ \t=]++[\"']?+[^\s:\"'/]++:)"
    r"|(?P<name>(?!\d++(?![\w.-]))[\w.-]++)(?:\\{0,3}[\"'`])?+[\])]?+[ \t]*+(?:=>|:=|==?|:)[ \t]*+"  # not 12:30
    r"|(?P<option>--[\w-]++)[ \t]++(?!-)"
    r"|login[ \t]++\S++[ \t]++(?P<netrc>password)[ \t]++)"
)
_LABEL = re.compile(r"(\w+)[ \t]\Z")  # `API key: ...`
_QUOTE = re.compile(r"\\{0,3}[\"'`]")
_QUOTED = {sign: re.compile(rf"(?:[^{sign}\\]|\\.)*+(?={sign})", re.DOTALL) for sign in "\"'`"}
_WORD = re.compile(r"[A-Za-z]{1,12}+(?=[.,;:]?+(?:\s|$))")
_BARE = re.compile(  # up to a space, a quote that ends something, the next `name=`, or an escape of the text around it
    r"(?:[^\s\"'`,;&\\]|[\"'`](?![\s,;:)}\]\\\"'`]|$)|[,;&](?![ \t]*+(?:[\w.-]++[ \t]*+[=:]|$))|\\(?![nrt\"'`\\]|$))*+"
)
_IN_QUERY_VALUE = re.compile(r"[^&\s\"'`#;<>\\]*+")
_TO_THE_END = re.compile(r"(?:[^\"`\\]|\\(?![nrt\"'`\\]|$))*+")
_SCHEME = re.compile(r"[A-Za-z][\w-]*+[ \t]++(?=\S)")
_BEARER = re.compile(r"\b((?i:bearer)[ \t]++)([\w.~+/=-]{16,}+)")
_MARK = re.compile(any_of(MARKS))  # in small letters
_MARKED = re.compile(rf"(?:{any_of(MARKS)})[^\n]*+")
_SHAPED = re.compile(any_of(SHAPE_MARKS))
_BASIC = re.compile(r"\b((?i:basic)[ \t]++)([A-Za-z0-9+/_-]{4,}+={0,2}+)")


def _suspicious(text: str, secrets: list[str]) -> bool:
    """Return whether anything in a text may be a credential. Serialised values keep the marks, which are letters."""
    return bool(secrets) or _MARK.search(text.lower()) is not None


def _redact(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    if "PRIVATE KEY-----" in text:
        text = _PRIVATE_KEY.sub(HIDDEN, text)
    low = text.lower()
    if _MARK.search(low) is None:
        return text
    if len(low) != len(text):  # a letter that grows when it is made small shifts all others
        return "\n".join(map(_redact_block, text.split("\n")))
    parts, end = [], 0
    for start, stop in _marked_blocks(low):
        parts += [text[end:start], _redact_block(text[start:stop])]
        end = stop
    return "".join([*parts, text[end:]])


def _marked_blocks(low: str) -> Iterator[tuple[int, int]]:
    """Yield where lines that hold a mark begin and end, those that follow each other as one."""
    start, stop = 0, -1
    for marked in _MARKED.finditer(low):
        begin = low.rfind("\n", 0, marked.start()) + 1
        if begin != stop + 1:
            if stop >= 0:
                yield start, stop
            start = begin
        stop = marked.end()
    if stop >= 0:
        yield start, stop


def _redact_block(block: str) -> str:
    """Until nothing changes: what stands beside a REDACTED may be read otherwise than before it was put there. No rule
    looks beyond the end of a line, so that many lines cost hardly more than one."""
    for _ in range(MOST_PASSES):
        clean, settled = _redact_once(block)
        if settled or clean == block:
            return clean
        block = clean
    return block


def _redact_once(block: str) -> tuple[str, bool]:
    """Return the block after one pass, and whether another would leave it as it is."""
    low, before = block.lower(), block
    if "://" in low:
        block = _ADDRESS.sub(f"://{HIDDEN}@", block)
    if ":/" in low:
        block = _FOLDED.sub(f"/{HIDDEN}@", block)
    settled = block == before
    block, apart = _redact_named(block)
    before = block
    if "bearer" in low:
        block = _BEARER.sub(lambda match: match[1] + (HIDDEN if _any_sign(match[2]) else match[2]), block)
    if "basic" in low:
        block = _BASIC.sub(lambda match: match[1] + (HIDDEN if is_basic(match[2]) else match[2]), block)
    if _SHAPED.search(low) is not None:
        block = SHAPES.sub(HIDDEN, block)
    return block, settled and apart and block == before


def _any_sign(value: str) -> bool:
    """Return whether what stands behind `Bearer` is more than a word."""
    return not value.isalpha() or is_random(value)


def _redact_named(block: str) -> tuple[str, bool]:
    """REDACTED for the value of every `password: ...`, `"api_key": "..."`, `--token ...`; and whether each of these
    stands apart: `name: value` between blanks, whose neighbours are read as before."""
    parts: list[str] = []
    apart, done, at, end = True, 0, 0, -1  # `end` of the line that `at` is in
    while (match := _KEY.search(block, at)) is not None:
        start, at = match.span()
        query = start > 0 and match["name"] is not None and block[start - 1] in "?&"
        kind = _kind(block, match, query)
        if kind is None:
            continue
        if end < at:
            end = block.find("\n", at)
            end = len(block) if end < 0 else end
        value = _value(block, at, end, kind, query, ":" in match[0])
        if value is None:
            continue
        parts += [block[done : value[0]], HIDDEN]
        apart = apart and value[0] == at and (start == 0 or block[start - 1].isspace())
        done = at = value[1]
        apart = apart and kind not in (Kind.PHRASE, Kind.HEADER) and (at == end or block[at].isspace())
    return "".join([*parts, block[done:]]), apart


def _kind(line: str, match: re.Match[str], query: bool) -> Kind | None:
    if match["netrc"] or match["pair"]:
        return Kind.SECRET
    name = match["name"] or match["option"]
    if query and IN_QUERY.fullmatch(name):
        return Kind.SECRET
    if name.lower() in ("key", "phrase") and (label := _LABEL.search(line[max(0, match.start() - 16) : match.start()])):
        name = f"{label[1]}_{name}"
    return kind_of(name)


def _value(line: str, at: int, end: int, kind: Kind, query: bool, colon: bool) -> tuple[int, int] | None:
    """Return where the value that begins at `at`, of a line that ends at `end`, is to be hidden, if so. What is read in
    vain is at most a few times the line: an opening quote that nothing closes comes once of each kind."""
    if not query and (mark := _QUOTE.match(line, at, end)) is not None:
        return _quoted_value(line, mark, end, kind)
    if line[at : at + 1] in STRUCTURES or (colon and not query and _is_prose(line, at)):
        return None
    pattern = _IN_QUERY_VALUE if query else _TO_THE_END if kind in (Kind.PHRASE, Kind.HEADER) else _BARE
    whole = pattern.match(line, at, end)
    value = whole[0].rstrip() if whole else ""
    if not query:
        value = value.rstrip(",;:.)}]>" if kind is not Kind.HEADER else "'")
    if kind is Kind.HEADER and (scheme := _SCHEME.match(value)):
        return at + scheme.end(), at + len(value)
    hidden = value and (query or kind is Kind.HEADER or _hides(kind, value, False))
    return (at, at + len(value)) if hidden else None


def _quoted_value(line: str, mark: re.Match[str], end: int, kind: Kind) -> tuple[int, int] | None:
    start = mark.end()
    if len(mark[0]) == 1:
        closed = _QUOTED[mark[0]].match(line, start, end)
        stop = closed.end() if closed else end
    else:
        stop = line.find(mark[0], start, end)
        stop = end if stop < 0 else stop
    if kind is Kind.HEADER and (scheme := _SCHEME.match(line, start, stop)):
        start = scheme.end()
    return (start, stop) if kind is Kind.HEADER or _hides(kind, line[start:stop], True) else None


def _hides(kind: Kind, value: str, quoted: bool) -> bool:
    """Return whether a value is to be hidden, also where it is too long to be judged. Others are read again, since they
    may hold credentials."""
    return len(value) > LONGEST or hides(kind, value, quoted)


def _is_prose(line: str, at: int) -> bool:
    """Return whether a sentence goes on there: `password: must be given`."""
    return (word := _WORD.match(line, at)) is not None and word[0].lower() in PROSE
