"""Per cent or fractions: a check that every column, and every row, is in the unit that it is read in.

Owns `as_fractions`. The rule (docs/statistics.md, "Units"): a score over 1 is no fraction. Under `--percent` a score of
at most 1 may be a fraction: a column, or a group, of nothing else is refused; a row is refused when it lies nearer to
the other rows once such scores are read as fractions. A column whose unit was declared (`--unit`) and a cell with a %
sign are what they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from analysis.input.cells import Numbers
from analysis.input.csv_file import Remarks
from ray_robust.text.names import count_noun, quoted

UNITS = ("percent", "fraction")
LEAST_GROUP = 3  # a group of so many rows or more speaks for itself
NEAR = 0.05  # in arcsin(sqrt(score)): 0.3 % lies so near to 1.1 %, 0.03 % to 0.5 %
MOST_COMBINED = 4  # ID columns beyond it are converted one at a time or all together
CONVERT = "bring the table into one unit"


def as_fractions(
    columns: Mapping[str, Numbers], groups: pd.Series, percent: bool, declared: Mapping[str, str], remarks: Remarks
) -> dict[str, np.ndarray]:
    """Return scores of each column as fractions, float [rows], NaN where missing or bad. `groups` has the rows' labels
    as index; what is not in its unit is added to the remarks' problems."""
    index = groups.index
    over, sure, values = {}, {}, {}
    for name, column in columns.items():
        unit = declared.get(name, "percent" if percent else "fraction")
        top = np.where(column.signed | (unit == "percent"), 100.0, 1.0)
        values[name] = column.values
        over[name] = np.nan_to_num(column.values, nan=0.0) > top
        sure[name] = column.signed | (unit != "percent") | (name in declared)
        below = index[np.nan_to_num(column.values, nan=0.0) < 0]
        remarks.cells(below, _sentence(name, values[name], index, "is under 0: it is no score"))
        if column.signed.any() and not column.signed.all():
            remarks.note(f"{name}: {count_noun(int(column.signed.sum()), 'cell')} with a % sign read as per cent",
                         index[column.signed])  # fmt: skip
    _too_large(values, over, columns, percent, declared, index, remarks)
    if percent:
        _too_small(values, sure, groups, remarks)
    return {
        name: values[name] / np.where(
            column.signed | (declared.get(name, "percent" if percent else "fraction") == "percent"), 100.0, 1.0
        )
        for name, column in columns.items()
    }  # fmt: skip


def _sentence(name: str, values: np.ndarray, index: pd.Index, what: str):
    place: dict[Any, int] = {}

    def sentence(row: int) -> str:
        if not place:
            place.update(zip(index, range(len(index)), strict=True))
        return f"{name}: {values[place[row]]:g} {what}"

    return sentence


def _too_large(
    values: Mapping[str, np.ndarray],
    over: Mapping[str, np.ndarray],
    columns: Mapping[str, Numbers],
    percent: bool,
    declared: Mapping[str, str],
    index: pd.Index,
    remarks: Remarks,
) -> None:
    """Scores over 100 %, or over 1 where fractions are meant."""
    whole = []  # columns that are in per cent from top to bottom
    others = [name for name in columns if not over[name].any()]
    for name in columns:
        given = np.isfinite(values[name])
        in_percent = declared.get(name, "percent" if percent else "fraction") == "percent"
        if not over[name].any():
            continue
        rows = index[over[name]]
        if in_percent or name in declared:
            unit = "0..100 (per cent)" if in_percent else "0..1 (a fraction)"
            remarks.cells(rows, _sentence(name, values[name], index, f"is not within {unit}"))
            continue
        hint = "is not within 0..1 (a fraction"
        share = over[name].sum() / max(given.sum(), 1)
        if share == 1:
            whole.append(name)
            if others and not percent:  # said of the column, below
                continue
            hint += "; are the scores in per cent? then add --percent"
        elif share < 0.5:
            hint += ", as most scores of the column are"
        hint += ")"
        remarks.cells(rows, _sentence(name, values[name], index, hint))
        low = index[given & ~over[name] & (values[name] > 0) & ~columns[name].signed]
        if len(low) and share >= 0.5:
            remarks.table(
                f"{name}: {count_noun(len(rows), 'score')} over 1 beside {len(low):,} of at most 1 "
                f"({remarks.source.at(low)}): two units in one column; {CONVERT}, or, if these scores truly are under "
                f"1 %, say --percent --unit {name}=percent"
            )
    if whole and others and not percent:
        verb = "is" if len(whole) == 1 else "are"
        remarks.table(
            f"{' and '.join(whole)} {verb} in per cent, {' and '.join(others)} in fractions: "
            f"say {' '.join(f'--unit {name}=percent' for name in whole)} (without --percent)"
        )


def _too_small(
    values: Mapping[str, np.ndarray], sure: Mapping[str, np.ndarray], groups: pd.Series, remarks: Remarks
) -> None:
    """Scores of at most 1 that were to be per cent: columns, groups and rows that look like fractions."""
    low = {name: (values[name] > 0) & (values[name] <= 1) & ~sure[name] for name in values}
    whole = [
        name
        for name in values
        if low[name].any() and not (np.nan_to_num(values[name]) > 1).any() and not sure[name].any()
    ]
    if whole and len(whole) == len(values):
        remarks.table(
            f"no score is over 1 although they were to be per cent: leave --percent out, or, if they truly are under "
            f"1 %, say {_declare(whole)}"
        )
        return
    for name in whole:
        remarks.column(
            f"{name}: no score is over 1 although the others are in per cent: it is in fractions (say --unit "
            f"{name}=fraction), or truly under 1 % (say --unit {name}=percent)"
        )
    names = tuple(name for name in values if name not in whole)
    table = np.column_stack([values[name] for name in names])
    codes, labels = pd.factorize(groups)
    scores = _Scores(names, table, np.column_stack([low[name] for name in names]), codes)
    of_group = _whole_groups(scores, labels, groups.index, remarks)
    _single_rows(scores, of_group, labels, groups.index, remarks)


@dataclass(frozen=True, eq=False)
class _Scores:
    """The columns that are not in fractions as a whole: scores in per cent [rows, columns], which of them may be
    fractions, and the group of each row."""

    names: tuple[str, ...]
    table: np.ndarray
    doubtful: np.ndarray
    codes: np.ndarray

    @property
    def complete(self) -> np.ndarray:
        """Which rows have a score in every column, bool [rows]."""
        return np.isfinite(self.table).all(axis=1)

    def stable(self, rows: np.ndarray, as_fractions: np.ndarray | None = None) -> np.ndarray:
        """Return arcsin(sqrt(score)) of these rows, on which the noise of counting is the same for all scores (Anscombe
        1948); those chosen by `as_fractions` (bool [rows, columns]) are taken for fractions."""
        scores = self.table[rows] / 100
        scores = scores if as_fractions is None else np.where(as_fractions, self.table[rows], scores)
        return np.arcsin(np.sqrt(np.clip(scores, 0, 1)))


def _whole_groups(scores: _Scores, labels: Sequence[str], index: pd.Index, remarks: Remarks) -> np.ndarray:
    """The rows of groups without a score over 1 in any column, bool [rows]."""
    rows, low = (np.bincount(scores.codes, chosen, len(labels)) for chosen in (
        scores.complete, scores.complete & scores.doubtful.all(axis=1)
    ))  # fmt: skip
    for code in np.flatnonzero((rows >= LEAST_GROUP) & (low == rows)).tolist():
        own = index[scores.complete & (scores.codes == code)]
        remarks.table(
            f"group {quoted(labels[code])}: none of its {count_noun(len(own), 'row')} has a score over 1 "
            f"({remarks.source.at(own)}): it is in fractions among groups in per cent; {CONVERT}, or, if its scores "
            f"truly are under 1 %, say {_declare(scores.names)}"
        )
    return scores.complete & ((rows >= LEAST_GROUP) & (low == rows))[scores.codes]


def _single_rows(scores: _Scores, others: np.ndarray, labels: Sequence[str], index: pd.Index, remarks: Remarks) -> None:
    """Problems of rows in fractions; a note about rows that might be."""
    rows = np.flatnonzero(scores.complete & scores.doubtful.any(axis=1) & ~others)
    if not len(rows):
        return
    in_fractions, unclear = _nearer_as_fractions(scores, scores.complete & ~others, rows)
    if unclear.any():
        remarks.note(
            f"{count_noun(int(unclear.sum()), 'row')} with scores of at most 1, read as under 1 %: as fractions they "
            "would lie among the others too",
            index[rows[unclear]],
        )
    wrong = rows[in_fractions]
    if not len(wrong):
        return
    place = {index[row]: row for row in wrong}

    def sentence(label: int) -> str:
        row = place[label]
        cells = [f"{name} {scores.table[row, i]:g}" for i, name in enumerate(scores.names) if scores.doubtful[row, i]]
        return f"{', '.join(cells)}: in fractions, among scores in per cent"

    remarks.cells(index[wrong], sentence)
    of_group = np.bincount(scores.codes[scores.complete], minlength=len(labels))
    by_group = pd.Series(scores.codes[wrong]).value_counts()
    shares = [
        f"{count:,} of {of_group[code]:,} rows of {quoted(labels[code])}" for code, count in by_group.head(3).items()
    ]
    more = "" if len(by_group) <= 3 else f" and {count_noun(len(by_group) - 3, 'more group')}"
    remarks.table(
        f"two units: {', '.join(shares)}{more} lie nearer to the others when read as fractions; {CONVERT}, or, if "
        f"these scores truly are under 1 %, say {_declare(scores.names)}"
    )


def _declare(names: Sequence[str]) -> str:
    return " ".join(f"--unit {name}=percent" for name in names)


def _nearer_as_fractions(scores: _Scores, usable: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of `rows` lie nearer to the others when their doubtful scores are read as fractions, and which would have,
    but lie so near as they stand that they are taken so (bool [rows] each).

    The others are the rows in per cent beyond doubt: of the same group, where it has `LEAST_GROUP`, else of the table.
    A row that is taken as it stands becomes one of them, so that scores that reach down to 0.1 % without a gap are
    followed all the way.
    """
    wrong, unclear = np.zeros((2, len(rows)), bool)
    certain = usable & ~scores.doubtful.any(axis=1)
    enough = np.bincount(scores.codes, certain)[scores.codes] >= LEAST_GROUP
    for code in [*np.unique(scores.codes[rows[enough[rows]]]), None]:
        own = ~enough[rows] if code is None else enough[rows] & (scores.codes[rows] == code)
        pending = np.flatnonzero(own)
        points = scores.stable(np.flatnonzero(certain if code is None else certain & (scores.codes == code)))
        first = True
        while len(pending) and len(points):
            tree, asked = cKDTree(points), rows[pending]
            as_read, converted = tree.query(scores.stable(asked))[0], np.full(len(asked), np.inf)
            for choice in _choices(len(scores.names)):
                change = scores.doubtful[asked] & choice
                distance = np.where(change.any(axis=1), tree.query(scores.stable(asked, change))[0], np.inf)
                converted = np.minimum(converted, distance)
            accepted = (as_read <= converted) | (as_read <= NEAR)
            if first:
                unclear[pending] = as_read > converted
            if not accepted.any():
                break
            points, first = np.concatenate([points, scores.stable(asked[accepted])]), False
            pending = pending[~accepted]
        wrong[pending] = True
        if code is not None:  # a small group may lean on what has been taken from the large ones
            certain[rows[own & ~wrong]] = True
    return wrong, unclear & ~wrong


def _choices(width: int) -> list[np.ndarray]:
    """Which columns may be in fractions at once."""
    if width <= MOST_COMBINED:
        return [np.array(choice) for choice in product((False, True), repeat=width) if any(choice)]
    return [np.ones(width, bool), *np.eye(width, dtype=bool)]
