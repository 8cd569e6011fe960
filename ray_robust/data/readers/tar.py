"""The members of a tar in order, in memory that does not depend on what its headers claim.

`tarfile` reads a header of any length that it claims as a whole, keeps every member that it has seen, and takes the
first block that is no header for the end: here headers are bounded, members are not kept, and data behind the end is an
error.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

from ray_robust.data.images.files import PART

LONGEST_HEADER = 16 << 20  # bytes of headers between two files
LONGEST_PADDING = 64 << 20  # bytes of zeros behind the end that are looked through; tars are filled up to 10 kB, or to
# the record of a tape


class Bounded(io.RawIOBase):
    """The bytes of a tar, of which no more than LONGEST_HEADER are read without `fresh`; more raise ReadError."""

    def __init__(self, file: Any) -> None:
        self.file, self.taken, self.last = file, 0, b""

    def fresh(self) -> None:
        """Begin to count anew: a header is over, or what is read is a file's content."""
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        self.taken += size if size >= 0 else LONGEST_HEADER + 1
        if self.taken > LONGEST_HEADER:
            raise tarfile.ReadError(f"it has a header of more than {LONGEST_HEADER >> 20} MiB")
        self.last = self.file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


class TarReader:
    """An open tar, for the content of the member that `members` gave last."""

    def __init__(self, tar: tarfile.TarFile, bounded: Bounded) -> None:
        self._tar, self._bounded = tar, bounded

    def parts(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """Yield the bytes of a regular file, PART at a time. Raises tarfile.ReadError where they break off."""
        with self._tar.extractfile(member) or io.BytesIO() as file:  # None only for what is no regular file
            while True:
                self._bounded.fresh()
                if not (part := file.read(PART)):
                    return
                yield part


def members(file: Any) -> Iterator[tuple[TarReader, tarfile.TarInfo]]:
    """Yield every member of a tar that is not compressed, in order. Raises tarfile.TarError for what is none, and
    behind the last member for a tar that goes on: with a damaged header, or with another tar."""
    bounded = Bounded(file)
    with tarfile.open(fileobj=bounded, mode="r:") as tar:  # it uses read, seek and tell
        reader = TarReader(tar, bounded)
        for member in tar:
            yield reader, member
            bounded.fresh()
            tar.members = []  # type: ignore[attr-defined]  # the stub lacks it; else every member is kept
        _check_end(bounded, tar.offset)


def _check_end(bounded: Bounded, end: int) -> None:
    """Raise ReadError unless only zeros stand behind the members of a tar, or nothing.

    end  bytes, where no header was any more; what was read there is `bounded.last`, since to read it again would begin
         a compressed archive anew
    """
    bounded.fresh()
    if any(bounded.last):
        raise tarfile.ReadError(f"no header, but other bytes, at byte {end:,}")
    looked = 0
    while looked < LONGEST_PADDING and (part := bounded.read(PART)):
        bounded.fresh()
        if any(part):
            raise tarfile.ReadError(f"it goes on behind its end at byte {end:,}, as tars that were joined by cat do")
        looked += len(part)
