"""The tables that a trial writes beside its rows: the images it drew, its predictions, and its counts by group."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from ray_robust.data.images.store import ImageStore
from ray_robust.data.mixtures.mixture import Subset
from ray_robust.data.pool import Pool
from ray_robust.run.run_folder import TrialFolder
from ray_robust.train.evaluate import Split
from ray_robust.train.finetune import Finetuned
from ray_robust.train.points import counts


def write_subset(folder: TrialFolder, subset: Subset, stores: dict[str, ImageStore]) -> None:
    """Write subset.parquet: source, name and label of every image that was drawn, and its true label where labels were
    made wrong."""
    if folder.storage.stamp("subset.parquet") is not None:  # what is damaged is removed before
        return
    names = np.asarray(subset.classes, dtype=object)
    parts = [
        pd.DataFrame({
            "source": pd.Categorical([share.source] * len(share.rows)),
            "image": stores[share.source].pool.keys(share.rows),
            "label": pd.Categorical(names[share.labels]),
            **({} if share.true_labels is None else {"true_label": pd.Categorical(names[share.true_labels])}),
        })
        for share in subset.shares
    ]  # fmt: skip
    _write_parquet(folder, "subset.parquet", pd.concat(parts, ignore_index=True))


def write_predictions(folder: TrialFolder, name: str, done: Finetuned, splits: dict[str, Split], task: Pool) -> None:
    """Write predictions/<id>.parquet: one row per test image, with the predicted class and its probability per point;
    and groups/<id>.parquet, where the task has groups: counts per epoch, split, group and class."""
    catalog = task.catalog
    classes, groups = np.asarray(catalog.classes, dtype=object), np.asarray(catalog.groups, dtype=object)
    parts = []
    for split in (name for name in splits if name != "train"):
        images = splits[split]
        assert images.rows is not None
        part = {"split": split, "image": task.keys(images.rows), "label": catalog.class_names(images.labels, None)}
        if images.groups is not None:
            part["group"] = groups[images.groups]
        for point, predicted in done.predictions.items():
            part[f"epoch_{point.name}"] = classes[predicted[split].classes]
            part[f"confidence_{point.name}"] = predicted[split].confidence.astype(np.float16)
        parts.append(pd.DataFrame(part))
    _write_parquet(folder, f"predictions/{name}.parquet", _named(pd.concat(parts, ignore_index=True)))
    counted = counts(done, splits)
    if counted is not None:
        named = counted.assign(group=groups[counted["group"]], **{"class": classes[counted["class"]]})
        _write_parquet(folder, f"groups/{name}.parquet", _named(named))


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its names as categories, except those of images: each of them comes once."""
    names = table.select_dtypes(exclude="number").columns.drop("image", errors="ignore")
    return table.astype(dict.fromkeys(names, "category"))


def _write_parquet(folder: TrialFolder, name: str, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    folder.storage.write(name, buffer.getvalue())
