"""Which group is best, and which cannot be told from it, in sentences and for verdict.json.

A set is a statement on the best group, with 95 % confidence. It claims no difference between two groups.
"""

from __future__ import annotations

from typing import Any

from analysis.findings import marked_text, records
from analysis.formatting import name, some
from analysis.stats.best_set import ER, OOD
from analysis.study import Analysis

WHAT = {ER: "ER", OOD: "the OOD score"}
MOST_LISTED = 8


def best_sentence(analysis: Analysis, measure: str) -> str:
    """Return which groups may be best by a measure, "" where there are not two, or trials are missing."""
    rows = [row for row in records(analysis.best) if row["measure"] == measure]
    if not rows or analysis.interim is not None:
        return ""
    within = [name(row["group"]) for row in rows if row["in_set"]]
    unknown = [name(row["group"]) for row in rows if not row["known"]]
    groups = f"{len(rows)} groups"
    if analysis.options.baseline in {row["group"] for row in rows}:
        groups += f", {name(analysis.options.baseline)} among them"
    lacking = f"; {some(unknown, MOST_LISTED)} for want of an interval" if unknown else ""
    if len(unknown) == len(rows):
        text = f"Which group is best by {WHAT[measure]} cannot be told: none has an interval."
    elif len(within) == len(rows):
        text = f"No group can be told from the best by {WHAT[measure]} (95 %): all {len(rows)} may be{lacking}."
    elif len(within) == 1:
        text = f"Best by {WHAT[measure]} (95 %): {within[0]}, of {groups}."
    else:
        text = f"The best by {WHAT[measure]} is among {some(within, MOST_LISTED)} (95 %), of {groups}{lacking}."
    return marked_text(text, analysis, of_er=measure == ER)


def best_sets(analysis: Analysis) -> dict[str, Any]:
    """Return what verdict.json says of it; nothing where there are not two groups."""
    made = {}
    for measure in dict.fromkeys(analysis.best["measure"]):
        rows = records(analysis.best.loc[analysis.best["measure"] == measure].drop(columns="measure"))
        made[measure] = {"set": [row["group"] for row in rows if row["in_set"]], "groups": rows,
                         "text": best_sentence(analysis, measure)}  # fmt: skip
    return {"best_sets": made} if made else {}
