"""The temporary folder of a local cluster: its place, its owner, its removal. Ray never cleans its own.

A folder is made by `mkdtemp`, of this account alone, and holds a file that this program has marked and that its driver
keeps locked. Only such a folder is ever removed: everyone may make files in the place where it lies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ray_robust.errors import Outage, UserError
from ray_robust.files.disk_room import FULL, no_room

PREFIX = "rr-"
OWNED = "driver"  # in the folder: locked as long as its driver lives
MARK = b"Of a local Ray cluster that ray_robust has started; removed with its folder once its driver is gone.\n"
LONGEST_SOCKET = 107  # bytes that the path of a Unix socket may have on Linux
SOCKET = "/rr-12345678/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"  # the longest
SHORT_FOLDERS = (
    "/tmp",
    "/var/tmp",
    "/dev/shm",
)  # for its sockets, where the machine's own temporary folder is too long


@contextlib.contextmanager
def scratch(base: Path) -> Iterator[Path]:
    """A folder in `base` for the time of a with-block. Those whose driver was killed are removed first. Raises Outage
    where none can be made."""
    remove_leftovers(base)
    folder, owned = _made(base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        owned.close()


def _made(base: Path) -> tuple[Path, IO[bytes]]:
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        return folder, own(folder)
    except OSError as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        why = no_room(base) if error.errno in FULL else f"cannot be written ({error.strerror or error})"
        raise Outage(f"{base}: {why}, or set RAY_TMPDIR to another folder for Ray's files") from error


def own(folder: Path) -> IO[bytes]:
    """A lock on the folder that goes with this process, however it ends: other drivers leave the folder alone. The file
    has its name only once it is locked."""
    draft = folder / f".{OWNED}"
    file = open(draft, "xb")  # noqa: SIM115 - open as long as the process, and not in those that it starts
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(MARK)
    file.flush()
    draft.rename(folder / OWNED)
    return file


def remove_leftovers(base: Path) -> None:
    """Remove the folders in `base` of local clusters whose driver was killed. Asked of the lock and not of a process
    id, which says nothing of a container's driver that shares the folder."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _held(folder) as lock:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[int | None]:
    """The folder's marked file, open; None where the folder was not made by this program for this account. Opened step
    by step: no link is followed, and nothing waits for who would write into a FIFO."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.ExitStack() as opened:
        inside = os.open(folder, flags | os.O_DIRECTORY)
        opened.callback(os.close, inside)
        here = os.fstat(inside)
        if here.st_uid != os.geteuid() or here.st_mode & 0o077:
            yield None
            return
        lock = os.open(OWNED, flags, dir_fd=inside)
        opened.callback(os.close, lock)
        state = os.fstat(lock)
        ours = stat.S_ISREG(state.st_mode) and state.st_uid == here.st_uid and os.read(lock, len(MARK) + 1) == MARK
        yield lock if ours else None


def folder_for_sockets() -> tuple[Path, str]:
    """The folder for a local cluster's files, and a line on it where it is not the one asked for: the path of a Unix
    socket must be short. RAY_TMPDIR goes before TMPDIR, as with Ray. Raises UserError."""
    wanted = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    most = LONGEST_SOCKET - len(SOCKET)
    for folder in (wanted, *SHORT_FOLDERS, os.environ.get("XDG_RUNTIME_DIR") or wanted):
        path = os.path.abspath(folder)
        if len(os.fsencode(path)) <= most and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            short = "" if folder == wanted else f"Ray's files lie in {path}: {_why_not(wanted, most)}"
            return Path(path), short
    raise UserError(f"{_why_not(wanted, most)}; set RAY_TMPDIR to a folder with a shorter path")


def _why_not(folder: str, most: int) -> str:
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    if len(os.fsencode(os.path.abspath(folder))) > most:
        return f"{name} {folder} is too long for the paths of its sockets (at most {most} bytes)"
    return f"{name} {folder} is no folder that can be written"


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Have the processes that are started keep their temporary files, and so their sockets, in `folder`."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
