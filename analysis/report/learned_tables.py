"""The tables of "Was anything learned?" as people read them: short ones, of the CSVs of the same name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.formatting import UNKNOWN, interval, number, p_value, percent, signed
from analysis.input import run_curves
from analysis.learned import shift, upstream
from analysis.learned.learned import Learned
from analysis.report.tables import ReportTable, report_table
from analysis.scales import PP
from analysis.study import Analysis

MOST_CLASSES = 20  # classes, and pairs of them, in the page
MOST_TEST_GROUPS = 40  # in the page and its figure: the best and the worst differences
# file name -> columns
FILES = {
    "upstream": upstream.TABLE,
    "learning_curves": run_curves.CURVES,
    "classes": shift.CLASSES,
    "confusions": shift.CONFUSIONS,
    "test_groups": shift.TEST_GROUPS,
}


def tables(own: Learned) -> dict[str, pd.DataFrame]:
    """Return the tables by the name of their file."""
    return {
        "upstream": own.upstream,
        "learning_curves": own.curves,
        "classes": own.classes,
        "confusions": own.confusions,
        "test_groups": own.test_groups,
    }


def of_learned(analysis: Analysis) -> dict[str, ReportTable]:
    """Return the tables of the section, by the name of their file."""
    own, baseline = analysis.learned, analysis.options.baseline
    return {
        "upstream": _upstream(own.upstream),
        "classes": _classes(own, baseline),
        "confusions": _confusions(own, baseline),
        "test_groups": _test_groups(own, baseline),
    }


def drawn_test_groups(own: Learned, split: str = "ood_test") -> pd.DataFrame:
    """Return the differences of the compared group in the test groups of a split, the largest first; of very many the
    ends alone, as many of each."""
    table = own.test_groups
    rows = table.loc[(table["group"] == own.compared) & (table["split"] == split) & table["delta"].notna()]
    rows = rows.sort_values("delta", ascending=False, kind="stable")
    half = MOST_TEST_GROUPS // 2
    return rows if len(rows) <= MOST_TEST_GROUPS else pd.concat([rows.iloc[:half], rows.iloc[-half:]])


def _upstream(table: pd.DataFrame) -> ReportTable:
    return report_table(
        "Upstream accuracy",
        "Accuracy on held-out pre-training images, beside what a constant guess reaches, and how much of the fall of "
        "the loss came in the second half of the pre-training",
        (
            {
                "group": str(row["group"]),
                "verdict": _verdict(row),
                "trials": str(row["n_trials"]),
                "upstream accuracy": percent(row["accuracy"] / PP),
                "95 % interval": interval(row["low"], row["high"]),
                "chance": percent(row["chance"] / PP),
                "1 / labels": percent(row["per_label"] / PP),
                "late fall": percent(row["late_share"], 0),
            }
            for row in _rows(table)
        ),
        note="Interval: Wilson's over the held-out images of these trials. Chance is the share of the most frequent "
        "label among them. Methods measure other things (the head's accuracy; by class means for simclr, where an "
        "untrained network is above chance too; zero-shot for clip), so compare groups of one method only.",
    )


def _verdict(row: Mapping[str, Any]) -> str:
    if row["hardly_learned"]:
        return "hardly learned"
    if row["still_improving"]:
        return "still improving"
    return "learned" if math.isfinite(row["low"]) else UNKNOWN


def _classes(own: Learned, baseline: str) -> ReportTable:
    table, groups = own.classes, _groups(own, baseline)
    by_group = {group: table.loc[table["group"] == group].set_index("class") for group in groups}
    lead = by_group[groups[-1]].dropna(subset=["change"]) if groups else table
    note = (
        f"The {MOST_CLASSES} of {len(lead)} that lose most; all of every group: classes.csv. "
        if len(lead) > MOST_CLASSES
        else ""
    )
    return report_table(
        "Classes under the shift",
        "Share of a class's images that are recognised, out less in distribution, percentage points",
        (
            _class(str(label), {group: by_group[group].loc[label] for group in groups})
            for label in lead.index[:MOST_CLASSES]
        ),
        note=f"{note}Intervals over trials and test images; they hold for one class at a time, and the first of many "
        "is partly chance.",
    )


def _class(label: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    first = next(iter(rows.values()))
    cells = {"class": label, "ID images": f"{first['id_images']:.0f}", "OOD images": f"{first['ood_images']:.0f}"}
    for group, row in rows.items():
        cells |= {
            f"{group}: ID": percent(row["id_recall"] / PP),
            f"{group}: OOD": percent(row["ood_recall"] / PP),
            f"{group}: change": f"{signed(row['change'])} ({interval(row['low'], row['high'])})",
        }
    return cells


def _confusions(own: Learned, baseline: str) -> ReportTable:
    table, groups = own.confusions, _groups(own, baseline)
    shown = [
        table.loc[(table["group"] == group) & (table["more_images"] > 0)].head(MOST_CLASSES // 2) for group in groups
    ]
    return report_table(
        "What classes are taken for",
        "Confusions that grow most under the shift, by the images that they add to the shifted test",
        (
            {
                "group": str(row["group"]),
                "class": str(row["class"]),
                "taken for": str(row["taken_for"]),
                "of ID": percent(row["id_share"] / PP),
                "of OOD": percent(row["ood_share"] / PP),
                "change, points": signed(row["change"]),
                "95 % interval": interval(row["low"], row["high"]),
                "more images": number(row["more_images"], 1),
                "of": f"{row['ood_images']:.0f}",
            }
            for rows in shown
            for row in _rows(rows)
        ),
        note="The mean over trials. More pairs: confusions.csv.",
    )


def _test_groups(own: Learned, baseline: str) -> ReportTable:
    rows = drawn_test_groups(own)
    every = own.test_groups
    count = int(((every["group"] == own.compared) & (every["split"] == "ood_test")).sum())
    some = f"The {MOST_TEST_GROUPS} of {count} with the largest and smallest differences. " if len(rows) < count else ""
    return report_table(
        "Test groups",
        f"Accuracy in each group of the shifted test: {own.compared} less {baseline}, percentage points",
        (
            {
                "test group": str(row["test_group"]),
                "images": f"{row['images']:.0f}",
                baseline: percent(row["baseline_score"] / PP),
                own.compared: percent(row["score"] / PP),
                "difference": signed(row["delta"]),
                "95 % interval": interval(row["delta_low"], row["delta_high"]),
                "p (Holm)": p_value(row["p_adjusted"]),
            }
            for row in _rows(rows)
        ),
        note=f"{some}Intervals over trials, for the images that these groups have, each for itself; p is corrected for "
        f"all {count} test groups (Holm). All groups, and those of the ID test: test_groups.csv.",
    )


def _groups(own: Learned, baseline: str) -> list[str]:
    """The baseline and the compared group, those that have classes."""
    there = set(own.classes["group"])
    return [group for group in dict.fromkeys((baseline, own.compared)) if group in there]


def _rows(table: pd.DataFrame) -> Iterable[dict[str, Any]]:
    return table.to_dict("records")
