"""Predictions of points on the tests, from a run's trials/<id>/predictions/<fine-tuning>.parquet.

Owns the reading: `predictions` yields tables of images, `count` adds up what each point took the images for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet

from ray_robust.run.results_schema import SCORE_SPLITS
from ray_robust.run.run_folder import RunFolder

OF_IMAGES = ("split", "image", "label", "group")
SIDES = {split: side for side, split in SCORE_SPLITS.items()}


def predictions(
    runs: Sequence[RunFolder],
    points: pd.DataFrame,
    of_images: Sequence[str] = OF_IMAGES,
    splits: Sequence[str] = tuple(SIDES),
) -> Iterator[tuple[pd.DataFrame | None, pd.DataFrame]]:
    """Yield for every fine-tuning what it predicted on both tests, or on these `splits` (None where that is lost), and
    its points: columns trial, point (the row in `points`), column (of the predictions). Of the images' own columns
    those in `of_images`."""
    run = points["run"] if "run" in points else pd.Series(0, index=points.index)
    alpha = points["wise_alpha"] if "wise_alpha" in points else pd.Series(np.nan, index=points.index)
    between = ["" if pd.isna(value) else f"_wise_{value:g}" for value in alpha]
    columns = [f"epoch_{epoch}{wise}" for epoch, wise in zip(points["epoch"].astype(int), between, strict=True)]
    keys = pd.DataFrame(
        {"trial": points["trial"], "point": np.arange(len(points)), "column": columns}, index=points.index
    )
    for (number, trial, finetune), own in keys.groupby([run, points["trial"], points["finetune"]], sort=False):
        data = runs[number].trial(str(trial)).storage.recall(f"predictions/{finetune}.parquet")
        yield (None if data is None else _table(data, of_images, list(own["column"]), splits)), own


def _table(data: bytes, of_images: Sequence[str], columns: Sequence[str], splits: Sequence[str]) -> pd.DataFrame | None:
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        if not {"split", "label", *columns} <= set(names):
            return None
        wanted = list(dict.fromkeys(["split", *(name for name in of_images if name in names), *columns]))
        table = file.read(columns=wanted, use_threads=False).to_pandas()
        return table[table["split"].isin(list(splits))].reset_index(drop=True)
    except (ValueError, OSError):  # pyarrow's, for a file that was cut short
        return None


@dataclass(frozen=True, eq=False)
class Confusion:
    """What models took test images for.

    cells    one row per unit, side ("id", "ood"), test group, label and guess that occurs: `unit`, `side`, `cluster`,
             `label`, `guess` (int, see the names) and `n`, images; where a trial has several points their mean
    units    one row per trial: trial, group, and seed where there is one; `unit` is its number
    classes, clusters   names; one empty name of a cluster for a task without groups
    """

    cells: pd.DataFrame
    units: pd.DataFrame
    classes: tuple[str, ...]
    clusters: tuple[str, ...]

    @property
    def grouped(self) -> bool:
        """Whether the task has test groups."""
        return self.clusters != ("",)


def count(runs: Sequence[RunFolder], points: pd.DataFrame) -> tuple[Confusion | None, str]:
    """Return what these points took the test images for, and a sentence where some or all predictions are missing:
    then there is none. `points` as in `analysis.input.table.Table` of a run."""
    if points.empty or "finetune" not in points or not runs:
        return None, ""
    columns = [name for name in ("trial", "group", "seed") if name in points]
    units = points[columns].astype({"trial": str}).drop_duplicates(["trial", "group"]).reset_index(drop=True)
    place = {key: i for i, key in enumerate(zip(units["trial"], units["group"], strict=True))}
    keys = list(zip(points["trial"].astype(str), points["group"], strict=True))
    weight = 1 / pd.Series(keys).map(pd.Series(keys).value_counts()).to_numpy()
    sides, classes, clusters = _Names(*SIDES), _Names(), _Names()
    parts, lost = list[np.ndarray](), 0
    for frame, own in predictions(runs, points, ("split", "label", "group")):
        if frame is None:
            lost += len(own)
            continue
        of_image = [
            sides.of(frame["split"]),
            clusters.of(frame["group"]) if "group" in frame else clusters.of(pd.Series("", frame.index)),
            classes.of(frame["label"]),
        ]
        for row in own.itertuples():
            cells, images = _distinct([*of_image, classes.of(frame[row.column])])
            unit = np.full(len(images), place[keys[row.point]])
            parts.append(np.vstack([unit, cells, images * weight[row.point]]))
    if lost or not parts:
        return None, f"predictions of {lost} of {len(points)} points are missing or damaged (predictions/*.parquet)"
    columns = ["unit", "side", "cluster", "label", "guess"]
    cells = pd.DataFrame(np.hstack(parts).T, columns=[*columns, "n"]).astype(dict.fromkeys(columns, np.int64))
    if (weight < 1).any():  # several points of a trial may have the same cell
        cells = cells.groupby(columns, as_index=False)["n"].sum()
    cells["side"] = np.array(list(SIDES.values()), object)[cells["side"]]
    return Confusion(cells, units, tuple(classes.names), tuple(clusters.names)), ""


def _distinct(numbers: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the different columns of some rows of numbers from -1 on, int64 [rows, n], and how often each occurs."""
    sizes = tuple(int(row.max(initial=-1)) + 2 for row in numbers)
    codes, counts = np.unique(np.ravel_multi_index([row + 1 for row in numbers], sizes), return_counts=True)
    return np.array(np.unravel_index(codes, sizes)) - 1, counts


class _Names:
    """Numbers of names, the same in every table."""

    def __init__(self, *names: str) -> None:
        self.names = {name: number for number, name in enumerate(names)}

    def of(self, values: pd.Series) -> np.ndarray:
        """Return int64 [n]."""
        own = values.astype("category").cat
        numbers = [self.names.setdefault(str(name), len(self.names)) for name in own.categories]
        return np.array([*numbers, -1], np.int64)[own.codes.to_numpy()]
