"""The tables of "Is this line real?" as people read them; the numbers, unrounded, are in the CSVs of the same name."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.formatting import UNKNOWN, interval, number, p_value, percent, scores, signed
from analysis.line import gaps
from analysis.line.line_checks import NOISE, RESIDUALS, SCHEDULE, TESTS, LineChecks
from analysis.report.tables import ReportTable, report_table
from analysis.stats import curvature, reliability

CHECK = {"slope": "rises", "curvature": "straight", "schedule": "schedule", "scatter": "scatter"}
# file name -> columns: the data of every figure and table of the panel
FILES = {
    "line_checks": TESTS,
    "line_curve": curvature.CURVE,
    "line_residuals": RESIDUALS,
    "line_schedule": SCHEDULE,
    "line_scatter": NOISE,
    "line_reliability": reliability.COLUMNS,
    "line_gaps": gaps.COLUMNS,
}


def tables(checks: LineChecks | None) -> dict[str, pd.DataFrame]:
    """Return the tables by the name of their file; empty ones where there is no line."""
    if checks is None:
        return {name: pd.DataFrame(columns=list(columns)) for name, columns in FILES.items()}
    return {
        "line_checks": checks.tests,
        "line_curve": checks.curve,
        "line_residuals": checks.residuals,
        "line_schedule": checks.schedule,
        "line_scatter": checks.noise,
        "line_reliability": checks.reliability,
        "line_gaps": checks.gaps,
    }


def of_line(checks: LineChecks | None, unit: str = "trial") -> dict[str, ReportTable]:
    """Return the tables of the panel, by the name of their file. `unit` is what one cluster is called."""
    own = tables(checks)
    return {
        "line_checks": _tests(own["line_checks"], unit),
        "line_schedule": _schedule(own["line_schedule"], unit),
        "line_reliability": _reliability(own["line_reliability"]),
        "line_gaps": _gaps(own["line_gaps"]),
    }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")


def _tests(table: pd.DataFrame, unit: str) -> ReportTable:
    return report_table(
        "Tests of the line",
        f"Each test of the baseline's line, clustered by {unit}; p by Holm within its check",
        (
            {
                "check": CHECK.get(str(r["check"]), str(r["check"])),
                "test": str(r["test"]),
                "size": f"{signed(r['value'], 2)} {r['unit']}" if math.isfinite(r["value"]) else UNKNOWN,
                "95 % interval": interval(r["low"], r["high"], 2),
                "F (degrees of freedom)": _f(r),
                "p (Holm)": p_value(r["p_adjusted"]),
            }
            for r in _rows(table)
        ),
        note="One coefficient: CR2 with the degrees of freedom of Bell and McCaffrey (2002). Several: the approximate "
        f"Hotelling test of Pustejovsky and Tipton (2018). A dash: too few {unit}s for it.",
    )


def _f(row: dict[str, Any]) -> str:
    finite = math.isfinite(row["f"])
    return f"{number(row['f'], 2)} ({number(row['df1'], 0)}, {number(row['df2'], 1)})" if finite else UNKNOWN


def _schedule(table: pd.DataFrame, unit: str) -> ReportTable:
    return report_table(
        "Residuals by epoch and learning rate",
        "Mean distance of the baseline's points from its line, percentage points of OOD",
        (
            {
                "by": str(r["what"]),
                "at": f"{r['value']:.3g}",
                "off the line": signed(r["residual"], 2),
                "95 % interval": interval(r["low"], r["high"], 2),
                f"{unit}s": str(r["trials"]),
                "points": str(r["points"]),
            }
            for r in _rows(table)
        ),
    )


def _reliability(table: pd.DataFrame) -> ReportTable:
    return report_table(
        "How well ID is measured",
        "Reliability of the baseline's ID scores on the transformed axis",
        (
            {
                "ID set": str(r["id_set"]),
                "images": number(r["images"], 0),
                "error, SD": number(r["noise_sd"]),
                "seen, SD": number(r["spread_sd"]),
                "reliability": number(r["reliability"]),
                "given the others": number(r["given_others"]),
                "error known from": str(r["source"]),
            }
            for r in _rows(table)
        ),
    )


def _gaps(table: pd.DataFrame) -> ReportTable:
    return report_table(
        "Gaps in the baseline",
        "The widest gaps between the baseline's ID scores, and the groups that have points inside",
        (
            {
                "group": str(r["group"]),
                "between ID": scores(r["id_low"], r["id_high"]),
                "of the range": percent(r["share"], 0) + (" (wide)" if r["wide"] else ""),
                "points inside": f"{r['inside']} of {r['of']}",
            }
            for r in _rows(table)
        ),
    )
