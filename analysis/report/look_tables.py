"""The table of looks along fine-tuning, for people."""

from __future__ import annotations

from analysis.formatting import interval, p_value, signed
from analysis.report.tables import ReportTable, report_table
from analysis.study import Analysis


def of_looks(analysis: Analysis) -> dict[str, ReportTable]:
    """Return the table by the name of its file."""
    return {
        "looks": report_table(
            "By the look that counts",
            "Mean ER by group at every choice among the looks of a fine-tuning, percentage points",
            (
                {
                    "group": str(r["group"]),
                    "look": str(r["look"]) + (" (in use)" if r["used"] else ""),  # short: columns of numbers follow
                    "ER": signed(r["er"]),
                    "95 % interval": interval(r["er_low"], r["er_high"]),
                    "points": str(r["n_used"]),
                    "difference from the one in use": signed(r["difference"]),
                    "95 % interval ": interval(r["difference_low"], r["difference_high"]),
                    "p (Holm)": p_value(r["difference_p_adjusted"]),
                    "says something else": "yes" if r["disagrees"] else "",
                }
                for r in analysis.looks.table.to_dict("records")
            ),
            note="mean: of all looks; last: each fine-tuning's last evaluation; id_val: that of its highest score on "
            "id_val. All three are of the same fine-tunings and of points in the "
            "baseline's ID range. Differences are of the same trials; Holm's correction is over all of them. Something "
            "else: one is shown and the other shown to be negligible or of the other sign, or the difference is shown "
            f"and larger than the margin of ±{analysis.options.margin:g}.",
        )
    }
