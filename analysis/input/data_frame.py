"""A DataFrame of a user's as a frame of text, so that every check of a CSV holds for it too.

Owns `FrameRows`. Errors name rows by their labels in the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.input.csv_file import SHOWN, several
from ray_robust.errors import Problem, UserError
from ray_robust.text.names import normalise


class FrameRows:
    """The cells of a DataFrame as text under cleaned column names, indexed by position; rows without any cell left out.

    A missing value (None, NaN, NA) is an empty cell; a number is written so that reading it gives the same one. Raises
    UserError where the frame has no rows, or columns of several levels.
    """

    row, first_row = "row", 0

    def __init__(self, data: pd.DataFrame, name: str) -> None:
        self.file, self.notes = name, list[str]()
        if data.columns.nlevels > 1:
            raise UserError(Problem(name, "its columns have several levels; give them one name each"))
        self.labels = list(data.index)
        frame = pd.DataFrame({i: _texts(data.iloc[:, i]) for i in range(data.shape[1])}, dtype=object)
        frame.columns = pd.Index([normalise(str(column)) for column in data.columns])
        self.frame = frame.loc[(frame != "").any(axis=1)]
        self.short = self.frame.index[:0]

    @property
    def header(self) -> str:
        """The place of the names of columns."""
        return self.file

    def places(self, rows: Sequence[int]) -> list[str]:
        """Return `NAME, row LABEL` of these rows."""
        return [f"{self.file}, row {self.labels[row]!r}" for row in rows]

    def at(self, rows: Sequence[int]) -> str:
        """Return `row 4`, `rows 4, 7 and 9` or `rows 4, 7, 9 and 81 more`, by label."""
        return several(self.row, [repr(self.labels[row]) for row in rows[:SHOWN]], len(rows))


def _texts(column: pd.Series) -> list[str]:
    missing = column.isna().to_list()
    return ["" if gone else text_of(value) for value, gone in zip(column.to_list(), missing, strict=True)]


def text_of(value: Any) -> str:
    """Return a cell as text. A whole number in a column of floats is written as one: it may be a name, as a seed is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)
