"""docs/studies.md: a table per study, paper beside photographs beside rendered world, and what follows from it.

Owns the columns (`columns`: a study's entries, photographs first), the table (`section`) and the sentences below it.
All of it is made of docs/studies.json, and of the claims in `claims`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.findings import not_straight
from analysis.formatting import interval, listed, signed
from analysis.stats.contrasts import state
from bench.studies.claims import (
    EACH,
    PAIR,
    PAIRS,
    PER,
    STUDIES,
    TREND,
    Claim,
    Row,
    Study,
    compared,
    difference,
    effect_text,
    judge,
    numbers,
    value,
)
from bench.studies.groups import controls, group_label, role_of, sources_text
from bench.studies.record import Record

PHOTOS, NOT_RUN, NONE = "photos/", "not run", "-"
ESTABLISHED, REVERSED, NOT_ESTABLISHED = "Established", "The other way round", "Not established"
ORDER = ("natural", "generated", "fractals", "scratch")  # of sources at matched totals, as the paper has them


@dataclass(frozen=True)
class Column:
    """One run of a study: its title, and its entry, None where the sweep was not run."""

    title: str
    photographs: bool
    record: Record | None


def study_of(name: str) -> Study | None:
    """Return the study that an entry of this name belongs to: `photos/quantity_64px` to quantity."""
    stem = name.removeprefix(PHOTOS).partition(" ")[0]
    fitting = [one for one in STUDIES if stem == one or stem.startswith(f"{one}_")]
    return STUDIES[max(fitting, key=len)] if fitting else None


def columns(study: Study, entries: Mapping[str, Record]) -> list[Column]:
    """Return the columns of a study: photographs, their variants, the rendered world, its variants."""
    result = []
    for photographs in (True, False):
        if not (photographs or study.rendered):
            continue
        main, title = (PHOTOS if photographs else "") + study.name, "photographs" if photographs else "rendered world"
        result.append(Column(title, photographs, entries.get(main)))
        for name, record in entries.items():
            if name != main and name.startswith(PHOTOS) == photographs and study_of(name) == study:
                result.append(Column(f"{title}, {_variant(name, record, entries.get(main))}", photographs, record))
    return result


def _variant(name: str, record: Record, main: Record | None) -> str:
    """Return in what a further run differs from the study's first: its task, its size, what was set."""
    parts = [] if main is None or record["task"] == main["task"] else [record["task"]]
    if main is not None and record["image_size"] != main["image_size"]:
        parts.append(f"{record['image_size']} px")
    parts += [f"`{one}`" for one in record["set"]]
    return ", ".join(parts) or name.rpartition("_")[2]


def section(study: Study, entries: Mapping[str, Record]) -> Iterator[str]:
    """Yield the lines between a study's marks."""
    shown = columns(study, entries)
    yield f"| | paper | {' | '.join(column.title for column in shown)} |"
    yield "|---" * (len(shown) + 2) + "|"
    for label, paper, cells in _rows(study, shown):
        yield f"| {' | '.join(_escaped(cell) for cell in (label, paper, *cells))} |"
    yield ""
    for column in shown:
        yield f"- {_sentence(study, column)}"
        if study.name == "domain_mix" and column.record is not None and not column.record["refused"]:
            yield f"- {_order(column)}"


def _sentence(study: Study, column: Column) -> str:
    title = column.title[:1].upper() + column.title[1:]
    if column.record is None:
        return f"**{title}: {NOT_RUN}.**"
    judged = judge(study, column.record, column.photographs)
    if column.record["set"]:
        return f"**{title}** (no claim of the paper is about it): {judged.text}."
    return f"**{title}: {judged.verdict}.** {judged.text}."


def _rows(study: Study, shown: list[Column]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield every row: its label, the paper's cell, and a cell per column."""
    yield "pre-trained on; fine-tuned on", study.data, _each(shown, lambda record: _data(record))
    yield "line from scratch, R²", NONE, _each(shown, lambda record: f"{numbers(record['line'])['r2']:.2f}")
    effects: dict[str, str] = {}  # every comparison that some column makes, and what the paper says of it
    by_column: list[dict[str, str]] = []
    for column in shown:
        own: dict[str, str] = {}
        if column.record is not None:
            for label, paper, row in comparisons(study, column.record, column.photographs):
                own[label] = cell(row, column.record)
                effects[label] = effects.get(label, NONE) if paper == NONE else paper
        by_column.append(own)
    for label, paper in effects.items():
        cells = [
            NOT_RUN if column.record is None else own.get(label, NONE)
            for column, own in zip(shown, by_column, strict=True)
        ]
        yield f"{label}", paper, cells
    if study.lines:  # methods that learn other things: how much each learned
        yield "upstream accuracy", NONE, _each(shown, upstream_text)
    yield "cost", NONE, _each(shown, cost_text)


def _each(shown: list[Column], text: Any) -> list[str]:
    return [NOT_RUN if column.record is None else text(column.record) for column in shown]


def comparisons(study: Study, record: Record, photographs: bool) -> Iterator[tuple[str, str, Row]]:
    """Yield what a run compares: slopes, every group against the baseline, the pairs that a claim is about, and random
    controls; each as text, with the paper's word for it, and its row."""
    of_factor = {name: claim for claim in study.claims if claim.of == TREND for name in claim.factors}
    for row in map(numbers, record["factors"]):
        if row["per"] in PER:
            claim = of_factor.get(row["factor"])
            yield f"{row['label']},{PER[row['per']]}", claim.paper if claim else NONE, row
    claimed_of = {
        label: claim.paper
        for claim in study.claims
        if claim.of not in (TREND, PAIRS)
        for label, _ in _compared(claim, record, photographs)
    }
    baseline = record["line"]["group"]
    shown = set()
    for group in record["groups"]:
        row = None if group == baseline else difference(record, group, baseline)
        if row is not None:
            label = f"{group_label(group)} against {baseline}"
            shown.add(label)
            yield label, claimed_of.get(label, NONE), row
    for claim in study.claims:
        for label, row in _compared(claim, record, photographs):
            if label not in shown:
                yield label, claim.paper, row
    for group, cut in controls(record):
        if (row := difference(record, group, cut)) is not None:
            yield f"{group_label(group)} against {group_label(cut)}", NONE, row


def _compared(claim: Claim, record: Record, photographs: bool) -> list[tuple[str, Row]]:
    return list(compared(claim, record, photographs)) if claim.of in (EACH, PAIR, PAIRS) else []


def cell(row: Row, record: Record) -> str:
    """Return an effect with its 95 % interval: bold where it is established, in italics where none within the margin
    is."""
    if record["refused"]:
        return "refused"
    if not math.isfinite(value(row)):
        return NONE
    text = f"{signed(value(row))} ({interval(row['low'], row['high'])})"
    if "straight_p" in row and not_straight(row):
        return f"{text}, not straight"
    return {"differs": f"**{text}**", "equivalent": f"_{text}_"}.get(state(row), text)


def upstream_text(record: Record) -> str:
    """Return the mean upstream accuracy of every group that has one: `CLIP 6.5 %, supervised 22.3 %`."""
    known = {name: group["upstream_accuracy"] for name, group in record["groups"].items()}
    parts = [f"{group_label(name)} {share:.1f} %" for name, share in known.items() if share is not None]
    return ", ".join(parts) or NONE


def cost_text(record: Record) -> str:
    """Return what a run took: `5 min, 15 trials, 66 fine-tunings, 2 cores`."""
    cost = record["cost"]
    gpus = f", {cost['gpus']} GPU{'s' * (cost['gpus'] > 1)}" if cost["gpus"] else ""
    return (
        f"{minutes_text(cost['minutes'])}, {cost['trials']} trials, {cost['finetunings']} fine-tunings, "
        f"{cost['cores']} cores{gpus}"
    )


def minutes_text(minutes: float) -> str:
    """Return a duration: `78 s`, `5 min`, `1 h 20 min`."""
    if minutes < 2:
        return f"{60 * minutes:.0f} s"
    whole = round(minutes)
    return f"{whole} min" if whole < 90 else f"{whole // 60} h {whole % 60} min"


def _data(record: Record) -> str:
    return f"{sources_text(record)}; {record['task']}, {record['image_size']} px"


def _escaped(text: str) -> str:
    return re.sub(r"(?<!\\)[|]", r"\\|", text)


def _order(column: Column) -> str:
    """Return which steps of the paper's order of sources a run of mixtures establishes, each by its interval."""
    assert column.record is not None
    record = column.record
    placed = [(role, name) for role in ORDER for name in role_of(role, record, column.photographs)]
    parts = []
    for i, (_, a) in enumerate(placed):
        for _, b in placed[i + 1 :]:
            row = difference(record, a, b)
            if row is not None:
                parts.append((_step(row), effect_text(f"{_bare(a)} > {_bare(b)}", row, short=True)))
    totals = sorted({record["groups"][name]["images"] for role, name in placed if role != "scratch"})
    order = " > ".join(_bare(name) for _, name in placed)
    sentences = [
        f"{heading}: {'; '.join(texts)}."
        for heading in (ESTABLISHED, REVERSED, NOT_ESTABLISHED)
        if (
            texts := [
                re.sub(r", not established( after Holm's correction)?", "", text)
                for step, text in parts
                if step == heading
            ]
        )
    ]
    at = listed([f"{total:,}" for total in totals])
    return f"The paper's order at {at} images, {column.title}: {order}. {' '.join(sentences)}"


def _step(row: Row) -> str:
    if state(row) != "differs":
        return NOT_ESTABLISHED
    return ESTABLISHED if value(row) > 0 else REVERSED


def _bare(group: str) -> str:
    return group_label(group).removesuffix(" alone")
