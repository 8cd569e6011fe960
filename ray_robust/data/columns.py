"""What is known of a source's images beside their labels: one column of its own files, or of a table, in catalog order.

Owns the join by the images' names, what counts as a missing value, and which columns are numbers. A column that was
read stays with its pool and travels with it, so that a trial selects by the values that its id is of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from ray_robust.data.pool import Pool, Source
from ray_robust.data.readers.table import Lines, read_table
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.spec.image_selection import ImageSelection
from ray_robust.spec.sections import Pretrain
from ray_robust.text.names import count_noun

PATH = "path"  # the column of a table with the name of each image
MISSING = ("", "na", "n/a", "nan", "null", "none")  # texts that stand for no number, in any case
_ATTACHED = "_columns"  # in a pool's __dict__: its columns, by what they were read for


@dataclass(frozen=True, eq=False)
class Column:
    """One value per image of a pool.

    values   float64 [n], NaN where `present` is not; of a column of texts object [n], ""
    present  bool [n], which images have a value
    digest   changes with any value, and with nothing else
    """

    values: np.ndarray
    present: np.ndarray
    digest: str


def columns_of(mixture: Pretrain, pools: Mapping[str, Pool]) -> dict[str, Column]:
    """Return the column that `select` of a mixture names, of every source that it applies to, by its name.

    Raises UserError, all problems at once, where a source has no such column, or text in it where numbers are needed.
    """
    selection, columns, problems = mixture.select, {}, list[str]()
    for name in mixture.sources if selection is not None else ():
        assert selection is not None
        if selection.applies_to(name):
            try:
                columns[name] = column_of(pools[name], selection)
            except UserError as error:
                problems += [f"pretrain.select: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)
    return columns


def column_of(pool: Pool, selection: ImageSelection) -> Column:
    """Return the column that a selection names, read once per pool. Raises UserError."""
    columns: dict[tuple, Column] = pool.__dict__.setdefault(_ATTACHED, {})
    key = (selection.table, selection.column, selection.numeric)
    if key not in columns:
        cells: Sequence[Any]
        if selection.table is not None:
            cells = _of_table(Path(selection.table), selection.column, pool)
        elif isinstance(pool, Source):
            cells = pool.values(selection.column)
        else:
            raise UserError(f"{pool.name} is no source")
        _check_cells(cells, selection, pool)
        columns[key] = _numbers(cells, selection, pool) if selection.numeric else _texts(cells)
        if not columns[key].present.any():
            what = f"no image of source {pool.name} has a value in column {selection.column!r}"
            del columns[key]
            raise UserError(what)
    return columns[key]


def has_columns(pool: Pool) -> bool:
    """Return whether columns were read for this pool."""
    return bool(pool.__dict__.get(_ATTACHED))


def joined(values: Sequence[Any], paths: Sequence[str], keys: Sequence[str]) -> list[Any]:
    """Return the value of each of `keys`, None for one that is not among the (unique) `paths`."""
    return [None if i < 0 else values[i] for i in pd.Index(paths).get_indexer(pd.Index(keys)).tolist()]


def _check_cells(cells: Sequence[Any], selection: ImageSelection, pool: Pool) -> None:
    """Refuse cells that are neither a number nor text: of a list of tags the brackets would be matched."""
    odd = next((cell for cell in cells if isinstance(cell, list | tuple | dict | bytes | np.ndarray)), None)
    if odd is not None:
        what = "bytes" if isinstance(odd, bytes) else "lists or mappings"
        wanted = "wanted: a number or a text for each image"
        raise UserError(f"column {selection.column!r} of source {pool.name} holds {what}; {wanted}")


def _numbers(cells: Sequence[Any], selection: ImageSelection, pool: Pool) -> Column:
    """Return cells as numbers. Raises UserError where one is text."""
    numbers = [_number(cell) for cell in cells]
    wrong = [i for i, number in enumerate(numbers) if number is None]
    if wrong:
        where = pool.keys(np.array(wrong[:1]))[0]
        more = f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise UserError(
            f"column {selection.column!r} of source {pool.name} is not of numbers: {str(cells[wrong[0]])[:40]!r} "
            f"({where}){more}; top, bottom, at_least and at_most need numbers, matches is for text"
        )
    values = np.array(numbers, float)
    values = np.where(np.isnan(values), np.nan, values + 0.0)  # one NaN, and no -0
    digest = hashlib.blake2b(values.astype("<f8").tobytes(), digest_size=8).hexdigest()
    return Column(values, ~np.isnan(values), digest)


def _texts(cells: Sequence[Any]) -> Column:
    absent = np.array([_is_absent(cell) or cell == "" for cell in cells], bool)
    values = np.array(["" if gone else _text(cell) for cell, gone in zip(cells, absent, strict=True)], object)
    text = json.dumps([None if gone else cell for cell, gone in zip(values, absent, strict=True)])
    return Column(values, ~absent, hashlib.blake2b(text.encode(), digest_size=8).hexdigest())


def _number(cell: Any) -> float | None:
    """Return a cell as a number, NaN where it has no value, None where it is something else."""
    if _is_absent(cell) or (isinstance(cell, str) and cell.strip().lower() in MISSING):
        return np.nan
    if isinstance(cell, str) and "_" in cell:  # a number for Python alone
        return None
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def _text(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _is_absent(cell: Any) -> bool:
    """Return whether a cell is one of the values that stand for none, of Python, numpy or pandas."""
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell)


def _of_table(path: Path, column: str, pool: Pool) -> list[Any]:
    """Return the cells of a table, joined to the pool's images by name. Raises UserError."""
    frame, lines = _read(path, column)
    paths = pd.Series(["" if _is_absent(cell) else str(cell) for cell in frame[PATH]], dtype=object)
    again = paths.duplicated().to_numpy(bool)
    if again.any():
        row = int(np.flatnonzero(again)[0])
        where = f"{path}:{lines[row]}" if lines is not None else str(path)
        more = f" (and {int(again.sum()) - 1:,} more)" if again.sum() > 1 else ""
        raise UserError(Problem(where, f"{PATH} {paths.iloc[row]!r} is there more than once{more}"))
    keys = pool.keys(np.arange(len(pool.catalog)))
    if not pd.Index(paths).isin(keys).any():
        what = f"none of its {count_noun(len(paths), 'path')} is the name of an image of source {pool.name}"
        example = f": it has {paths.iloc[0]!r}, the source {keys[0]!r}" if len(paths) else ""
        raise UserError(Problem(str(path), f"{what}{example}"))
    return joined(frame[column].tolist(), paths.tolist(), keys)


def _read(path: Path, column: str) -> tuple[pd.DataFrame, Lines | None]:
    """Return a table with the columns `path` and `column`; the lines of a CSV. Raises UserError."""
    if not path.is_file():
        raise UserError(Problem(str(path), "no such file"))
    if path.suffix == ".csv":
        frame, lines = read_table(path)
        _check_names(frame.columns.tolist(), column, f"{path}:{lines.header}")
        return frame, lines
    try:
        file = parquet.ParquetFile(path)
        _check_names(file.schema_arrow.names, column, str(path))
        table = file.read(columns=list({PATH, column}))  # as plain values: pandas would make of nulls what it likes
        return pd.DataFrame({name: pd.Series(table[name].to_pylist(), dtype=object) for name in (PATH, column)}), None
    except (pa.ArrowException, OSError) as error:
        raise UserError(Problem(str(path), f"is no Parquet file, or one cut short ({error})")) from None


def _check_names(names: list[str], column: str, where: str) -> None:
    for name in (PATH, column):
        if name not in names:
            raise UserError(Problem(where, f"has no column {name!r}{did_you_mean(name, names)}"))
        if names.count(name) > 1:
            raise UserError(Problem(where, f"has the column {name!r} more than once"))
