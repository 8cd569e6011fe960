"""Pools and image stores, opened once per process and shared by its trials."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from ray_robust import registry
from ray_robust.data.columns import has_columns
from ray_robust.data.images.form import Form, View
from ray_robust.data.images.pack import MISSING, PRESENT
from ray_robust.data.images.store import ImageStore
from ray_robust.data.images.stored_jpegs import StoredJpegs
from ray_robust.data.pool import Pool, Task
from ray_robust.data.tasks.shifted import with_shifts
from ray_robust.errors import Outage, UserError
from ray_robust.spec.load import PoolSection

FILLS = 4  # looks at a store whose images are gone each time, and are filled again
IN_MEMORY = 1 << 30  # bytes of one training's or split's images that are copied, checked, into memory; else mapped

_pools: dict[str, Pool] = {}


def open_pool(kind: str, name: str, section: PoolSection) -> Pool:
    """Return the source or task (`kind`) of a spec's section; the same object for the same meaning within a process."""
    key = f"{kind}|{name}|{section.kind}|{section.options.model_dump_json()}"
    if key not in _pools:
        pool = registry.find(kind, section.kind)(name, section.options)
        _pools[key] = with_shifts(pool) if isinstance(pool, Task) else pool
    return _pools[key]


def forget_pools() -> None:
    """Look at all files afresh when pools are opened next."""
    _pools.clear()


def listed() -> dict[str, Pool]:
    """Return the pools of files that this process has opened, and those that a table was read for, for `adopt` in
    another one."""
    return {key: pool for key, pool in _pools.items() if not pool.rendered or has_columns(pool)}


def adopt(pools: Mapping[str, Pool]) -> None:
    """Take pools from the process that planned with them. Files that change or go away from now on change nothing: what
    a trial means was decided there, and the store holds the pixels."""
    for key, pool in pools.items():
        _pools.setdefault(key, pool)


@lru_cache(maxsize=16)
def open_store(root: Path, pool: Pool, form: Form | int) -> ImageStore:
    """Return the pool's store on this node."""
    return ImageStore.open(root, pool, form)


def usable(store: ImageStore) -> np.ndarray | None:
    """Return bool mask [n] of the images that can be drawn, or None for all: those of a file pool that could be
    decoded.

    The store of a pool that is not rendered must have been filled.
    """
    if store.pool.rendered:
        return None
    state = _filled(store, np.arange(store.n))
    present = np.asarray(state == PRESENT)
    return None if present.all() else present


def _filled(store: ImageStore, rows: np.ndarray) -> np.ndarray:
    """Return the states of these rows, none of them missing: an image that somebody removes with its store is decoded
    again, and never passes for one that cannot be read. Raises Outage where the store is removed again and again."""
    rows = np.asarray(rows, np.int64)
    for _ in range(FILLS):
        states = store.states(rows)
        if not len(missing := rows[states == MISSING]):
            return states
        store.fill(missing)
    what = "its images are removed as they are written; leave the store alone, then run the same command again"
    raise Outage(f"{store.folder}: {what}")


Images = tuple[np.ndarray, np.ndarray | None] | StoredJpegs  # a part of an ImageBank


def images_of(store: ImageStore, rows: np.ndarray, view: View | None = None) -> Images:
    """Return some images of a store, filled on demand: (uint8 [m, size, size, 3], rows in it or None for all), or of a
    compact one what decodes them, in this view where nothing is random."""
    _filled(store, rows)
    try:
        return _images_of(store, rows, view)
    except UserError:  # they went since
        _filled(store, rows)
        return _images_of(store, rows, view)


def _images_of(store: ImageStore, rows: np.ndarray, view: View | None) -> Images:
    if store.form.side is not None:
        return StoredJpegs(store, rows, view or View())
    if len(rows) * store.image_bytes <= IN_MEMORY:
        return store.take(rows), None
    return store.mapped(rows)
