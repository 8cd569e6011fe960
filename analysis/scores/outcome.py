"""What a difference of raw scores shows, in words: a gain, a loss, none within the margin, or none seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from analysis.findings import holm_note, holm_p, inner_span, small_note
from analysis.formatting import number, span
from analysis.stats.contrasts import claimed
from analysis.stats.score_differences import detectable


def picked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a difference with the interval of the group that is picked because it scores highest."""
    return {**row, "low": row["picked_low"], "high": row["picked_high"], "smallest_detectable": detectable(row)}


def picked_span(row: Mapping[str, Any], groups: int) -> str:
    """Return the interval of a `picked` row inside a sentence, with why it is wider than in the tables where the group
    is the best of several."""
    text = span(row["low"], row["high"])
    why = f"; wider than in the table, since the best of {groups} was picked)"
    return text[:-1] + why if groups > 1 and math.isfinite(row["low"]) else text


def outcome(row: Mapping[str, Any], unit: str) -> str:
    """Return what a difference shows; `unit` is what one cluster is called."""
    kind = claimed(row)
    if kind == "differs":
        return ("a gain" if row["delta"] > 0 else "a loss") + small_note(row)
    if kind == "equivalent":
        return f"no gain or loss beyond {row['margin']:g} points {inner_span(row)}"
    if not math.isfinite(row["low"]):
        return f"more {unit}s are needed for an interval"
    if row["se"] == 0:
        return f"no gain seen; the difference of every {unit} is the same"
    if holm_note(row):
        return f"no {'gain' if row['delta'] > 0 else 'loss'} seen{holm_note(row)}{holm_p(row)}"
    return f"no gain seen; this design could have found {number(row['smallest_detectable'], 1)} points or more"
