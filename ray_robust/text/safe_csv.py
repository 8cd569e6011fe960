"""CSV that is safe to open: no cell is a formula to a spreadsheet or an instruction to a terminal, and none is lost.

One rule for every CSV that this project writes: an apostrophe stands before a cell that spreadsheets would compute
(text that begins with =, +, - or @ and is no number) or that holds unprintable characters (see `names`), which are
escaped: `'=1+1`, `'a\\x1b[31m`. All other cells stay as they are. `cell` writes and `value` reads back; `text_of` and
`frame_of` do so for a whole table.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ray_robust.text.names import UNSAFE, escape

MARK = "'"
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # the wide ones are formulas to some East Asian settings; tabs are escaped
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_ESCAPED = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt])")
_PROTECTED = re.compile(rf"[{UNSAFE}]|\\(?=x[0-9a-f]{{2}}|u[0-9a-f]{{4}}|U[0-9a-f]{{8}}|[nrt])")
_UNSAFE = re.compile(f"[{UNSAFE}]")
_SHORT = {r"\n": "\n", r"\r": "\r", r"\t": "\t"}


def cell(text: str) -> str:
    """Return text as a cell that is safe to open; `value` makes the same text of it again."""
    plain = (text.isascii() and text.isprintable()) or not _UNSAFE.search(text)
    formula = len(text) > 1 and text[0] in FORMULA and not _NUMBER.fullmatch(text)
    if plain and not formula and value(text) == text:
        return text
    return MARK + _PROTECTED.sub(lambda match: escape(match[0]), text)


def value(text: str) -> str:
    """Return what `cell` made the text of; text that it did not make stays as it is."""
    if not text.startswith(MARK):
        return text
    if (text[1:2] and text[1] in FORMULA + MARK) or _ESCAPED.search(text):
        return _ESCAPED.sub(lambda match: _sign(match[0]), text[1:])
    return text


def cells(row: Iterable[Any]) -> list[Any]:
    """Return a row for `csv.writer`: texts as cells, everything else as it is."""
    return [cell(one) if isinstance(one, str) else one for one in row]


def text_of(frame: pd.DataFrame) -> str:
    """Return the table as CSV without its index, columns and texts as cells."""
    safe = [_mapped(frame.iloc[:, i], cell) for i in range(frame.shape[1])]
    table = pd.concat(safe, axis=1) if safe else frame
    table.columns = pd.Index(cells(frame.columns), dtype=object)
    return str(table.to_csv(index=False))


def frame_of(data: bytes, columns: list[str] | None = None) -> pd.DataFrame:
    """Return a CSV of `text_of` as text, cell by cell; of these columns only, if they are given."""
    frame = pd.read_csv(io.BytesIO(data), keep_default_na=False, dtype=str, usecols=columns)
    frame = frame.rename(columns=value)
    return frame.apply(_mapped, args=(value,)) if len(frame) else frame


def _mapped(column: pd.Series, change: Any) -> pd.Series:
    """Return the column with its texts changed; itself where none is."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return column
    changed = {one: new for one in column.unique() if isinstance(one, str) and (new := change(one)) != one}
    return column.map(lambda one: changed.get(one, one) if isinstance(one, str) else one) if changed else column


def _sign(escape: str) -> str:
    return _SHORT.get(escape) or chr(int(escape[2:], 16))
