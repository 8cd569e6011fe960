"""Fractions as percentages: every one that is printed, in sentences, tables and the terminal, is written here."""

from __future__ import annotations

import math
from typing import Any

UNKNOWN = "–"


def percent(value: Any, digits: int = 1, missing: str = UNKNOWN) -> str:
    """Return a fraction as `47.0 %`, with a space as SI writes it; `missing` for what is no finite number."""
    finite = isinstance(value, int | float) and math.isfinite(value)
    return f"{100 * value:.{digits}f} %" if finite else missing
