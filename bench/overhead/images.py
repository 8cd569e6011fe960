"""The images of a sweep's trials, ready for all ways, and the precision that these train in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ray_robust.data.images.store import ImageStore
from ray_robust.data.opened import open_pool, open_store
from ray_robust.data.pool import SPLITS
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.plan.plan import Trial
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.subsets import decode_jobs, draw_all


def prepare(sweep: Sweep, root: Path) -> dict[str, ImageStore]:
    """Every pool's store, filled with what the sweep looks at, by pool_key."""
    jobs = decode_jobs(sweep, sweep.plan, draw_all(sweep, {}))
    stores = ingest([(pool, size, rows) for _, pool, size, rows in jobs], root)
    return {key: store for (key, *_), store in zip(jobs, stores, strict=True)}


def arrays_of(trial: Trial, root: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, tuple]]:
    """({"train", "held_out": (images, labels)} of the mixture, {split: (images, labels)} of the task), in memory."""
    from ray_robust.data.mixtures.mixture import draw

    mixture: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    size = trial.model.image_size
    if trial.pretrain is not None:
        stores = {n: open_store(root, open_pool("source", n, s), size) for n, s in trial.pretrain.sources.items()}
        catalogs = {name: store.pool.catalog for name, store in stores.items()}
        subset = draw(trial.pretrain, catalogs, dict.fromkeys(stores), trial.subset_seed)
        for part, rows, labels in (("train", "rows", "labels"), ("held_out", "held_out_rows", "held_out_labels")):
            images = [stores[share.source].take(getattr(share, rows)) for share in subset.shares]
            mixture[part] = np.concatenate(images), np.concatenate([getattr(share, labels) for share in subset.shares])
    section = trial.finetunings[0].task
    store = open_store(root, open_pool("task", section.name, section), size)
    catalog = store.pool.catalog
    task = {split: (store.take(catalog.rows(split)), catalog.labels[catalog.rows(split)]) for split in SPLITS}
    return mixture, task


def precise(trial: Trial) -> Any:
    """The precision that the sweep's own trainings have: bf16 where this processor computes in it, else float32."""
    import torch

    from ray_robust.train.context import Context

    return Context(torch.device("cpu")).autocast(trial.model.precision)
