"""Every table of the report as people read it: `ReportTable`s of text, shown by the page and by LaTeX alike.

The same numbers, unrounded, are in the CSV of the same name. Owns captions, columns and which digits are worth showing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.duplicates import with_and_without
from analysis.findings import PER, STATES, capital, equivalence_table, not_straight, two_levels
from analysis.formatting import UNKNOWN, interval, number, p_value, pair, percent, scores, signed
from analysis.stats.check_words import does_not_hold
from analysis.stats.contrasts import state
from analysis.study import Analysis
from analysis.views import View
from ray_robust.metrics import label_of

TWO_LEVELS = (
    "With two levels, what is claimed is their contrast, over the ID scores that both groups have; this slope compares "
    "each trial's mean ER, at its own ID scores."
)
SHORT = 24  # characters; a longer cell may wrap


@dataclass(frozen=True)
class ReportTable:
    """A table of text. `title` is its heading, `caption` describes what it holds and in which unit."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""

    @property
    def kinds(self) -> list[str]:
        """The class of every column: `n` for numbers, `tight` for text that is short enough not to wrap."""
        classes = []
        for cells in zip(*self.rows, strict=True):
            numeric = all(not any(c.isalpha() for c in text.replace(" to ", "")) for text in cells)
            classes.append(" ".join(["n"] * numeric + ["tight"] * (max(map(len, cells)) <= SHORT)))
        return classes or [""] * len(self.columns)


def report_table(title: str, caption: str, rows: Iterable[dict[str, str]], note: str = "") -> ReportTable:
    """Return a table from rows by column name."""
    rows = list(rows)
    names = tuple(rows[0]) if rows else ()
    return ReportTable(title, caption, names, [[row[name] for name in names] for row in rows], note)


def plain(title: str, caption: str, table: pd.DataFrame) -> ReportTable:
    """Return any table as it is."""
    cells = table.fillna(UNKNOWN).astype(str)
    return ReportTable(title, caption, tuple(map(str, table.columns)), cells.to_numpy().tolist() if len(cells) else [])


def varied(analysis: Analysis) -> str:
    """Return what the factors of a regression are."""
    return "what the sweep varies" if analysis.options.unit == "trial" else "what varies between the groups"


def report_tables(analysis: Analysis, views: Sequence[View]) -> dict[str, ReportTable]:
    """Return every table of a task, by the name of its file."""
    return {
        "groups": _groups(analysis),
        "contrasts": _contrasts(analysis),
        "equivalence": _equivalence(analysis),
        "slopes": _slopes(analysis),
        "at_id": _at_id(analysis),
        "factors": _factors(analysis),
        "trends": _trends(analysis),
        "id_sets": _id_sets(analysis),
        "views": _views(analysis, views),
        "errors": _errors(analysis),
        "influence": _influence(analysis),
        "selection": _selection(analysis),
        "duplicates": _duplicates(analysis),
    }


CHECKS = ("trends", "id_sets", "views", "errors", "influence", "selection", "duplicates")


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")


def _groups(analysis: Analysis) -> ReportTable:
    baseline = analysis.options.baseline
    return report_table(
        "Groups",
        "Mean ER by group, percentage points",
        (
            {
                "group": str(r["group"]),
                "ER": signed(r["er"]),
                "95 % interval": group_interval(r, baseline),
                f"{analysis.options.unit}s": str(r["n_trials"]),
                "points": str(r["n_points"]),
                "used": str(r["n_used"]),
                "ID range": scores(r["id_low"], r["id_high"]),
            }
            for r in _rows(analysis.groups)
        ),
    )


def group_interval(row: dict[str, Any], baseline: str) -> str:
    """Return the interval of a group's mean ER; the baseline's own mean is 0 because the line is its own."""
    if not math.isfinite(row["er"]):
        return UNKNOWN
    return "by construction" if row["group"] == baseline else interval(row["er_low"], row["er_high"])


def _contrasts(analysis: Analysis) -> ReportTable:
    return report_table(
        "Contrasts",
        "Differences of mean ER, percentage points, over ID scores that both share",
        (
            {
                "contrast": pair(r["a"], r["b"]),
                "difference of ER": signed(r["delta_er"]),
                "95 % interval": interval(r["low"], r["high"]) if math.isfinite(r["delta_er"]) else UNKNOWN,
                "p (Holm)": p_value(r["p_adjusted"]),
                "shows": STATES[state(r)],
                "could have found": number(r["smallest_detectable"], 1),
                "shared ID range": scores(r["id_low"], r["id_high"]),
            }
            for r in _rows(analysis.contrasts)
        ),
        note="“Could have found”: the smallest true difference that shows with 80 % power, by this row's own scatter "
        "and tested alone. What to do plans with the scatter of all groups and Holm's correction. No effect in margin: "
        "two one-sided tests at 5 %, within "
        f"±{analysis.options.margin:g} points.",
    )


def _equivalence(analysis: Analysis) -> ReportTable:
    return report_table(
        "Is there no effect? Equivalence tests",
        f"Differences of mean ER with 90 % intervals, percentage points; the margin is ±{analysis.options.margin:g}",
        (
            {
                "contrast": pair(r["a"], r["b"]),
                "difference of ER": signed(r["delta_er"]),
                "90 % interval": interval(r["low90"], r["high90"]),
                "smallest margin that it lies in": number(r["smallest_provable"], 1),
                "shows": "no effect in margin" if r["equivalent"] else "not shown",
            }
            for r in _rows(equivalence_table(analysis))
        ),
    )


def _duplicates(analysis: Analysis) -> ReportTable:
    return report_table(
        "Without images that occur elsewhere",
        "Mean ER by group with all test images, and without those that occur in another split, in a source or under "
        "another label too, percentage points",
        (
            {
                "group": str(r["group"]),
                "ER": signed(r["er"]),
                "95 % interval": group_interval(r, analysis.options.baseline),
                "ER without": signed(r["er_without"]),
                "95 % interval ": _interval_without(r, analysis.options.baseline),
                "change": signed(r["change"]),
            }
            for r in _rows(with_and_without(analysis))
        ),
        note=f"{analysis.recount.sentence}." if analysis.recount else "",
    )


def _interval_without(row: dict[str, Any], baseline: str) -> str:
    return group_interval(
        {"group": row["group"], "er": row["er_without"], "er_low": row["er_without_low"],
         "er_high": row["er_without_high"]}, baseline,
    )  # fmt: skip


def _slopes(analysis: Analysis) -> ReportTable:
    return report_table(
        "Do they lie on one line?",
        f"Differences of slope, then of height, of the groups' own lines ({analysis.options.scale} axes)",
        (
            {
                "contrast": pair(r["a"], r["b"]),
                "slope": signed(r["slope_difference"], 3),
                "95 %": interval(r["slope_low"], r["slope_high"], 3),
                "p (Holm)": p_value(r["slope_p_adjusted"]),
                "height": signed(r["height_difference"], 3),
                "95 % ": interval(r["height_low"], r["height_high"], 3),
                "p (Holm) ": p_value(r["height_p_adjusted"]),
                "shows": _lines_show(r, analysis.options.unit),
            }
            for r in _rows(analysis.ancova)
        ),
        note="Analysis of covariance, h(OOD) ~ h(ID) × group: slopes first; heights are compared at one common slope. "
        "Holm's correction is over all slopes, and per family over heights.",
    )


def _lines_show(row: dict[str, Any], unit: str) -> str:
    if row["slopes_differ"]:
        return "slopes differ"
    if row["not_robust_to"]:
        return f"slopes: {does_not_hold(row['not_robust_to'].split('; '), unit)}"
    return "heights differ" if row["heights_differ"] else "not told apart"


def _at_id(analysis: Analysis) -> ReportTable:
    return report_table(
        "Where slopes differ: the difference at three ID scores",
        "Distance of the two lines, percentage points of the OOD score",
        (
            {
                "contrast": pair(r["a"], r["b"]),
                "at ID": percent(r["id"]),
                "difference": signed(r["delta_er"]),
                "95 % interval": interval(r["low"], r["high"]),
                "p (Holm)": p_value(r["p_adjusted"]),
                "shows": STATES[state(r)],
            }
            for r in _rows(analysis.at_ids)
        ),
    )


def _factors(analysis: Analysis) -> ReportTable:
    regression = analysis.regression
    note = (
        f"The mean ER of {regression.rows} {analysis.options.unit}s regressed on all factors together: "
        f"R² {number(regression.r2, 2)}, "
        f"condition number {number(regression.condition, 1)} (1 is best; over 30 factors cannot be told apart)."
        if regression.factors
        else ""
    )
    return report_table(
        "Factors",
        f"Regression of mean ER on {varied(analysis)}, percentage points",
        (
            {
                "factor": r["label"],
                "ER": signed(r["slope"]) + PER[r["per"]],
                "95 % interval": interval(r["low"], r["high"]),
                "p (Holm)": p_value(r["p_adjusted"]),
                "shows": _slope_shows(analysis, r),
                "standardised": signed(r["standardised"], 2),
                "partial R²": number(r["partial_r2"], 2),
                "levels": str(r["levels"]),
            }
            for r in _rows(analysis.factor_table)
        ),
        note=f"{note} {TWO_LEVELS}" if any(two_levels(analysis, r) for r in _rows(analysis.factor_table)) else note,
    )


def _slope_shows(analysis: Analysis, row: dict[str, Any]) -> str:
    if two_levels(analysis, row):
        return "see the contrast"
    return "not straight" if not_straight(row) else STATES[state(row)]


def _trends(analysis: Analysis) -> ReportTable:
    return report_table(
        "Lines on every scale",
        "Ordinary least squares of OOD on ID, transformed",
        (
            {
                "group": str(r["group"]),
                "scale": r["scale"] + (" (chosen)" if r["scale"] == analysis.options.scale else ""),
                "points": str(r["n"]),
                "slope": number(r["slope"]),
                "95 %": interval(r["slope_low"], r["slope_high"], 3),
                "intercept": number(r["intercept"]),
                "95 % ": interval(r["intercept_low"], r["intercept_high"], 3),
                "R²": number(r["r2"]),
                "clipped": str(r["clipped"]),
            }
            for r in _rows(analysis.trends)
        ),
    )


def _id_sets(analysis: Analysis) -> ReportTable:
    return report_table(
        "The ID sets",
        "How each ID set enters the expectation (Shi et al. 2023)",
        (
            {
                "ID set": str(r["id_set"]),
                "share": number(r["share"]),
                "slope": number(r["slope"]),
                "95 %": interval(r["slope_low"], r["slope_high"], 3),
                "range": scores(r["id_min"], r["id_max"]),
            }
            for r in _rows(analysis.id_sets)
        ),
    )


def _views(analysis: Analysis, views: Sequence[View]) -> ReportTable:
    return report_table(
        "Other metrics and scales",
        "Mean ER by group had another metric or scale been chosen, percentage points",
        (
            {
                "group": str(r["group"]),
                "metric": label_of(view.metric),
                "scale": view.scale + (" (chosen)" if view.chosen else ""),
                "ER": signed(r["er"]),
                "95 % interval": group_interval(r, analysis.options.baseline),
                "R² of the baseline": number(view.r2, 2),
            }
            for view in views
            for r in _rows(view.groups)
            if r["group"] != analysis.options.baseline
        ),
        " ".join(dict.fromkeys(f"{capital(note)}." for view in views for note in view.notes)),
    )


def _errors(analysis: Analysis) -> ReportTable:
    return report_table(
        "What the intervals are made of",
        "Standard error of each group's mean ER by its source, percentage points",
        (
            {
                "group": str(r["group"]),
                "source of error": re.sub("^trials(?= of )", f"{analysis.options.unit}s", str(r["source"])),
                "drawn from": number(r["clusters"], 0),
                "standard error": number(r["se"], 2),
                "degrees of freedom": number(r["df"], 1),
            }
            for r in _rows(analysis.errors)
        ),
        note=analysis.target,
    )


def _influence(analysis: Analysis) -> ReportTable:
    return report_table(
        f"Influence: leave one {analysis.options.unit} out",
        "What leaving it out does to a group's mean ER, percentage points, strongest first",
        (
            {
                "left out": str(r["trial"]),
                "of": str(r["group"]),
                "moves": str(r["moves"]),
                "ER by": signed(r["change"]),
                "baseline slope then": number(r["slope_without"]),
                "Cook's distance": number(r["cook"], 2),
            }
            for r in _rows(analysis.influence)
        ),
    )


def _selection(analysis: Analysis) -> ReportTable:
    return report_table(
        "Selection: had one chosen by OOD validation scores",
        f"Each {analysis.options.unit}'s best point by id_val, and by ood_val, among the points that raw scores are "
        "chosen from; ER in percentage points, "
        f"of the {analysis.options.unit}s where both lie in the baseline's ID range",
        (
            {
                "group": str(r["group"]),
                f"{analysis.options.unit}s": str(r["trials"]),
                "choice changes in": str(r["changed"]),
                "ER, by id_val": signed(r["er_by_id_val"]),
                "ER, by ood_val": signed(r["er_by_ood_val"]),
                "change": signed(r["change"]),
                "95 % interval": interval(r["change_low"], r["change_high"]),
                "OOD, by id_val": percent(r["ood_by_id_val"]),
                "OOD, by ood_val": percent(r["ood_by_ood_val"]),
            }
            for r in _rows(analysis.selection)
        ),
    )
