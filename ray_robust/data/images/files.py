"""Image files below a folder or in a zip, behind one interface.

A file's key is its path inside the folder or zip, with forward slashes. Files are listed, read by key from any process,
and stamped, so that a change while they are read is noticed.
"""

from __future__ import annotations

import os
import stat
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ray_robust.errors import Outage, Problem, UserError
from ray_robust.files.regular_file import Unreadable, check_size, kind_of, open_file
from ray_robust.files.retry import patiently, unread
from ray_robust.spec import class_selection
from ray_robust.text.names import lone_surrogate, visible

# what an image file may be called, and the decoder of Pillow's that this asks for; no other decoder is ever asked
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG", ".png": "PNG", ".jp2": "JPEG2000",
    ".j2k": "JPEG2000", ".j2c": "JPEG2000", ".jpc": "JPEG2000", ".jpf": "JPEG2000", ".jpx": "JPEG2000", ".webp": "WEBP",
    ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF",
    ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
}  # fmt: skip
SUFFIXES = frozenset(FORMATS)
OTHER_IMAGES = frozenset({
    ".heic", ".heif", ".jxl", ".tga", ".psd", ".exr", ".hdr", ".dib", ".pcx", ".ico", ".svg", ".mpo", ".apng", ".jxr",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".dcm", ".npy", ".fits", ".qoi", ".dds",
})  # fmt: skip  # of images, too, and not read
BESIDE = frozenset({".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".yaml", ".yml", ".html", ".pdf"})  # of notes
LARGEST_FILE = 1 << 30  # bytes of an image file, which is read as a whole
PART = 1 << 20  # bytes of a zip's member, or of an archive's file, that are unpacked at a time
NO_METHOD = "is compressed by bzip2, LZMA or the like, which cannot be unpacked in parts; zip it by deflate"
MOST_LINKS = 100_000  # links to folders that a walk follows: a few that point to each other can make billions of paths

STAMP_FIELDS = ("size", "changed", "inode", "status_changed")  # times in ns
STAMP = np.dtype([(name, "<i8") for name in STAMP_FIELDS])
ABSENT = (-1, -1, -1, -1)  # the stamp of what is no file
TICK = 20_000_000  # ns within which two writes can leave a file the same time: the kernel's clock, at 100 Hz, twice
COARSE = 2_000_000_000  # where times are whole seconds (of FAT, even ones)
TRIES = 5  # of reading a file that changes meanwhile
SHOWN = 5  # suffixes in a warning

Stamp = tuple[int, int, int, int]


class Walk(NamedTuple):
    """Keys of files, and folders, in no particular order; `links`: some lie behind links that lead to no folder, or in
    a circle, so that what is there can change without any of the folders."""

    files: list[str]
    folders: list[str]
    links: bool = False


class Files(Protocol):
    """A place with image files in it."""

    @property
    def where(self) -> str:
        """The place's path, for messages."""

    def walk(self) -> Walk:
        """Return what is there, hidden files and folders left out."""

    def stamps(self, keys: Iterable[str]) -> np.ndarray:
        """Return STAMP [n]: what changes when a file does, from its entry alone; ABSENT where there is no file."""

    def read(self, key: str) -> bytes:
        """Return the file's bytes."""

    def read_steady(self, key: str) -> tuple[bytes, Stamp]:
        """Return the file's bytes as they all were at one time, and its stamp then. Raises UserError for a file that
        changes whenever it is read."""


@dataclass(frozen=True)
class Folder:
    """Files below a folder; symbolic links are followed."""

    where: str

    def walk(self) -> Walk:
        files: list[str] = []
        folders: list[str] = []
        stack, links, loose = [""], 0, False
        while stack:
            below = stack.pop()
            try:
                with os.scandir(os.path.join(self.where, below)) as entries:
                    visible = [entry for entry in entries if not _hidden(entry.name)]
            except OSError as error:
                raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
            for entry in visible:
                if not _is_folder(entry):
                    files.append(below + entry.name)
                    loose |= entry.is_symlink()
                    continue
                if entry.is_symlink():
                    links += 1
                    if links > MOST_LINKS:
                        what = f"links to folders lead to more than {MOST_LINKS:,} folders; remove those in a circle"
                        raise UserError(Problem(self.where, what))
                    if _circular(self.where, below, entry.path):
                        loose = True
                        continue
                folders.append(below + entry.name)
                stack.append(f"{below}{entry.name}/")
        return Walk(files, folders, loose)

    def stamps(self, keys: Iterable[str]) -> np.ndarray:
        return np.fromiter((stamp_at(f"{self.where}/{key}") for key in keys), STAMP)

    def read(self, key: str) -> bytes:
        return self.read_steady(key)[0]

    def read_steady(self, key: str) -> tuple[bytes, Stamp]:
        try:
            with open_file(f"{self.where}/{key}") as file:

                def read() -> bytes:
                    size = os.fstat(file.fileno()).st_size
                    check_size(size, LARGEST_FILE)
                    file.seek(0)
                    return file.read(size + 1)  # of a file without a size, as those of /proc, no more than a byte

                data, stamp = _steadily(f"{self.where}/{key}", lambda: stamp_of(os.fstat(file.fileno())), read)
                if len(data) != stamp[0]:
                    raise Unreadable(f"is {stamp[0]:,} bytes long by its entry, but holds others")
                return data, stamp
        except FileNotFoundError:
            if os.path.isdir(self.where):
                raise
            raise UserError(f"{self.where}: the folder of images is gone") from None


@dataclass(frozen=True)
class Zip:
    """Files in a zip. One open handle per process: a handle shared across a fork would read from a moving offset."""

    where: str

    def walk(self) -> Walk:
        names = [n for n in self._archive().namelist() if n and not any(map(_hidden, n.rstrip("/").split("/")))]
        return Walk([n for n in names if n[-1] != "/"], [n[:-1] for n in names if n[-1] == "/"])

    def stamps(self, keys: Iterable[str]) -> np.ndarray:
        sizes = {
            info.filename: info.file_size for info in self._archive().infolist() if info.filename[-1:] not in ("", "/")
        }
        _, *rest = stamp_at(self.where)
        return np.fromiter(((sizes[key], *rest) if key in sizes else ABSENT for key in keys), STAMP)

    def read(self, key: str) -> bytes:
        archive = self._archive()
        info = archive.getinfo(key)
        check_size(info.file_size, LARGEST_FILE)
        try:
            return b"".join(member_parts(archive, info))
        except OSError:
            _open_zip.cache_clear()  # its handle may be dead: the next look opens it again
            raise

    def read_steady(self, key: str) -> tuple[bytes, Stamp]:
        data, stamp = _steadily(self.where, lambda: stamp_at(self.where), lambda: self.read(key))
        return data, (len(data), *stamp[1:])

    def _archive(self) -> zipfile.ZipFile:
        def opened() -> zipfile.ZipFile:
            status = os.stat(self.where)
            if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait
                raise UserError(Problem(self.where, f"is {kind_of(status.st_mode)}, not a zip"))
            return _open_zip(self.where, stamp_of(status), os.getpid())

        try:
            return patiently(opened, lambda: self.where, partial(unread, self.where))
        except Outage:
            raise
        except zipfile.BadZipFile as error:
            raise UserError(f"{self.where}: is no zip, or an incomplete one ({error})") from None
        except OSError as error:
            raise UserError(f"{self.where}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=4)
def _open_zip(path: str, _stamp: Stamp, _pid: int) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(path)
    if any(
        name.startswith("./") or "/./" in name for name in archive.NameToInfo
    ):  # of `zip` of some systems, or Python
        for info in archive.filelist:
            info.filename = "/".join(part for part in info.filename.split("/") if part != ".")
        archive.NameToInfo = {info.filename: info for info in archive.filelist}
    if len(archive.NameToInfo) < len(archive.filelist):  # one of a name can be read, the last; a list would give both
        names = Counter(name for name in archive.namelist() if name[-1:] not in ("", "/"))
        if twice := [name for name, count in names.items() if count > 1]:
            more = f" and {len(twice) - 1:,} other names" if len(twice) > 1 else ""
            raise UserError(Problem(path, f"holds {twice[0]!r}{more} more than once; zip the files anew"))
    return archive


def absolute(path: str) -> Path:
    """Return a path as a user writes it: `~` and $VARIABLES expanded, relative to the working directory."""
    return Path(class_selection.absolute(path))


def lines_of(file: Path, wanted: str) -> list[str]:
    """Return the lines of a list in UTF-8, of which each should be what `wanted` says. Raises UserError."""
    try:
        return file.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(Problem(str(file), f"is no text in UTF-8; wanted: {wanted}")) from None
    except OSError as error:
        raise UserError(Problem(str(file), f"cannot be read: {error.strerror}; wanted: {wanted}")) from None


def in_utf8(where: str, names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of files that are text in UTF-8, and the others. Raises UserError for an image among these."""
    try:
        "\0".join(names).encode()
        return names, ()
    except UnicodeEncodeError:  # rare, so that only these pay for being looked at one by one
        others = [name for name in names if lone_surrogate(name)]
    if image := next((name for name in others if os.path.splitext(name)[1].lower() in SUFFIXES), ""):
        raise UserError(Problem(where, f"the name of the file {image!r} is not in UTF-8"))
    return [name for name in names if not lone_surrogate(name)], others


def ignored(names: Sequence[str], images: int) -> tuple[str, str]:
    """Return a note on files that are no images by their names, and a warning of those among them that may be: of other
    formats, or of one suffix that more than a tenth of all files have. Each is "" where there is nothing to say."""
    kinds = Counter(os.path.splitext(name)[1].lower() for name in names)
    most = (images + len(names)) / 10
    odd = [(kind, n) for kind, n in kinds.most_common() if kind in OTHER_IMAGES or (n > most and kind not in BESIDE)]
    note = f"{len(names)} files that are no images by their names were ignored." if names else ""
    if not odd:
        return note, ""
    listed = ", ".join(f"{n:,} {visible(kind) or 'without a suffix'}" for kind, n in odd[:SHOWN])
    more = f" and {len(odd) - SHOWN} more kinds" if len(odd) > SHOWN else ""
    what = "files are ignored that may be images by their names"
    return note, f"{what}: {listed}{more}; convert or rename them: images are called {', '.join(FORMATS)}"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def member_parts(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the bytes of a member as they are unpacked, never more than it claims: in `ZipFile.read` one that lies
    about its size takes what it really unpacks to. Raises BadZipFile for one whose checksum is wrong, Unreadable for a
    method of which zipfile unpacks all that it reads at once: 4 kB of bzip2 or LZMA can be a great deal."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Unreadable(NO_METHOD)
    with archive.open(info) as file:
        while part := file.read(PART):
            yield part


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to what may not be looked at: a file that is not there
        return False


def _circular(where: str, below: str, link: str) -> bool:
    """Return whether a link leads to a folder on the way of the walk, or to one above it: it would never end."""
    target = os.path.realpath(link).rstrip(os.sep) + os.sep
    parts = below.split("/")[:-1]
    passed = ("/".join([where, *parts[:depth]]) for depth in range(len(parts) + 1))
    return any((os.path.realpath(folder) + os.sep).startswith(target) for folder in passed)


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file in that state; ABSENT for a folder or a device."""
    if not stat.S_ISREG(status.st_mode):
        return ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ino & (1 << 63) - 1, status.st_ctime_ns


def stamp_at(path: str) -> Stamp:
    """Return the stamp of the file at a path; ABSENT where there is none."""
    try:
        return stamp_of(os.stat(path))
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return ABSENT


def settled(look: Callable[[], Stamp]) -> Stamp:
    """Return the stamp that `look` gives, of a file that was written a moment ago a moment later: within a tick of the
    clock its time would not show one more write. A time far ahead is not when it was written, but that of a camera."""
    stamp, now = look(), time.time_ns()
    written = max((at for at in (stamp[1], stamp[3]) if at < now + COARSE), default=0)
    tick = TICK if written % 1_000_000_000 else COARSE
    if (age := now - written) < tick:
        time.sleep(min(tick, tick - age) / 1e9)
        return look()
    return stamp


def _steadily(path: str, look: Callable[[], Stamp], read: Callable[[], bytes]) -> tuple[bytes, Stamp]:
    """Return what `read` gives between two looks that show the same."""
    for _ in range(TRIES):
        before = settled(look)
        data = read()
        if look() == before:
            return data, before
    raise UserError(Problem(path, "changes while it is read; run the command again once it is written"))
