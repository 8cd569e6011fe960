"""CSV tables of images, read strictly: every cell a text, and every row's line available for messages."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

from ray_robust.data.images.files import Files
from ray_robust.errors import Problem, UserError
from ray_robust.files.regular_file import Unreadable, check_size, open_file, without_content

LARGEST_TABLE = 8 << 30  # bytes of a CSV: twelve million images with captions (CC12M) take 2.5 GB
LONGEST_CELL = 131_072  # bytes, the limit of Python's csv; of the header's line as well
MOST_COLUMNS = 10_000
SHOWN = 5  # mistakes of one kind that are told one by one; the rest are counted


class Lines:
    """The line of a CSV on which each of its rows ends; the file is only gone through again when one is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _of_row(self) -> list[int]:
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            return [reader.line_num for cells in reader if cells]

    def __getitem__(self, row: int) -> int:
        return self._of_row[row + 1]  # row 0 follows the header


@dataclass(frozen=True, eq=False)
class Table:
    """Some images: columns key, label, line[, split][, group][, `rank <name>`...]; `lines` where a CSV lists them."""

    frame: pd.DataFrame
    where: str
    files: Files
    lines: Lines | None = None
    ranks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()  # found while listing
    warnings: tuple[str, ...] = ()  # likewise

    def line(self, row: int) -> int:
        """Return the CSV's line of its row (a value of the column `line`)."""
        return self.lines[row] if self.lines is not None else 0

    def at_rows(self, rows: np.ndarray, what: Callable[[int], str]) -> Iterator[Problem]:
        """`what(i)` at the place of each of these rows of `frame`: a few, then how many more."""

        def problem(i: int) -> Problem:
            line = f":{self.line(int(self.frame['line'].iloc[rows[i]]))}" if self.lines is not None else ""
            return Problem(f"{self.where}{line}", what(int(rows[i])))

        yield from first_few(len(rows), problem)


def first_few(count: int, problem: Callable[[int], Problem]) -> Iterator[Problem]:
    """Yield the first few of `count` problems of one kind, and a line that counts the rest."""
    for i in range(min(count, SHOWN)):
        yield (last := problem(i))
    if count > SHOWN:
        yield Problem(last.where.rpartition(":")[0] or last.where, f"and {count - SHOWN} more like the last one")


def read_table(path: Path) -> tuple[pd.DataFrame, Lines]:
    """Return every cell of a comma-separated, UTF-8 file as text ("NA" is a label like any other), and its lines.

    Raises UserError for a file that is not one.
    """
    try:
        header = _header(path)
        if not header:
            raise UserError(Problem(str(path), "is empty; wanted: a header and a line for each image"))
        if len(header) > MOST_COLUMNS:
            raise UserError(
                Problem(f"{path}:1", f"has {len(header):,} columns, more than the limit of {MOST_COLUMNS:,}")
            )
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise UserError(Problem(f"{path}:1", f"has the column {twice[0]!r} more than once"))
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=header, skip_rows=1, use_threads=False),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        )
    except UnicodeDecodeError:
        raise UserError(Problem(str(path), "is no text in UTF-8; wanted: a CSV file")) from None
    except pa.ArrowInvalid as error:  # ends with the row, which is nobody's business where the path is a link
        what = re.sub(r"(Expected \d+ columns, got \d+): .*", r"\1", without_content(error))
        if "straddl" in what:  # a row that is longer than what Arrow reads at a time
            raise UserError(
                Problem(str(path), "has a row of more than 1,048,576 bytes; wanted: a path and a label")
            ) from None
        raise UserError(Problem(str(path), f"is no proper CSV: {what}")) from None
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot be read: {error.strerror}")) from None
    except (Unreadable, csv.Error) as error:
        wanted = "; wanted: a CSV file" if str(error).startswith("is ") else ""
        raise UserError(Problem(str(path), f"{error}{wanted}")) from None
    _check_cells(table, path)
    return table.to_pandas(), Lines(path)


def _header(path: Path) -> list[str]:
    """Return the names of the columns. Raises Unreadable for what is no table, having read little of it."""
    with open_file(path) as raw:
        check_size(os.fstat(raw.fileno()).st_size, LARGEST_TABLE)
        with io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
            start = file.read(LONGEST_CELL + 1)
    if "\n" not in start and "\r" not in start and len(start) > LONGEST_CELL:
        raise Unreadable(f"has a first line of more than {LONGEST_CELL:,} characters; wanted: a header")
    return [name.strip() for name in next(csv.reader(io.StringIO(start, newline="")), [])]


def _check_cells(table: pa.Table, path: Path) -> None:
    """Refuse cells that are no paths or labels, but whole files. Raises UserError."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        lengths = compute.binary_length(column)
        if (longest := compute.max(lengths).as_py() or 0) > LONGEST_CELL:
            row = compute.index(lengths, longest).as_py() + 1
            what = f"{name}: the cell of row {row:,} holds {longest:,} bytes, more than the limit of {LONGEST_CELL:,}"
            raise UserError(Problem(str(path), what))
