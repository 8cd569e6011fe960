"""Counts per test group from a run's trials/<id>/groups/<fine-tuning>.parquet, aligned with the points.

Owns the reading and its checks. Where a file is missing, or two points saw other test images, there are no counts and a
sentence says why: then only trials are resampled.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.stats.group_jackknife import Counts
from ray_robust.run.results_schema import SCORE_SPLITS
from ray_robust.run.run_folder import RunFolder

CELLS = ("tp", "fp", "fn")
ONLY_THESE = "intervals speak of the test groups as they are"


def read(
    runs: Sequence[RunFolder], points: pd.DataFrame, splits: Mapping[str, str] = SCORE_SPLITS
) -> tuple[dict[str, Counts] | None, list[str]]:
    """Return the counts of every point per side, or None and why. `points` has trial, finetune, epoch, and, of several
    runs, `run`, the number of its folder; `splits` names the test of each side. A task without groups has none, and
    nothing is missing then."""
    if points.empty or "id_groups" not in points or points[["id_groups", "ood_groups"]].isna().all(axis=None):
        return None, []
    parts, missing = [], 0
    for rows, count in _tables(runs, points):
        missing += count if rows is None else 0
        parts += [] if rows is None else [rows]
    if missing:
        return None, [f"{missing} of {len(points)} points have no counts per group (groups/*.parquet): {ONLY_THESE}"]
    table = pd.concat(parts, ignore_index=True)
    counts = {}
    for side, split in splits.items():
        own = of_rows(table.loc[table["split"] == split], len(points))
        if own is None:
            return None, [f"not all points were tested on the same images of {split}: {ONLY_THESE}"]
        counts[side] = own
    return counts, []


def _tables(runs: Sequence[RunFolder], points: pd.DataFrame) -> Iterator[tuple[pd.DataFrame | None, int]]:
    """For every fine-tuning its rows with the number of the `point` they belong to, and how many points it has."""
    run = points["run"] if "run" in points else pd.Series(0, index=points.index)
    alpha = points["wise_alpha"] if "wise_alpha" in points else pd.Series(np.nan, index=points.index)
    keys = pd.DataFrame({"epoch": points["epoch"].astype("int64"), "alpha": alpha.astype(float).fillna(-1.0),
                          "point": np.arange(len(points))}, index=points.index)  # fmt: skip
    for (number, trial, finetune), own in keys.groupby([run, points["trial"], points["finetune"]], sort=False):
        data = runs[number].trial(str(trial)).storage.recall(f"groups/{finetune}.parquet")
        try:
            rows = None if data is None else pd.read_parquet(io.BytesIO(data))
        except (ValueError, OSError):  # pyarrow's, for a file that was cut short
            rows = None
        if rows is None or not {"epoch", "split", "group", "class", *CELLS} <= set(rows):
            yield None, len(own)
            continue
        between = rows["wise_alpha"] if "wise_alpha" in rows else pd.Series(np.nan, index=rows.index)
        rows = rows.assign(epoch=rows["epoch"].astype("int64"), alpha=between.astype(float).fillna(-1.0))
        matched = rows.merge(own, on=["epoch", "alpha"])
        if matched["point"].nunique() < len(own):
            yield None, len(own)
        else:
            yield matched[["point", "split", "group", "class", *CELLS]].astype({"split": str}), len(own)


def of_rows(rows: pd.DataFrame, points: int) -> Counts | None:
    """Return the rows of one split (columns point, group, class and `CELLS`) as `Counts`; None where a point did not
    see the images that the others saw."""
    group, groups = pd.factorize(rows["group"].astype(str), sort=True)
    label, classes = pd.factorize(rows["class"].astype(str), sort=True)
    point, (tp, fp, fn) = rows["point"].to_numpy(), (rows[c].to_numpy(np.int64) for c in CELLS)
    cells, true = group * len(classes) + label, tp + fn
    present = true > 0
    images = np.zeros(len(groups) * len(classes), np.int64)
    images[cells[present]] = true[present]  # every point writes the same, or:
    if (images[cells] != true).any() or present.sum() != points * (images > 0).sum():
        return None
    truth = images.reshape(len(groups), len(classes))
    scored = truth.sum(0) > 0  # what is guessed of a class that is not there enters no score
    order = np.argsort(point, kind="stable")
    order = order[scored[label[order]]]
    place = np.cumsum(scored) - 1
    return Counts(
        tuple(groups),
        tuple(np.asarray(classes)[scored]),
        truth[:, scored],
        truth.sum(1),
        np.searchsorted(point[order], np.arange(points + 1)),
        group[order] * int(scored.sum()) + place[label[order]],
        tp[order],
        (tp + fp)[order],
    )
