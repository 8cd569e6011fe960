"""The columns of a plain table: whether they exist, the names and scores in them, and the other properties of a row.

Owns every step from text to points that needs one column alone; units, copies and clusters have modules of their own.
Each function adds to the remarks what is wrong, and what was read otherwise than it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.formatting import percent
from analysis.input import cells
from analysis.input.csv_file import Remarks
from analysis.input.named_columns import RATE, is_mixture, without_bad_sizes
from analysis.input.roles import Roles
from analysis.input.units import as_fractions
from analysis.stats.trend import MIN_POINTS
from ray_robust.errors import did_you_mean
from ray_robust.text.names import count_noun, describe_difference, is_missing, lookalikes, normalise, quoted

NUMERIC = ("num_images", "num_classes", "images_per_class", "finetune_images", "pretrain_images_seen", "epoch", "step",
           "id_images", "ood_images", "id_groups", "ood_groups", "wise_alpha")  # fmt: skip
MOST_PAIRS = 5  # sets of names that look alike are listed, the rest counted


def check_columns(roles: Roles, units: Mapping[str, str], remarks: Remarks) -> None:
    """Check that every column that was asked for exists, once, and in one role."""
    columns = list(remarks.source.frame.columns)
    for flag, name in [*roles.asked, *(("--unit", name) for name in units)]:
        if name not in columns:
            remarks.column(f"{flag}: no column {name!r}{did_you_mean(name, set(columns))}")
    for name in sorted({n for n in roles.ids if roles.ids.count(n) > 1}):
        remarks.table(f"--id: {name!r} is given twice")
    if roles.ood in roles.ids:
        remarks.table(f"--id and --ood name the same column {roles.ood!r}: there is no shift to measure")
    for flag, name in roles.asked[len(roles.scores) :]:
        if name in roles.scores.values():
            remarks.table(f"{flag}: {name!r} holds scores; name the column of the {flag.strip('-')} names")
    for name in sorted({name for name in roles.used if columns.count(name) > 1}):
        remarks.column(f"column {name!r} appears twice")


def tidy(frame: pd.DataFrame, remarks: Remarks) -> pd.DataFrame:
    """Return `frame` with every column name once: of columns with one name that nobody asked for, the first is kept if
    they are equal."""
    columns = list(frame.columns)
    if len(set(columns)) == len(columns):
        return frame
    keep = np.ones(len(columns), bool)
    for name in dict.fromkeys(name for name in columns if columns.count(name) > 1):
        places = [i for i, other in enumerate(columns) if other == name]
        same = all(frame.iloc[:, i].equals(frame.iloc[:, places[0]]) for i in places)
        keep[places] = False
        keep[places[0]] = same
        remarks.note(f"column {name!r} appears {len(places)} times: {'one is kept' if same else 'none is used'}")
    return frame.loc[:, keep]


def names_of(text: pd.Series, column: str, baseline: str | None, remarks: Remarks) -> pd.Series:
    """Return names of groups (`baseline` given) or clusters, blanks around them left out; those that look alike are
    notes."""
    codes, raw = pd.factorize(text)
    names = np.array([normalise(str(name)) for name in raw], object)
    changed = names != raw
    if changed.any():
        example = quoted(str(raw[changed][0]))
        remarks.note(f"{column}: blanks and what cannot be seen are left out of names, as of {example}",
                     text.index[changed[codes]])  # fmt: skip
    broken = np.array([re.search(r"[\r\n]", str(name).strip()) is not None for name in raw], bool)
    remarks.cells(text.index[broken[codes]], lambda _: f"{column}: a name with a line break; is a quote missing?")
    empty = names == ""
    remarks.cells(text.index[empty[codes]], lambda _: f"{column}: empty")
    cleaned = pd.Series(names[codes], index=text.index)
    sizes = cleaned.value_counts(sort=False).to_dict()
    gaps = [name for name in sizes if name and is_missing(name)]
    for name in gaps:
        rows = cleaned.index[cleaned == name]
        if baseline is None:

            def nameless(_: int, name: str = name) -> str:
                return f"{column}: {name!r} names no cluster"

            remarks.cells(rows, nameless)
        else:
            remarks.note(f"{column}: {name!r} is taken as the name of a group", rows)
    pairs = lookalikes(name for name in sizes if name not in gaps)
    for group in pairs[:MOST_PAIRS]:
        similar = [
            f"{quoted(name)} ({count_noun(sizes[name], 'row')}{', the baseline' if name == baseline else ''})"
            for name in group[:4]
        ]
        remarks.note(
            f"{column}: {' and '.join(similar)} look alike and are taken as {len(group)} different names; they differ "
            f"in {describe_difference(group)}"
        )
    if len(pairs) > MOST_PAIRS:
        remarks.note(f"{column}: {len(pairs) - MOST_PAIRS} more sets of names look alike")
    return cleaned


def role_names(frame: pd.DataFrame, roles: Roles, baseline: str, remarks: Remarks) -> pd.DataFrame:
    """Return columns trial (the cluster; without one every row's own name), group and task."""
    rows = "row " + (frame.index + remarks.source.first_row).astype(str)
    groups = names_of(frame[roles.group], roles.group, baseline, remarks)
    trials = names_of(frame[roles.cluster], roles.cluster, None, remarks) if roles.cluster else rows
    tasks = frame["task"].map(normalise) if "task" in frame and "task" not in roles.used else "task"
    return pd.DataFrame({"trial": trials, "group": groups, "task": tasks}, index=frame.index)


def score_columns(
    parsed: Mapping[str, cells.Numbers],
    columns: Mapping[str, str],
    groups: pd.Series,
    percent: bool,
    units: Mapping[str, str],
    remarks: Remarks,
) -> dict[str, pd.Series]:
    """Return scores as fractions by "id" (or "id_1", ...) and "ood", NaN where the cell is missing."""
    named = {columns[key]: numbers for key, numbers in parsed.items()}
    fractions = as_fractions(named, groups, percent, units, remarks)
    return {key: pd.Series(fractions[name], index=groups.index) for key, name in columns.items()}


def parse_scores(frame: pd.DataFrame, columns: Mapping[str, str], remarks: Remarks) -> dict[str, cells.Numbers]:
    """Return the score columns as numbers in the unit that they are written in."""
    parsed = {}
    for key, name in columns.items():
        numbers = parsed[key] = cells.numbers(frame[name])
        text = frame[name]

        def what(row: int, name: str = name, text: pd.Series = text) -> str:
            return f"{name}: {text[row]!r} is no number"

        remarks.cells(text.index[numbers.bad], what)
        if numbers.comma.any():
            remarks.note(f"{name}: {count_noun(int(numbers.comma.sum()), 'cell')} with a decimal comma")
    return parsed


def check_baseline(
    groups: pd.Series,
    column: str,
    scores: Mapping[str, pd.Series],
    baseline: str,
    id_min: float | None,
    remarks: Remarks,
) -> None:
    """Check that the baseline exists and a line can be fitted to it."""
    names = groups.unique()
    if baseline not in set(names):
        near = did_you_mean(baseline, names)
        same = [
            name for pair in lookalikes([baseline, *names]) if baseline in pair for name in pair if name != baseline
        ]
        near = f"; did you mean {' or '.join(map(quoted, same))}?" if same else near
        remarks.table(f"--baseline: no row has {quoted(baseline)} in column {column!r}{near}")
        return
    ids = [scores[key] for key in scores if key != "ood"]
    first = pd.concat(ids, axis=1).mean(axis=1, skipna=False)
    chosen, floor = (groups == baseline) & first.notna() & scores["ood"].notna(), ""
    if id_min is not None:
        chosen, floor = chosen & (first >= id_min), f" at or over the ID floor of {percent(id_min)}"
    if chosen.sum() < MIN_POINTS:
        what = f"the baseline {baseline!r} has {count_noun(int(chosen.sum()), 'row')} with both scores{floor}"
        remarks.table(f"{what}; a line needs {MIN_POINTS}")
    elif np.ptp(first[chosen]) < 1e-9:
        remarks.table(f"every row of the baseline {baseline!r} has the same ID score: no line fits")


def extra_columns(
    frame: pd.DataFrame,
    like: Mapping[str, str],
    percent: bool,
    units: Mapping[str, str],
    remarks: Remarks,
) -> pd.DataFrame:
    """Return the other columns, those that the analysis uses by name checked: validation scores (`like` maps each to
    the column whose unit it has), numbers, mixtures. What cannot be read as such is left out of the points, with a
    note."""
    points = frame.copy()
    for name, other in like.items():
        if name in points:
            unit = units.get(name, units.get(other, "percent" if percent else "fraction"))
            scores = _validation(points[name], name, unit, remarks)
            points = points.drop(columns=name) if scores is None else points.assign(**{name: scores})
    for name in (name for name in NUMERIC if name in points):
        read, bad, unclear = cells.amounts(points[name])
        rows = points.index[bad]
        if len(rows):
            remarks.note(f"{name}: {points[name][rows[0]]!r} is no number: the column is not used", rows)
        elif unclear.any():
            cell = points[name][unclear].iloc[0]
            two = f"{cell.split('.')[0]} or {cell.replace('.', '')}"
            remarks.table(f"{name}: {cell} may mean {two}; write numbers without dots between thousands")
        usable = not len(rows) and not read.isna().all()
        points = points.assign(**{name: read}) if usable else points.drop(columns=name)
    points = without_bad_sizes(_with_rates(points, remarks), remarks)
    points = points.assign(**{name: pd.to_numeric(points[name]) for name in NUMERIC if name in points})
    if "seed" in points:  # where none is given no trial shares it
        points = points.assign(seed=points["seed"].mask(points["seed"].map(is_missing)))
    if "sources" in points and not _are_mixtures(points["sources"]):
        remarks.note("sources: not JSON from names to weights of 0 and more: the column is not used")
        points = points.drop(columns="sources")
    return points


def _with_rates(points: pd.DataFrame, remarks: Remarks) -> pd.DataFrame:
    """`points` with learning rates as numbers; without the column, and with a note, where some cannot be read."""
    if RATE not in points:
        return points
    rates = cells.numbers(points[RATE])
    bad = points.index[rates.bad | rates.signed | (rates.values <= 0)]
    if len(bad):
        remarks.note(f"{RATE}: {points[RATE][bad[0]]!r} is no learning rate: the column is not used", bad)
    usable = len(bad) == 0 and not rates.missing.all()
    return points.assign(**{RATE: rates.values}) if usable else points.drop(columns=RATE)


def _validation(text: pd.Series, name: str, unit: str, remarks: Remarks) -> pd.Series | None:
    numbers = cells.numbers(text)
    top = np.where(numbers.signed | (unit == "percent"), 100.0, 1.0)
    values = np.nan_to_num(numbers.values, nan=0.0)
    small = unit == "percent" and not numbers.signed.any() and values.any() and values.max() <= 1
    if numbers.bad.any() or (values > top).any() or (values < 0).any() or small:
        rows = text.index[numbers.bad | (values > top) | (values < 0)]
        what = "fractions" if unit == "fraction" else "per cent"
        remarks.note(f"{name}: not scores in {what}, as --id and --ood are: the column is not used", rows)
        return None
    return pd.Series(numbers.values / top, index=text.index)


def _are_mixtures(text: pd.Series) -> bool:
    for cell in text.unique():
        if not cell:
            continue
        try:
            mixture = json.loads(cell)
        except ValueError:
            return False
        if not isinstance(mixture, dict) or not is_mixture(mixture):
            return False
    return True
