"""Digests of image files' contents: computed whenever a file is read, and remembered in the store's folder.

A remembered digest is valid as long as the file has the size, times and inode that it had. `Contents` holds the digests
of one listing's images.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from ray_robust.data.images.files import STAMP
from ray_robust.data.pool import DIGEST
from ray_robust.errors import Problem, UserError

UNKNOWN = bytes(16)  # in the place of the digest of a file that has not been read, or that cannot be
RECORD = np.dtype([("key", DIGEST), ("digest", DIGEST), ("stamp", STAMP)])
assert RECORD.itemsize == 64, "divides a disk's block, so that a record is written whole or not at all"


def digest_of(data: bytes) -> bytes:
    """Return the 16 bytes that stand for these bytes wherever images are compared: BLAKE2b (RFC 7693)."""
    return hashlib.blake2b(data, digest_size=16).digest()


def digests_of(texts: Iterable[str]) -> np.ndarray:
    """Return DIGEST [n] of the texts themselves."""
    return np.frombuffer(b"".join([digest_of(text.encode()) for text in texts]), DIGEST)


def halves(digests: np.ndarray) -> np.ndarray:
    """Return DIGEST [n] as uint64 [n, 2], without a copy where that can be."""
    return np.ascontiguousarray(digests).view("<u8").reshape(-1, 2)


class Contents:
    """The digests of a listing's images, in its order: what is remembered of them, and what is learned by reading.

    where   the folder, zip or address that the keys are in
    keys    DIGEST [n], of the images' keys
    stamps  STAMP [n], as the files were when they were listed
    """

    def __init__(self, where: str, keys: np.ndarray, stamps: np.ndarray) -> None:
        self.where, self.stamps = where, np.array(stamps, STAMP)
        self.keys = keys
        self.digests = np.zeros(len(self.keys), DIGEST)
        self.unreadable: dict[int, str] = {}  # rows that were tried in vain, and why; not remembered on disk
        self.version = 0  # counts what was learned
        self._taken_in: dict[Path, int] = {}  # bytes of what is remembered

    def __len__(self) -> int:
        return len(self.keys)

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self.digests, self.stamps = self.digests.copy(), self.stamps.copy()  # Ray gives arrays that none may write

    def unknown(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return those of `rows` (default: all) whose content is not known, int64; what cannot be read is not among
        them."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        lacking = rows[~halves(self.digests[rows]).any(axis=1)]
        tried = np.array(list(self.unreadable), np.int64)  # at one instant: another thread may be learning
        return lacking[~np.isin(lacking, tried)] if len(tried) else lacking

    def recall(self, root: Path) -> None:
        """Take in what has been remembered below `root`, since the last time, of files that are as they were."""
        path = self._file(root)
        records, self._taken_in[path] = _records(path, self._taken_in.get(path, 0))
        if not len(records) or not len(self):
            return
        lows = halves(self.keys)[self._order, 0]
        at = np.minimum(np.searchsorted(lows, halves(records["key"])[:, 0]), len(lows) - 1)
        rows = self._order[at]
        same = (halves(records["key"]) == halves(self.keys[rows])).all(axis=1)
        same &= (records["stamp"] == self.stamps[rows]) & ~halves(self.digests[rows]).any(axis=1)
        if same.any():
            self.digests[rows[same]] = records["digest"][same]  # of several the last
            self.version += 1

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(halves(self.keys)[:, 0], kind="stable")

    def mark_unreadable(self, reasons: dict[int, str]) -> None:
        """Note rows that cannot be read, and why."""
        self.unreadable |= reasons
        self.version += 1

    def learn(self, rows: np.ndarray, digests: np.ndarray, stamps: np.ndarray, root: Path) -> None:
        """Take in, and remember below `root`, what was read of these rows: their digests and the files' stamps then."""
        self.digests[rows], self.stamps[rows] = digests, stamps
        for row in self.unreadable.keys() & rows.tolist():
            del self.unreadable[row]
        self.version += 1
        self.remember(rows, digests, stamps, root)

    def remember(self, rows: np.ndarray, digests: np.ndarray, stamps: np.ndarray, root: Path) -> None:
        """Write what was read of these rows below `root`, for those who list them next."""
        if not len(rows):
            return
        records = np.empty(len(rows), RECORD)
        records["key"], records["digest"], records["stamp"] = self.keys[rows], digests, stamps
        path = self._file(root)
        _make_room(path)
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = os.fstat(file.fileno()).st_size
            if end % RECORD.itemsize:  # somebody was killed while writing
                file.truncate(end - end % RECORD.itemsize)
            file.write(records.tobytes())  # not waited for: what a crash of the machine loses is read again

    def _file(self, root: Path) -> Path:
        return root / "digests" / f"{hashlib.blake2b(self.where.encode(), digest_size=10).hexdigest()}.records"


def _make_room(path: Path) -> None:
    """Make the folder of a file, and remove an empty folder in the file's own place. Raises UserError where that cannot
    be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            path.rmdir()
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        wrong = path if path.is_dir() else path.parent
        what = f"is not what it should be, a {'file' if wrong == path else 'folder'}; delete it: it is made again"
        raise UserError(Problem(str(wrong), what)) from None


def _records(path: Path, start: int) -> tuple[np.ndarray, int]:
    """Return RECORD [n] of a file from byte `start` on, as they were written, and where they end; what a crash left of
    one at the end is none."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return np.empty(0, RECORD), 0
    except OSError as error:
        if error.errno == errno.ELOOP:  # links in a circle: the store itself reports them
            return np.empty(0, RECORD), 0
        raise
    data = data[: len(data) - len(data) % RECORD.itemsize]
    records = np.frombuffer(data, RECORD)
    return records[halves(records["digest"]).any(axis=1)], start + len(data)  # a crash may leave zeros
