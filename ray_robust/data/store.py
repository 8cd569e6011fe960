"""The image store: a pool decoded once, at one size, to uint8 in a memory-mapped file that all trials of a node share.

Owns the files of one (pool, size) under the store's root, the state and the checksum of every image, and the order in
which they reach the disk: pixels before state, so that a crash at any instant leaves a store that can be used and
filled further. Hands on arrays; `launch.ingest` spreads the filling over processes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np

from ray_robust.data.pool import Pixels, Pool
from ray_robust.errors import Problem, UserError
from ray_robust.rates import cache_folder

VERSION = 2  # of the files' layout and of how images are decoded: part of the folder's name, so a new one starts afresh
MISSING, PRESENT, BROKEN = 0, 1, 2  # states of an image
BATCH_BYTES, BATCH_IMAGES = 8 << 20, 2048  # decoded between two commits, at most: what a crash can lose


def default_root() -> Path:
    """$RAY_ROBUST_STORE, else `store` in the cache folder."""
    return Path(os.environ.get("RAY_ROBUST_STORE") or cache_folder() / "store").absolute()


class ImageStore:
    """The decoded images of one pool at one size. Row i is row i of the pool's catalog.

    Any number of processes may read and fill one store at the same time: two that fill the same row write the same
    bytes. Make one with `open`.
    """

    def __init__(self, folder: Path, pool: Pool, size: int) -> None:
        self.folder, self.pool, self.size, self.n = folder, pool, size, len(pool.catalog)
        self.image_bytes = size * size * 3
        self._checked = np.zeros(self.n, bool)  # rows whose checksum this process has seen to be right

    @classmethod
    def open(cls, root: Path, pool: Pool, size: int) -> ImageStore:
        """The store of `pool` at `size` px below `root`, made (sparse, empty) when it is not there.

        Raises UserError for a store that is not whole, a full disk, or a root that cannot be written.
        """
        meaning = re.sub(r"[^\w.-]+", "_", pool.meaning)
        store = cls(Path(root).absolute() / f"{meaning}-{size}-v{VERSION}", pool, size)
        with store._said():
            store._create()
        return store

    def __reduce__(self):  # travels as where it is, not as what is in it
        return type(self), (self.folder, self.pool, self.size)

    # --- reading

    @cached_property
    def state(self) -> np.ndarray:
        """uint8 [n], MISSING, PRESENT or BROKEN: a live view of what all processes have committed."""
        return np.memmap(self._path("state.u8"), np.uint8, "r", shape=(self.n,))

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 [n, size, size, 3], read-only, memory-mapped; zeros where an image is missing or broken."""
        return np.memmap(self._path("pixels.u8"), np.uint8, "r", shape=(self.n, self.size, self.size, 3))

    @cached_property
    def _crc(self) -> np.ndarray:
        return np.memmap(self._path("crc.u32"), np.uint32, "r", shape=(self.n,))

    @property
    def broken(self) -> dict[int, str]:
        """Row to reason for every image that could not be read, ascending."""
        reasons: dict[int, str] = {}
        path = self._path("broken.jsonl")
        if path.exists():
            for line in path.read_text("utf-8").splitlines():
                row, reason = json.loads(line)  # the last word on a row holds
                reasons[row] = reason
        return {int(row): reasons.get(int(row), "cannot be read") for row in np.flatnonzero(self.state == BROKEN)}

    def missing(self, rows: np.ndarray | None = None, *, again: bool = False) -> np.ndarray:
        """Those of `rows` (default: all) yet to be decoded, int64, ascending; with `again`, the broken ones too."""
        rows = np.arange(self.n) if rows is None else np.unique(np.asarray(rows, np.int64))
        state = self.state[rows]
        return rows[(state == MISSING) | (state == BROKEN)] if again else rows[state == MISSING]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """A copy of these images, uint8 [len(rows), size, size, 3]; each one's checksum is verified once per process.

        Raises UserError for an image that is damaged on disk, missing or broken.
        """
        rows = np.asarray(rows, np.int64)
        images = self.pixels[rows]
        fresh = np.flatnonzero(~self._checked[rows])
        wrong = fresh[self._crc[rows[fresh]] != _checksums(images[fresh])] if len(fresh) else fresh
        absent = fresh[self.state[rows[fresh]] != PRESENT]
        if len(absent):
            raise UserError(self._problem(rows[absent], "are not in the store", "fill it with ray_robust.ingest"))
        if len(wrong):
            raise UserError(self._problem(rows[wrong], "are damaged on disk", self._remedy))
        self._checked[rows] = True
        return images

    def verify(self) -> np.ndarray:
        """Check every image's checksum; the rows found damaged (ascending) are marked missing, for `fill` to mend."""
        present = np.flatnonzero(self.state == PRESENT)
        bad = [b[_checksums(self.pixels[b]) != self._crc[b]] for b in self._batches(present)]
        damaged = np.concatenate(bad) if bad else present
        if len(damaged):
            with self._said(), self._locked():
                self._write("state.u8", damaged, np.full(len(damaged), MISSING, np.uint8))
        return damaged

    # --- filling

    def fill(self, rows: np.ndarray, done: Callable[[int], None] | None = None, *, again: bool = False) -> None:
        """Decode those of `rows` that are missing (with `again`, broken ones too), in this process.

        `done(count)` is called as images are decoded. Raises UserError when the disk is full; what is committed stays.
        """
        missing = self.missing(rows, again=again)
        if not len(missing):
            return
        self._check_space(len(missing))
        with ThreadPoolExecutor(1) as writer:  # the disk works on one batch while the next is decoded
            last: Future | None = None
            for batch in self._batches(missing):
                todo = batch if again else self.missing(batch)  # another process may have been here
                if len(todo):
                    decoded = self.pool.read(todo, self.size)
                    if last is not None:
                        last.result()
                    last = writer.submit(self._commit, todo, decoded)
                if done is not None:
                    done(len(batch))
            if last is not None:
                last.result()

    def _commit(self, rows: np.ndarray, decoded: Pixels) -> None:
        state = np.full(len(rows), PRESENT, np.uint8)
        state[list(decoded.broken)] = BROKEN
        reasons = "".join(json.dumps([int(rows[i]), reason]) + "\n" for i, reason in decoded.broken.items())
        checksums = _checksums(decoded.images)
        with self._said():
            self._write("pixels.u8", rows, decoded.images)
            with self._locked():  # the pixels are on disk: a crash before the last line leaves these rows missing
                if reasons:
                    with open(self._path("broken.jsonl"), "a", encoding="utf-8") as file:
                        file.write(reasons)
                self._write("crc.u32", rows, checksums)
                self._write("state.u8", rows, state)

    def _batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        step = int(np.clip(BATCH_BYTES // self.image_bytes, 1, BATCH_IMAGES))
        return (rows[i : i + step] for i in range(0, len(rows), step))

    def _write(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Write values[i] at row rows[i] and wait until the disk has them.

        By pwrite and not through a memory map: on a full disk that is an error to handle, where a map is a SIGBUS.
        """
        width = values[0].nbytes
        data = memoryview(np.ascontiguousarray(values)).cast("B")
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)  # runs of neighbours go in one call
        file = os.open(self._path(name), os.O_WRONLY)
        try:
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
                at, part = int(rows[start]) * width, data[start * width : stop * width]
                while part:
                    written = os.pwrite(file, part, at)
                    at, part = at + written, part[written:]
            os.fdatasync(file)
        finally:
            os.close(file)

    # --- the files

    def _path(self, name: str) -> Path:
        return self.folder / name

    @property
    def _sizes(self) -> dict[str, int]:
        return {"pixels.u8": self.n * self.image_bytes, "crc.u32": 4 * self.n, "state.u8": self.n}

    def _create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = self._path("meta.json")
        if not meta.exists():
            with self._locked():
                if not meta.exists():
                    for name, size in self._sizes.items():
                        with open(self._path(name), "wb") as file:
                            file.truncate(size)  # sparse: takes no room until written
                    told = {"version": VERSION, "images": self.n, "size": self.size, "meaning": self.pool.meaning}
                    told |= {"pool": self.pool.name, "licence": self.pool.catalog.licence}
                    draft = self._path("meta.json.tmp")
                    draft.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
                    draft.replace(meta)  # last: what follows may rely on the files
        for name, size in self._sizes.items():
            path = self._path(name)
            if not path.exists() or path.stat().st_size != size:
                raise UserError(Problem(str(self.folder), f"{name} is not {size:,} bytes long; {self._remedy}"))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._path("lock"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, also by a crash
            yield

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn what the disk refuses into a UserError."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else f"cannot be written ({error.strerror or error})"
            raise UserError(
                Problem(str(self.folder), f"{what}; free some room or name another folder in RAY_ROBUST_STORE")
            ) from None

    def _check_space(self, images: int) -> None:
        need, free = images * self.image_bytes, shutil.disk_usage(self.folder).free
        if need > free:
            what = (
                f"{images:,} images at {self.size} px need {need / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free"
            )
            raise UserError(Problem(str(self.folder), f"{what}; free some or name another folder in RAY_ROBUST_STORE"))

    @property
    def _remedy(self) -> str:
        return "delete this folder, or run ray_robust.ingest with --verify, which decodes again what is damaged"

    def _problem(self, rows: np.ndarray, what: str, remedy: str) -> Problem:
        names = ", ".join(self.pool.keys(rows[:3]))
        return Problem(
            str(self.folder), f"{len(rows)} images {what} ({names}{', ...' if len(rows) > 3 else ''}); {remedy}"
        )


def _checksums(images: np.ndarray) -> np.ndarray:
    return np.fromiter((zlib.crc32(image) for image in images), np.uint32, len(images))
