"""Several ID test sets of a run (`task.id_sets`): the score of every point on each, as further columns of the points.

A set is tested and kept as a shift is, under a name of its own (`ray_robust.run.shifts.of_id_set`).
"""

from __future__ import annotations

import pandas as pd

from analysis.input.run_shifts import POINT, keyed
from ray_robust.errors import Problem, UserError
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.shifts import id_set_of

OWN_SET = "id_test"  # the name of the task's own


def with_id_sets(run: RunFolder, points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Return the points with the columns `id_1`, `id_2`, ... (and `id_1_images`, ...) of their scores on every ID set,
    the points that lack one, and the names of the sets, the task's own first and the others by name, whatever their
    order in the spec; the points as they are where the run has none.

    Raises UserError where its tasks have different sets: no one plane is over them.
    """
    rows = run.results(every_shift=True)
    further = rows["shift"].map(lambda name: isinstance(name, str) and bool(id_set_of(name)))
    rows = rows.loc[further & rows["ood"].notna()]
    if rows.empty or points.empty:
        return points, points.iloc[:0], ()
    names = sorted(set(rows["shift"]))  # columns go by number: of runs that are joined the same set has the same one
    by_task = {task: set(own["shift"]) for task, own in rows.groupby("task")}
    if any(by_task.get(task) != set(names) for task in points["task"].unique()):
        what = "its tasks have different id_sets, and one analysis has one set of axes; run them apart"
        raise UserError(Problem(run.storage.shown, what))
    joined = points.assign(id_1=points["id"], id_1_images=points["id_images"])
    keys = keyed(points.assign(run=0))[list(POINT)]
    for number, name in enumerate(names, 2):
        own = keyed(rows.loc[rows["shift"] == name].assign(run=0))[[*POINT, "ood", "ood_images"]]
        matched = keys.merge(own.drop_duplicates(list(POINT)), on=list(POINT), how="left").set_index(points.index)
        joined = joined.assign(**{f"id_{number}": matched["ood"], f"id_{number}_images": matched["ood_images"]})
    lacking = joined[columns(len(names) + 1)].isna().any(axis=1)
    return joined.loc[~lacking].reset_index(drop=True), points.loc[lacking], (OWN_SET, *map(id_set_of, names))


def columns(count: int) -> list[str]:
    """Return the columns of the scores on so many sets."""
    return [f"id_{number}" for number in range(1, count + 1)]
