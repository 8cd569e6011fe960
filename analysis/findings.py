"""The findings: sentences that follow from intervals and tests alone, each tied to the row of a table that it reads.

A claim is made only where a 95 % interval excludes 0 and survives Holm's correction, "no effect" only where the
equivalence test passes (Schuirmann 1987: the 90 % interval lies inside the margin; Holm likewise), and either only
where it holds in every check of `sensitivity`: else it ends with "this does not hold ...". All else reads "not
established".
A slope over a number is claimed where ER is straight in it; where it is not, neighbouring levels are compared. In a
study of two groups it is their contrast, and is given as that, once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.formatting import counted, digits_until, effect, listed, name, number, p_equals, percent, signed, span
from analysis.stats.check_words import with_failures
from analysis.stats.contrasts import LEVEL, claimed, state
from analysis.study import Analysis
from ray_robust.run.analysis_settings import LOOKS, MEAN

MOST_GROUPS, MOST_PAIRS = 24, 12  # groups against the baseline, and pairs, with a sentence of their own
STATES = {
    "differs": "differs",
    "equivalent": "no effect in margin",
    "fragile": "fails a check",
    "open": "not established",
}
MARKS = {"up": "▲", "down": "▼", "differs": "●", "equivalent": "=", "fragile": "~", "open": "?"}  # of `Finding.look`
STRAIGHT = 0.05  # p under which ER is taken not to be straight in a number: no slope is claimed then
EQUIVALENCE = ("a", "b", "delta_er", "low90", "high90", "margin", "equivalent", "smallest_provable")
COULD = "; this design could have found"  # of one contrast by its own scatter, with 80 % power
PER = {"tenfold": " per tenfold", "all of it": " from none of it to all", "level": ""}


def marks_key(margin: float) -> str:
    """Return what the marks before findings mean, as a sentence."""
    shown = " ".join(MARKS[look] for look in ("up", "down", "differs"))
    return (
        f"{shown} shown, with its direction; {MARKS['equivalent']} shown to be negligible, within ±{margin:g} points; "
        f"{MARKS['fragile']} shown, but not in every check or not at equal cost; {MARKS['open']} open."
    )


@dataclass(frozen=True)
class Finding:
    """One sentence and what it rests on.

    kind    `differs`, `equivalent` (no effect within the margin), `fragile` (one of the two, which does not hold in
            some check), or `open` (not established)
    table   the table that it reads, by the name of its file without .csv
    row     the columns that single out one row of that task's table; empty where the whole table is meant
    index   the number of that row there, or None
    survived, not_robust_to   names of the checks that the claim holds in, and of those that it does not hold in
    sign    1 or -1 of a difference or slope that is established, else 0
    """

    kind: str
    text: str
    table: str
    row: Mapping[str, Any]
    index: int | None = None
    survived: tuple[str, ...] = ()
    not_robust_to: tuple[str, ...] = ()
    sign: int = 0

    def __str__(self) -> str:
        return self.text

    @property
    def look(self) -> str:
        """What it is marked as, before its text: its direction, or its kind."""
        return {1: "up", -1: "down"}.get(self.sign, self.kind)

    @property
    def mark(self) -> str:
        """The sign of that."""
        return MARKS[self.look]


def findings(analysis: Analysis) -> list[Finding]:
    """Return the findings of one task: factors of the sweep first (established ones ahead), then groups against the
    baseline, then pairs of groups."""
    line = {"group": analysis.options.baseline, "scale": analysis.options.scale}
    index = row_index(analysis.trends, line)
    if analysis.baseline is None:
        why = "no baseline line can be fitted" if analysis.estimated is None else listed(list(analysis.refusals))
        text = f"Not established: effective robustness, because {why}."
        return [marked(Finding("open", text, "trends", line if index is not None else {}, index), analysis)]
    if analysis.refused:
        text = f"Not established: effective robustness, because {listed(list(analysis.refusals))}."
        return [marked(Finding("open", text, "trends", line, index), analysis)]
    return [*factor_findings(analysis), *(marked(finding, analysis) for finding in _contrasts(analysis))]


def factor_findings(analysis: Analysis) -> list[Finding]:
    """Return those on factors of the sweep, established ones ahead; none where there is no ER."""
    if analysis.baseline is None or analysis.refused:
        return []
    factors = [finding for i, row in enumerate(records(analysis.factor_table)) for finding in _factor(analysis, i, row)]
    ordered = sorted(factors, key=lambda finding: list(STATES).index(finding.kind))
    return [marked(finding, analysis) for finding in ordered]


def marked(finding: Finding, analysis: Analysis) -> Finding:
    """Return a finding with what it is made of at its beginning: trials so far, of an interim analysis, estimates, and
    the look that its ER is of where that is not the mean of all."""
    text = marked_text(finding.text, analysis, of_er=not finding.table.startswith("score"))
    return finding if text == finding.text else replace(finding, text=text)


def marked_text(text: str, analysis: Analysis, of_er: bool = True) -> str:
    """Return a sentence likewise; `of_er`: whether it is about ER."""
    label = f"{analysis.mark}: " if analysis.mark else ""
    if of_er and analysis.looks.used != MEAN and analysis.looks.several:
        look = LOOKS[analysis.looks.used]
        label += f"At {look}: " if not label else f"at {look}: "
    return f"{label}{text}"


def equivalence_table(analysis: Analysis) -> pd.DataFrame:
    """Return the equivalence test of every contrast, columns `EQUIVALENCE`: the 90 % interval, which must lie inside
    the margin, and the smallest margin inside which it would, in percentage points."""
    table = analysis.contrasts.reindex(columns=list(EQUIVALENCE))
    return table.assign(smallest_provable=table[["low90", "high90"]].abs().max(axis=1, skipna=False))


def _factor(analysis: Analysis, index: int, row: Mapping[str, Any]) -> Iterator[Finding]:
    if (of_two := two_levels(analysis, row)) is not None:
        yield _contrast(analysis, *of_two)
        return
    kind, label, per = state(row), name(row["label"]), PER[row["per"]]
    slope = effect(row["slope"], row["low"], row["high"], f" points of ER{per}")
    where = "factors", {"factor": row["factor"]}, index
    if not_straight(row):
        text = (
            f"Not established: one slope of ER over {label}, which is not straight in its logarithm "
            f"({p_equals(row['straight_p'], STRAIGHT)}); neighbouring levels are compared instead."
        )
        yield Finding("open", text, *where)
        yield from _levels(analysis, row)
        return
    if claimed(row) == "differs":
        levels = f", over {row['levels']} levels" if row["per"] == "tenfold" else ""
        text = f"{capital(label)}: {slope}{small_note(row, row['per'])}{levels}."
    elif claimed(row) == "equivalent":
        between = " between any two levels" if row["per"] == "tenfold" else per
        text = f"{capital(label)}: {_none(row)}{between} {inner_span(row)}."
    else:
        text = f"Not established{holm_note(row)}: an effect of {label} on ER: {slope}{holm_p(row)}."
    yield make_finding(kind, text, row, *where, analysis.options.unit)


def two_levels(analysis: Analysis, row: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """Return the contrast between the only two groups beside the baseline, with its number in that table, where a
    factor is a number that tells them apart and has no other level; None elsewhere.

    The contrast is over the ID scores that both groups share. The slope is over each group's own, and may differ.
    """
    pairs = [(i, one) for i, one in enumerate(records(analysis.contrasts)) if one["family"] == "pairs"]
    if row["per"] != "tenfold" or len(pairs) != 1 or not math.isfinite(pairs[0][1]["delta_er"]):
        return None
    own = analysis.points.loc[analysis.points["group"].isin([pairs[0][1]["a"], pairs[0][1]["b"]])]
    levels = own.groupby("group")[row["factor"]].nunique() if row["factor"] in own else pd.Series([0])
    return pairs[0] if (levels == 1).all() and own[row["factor"]].nunique() == 2 else None


def not_straight(row: Mapping[str, Any]) -> bool:
    """Return whether no slope is claimed of a row of factors because the values are not straight in the number."""
    return bool(row["straight_p"] <= STRAIGHT and claimed(row) != "equivalent")


def make_finding(
    kind: str,
    text: str,
    row: Mapping[str, Any],
    table: str,
    key: Mapping[str, Any],
    index: int | None,
    unit: str = "trial",
) -> Finding:
    """Return the finding of a row, with the checks in its columns `survived` and `not_robust_to`, which end the text
    of a fragile one. `unit` is what one cluster is called."""
    survived, failed = (tuple(filter(None, row[c].split("; "))) for c in ("survived", "not_robust_to"))
    if kind == "fragile":
        text = with_failures(text, failed, unit)
    value = next(row[column] for column in ("delta", "delta_er", "slope") if column in row)
    sign = int(math.copysign(1, value)) if kind == "differs" else 0
    return Finding(kind, text, table, key, index, survived, failed, sign)


def _levels(analysis: Analysis, factor: Mapping[str, Any]) -> Iterator[Finding]:
    """Each level of a number against the one below it."""
    table = analysis.regression.levels
    for index, row in enumerate(records(table)):
        if row["factor"] == factor["factor"]:
            text = _difference_text(claimed(row), row, "", "")
            key = {"factor": row["factor"], "a": row["a"], "b": row["b"]}
            yield make_finding(state(row), text, row, "levels", key, index, analysis.options.unit)


def against_baseline(analysis: Analysis, group: str) -> Finding | None:
    """Return the finding of one group's ER against the baseline, however many groups there are; None without one."""
    for index, row in enumerate(records(analysis.contrasts)):
        if (row["a"], row["b"], row["family"]) == (group, analysis.options.baseline, "baseline"):
            return _contrast(analysis, index, row)
    return None


def _contrasts(analysis: Analysis) -> Iterator[Finding]:
    rows = list(enumerate(records(analysis.contrasts)))
    families = {"baseline": (MOST_GROUPS, f" from {name(analysis.options.baseline)}", "groups")}
    if not analysis.factors:  # the trend test speaks for the pairs of an ordered factor
        families["pairs"] = MOST_PAIRS, "", "pairs of groups"
    for family, (most, of, what) in families.items():
        own = [(i, row) for i, row in rows if row["family"] == family]
        yield from (_contrast(analysis, i, row) for i, row in own[:most])
        if len(own) > most:
            sure = sum(state(row) == "differs" for _, row in own)
            many = capital(counted(sure, len(own), what, "differ"))
            text = f"{many}{of} after Holm's correction; all are in contrasts.csv."
            yield Finding("differs" if sure else "open", text, "contrasts", {})


def _contrast(analysis: Analysis, index: int, row: Mapping[str, Any]) -> Finding:
    unit = analysis.options.unit
    used = analysis.points.loc[~analysis.points["extrapolated"]].groupby("group")["trial"].nunique()
    own = [_compared(analysis, row, side) for side in ("a", "b")]
    count = f"{own[0]} and {own[1]} {unit}s"
    if own != [used.get(row["a"], 0), used.get(row["b"], 0)]:
        count += " at ID scores that both have"
    by_id = _by_id(analysis.at_ids, row) if analysis.interim is None else ""
    text = _difference_text(claimed(row), row, f", from {count}", by_id, unit)
    table = "equivalence" if claimed(row) == "equivalent" else "contrasts"  # where the interval is that it rests on
    return make_finding(state(row), text, row, table, {"a": row["a"], "b": row["b"]}, index, unit)


def _compared(analysis: Analysis, row: Mapping[str, Any], side: str) -> int:
    """How many trials of one group a contrast rests on: those with points at ID scores that both groups have, of the
    baseline all that its line is fitted on."""
    own = analysis.points.loc[(analysis.points["group"] == row[side]) & ~analysis.points["extrapolated"]]
    if row[side] != analysis.options.baseline:
        own = own.loc[own["id"].between(row["id_low"], row["id_high"])]
    return int(own["trial"].nunique())


def _difference_text(kind: str, row: Mapping[str, Any], count: str, by_id: str, unit: str = "trial") -> str:
    a, b = name(row["a"]), name(row["b"])
    if not math.isfinite(row["delta_er"]):
        return f"Not established: {a} against {b}, for lack of points at ID scores that they share."
    difference = effect(row["delta_er"], row["low"], row["high"])
    if kind == "differs":
        return f"{a} against {b}: {difference}{small_note(row)}{count}{by_id}."
    if kind == "equivalent":
        return f"{a} against {b}: {_none(row)}, {signed(row['delta_er'])} {inner_span(row)}{by_id}."
    if not math.isfinite(row["low"]):
        return f"Not established: {a} against {b}: {difference}; more {unit}s are needed for an interval."
    if holm_note(row):
        return f"Not established{holm_note(row)}: {a} against {b}: {difference}{holm_p(row)}{by_id}."
    least = f"{COULD} {number(row['smallest_detectable'], 1)} points or more"
    return f"Not established: {a} against {b}: {difference}{least}{by_id}."


def _by_id(at_ids: pd.DataFrame, row: Mapping[str, Any]) -> str:
    """The difference at three ID scores, as text, for groups whose slopes differ: one number would hide that."""
    own = at_ids.loc[(at_ids["a"] == row["a"]) & (at_ids["b"] == row["b"])]
    if own.empty:
        return ""
    differences = [
        f"{signed(r['delta_er'])} {span(r['low'], r['high'])} at ID {percent(r['id'], 0)}" for r in records(own)
    ]
    return f"; their lines differ in slope: {listed(differences)}"


def small_note(row: Mapping[str, Any], per: str = "") -> str:
    """Return what is added to a difference that is established and lies within the margin. That of a number is of any
    two of its levels, which may be less than a tenfold apart."""
    between = " between any two levels" if per == "tenfold" else ""
    return f", smaller than the margin of {row['margin']:g}{between}" if row["equivalent"] else ""


def _none(row: Mapping[str, Any]) -> str:
    return f"no effect within {row['margin']:g} points"


def inner_span(row: Mapping[str, Any]) -> str:
    """Return the 90 % interval of a row, which lies within the margin: `(90 %: −0.6 to 0.9)`."""
    farthest, margin = max(abs(row["low90"]), abs(row["high90"])), row["margin"]
    digits = digits_until(lambda some: not farthest < margin <= float(f"{farthest:.{some}f}"))
    return span(row["low90"], row["high90"], digits).replace("(", "(90 %: ", 1)


def holm_note(row: Mapping[str, Any]) -> str:
    """Return what is added where an interval excludes 0 and its p after Holm's correction does not allow a claim."""
    return " after Holm's correction" if row["low"] > 0 or row["high"] < 0 else ""


def holm_p(row: Mapping[str, Any]) -> str:
    """Return that p, in the same case."""
    return f", {p_equals(row['p_adjusted'], LEVEL, 2)}" if holm_note(row) else ""


def capital(text: str) -> str:
    """Return text with a capital as its first letter."""
    return text[:1].upper() + text[1:]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table, each by column."""
    return table.to_dict("records")


def row_index(table: pd.DataFrame, row: Mapping[str, Any]) -> int | None:
    """Return the number of the one row that has these values, or None."""
    matches = np.flatnonzero(np.logical_and.reduce([table[key] == value for key, value in row.items()]))
    return int(matches[0]) if len(matches) == 1 else None
