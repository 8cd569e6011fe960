"""Names that users give to labels, groups, columns and models: which are the same, and which only look the same.

`normalise` drops what cannot be seen, `lookalikes` finds names that a reader would take for one, `describe_difference`
says what they differ in, and `quoted` writes a name so that the difference is visible. `visible` (a name) and
`printable` (lines) write unprintable characters as escapes, `\\x1b` or `\\u202e`. Only displayed text is changed:
ids, folders and results keep a name as it was given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))  # zero-width blanks, byte-order marks, soft hyphens
ENDS = "\u200c\u200d"  # joiners: part of a word in some scripts, of nothing at its ends
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "-", "--", "\u2013", "\u2014", "\u2212", "?", ".", "missing"}
# Latin letters beside the Cyrillic and Greek ones that are printed alike (Unicode TR 39, the commonest)
LOOKALIKE_LETTERS = str.maketrans("асеорхуіјѕһԁԛԝвкмнтαοερυικντχ", "aceopxyijshdqwbkmhtaoepuikvtx")
# What a terminal obeys, what no XML or UTF-8 can hold, what turns the direction of a line, and what nobody sees. The
# two joiners (U+200C, U+200D) are part of words and emoji and stay.
UNSAFE = (
    "\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
    + "".join(map(chr, (plane << 16 | end for plane in range(1, 17) for end in (0xFFFE, 0xFFFF))))
)
FIRST_STRONG, POP = "\u2068", "\u2069"  # around a name that is written from right to left (Unicode UAX #9)
_UNSAFE = re.compile(f"[{UNSAFE}]")
# of lines: their ends and tabs stay, and so do the isolates that stand in pairs
_UNPRINTABLE = re.compile(f"(?P<safe>{FIRST_STRONG}[^{UNSAFE}]*{POP}|[\\n\\t])|[{UNSAFE}]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

DIFFERENCES = FORM, INVISIBLES, BLANKS, CASE, HYPHENS, SCRIPTS, NUMERALS = (
    "Unicode form", "invisible signs", "blanks", "case", "hyphens", "letters of other scripts",
    "how a number is written",
)  # fmt: skip


def normalise(text: str) -> str:
    """Return a name without blanks around it and what cannot be seen in it, in Unicode's composed form (NFC)."""
    if text.isascii():
        return text.strip()
    text = unicodedata.normalize("NFC", text.translate(INVISIBLE))
    return re.sub(r"[^\S\n]", " ", text).strip().strip(ENDS)


def visible(name: str) -> str:
    """Return a name as it is shown: on one line, everything that cannot be printed as an escape. Names without such a
    character, in whatever script, stay as they are; what is visible already stays too."""
    return name if name.isascii() and name.isprintable() else _UNSAFE.sub(lambda match: escape(match[0]), name)


def printable(text: str) -> str:
    """Return lines of text that hold names: as `visible`, but line ends and the isolates of `isolate` stay."""
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    return _UNPRINTABLE.sub(lambda match: match["safe"] or escape(match[0]), text)


def lone_surrogate(text: str) -> str:
    """Return the escape of the first lone surrogate in a text, "" where there is none: it is what is left of a file's
    name that is not UTF-8, or of half of a character in JSON or YAML; no UTF-8 file can hold it."""
    lone = None if text.isascii() else re.search("[\ud800-\udfff]", text)
    return escape(lone[0]) if lone else ""


def isolate(name: str) -> str:
    """Return a name with isolates around it where it is written from right to left: else it would turn round what
    stands beside it (Unicode UAX #9)."""
    turns = any(unicodedata.bidirectional(sign) in ("R", "AL") for sign in name)
    return f"{FIRST_STRONG}{name}{POP}" if turns else name


def printable_in(value: Any) -> Any:
    """Return a value of JSON's types with every text in it `printable`, keys too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        shown: dict[Any, Any] = {}
        for key, inner in value.items():
            name = printable_in(key)
            while name in shown:  # one of the two was written with the other's escape
                name = f"{name}'"
            shown[name] = printable_in(inner)
        return shown
    return [printable_in(inner) for inner in value] if isinstance(value, list | tuple) else value


def escape(sign: str) -> str:
    """Return one character as its escape."""
    code = ord(sign)
    wide = f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return _SHORT.get(sign) or (f"\\x{code:02x}" if code < 0x100 else wide)


def is_missing(text: str) -> bool:
    """Return whether a cell says that there is no value."""
    return normalise(text).casefold() in MISSING


def lookalikes(names: Iterable[str]) -> list[list[str]]:
    """Sets of different names that differ only by case, width, blanks, hyphens, look-alike letters or the form of a
    number, each in the order given."""
    sets: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        sets.setdefault(_key(name), []).append(name)
    return [group for group in sets.values() if len(group) > 1]


def describe_difference(names: Sequence[str]) -> str:
    """Return what names that are alike differ in, in words."""
    words = [word for word in DIFFERENCES if len({_key(name, but=word) for name in names}) > 1]
    return " and ".join(words) or "the signs they are written with"


def _key(name: str, but: str = "") -> str:
    """Return a name without what does not tell it from others: all of `DIFFERENCES` `but` one. Case as NFKC_Casefold of
    the Unicode standard (3.13) has it: folding case can leave what normalising changes, and the other way round."""
    text = name
    for _ in range(2):
        text = text if but == FORM else unicodedata.normalize("NFKC", text)
        text = text if but == INVISIBLES else text.translate(INVISIBLE).strip(ENDS)
        text = text if but == CASE else text.casefold()
    text = text if but == FORM else unicodedata.normalize("NFKC", text)
    text = text if but == BLANKS else re.sub(r"\s+", " ", text).strip()
    if but != NUMERALS and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text):
        return f"number {float(text):.12g}"
    text = text if but == HYPHENS else re.sub(r"(?<=\w)[\s_-]*[_-][\s_-]*(?=\w)", " ", text)
    return text if but == SCRIPTS else text.translate(LOOKALIKE_LETTERS)


def quoted(name: str) -> str:
    """Return the name in quotes; where it is not plain ASCII, its escapes behind it: `'caf\u00e9' (caf\\xe9)`."""
    return repr(name) if name.isascii() else f"'{unicodedata.normalize('NFC', name)}' ({ascii(name)[1:-1]})"


def count_noun(number: int, what: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
