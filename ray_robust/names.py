"""Names that people give to labels, groups, columns and models: which are the same, and which only look the same.

Owns `clean` (what cannot be seen is no part of a name), `alike` (names that a reader would take for one), `difference`
(what such names differ in) and `shown`, which writes a name so that the difference is visible.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))  # zero-width blanks, byte-order marks, soft hyphens
ENDS = "\u200c\u200d"  # joiners: part of a word in some scripts, of nothing at its ends
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "-", "--", "\u2013", "\u2014", "\u2212", "?", ".", "missing"}
# Latin letters beside the Cyrillic and Greek ones that are printed alike (Unicode TR 39, the commonest)
LOOK = str.maketrans("асеорхуіјѕһԁԛԝвкмнтαοερυικντχ", "aceopxyijshdqwbkmhtaoepuikvtx")


DIFFERENCES = FORM, INVISIBLES, BLANKS, CASE, HYPHENS, SCRIPTS, NUMERALS = (
    "Unicode form", "invisible signs", "blanks", "case", "hyphens", "letters of other scripts",
    "how a number is written",
)  # fmt: skip


def clean(text: str) -> str:
    """A name without blanks around it and what cannot be seen in it, in Unicode's composed form (NFC)."""
    if text.isascii():
        return text.strip()
    text = unicodedata.normalize("NFC", text.translate(INVISIBLE))
    return re.sub(r"[^\S\n]", " ", text).strip().strip(ENDS)


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value."""
    return clean(text).casefold() in MISSING


def alike(names: Iterable[str]) -> list[list[str]]:
    """Sets of different names that differ only by case, width, blanks, hyphens, look-alike letters or the form of a
    number, each in the order given."""
    sets: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        sets.setdefault(_key(name), []).append(name)
    return [group for group in sets.values() if len(group) > 1]


def difference(names: Sequence[str]) -> str:
    """What names that are alike differ in, in words."""
    words = [word for word in DIFFERENCES if len({_key(name, but=word) for name in names}) > 1]
    return " and ".join(words) or "the signs they are written with"


def _key(name: str, but: str = "") -> str:
    """A name without what does not tell it from others: all of `DIFFERENCES` `but` one. Case as NFKC_Casefold of the
    Unicode standard (3.13) has it: folding case can leave what normalising changes, and the other way round."""
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
    return text if but == SCRIPTS else text.translate(LOOK)


def shown(name: str) -> str:
    """The name in quotes; where it is not plain ASCII, its escapes behind it: `'caf\u00e9' (caf\\xe9)`."""
    return repr(name) if name.isascii() else f"'{unicodedata.normalize('NFC', name)}' ({ascii(name)[1:-1]})"


def counted(number: int, what: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
