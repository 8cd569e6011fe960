"""The members of a tar, one after the other, in memory that does not depend on what its headers claim.

Owns the bound on headers. `tarfile` reads a header of any length that it claims as a whole, and keeps every member that
it has seen. Hands on to `archive`, which unpacks, and to `shards`, which lists.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

from ray_robust.data.files import PART

LONGEST_HEADER = 16 << 20  # bytes of headers between two files


class Bounded(io.RawIOBase):
    """The bytes of a tar, of which no more than LONGEST_HEADER are read without `fresh`; more raise ReadError."""

    def __init__(self, file: Any) -> None:
        self.file, self.taken = file, 0

    def fresh(self) -> None:
        """Begin to count anew: a header is over, or what is read is a file's content."""
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        self.taken += size if size >= 0 else LONGEST_HEADER + 1
        if self.taken > LONGEST_HEADER:
            raise tarfile.ReadError(f"it has a header of more than {LONGEST_HEADER >> 20} MiB")
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


class TarReader:
    """An open tar, for the content of the member that `members` gave last."""

    def __init__(self, tar: tarfile.TarFile, bounded: Bounded) -> None:
        self._tar, self._bounded = tar, bounded

    def parts(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """The bytes of a regular file, PART at a time. Raises tarfile.ReadError where they break off."""
        with self._tar.extractfile(member) or io.BytesIO() as file:  # None only for what is no regular file
            while True:
                self._bounded.fresh()
                if not (part := file.read(PART)):
                    return
                yield part


def members(file: Any) -> Iterator[tuple[TarReader, tarfile.TarInfo]]:
    """Every member of a tar that is not compressed, in order. Raises tarfile.TarError for what is none."""
    bounded = Bounded(file)
    with tarfile.open(fileobj=bounded, mode="r:") as tar:  # it uses read, seek and tell
        reader = TarReader(tar, bounded)
        for member in tar:
            yield reader, member
            bounded.fresh()
            tar.members = []  # type: ignore[attr-defined]  # the stub lacks it; else every member is kept
