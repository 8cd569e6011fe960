"""The lines `# Cost:` and `# Result:` of a sweep's file, written from its run.

Owns their forms: of a study, of a search, of a prediction from small runs, of the baseline. `# Question:` and `# Run:`
above them are written by hand.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from analysis.findings import not_straight
from analysis.formatting import counted, interval, listed, signed
from analysis.stats.contrasts import state
from bench.studies.claims import PER, Row, difference, numbers, value
from bench.studies.document import cost_text
from bench.studies.groups import group_label
from bench.studies.record import Record
from ray_robust.errors import UserError

WIDTH, INDENT = 120, "#           "
CONFIRMED = " --confirm"  # after the name of a sweep: the entry of the larger run that a prediction is compared with
LINES = re.compile(r"^# Cost:.*\n(?:#.*\n)*?# Result:.*\n(?:#           .*\n)*", re.MULTILINE)
NUMBERS = {8: "eight", 6: "six", 5: "five", 4: "four"}


def with_header(text: str, name: str, entries: Mapping[str, Record]) -> str:
    """Return a sweep's file with the two lines of its header written from its entry. Raises UserError where the file
    has no such lines."""
    if not LINES.search(text):
        raise UserError(f"sweeps/{name}.yaml: its header has no lines '# Cost:' and '# Result:' to write to")
    lines = "".join(
        textwrap.fill(
            f"# {word}:".ljust(len(INDENT)) + said.replace("−", "-").replace("²", "^2"),
            WIDTH,
            subsequent_indent=INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
        for word, said in (("Cost", cost_line(name, entries)), ("Result", result_line(name, entries)))
    )
    return LINES.sub(lambda _: lines, text, count=1)


def write_headers(root: Path, entries: Mapping[str, Record]) -> list[str]:
    """Write the header of every sweep that has an entry; return their names."""
    names = [name for name in entries if " " not in name]
    for name in names:
        path = root / f"sweeps/{name}.yaml"
        if not path.is_file():
            raise UserError(f"{path}: there is no such sweep; name the run, as in photos/quantity=RUN")
        text = path.read_text("utf-8")
        new = with_header(text, name, entries)
        if new != text:
            path.write_text(new, "utf-8")
    return names


def cost_line(name: str, entries: Mapping[str, Record]) -> str:
    """Return what the sweep took, and on what."""
    record = entries[name]
    text = f"{cost_text(record)} ({record['cost']['processor']})"
    if (larger := entries.get(name + CONFIRMED)) is not None:
        text += f"; the confirming run {cost_text(larger)}"
    return f"{text}."


def result_line(name: str, entries: Mapping[str, Record]) -> str:
    """Return what came out, in the form of its kind of sweep."""
    record = entries[name]
    if "prediction" in record:
        parts = list(_predicted(record, entries.get(name + CONFIRMED)))
    elif "search" in record:
        parts = list(_searched(record))
    elif set(record["groups"]) == {record["line"]["group"]}:
        parts = list(_baseline(record))
    else:
        parts = list(_compared(record))
        for other, varied in entries.items():
            if other.startswith(f"{name} --set "):
                parts.append(f"With {other.removeprefix(f'{name} ')}: {_summary(varied)}.")
    return " ".join(parts)


def _summary(record: Record) -> str:
    """Return a further run in a clause: its trend, and how many groups differ from the baseline."""
    if record["refused"]:
        return "the line from scratch is refused"
    trends = [_effect(numbers(row)) for row in record["factors"] if row["per"] in PER]
    rows = [row for _, row in _against_baseline(record)]
    sure = sum(state(row) == "differs" for row in rows)
    return "; ".join([*trends, f"{counted(sure, len(rows), 'groups', 'differ')} from scratch"])


def _compared(record: Record) -> Iterator[str]:
    line = numbers(record["line"])
    yield f"From-scratch line R² {line['r2']:.2f} ({record['scale']})."
    if record["refused"]:
        yield f"No ER: the line is refused (floor {record['min_r2']:g})."
        return
    for row in map(numbers, record["factors"]):
        if row["per"] in PER:
            note = f", no effect within {record['margin']:g} points" if row["equivalent"] else ""
            note += {"open": ", not established", "fragile": ", not in every check"}.get(state(row), "")
            note = ", not straight: see the levels" if not_straight(row) else note
            yield f"{_effect(row)}{note}."
    rows = _against_baseline(record)
    effects = [f"{label} {signed(value(row))} ({interval(row['low'], row['high'])})" for label, row in rows]
    yield f"ER against {record['line']['group']}: {', '.join(effects)}."
    for kind, head in (
        ("equivalent", f"No effect within {record['margin']:g} points"),
        ("fragile", "Not in every check"),
        ("open", "Not established"),
    ):
        labels = [label for label, row in rows if state(row) == kind]
        if labels:
            every = len(labels) == len(rows) > 1
            yield f"{head}: {f'any of the {len(rows)}' if every else listed(labels)}."


def _against_baseline(record: Record) -> list[tuple[str, Row]]:
    baseline = record["line"]["group"]
    rows = ((group, difference(record, group, baseline)) for group in record["groups"] if group != baseline)
    return [(group_label(group), row) for group, row in rows if row is not None and math.isfinite(value(row))]


def _effect(row: Row) -> str:
    span = f"({interval(row['low'], row['high'])})"
    effect = f"{signed(row['slope'])} points of ER{PER[row['per']]}"
    if row["per"] == "tenfold":
        return f"{effect} of {row['label']} {span}"
    return f"{row['label'][:1].upper()}{row['label'][1:]}: {effect} {span}"


def _baseline(record: Record) -> Iterator[str]:
    line = numbers(record["line"])
    slope = f"slope {line['slope']:.2f} ({line['slope_low']:.2f} to {line['slope_high']:.2f})"
    yield (
        f"From-scratch line: {slope}, R² {line['r2']:.2f} ({record['scale']}), ID scores from "
        f"{100 * line['id_min']:.0f} to {100 * line['id_max']:.0f} %."
    )
    failed = record["failed_checks"]
    yield f"Checks of the line that fail: {listed(failed)}." if failed else "No check of the line fails."


def _predicted(record: Record, larger: Record | None) -> Iterator[str]:
    prediction = record["prediction"]
    er = prediction["targets"].get("er")
    if er is not None:
        skill = f"{100 * er['skill']:.0f} % explained, p = {er['p']:.3f}"
        yield (
            f"ER of mixtures left out is predicted with an error of {er['error']:.1f} points, the mean's is "
            f"{er['error_of_mean']:.1f} ({skill})."
        )
    if prediction["refused"]:
        yield f"No best mixture: {prediction['refused'].rstrip('.')}."
    elif (best := prediction["best"]) is not None:
        at = f", ER {signed(best['er'][0])} ({interval(*best['er'][1:3])})" if best.get("er") else ""
        yield f"Predicted best: {best['mixture']}{at}."
    confirmed = prediction.get("confirmation")
    if confirmed is None:
        return
    if "refused" in confirmed:
        yield f"Not established: whether the order holds, because {confirmed['refused'].rstrip('.')}."
        return
    rank, low, high = (math.nan if one is None else one for one in confirmed["spearman"])
    count = confirmed["compositions"]
    totals = sorted({group["images"] for group in larger["groups"].values()} - {0}) if larger else []
    at = f" at {listed([f'{total:,}' for total in totals])} images" if totals else ""
    head = "The order of" if low > 0 else "Not established: that the order holds of"
    yield (
        f"{head} {NUMBERS.get(count, count)} compositions{' holds' * (low > 0)}{at}: Spearman {rank:.2f} "
        f"({low:.2f} to {high:.2f}); the one predicted best is {max(0.0, confirmed['regret']):.1f} points behind the "
        "best there."
    )


def _searched(record: Record) -> Iterator[str]:
    search = record["search"]
    if not search["best"]:
        yield "No configuration has ended."
        return
    first, *others = search["best"]
    unit = "ER {}" if search["objective"] == "effective_robustness" else search["objective"] + " {}"
    yield f"On validation best: {group_label(first['group'])}, {unit.format(signed(first['value']))}."
    if others:
        values = listed([f"{group_label(one['group'])} {signed(one['value'])}" for one in others[:2]])
        yield f"Next: {values}."
    rows = _against_baseline(record)
    sure = sum(state(row) == "differs" for _, row in rows)
    yield (
        f"On the test splits, {counted(sure, len(rows), 'mixtures', 'differ')} from scratch with one seed "
        "each; the best are to be confirmed with more seeds."
    )
