"""The raw scores as sentences: one for who deploys a model, one for who studies robustness, and the findings on both.

A claim is made as in `analysis.findings`: from an interval and a test after Holm's correction, and where it holds
without any one trial. The numbers are those of `analysis.stats.raw_scores`; ER is read from the contrasts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.findings import (
    MOST_GROUPS,
    PER,
    STATES,
    STRAIGHT,
    Finding,
    capital,
    findings,
    holm_note,
    holm_p,
    inner_span,
    make_finding,
    records,
    row_index,
    small_note,
)  # fmt: skip
from analysis.formatting import listed, name, number, percent, signed, span
from analysis.scales import PP
from analysis.scores.disagreement import disagreements
from analysis.stats.contrasts import claimed, state
from analysis.stats.raw_scores import BASELINE, BEST, OOD
from analysis.study import Analysis

TEST = "On the shifted test"
MOST_LISTED = 6  # groups that are named in one sentence


@dataclass(frozen=True)
class ScoreSummary:
    """deployment  the raw score of the best group on the shifted test against the baseline's; None without any score
    robustness  the ER of the same group, or why there is none
    findings    what else the scores show: which groups score lower than the best, slopes, and where ER disagrees
    """

    deployment: Finding | None
    robustness: str
    findings: tuple[Finding, ...]


def summary(analysis: Analysis) -> ScoreSummary:
    """Return the sentences on the raw scores of one task."""
    scores = analysis.scores
    if scores.groups.empty:
        return ScoreSummary(None, _robustness(analysis, ""), ())
    group = leading_group(analysis)
    others = [*_behind_best(analysis), *_slopes(analysis)]
    own = [str(name_) for name_ in analysis.groups["group"] if name_ != analysis.options.baseline][:MOST_GROUPS]
    others += [
        Finding(kind, text, "score_differences", key, row_index(scores.differences, key))
        for kind, text, key in disagreements(analysis, own)
    ]
    return ScoreSummary(_deployment(analysis, group), _robustness(analysis, group), tuple(others))


def leading_group(analysis: Analysis) -> str:
    """Return the group, but for the baseline, with the highest OOD score; the baseline where it is alone."""
    table = analysis.scores.groups
    own = table.loc[(table["score"] == OOD) & (table["group"] != analysis.options.baseline)]
    return str(own.loc[own["mean"].idxmax(), "group"]) if len(own) else analysis.options.baseline


def score_name(analysis: Analysis, score: str) -> str:
    """Return what a score is called: `OOD`, `ID`, or `ID` and the user's name of one of several ID sets."""
    if score == OOD:
        return "OOD"
    names = dict(zip(analysis.options.ids, analysis.options.id_names, strict=False))
    return f"ID ({name(names[score])})" if len(analysis.options.ids) > 1 else "ID"


def _deployment(analysis: Analysis, group: str) -> Finding:
    scores, baseline, unit = analysis.scores, analysis.options.baseline, analysis.options.unit
    own, row = scores.mean(group), scores.difference(group)
    if row is None:
        key = {"group": group, "score": OOD}
        value = f"{percent(own['mean'] / PP)} {span(own['low'], own['high'])}"
        why = "no other group" if group == baseline else f"no score of {name(baseline)}"
        text = f"{TEST}: {name(group)} {value}; there is {why} to compare it with."
        return Finding("open", text, "scores", key, row_index(scores.groups, key))
    others = analysis.groups["group"].nunique() - 1
    chosen = f", the highest of {others} groups," if others > 1 else ""
    base = scores.mean(baseline)["mean"]
    text = (
        f"{TEST}: {name(group)}{chosen} {percent(own['mean'] / PP)} against {percent(base / PP)} of {name(baseline)}, "
        f"{signed(row['delta'])} {span(row['low'], row['high'])}: {_outcome(row, unit)}."
    )
    key = {"a": group, "b": baseline, "score": OOD, "family": BASELINE}
    return make_finding(state(row), text, row, "score_differences", key, row_index(scores.differences, key))


def _outcome(row: Mapping[str, Any], unit: str) -> str:
    kind = claimed(row)
    if kind == "differs":
        return ("a gain" if row["delta"] > 0 else "a loss") + small_note(row)
    if kind == "equivalent":
        return f"no gain or loss beyond {row['margin']:g} points {inner_span(row)}"
    if not math.isfinite(row["low"]):
        return f"more {unit}s are needed for an interval"
    if holm_note(row):
        return f"no {'gain' if row['delta'] > 0 else 'loss'} shown{holm_note(row)}{holm_p(row)}"
    return f"no gain shown; this design could have found {number(row['smallest_detectable'], 1)} points or more"


def _behind_best(analysis: Analysis) -> Iterator[Finding]:
    """Which groups score lower on the shifted test than the best one, of three groups or more."""
    table = analysis.scores.differences
    rows = records(table.loc[(table["family"] == BEST) & (table["score"] == OOD)])
    if len(rows) < 2:
        return
    best, by = rows[0]["b"], {kind: [name(row["a"]) for row in rows if state(row) == kind] for kind in STATES}
    parts = [
        f"lower: {_some(by['differs'])}" if by["differs"] else "",
        f"within {analysis.options.margin:g} points of it: {_some(by['equivalent'])}" if by["equivalent"] else "",
        f"not shown to be lower: {_some(by['open'] + by['fragile'])}" if by["open"] + by["fragile"] else "",
    ]
    kind = next((kind for kind in ("differs", "equivalent") if by[kind]), "open")
    text = f"{TEST} {name(best)} scores highest; {'; '.join(filter(None, parts))}."
    yield Finding(kind, text, "score_differences", {"b": best, "score": OOD, "family": BEST})


def _some(names: list[str]) -> str:
    more = len(names) - MOST_LISTED
    return listed(names if more <= 1 else [*names[:MOST_LISTED], f"{more} more"])


def _slopes(analysis: Analysis) -> Iterator[Finding]:
    """The slope of each score over every number that the sweep varies, OOD first."""
    table = analysis.scores.factors
    ordered = [(i, row) for i, row in enumerate(records(table)) if row["per"] == "tenfold"]
    for index, row in sorted(ordered, key=lambda pair: pair[1]["score"] != OOD):
        score, label = f"{score_name(analysis, row['score'])} score", name(row["label"])
        effect = f"{signed(row['slope'])} points{PER['tenfold']} {span(row['low'], row['high'])}"
        kind, key = state(row), {"score": row["score"], "factor": row["factor"]}
        if row["straight_p"] <= STRAIGHT and claimed(row) != "equivalent":
            kind = "open"
            text = (
                f"Not established: one slope of the {score} over {label}, which is not straight in its logarithm "
                f"(p = {row['straight_p']:.3f})."
            )
            yield Finding(kind, text, "score_factors", key, index)
            continue
        if claimed(row) == "differs":
            text = f"{capital(label)}: {score} {effect}{small_note(row)}, over {row['levels']} levels."
        elif claimed(row) == "equivalent":
            none = f"no effect within {row['margin']:g} points between any two levels"
            text = f"{capital(label)}: {score}, {none} {inner_span(row)}."
        else:
            text = f"Not established{holm_note(row)}: an effect of {label} on the {score}: {effect}{holm_p(row)}."
        yield make_finding(kind, text, row, "score_factors", key, index)


def _robustness(analysis: Analysis, group: str) -> str:
    """ER of the group that the sentence on deployment is about, as its finding has it, or why there is none."""
    claims = findings(analysis)
    own = {"a": group, "b": analysis.options.baseline}
    text = next((finding.text for finding in claims if dict(finding.row) == own), "")
    if not text and (analysis.baseline is None or analysis.refused):
        text = claims[0].text
    return f"At equal ID score (effective robustness): {text or 'there is no group to compare.'}"
