"""An archive that somebody copied: is it whole, is it the right one, and out with its files, safely and resumably.

Owns the checks by size and SHA-256, and unpacking tar (plain, gzip, bzip2, xz) and zip below one folder and nowhere
else. Hands on a folder; that it is complete is for the caller to mark.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ray_robust.errors import Problem, UserError

Progress = Callable[[int, int], None]  # bytes done, bytes in all
CHUNK = 8 << 20
CHECKED = ".archive.json"  # in the folder: which archive was found to be right, so that it is not read twice
BROKEN = (tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)


@dataclass(frozen=True)
class Known:
    """What an archive must be: its bytes and their SHA-256, as hexadecimal digits."""

    size: int
    sha256: str


def check(archive: Path, known: Known | None, folder: Path, progress: Progress) -> str:
    """The SHA-256 of `archive`. Raises UserError, in one line, unless it is what is `known`.

    `folder`, where it will be unpacked, remembers the answer while the file stays as it is.
    """
    try:
        status = archive.stat()
    except OSError as error:
        raise UserError(Problem(str(archive), f"cannot be read: {error.strerror}")) from None
    if known and status.st_size != known.size:
        short = known.size - status.st_size
        how = f"{short:,} bytes short: a half copy; go on with the download" if short > 0 else "another archive"
        raise UserError(Problem(str(archive), f"is {status.st_size:,} bytes long, not {known.size:,}; {how}"))
    facts = {"path": str(archive.resolve()), "size": status.st_size, "mtime": status.st_mtime_ns}
    before = _remembered(folder)
    digest = before["sha256"] if facts.items() <= before.items() else _sha256(archive, status.st_size, progress)
    if known and digest != known.sha256:
        what = f"has the sha256 {digest}, not {known.sha256}: it is damaged, or another archive; copy it again"
        raise UserError(Problem(str(archive), what))
    with _said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CHECKED).write_text(json.dumps({**facts, "sha256": digest}), "utf-8")
    return digest


def unpack(archive: Path, folder: Path, progress: Progress, without: str = "") -> tuple[int, int]:
    """Put the files of `archive` below `folder`; returns how many were written and how many lay there already.

    `without` names a file of `folder` that is left out: the mark of a finished folder, which must not come early. A
    first folder that is named as `folder` is left out of paths. A file is written under another name and then renamed,
    so that one which has the right size is whole. Links are left out. Raises UserError for a path that leads elsewhere
    and for an archive that breaks off.
    """
    written = kept = 0
    made: set[Path] = set()
    total = archive.stat().st_size
    try:
        for name, size, read, place in _entries(archive):
            target = folder / _inside(name, folder.name, archive)
            progress(place, total)
            if target == folder / without:
                continue
            if target.is_file() and target.stat().st_size == size:
                kept += 1
                continue
            data = read()
            with _said(folder):
                if target.parent not in made:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    made.add(target.parent)
                draft = target.with_name(f".{target.name}.part")
                draft.write_bytes(data)
                draft.replace(target)
            written += 1
    except BROKEN as error:
        what = f"breaks off or is damaged after {written + kept:,} files ({error}); copy it again"
        raise UserError(Problem(str(archive), what)) from None
    (folder / CHECKED).unlink(missing_ok=True)
    return written, kept


def _entries(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes], int]]:
    """(name, bytes, how to read it, how far into the archive it is) of every regular file, in the archive's order."""
    with open(archive, "rb") as raw:
        if zipfile.is_zipfile(raw):
            with zipfile.ZipFile(raw) as file:
                for info in file.infolist():
                    if not info.is_dir() and info.external_attr >> 28 != 0o12:  # a symbolic link
                        yield info.filename, info.file_size, partial(file.read, info), info.header_offset
            return
        raw.seek(0)
        with tarfile.open(fileobj=raw, mode="r:*") as tar:
            for member in tar:
                if member.isreg():
                    yield member.name, member.size, partial(_contents, tar, member), raw.tell()
                tar.members = []  # type: ignore[attr-defined]  # it would keep every member that it has seen


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with tar.extractfile(member) or io.BytesIO() as file:  # None only for what is no regular file
        return file.read()


def _inside(name: str, own: str, archive: Path) -> Path:
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "."]
    if not parts or ".." in parts or parts[0] == "/" or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise UserError(Problem(str(archive), f"holds {name!r}, a path that leads out of the folder: do not use it"))
    return Path(*(parts[1:] if parts[0] == own and len(parts) > 1 else parts))


def _sha256(archive: Path, size: int, progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    with open(archive, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(done, size)
    return digest.hexdigest()


def _remembered(folder: Path) -> dict:
    try:
        return dict(json.loads((folder / CHECKED).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a UserError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full; free some room and run this again, it goes on from here" if full else error.strerror
        raise UserError(Problem(str(folder), f"cannot be written: {what}")) from None
