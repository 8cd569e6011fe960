"""The points of any CSV: columns by name; all errors are reported at once, each with file, line and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.formatting import percent
from analysis.input import dependence, named_columns
from analysis.input.columns import (
    check_baseline,
    check_columns,
    extra_columns,
    parse_scores,
    role_names,
    score_columns,
    tidy,
)
from analysis.input.copies import across_groups, same_columns, same_scores, without_copies
from analysis.input.csv_file import CsvFile, Remarks, Source
from analysis.input.roles import Roles
from analysis.input.table import Table
from analysis.options import Options
from ray_robust.metrics import METRICS
from ray_robust.text.names import quoted

RESERVED = {"id", "ood", "expected_ood", "er", "er_low", "er_high", "er_estimated", "extrapolated", "group", "trial",
            "task", "status", "x", "y", "clipped", "cook", "id_variance", "ood_variance"}  # fmt: skip


def read_csv(file: str, **columns: Any) -> Table:
    """Return the points of a CSV; see `read_table`."""
    return read_table(file, **columns)


def read_table(
    file: str | Source,
    *,
    id: str | Sequence[str],
    ood: str,
    group: str,
    options: Options,
    cluster: str | None = None,
    percent: bool = False,
    units: Mapping[str, str] | None = None,
) -> Table:
    """Return the points of any table of ID and OOD scores: a CSV, or rows that are read already.

    id, ood, group   names of its columns; several in `id` are several ID sets, those that `options.id_names` names.
                     Their scores become id_1, id_2, ... and `id` their mean, until the baseline's plane gives their
                     weights (`stats.transform.transformed`)
    cluster          the column that says which rows belong together; None: not given; "none": rows are independent
    percent, units   whether scores are 0-100, and the columns ("percent" or "fraction") that are an exception

    Rows with an empty score are left out and listed; copies count once; what is read otherwise than it is written is a
    warning. Raises UserError with every mistake at once: what is no score, no name or not in its unit, and a column
    that says which rows belong together while `cluster` is None (see `analysis.input.dependence`).
    """
    roles = Roles.of(id, ood, group, None if cluster == dependence.INDEPENDENT else cluster)
    units = dict(units or {})
    frame, remarks = _rows(file, roles, units)
    parsed = parse_scores(frame, roles.scores, remarks)
    names = role_names(frame, roles, options.baseline, remarks)
    scores = score_columns(parsed, roles.scores, names["group"], percent, units, remarks)
    same_columns(scores, roles.scores, names["group"], options.baseline, remarks)
    check_baseline(names["group"], roles.group, scores, options.baseline, options.id_min, remarks)
    named_columns.check(frame, names, roles, options.baseline, remarks)
    others = frame.drop(columns=list(dict.fromkeys([*roles.used, *(["task"] if "task" in frame else [])])))
    like = {f"{side}_{what}": column for side, column in (("id", roles.ids[0]), ("ood", roles.ood))
            for what in ("val", *METRICS)}  # fmt: skip
    extra = extra_columns(_reported(others, roles, remarks), like, percent, units, remarks)
    points, left_out = _scored(names.join(extra).assign(**scores), roles)
    points = points.assign(trial=same_scores(points, list(roles.scores), roles.cluster is not None, remarks))
    across_groups(points, list(roles.scores), remarks)
    dependence.ask_for_clusters(points, others.loc[points.index], cluster, remarks)
    remarks.refuse()
    points = _over_floor(points.reset_index(drop=True), options.id_min, remarks)
    if roles.cluster and points[["trial", "group"]].drop_duplicates()["trial"].duplicated().any():
        remarks.note("some clusters lie in several groups; they count in each group as if independent")
    keys = ("trial", "group", *extra) if roles.cluster else ("group", *extra)
    read_from = file if isinstance(file, str) else ""
    return Table(Path(remarks.source.file).stem, points, keys, left_out, tuple(remarks.notes), file=read_from)


def _rows(file: str | Source, roles: Roles, units: Mapping[str, str]) -> tuple[pd.DataFrame, Remarks]:
    """The rows as text, copies left out, with the remarks on them; raises UserError where a column is not there."""
    source = CsvFile(file, [name for _, name in roles.asked]) if isinstance(file, str) else file
    remarks = Remarks(source)
    check_columns(roles, units, remarks)
    if source.frame.empty and not remarks.problems:
        remarks.table("the table has a header but no rows")
    remarks.refuse()
    frame = without_copies(tidy(source.frame, remarks), remarks)
    remarks.cells(source.short.intersection(frame.index), lambda _: "fewer cells than the header has columns")
    return frame, remarks


def _reported(others: pd.DataFrame, roles: Roles, remarks: Remarks) -> pd.DataFrame:
    """The columns beside the roles', without those whose names the report's tables use for something else."""
    reserved = [name for name in others if name in RESERVED]
    if reserved:
        remarks.note(f"not in the report's tables, which have columns of these names: {', '.join(reserved)}")
    return others.drop(columns=[name for name in others if name in RESERVED | {*roles.scores}])


def _scored(points: pd.DataFrame, roles: Roles) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The points with all their scores, and the rows that lack one; `id` is the mean of several ID sets."""
    if len(roles.ids) > 1:
        points["id"] = points[[key for key in roles.scores if key != "ood"]].mean(axis=1, skipna=False)
    empty = points[["id", "ood"]].isna().any(axis=1)  # `id` is empty where one of several ID scores is
    left_out = points.loc[empty, ["trial", "group", "task"]].assign(reason="no score in the table")
    return points.loc[~empty], left_out


def _over_floor(points: pd.DataFrame, id_min: float | None, remarks: Remarks) -> pd.DataFrame:
    if id_min is None:
        return points
    below = points["id"] < id_min
    remarks.note(f"{int(below.sum())} points with an ID score under {percent(id_min)} were left out, as asked")
    gone = [name for name in points["group"].unique() if below[points["group"] == name].all()]
    if gone:
        remarks.note(f"{', '.join(map(quoted, gone))}: no point is left")
    return points.loc[~below].reset_index(drop=True)
