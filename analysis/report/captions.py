"""What each figure shows, in sentences: every mark, band and line, and over which units its interval speaks.

Owns the captions of the page; they follow from the analysis and its settings, so that none claims what was not done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from analysis.formatting import listed, name, number, percent
from analysis.notes import repetition
from analysis.report.score_tables import chosen_by
from analysis.study import Analysis
from analysis.views import metric_of
from ray_robust.metrics import label_of
from ray_robust.text.names import count_noun

TRIAL = "trial"  # the unit of a sweep


def captions(analysis: Analysis) -> dict[str, str]:
    """Return figure -> caption."""
    return {
        "scores": _scores(analysis),
        "trend": _trend(analysis),
        "groups": _groups(analysis),
        "along": _along(analysis),
        "contrasts": _intervals(analysis, "difference of mean ER, first group less second"),
        "factors": _intervals(analysis, "change of mean ER per what stands beside the name, other factors held fixed"),
    }


def point_name(analysis: Analysis) -> str:
    """Return what one point is: of a plain table, which has no trials, a row."""
    return "fine-tuned checkpoint" if analysis.options.unit == TRIAL else "row of the table"


def trend_key(analysis: Analysis) -> Mapping[str, str]:
    """Return the legend of the figure of scores, in words that fit a column: mark -> text."""
    baseline = name(analysis.options.baseline, 24)
    return {
        "point": f"one mark: one {point_name(analysis)}",
        "line": f"line of {baseline}; thin: other groups",
        "mean": "95 % interval of that line",
        "prediction": "95 % prediction: one more of its points",
        "diagonal": "OOD = ID: no loss under shift",
    }


def glossary(analysis: Analysis) -> list[tuple[str, str]]:
    """Return the words of the first screen, in this study's terms: (word, meaning), one short phrase each."""
    options, points = analysis.options, analysis.points
    return [
        ("ID", f"{_images(points, 'id')}like those trained on"),
        ("OOD", f"{_images(points, 'ood')}under shift"),
        *_units(options.unit),
        ("group", _varied(analysis)),
    ]


def _images(points: pd.DataFrame, score: str) -> str:
    column = f"{score}_images"
    count = pd.to_numeric(points[column], errors="coerce").median() if column in points else math.nan
    return f"{count:,.0f} test images " if pd.notna(count) and math.isfinite(count) else "score on test images "


def _units(unit: str) -> list[tuple[str, str]]:
    if unit != TRIAL:
        return [("point", f"one {unit} of the table")]
    return [("trial", "one pre-training (none for scratch) and its fine-tunings, with one seed"),
            ("point", "one fine-tuned checkpoint")]  # fmt: skip


def _varied(analysis: Analysis) -> str:
    """What groups are: the numbers that the sweep varies, else rows or trials of one name."""
    table = analysis.scores.factors
    columns = dict(zip(table["factor"], table["label"], strict=True)) if len(table) else {}
    numbers = [f"{name(label)} ({name(key)})" for key, label in columns.items()]
    what = f"with the same {listed(numbers)}" if numbers else "that are alike but for the seed"
    if analysis.options.unit != TRIAL:
        return f"{analysis.options.unit}s of one name"
    return f"trials {what}, compared with the baseline {name(analysis.options.baseline)}"


def _again(analysis: Analysis) -> str:
    """The units that an interval speaks of."""
    return f"were the study repeated with {repetition(analysis.target)}"


def _margin(analysis: Analysis) -> str:
    return f"Shaded: the margin of ±{analysis.options.margin:g} points within which a difference counts as none."


def _scores(analysis: Analysis) -> str:
    by, tuned = chosen_by(analysis), analysis.scores.tuned_name
    return (
        f"Filled diamond: mean OOD score of a group; open circle: mean ID score{f', of {by}' if by else ''}. Bar: 95 % "
        f"interval of that mean, {_again(analysis)}. Dashed: the scores of the baseline "
        f"{name(analysis.options.baseline)}{f', below it the same as {name(tuned)}' if tuned else ''}."
    )


def _trend(analysis: Analysis) -> str:
    options, metric = analysis.options, label_of(metric_of(analysis))
    parts = [
        f"{options.scale.capitalize()} axes, labelled in per cent{f'; {metric}' if metric else ''}. One mark: one "
        f"{point_name(analysis)}, {len(analysis.points)} in all."
    ]
    if analysis.baseline is not None:
        line, own = analysis.baseline.line, analysis.points["group"] == options.baseline
        trials = analysis.points.loc[own, "trial"].nunique()
        units = count_noun(trials, options.unit)
        parts.append(
            f"Grey line: least squares through the {int(own.sum())} points ({units}) of the baseline "
            f"{name(options.baseline)}: R² {number(line.r2)}, slope {number(line.slope)}, intercept "
            f"{number(line.intercept)}. Dark band: 95 % interval of that line at each ID score, {_again(analysis)}. "
            "Light band: 95 % prediction band, where one more point of the baseline would lie."
        )
    parts.append(
        "Thin lines: least squares through each group's own points. Dotted: OOD equal to ID, no loss under shift."
    )
    return " ".join(parts)


def _groups(analysis: Analysis) -> str:
    baseline, unit = analysis.baseline, analysis.options.unit
    inside = ""
    if baseline is not None:
        inside = (
            f", from the points inside the baseline's ID range of {percent(baseline.low)} to {percent(baseline.high)}"
        )
    return (
        f"Mark: mean ER over the {unit}s of a group{inside}. Bar: 95 % interval of that mean with the baseline's line, "
        f"{_again(analysis)}. Ticks: those points, one each. Line at 0: the baseline's line. {_margin(analysis)}"
    )


def _along(analysis: Analysis) -> str:
    unit = analysis.options.unit
    return (
        f"Line: mean ER over the {unit}s of a group at that epoch of fine-tuning, from points inside the baseline's ID "
        f"range. Band: its 95 % interval, {_again(analysis)}, where there are enough {unit}s for one. Line at 0: the "
        "baseline's line."
    )


def _intervals(analysis: Analysis, what: str) -> str:
    return (
        f"Mark: {what}. Bar: 95 % interval of each by itself, {_again(analysis)}; colour and shape follow the test "
        f"after Holm's correction, and the checks. {_margin(analysis)}"
    )
