"""CSV tables of images, read strictly: every cell a text, and every row's line available for messages.

A quote that is never closed makes one cell of all that follows, up to the next quote: such rows would be lost without a
word. So no name runs over several lines, and no text holds what looks like rows of its table.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
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
BREAK = r"[\r\n]"  # of a line
CLOSED = "wanted: each quote closed on the line that opens it"
SHOWN = 5  # mistakes of one kind that are told one by one; the rest are counted


class Lines:
    """The line of a CSV on which each of its rows begins; the file is only gone through again when one is asked for.

    header  the line that the columns' names are on
    """

    def __init__(self, path: Path, header: int = 1) -> None:
        self.path, self.header = path, header

    @cached_property
    def _spans(self) -> np.ndarray:
        """Return int64 [rows, 2], the first and the last line of each."""
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            ends = np.array([reader.line_num if cells else -reader.line_num for cells in reader], np.int64)
        spans = np.stack([np.append(0, np.abs(ends[:-1])) + 1, ends], axis=1)
        return spans[(ends > 0) & (spans[:, 0] > self.header)]  # negative: of a blank line, which is no row

    def __getitem__(self, row: int) -> int:
        return int(self._spans[row, 0])

    def end(self, row: int) -> int:
        """Return the line on which a row ends."""
        return int(self._spans[row, 1])


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


def read_table(path: Path, names: Sequence[str] = ("path",)) -> tuple[pd.DataFrame, Lines]:
    """Return every cell of a comma-separated, UTF-8 file as text ("NA" is a label like any other), and its lines.

    names  columns of names, where they are there; the first tells rows apart

    Raises UserError for a file that is not one, or whose quotes are not closed.
    """
    table, header = _read(path)
    _check_cells(table, path)
    frame, lines = table.to_pandas(), Lines(path, header)
    here = [name for name in names if name in frame]
    if problems := [*name_problems(frame, lines, here)]:
        raise UserError(*problems)
    texts = [column for column in frame if column not in here and compute.any(_broken(table[column])).as_py()]
    if here and (problems := [problem for text in texts for problem in _rows_inside(frame, lines, here[0], text)]):
        raise UserError(*problems)
    return frame, lines


def name_problems(frame: pd.DataFrame, lines: Lines, columns: Sequence[str], right: str = "") -> Iterator[Problem]:
    """Yield the names in these columns of a CSV that a quote spoils; `right` is what else would be right."""
    for column in columns:
        cells = pa.array(frame[column])
        broken = _where(_broken(compute.utf8_trim_whitespace(cells)))

        def over_lines(i: int, rows: np.ndarray = broken, column: str = column) -> Problem:
            what = f"column {column!r}: a name runs on to line {lines.end(rows[i])}; {CLOSED}{right}"
            return Problem(f"{lines.path}:{lines[rows[i]]}", what)

        yield from first_few(len(broken), over_lines)
        late = _where(compute.match_substring_regex(cells, r"^\s+\""))

        def after_blank(i: int, rows: np.ndarray = late, column: str = column) -> Problem:
            what = f"column {column!r}: a blank before the quote makes the quotes part of the name"
            return Problem(f"{lines.path}:{lines[rows[i]]}", f"{what}; wanted: no blank between comma and quote")

        yield from first_few(len(late), after_blank)


def _rows_inside(frame: pd.DataFrame, lines: Lines, key: str, column: str) -> Iterator[Problem]:
    """Yield the texts of a column with lines in them that look like rows: with a `key` like those of the table."""
    texts = pa.array(frame[column])
    rows = _where(_broken(texts))
    suffixes = compute.struct_field(compute.extract_regex(pa.array(frame[key]), r"(?P<of>\.[^./]+)$"), "of").unique()
    endings = {suffix.lower() for suffix in suffixes.to_pylist() if suffix} or {""}
    width, at, first = frame.shape[1], frame.columns.get_loc(key), frame.columns.get_loc(column)

    def like_row(cells: list[str], at: int) -> bool:
        name = cells[at].strip(' "') if 0 <= at < len(cells) else ""
        ending = os.path.splitext(name)[1].lower()
        return ending in endings and (ending != "" or (len(cells) == width and bool(re.fullmatch(r"\S+", name))))

    def holds_rows(text: str) -> bool:
        begin, *rest = (line.split(",") for line in re.split(BREAK, text))
        return like_row(begin, at - first) or any(like_row(cells, at) for cells in rest)

    rows = rows[[holds_rows(text) for text in texts.take(rows).to_pylist()]]

    def problem(i: int) -> Problem:
        what = f"column {column!r}: a text runs on to line {lines.end(rows[i])}, over what looks like rows of the table"
        return Problem(f"{lines.path}:{lines[rows[i]]}", f"{what}; {CLOSED}")

    yield from first_few(len(rows), problem)


def _where(mask: pa.Array) -> np.ndarray:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))


def _broken(cells: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return which cells have a line break in them, bool [n]."""
    return compute.or_(compute.match_substring(cells, "\n"), compute.match_substring(cells, "\r"))


def _read(path: Path) -> tuple[pa.Table, int]:
    """Return the cells of a CSV, and the line of its header. Raises UserError."""
    try:
        header, line = _header(path)
        if not header:
            raise UserError(Problem(str(path), "is empty; wanted: a header and a line for each image"))
        if len(header) > MOST_COLUMNS:
            raise UserError(
                Problem(f"{path}:{line}", f"has {len(header):,} columns, more than the limit of {MOST_COLUMNS:,}")
            )
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise UserError(Problem(f"{path}:{line}", f"has the column {twice[0]!r} more than once"))
        return arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=header, skip_rows=line, use_threads=False),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        ), line
    except UnicodeDecodeError:
        raise UserError(Problem(str(path), "is no text in UTF-8; wanted: a CSV file")) from None
    except pa.ArrowInvalid as error:  # ends with the row, which is nobody's business where the path is a link
        what = re.sub(r"(Expected \d+ columns, got \d+): .*", r"\1", without_content(error))
        if "straddl" in what:  # a row that is longer than what Arrow reads at a time
            raise UserError(
                Problem(
                    str(path), "has a row of more than 1,048,576 bytes; wanted: a path and a label, and quotes closed"
                )
            ) from None
        raise UserError(Problem(str(path), f"is no proper CSV: {what}")) from None
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot be read: {error.strerror}")) from None
    except (Unreadable, csv.Error) as error:
        wanted = "; wanted: a CSV file" if str(error).startswith("is ") else ""
        raise UserError(Problem(str(path), f"{error}{wanted}")) from None


def _header(path: Path) -> tuple[list[str], int]:
    """Return the names of the columns and the line that they are on, none of a file without any. Blank lines above are
    skipped. Raises Unreadable for what is no table, having read little of it."""
    with open_file(path) as raw:
        check_size(os.fstat(raw.fileno()).st_size, LARGEST_TABLE)
        with io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
            start = file.read(LONGEST_CELL + 1)
    if "\n" not in start and "\r" not in start and len(start) > LONGEST_CELL:
        raise Unreadable(f"has a first line of more than {LONGEST_CELL:,} characters; wanted: a header")
    reader = csv.reader(io.StringIO(start, newline=""))
    for cells in reader:
        if any(re.search(BREAK, name.strip()) for name in cells):
            raise Unreadable(f"has a column's name that runs over several lines; {CLOSED}")
        if any(map(str.strip, cells)):
            return [name.strip() for name in cells], reader.line_num
    return [], 1


def _check_cells(table: pa.Table, path: Path) -> None:
    """Refuse cells that are no paths or labels, but whole files. Raises UserError."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        lengths = compute.binary_length(column)
        if (longest := compute.max(lengths).as_py() or 0) > LONGEST_CELL:
            row = compute.index(lengths, longest).as_py() + 1
            what = f"{name}: the cell of row {row:,} holds {longest:,} bytes, more than the limit of {LONGEST_CELL:,}"
            what += f"; {CLOSED}" if _broken(column)[row - 1].as_py() else ""
            raise UserError(Problem(str(path), what))
