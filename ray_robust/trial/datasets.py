"""The images that a trial trains and tests on: its mixture and the splits of its tasks, from this node's stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_robust.data.corruptions.files import corrupted
from ray_robust.data.images.form import Form, View, form_of
from ray_robust.data.images.store import ImageStore
from ray_robust.data.mixtures.from_stores import draw_from
from ray_robust.data.mixtures.index import fingerprint
from ray_robust.data.mixtures.mixture import Subset
from ray_robust.data.opened import Images, images_of, open_pool, open_store, usable
from ray_robust.data.pool import Source, Task
from ray_robust.data.tasks.training_set import training_rows
from ray_robust.plan.plan import Trial, pool_key
from ray_robust.run.shifts import id_test_of, shift_of, test_of
from ray_robust.spec.sections import Finetune, ModelSection
from ray_robust.train.context import Context
from ray_robust.train.evaluate import Split
from ray_robust.train.images import ImageBank
from ray_robust.train.models import eval_view
from ray_robust.train.pretrain import MixtureImages


@dataclass(frozen=True)
class Shown:
    """How images are stored for a model, and what of them it is shown where nothing is random (None: all)."""

    form: Form
    view: View | None

    @classmethod
    def to(cls, model: ModelSection) -> Shown:
        """Return what a model is shown."""
        return cls(form_of(model), None if model.stored_side is None else eval_view(model))


@dataclass(frozen=True, eq=False)
class Mixture:
    """The images that were drawn for a trial, and the store of every source, by name."""

    subset: Subset
    stores: dict[str, ImageStore]
    view: View | None = None

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
        arrays = [images_of(self.stores[name], own, self.view) for name, own in rows.items()]
        return Split(ImageBank(arrays, device), np.concatenate(labels))


def draw_mixture(trial: Trial, store: Path, heartbeat: Callable[[], None]) -> Mixture:
    """Draw a trial's images; sources that are not rendered, and tasks that they are compared with, fill this node's
    store first, calling `heartbeat` on the way."""
    assert trial.pretrain is not None
    shown = Shown.to(trial.model)
    stores = {
        name: open_store(store, open_pool("source", name, section), shown.form)
        for name, section in trial.pretrain.sources.items()
    }
    for opened in stores.values():
        if not opened.pool.rendered:
            opened.fill(opened.missing(), lambda _: heartbeat())
    tasks = []
    if trial.pretrain.dedupe is not None and trial.pretrain.dedupe.against:
        sections = {pool_key(one.task.name, one.task): one.task for one in trial.finetunings}
        opened_tasks = (open_pool("task", section.name, section) for section in sections.values())
        tasks = [_filled(task, store, shown.form, heartbeat) for task in opened_tasks if isinstance(task, Task)]
    pools = {name: opened.pool for name, opened in stores.items()}
    return Mixture(draw_from(trial.pretrain, pools, stores, tasks, trial.subset_seed), stores, shown.view)


def task_splits(
    task: Task, settings: Finetune, seed: int, root: Path, shown: Shown, context: Context
) -> dict[str, Split]:
    """Return all splits of a task by name, and the tests of its shifts (see `run.shifts`); `train` has the images that
    a fine-tuning's settings choose."""
    device = context.device
    train, *names = task.catalog.parts
    names += map(test_of, task.corrupted)
    tests = {name: task_split(task, name, root, shown, context) for name in names}
    tests |= {id_test_of(shift): tests["id_test"].restricted(only) for shift, only in task.catalog.only.items()}
    if settings.num_images is None and settings.per_class is None:
        return {train: task_split(task, train, root, shown, context), **tests}
    store = _filled(task, root, shown.form, context.heartbeat)
    rows = training_rows(task.catalog, usable(store), settings, seed)
    return {train: _split_of(store, rows, device, images_of(store, rows, shown.view)), **tests}


def task_split(task: Task, name: str, root: Path, shown: Shown, context: Context) -> Split:
    """Return a whole split of a task, or the test of a shift, shared by all fine-tunings of this process."""
    device = context.device
    kept = kept_splits(task, root, shown, device)
    if name not in kept:
        store, corruption = _filled(task, root, shown.form, context.heartbeat), task.corrupted.get(shift_of(name))
        mask, rows = usable(store), task.catalog.rows(name) if corruption is None else task.corrupted_rows()
        rows = rows if mask is None else rows[mask[rows]]
        if corruption is None:
            split = _split_of(store, rows, device, images_of(store, rows, shown.view))
            kept[name] = replace(split, only=task.catalog.only.get(shift_of(name)))
        else:
            kept[name] = _split_of(store, rows, device, (corrupted(store, rows, *corruption, shown.view), None))
    return kept[name]


@lru_cache(maxsize=2)
def kept_splits(task: Task, root: Path, shown: Shown, device: torch.device) -> dict[str, Split]:
    """The splits of a task that this process has in memory, by name; of the two tasks used last."""
    return {}


def _split_of(store: ImageStore, rows: np.ndarray, device: torch.device, images: Images) -> Split:
    """The split of these rows of a store."""
    task, catalog = store.pool, store.pool.catalog
    assert isinstance(task, Task)
    groups = None if catalog.group is None else catalog.group[rows]
    aside = tuple(i for i, group in enumerate(catalog.groups) if group in task.aside)
    return Split(ImageBank([images], device), catalog.labels[rows].astype(np.int64), groups, rows, aside)


def _filled(task: Task, root: Path, form: Form, heartbeat: Callable[[], None]) -> ImageStore:
    store = open_store(root, task, form)
    if not task.rendered:
        store.fill(store.missing(), lambda _: heartbeat())
    return store
