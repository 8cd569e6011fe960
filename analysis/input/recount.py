"""Scores without the test images that occur elsewhere too, made again from the predictions of a run.

Owns which images are affected (`data.json` and duplicates/ of a run name them: see `ray_robust.data.duplicates`) and
the recount; `analysis.duplicates` compares the ER of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.input import run_counts, run_predictions
from analysis.stats import group_jackknife
from analysis.stats.group_jackknife import Counts
from ray_robust.metrics import METRICS
from ray_robust.run.results_schema import SCORE_SPLITS
from ray_robust.run.run_folder import RunFolder
from ray_robust.text import safe_csv
from ray_robust.text.names import count_noun

SHOWN = 3  # trials that are named in a note


@dataclass(frozen=True, eq=False)
class Recount:
    """What is left of a task's points without affected test images.

    affected  images that occur elsewhere or under another label, by split (`id_test`, `ood_test`)
    images    all images of these splits
    points    the same points with id, ood, id_images and ood_images made again; None where that cannot be done
    counts    as `groups.Counts` per side, None for a task without groups
    note      why there are no points, or ""
    """

    affected: dict[str, int]
    images: dict[str, int]
    points: pd.DataFrame | None = None
    counts: Mapping[str, Counts] | None = None
    note: str = ""

    @property
    def sentence(self) -> str:
        """How much of the tests is affected, and what was done about it."""
        if not self.affected:
            return f"images that occur more than once are listed, but {self.note}: ER without them is not known"
        parts = [f"{self.affected[split]:,} of {self.images[split]:,} {split}" for split in self.affected]
        head = f"{' and '.join(parts)} images occur in another split, in a source or under another label too"
        tail = f"ER without them is not known: {self.note}" if self.note else "the checks have ER without them"
        return f"{head}; {tail}"


def entries(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Return every comparison that these runs made, once each: see `ray_robust.data.duplicates.entries.entry`."""
    unique: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs:
        for one in run.data().get("duplicates") or ():
            key = (str(one["name"]), str(one["pool"]["fingerprint"]), str(one["among"]["fingerprint"]))
            unique.setdefault(key, {**one, "run": run})
    return list(unique.values())


def of_task(runs: Sequence[RunFolder], task: str) -> list[dict[str, Any]]:
    """Return the comparisons of a task, by what results call it. Of a run of an earlier version, which kept the name
    alone, they are those of every draw of the task: see `unclear`."""
    name = task.partition("[")[0]  # what varies of a task stands in brackets
    return [one for one in entries(runs) if _is_of(one, name) and task in one.get("tasks", [task])]


def unclear(runs: Sequence[RunFolder], task: str, images: Mapping[str, int]) -> bool:
    """Return whether a run lists several draws of a task that have so many images by split, and not which is whose."""
    name = task.partition("[")[0]
    for run in runs:
        draws = {
            one["pool"]["fingerprint"] for one in run.data().get("duplicates") or ()
            if _is_of(one, name) and "tasks" not in one and _fits(one.get("images", {}), images)
        }  # fmt: skip
        if len(draws) > 1:
            return True
    return False


def _is_of(one: Mapping[str, Any], name: str) -> bool:
    return bool(one["name"].startswith("task ") and one["pool"]["name"] == name)


def _fits(sizes: Mapping[str, int], images: Mapping[str, int]) -> bool:
    return all(sizes.get(split) == count for split, count in images.items())


def recount(runs: Sequence[RunFolder], points: pd.DataFrame) -> Recount | None:
    """Return the points of one task without affected test images; None where no test image is affected. Without any
    predictions that is not known, which the note says. `points` as in `analysis.input.table.Table` of a run."""
    if points.empty or "finetune" not in points:
        return None
    task = str(points["task"].iloc[0])
    tables = [(one["images"], _table(one)) for one in of_task(runs, task) if "images" in one]
    if not any(len(table) for _, table in tables):
        return None
    affected, images, parts, lost = {}, {}, [], []
    estimated = "er_estimated" in points and bool(points["er_estimated"].fillna(False).any())
    for frame, own in run_predictions.predictions(runs, points):
        if frame is None:
            lost.append(str(own["trial"].iloc[0]))
            continue
        images = {split: int((frame["split"] == split).sum()) for split in SCORE_SPLITS.values()}
        fitting = [table for sizes, table in tables if _fits(sizes, images)]
        if unclear(runs, task, images):
            return Recount({}, images, note="not of which draw of the task, in this run of an earlier version")
        if not fitting:  # not even the task's comparison with itself
            return Recount({}, images, note="of other test images than the predictions have")
        mask = _mask(frame, fitting)
        affected = {split: int(mask[frame["split"] == split].sum()) for split in images}
        parts += [] if estimated else [_cells(frame, mask, row) for row in own.to_dict("records")]
    affected = {split: count for split, count in affected.items() if count}
    note = _missing(list(dict.fromkeys(lost))) or ("OOD scores are estimates" if estimated else "")
    if not affected:  # of this task, where its options vary; or nothing was left to see it by
        return Recount({}, {}, note=note) if note and not images else None
    if not note:
        note = next((f"all of {split} is affected" for split in affected if affected[split] == images[split]), "")
    return Recount(affected, images, note=note) if note else _recounted(points, parts, Recount(affected, images))


def _missing(trials: Sequence[str]) -> str:
    """Whose predictions are missing, or ""."""
    more = f" and {count_noun(len(trials) - SHOWN, 'more trial')}" if len(trials) > SHOWN else ""
    return f"predictions are missing of {', '.join(trials[:SHOWN])}{more}" if trials else ""


def _table(one: Mapping[str, Any]) -> pd.DataFrame:
    """The test images of a comparison that are affected: columns split, image."""
    data = one["run"].storage.recall(one["file"]) if one.get("file") else None
    try:
        rows = safe_csv.frame_of(data or b"", ["split", "image"])
    except ValueError:  # it is not there, or not what it was: the run says so (`RunFolder.altered`)
        return pd.DataFrame(columns=["split", "image"])
    return rows[rows["split"].isin(list(SCORE_SPLITS.values()))].drop_duplicates()


def _mask(frame: pd.DataFrame, tables: Sequence[pd.DataFrame]) -> np.ndarray:
    """Which of the rows are affected, bool."""
    wanted = {pair for table in tables for pair in zip(table["split"], table["image"], strict=True)}
    return np.array([pair in wanted for pair in zip(frame["split"], frame["image"], strict=True)], bool)


def _cells(frame: pd.DataFrame, affected: np.ndarray, look: Mapping[str, Any]) -> pd.DataFrame:
    """The counts of one point, as in groups/*.parquet, of affected images and of those that are `left`, apart."""
    group, names = _codes(frame["group"] if "group" in frame else pd.Series("", index=frame.index))
    split, splits = _codes(frame["split"])
    (label, truth), (guess, guessed) = _codes(frame["label"]), _codes(frame[look["column"]])
    classes = truth.union(guessed)
    label, guess = classes.get_indexer(truth)[label], classes.get_indexer(guessed)[guess]
    place = ((~affected * len(splits) + split) * len(names) + group) * len(classes)
    right = label == guess
    parts = [place[right] + label[right], place[~right] + guess[~right], place[~right] + label[~right]]
    cells, where = np.unique(np.concatenate(parts), return_inverse=True)
    kind = np.repeat(np.arange(3), [len(part) for part in parts])
    rest, cell_class = np.divmod(cells, len(classes))
    rest, cell_group = np.divmod(rest, len(names))
    left, cell_split = np.divmod(rest, len(splits))
    counts = np.bincount(where * 3 + kind, minlength=3 * len(cells)).reshape(-1, 3).T
    return pd.DataFrame({
        "point": look["point"],
        "left": left.astype(bool),
        "split": np.asarray(splits, object)[cell_split],
        "group": np.asarray(names, object)[cell_group],
        "class": np.asarray(classes, object)[cell_class],
        **dict(zip(run_counts.CELLS, counts, strict=True)),
    })  # fmt: skip


def _codes(values: pd.Series) -> tuple[np.ndarray, pd.Index]:
    """Numbers of names, and the names."""
    category = values.astype("category").cat
    return category.codes.to_numpy(np.int64), category.categories.astype(str)


def _recounted(points: pd.DataFrame, parts: Sequence[pd.DataFrame], so_far: Recount) -> Recount:
    """`so_far` with points, or with why they cannot be made."""
    table, metrics = pd.concat(parts, ignore_index=True), set(points["metric"])
    metric = str(next(iter(metrics))) if len(metrics) == 1 else ""
    if metric not in METRICS:
        return Recount(so_far.affected, so_far.images, note=f"it cannot be made from counts for the metric {metric!r}")
    again, left = points.copy(), {}
    for side, split in SCORE_SPLITS.items():
        own = table[table["split"] == split]
        whole = run_counts.of_rows(
            own.groupby(["point", "group", "class"], as_index=False)[list(run_counts.CELLS)].sum(), len(points)
        )
        rest = run_counts.of_rows(own[own["left"]], len(points))
        if whole is None or rest is None:
            return Recount(
                so_far.affected, so_far.images, note=f"not all points were tested on the same {split} images"
            )
        if not np.allclose(_scores(metric, whole), points[side], rtol=0, atol=1e-9):
            return Recount(so_far.affected, so_far.images, note=f"the predictions do not give the {side} scores")
        again[side], again[f"{side}_images"] = _scores(metric, rest), int(rest.images.sum())
        if side == "id" and "id_1" in again:  # the first of several ID sets
            again["id_1"], again["id_1_images"] = again["id"], again["id_images"]
        left[side] = rest
    grouped = set(table["group"]) != {""}
    return Recount(so_far.affected, so_far.images, again, left if grouped else None)


def _scores(metric: str, own: Counts) -> np.ndarray:
    return group_jackknife.scores(metric, np.ones((1, len(own.groups))), own)[:, 0]
