"""The points of a run on its further shifts: from its rows, and where every OOD group is a shift, from its counts.

Owns the alignment with the points of the task's own OOD test. Each shift has the same points in the same order, as far
as they were tested on it: what is fitted to one shift then rests on the same trials as what is fitted to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.input import run_counts
from analysis.input.recount import of_task, unclear
from analysis.stats import group_jackknife
from analysis.stats.group_jackknife import Counts
from ray_robust.metrics import METRICS
from ray_robust.run import results_schema
from ray_robust.run.results_schema import EVALUATION
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.shifts import OF_GROUPS, OWN, id_set_of, named, shift_of, tests_of
from ray_robust.run.trial_folder import key_of

POINT = ("run", "key", "finetune", "epoch", "alpha")  # what makes two rows the same point
KEPT = ("epoch", "step", "metric", "id_val", "ood_val", "wise_alpha")  # of an evaluation, the same on every shift


@dataclass(frozen=True, eq=False)
class ShiftPoints:
    """The points of a task on one shift.

    points  columns as in `Table.points`, with the scores on this shift
    counts  per side, rows aligned with them; None for a task without groups
    part    whether its images are some of those of the task's own OOD test
    splits  its tests by side, where it has no labels and its scores are still to be estimated; else empty
    """

    name: str
    points: pd.DataFrame
    counts: Mapping[str, Counts] | None = None
    part: bool = False
    splits: Mapping[str, str] = field(default_factory=dict)


def read(runs: Sequence[RunFolder], points: pd.DataFrame) -> list[ShiftPoints]:
    """Return the shifts of a task beside its own OOD test, whose `points` these are, of runs (see `run_counts.read`):
    OOD groups first, then those of `task.shifts`, in the order of their rows. None of points without any."""
    if points.empty or "finetune" not in points:
        return []
    return [*_of_groups(runs, points), *_of_rows(runs, points)]


def repeated(runs: Sequence[RunFolder], points: pd.DataFrame) -> list[str]:
    """Return a sentence for each shift of a task of which images are trained on, or in the ID tests, too."""
    task, sentences = "" if points.empty else str(points["task"].iloc[0]), []
    for one in of_task(runs, task):
        where = one["name"].partition(" in ")[2] or "train or the ID tests, or there under another label"
        for split, count in one.get("affected", {}).items():
            if shift_of(split):
                draw = "in one draw of the task, " if unclear(runs, task, {split: one["images"][split]}) else ""
                of = f"{count:,} of {one['images'][split]:,} images of {named(split)}"
                sentences.append(f"{draw}{of} are also in {where}: its scores are with them")
    return sentences


def _of_groups(runs: Sequence[RunFolder], points: pd.DataFrame) -> Iterator[ShiftPoints]:
    """Yield every OOD group, where the task is one in which each is a shift."""
    name = str(points["task"].iloc[0]).partition("[")[0]
    if not any(_kind(run.spec(), name) in OF_GROUPS for run in runs):
        return
    if points["ood"].isna().any():  # no labels: nothing is counted
        return
    counts, _ = run_counts.read(runs, points)
    metrics = set(points["metric"])
    if counts is None or len(counts["ood"].groups) < 2 or len(metrics) != 1 or not metrics <= set(METRICS):
        return
    own, metric = counts["ood"], str(next(iter(metrics)))
    alone = np.eye(len(own.groups))
    scores = {one: group_jackknife.scores(one, alone, own) for one in METRICS}
    for number, group in enumerate(own.groups):
        columns = {f"ood_{one}": values[:, number] for one, values in scores.items() if f"ood_{one}" in points}
        again = points.assign(ood=scores[metric][:, number], **columns, ood_images=int(own.images[number]),
                              ood_groups=1, ood_ece=np.nan, shift=group)  # fmt: skip
        yield ShiftPoints(group, again, {"id": counts["id"], "ood": _group_alone(own, number)}, part=True)


def _kind(spec: Mapping[str, Any], name: str) -> str:
    task = spec.get("task")
    task = task if isinstance(task, dict) else {}
    return str(task.get("kind") or task.get("name") or name) if str(task.get("name", name)) == name else name


def _group_alone(counts: Counts, number: int) -> Counts:
    """The counts of one group."""
    classes = len(counts.classes)
    own = counts.cells // classes == number
    point = np.repeat(np.arange(len(counts)), np.diff(counts.starts))[own]
    there = counts.truth[number] > 0
    place = np.cumsum(there) - 1
    label = counts.cells[own] % classes
    scored = there[label]
    return replace(
        counts,
        groups=(counts.groups[number],),
        classes=tuple(np.asarray(counts.classes, object)[there]),
        truth=counts.truth[[number]][:, there],
        images=counts.images[[number]],
        starts=np.searchsorted(point[scored], np.arange(len(counts) + 1)),
        cells=place[label[scored]],
        hits=counts.hits[own][scored],
        guessed=counts.guessed[own][scored],
    )


def _of_rows(runs: Sequence[RunFolder], points: pd.DataFrame) -> Iterator[ShiftPoints]:
    """Yield the shifts that the runs' rows name."""
    parts = []
    for number, run in enumerate(runs):
        rows = run.results(every_shift=True)
        bare = rows["er_estimated"].fillna(False).astype(bool)
        rows = rows.loc[rows["shift"].notna() & (rows["shift"] != OWN) & rows["id"].notna()
                        & (rows["ood"].notna() | bare)]  # fmt: skip
        parts.append(keyed(rows.assign(run=number)))
    every = pd.concat(parts, ignore_index=True)
    if every.empty:
        return
    scores = [name for name in results_schema.names(EVALUATION) if name not in KEPT and name in every]
    keys = keyed(points.assign(run=points.get("run", 0)))[list(POINT)]
    for name in _shifts_of(every, points):
        own = every.loc[every["shift"] == name, [*POINT, *scores]].drop_duplicates(list(POINT))
        matched = keys.merge(own, on=list(POINT), how="left").set_index(points.index)
        there = matched["id"].notna()
        again = points.assign(**{score: matched[score] for score in scores}).loc[there].reset_index(drop=True)
        if again.empty:
            continue
        splits = tests_of(str(name), bool(again["shift_classes"].notna().any()))
        if again["ood"].isna().any():
            yield ShiftPoints(str(name), again, splits=splits)
            continue
        yield ShiftPoints(str(name), again, run_counts.read(runs, again, splits)[0])


def _shifts_of(rows: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """The shifts of rows: no further ID set, and with several of these no shift of some of the classes, over which
    they have no scores."""
    names = [name for name in dict.fromkeys(rows["shift"].astype(str)) if not id_set_of(name)]
    some = set(rows.loc[rows["shift_classes"].notna(), "shift"].astype(str)) if "id_2" in points else set()
    return [name for name in names if name not in some]


def left_out(runs: Sequence[RunFolder], points: pd.DataFrame) -> list[str]:
    """Return a sentence on the shifts of some of the classes where there are several ID sets."""
    if "id_2" not in points:
        return []
    rows = pd.concat([run.results(every_shift=True) for run in runs], ignore_index=True)
    some = dict.fromkeys(rows.loc[rows["shift_classes"].notna(), "shift"].astype(str))
    what = "no ER on shifts with some of the classes, since several ID sets have scores over all of them"
    return [f"{what}: {', '.join(some)}"] if some else []


def keyed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns `POINT`, but `run`, that tell which point each is of."""
    alpha = rows["wise_alpha"] if "wise_alpha" in rows else pd.Series(np.nan, index=rows.index)
    return rows.assign(
        key=rows["trial"].astype(str).map(key_of),
        finetune=rows["finetune"].astype(str),
        epoch=rows["epoch"].astype("int64"),
        alpha=alpha.astype(float).fillna(-1.0),
    )
