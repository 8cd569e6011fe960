"""Why a folder cannot be written: no space, no inodes, or a link or file in its path.

The system has one error number for a full disk and for one without inodes; they are told apart here.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


def no_room(path: str | os.PathLike | None) -> str:
    """Return what a disk lacks that says it is full, and what would help; `path` is what was to be written, None where
    it is no local file."""
    folder = None if path is None else Path(path).absolute()
    for part in () if folder is None else (folder, *folder.parents):
        try:
            disk = os.statvfs(part)
        except OSError:  # not there yet
            continue
        if disk.f_files and not disk.f_favail and disk.f_bavail:
            return "the disk has no inodes left (see df -i); remove files"
        break
    return "the disk is full; free some room"


def blocking_part(folder: str | os.PathLike) -> tuple[Path, str] | None:
    """Return the first part of a folder's path that keeps it from being made, and what that is; None where nothing
    does."""
    path = Path(folder).absolute()
    for part in (*reversed(path.parents), path):
        try:
            mode = os.stat(part).st_mode
        except FileNotFoundError:
            if not part.is_symlink():
                return None
            return part, f"is a link to {os.readlink(part)}, which is not there"
        except OSError as error:
            return (part, "is a link that leads in a circle") if error.errno == errno.ELOOP else None
        if not stat.S_ISDIR(mode):
            return part, "is a file, where a folder belongs"
    return None


def free_bytes(path: str | os.PathLike) -> int:
    """Return how many bytes this account may still write where `path` is, or will be made."""
    folder = Path(path).absolute()
    for part in (folder, *folder.parents):
        try:
            disk = os.statvfs(part)
        except OSError:  # not there yet
            continue
        return disk.f_bavail * disk.f_frsize
    return 0
