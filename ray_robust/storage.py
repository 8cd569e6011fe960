"""Files in a folder that may be a local path, a mounted share or a URI (s3://, gs://, file://).

Owns the one rule that every other module relies on: a file is either whole or absent, at any instant. Local writes go
to a temporary name and are renamed; object stores publish an object only when it is closed.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from ray_robust.errors import UserError


class Storage:
    """A folder. Names given to its methods are relative, with forward slashes. It pickles: only the address is kept."""

    def __init__(self, address: str | os.PathLike) -> None:
        address = os.fspath(address)
        if address.startswith("file://"):
            address = unquote(urlparse(address).path)
        self.remote = "://" in address
        self.address = address.rstrip("/") if self.remote else os.path.abspath(os.path.expanduser(address))
        self._filesystem: tuple[Any, str] | None = None

    def __truediv__(self, name: str) -> Storage:
        base, query, rest = self.address.partition("?") if self.remote else (self.address, "", "")
        return Storage(f"{base.rstrip('/')}/{name}{query}{rest}")

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
        """The folder that this one lies in."""
        base, query, rest = self.address.partition("?") if self.remote else (self.address, "", "")
        return Storage(f"{base.rpartition('/')[0] or '/'}{query}{rest}")

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
        """The local path of a file in here, or None when the folder is remote."""
        return None if self.remote else Path(self.address, name)

    def read(self, name: str) -> bytes | None:
        """The whole file, or None when there is none."""
        try:
            if not self.remote:
                return Path(self.address, name).read_bytes()
            filesystem, path = self._arrow()
            with filesystem.open_input_stream(f"{path}/{name}") as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes | str, durable: bool = True) -> None:
        """Replace the file, at once. `durable=False` skips the wait for the disk: for files that may be lost."""
        data = data.encode() if isinstance(data, str) else data
        if self.remote:
            filesystem, path = self._arrow()
            with filesystem.open_output_stream(f"{path}/{name}") as stream:
                stream.write(data)
            return
        target = Path(self.address, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def read_json(self, name: str) -> Any:
        """The parsed file, or None when there is none."""
        data = self.read(name)
        return None if data is None else json.loads(data)

    def write_json(self, name: str, value: Any, durable: bool = True) -> None:
        """Replace the file by this value as readable JSON."""
        self.write(name, json.dumps(value, indent=1, allow_nan=False) + "\n", durable)

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        if not self.remote:
            return Path(self.address, name).exists()
        from pyarrow.fs import FileType

        filesystem, path = self._arrow()
        return filesystem.get_file_info(f"{path}/{name}".rstrip("/")).type != FileType.NotFound

    def names(self, folder: str = "") -> list[str]:
        """The names inside a folder, sorted; none when there is no such folder. Unfinished writes do not count."""
        if not self.remote:
            try:
                found = os.listdir(Path(self.address, folder))
            except (FileNotFoundError, NotADirectoryError):
                return []
        else:
            from pyarrow.fs import FileSelector

            filesystem, path = self._arrow()
            selector = FileSelector(f"{path}/{folder}".rstrip("/"), allow_not_found=True)
            found = [info.base_name for info in filesystem.get_file_info(selector)]
        return sorted(name for name in found if not name.endswith(".part"))

    def delete(self, name: str) -> None:
        """Remove a file or a folder with all that is in it; nothing happens when there is none."""
        if not self.remote:
            path = Path(self.address, name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            return
        from pyarrow.fs import FileType

        filesystem, path = self._arrow()
        kind = filesystem.get_file_info(f"{path}/{name}").type
        if kind == FileType.Directory:
            filesystem.delete_dir(f"{path}/{name}")
        elif kind == FileType.File:
            filesystem.delete_file(f"{path}/{name}")

    def _arrow(self) -> tuple[Any, str]:
        if self._filesystem is None:
            from pyarrow.fs import FileSystem

            try:
                self._filesystem = FileSystem.from_uri(self.address)
            except (OSError, ValueError) as error:  # ValueError: pyarrow's for an address that it cannot read
                raise UserError(f"{self.shown}: cannot be opened: {error}") from None
        return self._filesystem
