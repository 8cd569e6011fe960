"""The tables of several shifts: files for programs, and short ones for people."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.findings import STATES
from analysis.formatting import UNKNOWN, interval, number, p_value, pair, signed
from analysis.report.tables import ReportTable, group_interval, report_table
from analysis.shifts.sentences import kind_text
from analysis.stats.contrasts import state
from analysis.stats.shift_effects import EFFECTS, MEANS
from analysis.stats.shift_results import LINES
from analysis.stats.study_tables import GROUPS
from analysis.study import Analysis

# file name -> columns
FILES = {
    "shifts": LINES,
    "shift_groups": ("shift", *GROUPS, "estimated"),
    "shift_contrasts": EFFECTS,
    "shift_means": MEANS,
}


def tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return the tables by the name of their file; empty ones where there is one shift."""
    shifts = analysis.shifts
    points = [one.points.assign(shift=one.name) for one in shifts.results]
    return {
        "shifts": shifts.lines,
        "shift_groups": shifts.groups,
        "shift_contrasts": shifts.effects,
        "shift_means": shifts.means,
        "shift_robustness": pd.concat(points, ignore_index=True) if points else pd.DataFrame(),
    }


def of_shifts(analysis: Analysis) -> dict[str, ReportTable]:
    """Return the tables of the section, by the name of their file."""
    return {"shift_means": _means(analysis), "shift_contrasts": _contrasts(analysis), "shifts": _lines(analysis),
            "shift_groups": _groups(analysis)}  # fmt: skip


def _means(analysis: Analysis) -> ReportTable:
    return report_table(
        "Over all shifts",
        "Mean over the shifts of the difference of mean ER, and whether it is of one size, percentage points",
        (
            {
                "contrast": pair(r["a"], r["b"]),
                "mean": signed(r["delta_er"]),
                "95 % interval": interval(r["low"], r["high"]),
                "p (Holm)": p_value(r["p_adjusted"]),
                "shows": STATES[state(r)],
                "by itself on": f"{r['shown']} of {r['shifts']}",
                "of one size? p (Holm)": p_value(r["p_spread_adjusted"]),
                "spread": number(r["spread"], 1),
                "interval, shifts of this kind": kind_text(r),
                "lowest": f"{signed(r['lowest_er'])} ({r['lowest']})",
                "highest": f"{signed(r['highest_er'])} ({r['highest']})",
            }
            for r in _rows(analysis.shifts.means)
        ),
        note="The mean and its interval speak of these very shifts. The same trained models are tested on all of them, "
        "so that effects on two shifts share the luck of their trials: the interval and the test of one size use the "
        "joint covariance of the effects, by what each trial contributes to all of them (F with the correction of "
        "Greenhouse and Geisser). Spread: standard deviation of the true effects, by moments. Shifts of this kind: the "
        "interval where these shifts are a sample of others.",
    )


def _contrasts(analysis: Analysis) -> ReportTable:
    return report_table(
        "Contrasts on every shift",
        "Differences of mean ER on each shift, from its own line, percentage points",
        (
            {
                "shift": analysis.shifts.shown(r["shift"]),
                "contrast": pair(r["a"], r["b"]),
                "difference of ER": signed(r["delta_er"]),
                "95 % interval": interval(r["low"], r["high"]),
                "p (Holm)": p_value(r["p_adjusted"]),
                "shows": STATES[state(r)],
            }
            for r in _rows(analysis.shifts.effects)
        ),
        note="Holm's correction is over all shifts and contrasts of a family (against the baseline; between groups).",
    )


def _lines(analysis: Analysis) -> ReportTable:
    return report_table(
        "The baseline's line on every shift",
        f"Ordinary least squares of OOD on ID, transformed ({analysis.options.scale})",
        (
            {
                "shift": analysis.shifts.shown(r["shift"]),
                "OOD images": number(r["ood_images"], 0),
                "ID images": number(r["id_images"], 0),
                "classes": number(r["classes"], 0) if r["classes"] == r["classes"] else "all",
                "slope": number(r["slope"]),
                "95 %": interval(r["slope_low"], r["slope_high"], 3),
                "R²": number(r["r2"]),
                "compared": "yes" if r["compared"] else str(r["refused"] or aside[r["shift"]] or UNKNOWN),
            }
            for aside in [{one.name: one.aside for one in analysis.shifts.results}]
            for r in _rows(analysis.shifts.lines)
        ),
        note="A shift with some of the task's classes has predictions and ID scores over these alone.",
    )


def _groups(analysis: Analysis) -> ReportTable:
    return report_table(
        "Groups on every shift",
        "Mean ER by shift and group, percentage points",
        (
            {
                "shift": analysis.shifts.shown(r["shift"]),
                "group": str(r["group"]),
                "ER": signed(r["er"]),
                "95 % interval": group_interval(r, analysis.options.baseline),
                "used": f"{r['n_used']} of {r['n_points']}",
            }
            for r in _rows(analysis.shifts.groups)
        ),
    )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")
