"""Archives that a user copied: verified by size and SHA-256, and unpacked safely and resumably.

Tar (plain, gzip, bzip2, xz) and zip are unpacked below one folder and nowhere else; the caller marks the folder as
complete.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ray_robust.data.images.files import NO_METHOD, member_parts
from ray_robust.data.readers.tar import members
from ray_robust.data.readers.target import Target
from ray_robust.errors import Problem, UserError
from ray_robust.files.regular_file import kind_of, without_content

Progress = Callable[[int, int], None]  # bytes done, bytes in all
CHUNK = 8 << 20
CHECKED = ".archive.json"  # in the folder: which archive was found to be right, so that it is not read twice
BROKEN = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    struct.error,
    IndexError,
    RuntimeError,
)  # the last: encrypted, an unknown method, headers without end
COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
MOST_TIMES, ALLOWANCE = 100, 1 << 30  # an archive may unpack to so many times its size and so many bytes: images hardly
# compress, tables by 10; deflate reaches 1,000, bzip2 and sparse files millions
LARGEST_WINDOW = 256 << 20  # bytes that unpacking an xz may take; its largest preset takes 65 MiB


@dataclass(frozen=True)
class PublishedArchive:
    """What an archive must be: its bytes and their SHA-256, as hexadecimal digits."""

    size: int
    sha256: str


def check(archive: Path, published: PublishedArchive | None, folder: Path, progress: Progress) -> str:
    """Return the SHA-256 of `archive`. Raises UserError, in one line, unless it is the `published` one.

    `folder`, where it will be unpacked, remembers the answer while the file stays as it is.
    """
    try:
        status = archive.stat()
    except OSError as error:
        raise UserError(Problem(str(archive), f"cannot be read: {error.strerror}")) from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(Problem(str(archive), f"is {kind_of(status.st_mode)}, not an archive"))
    if published and status.st_size != published.size:
        short = published.size - status.st_size
        how = f"{short:,} bytes short: a half copy; go on with the download" if short > 0 else "another archive"
        raise UserError(Problem(str(archive), f"is {status.st_size:,} bytes long, not {published.size:,}; {how}"))
    facts = {"path": str(archive.resolve()), "size": status.st_size, "mtime": status.st_mtime_ns}
    before = _remembered(folder)
    digest = before["sha256"] if facts.items() <= before.items() else _sha256(archive, status.st_size, progress)
    if published and digest != published.sha256:
        what = f"has the sha256 {digest}, not {published.sha256}: it is damaged, or another archive; copy it again"
        raise UserError(Problem(str(archive), what))
    remember(archive, digest, folder)
    return digest


def remember(archive: Path, sha256: str, folder: Path) -> None:
    """Let `check` know the SHA-256 of `archive` while the file stays as it is, so that it is not read once more."""
    status = archive.stat()
    facts = {"path": str(archive.resolve()), "size": status.st_size, "mtime": status.st_mtime_ns, "sha256": sha256}
    with Target(folder) as target:
        target.write(PurePosixPath(CHECKED), [json.dumps(facts).encode()])


def unpack(
    archive: Path, folder: Path, progress: Progress, without: str = "", top: str = "", made: set[str] | None = None
) -> tuple[int, int]:
    """Put the files of `archive` below `folder`; returns how many were written and how many lay there already.

    `without` names a file of `folder` that is left out: the mark of a finished folder, which must not come early. A
    first folder that is named as `folder`, or `top`, is left out of paths. To `made` is added what then lies directly
    in `folder`. A file is written under another name and then renamed, so that one which has the right size is whole.
    Links are left out, and none that lies in `folder` is
    followed. Raises UserError for a path that leads elsewhere, for an archive that breaks off, and for one that holds
    far more than its size allows (see MOST_TIMES).
    """
    written = present = total = 0
    size = archive.stat().st_size
    most = MOST_TIMES * size + ALLOWANCE
    try:
        with Target(folder) as target:
            for entry in _entries(archive):
                path = _inside(entry.name, (folder.name, top), archive)
                progress(entry.at, size)
                total += entry.size
                if total > most:
                    raise UserError(Problem(str(archive), _too_much(entry.name, size)))
                if str(path) == without:
                    continue
                if made is not None:
                    made.add(path.parts[0])
                if target.size(path) == entry.size:
                    present += 1
                    continue
                if target.write(path, entry.parts()) != entry.size:
                    raise EOFError(f"{entry.name} is shorter than it should be")
                written += 1
    except BROKEN as error:
        why = without_content(error)[:120]
        what = f"breaks off or is damaged after {written + present:,} files ({why}); copy it again"
        raise UserError(Problem(str(archive), what)) from None
    except OSError as error:  # of the disk that the archive is on; bz2 has no class of its own for damage
        reason = error.strerror or f"is damaged ({error}); copy it again"
        raise UserError(Problem(str(archive), f"cannot be read: {reason}")) from None
    (folder / CHECKED).unlink(missing_ok=True)
    return written, present


@dataclass(frozen=True)
class _Entry:
    """A regular file of an archive: its path, its bytes, how far into the archive it is, and its content in parts."""

    name: str
    size: int
    at: int
    parts: Callable[[], Iterator[bytes]]


def _entries(archive: Path) -> Iterator[_Entry]:
    """Yield every regular file of an archive, in its order."""
    with open(archive, "rb") as raw:
        head = raw.read(tarfile.BLOCKSIZE)
        raw.seek(0)
        magic = b"" if head[257:262] == b"ustar" else head[:6]  # a tar begins with a path, which may be PKLot/1.jpg
        if magic.startswith(b"PK"):
            with zipfile.ZipFile(raw) as file:
                yield from _zipped(archive, file)
            return
        opener = next((how for start, how in COMPRESSED.items() if magic.startswith(start)), None)
        if opener is lzma.open:
            _check_window(raw)
        for tar, member in members(raw if opener is None else opener(raw, "rb")):
            if member.issparse():
                what = f"{member.name!r} has holes: it claims {member.size:,} bytes that are not in the archive"
                raise UserError(Problem(str(archive), f"{what}; pack it without --sparse"))
            if member.isreg():
                yield _Entry(member.name, member.size, raw.tell(), partial(tar.parts, member))


def _zipped(archive: Path, file: zipfile.ZipFile) -> Iterator[_Entry]:
    infos = [info for info in file.infolist() if not info.is_dir() and info.external_attr >> 28 != 0o12]  # no links
    size = archive.stat().st_size
    if odd := next((i for i in infos if i.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)), None):
        raise UserError(Problem(str(archive), f"{odd.filename!r} {NO_METHOD}"))
    if locked := next((info for info in infos if info.flag_bits & 1), None):
        raise UserError(
            Problem(str(archive), f"{locked.filename!r} is encrypted; unpack it with its password yourself")
        )
    if sum(info.file_size for info in infos) > MOST_TIMES * size + ALLOWANCE:  # seen before anything is written
        largest = max(infos, key=lambda info: info.file_size)
        raise UserError(Problem(str(archive), _too_much(largest.filename, size)))
    for info in infos:
        yield _Entry(info.filename, info.file_size, info.header_offset, partial(member_parts, file, info))


def _check_window(raw: Any) -> None:
    """Refuse an xz that asks for more memory than any preset does. Raises lzma.LZMAError."""
    lzma.LZMADecompressor(memlimit=LARGEST_WINDOW).decompress(raw.read(1024), max_length=1)
    raw.seek(0)


def _too_much(name: str, size: int) -> str:
    return (
        f"unpacks to more than {MOST_TIMES} times its {size:,} bytes (at {name!r}): a decompression bomb, or damaged; "
        "get it again from where it is published"
    )


def _inside(name: str, own: tuple[str, ...], archive: Path) -> PurePosixPath:
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "."]
    if not parts or ".." in parts or parts[0] == "/" or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise UserError(Problem(str(archive), f"holds {name!r}, a path that leads out of the folder: do not use it"))
    return PurePosixPath(*(parts[1:] if parts[0] in own and len(parts) > 1 else parts))


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
        if not stat.S_ISREG(os.lstat(folder / CHECKED).st_mode):  # no link, and no FIFO that would never end
            return {}
        return dict(json.loads((folder / CHECKED).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
