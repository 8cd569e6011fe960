"""Findings on several shifts: the mean effect over them, and whether effects are of one size.

Each rests on a row of `shift_means`. A mean is claimed as any contrast is (see `analysis.findings`): by its interval,
by Holm's correction over the means of its family, and where it holds without any one trial. That effects differ between
shifts is claimed where the test of one size says so after Holm's correction; that they are of one size never is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.findings import (
    MOST_GROUPS,
    MOST_PAIRS,
    Finding,
    holm_note,
    holm_p,
    inner_span,
    make_finding,
    marked,
    records,
)
from analysis.formatting import effect, interval, name, number, p_equals, signed
from analysis.stats.check_words import with_failures
from analysis.stats.contrasts import LEVEL, claimed, state
from analysis.stats.sensitivity import MISSING_TRIALS
from analysis.study import Analysis

TABLE = "shift_means"


def shift_findings(analysis: Analysis) -> list[Finding]:
    """Return the findings on the shifts of a task: groups against the baseline first, then pairs; none where fewer than
    two shifts can be compared."""
    most = {"baseline": MOST_GROUPS, "pairs": MOST_PAIRS}
    found: list[Finding] = []
    for family, count in most.items():
        rows = [(i, row) for i, row in enumerate(records(analysis.shifts.means)) if row["family"] == family]
        found += [finding for i, row in rows[:count] for finding in _of_row(analysis, i, row)]
    return [marked(finding, analysis) for finding in found]


def _of_row(analysis: Analysis, index: int, row: Mapping[str, Any]) -> Iterator[Finding]:
    where = TABLE, {"a": row["a"], "b": row["b"]}, index, analysis.options.unit
    pair = f"{name(row['a'])} against {name(row['b'])}"
    over = f"on average over {row['shifts']} shifts"
    mean = effect(row["delta_er"], row["low"], row["high"])
    if claimed(row) == "differs":
        text = f"{pair}: {mean} {over}; shown by itself on {row['shown']} of them."
    elif claimed(row) == "equivalent":
        text = f"{pair}: no effect beyond ±{row['margin']:g} points of ER {over} {inner_span(row)}."
    else:
        text = f"Not established{holm_note(row)}: an effect of {pair} {over}: {mean}{holm_p(row)}."
    yield make_finding(state(row), text, row, *where)
    if math.isfinite(row["p_spread"]):
        yield _spread(analysis, row, pair, where)


def _spread(analysis: Analysis, row: Mapping[str, Any], pair: str, where: tuple[Any, ...]) -> Finding:
    table, key, index, unit = where
    p = p_equals(row["p_spread_adjusted"], LEVEL)
    ends = f"{signed(row['highest_er'])} on {name(row['highest'])}, {signed(row['lowest_er'])} on {name(row['lowest'])}"
    if not row["p_spread_adjusted"] <= LEVEL:
        text = f"Not established: that the effect of {pair} differs between shifts ({p}): {ends}."
        return Finding("open", text, table, key, index)
    spread = f"standard deviation {number(row['spread'], 1)} points"
    text = f"{pair}: the effect differs between shifts ({p}): {ends}; {spread}."
    if analysis.interim is None:
        return Finding("differs", text, table, key, index)
    return Finding("fragile", with_failures(text, (MISSING_TRIALS,), unit), table, key, index,
                   not_robust_to=(MISSING_TRIALS,))  # fmt: skip


def over_shifts(analysis: Analysis) -> str:
    """Return which shifts are compared and which are not, in a sentence; "" where there is one."""
    shifts = analysis.shifts
    if not shifts.results:
        return ""
    compared = shifts.compared
    aside = [f"{name(one.name)} ({one.aside or 'no line'})" for one in shifts.results if one.name not in compared]
    left = f"; not compared: {', '.join(aside)}" if aside else ""
    return f"{len(compared)} shifts are compared: {', '.join(map(name, compared))}{left}."


def kind_text(row: Mapping[str, Any]) -> str:
    """Return the interval of a mean over shifts of this kind."""
    return interval(row["kind_low"], row["kind_high"])
