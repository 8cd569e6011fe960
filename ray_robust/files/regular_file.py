"""Opening a regular file of at most so many bytes, without waiting for FIFOs, sockets or devices.

Symbolic links are followed. `Unreadable` has the reason; the caller adds the location.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link that leads nowhere or in a circle",
}


class Unreadable(ValueError):
    """What a path names cannot be used; the text is the reason, in one line, with nothing of what the file holds."""


def kind_of(mode: int) -> str:
    """Return what a file of this `st_mode` is, in words: `a FIFO`, `a device`."""
    return _KINDS.get(stat.S_IFMT(mode), "a file")


def kind_at(path: str | Path) -> str:
    """Return what lies at a path, links followed where they lead somewhere; "" where nothing does."""
    for look in (os.stat, os.lstat):
        try:
            return kind_of(look(path).st_mode)
        except (OSError, ValueError):
            continue
    return ""


def open_file(path: str | Path) -> BinaryIO:
    """Return the regular file at a path, opened for reading. Raises Unreadable for a FIFO, a socket or a device,
    OSError as `open` does, ValueError for a zero byte in the name."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO without a writer would wait
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise Unreadable(f"is {kind_at(path)}, not a file") from None
        raise
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return open(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise Unreadable(f"is {kind_of(mode)}, not a file")


def read_file(path: str | Path, most: int) -> bytes:
    """Return all bytes of the regular file at a path, which are `most` at most. Raises what `open_file` does."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        check_size(size, most)
        data = file.read() if size else file.read(most + 1)  # files of /proc have no size, and may have no end
    check_size(len(data), most)
    return data


def without_content(error: Exception) -> str:
    """Return what an error says of a file, in one line and without what it quotes: a link may lead to what is nobody's
    business, and reports are published."""
    return re.sub(r"""b?(['"]).*?\1""", "'...'", " ".join(str(error).split())) or type(error).__name__


def check_size(size: int, most: int) -> None:
    """Raise Unreadable for more bytes than `most`."""
    if size > most:
        raise Unreadable(f"holds {size:,} bytes, more than the limit of {most:,}")
