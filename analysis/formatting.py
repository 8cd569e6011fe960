"""Numbers as text: signs, intervals, percentages, p-values, and any value of a spec or a record.

Owns the look of every number in the page, the terminal, the sentences and the LaTeX tables; files for machines hold the
numbers themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from ray_robust.text.names import isolate, visible
from ray_robust.text.percent import UNKNOWN as UNKNOWN
from ray_robust.text.percent import percent as percent

MOST_DIGITS = 6  # after the point, of a number in a sentence
# of charts (d3-format): a percentage on an axis or in a tooltip looks as `percent` writes it
LOCALE = {"number": {"decimal": ".", "thousands": ",", "grouping": [3], "currency": ["$", ""], "percent": " %"}}


def signed(value: float, digits: int = 1) -> str:
    """Return `+6.2`, `−0.4` or `0.0`."""
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def number(value: float, digits: int = 3) -> str:
    """Return `0.760` or `−0.86`."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else UNKNOWN


def interval(low: float, high: float, digits: int = 1) -> str:
    """Return `4.8 to 7.5`, or a dash where there is no interval."""
    return f"{_unsigned_zero(low, digits)} to {_unsigned_zero(high, digits)}" if math.isfinite(low) else UNKNOWN


def span(low: float, high: float, digits: int = 1) -> str:
    """Return an interval inside a sentence, in points: `(4.8 to 7.5)`."""
    return f"({interval(low, high, digits)})" if math.isfinite(low) else "(no interval)"


def effect(value: float, low: float, high: float, what: str = " points of ER", level: str = "") -> str:
    """Return a difference with its interval: `+6.2 points of ER (4.8 to 7.5)`, or `(95 %: 4.8 to 7.5)`. Where the
    interval excludes 0, with as many digits as the end next to 0 takes to be seen beside it."""
    nearest = min(abs(low), abs(high))
    digits = digits_until(lambda some: not low * high > 0 or float(f"{nearest:.{some}f}") != 0)
    ends = span(low, high, digits)
    return f"{signed(value, digits)}{what} {ends.replace('(', f'({level}', 1) if math.isfinite(low) else ends}"


def digits_until(seen: Callable[[int], bool], least: int = 1) -> int:
    """Return the fewest digits after the point, `least` or more, with which what a sentence says is seen."""
    return next((digits for digits in range(least, MOST_DIGITS) if seen(digits)), MOST_DIGITS)


def counted(count: int, of: int, what: str, verb: str) -> str:
    """Return `2 of the 3 pairs differ`, `1 of the 3 pairs differs`, `none of the 3 pairs differs`; `what` and `verb`
    are plurals."""
    return f"{count or 'none'} of the {of:,} {what} {verb}{'' if count > 1 else 's'}"


def scores(low: float, high: float) -> str:
    """Return a range of scores: `47.0 % to 52.5 %`."""
    return f"{percent(low)} to {percent(high)}" if math.isfinite(low) else UNKNOWN


def p_value(value: float) -> str:
    """Return `0.013` or `< 0.001`."""
    return UNKNOWN if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def p_equals(value: float, level: float, digits: int = 3) -> str:
    """Return `p = 0.013` or `p < 0.001`; a p over the level that decides with as many digits as show that it is."""
    digits = digits_until(lambda some: not level < value or float(f"{value:.{some}f}") > level, digits)
    return "p < 0.001" if value < 0.001 else f"p = {value:.{digits}f}"


def format_value(value: Any) -> str:
    """Return a value of a record as text: lists joined, whole numbers grouped, floats to four digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    return str(value)


def pair(a: str, b: str) -> str:
    """Return the name of a difference; what both names begin with, up to the first `=`, is written once: `num_images=64
    − 32`."""
    shared = a[: a.find("=") + 1]
    return f"{isolate(visible(a))} − {isolate(visible(b.removeprefix(shared) if shared else b))}"


def name(text: object, most: int = 60) -> str:
    """Return a user's name for use inside a sentence: on one line, a long one with its middle left out."""
    line = visible(" ".join(re.split(r"[ \t\r\n\f\v]+", str(text).strip(" \t\r\n\f\v\u00a0"))))
    return isolate(line if len(line) <= most else f"{line[: most - most // 3 - 1]}…{line[-(most // 3) :]}")


def listed(items: Sequence[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def some(items: Sequence[str], most: int, what: str = "") -> str:
    """Return items in a sentence, of many the first `most` and how many more: `a, b and 3 more groups`."""
    rest = len(items) - most
    more = f"{rest} more" + (f" {what}{'s' * (rest > 1)}" if what else "")
    return listed([*items[:most], more] if rest > 0 else list(items))


def _unsigned_zero(value: float, digits: int) -> str:
    text = number(value, digits)
    return text.lstrip("−") if float(text.replace("−", "-")) == 0 else text
