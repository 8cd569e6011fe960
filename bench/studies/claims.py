"""What the paper claims of each study, declared, and the rule that judges a run by it: from its intervals alone.

A claim names a trend or a comparison of groups and its direction, or "no effect". The rule: an interval that excludes 0
in the claimed direction, survives Holm's correction and every check of the report *agrees*; one that does so in the
other direction *disagrees*; a difference or a slope whose equivalence test passes agrees with "no effect" (as does an
established one that is smaller than the margin); all else *cannot tell*. A study agrees where every claim that its run
can speak of does, and disagrees where any does. No claim of a size is judged: the paper publishes its results as
figures, without a table under a licence that their numbers could be copied from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.findings import holm_note, not_straight, small_note
from analysis.formatting import counted, listed, signed, span
from analysis.stats.contrasts import claimed, state
from bench.studies.groups import group_label, role_of

Row = Mapping[str, Any]
AGREES, DISAGREES, OPEN = "agrees with the paper", "disagrees with the paper", "cannot tell"
TREND, PAIR, EACH, PAIRS, LINE = "trend", "pair", "each", "pairs", "line"
PER = {"tenfold": " per tenfold", "all of it": " from none of it to all"}


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    of         `TREND` (a slope over one of `factors`), `PAIR` (the group in the role `a` against that in the role `b`),
               `EACH` (every group against the baseline), `PAIRS` (every two groups of equally many classes, none of
               them a random control), `LINE` (the baseline is one line)
    paper      the direction in a word, for the paper's column
    direction  +1: higher, a rising trend; 0: no effect within the margin of the run
    or_equal   a `direction` of +1 that "no effect" agrees with as well
    """

    of: str
    paper: str
    direction: int
    factors: tuple[str, ...] = ()
    a: str = ""
    b: str = ""
    or_equal: bool = False


@dataclass(frozen=True)
class Study:
    """One study: its sweep is NAME in sweeps/ and sweeps/photos/, its section has the marks of that name.

    data   what the paper pre-trained on and fine-tuned on
    rendered   whether sweeps/ has it too
    lines      whether it is about groups that lie on one line, so that the test of equal lines is reported too
    """

    name: str
    data: str
    claims: tuple[Claim, ...]
    rendered: bool = True
    lines: bool = False


STUDIES = {
    study.name: study
    for study in (
        Study("quantity", "ImageNet, iNaturalist; iWildCam", (Claim(TREND, "rises", 1, ("num_images",)),)),
        Study("granularity", "ImageNet; iWildCam", (
            Claim(PAIR, "higher", 1, a="finest labels", b="coarsest labels"),
            Claim(PAIR, "higher", 1, a="coarsest labels", b="scratch"),
        )),
        Study("semantics", "ImageNet; iWildCam", (Claim(PAIRS, "no effect", 0),)),
        Study("classes_vs_images", "ImageNet; iWildCam", (Claim(TREND, "no effect", 0, ("num_classes",)),)),
        Study("diversity", "ImageNet; iWildCam", (
            Claim(TREND, "no effect", 0, ("subclasses_per_label", "num_classes")),
        )),
        Study("domain_mix", "ImageNet, iNaturalist, diffusion, FractalDB; iWildCam", (
            Claim(PAIR, "higher", 1, a="natural", b="fractals"),
            Claim(PAIR, "higher", 1, a="fractals", b="scratch"),
            Claim(PAIR, "higher or equal", 1, a="natural", b="generated", or_equal=True),
        )),
        Study("algorithm", "supervised, self-supervised, CLIP; iWildCam", (Claim(PAIRS, "no effect", 0),), lines=True),
        Study("weights", "ImageNet models of several architectures; iWildCam", (
            Claim(EACH, "higher", 1),
            Claim(PAIRS, "no effect", 0),
        ), rendered=False, lines=True),
        Study("baseline", "none; iWildCam", (Claim(LINE, "one line", 1),)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """What the rule says of one claim or of a whole study, and the intervals that it rests on, as text."""

    verdict: str
    text: str


def judge(study: Study, record: Row, photographs: bool) -> Judgement:
    """Judge a run by all claims of its study that it can speak of."""
    if record["refused"]:
        return Judgement(OPEN, f"The line from scratch is refused: {line_text(record)}")
    judged = [one for claim in study.claims if (one := _claim(claim, record, photographs)) is not None]
    verdict = _of_all(one.verdict for one in judged)
    text = "; ".join(one.text for one in judged) or "the run has none of the groups that are claimed about"
    if study.lines:
        text += one_line_text(record)
    return Judgement(verdict, text[:1].upper() + text[1:])


def _claim(claim: Claim, record: Row, photographs: bool) -> Judgement | None:
    if claim.of == LINE:
        return _line(record)
    if claim.of == TREND:
        row = trend(claim, record)
        return None if row is None else _trend(claim, row, record)
    rows = list(compared(claim, record, photographs))
    if claim.of != PAIRS:
        judged = [Judgement(rule(row, claim), effect_text(label, row)) for label, row in rows]
        text = "; ".join(one.text for one in judged)
        return Judgement(_of_all(one.verdict for one in judged), text) if judged else None
    return _pairs(claim, rows, record)


def _of_all(verdicts: Iterable[str]) -> str:
    """Agrees where every one does, disagrees where any does."""
    distinct = set(verdicts)
    return DISAGREES if DISAGREES in distinct else AGREES if distinct == {AGREES} else OPEN


def rule(row: Row, claim: Claim) -> str:
    """Return what one row says of a claim."""
    kind = state(row)
    none_shown = kind == "equivalent" or (kind == "differs" and row["equivalent"])
    if none_shown and (claim.direction == 0 or claim.or_equal):
        return AGREES
    if kind != "differs":
        return OPEN
    if claim.direction == 0:
        return DISAGREES
    return AGREES if value(row) * claim.direction > 0 else DISAGREES


def trend(claim: Claim, record: Row) -> Row | None:
    """Return the row of the factor that a claim is about; None where the run does not vary it."""
    rows = {row["factor"]: row for row in map(numbers, record["factors"])}
    return next((rows[name] for name in claim.factors if name in rows), None)


def _trend(claim: Claim, row: Row, record: Row) -> Judgement:
    if not not_straight(row):
        return Judgement(rule(row, claim), effect_text(row["label"], row))
    levels = [numbers(one) for one in record["levels"] if one["factor"] == row["factor"]]
    verdicts = {rule(one, claim) for one in levels}
    verdict = OPEN
    if verdicts == {AGREES}:
        verdict = AGREES
    elif DISAGREES in verdicts and (claim.direction == 0 or AGREES not in verdicts):
        verdict = DISAGREES
    steps = [effect_text(f"{group_label(one['a'])} against {group_label(one['b'])}", one, short=True) for one in levels]
    text = f"{row['label']}: not straight in the logarithm, so level by level: {'; '.join(steps)}"
    return Judgement(verdict, text)


def _pairs(claim: Claim, rows: list[tuple[str, Row]], record: Row) -> Judgement | None:
    """Judge all pairs at once; of many only the widest is written out."""
    if not rows:
        return None
    unlearned = sorted(group_label(name) for name, group in record["groups"].items() if group["hardly_learned"])
    verdicts = [rule(row, claim) for _, row in rows]
    verdict = _of_all(verdicts)
    if unlearned and verdict == AGREES:
        verdict = OPEN
    if len(rows) <= 3:
        text = "; ".join(effect_text(label, row) for label, row in rows)
    else:
        largest = effect_text(*max(rows, key=lambda one: abs(value(one[1])) if math.isfinite(value(one[1])) else -1.0))
        text = (
            f"{counted(verdicts.count(DISAGREES), len(rows), 'pairs', 'differ')}; without an effect within "
            f"{record['margin']:g} points: {verdicts.count(AGREES) or 'none'}; the largest difference: {largest}"
        )
    if unlearned:
        text += f"; {listed(unlearned)} hardly learned in pre-training, so pairs with it say nothing"
    return Judgement(verdict, text)


def _line(record: Row) -> Judgement:
    line, failed = numbers(record["line"]), record["failed_checks"]
    rises = line["slope_low"] > 0 and line["r2"] >= record["min_r2"]
    text = line_text(record)
    if failed:
        return Judgement(OPEN, f"{text}; checks that fail: {listed(failed)}")
    return Judgement(AGREES if rises else OPEN, text)


def one_line_text(record: Row) -> str:
    """Return how many pairs of groups have lines that differ in slope or, at equal slope, in height (ANCOVA)."""
    pairs = [row for row in record["slopes"] if row["family"] == "pairs"]
    if not pairs:
        return ""
    slopes, heights = (sum(row[what] for row in pairs) for what in ("slopes_differ", "heights_differ"))
    many = counted(slopes, len(pairs), "pairs", "differ")
    return f". Test of one line: {many} in slope, {heights or 'none'} in height"


def line_text(record: Row) -> str:
    """Return the line of the baseline as text."""
    line = numbers(record["line"])
    if not math.isfinite(line["r2"]):
        return "no line can be fitted"
    under = f", below {record['min_r2']:g}" if line["r2"] < record["min_r2"] else ""
    return f"R² {line['r2']:.2f}{under} and slope {line['slope']:.2f} {_span2(line)} ({record['scale']})"


def _span2(line: Row) -> str:
    return f"({line['slope_low']:.2f} to {line['slope_high']:.2f})".replace("-", "−")


def compared(claim: Claim, record: Row, photographs: bool) -> Iterator[tuple[str, Row]]:
    """Yield what a claim compares, as text, and the difference of ER."""
    baseline = record["line"]["group"]
    groups = {name: group for name, group in record["groups"].items() if name != baseline}
    if claim.of == EACH:
        pairs = [(name, baseline) for name in groups]
    elif claim.of == PAIR:
        ends = [role_of(role, record, photographs) for role in (claim.a, claim.b)]
        pairs = [(a, b) for a in ends[0] for b in ends[1]]
    else:
        fair = [name for name, group in groups.items() if "random:" not in name and not group["hardly_learned"]]
        pairs = [
            (a, b) for i, b in enumerate(fair) for a in fair[i + 1 :] if groups[a]["classes"] == groups[b]["classes"]
        ]
    for a, b in pairs:
        row = difference(record, a, b)
        if row is not None:
            yield f"{group_label(a)} against {group_label(b)}", row


def difference(record: Row, a: str, b: str) -> Row | None:
    """Return the contrast of two groups, a minus b, whichever way round the report has it; None where it has none."""
    for row in map(numbers, record["contrasts"]):
        if (row["a"], row["b"]) == (a, b):
            return row
        if (row["a"], row["b"]) == (b, a):
            return {**row, "a": a, "b": b, "delta_er": -row["delta_er"], "low": -row["high"], "high": -row["low"]}
    return None


def effect_text(label: str, row: Row, short: bool = False) -> str:
    """Return one row as text: the effect, its interval and what is not established of it."""
    if not math.isfinite(value(row)):
        return f"{label}: not compared, their ID scores have no range in common"
    per = PER.get(row.get("per", ""), "")
    text = f"{label}: {signed(value(row))}{'' if short else f' points of ER{per}'} {span(row['low'], row['high'])}"
    kind = claimed(row)
    if kind == "equivalent":
        text += f", no effect within {row['margin']:g} points"
    elif kind == "open":
        text += f", not established{holm_note(row)}"
    else:
        text += small_note(row)
    return f"{text}, not in every check" if state(row) == "fragile" else text


def value(row: Row) -> float:
    """Return the slope of a factor, or the difference of two groups."""
    return row["slope"] if "slope" in row else row["delta_er"]


def numbers(row: Row) -> dict[str, Any]:
    """Return a row of an entry as the analysis has it: NaN where JSON has null."""
    return {key: math.nan if item is None and key not in ("against", "group") else item for key, item in row.items()}
