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
    against_baseline,
    capital,
    holm_note,
    holm_p,
    inner_span,
    make_finding,
    marked,
    not_straight,
    records,
    row_index,
    small_note,
)  # fmt: skip
from analysis.formatting import effect, format_value, name, p_equals, percent, some, span
from analysis.formatting import scores as id_range
from analysis.scales import PP
from analysis.scores.against_tuned import against_tuned, equal_settings, with_tuned
from analysis.scores.disagreement import disagreements, scored_outside
from analysis.scores.outcome import outcome_parts, picked
from analysis.scores.two_groups import levels_of, pair_of
from analysis.stats.chosen_points import ID_VAL
from analysis.stats.contrasts import claimed, state
from analysis.stats.group_jackknife import LEAST_GROUPS
from analysis.stats.raw_scores import OOD
from analysis.stats.score_differences import BASELINE, BEST
from analysis.study import Analysis
from ray_robust.run.analysis_settings import LOOKS, MEAN

TEST = "On the shifted test"
MORE_TRIES = 1.5  # so many times as many fine-tunings to choose from are reported
MOST_LISTED = 6  # groups that are named in one sentence


@dataclass(frozen=True)
class ScoreSummary:
    """deployment  the raw score of the best group on the shifted test against the baseline's; None without any score
    lead        what has to be read with it: that group against the tuned baseline, and where its ER disagrees, which
                has the ER as well
    robustness  the ER of the same group, or why there is none
    findings    what else the scores show: which groups score lower than the best, slopes, and where ER disagrees
    """

    deployment: Finding | None
    robustness: str
    findings: tuple[Finding, ...]
    lead: tuple[Finding, ...] = ()

    @property
    def alone(self) -> str:
        """Return the sentence on ER where no finding of `lead` has that number; else nothing."""
        return "" if any(one.row["family"] == BASELINE for one in self.lead) else self.robustness


def summary(analysis: Analysis) -> ScoreSummary:
    """Return the sentences on the raw scores of one task."""
    scores = analysis.scores
    if scores.groups.empty:
        return ScoreSummary(None, _robustness(analysis, ""), ())
    group = scores.leading(analysis.options.baseline) or analysis.options.baseline
    others = [*_behind_best(analysis), *_slopes(analysis)]
    own = [str(name_) for name_ in analysis.groups["group"] if name_ != analysis.options.baseline]
    own = list(dict.fromkeys([*own[:MOST_GROUPS], group]))
    tuned = against_tuned(analysis, group)
    lead = [tuned] if tuned else []
    for kind, text, key in disagreements(analysis, own, group):
        one = Finding(kind, text, "score_differences", key, row_index(scores.differences, key))
        (lead if key["a"] == group else others).append(one)
    deployment = with_tuned(analysis, group, _deployment(analysis, group))
    others, lead = ([marked(finding, analysis) for finding in own] for own in (others, lead))
    return ScoreSummary(marked(deployment, analysis), _robustness(analysis, group), tuple(others), tuple(lead))


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
    others = scores.groups["group"].nunique() - 1
    chosen = f", the highest of {others} groups," if others > 1 else ""
    base = scores.mean(baseline)["mean"]
    row = picked(row)
    short, detail = outcome_parts(row, unit)
    difference = effect(row["delta"], row["low"], row["high"], " points", "95 %: ")
    text = (
        f"{TEST}{equal_settings(analysis)}: {short}. {name(group)}{chosen} scores {percent(own['mean'] / PP)}, "
        f"{name(baseline)} {percent(base / PP)}: {difference}{detail}."
        f"{_other_models(analysis, group)}{_unequal(analysis, group)}{_few_groups(analysis)}"
    )
    key = {"a": group, "b": baseline, "score": OOD, "family": BASELINE}
    return make_finding(state(row), text, row, "score_differences", key, row_index(scores.differences, key), unit)


def _other_models(analysis: Analysis, group: str) -> str:
    """What is added where nothing says that both have the same kinds of models: the ID scores that the means are over,
    and what compares at equal ones."""
    if analysis.scores.choice.alike:
        return ""
    ids = analysis.points.groupby("group")["id"].agg(["min", "max"])
    own, reference = (id_range(*ids.loc[one]) for one in (group, analysis.options.baseline))
    return (
        f" These are means over the rows of each, at ID scores of {own} against {reference}, perhaps of other kinds of "
        "models; at equal ID score, see ER."
    )


def _unequal(analysis: Analysis, group: str) -> str:
    """In which ways the scores of a group and of the baseline were reached at unequal cost, as a sentence that follows
    another: on more images, longer, or many more of them to choose from. Empty where they were not."""
    choice, baseline = analysis.scores.choice, analysis.options.baseline
    own, reference = choice.effort[group], choice.effort[baseline]
    ways = []
    if math.isfinite(own.images) and math.isfinite(reference.images) and own.images != reference.images:
        images = f"{name(group)} was fine-tuned on up to {own.images:,.0f} images"
        ways.append(f"{images}, {name(baseline)} on up to {reference.images:,.0f}")
    if math.isfinite(own.epochs) and math.isfinite(reference.epochs) and own.epochs != reference.epochs:
        epochs = f"{name(group)} was fine-tuned for up to {own.epochs:g} epochs"
        ways.append(f"{epochs}, {name(baseline)} for up to {reference.epochs:g}")
    few, many = sorted((own.tries, reference.tries))
    if choice.by == ID_VAL and many >= MORE_TRIES * few:
        count = f"{own.tries:.3g} fine-tuning{'s' * (own.tries != 1)} per {analysis.options.unit}"
        ways.append(f"{name(group)} had {count} to choose from, {name(baseline)} {reference.tries:.3g}")
    return f" Not at equal cost: {'; '.join(ways)}." if ways else ""


def _few_groups(analysis: Analysis) -> str:
    """What is added where the shifted test has groups, too few for intervals to speak of others."""
    column = analysis.points["ood_groups"].dropna() if "ood_groups" in analysis.points else ()
    groups = max(column, default=0)
    if not 1 < groups < LEAST_GROUPS:
        return ""
    return f" The interval is of these {groups:g} test groups: they are too few to say anything about others."


def _behind_best(analysis: Analysis) -> Iterator[Finding]:
    """Which groups score lower on the shifted test than the best one, of three groups or more."""
    table = analysis.scores.differences
    rows = records(table.loc[(table["family"] == BEST) & (table["score"] == OOD)])
    if len(rows) < 2:
        return
    best, baseline = rows[0]["b"], analysis.options.baseline
    if best != baseline:  # the first sentence has these two, and of two groups the sentence on their difference
        rows = [row for row in rows if row["a"] != baseline]
        if not rows or (pair_of(analysis, OOD) and _ordered(analysis)):
            return
    by = {kind: [name(row["a"]) for row in rows if state(row) == kind] for kind in STATES}
    groups = {
        "lower": by["differs"],
        f"within {analysis.options.margin:g} points of it": by["equivalent"],
        "not shown to be lower than one that these scores picked": by["open"] + by["fragile"],
    }
    parts = [f"{what}: {some(names, MOST_LISTED)}" for what, names in groups.items() if names]
    kind = next((kind for kind in ("differs", "equivalent") if by[kind]), "open")
    text = f"{TEST} {name(best)} scores highest; {'; '.join(parts)}."
    yield Finding(kind, text, "score_differences", {"b": best, "score": OOD, "family": BEST})


def _ordered(analysis: Analysis) -> list[tuple[int, dict[str, Any]]]:
    """The slopes over numbers with their places in the table, OOD first."""
    rows = [(i, row) for i, row in enumerate(records(analysis.scores.factors)) if row["per"] == "tenfold"]
    return sorted(rows, key=lambda pair: pair[1]["score"] != OOD)


def _slopes(analysis: Analysis) -> Iterator[Finding]:
    """The slope of each score over every number that the sweep varies, OOD first."""
    for index, row in _ordered(analysis):
        pair = pair_of(analysis, row["score"])
        if pair is not None:
            yield _pair(analysis, *pair)
            continue
        score, label = f"{score_name(analysis, row['score'])} score", name(row["label"])
        levels, times, per = levels_of(analysis, row["factor"]), 1.0, PER["tenfold"]
        if levels is not None:
            low, high = levels
            times, per = math.log10(high / low), f" at {format_value(high)} against {format_value(low)}"
        slope = effect(times * row["slope"], times * row["low"], times * row["high"], f" points{per}")
        kind, key = state(row), {"score": row["score"], "factor": row["factor"]}
        if not_straight(row):
            text = (
                f"Not established: one slope of the {score} over {label}, which is not straight in its logarithm "
                f"({p_equals(row['straight_p'], STRAIGHT)}); neighbouring levels are compared instead."
            )
            yield Finding("open", text, "score_factors", key, index)
            yield from _levels(analysis, row["score"], row["factor"])
            continue
        if claimed(row) == "differs":
            over = f", over {row['levels']} levels" if levels is None else ""
            text = f"{capital(label)}: {score} {slope}{small_note(row, '' if levels else 'tenfold')}{over}."
        elif claimed(row) == "equivalent":
            none = f"no effect within {row['margin']:g} points between any two levels"
            text = f"{capital(label)}: {score}, {none} {inner_span(row)}."
        else:
            text = f"Not established{holm_note(row)}: an effect of {label} on the {score}: {slope}{holm_p(row)}."
        yield make_finding(kind, text, row, "score_factors", key, index, analysis.options.unit)


def _levels(analysis: Analysis, score: str, factor: str) -> Iterator[Finding]:
    """Each level of a number against the one below it."""
    for index, row in enumerate(records(analysis.scores.levels)):
        if (row["score"], row["factor"]) != (score, factor):
            continue
        key = {"score": score, "factor": factor, "a": row["a"], "b": row["b"]}
        text = _difference_text(analysis, row, "delta_er")
        yield make_finding(state(row), text, row, "score_levels", key, index)


def _pair(analysis: Analysis, index: int, row: Mapping[str, Any]) -> Finding:
    """The difference between the only two groups, corrected as in the table of differences."""
    key = {column: row[column] for column in ("a", "b", "score", "family")}
    text = _difference_text(analysis, row, "delta")
    return make_finding(state(row), text, row, "score_differences", key, index, analysis.options.unit)


def _difference_text(analysis: Analysis, row: Mapping[str, Any], value: str) -> str:
    """A difference of one score, `value` its column, as a sentence."""
    head, score = f"{name(row['a'])} against {name(row['b'])}", f"{score_name(analysis, row['score'])} score"
    difference = f"{score} {effect(row[value], row['low'], row['high'], ' points')}"
    if claimed(row) == "differs":
        return f"{head}: {difference}{small_note(row)}."
    if claimed(row) == "equivalent":
        return f"{head}: {score}, no effect within {row['margin']:g} points {inner_span(row)}."
    return f"Not established{holm_note(row)}: {head}: {difference}{holm_p(row)}."


def _robustness(analysis: Analysis, group: str) -> str:
    """ER of the group that the sentence on deployment is about, as its finding has it, or why there is none."""
    label = f"{analysis.mark}: " if analysis.mark else ""
    if analysis.baseline is None or analysis.refused:
        reasoned = analysis.baseline is not None or analysis.estimated is not None
        reasons = list(analysis.refusals) if reasoned else []
        more = len(reasons) - 1
        why = reasons[0] if reasons else "no baseline line can be fitted"
        rest = f" ({more} more reason{'s' * (more > 1)} below)" if more > 0 else ""
        what = "Effective robustness (ER, the difference at equal ID score)"
        return f"{label}{what} is not established, because {why}{rest}."
    finding = against_baseline(analysis, group)
    at = f", {LOOKS[analysis.looks.used]}" if analysis.looks.several and analysis.looks.used != MEAN else ""
    head = f"{label}At equal ID score (effective robustness, ER{at})"
    if finding is None:
        return f"{head}: there is no group to compare."
    outside = scored_outside(analysis, group)
    return f"{head}: {finding.text}{f' {capital(outside)}.' if outside else ''}"
