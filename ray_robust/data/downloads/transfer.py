"""One published file, from a mirror to this disk: resumed after a cut, checked while it streams, whole or absent.

While it is incomplete it is `NAME.part`, with `NAME.part.json` beside it: where it comes from, and by which mark
(ETag or date) the server tells versions apart. A part is continued with the mirror that it came from while that mark is
the same, with any mirror where a checksum is published, and is begun anew otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import requests

from ray_robust.data.downloads.connection import Passing, Refused, Wire, shown
from ray_robust.data.downloads.entries import HUB, RemoteFile
from ray_robust.errors import Outage, Problem, UserError
from ray_robust.files.disk_room import FULL, free_bytes, no_room

READ = 4 << 20  # bytes of the disk at once
LOOK = 64 << 20  # bytes between two looks at the room on the disk
RESERVE = 1 << 30  # bytes of the disk that a download of unknown size leaves
ENOUGH = 8 << 20  # bytes of progress after which failures are counted from zero again
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between two tries
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")

Report = Callable[[int, int | None], None]  # bytes that are there, bytes in all where that is known
Say = Callable[[str], None]


@dataclass(frozen=True)
class Arrived:
    """A file that is whole: its bytes, their SHA-256, and where they came from ("" where it lay there)."""

    size: int
    sha256: str
    url: str = ""


@dataclass
class Sums:
    """Checksums of a file that grows, and of how many bytes they are."""

    size: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)
    md5: Any = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.sha256.update(data)
        self.md5.update(data)

    def differs(self, file: RemoteFile, recorded: str) -> str:
        """Return what is not as published, or as `recorded` (a SHA-256) when it was downloaded before; "" where all
        is."""
        sha256 = self.sha256.hexdigest()
        if file.size is not None and self.size != file.size:
            return f"is {self.size:,} bytes long, not the published {file.size:,}"
        if file.sha256 and sha256 != file.sha256:
            return f"has the sha256 {sha256}, not the published {file.sha256}"
        if file.md5 and self.md5.hexdigest() != file.md5:
            return f"has the md5 {self.md5.hexdigest()}, not the published {file.md5}"
        if recorded and sha256 != recorded:
            return f"has the sha256 {sha256}, not {recorded} as when it was downloaded before"
        return ""


class Transfer:
    """The download of `file` into `folder`. The caller holds the lock of the data set."""

    def __init__(
        self, file: RemoteFile, folder: Path, wire: Wire, report: Report, say: Say, recorded: str = ""
    ) -> None:
        self.file, self.wire, self.report, self.say, self.recorded = file, wire, report, say, recorded
        self.path = folder / file.name
        self.part = folder / f"{file.name}.part"
        self.notes = folder / f"{file.name}.part.json"
        self.sums = Sums()
        self.resumed = False  # whether the part was made in more than one go

    def fetch(self) -> Arrived:
        """Return the file once it is whole and checked. Raises UserError where no mirror has it, Outage where one may
        have it later."""
        if self.path.exists() or self.path.is_symlink():
            return self._present()
        failed: list[str] = []
        later = False
        for mirror in self.file.urls:
            try:
                url = self._patiently(mirror, partial(self.wire.address, mirror, self.file))
                return self._from(url)
            except (Refused, Passing) as error:
                later |= isinstance(error, Passing)
                failed.append(f"{_named(mirror)} {error}")
                self.say(f"mirror       {failed[-1]}")
        line = f"{self.file.name}: cannot be downloaded: {'; '.join(failed)}"
        if later:
            raise Outage(f"{line}; run the same command again: it goes on from {self._length():,} bytes")
        raise UserError(Problem("", line))

    def _present(self) -> Arrived:
        """Return the file that lies there already, if it is the published one."""
        self._read_sums(self.path)
        if wrong := self.sums.differs(self.file, self.recorded):
            raise UserError(Problem(str(self.path), f"{wrong}; remove it, then run the same command again"))
        return Arrived(self.sums.size, self.sums.sha256.hexdigest())

    def _from(self, url: str) -> Arrived:
        """Return the file as this address has it. Bytes of two tries that do not fit are fetched once more as a
        whole."""
        for last in (False, True):
            self._patiently(url, partial(self._once, url))
            if not (wrong := self.sums.differs(self.file, self.recorded)):
                with _disk(self.part):
                    os.replace(self.part, self.path)
                self.notes.unlink(missing_ok=True)
                return Arrived(self.sums.size, self.sums.sha256.hexdigest(), url)
            whole = not self.resumed
            self._discard()
            if whole or last:
                raise Refused(f"sent a file that {wrong}: it was removed")
            self.say(f"again        the parts do not fit together (it {wrong}); from the beginning")
        raise AssertionError

    def _patiently(self, url: str, call: Callable[[], Any]) -> Any:
        """Call again after a failure that may be over, with growing waits, until there are too many without
        progress."""
        failures = 0
        while True:
            before = self._length()
            try:
                return call()
            except Passing as error:
                failures = 1 if self._length() - before >= ENOUGH else failures + 1
                if failures >= self.wire.tries:
                    raise
                wait = max(error.wait, WAITS[min(failures, len(WAITS)) - 1])
                self.say(f"again        {_named(url)} {error}; next try in {wait:.0f} s, from {self._length():,} bytes")
                self.wire.sleep(wait)

    def _once(self, url: str) -> None:
        """Append what is missing to the part. Raises Passing where it is cut, Refused where it is another file."""
        start, mark = self._continued(url)
        if start and start == self.file.size:
            return
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and mark:
            headers["If-Range"] = mark
        with self.wire.get(url, self.file, headers) as answer:
            start, total = self._judged(answer, start, mark)
            notes = {"url": url, "mark": _mark(answer)}
            if start == 0:
                self._discard()
            with _disk(self.notes):
                self.notes.write_text(json.dumps(notes), "utf-8")
            self._append(answer, start, total)
        if total is not None and self.sums.size < total:
            raise Passing(f"ended after {self.sums.size:,} of {total:,} bytes")

    def _continued(self, url: str) -> tuple[int, str]:
        """Return from which byte to go on, and the mark that the version must have ("": the checksum will show)."""
        length = self._length()
        notes = _read_notes(self.notes)
        same = notes.get("url") == url
        mark = notes.get("mark", "") if same else ""
        usable = bool(mark) or self.file.strong or bool(self.file.md5)
        if not length or not usable or (self.file.size is not None and length > self.file.size):
            self._discard()
            return 0, ""
        if self.sums.size != length:
            self._read_sums(self.part)
        self.resumed = True
        return length, mark

    def _judged(self, answer: requests.Response, start: int, mark: str) -> tuple[int, int | None]:
        """Return from which byte this answer goes on, and the bytes in all where they are known."""
        if answer.status_code == 416:
            self._discard()
            raise Passing("has no more bytes than are here: another version")
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() and len(length) < 19 else None
        if answer.status_code == 206:
            match = RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
            now = _mark(answer)
            if not match or int(match[1]) != start or not start or (mark and now and now != mark):
                self._discard()
                raise Passing("sent other bytes than were asked for, or of another version")
            total = None if match[3] == "*" else int(match[3])
        elif start:
            now = _mark(answer)
            why = "the file has changed there" if mark and now and now != mark else "the server goes on from no byte"
            self.say(f"again        {shown(str(answer.url))}: {why}; from the beginning")
            start = 0
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        expected = self.file.size
        if encoding not in ("", "identity") and (expected is None or total != expected):
            raise Refused(f"sends it encoded ({encoding[:20]}), so that its bytes cannot be counted")
        if expected is not None and total is not None and total != expected:
            raise Refused(f"has {total:,} bytes, not the published {expected:,}: another file")
        return start, expected if expected is not None else total

    def _append(self, answer: requests.Response, start: int, total: int | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with _disk(self.part):
            handle = os.open(self.part, flags, 0o666)
        looked = 0
        try:
            with _disk(self.part):
                os.ftruncate(handle, start)
                os.lseek(handle, start, os.SEEK_SET)
            for chunk in self.wire.body(answer):
                if self.sums.size == 0 and self.file.unpack and chunk.lstrip()[:9].lower().startswith(WEB_PAGE):
                    raise Refused("sends a web page, not an archive")
                if total is not None and self.sums.size + len(chunk) > total:
                    raise Refused(f"sends more than the {total:,} bytes that it should have")
                if total is None and self.sums.size - looked >= LOOK:
                    looked = self.sums.size
                    self._check_room()
                with _disk(self.part):
                    _write(handle, chunk)
                self.sums.add(chunk)
                self.report(self.sums.size, total or self.file.about)
            with _disk(self.part):
                os.fsync(handle)
        except Refused:
            self._discard()
            raise
        finally:
            os.close(handle)

    def _check_room(self) -> None:
        if free_bytes(self.part.parent) < RESERVE:
            what = f"less than {RESERVE:,} bytes are free, and how long this file is was not published; free some room"
            raise UserError(Problem(str(self.part), f"{what}, then run the same command again"))

    def _read_sums(self, path: Path) -> None:
        self.sums = Sums()
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                while data := file.read(READ):
                    self.sums.add(data)
                    self.report(self.sums.size, self.file.size or size)
        except OSError as error:
            raise UserError(Problem(str(path), f"cannot be read: {error.strerror}; remove it")) from None

    def _length(self) -> int:
        try:
            return os.lstat(self.part).st_size
        except OSError:
            return 0

    def _discard(self) -> None:
        self.sums, self.resumed = Sums(), False
        with _disk(self.part), suppress(FileNotFoundError):
            os.unlink(self.part)


def _named(mirror: str) -> str:
    return mirror if mirror.startswith(HUB) else shown(mirror)


def _mark(answer: requests.Response) -> str:
    """Return by what a server tells versions of a file apart: its ETag unless that is weak, else its date; ""."""
    etag = answer.headers.get("ETag", "").strip()
    if etag and not etag.startswith("W/") and len(etag) < 300:
        return etag
    return answer.headers.get("Last-Modified", "").strip()[:100]


def _read_notes(path: Path) -> dict[str, str]:
    try:
        notes = json.loads(path.read_text("utf-8"))
        return {str(key): str(value) for key, value in notes.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


class _disk:
    """Turns what the disk refuses into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, OSError) or isinstance(error, FileNotFoundError | Outage):
            return
        if error.errno in FULL:
            what = no_room(self.path)
            raise Outage(f"{self.path}: {what}, then run the same command again: it goes on from here") from None
        raise UserError(Problem(str(self.path), f"cannot be written: {error.strerror}")) from None
