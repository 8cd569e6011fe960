"""The table of settings that were changed once there were scores: what each gives, for people."""

from __future__ import annotations

from analysis.decisions.declared import tables
from analysis.formatting import UNKNOWN, interval, pair, signed
from analysis.report.tables import ReportTable, report_table
from analysis.study import Analysis


def of_declared(analysis: Analysis) -> dict[str, ReportTable]:
    """Return the table by the name of its file."""
    return {
        "declared": report_table(
            "Under the settings in use and the earlier ones",
            "Effects in percentage points under the settings in use and under those that held before",
            (
                {
                    **({"earlier": str(r["setting"])} if len(analysis.earlier) > 1 else {}),
                    "effect": f"{r['effect']}: {pair(r['a'], r['b']) if r['b'] else r['a']}",
                    "in use": signed(r["used"]),
                    "95 %": interval(r["used_low"], r["used_high"]),
                    "shows": r["used_shows"] or UNKNOWN,
                    "before": signed(r["earlier"]),
                    "95 % ": interval(r["earlier_low"], r["earlier_high"]),
                    "showed": r["earlier_shows"] or UNKNOWN,
                }
                for r in tables(analysis)["declared"].to_dict("records")
            ),
        )
    }
