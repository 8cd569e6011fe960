"""`analyse(data, ...)`: any table of ID and OOD scores, a DataFrame or a CSV, to a `Study`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict, Unpack

import pandas as pd

from analysis.input.data_frame import text_of
from analysis.interface.arguments import check_arguments
from analysis.interface.request import FRAME, Request, study_of
from analysis.interface.study import Study
from ray_robust.errors import Problem, UserError


class Details(TypedDict, total=False):
    """What `analyse` takes besides the names of columns.

    percent   scores are 0-100 rather than 0-1
    unit      {column: "percent" or "fraction"} of columns whose unit is another
    id_min    leave out rows with a lower ID score, in its own unit
    scale     the axis that lines are fitted on: "probit" (the default), "logit" or "linear"
    margin    percentage points of effective robustness that count as no effect
    look      of a table with a column `epoch`, the evaluations that effective robustness is of: "mean" (the default),
              "last" or "id_val"
    """

    percent: bool
    unit: dict[str, str]
    id_min: float
    scale: str
    margin: float
    look: str


def analyse(
    data: pd.DataFrame | str | os.PathLike[str],
    *,
    id: str | Sequence[str],
    ood: str,
    group: str,
    baseline: object,
    cluster: str | None = None,
    title: str | None = None,
    **details: Unpack[Details],
) -> Study:
    """Return the analysis of a table with one trained model per row.

    data      a DataFrame, or the path of a CSV; it is not changed
    id, ood   its columns of in-distribution and out-of-distribution scores; several in `id` are several ID sets
    group     the column that says which models are compared
    baseline  the group that the reference line is fitted on
    cluster   the column that says which rows belong together, e.g. evaluations of one model; "none" if none do
    title     what the report is called
    details   see `Details`

    Raises UserError with every mistake in the arguments and the data, one line each.
    """
    if unknown := set(details) - set(Details.__annotations__):
        raise TypeError(f"analyse() got an unexpected keyword argument {min(unknown)!r}")
    check_arguments({"id": id, "ood": ood, "group": group, "cluster": cluster, "title": title, **details})
    given = dict(details)
    units = tuple(f"{column}={unit}" for column, unit in (details.get("unit") or {}).items())
    frame = data if isinstance(data, pd.DataFrame) else None
    if frame is None and not isinstance(data, str | os.PathLike):
        raise UserError(Problem("", f"{type(data).__name__} is no table; wanted: a DataFrame, or the path of a CSV"))
    given.pop("unit", None)
    return study_of(Request(
        (FRAME,) if frame is not None else (os.fspath(data),), None,  # type: ignore[arg-type]
        id=id if isinstance(id, str) else tuple(id), ood=ood, group=group, baseline=text_of(baseline), cluster=cluster,
        unit=units, title=title, frame=frame, python=True, **given,  # type: ignore[arg-type]
    ))  # fmt: skip
