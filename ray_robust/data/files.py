"""Where image files lie: below a folder, or in a zip. One small interface for both.

Owns the naming (a file's key is its path inside the folder or zip, with forward slashes), and reading by key from any
process. Hands on to `folder` and to the tasks that read files.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from ray_robust.errors import UserError

JPEG, NETPBM = (".jpg", ".jpeg", ".jfif", ".jp2"), (".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = frozenset((*JPEG, *NETPBM, ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"))


class Files(Protocol):
    """A place with image files in it."""

    @property
    def where(self) -> str:
        """The place's path, for messages."""

    def walk(self) -> tuple[list[str], list[str]]:
        """Keys of all files, and all folders, hidden ones left out; in no particular order."""

    def marks(self, keys: Iterable[str]) -> list[str]:
        """Per key what changes when the file does, cheaply: its size, or its CRC in a zip. "" where there is none."""

    def read(self, key: str) -> bytes:
        """The file's bytes."""


@dataclass(frozen=True)
class Folder:
    """Files below a folder; symbolic links are followed."""

    where: str

    def walk(self) -> tuple[list[str], list[str]]:
        files: list[str] = []
        folders: list[str] = []
        stack = [""]
        while stack:
            below = stack.pop()
            try:
                with os.scandir(os.path.join(self.where, below)) as entries:
                    found = [entry for entry in entries if not _hidden(entry.name)]
            except OSError as error:
                raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
            for entry in found:
                if not entry.is_dir():
                    files.append(below + entry.name)
                elif not (entry.is_symlink() and _above(entry.path)):
                    folders.append(below + entry.name)
                    stack.append(f"{below}{entry.name}/")
        return files, folders

    def marks(self, keys: Iterable[str]) -> list[str]:
        return [_size(f"{self.where}/{key}") for key in keys]

    def read(self, key: str) -> bytes:
        try:
            with open(f"{self.where}/{key}", "rb") as file:
                return file.read()
        except FileNotFoundError:
            if os.path.isdir(self.where):
                raise
            raise UserError(f"{self.where}: the folder of images is gone") from None


@dataclass(frozen=True)
class Zip:
    """Files in a zip. One open handle per process: a handle shared across a fork would read from a moving offset."""

    where: str

    def walk(self) -> tuple[list[str], list[str]]:
        names = [n for n in self._archive().namelist() if not any(map(_hidden, n.rstrip("/").split("/")))]
        return [n for n in names if n[-1] != "/"], [n[:-1] for n in names if n[-1] == "/"]

    def marks(self, keys: Iterable[str]) -> list[str]:
        known = {info.filename: f"{info.CRC:08x}" for info in self._archive().infolist() if not info.is_dir()}
        return [known.get(key, "") for key in keys]

    def read(self, key: str) -> bytes:
        return self._archive().read(key)

    def _archive(self) -> zipfile.ZipFile:
        try:
            status = os.stat(self.where)
            return _open_zip(self.where, status.st_mtime_ns, status.st_size, os.getpid())
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.where}: is no zip, or an incomplete one ({error})") from None
        except OSError as error:
            raise UserError(f"{self.where}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=4)
def _open_zip(path: str, _mtime_ns: int, _size: int, _pid: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def absolute(path: str) -> Path:
    """A path as a user writes it: `~` and $VARIABLES expanded, relative to the current directory."""
    return Path(os.path.abspath(os.path.expanduser(os.path.expandvars(path))))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _above(link: str) -> bool:
    """Whether this link leads to a folder that it lies in: following it would never end."""
    place = os.path.realpath(os.path.dirname(link)) + os.sep
    return place.startswith(os.path.realpath(link).rstrip(os.sep) + os.sep)


def _size(path: str) -> str:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return ""
    return str(status.st_size) if stat.S_ISREG(status.st_mode) else ""
