"""Cells of a table as numbers: decimal commas, % signs, blanks of every kind, marks for a missing value.

Owns `numbers` (scores) and `amounts` (counts such as images, with thousands separators). A cell is read only where it
can mean one number; every other is left to the caller as bad.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ray_robust.text.names import MISSING, normalise

SCORE = re.compile(r"([+-]?)(\d+(?:[.,]\d*)?|[.,]\d+)(e[+-]?\d+)?( ?%)?", re.IGNORECASE)
GROUPED = re.compile(r"[+-]?\d{1,3}([, '\u2019_])\d{3}(?:\1\d{3})*")
DOTTED = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+")
SHORT = re.compile(r"(\d+(?:\.\d+)?) ?([km])", re.IGNORECASE)
TIMES = {"k": 1_000, "m": 1_000_000}


@dataclass(frozen=True, eq=False)
class Numbers:
    """One column: values as they stand there (float [rows], NaN where missing or bad), and which cells are missing,
    bad, carry a % sign, or have a decimal comma (bool [rows])."""

    values: np.ndarray
    missing: np.ndarray
    bad: np.ndarray
    signed: np.ndarray
    comma: np.ndarray


def numbers(cells: pd.Series) -> Numbers:
    """Return the cells as scores. A comma alone is a decimal comma, since no score has thousands; `inf` and words are
    bad."""
    values = pd.to_numeric(cells, errors="coerce").to_numpy(float, na_value=np.nan).copy()
    flags = np.zeros((4, len(cells)), bool)
    odd = np.flatnonzero(~np.isfinite(values))
    codes, texts = pd.factorize(cells.iloc[odd])
    if len(odd):
        read = [_score(str(text)) for text in texts]
        values[odd] = np.array([value for value, _ in read])[codes]
        flags[:, odd] = np.array([flag for _, flag in read]).T[:, codes]
    return Numbers(values, *flags)


def _score(text: str) -> tuple[float, tuple[bool, bool, bool, bool]]:
    """The value, and whether the cell is missing, bad, signed with %, written with a comma."""
    text = _plain(text)
    if text.casefold() in MISSING:
        return np.nan, (True, False, False, False)
    match = SCORE.fullmatch(text)
    if not match:
        return np.nan, (False, True, False, False)
    sign, digits, power, percent = match.groups()
    value = float(f"{sign}{digits.replace(',', '.')}{power or ''}")
    return value, (False, not np.isfinite(value), bool(percent), "," in digits)


def amounts(cells: pd.Series) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Return counts and the like as text that reads as a number, and which cells are bad, and which could mean two
    numbers.

    `1,000`, `1 000`, `1_000`, `64k` and `1.2M` are read; `1.000` is 1 or 1000, unless other cells of the column show
    that a dot is a decimal point there. Missing cells become NaN.
    """
    text = cells.map({cell: _plain(cell) for cell in cells.unique()})
    missing = text.str.casefold().isin(MISSING)
    decimals = bool((text.str.contains(".", regex=False) & ~text.str.fullmatch(DOTTED)).any())
    unclear = text.str.fullmatch(DOTTED) & ~missing & (not decimals)
    read = text.map({cell: _amount(cell) for cell in text.unique()})
    bad = pd.to_numeric(read, errors="coerce").isna() & ~missing
    return read.mask(missing | bad), bad, unclear


def _amount(text: str) -> str:
    if GROUPED.fullmatch(text):
        return re.sub(r"[, '\u2019_]", "", text)
    if short := SHORT.fullmatch(text):
        return f"{float(short[1]) * TIMES[short[2].lower()]:.12g}"
    return text.replace(",", ".") if re.fullmatch(r"\d+,\d{1,2}|\d+,\d{4,}", text) else text


def _plain(text: str) -> str:
    """Without blanks around it and with plain digits, signs and blanks."""
    text = normalise(text)
    if text.isascii():
        return text
    text = "".join(str(_digit(c)) if c.isdigit() else c for c in text)
    return text.translate(str.maketrans("\u2212\uff0e\uff0c\uff05\u066b\u066a", "-.,%.%"))


def _digit(character: str) -> str:
    try:
        return str(int(character))
    except ValueError:  # superscripts and the like are no digits of a number
        return character
