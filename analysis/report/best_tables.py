"""The table of which group is best, for people."""

from __future__ import annotations

from analysis.decisions.best import WHAT
from analysis.formatting import UNKNOWN, number, percent, signed
from analysis.report.tables import ReportTable, report_table
from analysis.scales import PP
from analysis.stats.best_set import ER
from analysis.study import Analysis


def of_best(analysis: Analysis) -> dict[str, ReportTable]:
    """Return the table by the name of its file."""
    return {
        "best": report_table(
            "Which is best?",
            "Groups by mean ER and by OOD score, and whether each may be the best (95 %), percentage points",
            (
                {
                    "by": WHAT[r["measure"]],
                    "group": str(r["group"]),
                    "value": signed(r["value"]) if r["measure"] == ER else percent(r["value"] / PP),
                    "may be best": ("yes" if r["in_set"] else "no") if r["known"] else UNKNOWN,
                    "at least so far behind": number(r["at_least_behind"], 1),
                    "at most": number(r["at_most_behind"], 1),
                }
                for r in analysis.best.to_dict("records")
            ),
            note="A group may be best unless some other lies above it by more than chance, at a level simulated from "
            "the joint errors of all groups: the truly best one is among them in 95 % of studies. It claims no "
            "difference between two groups. Mean ER is over each group's own ID scores in the baseline's range; the "
            "baseline's ER is 0 by construction, so that it is compared by OOD score alone. A dash: no interval, so "
            "that nothing is known.",
        )
    }
