"""The image store: images read once, in one `Form`, into a memory-mapped file that all trials of a node share.

Decoded at one size to uint8, or compact: as JPEG, of which squares are cut. A `Pack` holds the images of all pools of
files that are stored alike, addressed by content: pools that share an image share what is stored of it, and a pool that
was moved or copied is found again. A rendered pool has a pack of its own. `launch.ingest` distributes the filling over
processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ray_robust.data.images.form import Form, View, as_form
from ray_robust.data.images.jpeg_pack import JpegPack
from ray_robust.data.images.jpegs import compressed, cut, whole_views
from ray_robust.data.images.pack import BROKEN, MISSING, PRESENT, REMEDY, Pack, checksums
from ray_robust.data.pool import Pixels, Pool
from ray_robust.errors import Problem, UserError, check_local
from ray_robust.run.throughput import cache_folder

VERSION = 3  # of the files' layout and of how images are decoded: part of the folder's name, so a new one starts afresh
BATCH_BYTES, BATCH_IMAGES = 8 << 20, 2048  # decoded between two commits, at most: what a crash can lose


def default_root() -> Path:
    """$RAY_ROBUST_STORE, else `store` in the cache folder. Raises UserError for an address."""
    chosen = os.environ.get("RAY_ROBUST_STORE")
    check_local("RAY_ROBUST_STORE", chosen)
    return Path(chosen or cache_folder() / "store").absolute()


def outdated(root: Path) -> list[Path]:
    """Folders of stores that an earlier version made below `root`: nothing reads them any more."""
    folders = root.iterdir() if root.is_dir() else ()
    versions = ((folder, re.fullmatch(r".+-\d+-v(\d+)", folder.name)) for folder in folders)
    return sorted(folder for folder, match in versions if match and int(match[1]) < VERSION)


class ImageStore:
    """The images of one pool in one form. Row i is row i of the pool's catalog.

    Any number of processes may read and fill one store at the same time. Make one with `open`.
    """

    def __init__(self, root: Path, pool: Pool, form: Form | int) -> None:
        self.form = form = as_form(form)
        self.root, self.pool, self.size, self.n = root, pool, form.size, len(pool.catalog)
        self.folder = root / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', pool.pack)}-{form.name}-v{VERSION}"
        self.pack = Pack(self.folder, form.size) if form.side is None else JpegPack(self.folder, form)
        self.image_bytes = form.size * form.size * 3  # once decoded
        self._checked = np.zeros(self.n, bool)  # rows whose checksum this process has seen to be right,
        self._checked_in = 0  # in this generation of the pack's files

    @classmethod
    def open(cls, root: Path, pool: Pool, form: Form | int) -> ImageStore:
        """Return the store of `pool` in a form (a number: decoded at so many px) below `root`, made (empty) when it is
        not there.

        Raises UserError for a store that is not whole, a full disk, or a root that cannot be written.
        """
        pool.recall(Path(root).absolute())
        store = cls(Path(root).absolute(), pool, form)
        store.pack.create({"version": VERSION, "images of": pool.pack})
        return store

    def __reduce__(self):  # travels as where it is, not as what is in it
        return type(self), (self.root, self.pool, self.form)

    # --- reading

    def _records(self, rows: np.ndarray) -> np.ndarray:
        """pack.RECORD [n] of these rows, as all processes have committed them by now."""
        return self.pack.look_up(self.pool.addresses(rows))

    @property
    def state(self) -> np.ndarray:
        """uint8 [n], MISSING, PRESENT or BROKEN: what all processes have committed by now."""
        return self.states(np.arange(self.n))

    def states(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 [n], the state of each of these rows."""
        state = self._records(rows)["state"].astype(np.uint8)
        unreadable = list(self.pool.unreadable)
        return np.where(np.isin(rows, unreadable), np.uint8(BROKEN), state) if unreadable else state

    @property
    def broken(self) -> dict[int, str]:
        """Row to reason for every image that could not be read, ascending."""
        rows = np.flatnonzero(self.state == BROKEN)
        if not len(rows):
            return {}
        unreadable, reasons = self.pool.unreadable, self.pack.reasons()
        pairs = zip(rows.tolist(), self.pool.addresses(rows), strict=True)
        return {row: unreadable.get(row) or reasons.get(bytes(of), "cannot be read") for row, of in pairs}

    def missing(self, rows: np.ndarray | None = None, *, again: bool = False) -> np.ndarray:
        """Return those of `rows` (default: all) yet to be decoded, int64, ascending; with `again` the broken too."""
        rows = np.arange(self.n) if rows is None else np.unique(np.asarray(rows, np.int64))
        state = self.states(rows)
        return rows[(state == MISSING) | (state == BROKEN)] if again else rows[state == MISSING]

    def mapped(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (uint8 [m, size, size, 3], memory-mapped and read-only; int64 [len(rows)], where these images are in
        it), of a store of decoded images.

        Raises UserError for an image that is missing or broken.
        """
        slots = self.slots(rows)
        return self.pack.pixels(int(slots.max(initial=-1))), slots

    def slots(self, rows: np.ndarray) -> np.ndarray:
        """Return int64 [len(rows)], the number of each image in the pack. Raises UserError as `mapped` does."""
        return self._located(np.asarray(rows, np.int64))[0]

    def checksummed(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the slots, and uint32 [len(rows)], the checksum of what is stored in each: a slot gets another image
        once the pack begins again. Raises UserError as `mapped` does."""
        return self._located(np.asarray(rows, np.int64))

    def located(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (uint8, memory-mapped; jpeg_pack.PLACE [n], where in it these images are; uint32 [n], checksums), of a
        compact store. Raises UserError as `mapped` does."""
        assert isinstance(self.pack, JpegPack)
        slots, crc = self._located(rows)
        return *self.pack.located(slots), crc

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of these images, uint8 [len(rows), size, size, 3]; each one's checksum is verified once per
        process. Of a compact store the centre squares.

        What is damaged on disk is decoded again. Raises UserError where that does not help, and for an image that is
        missing or broken.
        """
        stored = self._verified(np.asarray(rows, np.int64))
        if self.form.side is None:
            return stored
        squares = np.empty((1, len(rows), self.size, self.size, 3), np.uint8)
        for i, jpeg in enumerate(stored):
            boxes = whole_views(np.array([[jpeg.height, jpeg.width]]), View(), self.pool.fit)
            cut(jpeg, boxes[:, 0], squares[:, i], View().interpolation)
        return squares[0]

    def mended(self, rows: np.ndarray) -> np.ndarray:
        """Return what is stored of these images, which was found to be damaged, once it is made again. Raises UserError
        where that does not help."""
        self.pack.forget(np.unique(self.pool.addresses(rows)))
        self._checked[rows] = False
        self.fill(rows)
        return self._verified(rows, again=False)

    def _verified(self, rows: np.ndarray, again: bool = True) -> np.ndarray:
        slots, crc = self._located(rows)
        stored = self.pack.stored(slots)
        fresh = np.flatnonzero(~self._checked[rows])
        wrong = fresh[crc[fresh] != checksums(stored[fresh])] if len(fresh) else fresh
        if len(wrong) and again:
            self.mended(rows[wrong])
            return self._verified(rows, again=False)
        if len(wrong):
            raise UserError(self._problem(rows[wrong], "are damaged on disk", REMEDY))
        self._checked[rows] = True
        return stored

    def _located(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slots and checksums."""
        records = self._records(rows)
        absent = rows[records["state"] != PRESENT]
        if len(absent):
            raise UserError(self._problem(absent, "are not in the store", "fill it with ray_robust.ingest"))
        if self._checked_in != self.pack.generation:
            self._checked[:], self._checked_in = False, self.pack.generation
        return records["slot"], records["crc"]

    def verify(self) -> np.ndarray:
        """Check every image's checksum; rows found damaged (ascending) are forgotten, for `fill` to decode again."""
        bad = [self._damaged(batch) for batch in self._batches(np.flatnonzero(self.state == PRESENT))]
        damaged = np.concatenate(bad) if bad else np.empty(0, np.int64)
        if len(damaged):
            self.pack.forget(np.unique(self.pool.addresses(damaged)))
            self._checked[damaged] = False
        return damaged

    def _damaged(self, rows: np.ndarray) -> np.ndarray:
        slots, crc = self._located(rows)
        return rows[checksums(self.pack.stored(slots)) != crc]

    # --- filling

    def fill(self, rows: np.ndarray, done: Callable[[int], None] | None = None, *, again: bool = False) -> None:
        """Decode those of `rows` that are missing (with `again`, broken ones too), in this process.

        `done(count)` is called as images are decoded. Raises UserError when the disk is full, or a file is not what it
        was when it was listed; what is committed stays.
        """
        self.pool.recall(self.root)  # another process may have read its files
        missing = self.missing(rows, again=again)
        if not len(missing):
            return
        unread = len(self.pool.unread(missing))  # which may turn out to be images that are there
        self.pack.check_space(len(missing) - min(unread, len(self.pack)))
        with ThreadPoolExecutor(1) as writer:  # the disk works on one batch while the next is decoded
            last: Future | None = None
            for batch in self._batches(missing):
                todo = batch if again else self.missing(batch)  # another process may have been here
                if len(todo):
                    decoded = self._read(todo, again)
                    if last is not None:
                        last.result()
                    last = writer.submit(self._commit, todo, decoded)
                if done is not None:
                    done(len(batch))
            if last is not None:
                last.result()

    def settle(self) -> None:
        """Have every file's content known: by what other processes have read, and by reading what is left."""
        self.pool.recall(self.root)
        if len(unread := self.pool.unread()):
            self.pool.digests(unread)

    def _read(self, rows: np.ndarray, again: bool) -> Pixels:
        read = self.pool.read_new(rows, self.form, self._holds(again))
        if self.form.side is None or read.images.dtype == object:
            return read
        images = np.empty(len(rows), object)  # rendered
        for i, square in enumerate(read.images):
            images[i] = compressed(square, self.form)
        return replace(read, images=images)

    def _holds(self, again: bool) -> Callable[[bytes], bool]:
        """Return whether the image of an address need not be decoded."""
        enough = (PRESENT,) if again else (PRESENT, BROKEN)
        return lambda address: self.pack.holds(address, enough)

    def _commit(self, rows: np.ndarray, decoded: Pixels) -> None:
        with self.pack.reporting():
            self.pool.learn(rows, decoded, self.root)
        addresses = self.pool.addresses(rows)
        done = np.ones(len(rows), bool)
        done[[*decoded.skipped, *(i for i in decoded.broken if rows[i] in self.pool.unreadable)]] = False
        at = np.flatnonzero(done)
        position = {int(i): j for j, i in enumerate(at)}
        broken = {position[i]: reason for i, reason in decoded.broken.items() if i in position}
        self.pack.add(addresses[at], decoded.images if done.all() else decoded.images[at], broken)

    def _batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        step = int(np.clip(BATCH_BYTES // self.image_bytes, 1, BATCH_IMAGES))
        return (rows[i : i + step] for i in range(0, len(rows), step))

    def _problem(self, rows: np.ndarray, what: str, remedy: str) -> Problem:
        names = ", ".join(self.pool.keys(rows[:3]))
        return Problem(
            str(self.folder), f"{len(rows)} images {what} ({names}{', ...' if len(rows) > 3 else ''}); {remedy}"
        )
