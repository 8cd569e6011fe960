"""Files in a folder that may be a local path, a mounted share or a URI (s3://, gs://, file://).

Owns the one rule that every other module relies on: a file is either whole or absent, at any instant. Local writes go
to a temporary name and are renamed; object stores publish an object only when it is closed, and `object_store` reads
one version of it. Storage that is away for a moment, or full, is tried again (`retry`); when it stays so, that is an
Outage, in one line; wrong credentials and a bucket that is not there are Refused at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

from ray_robust.errors import Damaged, Problem
from ray_robust.files.disk_room import FULL, blocking_part, no_room
from ray_robust.files.object_store import open_filesystem, read_object, without_bucket
from ray_robust.files.retry import patiently, why_away
from ray_robust.redact import redact_file, redacted

T = TypeVar("T")
REMOVALS = 2  # times that a folder may be removed while a file is written into it
LEFT_BEHIND = 3600.0  # seconds after which a half-written file has no writer any more
AGAIN = "remove it, then run the same command again"  # what mends a file that the command writes anew
KINDS: dict[type, str] = {dict: "an object", list: "a list"}  # of JSON
Stamp = tuple[int, int]  # of a file: bytes, and nanoseconds since the epoch of its last write


class Storage:
    """A folder. Names given to its methods are relative, with forward slashes. It pickles: only the address is kept."""

    def __init__(self, address: str | os.PathLike) -> None:
        address = os.fspath(address)
        if address.startswith("file://"):
            address = unquote(urlparse(address).path)
        self.remote = "://" in address
        if self.remote:  # a slash at the end means nothing, also where the settings of the store stand behind it
            scheme, path, query = _parts(address)
            self.address = f"{scheme}{path.rstrip('/')}{query}"
        else:
            self.address = os.path.abspath(os.path.expanduser(address))
        self._filesystem: tuple[Any, str] | None = None

    def __truediv__(self, name: str) -> Storage:
        scheme, path, query = _parts(self.address) if self.remote else ("", self.address.rstrip("/"), "")
        return Storage(f"{scheme}{path}/{name}{query}")

    def __repr__(self) -> str:
        return f"Storage({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __getstate__(self) -> dict:
        return {"remote": self.remote, "address": self.address, "_filesystem": None}

    @property
    def parent(self) -> Storage:
        """The folder that this one lies in; of a whole bucket the bucket itself, as of the root of a disk the root."""
        if not self.remote:
            return Storage(os.path.dirname(self.address))
        scheme, path, query = _parts(self.address)
        above, slash, _ = path.rpartition("/")
        return Storage(f"{scheme}{above if slash else path}{query}")

    @property
    def shown(self) -> str:
        """The address for people: relative when that is shorter, and without a query, which may hold a key."""
        if self.remote:
            base = self.address.partition("?")[0]
            scheme, _, rest = base.partition("://")
            return f"{scheme}://{rest.rpartition('@')[2]}"
        relative = os.path.relpath(self.address)
        return relative if len(relative) < len(self.address) else self.address

    def local(self, name: str = "") -> Path | None:
        """Return the local path of a file in here, or None when the folder is remote."""
        return None if self.remote else Path(self.address, name)

    def read(self, name: str) -> bytes | None:
        """Return the whole file, or None when there is none. Raises Outage when the storage stays away, Damaged where a
        folder is in its place."""
        return self._patiently(name, lambda: self._read(name))

    def recall(self, name: str) -> bytes | None:
        """Return the whole file, or None when there is none that can be read: for what can be done without."""
        try:
            return self.read(name)
        except (Damaged, PermissionError):
            return None

    def _read(self, name: str) -> bytes | None:
        try:
            if not self.remote:
                with open(f"{self.address}/{name}", "rb") as file:  # a Path takes as long to make as the file to read
                    return file.read()
            filesystem, path = self._arrow()
            return read_object(filesystem, f"{path}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            raise self.damaged(name, "is a folder, where a file belongs") from None
        except OSError as error:
            if error.errno == errno.ELOOP:  # links in a circle: nothing is there
                return None
            raise

    def damaged(self, name: str, what: str, remedy: str = AGAIN) -> Damaged:
        """Return the error that says what is wrong with a file in here, and what mends it."""
        return Damaged(Problem((self / name).shown, f"{what}; {remedy}"))

    def write(self, name: str, data: bytes | str, durable: bool = True) -> None:
        """Replace the file, at once. Raises Outage when the storage stays full or away, Damaged where a folder that is
        not empty is in its place, or a file in the place of its folder.

        `durable=False` is for files that may be lost: it neither waits for the disk nor tries again.
        """
        data = encoded(name, data)
        if durable:
            self._patiently(name, lambda: self._write(name, data, durable))
        else:
            self._write(name, data, durable)

    def _write(self, name: str, data: bytes, durable: bool) -> None:
        if self.remote:
            filesystem, path = self._arrow()
            with filesystem.open_output_stream(f"{path}/{name}", compression=None) as stream:
                stream.write(data)
            return
        for _ in range(REMOVALS):
            with contextlib.suppress(FileNotFoundError):  # the folder was removed between its making and the file's
                self._put(name, data, durable)
                return
        self._put(name, data, durable)

    def _put(self, name: str, data: bytes, durable: bool) -> None:
        target = Path(self.address, name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if (wrong := blocking_part(target.parent)) is None:
                raise
            raise Damaged(Problem(Storage(wrong[0]).shown, f"{wrong[1]}; {AGAIN}")) from error
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            try:
                os.replace(temporary, target)
            except IsADirectoryError:
                self._clear(name)
                os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _clear(self, name: str) -> None:
        """Make room for a file where an empty folder is; what lies in a folder is never removed unasked."""
        try:
            os.rmdir(Path(self.address, name))
        except OSError:
            raise self.damaged(name, "is a folder, where a file belongs", "move it away, then run the same command "
                               "again") from None  # fmt: skip

    def read_json(self, name: str, kind: type | None = None) -> Any:
        """Return the parsed file, or None when there is none. Raises Damaged where it is no JSON, or holds another
        `kind` of value than it should, dict or list."""
        data = self.read(name)
        if data is None:
            return None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise self.damaged(name, describe_damage(data, "JSON")) from None
        if kind is not None and not isinstance(value, kind):
            raise self.damaged(name, f"does not hold {KINDS[kind]}")
        return value

    def recall_json(self, name: str, kind: type = dict) -> Any:
        """Return the parsed file, or None when there is none, or none of that `kind`: for what can be done without."""
        try:
            return self.read_json(name, kind)
        except (Damaged, PermissionError):
            return None

    def write_json(self, name: str, value: Any, durable: bool = True) -> None:
        """Replace the file by this value as readable JSON."""
        text = json.dumps(redacted(value), indent=1, allow_nan=False) + "\n"
        self.write(name, text.encode(), durable)

    def exists(self, name: str = "") -> bool:
        """Return whether there is such a file or folder."""
        if not self.remote:
            return Path(self.address, name).exists()
        from pyarrow.fs import FileType

        def look() -> bool:
            filesystem, path = self._arrow()
            return filesystem.get_file_info(f"{path}/{name}".rstrip("/")).type != FileType.NotFound

        return self._patiently(name, look)

    def size(self, name: str = "") -> int:
        """Return bytes of a file, or of all files in a folder and below; 0 when there is none."""
        if not self.remote:
            path = Path(self.address, name)
            files = path.rglob("*") if path.is_dir() else (path,)
            return sum(_bytes_of(file) for file in files)
        from pyarrow.fs import FileSelector, FileType

        def look() -> int:
            filesystem, path = self._arrow()
            info = filesystem.get_file_info(f"{path}/{name}".rstrip("/"))
            if info.type != FileType.Directory:
                return info.size or 0
            below = filesystem.get_file_info(FileSelector(info.path, recursive=True, allow_not_found=True))
            return sum(file.size or 0 for file in below)

        return self._patiently(name, look)

    def stamp(self, name: str) -> Stamp | None:
        """Return a file's stamp; None where there is none."""
        if not self.remote:
            return _stamp_of(f"{self.address}/{name}")
        from pyarrow.fs import FileType

        def look() -> Stamp | None:
            filesystem, path = self._arrow()
            info = filesystem.get_file_info(f"{path}/{name}")
            return (info.size or 0, info.mtime_ns or 0) if info.type == FileType.File else None

        return self._patiently(name, look)

    def stamps(self, folder: str) -> dict[str, Stamp]:
        """Return the stamps of all files below a remote folder, by name: one request for a thousand."""
        from pyarrow.fs import FileSelector, FileType

        def look() -> dict[str, Stamp]:
            filesystem, path = self._arrow()
            selector = FileSelector(f"{path}/{folder}".rstrip("/"), recursive=True, allow_not_found=True)
            below = filesystem.get_file_info(selector)
            files = [info for info in below if info.type == FileType.File]
            return {info.path.removeprefix(f"{path}/"): (info.size or 0, info.mtime_ns or 0) for info in files}

        return self._patiently(folder, look)

    def files(self, folder: str = "") -> list[str]:
        """Return the names of all files in a folder and below it, sorted; [] when there is none. Unfinished writes do
        not count."""
        if self.remote:
            names = list(self.stamps(folder))
        else:
            here = Path(self.address)
            names = [file.relative_to(here).as_posix() for file in (here / folder).rglob("*") if file.is_file()]
        return sorted(name for name in names if not name.endswith(".part"))

    def names(self, folder: str = "") -> list[str]:
        """Return the names inside a folder, sorted; [] when there is none. Unfinished writes do not count."""
        return self._patiently(folder, lambda: self._names(folder))

    def _names(self, folder: str) -> list[str]:
        if not self.remote:
            try:
                names = os.listdir(Path(self.address, folder))
            except (FileNotFoundError, NotADirectoryError):
                return []
        else:
            from pyarrow.fs import FileSelector

            filesystem, path = self._arrow()
            selector = FileSelector(f"{path}/{folder}".rstrip("/"), allow_not_found=True)
            names = [info.base_name for info in filesystem.get_file_info(selector)]
        return sorted(name for name in names if not name.endswith(".part"))

    def delete(self, name: str) -> None:
        """Remove a file or a folder with all that is in it; nothing happens when there is none."""
        self._patiently(name, lambda: self._delete(name))

    def _delete(self, name: str) -> None:
        if not self.remote:
            here = Path(self.address, name)
            if here.is_dir():
                shutil.rmtree(here, ignore_errors=True)
            else:
                here.unlink(missing_ok=True)
            return
        from pyarrow.fs import FileType

        filesystem, path = self._arrow()
        kind = filesystem.get_file_info(f"{path}/{name}").type
        if kind == FileType.Directory:
            filesystem.delete_dir(f"{path}/{name}")
        elif kind == FileType.File:
            filesystem.delete_file(f"{path}/{name}")

    def discard(self, name: str) -> None:
        """Remove a file, or an empty folder in its place. Raises Damaged for a folder that is not empty."""
        path = self.local(name)
        if path is not None and path.is_dir() and not path.is_symlink():
            self._clear(name)
        else:
            self.delete(name)

    def tidy(self, deep: bool = True) -> None:
        """Remove what writers that were killed left half-written here and below (one folder down, where not `deep`);
        what is young may still be written."""
        base = self.local()
        below = (
            () if base is None else base.rglob(".*.part") if deep else (*base.glob(".*.part"), *base.glob("*/.*.part"))
        )
        for part in below:
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > LEFT_BEHIND:
                    part.unlink()

    def without_bucket(self) -> str:
        """Return `; there is no bucket x` where that is so, else ""."""
        return self._patiently("", lambda: without_bucket(*self._arrow())) if self.remote else ""

    def _patiently(self, name: str, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns; try again after errors that may pass (`retry`), raise others as they are."""
        return patiently(attempt, lambda: self._shown(name), lambda error, passed: self._outage(name, error, passed))

    def _shown(self, name: str) -> str:
        return (self / name).shown if name else self.shown

    def _outage(self, name: str, error: OSError, passed: float) -> str:
        where = self._shown(name)
        if error.errno in FULL:
            return f"{where}: {no_room(self.local(name))}, then run the same command again: what is done is kept"
        why = why_away(error)
        return f"{where}: cannot be reached for {passed:.0f} s ({why}); once it can, run the same command again"

    def _arrow(self) -> tuple[Any, str]:
        if self._filesystem is None:
            self._filesystem = open_filesystem(self.address, self.shown)
        return self._filesystem


def _parts(address: str) -> tuple[str, str, str]:
    """The scheme of a URI with its `://`, the path behind it, and the query with its `?`."""
    base, mark, settings = address.partition("?")
    scheme, between, path = base.partition("://")
    return scheme + between, path, mark + settings


def encoded(name: str, data: bytes | str) -> bytes:
    """Return a file's bytes as they are written: no text holds a secret."""
    return data if isinstance(data, bytes) else redact_file(name, data).encode(errors="backslashreplace")


def describe_damage(data: bytes, what: str) -> str:
    """Return what is wrong with a file that is not what it should be."""
    return f"is damaged: it is not {what} any more" if data.strip() else "is empty"


def _stamp_of(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _bytes_of(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # it went away in between
        return 0
