"""Folders of pictures as pools, in a store of their own, for tests of what identity is of."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from make_pools import open_pool
from PIL import Image

from ray_robust.data.images.pack import PRESENT
from ray_robust.data.images.store import ImageStore
from ray_robust.data.readers.file_pool import FilePool
from ray_robust.launch.ingest import ingest as launch
from tests import make_images as make


def bmp(seed: int) -> bytes:
    """A picture of which every one has the same size."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def tree(root: Path, images: list[bytes]) -> Path:
    """These images in two classes by turns: cat/000.bmp, dog/001.bmp, ..."""
    for i, data in enumerate(images):
        make.write(root / ("cat", "dog")[i % 2] / f"{i:03d}.bmp", data)
    return root


def pool_at(path, **options) -> FilePool:
    pool = open_pool("source", "folder", {"path": str(path), **options})
    assert isinstance(pool, FilePool)
    return pool


def ingested(path, root: Path, size: int = 4, **options) -> ImageStore:
    (store,) = launch.ingest([(pool_at(path, **options), size, None)], root)
    return store


def identity(store: ImageStore) -> tuple[str, list[int], list[bytes]]:
    """Fingerprint, ids, and addresses in the store."""
    catalog = store.pool.catalog
    assert not catalog.provisional
    return catalog.fingerprint, catalog.ids.tolist(), [bytes(a) for a in store.pool.addresses(np.arange(store.n))]


def right(store: ImageStore) -> bool:
    """Whether what is present shows what the files show now."""
    rows = np.flatnonzero(store.state == PRESENT)
    return bool((store.take(rows) == pool_at(store.pool.options.path).read(rows, store.size).images).all())
