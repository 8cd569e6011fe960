"""The points of any CSV: columns by name, every mistake in them at once, with file, line and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

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
from analysis.input.csv_file import CsvFile, Remarks
from analysis.input.roles import Roles
from analysis.input.table import Table
from analysis.options import Options
from ray_robust.text.names import shown

RESERVED = {"id", "ood", "expected_ood", "er", "er_low", "er_high", "extrapolated", "group", "trial", "task", "status"}


def read_csv(
    file: str,
    *,
    id: str | Sequence[str],
    ood: str,
    group: str,
    options: Options,
    cluster: str | None = None,
    percent: bool = False,
    units: Mapping[str, str] | None = None,
) -> Table:
    """Any CSV of ID and OOD scores: columns by name, each row its own cluster unless `cluster` names a column.

    Several columns in `id` are several ID sets, those that `options.id_names` says; their scores become id_1, id_2, ...
    and `id` their mean, until the baseline's plane says how they count (`placed.transformed`). `units` declares columns
    as "percent" or "fraction" whatever `percent` says. Rows with an empty score are left out and listed; copies count
    once; what was read otherwise than it stands is a warning. Everything that is no score, no name, or not in its unit
    raises UserError, all of it at once; so does a column that says which rows belong together while `cluster` is None
    (see `analysis.input.dependence`; "none" says that rows are independent).
    """
    roles = Roles.of(id, ood, group, None if cluster == dependence.INDEPENDENT else cluster)
    units = dict(units or {})
    source = CsvFile(file, [name for _, name in roles.asked])
    remarks = Remarks(source)
    check_columns(roles, units, remarks)
    if source.frame.empty and not remarks.problems:
        remarks.table("the table has a header but no rows")
    remarks.refuse()
    frame = without_copies(tidy(source.frame, remarks), remarks)
    remarks.cells(source.short.intersection(frame.index), lambda _: "fewer cells than the header has columns")
    parsed = parse_scores(frame, roles.scores, remarks)
    names = role_names(frame, roles, options.baseline, remarks)
    scores = score_columns(parsed, roles.scores, names["group"], percent, units, remarks)
    same_columns(scores, roles.scores, names["group"], options.baseline, remarks)
    check_baseline(names["group"], roles.group, scores, options.baseline, options.id_min, remarks)
    named_columns.check(frame, names, roles, options.baseline, remarks)

    others = frame.drop(columns=list(dict.fromkeys([*roles.used, *(["task"] if "task" in frame else [])])))
    lost = [name for name in others if name in RESERVED]
    if lost:
        remarks.note(f"not in the report's tables, which have columns of these names: {', '.join(lost)}")
    kept = others.drop(columns=[name for name in others if name in RESERVED | {*roles.scores}])
    kept = extra_columns(kept, {"id_val": roles.ids[0], "ood_val": roles.ood}, percent, units, remarks)
    points = names.join(kept).assign(**scores)
    if len(roles.ids) > 1:
        points["id"] = points[[key for key in roles.scores if key != "ood"]].mean(axis=1, skipna=False)
    empty = points[["id", "ood"]].isna().any(axis=1)  # `id` is empty where one of several ID scores is
    left_out = points.loc[empty, ["trial", "group", "task"]].assign(reason="no score in the table")
    points = points.loc[~empty]
    points = points.assign(trial=same_scores(points, list(roles.scores), roles.cluster is not None, remarks))
    across_groups(points, list(roles.scores), remarks)
    dependence.ask_for_clusters(points, others.loc[points.index], cluster, remarks)
    remarks.refuse()
    points = _over_floor(points.reset_index(drop=True), options.id_min, remarks)
    if roles.cluster and points[["trial", "group"]].drop_duplicates()["trial"].duplicated().any():
        remarks.note("some clusters lie in several groups; they count in each group as if independent")
    keys = ("trial", "group", *kept) if roles.cluster else ("group", *kept)
    return Table(Path(file).stem, points, keys, left_out, tuple(remarks.notes))


def _over_floor(points: pd.DataFrame, id_min: float | None, remarks: Remarks) -> pd.DataFrame:
    if id_min is None:
        return points
    below = points["id"] < id_min
    remarks.note(f"{int(below.sum())} points with an ID score under {id_min:.1%} were left out, as asked")
    gone = [name for name in points["group"].unique() if below[points["group"] == name].all()]
    if gone:
        remarks.note(f"{', '.join(map(shown, gone))}: no point is left")
    return points.loc[~below].reset_index(drop=True)
