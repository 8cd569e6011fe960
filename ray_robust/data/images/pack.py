"""Images in an append-only file, each addressed by 16 bytes, with a log of their slots.

Files of one form and fit: `pixels.u8`, an image per slot, or those of a `JpegPack`; `log.records`, of which the last
record of an address is valid; `broken.jsonl`, why an address has no image. Images reach the disk before their record: a
crash leaves images missing, never wrong. Any number of processes may read and add.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ray_robust.data.images.contents import halves
from ray_robust.data.images.form import Jpeg
from ray_robust.data.pool import DIGEST
from ray_robust.errors import Problem, UserError
from ray_robust.files.disk_room import FULL, blocking_part, no_room

MISSING, PRESENT, BROKEN = 0, 1, 2  # states of an image
LOST = 3  # of a record that cannot be true: its image is missing
RECORD = np.dtype([("address", DIGEST), ("slot", "<i8"), ("crc", "<u4"), ("state", "<u4")])
assert RECORD.itemsize == 32, "divides a disk's block, so that a record is written whole or not at all"
LOG = "log.records"
REMOVALS = 5  # of the files while one batch is written, after which the next is an error
TAIL = 4096  # records that are looked up one by one before they are sorted in among the others, at least


class Pack:
    """The images of `size` px below `folder`, uint8 [size, size, 3] each."""

    files: ClassVar[tuple[str, ...]] = ("pixels.u8", LOG)  # the images are in the first

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.image_bytes = size * size * 3
        self.facts: dict[str, object] = {}  # of meta.json
        self.generation = 0  # how often the files turned out to be other ones than those read before
        self._files: tuple[int, ...] | None = None  # which these are, as `_file_state` says
        self._read = 0  # bytes of the log
        self._sorted = np.empty(0, RECORD)  # by address; the last record of each
        self._lows = np.empty(0, np.uint64)  # the first halves of their addresses
        self._tail: dict[bytes, np.void] = {}
        self._pixels = np.empty((0, size, size, 3), np.uint8)
        self._read_lock = threading.Lock()  # a thread adds while another reads

    def create(self, facts: Mapping[str, object]) -> None:
        """Make the files, empty, where they are not there. Raises UserError for a folder that cannot be written or that
        is not whole."""
        self.facts = dict(facts)
        with self.reporting():
            self._create()

    def _create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("meta.json", "lock", "broken.jsonl", *self.files):
            self._make_room(name)
        if not all((self.folder / name).is_file() for name in ("meta.json", *self.files)):
            with self._locked():
                if not all((self.folder / name).is_file() for name in self.files):
                    self._start_afresh()
                draft = self.folder / f"meta.json.{os.getpid()}"
                draft.write_text(json.dumps({**self.facts, "size": self.size}, indent=1) + "\n", "utf-8")
                draft.replace(self.folder / "meta.json")  # last: what follows may rely on the files
        self._forget_lost()

    def _make_room(self, name: str) -> None:
        """Remove an empty folder in the place of a file. Raises UserError where it is not empty."""
        path = self.folder / name
        if path.is_dir():
            try:
                path.rmdir()
            except OSError:
                what = f"{name} is a folder, where a file belongs; delete the store's folder: it is made again"
                raise UserError(Problem(str(self.folder), what)) from None

    def _forget_lost(self) -> None:
        """Write down which images are lost, before their slots are given to others."""
        with self._read_lock:
            self._refresh()
            tail = np.array(list(self._tail.values()), RECORD)
        lost = [records["address"][records["state"] == LOST] for records in (self._sorted, tail)]
        if len(addresses := np.concatenate(lost)):
            self.forget(addresses)

    def _start_afresh(self) -> None:
        """Without images or without the log the other is of no use: both begin again, empty. Who has read the log sees
        that it became shorter, or once it has grown again that meta.json is another."""
        for name in self.files:
            draft = self.folder / f"{name}.{os.getpid()}"
            draft.write_bytes(b"")
            draft.replace(self.folder / name)  # a new file: what is mapped elsewhere stays as it is

    # --- reading

    def look_up(self, addresses: np.ndarray) -> np.ndarray:
        """Return RECORD [n]: the last record of each address; of state MISSING where there is none."""
        records = np.zeros(len(addresses), RECORD)
        with self._read_lock:
            self._refresh()
            if len(self._sorted) and len(addresses):
                self._find_sorted(addresses, records)
            if self._tail:
                for i, address in enumerate(addresses.tolist()):
                    if (record := self._tail.get(address)) is not None:
                        records[i] = record
        records["state"][records["state"] == LOST] = MISSING
        return records

    def holds(self, address: bytes, states: tuple[int, ...]) -> bool:
        """Return whether an address was in one of these states when this process read the log last."""
        with self._read_lock:
            record = self._tail.get(address)
            if record is None and len(self._lows):
                low = np.frombuffer(address, "<u8", 1)
                at = int(np.searchsorted(self._lows, low[0]))
                if at < len(self._lows) and self._lows[at] == low[0]:
                    records = np.zeros(1, RECORD)
                    self._find_sorted(np.frombuffer(address, DIGEST), records)
                    record = records[0]
        return record is not None and int(record["state"]) in states

    def _find_sorted(self, addresses: np.ndarray, records: np.ndarray) -> None:
        wanted = halves(addresses)
        at = np.searchsorted(self._lows, wanted[:, 0])
        todo = np.arange(len(addresses))
        while len(todo := todo[at[todo] < len(self._lows)]):
            here = halves(self._sorted["address"][at[todo]])
            same = (here == wanted[todo]).all(axis=1)
            records[todo[same]] = self._sorted[at[todo[same]]]
            todo = todo[~same & (here[:, 0] == wanted[todo, 0])]  # another address with the same first half
            at[todo] += 1

    def _refresh(self) -> None:
        """Take in what any process has added to the log."""
        path = self.folder / LOG
        size, files = self._file_state()
        size -= size % RECORD.itemsize
        if size < self._read or files != self._files:  # cut, begun again, removed or moved: what is left counts
            self._forget_all()
            self._files = files
        if size == self._read:
            return
        try:
            with open(path, "rb") as file:
                file.seek(self._read)
                fresh = np.frombuffer(file.read(size - self._read), RECORD)
        except (FileNotFoundError, NotADirectoryError):  # removed just now
            return
        self._read += len(fresh) * RECORD.itemsize
        fresh = fresh[halves(fresh["address"]).any(axis=1)]  # a crash may leave zeros
        if not (possible := self._possible(fresh)).all():
            fresh = fresh.copy()
            fresh["state"][~possible] = LOST
        if len(self._tail) + len(fresh) <= max(TAIL, len(self._sorted) // 8):
            self._tail |= {bytes(record["address"]): record for record in fresh}
            return
        tail = np.array(list(self._tail.values()), RECORD)
        records = np.concatenate([self._sorted, tail, fresh])
        self._tail = {}
        lows, highs = halves(records["address"]).T
        records = records[np.lexsort((np.arange(len(records)), highs, lows))]
        ends = np.append((np.diff(halves(records["address"]), axis=0) != 0).any(axis=1), True)
        self._sorted = records[ends]
        self._lows = halves(self._sorted["address"])[:, 0].copy()

    def _file_state(self) -> tuple[int, tuple[int, ...]]:
        """Return the bytes of the log (0 where there is none), and which files these are: whoever removes the folder,
        or leads the link that it lies behind elsewhere, puts others in their place. meta.json, written whenever they
        begin, tells by its time where a new file got an old one's inode."""
        stats = [_stat(self.folder / name) for name in self.files]
        size = stats[-1].st_size if stats[-1] else 0
        numbers = [number for status in stats if status for number in (status.st_dev, status.st_ino)]
        meta = _stat(self.folder / "meta.json")
        return size, (*numbers, *((meta.st_ino, meta.st_mtime_ns) if meta else ()))

    def _possible(self, records: np.ndarray) -> np.ndarray:
        """Return which records can be true, bool [n]: the others are damaged, or the images that they speak of are cut
        off."""
        present = records["state"] == PRESENT
        there = (records["slot"] >= 0) & (records["slot"] < self._slots())
        return np.where(present, there, records["state"] <= BROKEN)

    def _slots(self) -> int:
        """Return how many slots the files have."""
        return self._bytes_there(self.files[0]) // self.image_bytes

    def _bytes_there(self, name: str) -> int:
        try:
            with open(self.folder / name, "rb") as file:  # a mounted share asks its server only when one opens
                return os.fstat(file.fileno()).st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _forget_all(self) -> None:
        """Read the files as if for the first time."""
        self.generation += 1
        self._read, self._tail = 0, {}
        self._sorted, self._lows = self._sorted[:0], self._lows[:0]
        self._pixels = self._pixels[:0]

    def pixels(self, most: int) -> np.ndarray:
        """Return uint8 [slots, size, size, 3], read-only, memory-mapped, with slot `most`. Raises UserError."""
        pixels = self._pixels  # not read again below: of two threads the later may have seen a shorter file
        if most >= len(pixels):
            data = self._mapped((most + 1) * self.image_bytes)
            slots = len(data) // self.image_bytes
            pixels = data[: slots * self.image_bytes].reshape(slots, self.size, self.size, 3)
            self._pixels = pixels
        return pixels

    def _mapped(self, least: int) -> np.ndarray:
        """Return the file of images, uint8, read-only, memory-mapped, of `least` bytes or more. Raises UserError."""
        name = self.files[0]
        try:
            with open(self.folder / name, "rb") as file:
                status = os.fstat(file.fileno())
                same = self._files is not None and self._files[:2] == (status.st_dev, status.st_ino)
                if not same or status.st_size < least:
                    what = "is shorter than the log says" if same else "was replaced just now"
                    raise UserError(Problem(str(self.folder), f"{name} {what}; {AGAIN}"))
                return np.memmap(file, np.uint8, "r") if status.st_size else np.empty(0, np.uint8)
        except OSError as error:
            what = f"{name} cannot be read ({error.strerror or error}); {AGAIN}"
            raise UserError(Problem(str(self.folder), what)) from None

    def stored(self, slots: np.ndarray) -> np.ndarray:
        """Return a copy of what is stored in these slots, one each. Raises UserError."""
        return self.pixels(int(slots.max(initial=-1)))[slots]

    def reasons(self) -> dict[bytes, str]:
        """Return why an address is broken; the last word on each."""
        path = self.folder / "broken.jsonl"
        lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
        reasons = {}
        for line in lines:
            try:
                address, reason = json.loads(line)
                reasons[bytes.fromhex(address)] = str(reason)
            except (ValueError, TypeError, RecursionError):  # half a line, of a process that was killed
                continue
        return reasons

    # --- writing

    def add(self, addresses: np.ndarray, images: np.ndarray, broken: Mapping[int, str]) -> None:
        """Keep images[i] under addresses[i], or of a position in `broken` the reason why there is none.

        What is there already, and a second image of one address, is left out. Files that were removed under this
        process are made again. Raises UserError when the disk is full.
        """
        with self.reporting():
            for _ in range(REMOVALS):  # a folder goes file by file: a new one may be caught by the same removal
                try:
                    self._add(addresses, images, broken)
                    return
                except (FileNotFoundError, NotADirectoryError):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        self._create()
            self._add(addresses, images, broken)

    def _add(self, addresses: np.ndarray, images: np.ndarray, broken: Mapping[int, str]) -> None:
        states = np.full(len(addresses), PRESENT, np.uint32)
        states[list(broken)] = BROKEN
        with self._locked():
            first = np.zeros(len(addresses), bool)
            first[np.unique(addresses, return_index=True)[1]] = True
            todo = np.flatnonzero(first & (self.look_up(addresses)["state"] != states))
            present = todo[states[todo] == PRESENT]
            own = images if len(present) == len(images) else images[present]  # a copy costs what writing it does
            start, at = self._reserve(own) if len(present) else (0, 0)
            files = self._file_state()[1]
        if len(present):
            self._write(self._joined(own), at)
        records = np.zeros(len(todo), RECORD)
        records["address"], records["state"], records["slot"] = addresses[todo], states[todo], -1
        records["slot"][states[todo] == PRESENT] = start + np.arange(len(present))
        records["crc"][states[todo] == PRESENT] = checksums(own)
        reasons = "".join(
            json.dumps([bytes(addresses[i]).hex(), broken[i]]) + "\n" for i in todo.tolist() if i in broken
        )
        if not len(todo):
            return
        with self._locked():  # the images are on disk: a crash before the last line leaves these missing
            if len(present) and self._file_state()[1] != files:
                raise FileNotFoundError(errno.ENOENT, "its files were replaced", str(self.folder))
            if reasons:
                self._append("broken.jsonl", b"\n" + reasons.encode(), 1)  # apart from half a line
            self._append(LOG, records.tobytes(), RECORD.itemsize)

    def forget(self, addresses: np.ndarray) -> None:
        """Have these images decoded again: their pixels are wrong."""
        records = np.zeros(len(addresses), RECORD)
        records["address"], records["slot"] = addresses, -1
        # without a folder there is nothing to forget
        with self.reporting(), suppress(FileNotFoundError), self._locked():
            self._append(LOG, records.tobytes(), RECORD.itemsize)

    def _reserve(self, images: np.ndarray) -> tuple[int, int]:
        """Return the first of the slots for these images, which nobody else has, and where it begins: at the end of the
        file, sparse until they are written."""
        with open(self.folder / self.files[0], "r+b") as file:
            slots = -(-os.fstat(file.fileno()).st_size // self.image_bytes)
            file.truncate((slots + len(images)) * self.image_bytes)
        return slots, slots * self.image_bytes

    def _joined(self, images: np.ndarray) -> memoryview:
        """Return the bytes of these images, one after the other."""
        return np.ascontiguousarray(images).data.cast("B")

    def _write(self, data: memoryview, at: int) -> None:
        """Write images from byte `at` on and wait until the disk has them.

        By pwrite and not through a memory map: on a full disk that is an error to handle, where a map is a SIGBUS.
        """
        file = os.open(self.folder / self.files[0], os.O_WRONLY)
        try:
            while data:
                written = os.pwrite(file, data, at)
                at, data = at + written, data[written:]
            os.fdatasync(file)
        finally:
            os.close(file)

    def _append(self, name: str, data: bytes, unit: int) -> None:
        with open(self.folder / name, "ab") as file:
            end = os.fstat(file.fileno()).st_size
            if end % unit:  # somebody was killed while writing
                file.truncate(end - end % unit)
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, also by a crash
            yield

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Turn what the disk refuses into a UserError."""
        try:
            yield
        except OSError as error:
            path, what = self.folder, f"cannot be written ({error.strerror or error});"
            if error.errno in FULL:
                what = f"{no_room(self.folder)} or"
            elif wrong := blocking_part(self.folder):
                path, what = wrong[0], f"{wrong[1]}; mend it, or"
            raise UserError(Problem(str(path), f"{what} name another folder in RAY_ROBUST_STORE")) from None

    def check_space(self, images: int) -> None:
        """Raise UserError unless the disk has room for so many images more."""
        disk = next((part for part in (self.folder, *self.folder.parents) if part.is_dir()), self.folder)
        need, free = images * self.image_bytes, shutil.disk_usage(disk).free
        if need > free:
            what = (
                f"{images:,} images at {self.size} px need {need / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free"
            )
            raise UserError(Problem(str(self.folder), f"{what}; free some or name another folder in RAY_ROBUST_STORE"))

    def __len__(self) -> int:
        """How many addresses there are records of."""
        with self._read_lock:
            self._refresh()
        return len(self._sorted) + len(self._tail)


AGAIN = "run the same command again: what is missing is decoded again"
REMEDY = "delete this folder, or run ray_robust.ingest with --verify, which decodes again what is damaged"


def _stat(path: Path) -> os.stat_result | None:
    """Return what the system knows of a file; None where it is not there."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def checksums(images: np.ndarray) -> np.ndarray:
    """Return uint32 [n], the CRC-32 of each image; of a JPEG with its height and width."""
    return np.fromiter(map(checksum, images), np.uint32, len(images))


def checksum(image: Any) -> int:
    """Return the CRC-32 of a square or a `Jpeg`."""
    return zlib.crc32(image.data, image.height << 16 | image.width) if isinstance(image, Jpeg) else zlib.crc32(image)
