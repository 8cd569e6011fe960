"""The images that a trial trains and tests on: its mixture and the splits of its tasks, from this node's stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_robust.data.images.store import ImageStore
from ray_robust.data.mixtures.index import fingerprint
from ray_robust.data.mixtures.mixture import Subset, draw
from ray_robust.data.opened import images_of, open_pool, open_store, usable
from ray_robust.data.pool import SPLITS, Source, Task
from ray_robust.data.tasks.training_set import training_rows
from ray_robust.plan.plan import Trial
from ray_robust.spec.sections import Finetune
from ray_robust.train.evaluate import Split
from ray_robust.train.images import ImageBank
from ray_robust.train.pretrain import MixtureImages


@dataclass(frozen=True, eq=False)
class Mixture:
    """The images that were drawn for a trial, and the store of every source, by name."""

    subset: Subset
    stores: dict[str, ImageStore]

    def facts(self) -> dict[str, Any]:
        """Return what trial.json says of it."""
        subset = self.subset
        return {
            "num_images": len(subset),
            "num_classes": subset.leaf_classes,
            "composition": list(subset.composition),
            "labels": subset.images_per_label(),
            "held_out": subset.held_out(),
            "subset_fingerprint": fingerprint(subset, {n: s.pool.catalog for n, s in self.stores.items()}),
        }

    def images(self, device: torch.device, captioned: bool) -> MixtureImages:
        """Return the images on a device, with the captions of those sources that have some if `captioned`."""
        captions: list[str | None] = []
        for share in self.subset.shares if captioned else ():
            pool = self.stores[share.source].pool
            texts = pool.captions(share.rows) if isinstance(pool, Source) else None
            captions += [None] * len(share.rows) if texts is None else texts
        return MixtureImages(self._split(device, False), self._split(device, True), self.subset.classes, captions)

    def _split(self, device: torch.device, held_out: bool) -> Split:
        rows = {s.source: s.held_out_rows if held_out else s.rows for s in self.subset.shares}
        labels = [s.held_out_labels if held_out else s.labels for s in self.subset.shares]
        arrays = [images_of(self.stores[name], own) for name, own in rows.items()]
        return Split(ImageBank(arrays, device), np.concatenate(labels))


def draw_mixture(trial: Trial, store: Path, heartbeat: Callable[[], None]) -> Mixture:
    """Draw a trial's images; rendered sources fill this node's store first, calling `heartbeat` on the way."""
    assert trial.pretrain is not None
    stores = {
        name: open_store(store, open_pool("source", name, section), trial.model.image_size)
        for name, section in trial.pretrain.sources.items()
    }
    for opened in stores.values():
        if not opened.pool.rendered:
            opened.fill(opened.missing(), lambda _: heartbeat())
    catalogs = {name: opened.pool.catalog for name, opened in stores.items()}
    masks = {name: usable(opened) for name, opened in stores.items()}
    return Mixture(draw(trial.pretrain, catalogs, masks, trial.subset_seed), stores)


def task_splits(
    task: Task, settings: Finetune, seed: int, root: Path, size: int, device: torch.device
) -> dict[str, Split]:
    """Return all splits of a task by name; `train` has the images that a fine-tuning's settings choose."""
    if settings.num_images is None and settings.per_class is None:
        return {name: task_split(task, name, root, size, device) for name in SPLITS}
    tests = {name: task_split(task, name, root, size, device) for name in SPLITS[1:]}
    store = _filled(task, root, size)
    return {"train": _split_of(store, training_rows(task.catalog, usable(store), settings, seed), device), **tests}


@lru_cache(maxsize=2 * len(SPLITS))
def task_split(task: Task, name: str, root: Path, size: int, device: torch.device) -> Split:
    """Return a whole split of a task, shared by all fine-tunings of this process."""
    store = _filled(task, root, size)
    mask, rows = usable(store), task.catalog.rows(name)
    return _split_of(store, rows if mask is None else rows[mask[rows]], device)


def _split_of(store: ImageStore, rows: np.ndarray, device: torch.device) -> Split:
    task, catalog = store.pool, store.pool.catalog
    assert isinstance(task, Task)
    groups = None if catalog.group is None else catalog.group[rows]
    aside = tuple(i for i, group in enumerate(catalog.groups) if group in task.aside)
    bank = ImageBank([images_of(store, rows)], device)
    return Split(bank, catalog.labels[rows].astype(np.int64), groups, rows, aside)


def _filled(task: Task, root: Path, size: int) -> ImageStore:
    store = open_store(root, task, size)
    if not task.rendered:
        store.fill(store.missing())
    return store
