"""Pools of files: equal for equal names, labels and bytes, wherever the files are and whenever they were touched.

Ids and fingerprint of a catalog are of the contents, hence provisional until every file has been read, which happens
while it is decoded into the store.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ray_robust.data.images.contents import UNKNOWN, Contents, digest_of, halves
from ray_robust.data.images.decode import decode, read_all
from ray_robust.data.images.files import STAMP, Files, Stamp
from ray_robust.data.images.form import Form
from ray_robust.data.images.jpegs import encode
from ray_robust.data.images.store import default_root
from ray_robust.data.pool import DIGEST, Catalog, FileOptions, Identities, Pixels, Pool, mix_bits, seed_of
from ray_robust.errors import Problem, UserError
from ray_robust.files.retry import is_of_storage, patiently, unread

READ_TOGETHER = 2048  # files whose digests are written at once
PROVISIONAL = "provisional-"  # begins the fingerprint of a pool whose files have not been read


@dataclass(frozen=True, eq=False)
class Listing:
    """What a listing says of the files, without a look inside.

    catalog  its fingerprint is of what is listed: keys, labels, splits, groups, ranks; its ids are of keys
    keys     of its rows
    files    where they are
    stamps   files.STAMP [n]
    key_digests  DIGEST [n], of the keys
    """

    catalog: Catalog
    keys: pd.Series
    files: Files
    stamps: np.ndarray
    key_digests: np.ndarray


class FilePool(Pool):
    """A pool whose images are files. A subclass says what they are in `make_listing`, how to read them in `opened`."""

    options: FileOptions
    identity = "content"

    @abstractmethod
    def make_listing(self) -> Listing:
        """List the images. Raises UserError with everything that is wrong."""

    @abstractmethod
    def opened(self, rows: np.ndarray) -> Callable[[int], tuple[bytes, Stamp]]:
        """Return a function from a position in `rows` to that file's bytes, all of one time, and its stamp then."""

    def in_order(self, rows: np.ndarray) -> Sequence[int]:
        """Return the positions in `rows`, in the order in which reading is fastest."""
        return range(len(rows))

    @cached_property
    def _listing(self) -> Listing:
        return self.make_listing()

    @property
    def where(self) -> str:
        """The folder, zip or address that keys are paths in, for messages."""
        return self._listing.files.where

    def keys(self, rows: np.ndarray) -> list[str]:
        return self._listing.keys.take(rows).tolist()

    # --- identity

    @cached_property
    def contents(self) -> Contents:
        """What is known of the files' contents."""
        contents = Contents(self.where, self._listing.key_digests, self._listing.stamps)
        contents.recall(default_root())
        return contents

    def list_images(self) -> Catalog:
        return self._listing.catalog

    @property
    def catalog(self) -> Catalog:  # it becomes another one when the files have been read
        """The pool's images; `provisional` as long as there are files that were not read."""
        cached = self.__dict__.get("_kept")
        if cached is None or cached[0] != self.contents.version:
            cached = self.__dict__["_kept"] = self.contents.version, self._catalog_now()
        return cached[1]

    def _catalog_now(self) -> Catalog:
        listed, contents = self.list_images(), self.contents
        digest = hashlib.blake2b(listed.fingerprint.encode(), digest_size=8)
        if len(contents.unknown()):
            digest.update(contents.stamps["size"].tobytes())
            return replace(listed, fingerprint=PROVISIONAL + digest.hexdigest(), provisional=True)
        digest.update(contents.digests.tobytes())
        ids = self.identities(np.arange(len(listed))).ids
        return replace(listed, ids=ids, fingerprint=digest.hexdigest(), provisional=False)

    def identities(self, rows: np.ndarray) -> Identities:
        contents = self.contents
        keys = contents.keys[rows]
        if len(contents.unknown(rows)):
            sizes = contents.stamps["size"][rows]
            return Identities(self.list_images().ids[rows], keys.tobytes() + sizes.tobytes(), True)
        digests = contents.digests[rows]
        ids = mix_bits(halves(keys)[:, 0] ^ halves(digests)[:, 0], seed_of("key and content"))
        return Identities(ids, keys.tobytes() + digests.tobytes(), False)

    @property
    def pack(self) -> str:
        return f"images-{self.options.fit}"

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        return self.contents.digests[rows]

    @property
    def unreadable(self) -> dict[int, str]:
        return self.contents.unreadable

    def unread(self, rows: np.ndarray | None = None) -> np.ndarray:
        return self.contents.unknown(rows)

    def recall(self, root: Path) -> None:
        self.contents.recall(root)

    def learn(self, rows: np.ndarray, read: Pixels, root: Path) -> None:
        assert read.digests is not None
        assert read.stamps is not None
        readable = halves(read.digests).any(axis=1)
        self.contents.learn(rows[readable], read.digests[readable], read.stamps[readable], root)
        self.contents.mark_unreadable({int(rows[i]): read.broken[int(i)] for i in np.flatnonzero(~readable)})

    def digests(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        todo = self.unread(rows)
        for part in (todo[i : i + READ_TOGETHER] for i in range(0, len(todo), READ_TOGETHER)):
            self.learn(part, self._read(part, Form(1), lambda digest: True), default_root())
        return self.contents.digests[rows]

    def reread(self, rows: np.ndarray, root: Path) -> np.ndarray:
        """Read these files whatever is known of them; the rows whose bytes were other ones when they were read last."""
        before = self.contents.digests[rows]
        read = self._read(rows, Form(1), lambda digest: True, again=True)
        self.learn(rows, read, root)
        assert read.digests is not None
        return rows[(halves(read.digests) != halves(before)).any(axis=1) & halves(before).any(axis=1)]

    # --- reading

    def read(self, rows: np.ndarray, size: int) -> Pixels:
        return self._read(np.asarray(rows, np.int64), Form(size), lambda digest: False)

    def read_new(self, rows: np.ndarray, form: Form, stored: Callable[[bytes], bool]) -> Pixels:
        return self._read(rows, form, stored)

    def _read(self, rows: np.ndarray, form: Form, stored: Callable[[bytes], bool], again: bool = False) -> Pixels:
        """Read these files, and make what a store has of those whose digest is not `stored`. Raises UserError for a
        file that is not what it was when it was listed, unless it is read `again` for just that."""
        fetch, order = self.opened(rows), list(self.in_order(rows))
        digests_before = self.contents.digests[rows]
        digests, stamps = np.zeros(len(rows), DIGEST), np.zeros(len(rows), STAMP)
        skipped: list[int] = []

        def data_of(at: int) -> bytes | None:
            listed = not again and bytes(digests_before[at]) != UNKNOWN
            try:
                data, stamps[at] = fetch(at)
            except OSError as error:
                if is_of_storage(error):  # says nothing about the image
                    data, stamps[at] = patiently(partial(fetch, at), lambda: self.where, partial(self._away, rows[at]))
                elif listed:
                    raise self._changed(rows[at], f"cannot be read any more: {error.strerror or error}") from None
                else:
                    raise
            digest = digest_of(data)
            digests[at] = digest
            if listed and digest != bytes(digests_before[at]):
                # remembered for later listings: this one keeps what it was
                self.contents.remember(rows[[at]], digests[[at]], stamps[[at]], default_root())
                raise self._changed(rows[at], "has changed since it was listed")
            if stored(digest):
                skipped.append(at)
                return None
            return data

        fit, size = self.options.fit, form.size
        images = np.zeros((len(rows), size, size, 3), np.uint8) if form.side is None else np.empty(len(rows), object)

        def keep(i: int, data: bytes) -> None:
            made: Any = decode(data, size, fit) if form.side is None else encode(data, form, fit)
            images[order[i]] = made

        broken = {order[i]: reason for i, reason in read_all(data_of, order, keep).items()}
        return Pixels(images, broken, tuple(skipped), digests, stamps)

    def _changed(self, row: int, what: str) -> UserError:
        return UserError(Problem(self._name(row), f"{what}; run the same command again"))

    def _away(self, row: int, error: OSError, seconds: float) -> str:
        return unread(self._name(row), error, seconds)

    def _name(self, row: int) -> str:
        return f"{self.where}/{self.keys(np.array([row]))[0]}"
