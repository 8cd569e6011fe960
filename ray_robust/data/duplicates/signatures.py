"""Signatures of a store's images, 21 bytes each: a digest of the pixels and a perceptual hash.

Computed once per image from the decoded pixels, by threads, and stored beside them slot by slot: a pool of a million
images is read once, and images that it shares with another pool not again. With the checksum of the image that each is
of: a pack that lost its files or a part of them gives the slots to other images.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ray_robust.data.duplicates import phash
from ray_robust.data.images.store import ImageStore
from ray_robust.files.storage import Storage

NAME = "signatures-2"  # in the pack's folder, by slot; the number is that of the hash and of the layout
UNKNOWN, HASHED, PLAIN = 0, 1, 2  # PLAIN: too little contrast, or too few pixels, for a perceptual hash
RECORD = np.dtype([("content", "<u8"), ("phash", "<u8"), ("crc", "<u4"), ("state", "u1")])
BLOCK_BYTES = 8 << 20  # of pixels that a thread works on


def signatures(store: ImageStore, rows: np.ndarray) -> np.ndarray:
    """Return the records (`RECORD`) of these images, which must be present: `content` is the same for equal pixels,
    `phash` is the perceptual hash. Raises UserError for an image that is damaged on disk."""
    rows = np.asarray(rows, np.int64)
    slots, crc = store.checksummed(rows)
    records = _read(store, int(slots.max(initial=-1)) + 1)
    unknown = np.flatnonzero((records["state"][slots] == UNKNOWN) | (records["crc"][slots] != crc))
    unknown = unknown[np.unique(slots[unknown], return_index=True)[1]]  # of rows that share a slot one
    missing, missing_slots = rows[unknown], slots[unknown]
    if len(missing):
        step = max(1, BLOCK_BYTES // store.image_bytes)
        blocks = [missing[i : i + step] for i in range(0, len(missing), step)]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            made = threads.map(lambda block: _made(store.take(block)), blocks)
            records[missing_slots] = np.concatenate(list(made))
        records["crc"][missing_slots] = crc[unknown]
        with contextlib.suppress(OSError):  # a store that cannot be written is read through again the next time
            Storage(store.folder).write(_name(store), records.tobytes(), durable=False)
    return records[slots]


def _made(images: np.ndarray) -> np.ndarray:
    records = np.zeros(len(images), RECORD)
    digests = (hashlib.blake2b(image, digest_size=8).digest() for image in images)
    records["content"] = np.frombuffer(b"".join(digests), "<u8")
    records["phash"], contrast = phash.hashes(images)
    records["state"] = np.where(contrast, HASHED, PLAIN)
    return records


def _read(store: ImageStore, slots: int) -> np.ndarray:
    """Return the records of that many slots, or of more."""
    stored = np.empty(0, RECORD)
    with contextlib.suppress(OSError):
        stored = np.fromfile(store.folder / _name(store), RECORD)
    return np.concatenate([stored, np.zeros(max(0, slots - len(stored)), RECORD)])


def _name(store: ImageStore) -> str:
    """A compact store is looked at in several sizes."""
    return f"{NAME}.bin" if store.form.side is None else f"{NAME}-{store.size}.bin"
