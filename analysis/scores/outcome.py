"""What a difference of raw scores shows, in words: a gain, a loss, none within the margin, or none seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from analysis.findings import holm_note, holm_p, inner_span, small_note
from analysis.formatting import number
from analysis.stats.contrasts import claimed
from analysis.stats.score_differences import detectable


def picked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a difference with the interval of the group that is picked because it scores highest."""
    return {**row, "low": row["picked_low"], "high": row["picked_high"], "smallest_detectable": detectable(row)}


def outcome(row: Mapping[str, Any], unit: str) -> str:
    """Return what a difference shows; `unit` is what one cluster is called."""
    return "".join(outcome_parts(row, unit))


def outcome_parts(row: Mapping[str, Any], unit: str) -> tuple[str, str]:
    """Return what a difference shows in a few words, and what has to be read with them, which may be empty."""
    kind, sign = claimed(row), "gain" if row["delta"] > 0 else "loss"
    if kind == "differs":
        return f"a {sign}", small_note(row)
    if kind == "equivalent":
        return f"no gain or loss beyond {row['margin']:g} points", f" {inner_span(row)}"
    if row["se"] == 0:
        return "no gain or loss shown", f"; the difference of every {unit} is the same, which leaves its spread unknown"
    if not math.isfinite(row["low"]):
        return "no gain or loss shown", f"; more {unit}s are needed for an interval"
    if holm_note(row):
        return f"no {sign} seen", f"{holm_note(row)}{holm_p(row)}"
    return "no gain seen", f"; this design could have found {number(row['smallest_detectable'], 1)} points or more"
