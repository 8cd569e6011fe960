"""Where the raw score on the shifted test and effective robustness point in different directions, and why.

A group may score higher on the shifted test only because it scores higher everywhere; another may be more robust than
its ID score leads to expect and still score no better, because that ID score is low.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.formatting import digits_until, name, percent, signed, span
from analysis.scales import PP
from analysis.stats.contrasts import claimed, state
from analysis.stats.raw_scores import OOD
from analysis.stats.score_differences import BASELINE
from analysis.study import Analysis

WORDS = {1: ("better", "higher"), -1: ("worse", "lower")}
NOT_SHOWN = "no difference is shown at equal ID score"


def disagreements(analysis: Analysis, groups: Sequence[str], leading: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield a finding's kind, its sentence and the key of the difference that it reads, for each group whose OOD score
    and ER, both against the baseline, disagree. Of the `leading` one the first sentence has the OOD score. Nothing
    where ER is not given."""
    baseline, table = analysis.options.baseline, analysis.contrasts
    if analysis.refused or analysis.baseline is None:
        return
    for group in groups:
        ood, id_ = analysis.scores.difference(group), analysis.scores.difference(group, analysis.options.ids[0])
        rows = table.loc[(table["a"] == group) & (table["b"] == baseline)].to_dict("records")
        if ood is None or id_ is None or not rows:
            continue
        own_id = id_ if len(analysis.options.ids) == 1 else {**id_, "equivalent": False, "low": float("nan")}
        directions = _direction(ood, "delta"), _direction(own_id, "delta"), _direction(rows[0], "delta_er")
        verdict = _verdict(analysis, group, ood, rows[0], directions)
        if verdict is not None:
            kind, why = verdict
            numbers = f"ID {_number(id_, 'delta')}, ER {_number(rows[0], 'delta_er')} points"
            if group != leading:
                numbers = f"OOD {_number(ood, 'delta')}, {numbers}"
            text = f"{name(group)} against {name(baseline)}: {why} ({numbers})."
            yield kind, text, {"a": group, "b": baseline, "score": OOD, "family": BASELINE}


def scored_outside(analysis: Analysis, group: str) -> str:
    """Return, as part of a sentence, that a group's scored models have other ID scores than those at which its ER is
    compared with the baseline; empty where they do not, or where there are several ID sets."""
    row = next((r for r in analysis.contrasts.to_dict("records")
                if (r["a"], r["b"]) == (group, analysis.options.baseline)), None)  # fmt: skip
    if row is None or len(analysis.options.ids) > 1 or not math.isfinite(row["id_low"]):
        return ""
    at = analysis.scores.mean(group, analysis.options.ids[0])["mean"] / PP
    if not math.isfinite(at) or row["id_low"] <= at <= row["id_high"]:
        return ""
    nearest = row["id_low"] if at < row["id_low"] else row["id_high"]
    digits = digits_until(lambda some: percent(at, some) != percent(nearest, some))
    low, high, scored = (percent(value, digits) for value in (row["id_low"], row["id_high"], at))
    return (
        f"the difference at equal ID score (ER) could be compared only at ID {low} to {high}; at the scored models "
        f"({scored}) it is unknown"
    )


Directions = tuple[int | None, int | None, int | None]  # of the OOD score, the ID score, and ER; see `_direction`


def _verdict(
    analysis: Analysis, group: str, ood: Mapping[str, Any], er: Mapping[str, Any], directions: Directions
) -> tuple[str, str] | None:
    """The kind of finding and what it says; None where the scores do not disagree."""
    small = bool(er["equivalent"]) and not ood["equivalent"]  # ER within the margin, established or not
    verdict = _why(*directions, small)
    better = WORDS[directions[0]][0] if directions[0] else ""
    if verdict is None or not better:
        return verdict
    if outside := scored_outside(analysis, group):
        return "open", f"{better} on the shifted test; {outside}"
    if state(er) == "fragile":
        none = f"no effect within {er['margin']:g} points is shown at equal ID score"
        what = "at equal ID score a difference is shown" if claimed(er) == "differs" else none
        return "fragile", f"{better} on the shifted test; {what}, but not in every check"
    return verdict


def _direction(row: Mapping[str, Any], value: str) -> int | None:
    """1 or -1 of an established difference, 0 of none within the margin, None where neither is established."""
    kind = state(row)
    if kind == "differs":
        return 1 if row[value] > 0 else -1
    return 0 if kind == "equivalent" else None


def _number(row: Mapping[str, Any], value: str) -> str:
    return f"{signed(row[value])} {span(row['low'], row['high'])}"


def _why(ood: int | None, id_: int | None, er: int | None, small: bool) -> tuple[str, str] | None:
    """The kind of finding and how the directions of the OOD score, the ID score and ER go together; None where they do
    not disagree. `small`: ER lies within the margin, and the difference of the OOD scores is not known to."""
    if ood in (1, -1) and er == ood == id_ and small:
        better, higher = WORDS[ood]
        return "differs", f"{better} on the shifted test, mostly because its ID score is {higher}"
    if ood in (1, -1) and er != ood:
        return _of_score(ood, id_, er)
    if er in (1, -1) and er != ood:
        more, change = ("more", "gain") if er == 1 else ("less", "loss")
        absent = f"no {change} beyond the margin" if ood == 0 else f"no {change} seen"
        lies = {1: "higher", -1: "lower"}.get(-er if id_ == -er else 0, "")
        why = f", because its ID score is {lies}" if lies else ""
        kind = "open" if ood is None else "differs"
        return kind, f"{more} robust than its ID score leads to expect, yet {absent} on the shifted test{why}"
    return None


def _of_score(ood: int, id_: int | None, er: int | None) -> tuple[str, str]:
    """An established difference of the OOD score that ER does not share."""
    better, higher = WORDS[ood]
    head = f"{better} on the shifted test"
    if er == -ood:
        robust = "less" if ood == 1 else "more"
        why = f": its ID score is {higher}" if id_ == ood else ""
        return "differs", f"{head}, yet {robust} robust than its ID score leads to expect{why}"
    if er == 0:
        why = f"only because its ID score is {higher}" if id_ == ood else "but not at equal ID score"
        return "differs", f"{head}, {why}"
    because = f"; it may be {better} on the shifted test only because its ID score is {higher}"
    return "open", f"{NOT_SHOWN}{because if id_ == ood else ''}"
