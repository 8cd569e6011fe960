"""A CSV of a user's as a frame of text: encoding, separator, header, and the line that each row stands on.

Owns `CsvFile` and what can be wrong with a file before any cell is understood, `Source`, what it has in common with a
table in memory (`data_frame`), and `Remarks`, which collects every problem and note about one table so that all of them
are reported at once. Nothing here knows what a score is.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ray_robust.errors import Problem, UserError
from ray_robust.files.regular_file import Unreadable, read_file
from ray_robust.text.names import count_noun, normalise, quoted
from ray_robust.text.safe_csv import MARK, value

SHOWN = 3  # of the same mistake in many cells, this many are listed, the rest counted
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
PACKED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
LARGEST = 256 << 20  # bytes of a table, unpacked: scores of a million models and more
LONGEST = 1_000_000  # characters of a line
PART = 1 << 16
BREAK = re.compile(r"\r\n|\r|\n")
PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # what a shell calls `<(command)`: read though it is no file
WORKBOOK = "an Excel workbook, not a CSV: export the sheet as CSV"


def _at_most(file: Any) -> bytes:
    """What an opened file holds, read in parts of which each unpacks to little. Raises Unreadable past LARGEST."""
    parts, size = [], 0
    while part := file.read(PART):
        size += len(part)
        if size > LARGEST:
            raise Unreadable(f"it unpacks to more than {LARGEST:,} bytes")
        parts.append(part)
    return b"".join(parts)


class Source(Protocol):
    """Where the rows of a table come from: `frame` has their cells as text, `short` the rows with too few of them.

    file       what errors call the table
    first_row  the number of row 0
    row        what one row is called: "line" or "row"
    header     where the names of columns are
    """

    file: str
    frame: pd.DataFrame
    short: pd.Index
    notes: list[str]
    row: str

    @property
    def first_row(self) -> int: ...

    @property
    def header(self) -> str: ...

    def places(self, rows: Sequence[int]) -> list[str]:
        """Return where each of these rows is, for an error."""

    def at(self, rows: Sequence[int]) -> str:
        """Return where these rows are, for a note: the first few, the others counted."""


class CsvFile:
    """The cells of a CSV as text (`frame`, blank rows left out, indexed by row number) under cleaned column names.

    `wanted` are column names that the caller asks for: the separator is the one that gives most of them. `short` are
    the rows with fewer cells than the header. `notes` say in a sentence each what was not a plain comma-separated UTF-8
    file. Raises UserError where the file is no table.
    """

    row = "line"

    def __init__(self, file: str, wanted: Sequence[str] = ()) -> None:
        self.file, self.notes = file, list[str]()
        self._text, self._skipped = self._read()
        self.separator = self._separator([normalise(name) for name in wanted])
        self.frame = self._frame()

    @property
    def first_row(self) -> int:
        """The line of row 0, unless the header spans several."""
        return self._skipped + 2

    @property
    def header(self) -> str:
        """The place of the header."""
        return f"{self.file}:{self.first_row - 1}"

    def places(self, rows: Sequence[int]) -> list[str]:
        """Return `file:line` of these rows."""
        return [f"{self.file}:{line}" for line in self.lines(rows)]

    def lines(self, rows: Iterable[int]) -> list[int]:
        """Return the lines of the file on which these rows (labels of `frame`) begin."""
        starts, _ = self._scanned
        return [int(starts[row]) for row in rows]

    @cached_property
    def _scanned(self) -> tuple[np.ndarray, np.ndarray]:
        """The first line and the number of cells of every row, read only when there is something to complain about."""
        reader = csv.reader(self._stream(), delimiter=self.separator)
        starts, widths, start = [], [], self._skipped + 1
        try:
            for cells in reader:
                starts.append(start)
                widths.append(len(cells))
                start = self._skipped + reader.line_num + 1
        except csv.Error as error:  # a cell of more than 131,072 characters
            raise UserError(Problem(f"{self.file}:{start}", f"not readable as a CSV table: {error}")) from None
        return np.array(starts[1:], int), np.array(widths[1:], int)  # without the header

    def _stream(self) -> io.StringIO:
        """The text from its header on."""
        stream = io.StringIO(self._text, newline="")
        for _ in range(self._skipped):
            stream.readline()
        return stream

    def at(self, rows: Sequence[int]) -> str:
        """Return `line 4`, `lines 4, 7 and 9` or `lines 4, 7, 9 and 81 more`."""
        return several(self.row, [str(line) for line in self.lines(rows[:SHOWN])], len(rows))

    def _read(self) -> tuple[str, int]:
        """The text, and how many lines lie before the header."""
        try:
            data = self._bytes()
            for magic, opened in PACKED.items():
                data = _at_most(opened(io.BytesIO(data))) if data.startswith(magic) else data
            data = self._unzipped(data) if data.startswith(b"PK\x03\x04") else data
            if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                text = data.decode("utf-16")
                self.notes.append("the file is in UTF-16")
            else:
                text = data.decode("utf-8-sig")
        except FileNotFoundError:
            raise UserError(Problem(self.file, "no such file")) from None
        except IsADirectoryError:
            raise UserError(Problem(self.file, "a folder, not a table")) from None
        except UnicodeDecodeError as error:
            raise self._unreadable(f"{error}; save it as UTF-8") from None
        except (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, RuntimeError, Unreadable) as error:
            raise self._unreadable(str(error)) from None
        if "\0" in text:
            raise self._unreadable("it holds NUL characters")
        for number, line in enumerate(io.StringIO(text, newline=""), 1):
            if len(line) > LONGEST:
                what = f"a line of {len(line):,} characters; a table's have {LONGEST:,} at most"
                raise UserError(Problem(f"{self.file}:{number}", what))
        before = re.match(r"(?:[ \t;,|]*\r?\n)*(?:sep=.\r?\n)?(?:[ \t;,|]*\r?\n)*", text, re.IGNORECASE)
        start = before.end() if before else 0
        if not text[start:].strip():
            raise UserError(Problem(self.file, "the file is empty"))
        return text, text.count("\n", 0, start)

    def _bytes(self) -> bytes:
        if not self.file.startswith(PIPES):
            return read_file(self.file, LARGEST)
        with open(self.file, "rb") as file:
            return _at_most(file)

    def _unzipped(self, data: bytes) -> bytes:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = archive.namelist()
        if "[Content_Types].xml" in names:
            raise UserError(Problem(self.file, WORKBOOK))
        if len(names) != 1:
            raise UserError(Problem(self.file, f"an archive of {len(names)} files, not a table"))
        if archive.infolist()[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable("its zip is of bzip2, LZMA or the like, not to be unpacked in parts; zip it by deflate")
        with archive.open(names[0]) as file:
            return _at_most(file)

    def _separator(self, wanted: Sequence[str]) -> str:
        stream = self._stream()
        start = stream.tell()
        hits = {}
        for separator in SEPARATORS:
            stream.seek(start)
            try:
                header = {normalise(value(name)) for name in next(csv.reader(stream, delimiter=separator), [])}
            except csv.Error as error:
                raise self._unreadable(f"its header has a {error}") from None
            hits[separator] = (sum(name in header for name in wanted), len(header) > 1)
        best = max(hits, key=lambda separator: hits[separator])  # of equals the first, the comma
        if best != ",":
            self.notes.append(f"cells are separated by a {SEPARATORS[best]}")
        return best

    def _frame(self) -> pd.DataFrame:
        try:
            frame = pd.read_csv(
                io.StringIO(self._text), dtype=str, keep_default_na=False, skip_blank_lines=False, header=None,
                sep=self.separator, skiprows=self._skipped,
            )  # fmt: skip
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
            raise self._unreadable(reason + self._decimal_commas(reason)) from None
        header = self._names(frame.iloc[0])
        frame = frame.iloc[1:].reset_index(drop=True)
        if '"' in self._text:
            self._refuse_swallowed(frame)
        frame.columns = pd.Index(header)
        frame = frame.fillna("")
        for i in range(frame.shape[1]) if MARK in self._text else ():
            frame.isetitem(i, self._unmarked(frame.iloc[:, i]))
        frame = frame.loc[(frame != "").any(axis=1)]
        ends = frame.index[frame.iloc[:, -1] == ""]  # of these pandas does not say whether the cell is there
        self.short = ends[self._scanned[1][ends] < len(header)] if len(ends) else ends
        nameless = [name for name in header if not name]
        if nameless:  # the trailing separators of a spreadsheet, or an index without a name
            empty = np.array([not name and bool((frame.iloc[:, i] == "").all()) for i, name in enumerate(header)])
            frame = frame.loc[:, ~empty]
            numbers = np.flatnonzero(~empty) + 1
            frame.columns = pd.Index(
                [name or f"column {number}" for name, number in zip(frame.columns, numbers, strict=True)]
            )
        return frame

    def _refuse_swallowed(self, frame: pd.DataFrame) -> None:
        """Raise UserError where a cell holds line breaks and one of its lines as many separators as a row: a stray
        quote swallows whole rows, and their scores with them."""
        problems, separators = [], frame.shape[1] - 1
        broken = frame.apply(lambda cells: cells.str.contains(r"[\r\n]", na=False)).any(axis=1)
        for row in frame.index[broken] if separators else ():
            cells = [BREAK.split(cell) for cell in frame.loc[row].dropna()]
            if any(line.count(self.separator) == separators for lines in cells if len(lines) > 1 for line in lines):
                (first,), more = self.lines([row]), sum(len(lines) - 1 for lines in cells)
                what = f"a cell goes on over lines {first} to {first + more}: is a quote missing?"
                problems.append(Problem(f"{self.file}:{first}", what))
        if problems:
            raise UserError(*problems[:SHOWN])

    def _names(self, cells: pd.Series) -> list[str]:
        raw = ["" if pd.isna(cell) else str(cell) for cell in cells]
        return [normalise(value(name)) for name in raw]

    def _unmarked(self, cells: pd.Series) -> pd.Series:
        """Texts that are marked so that no spreadsheet computes them, as they were before (see `safe_csv`); a column
        in which two names would become one stays as it is."""
        texts = cells.unique()
        before = {text: value(text) for text in texts if text.startswith(MARK)}
        changed = {text for text, plain in before.items() if plain != text}
        if not changed or len({before.get(text, text) for text in texts}) < len(texts):
            return cells
        self.notes.append(
            f"column {quoted(str(cells.name))}: {count_noun(int(cells.isin(changed).sum()), 'cell')} begin with an "
            "apostrophe that keeps spreadsheets from computing them, and are read without it"
        )
        return cells.map(lambda text: before.get(text, text))

    def _decimal_commas(self, reason: str) -> str:
        """A hint where the line that pandas stumbled over has nothing but decimal commas."""
        line = re.search(r"in line (\d+)", reason)
        if not line or self.separator != ",":
            return ""
        text = self._text.splitlines()[int(line[1]) - 1 : int(line[1])]
        return (
            "; are its decimals written with commas? then separate the columns with semicolons"
            if text and re.search(r"(^|,)\d{1,2},\d+,\d{1,2},\d+", text[0]) and "." not in text[0]
            else ""
        )

    def _unreadable(self, reason: str) -> UserError:
        return UserError(Problem(self.file, f"not readable as a CSV table: {reason}"))


def several(row: str, shown: Sequence[str], count: int) -> str:
    """Return `line 4`, `lines 4, 7 and 9` or `lines 4, 7, 9 and 81 more` of `count` rows, the first of them `shown`."""
    if count == 1:
        return f"{row} {shown[0]}"
    if count > len(shown):
        return f"{row}s {', '.join(shown)} and {count - len(shown):,} more"
    return f"{row}s {', '.join(shown[:-1])} and {shown[-1]}"


class Remarks:
    """The remarks on one table: `problems`, for which it is refused, and `notes`, with which it is read."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.notes = list(source.notes)

    def cells(self, rows: Iterable[int], sentence: Callable[[int], str]) -> None:
        """Add a problem in each of these rows: `sentence(row)` for the first few, and one line that counts the
        others."""
        rows = list(rows)
        if not rows:
            return
        places = self.source.places(rows[:SHOWN])
        self.problems += [Problem(place, sentence(row)) for row, place in zip(rows[:SHOWN], places, strict=True)]
        if len(rows) > SHOWN:
            self.table(f"and {count_noun(len(rows) - SHOWN, f'more {self.source.row}')} like these")

    def column(self, sentence: str) -> None:
        """Add a problem of a column, located at the header."""
        self.problems.append(Problem(self.source.header, sentence))

    def table(self, sentence: str) -> None:
        """Add a problem of the table as a whole."""
        self.problems.append(Problem(self.source.file, sentence))

    def note(self, sentence: str, rows: Any = ()) -> None:
        """Add a note, followed by the lines that it is about."""
        rows = list(rows)
        self.notes.append(f"{sentence} ({self.source.at(rows)})" if rows else sentence)

    def refuse(self) -> None:
        """Raise UserError with all problems, and all notes behind them, if there is any problem."""
        if self.problems:
            raise UserError(*self.problems, *(Problem(self.source.file, f"note: {note}") for note in self.notes))
