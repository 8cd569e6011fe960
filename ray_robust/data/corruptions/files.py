"""Corrupted images of a store on disk: made once on a node, then mapped by every process.

A file is named by what it is made of and by the checksum of its pixels: who is killed leaves a draft, and what was
altered is made again.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from ray_robust.data.corruptions.kinds import VERSION, corrupt
from ray_robust.data.images.form import View
from ray_robust.data.images.store import ImageStore
from ray_robust.data.images.stored_jpegs import StoredJpegs
from ray_robust.data.opened import images_of

FOLDER = "corruptions"  # below the root of a store


def corrupted(store: ImageStore, rows: np.ndarray, kind: str, severity: int, view: View | None = None) -> np.ndarray:
    """Return these images, of a compact store in this view, corrupted: uint8 [len(rows), size, size, 3], memory-mapped
    and read-only."""
    folder = store.root / FOLDER
    ids = store.pool.catalog.ids[rows]
    digest = hashlib.blake2b(digest_size=16)
    of = () if store.form.side is None else (store.form.name, view)
    digest.update(repr((VERSION, kind, severity, store.size, store.pool.pack, *of)).encode())
    digest.update(ids.tobytes() + store.pool.addresses(rows).tobytes())
    name = digest.hexdigest()
    for file in sorted(folder.glob(f"{name}-*.u8")):
        if (there := _opened(file, len(rows), store.size)) is not None:
            return there
    images = images_of(store, rows, view)
    made = np.empty((len(rows), store.size, store.size, 3), np.uint8)
    for i, image_id in enumerate(ids.tolist()):
        if isinstance(images, StoredJpegs):
            images.read(np.array([i]), made[None, i : i + 1])
            pixels = made[i]
        else:
            stored, within = images
            pixels = stored[i if within is None else within[i]]
        made[i] = corrupt(pixels, kind, severity, image_id)
    draft = folder / f"{name}.{os.getpid()}.draft"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(made.tobytes())
        file = folder / f"{name}-{zlib.crc32(made.data):08x}.u8"
        draft.replace(file)
    except OSError:  # a full or read-only disk: these pixels do
        _remove(draft)
        return made
    there = _opened(file, len(rows), store.size)
    return made if there is None else there


def _opened(file: Path, count: int, size: int) -> np.ndarray | None:
    """The images of a file; None where it is not as it was written: it is removed."""
    try:
        there = np.memmap(file, np.uint8, "r", shape=(count, size, size, 3))
        if file.stat().st_size == there.size and f"{zlib.crc32(there.data):08x}" == file.stem.rpartition("-")[2]:
            return there
    except (OSError, ValueError):  # removed by another process, or too short
        pass
    _remove(file)
    return None


def _remove(file: Path) -> None:
    """Remove a file where that can be done: one on a read-only disk is passed over each time."""
    with suppress(OSError):
        file.unlink(missing_ok=True)
