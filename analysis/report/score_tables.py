"""The raw scores as tables that people read: scores by group, their differences, and their slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.findings import PER, STATES, not_straight, records
from analysis.formatting import UNKNOWN, interval, number, p_value, pair, percent, signed
from analysis.report.tables import ReportTable, report_table, varied
from analysis.scales import PP
from analysis.scores.sentences import score_name
from analysis.scores.two_groups import pair_of
from analysis.stats.chosen_points import MEAN
from analysis.stats.contrasts import state
from analysis.stats.raw_scores import OOD
from analysis.stats.score_differences import BASELINE, BEST, TUNED
from analysis.study import Analysis

CHOSEN = {
    "id_val": "the evaluation point of each {unit} with the highest id_val",
    "last epoch": "the last epoch of every fine-tuning",
    "mean": "the mean over the points of each {unit}",
}


def score_tables(analysis: Analysis) -> dict[str, ReportTable]:
    """Return the tables of raw scores of a task, by the name of their file."""
    return {
        "scores": _scores(analysis),
        "score_differences": _differences(analysis),
        "score_factors": _slopes(analysis),
    }


def chosen_by(analysis: Analysis) -> str:
    """Return which points the scores are of, as text; "" where there is nothing to choose."""
    groups = analysis.scores.groups
    if analysis.scores.choice.by == MEAN and (groups["n_points"] == groups["n_trials"]).all():
        return ""  # of one point each: there is nothing to choose
    return CHOSEN.get(analysis.scores.choice.by, "").format(unit=analysis.options.unit)


def score_names(analysis: Analysis) -> list[str]:
    """Return whose scores there are: every group, and the tuned baseline at the end."""
    rows = analysis.scores.groups
    names = [str(group) for group in rows.loc[rows["score"] == OOD, "group"]]
    return [*names, analysis.scores.tuned_name] if analysis.scores.tuned_name else names


def score_cells(analysis: Analysis, group: str) -> dict[str, str]:
    """Return a group's scores and its difference from the baseline on the shifted test, as text by column; first what
    a narrow screen has room for."""
    difference, baseline = analysis.scores.difference(group), analysis.options.baseline
    against = {"OOD less baseline": UNKNOWN, "95 % interval": UNKNOWN}
    shows = {baseline: "baseline", analysis.scores.tuned_name: "tuned baseline"}.get(group, UNKNOWN)
    if difference is not None:
        against = {
            "OOD less baseline": signed(difference["delta"]),
            "95 % interval": interval(difference["low"], difference["high"]),
        }
        shows = STATES[state(difference)]
    scores: dict[str, dict[str, str]] = {}
    for score in (OOD, *analysis.options.ids):
        row, label = analysis.scores.mean(group, score), score_name(analysis, score)
        scores[label] = {label: percent(row["mean"] / PP), f"{label}, 95 %": interval(row["low"], row["high"])}
    ood = scores.pop("OOD")
    rest = {column: text for cells in scores.values() for column, text in cells.items()}
    return {"OOD": ood["OOD"], **against, "shows": shows, "OOD, 95 %": ood["OOD, 95 %"], **rest}


def _scores(analysis: Analysis) -> ReportTable:
    by = chosen_by(analysis)
    unit = f"{analysis.options.unit}s"
    return report_table(
        "Scores",
        f"Mean scores by group{f', of {by}' if by else ''}; intervals and differences in percentage points",
        (
            {"group": str(group), **score_cells(analysis, group), unit: str(analysis.scores.mean(group)["n_trials"])}
            for group in score_names(analysis)
        ),
        note=" ".join(
            f"{note[:1].upper()}{note[1:]}." for note in [*analysis.scores.choice.notes, *why_wider(analysis)]
        ),
    )


def why_wider(analysis: Analysis) -> list[str]:
    """Why the first sentence has a wider interval than the table, where it picks one of several groups."""
    others = len(set(analysis.scores.groups["group"]) - {analysis.options.baseline})
    wider = "the answer at the top has a wider interval than this table, since it picks the highest of"
    return [f"{wider} {others} groups"] if others > 1 else []


def _differences(analysis: Analysis) -> ReportTable:
    margin = analysis.options.margin
    return report_table(
        "Differences of scores",
        "Every group against the baseline, and against the group with the highest score, percentage points",
        (_difference(analysis, row) for row in records(analysis.scores.differences)),
        note="p is adjusted by Holm; against the best group, p and intervals by Bonferroni for all pairs of groups at "
        "once, since that group was picked by these scores. “Could have found”: the smallest true difference that this "
        f"design detects with 80 % power. No effect in margin: two one-sided tests at 5 %, within ±{margin:g} points.",
    )


def _difference(analysis: Analysis, row: Mapping[str, Any]) -> dict[str, str]:
    against = {BASELINE: "baseline", BEST: "best group", TUNED: "tuned baseline"}[row["family"]]
    return {
        "difference": pair(row["a"], row["b"]),
        "of": score_name(analysis, row["score"]),
        "against": against,
        "points": signed(row["delta"]),
        "95 % interval": interval(row["low"], row["high"]),
        "p (adjusted)": p_value(row["p_adjusted"]),
        "shows": STATES[state(row)],
        "could have found": number(row["smallest_detectable"], 1),
    }


def _slopes(analysis: Analysis) -> ReportTable:
    return report_table(
        "What moves the scores",
        f"Regression of the mean scores on {varied(analysis)}, percentage points",
        (
            {
                "factor": str(row["label"]),
                "score": score_name(analysis, row["score"]),
                **_tested(analysis, row),
                "levels": str(row["levels"]),
            }
            for row in records(analysis.scores.factors)
        ),
    )


def _tested(analysis: Analysis, row: Mapping[str, Any]) -> dict[str, str]:
    """A slope and what it shows; of the only two groups their difference, as in the table of differences."""
    of_two = pair_of(analysis, row["score"]) if row["per"] == "tenfold" else None
    own = row if of_two is None else of_two[1]
    points = signed(row["slope"]) + PER[row["per"]]
    return {
        "points": points if of_two is None else f"{signed(own['delta'])} ({pair(own['a'], own['b'])})",
        "95 % interval": interval(own["low"], own["high"]),
        "p (adjusted)": p_value(own["p_adjusted"]),
        "shows": "not straight" if of_two is None and not_straight(row) else STATES[state(own)],
    }
