"""The folder that an archive is unpacked into: files are written below it and nowhere else.

The path to a file is opened one folder at a time and through no link, so that neither a link that was planted before
nor one that appears meanwhile leads out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from ray_robust.errors import Problem, UserError
from ray_robust.files.regular_file import kind_of

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DRAFT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Target:
    """The folder at `folder`, made where it is not there; itself it may be reached by links. Close it by `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with self._reporting():
            folder.mkdir(parents=True, exist_ok=True)
            self._top = os.open(folder, _FOLDER)
        self._last: tuple[tuple[str, ...], int] = ((), os.dup(self._top))

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._top)
        os.close(self._last[1])

    def size(self, path: PurePosixPath) -> int:
        """Return bytes of the file at a path below the folder, -1 where there is none. Folders above it are made.

        Raises UserError where a link, or what is no file, lies there or on the way.
        """
        with self._reporting():
            above = self._above(path)
            try:
                status = os.stat(path.name, dir_fd=above, follow_symlinks=False)
            except FileNotFoundError:
                return -1
        if not stat.S_ISREG(status.st_mode):
            raise self._in_the_way(path, status.st_mode)
        return status.st_size

    def write(self, path: PurePosixPath, data: Iterable[bytes]) -> int:
        """Write the file at a path below the folder under another name, then rename it; return how many bytes."""
        self.size(path)
        draft, written = f".{path.name}.part", 0
        with self._reporting():
            above = self._above(path)
            self._remove(draft, above)  # of a run that was killed, or planted
            handle = os.open(draft, _DRAFT, 0o666, dir_fd=above)
        try:
            try:
                for part in data:  # what goes wrong in reading is no matter of this folder's
                    with self._reporting():
                        _write(handle, part)
                    written += len(part)
            finally:
                os.close(handle)
            with self._reporting():
                os.replace(draft, path.name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            self._remove(draft, above)
            raise
        return written

    def _remove(self, name: str, above: int) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=above)

    def _above(self, path: PurePosixPath) -> int:
        """Return the open folder that a path lies in, made where it is not there."""
        parts = path.parent.parts
        if parts == self._last[0]:
            return self._last[1]
        here = os.dup(self._top)
        try:
            for depth, part in enumerate(parts):
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
                try:
                    below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
                except OSError as error:
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                    mode = os.stat(part, dir_fd=here, follow_symlinks=False).st_mode
                    raise self._in_the_way(PurePosixPath(*parts[: depth + 1]), mode) from None
                os.close(here)
                here = below
        except BaseException:
            os.close(here)
            raise
        os.close(self._last[1])
        self._last = parts, here
        return here

    def _in_the_way(self, path: PurePosixPath, mode: int) -> UserError:
        where = str(self.folder / path)
        if stat.S_ISLNK(mode):
            return UserError(Problem(where, "is a link, and unpacking follows none; remove it, or unpack elsewhere"))
        return UserError(Problem(where, f"is {kind_of(mode)} where the archive has a file or folder; remove it"))

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn what the disk refuses into a UserError."""
        try:
            yield
        except OSError as error:
            what = error.strerror
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                what = "the disk is full; free some room and run this again, it goes on from here"
            raise UserError(Problem(str(self.folder), f"cannot be written: {what}")) from None


def _write(handle: int, data: bytes) -> None:
    """All of it; a file object would try once more, and fail once more, when it is closed."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
