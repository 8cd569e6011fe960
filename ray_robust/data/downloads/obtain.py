"""A data set of the table, from its licence to the folder that a spec reads: the order of things, and what is printed.

Owns `downloads/` below --root: archives until they are unpacked, and of each data set a lock and a record (what came,
its SHA-256, what was unpacked), so that the same command continues after any end and a second download is compared.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from rich.console import Console

from ray_robust.data.downloads.catalog import DOWNLOADS
from ray_robust.data.downloads.connection import Wire, shown
from ray_robust.data.downloads.entries import HUB, DataSet, RemoteFile
from ray_robust.data.downloads.progress import bytes_progress
from ray_robust.data.downloads.transfer import READ, Arrived, Transfer
from ray_robust.data.readers.archive import remember, unpack
from ray_robust.data.readers.target import Target
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.files.disk_room import free_bytes
from ray_robust.files.storage import Storage

KEPT = "downloads"  # the folder below --root
GROWTH = 1.1  # bytes that images take on the disk over those of their archive, where neither is published
PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-~")


@dataclass
class Record:
    """What `downloads/NAME.json` keeps.

    accepted  the licence that was accepted
    came      by file: its size, sha256 and address
    files     by file: how many were unpacked from it, once all were
    made      by file: what was made of it directly in the folder, which other data sets may share; earlier versions
              kept none
    """

    accepted: str = ""
    came: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    made: dict[str, list[str]] = field(default_factory=dict)


def obtain(name: str, root: Path, yes: bool, out: Console, wire: Wire | None = None) -> None:
    """Download the data set `name` below `root`, unpack it and print the lines of a spec that read it.

    Raises UserError for a name that is not listed, one that is only to be had by hand, a licence that is not accepted,
    too little room, and files that no mirror has as published; Outage where a mirror may have them later.
    """
    dataset = _listed(name)
    root = root.expanduser().absolute()
    if root.name == PurePosixPath(dataset.folder).parts[0]:  # `--root $DATA/wilds` means the same as `--root $DATA`
        root = root.parent
    kept, folder = root / KEPT, root / dataset.folder
    for line in _summary(name, dataset):
        out.print(line, markup=False)
    files = _to_fetch(name, dataset, kept)
    record_file = Storage(kept), f"{name.replace(':', '-')}.json"
    record = _read(record_file)
    if _complete(dataset, folder, record):
        out.print(f"complete     {folder}: nothing is downloaded", markup=False)
        _print_use(dataset, folder, out)
        return
    _check_room(name, dataset, root, kept, record)
    if record.accepted != dataset.licence:
        _accept(name, yes, sys.stdin)
        record.accepted = dataset.licence
    with _lock(kept, name):
        record = replace(_read(record_file), accepted=record.accepted)  # another command may have gone on meanwhile
        _complete(dataset, folder, record)
        _write(record_file, record)
        for file in files:
            if file.name not in record.files:
                _one(dataset, file, folder, _Context(kept, record, record_file, out, wire or Wire()))
        _check_whole(dataset, folder)
    _print_use(dataset, folder, out)


@dataclass(frozen=True)
class _Context:
    """What fetching each file of a data set needs."""

    kept: Path
    record: Record
    record_file: tuple[Storage, str]
    out: Console
    wire: Wire

    def say(self, line: str) -> None:
        self.out.print(line, markup=False)


def _listed(name: str) -> DataSet:
    if name in DOWNLOADS:
        return DOWNLOADS[name]
    hint = did_you_mean(name, DOWNLOADS)
    raise UserError(f"--download: no download of {name!r} is listed{hint or '; listed: ' + ', '.join(DOWNLOADS)}")


def _summary(name: str, dataset: DataSet) -> Iterator[str]:
    """Yield what will be downloaded, from where, under which terms."""
    yield f"{name:<12} {dataset.title}"
    for file in dataset.files:
        size = f"{file.size:,} bytes" if file.size else f"about {file.about:,} bytes" if file.about else "size unknown"
        yield f"file         {file.name}: {size}, {file.checked_by}"
        yield from (f"  from       {_mirror(url)}" for url in file.urls)
    yield f"licence      {dataset.licence}"
    yield f"cite         {dataset.cite}"
    if dataset.note:
        yield f"note         {dataset.note}"


def _mirror(url: str) -> str:
    return f"the repository {url.removeprefix(HUB)} of the Hugging Face hub" if url.startswith(HUB) else shown(url)


def _to_fetch(name: str, dataset: DataSet, kept: Path) -> tuple[RemoteFile, ...]:
    """Return the files of a data set. Raises UserError where one is only to be had by hand and is not there."""
    if not dataset.files:
        raise UserError(f"{name}: cannot be downloaded by a program. {dataset.by_hand}")
    for file in dataset.files:
        if not file.urls and not (kept / file.name).exists():
            how = f"save {file.name} as {kept / file.name}, then run the same command again: it is checked and unpacked"
            raise UserError(f"{name}: cannot be downloaded by a program: {dataset.by_hand}; {how}")
    return dataset.files


def _complete(dataset: DataSet, folder: Path, record: Record) -> bool:
    """Whether everything was unpacked, and as many files as were are still there; else what is missing is forgotten. Of
    a wilds data set: whether its task finds it whole, however it came there."""
    if dataset.task:
        from ray_robust.data.tasks.install import is_whole

        if is_whole(_task(dataset, folder)):
            return True
        record.files.clear()
        return False
    earlier = {name: count for name, count in record.files.items() if name not in record.made}
    if earlier and _count(folder) < sum(earlier.values()):
        record.files = {name: count for name, count in record.files.items() if name not in earlier}
    for name in record.files.keys() & record.made.keys():
        if sum(_count(folder / below) for below in record.made[name]) < record.files[name]:
            del record.files[name]
    return set(record.files) == {file.name for file in dataset.files}


def _task(dataset: DataSet, folder: Path) -> Any:
    from ray_robust.data.tasks.wilds import WildsTask

    return WildsTask(dataset.task, WildsTask.Options(root=str(folder.parent)))


def _count(path: Path) -> int:
    """How many files there are below a folder; 1 where `path` is a file."""
    return int(path.is_file()) or sum(len(names) for _, _, names in os.walk(path))


def _check_room(name: str, dataset: DataSet, root: Path, kept: Path, record: Record) -> None:
    """Raise UserError unless the disk has room for the largest moment: what is unpacked so far and one archive."""
    if dataset.size is None:
        return
    todo = [file for file in dataset.files if file.name not in record.files]
    growth = dataset.unpacked / dataset.size if dataset.unpacked else GROWTH
    unpacked = need = 0.0
    for file in todo:
        size = file.size or file.about or 0
        there = next((p.stat().st_size for p in (kept / file.name, kept / f"{file.name}.part") if p.is_file()), 0)
        unpacked += growth * size
        need = max(need, unpacked + max(size - there, 0))
    if (free := free_bytes(root)) < need:
        what = f"{name} takes about {int(need):,} bytes while it is unpacked, and {free:,} are free"
        raise UserError(Problem(str(root), f"{what}; free some room, or name a folder on another disk by --root"))


def _accept(name: str, yes: bool, answers: TextIO) -> None:
    """Ask for the licence to be accepted. Raises UserError where it is not."""
    if yes:
        return
    if not answers.isatty():
        raise UserError(f"{name}: its licence must be accepted; read the terms above, then add --yes")
    print("Accept this licence? Type yes: ", end="", flush=True)
    if answers.readline().strip().lower() != "yes":
        raise UserError(f"{name}: its licence was not accepted, so nothing was downloaded")


@contextmanager
def _lock(kept: Path, name: str) -> Iterator[None]:
    """Hold the data set against other processes, until this one ends, however it does. Raises UserError."""
    path = kept / f"{name.replace(':', '-')}.lock"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot be written: {error.strerror}")) from None
    with open(handle, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = file.read(100).strip() or "another process"
            raise UserError(Problem(str(path), f"{owner} is downloading {name} to this folder; wait for it")) from None
        except OSError as error:
            what = f"the file system has no locks ({error.strerror}); name a folder on another one by --root"
            raise UserError(Problem(str(path), what)) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def _one(dataset: DataSet, file: RemoteFile, folder: Path, context: _Context) -> None:
    """Fetch one file, unpack it, and record both."""
    unproven = not file.sha256 and not file.md5
    before = context.record.came.get(file.name, {}) if unproven else {}
    with bytes_progress(context.out, "download") as report:
        transfer = Transfer(file, context.kept, context.wire, report, context.say, str(before.get("sha256", "")))
        arrived = transfer.fetch()
    context.say(f"checked      {file.name}: {arrived.size:,} bytes, {_comparison(file, arrived, bool(before))}")
    archive = context.kept / file.name
    try:
        count, made = _place(dataset, file, arrived, folder, context)
    except UserError as error:
        if unproven and error.problems[0].where == str(archive):  # else each further run would find it in place
            archive.unlink(missing_ok=True)
            context.say(f"removed      {archive}")
        raise
    # only now: of an archive that nothing published describes, that it unpacks is the first sign that it is whole
    context.record.came[file.name] = asdict(arrived) | {"url": shown(arrived.url) if arrived.url else ""}
    context.record.files[file.name], context.record.made[file.name] = count, sorted(made)
    _write(context.record_file, context.record)
    archive.unlink(missing_ok=True)


def _place(
    dataset: DataSet, file: RemoteFile, arrived: Arrived, folder: Path, context: _Context
) -> tuple[int, set[str]]:
    """Unpack or copy a file that is whole to its folder; return how many files that makes, and what of them lies
    directly in the folder (of a wilds data set, which its task looks through, nothing)."""
    archive = context.kept / file.name
    if dataset.task:
        return _by_task(dataset, file, arrived, folder, context), set()
    if not file.unpack:
        return _copy(archive, folder), {file.name}
    made: set[str] = set()
    with bytes_progress(context.out, "unpacking") as report:
        written, present = unpack(archive, folder, report, top=file.top, made=made)
    context.say(f"unpacked     {written + present:,} files to {folder}, {present:,} of them there before")
    return written + present, made


def _comparison(file: RemoteFile, arrived: Arrived, again: bool) -> str:
    if file.strong or file.md5:
        return f"{file.checked_by} as published"
    kept = "as when it was downloaded before" if again else "recorded, so that a second download is compared"
    return f"{file.checked_by}; sha256 of what came: {arrived.sha256} ({kept})"


def _by_task(dataset: DataSet, file: RemoteFile, arrived: Arrived, folder: Path, context: _Context) -> int:
    """Unpack and check the archive of a wilds data set as `--archive` does; return how many files the folder has."""
    from ray_robust.data.tasks.install import install

    @contextmanager
    def bar(stage: str) -> Iterator[Any]:
        with bytes_progress(context.out, stage) as report:
            yield report

    archive = context.kept / file.name
    remember(archive, arrived.sha256, folder)
    for line in install(_task(dataset, folder), archive, bar, top=file.top):
        context.say(line)
    return _count(folder)


def _copy(file: Path, folder: Path) -> int:
    with Target(folder) as target, open(file, "rb") as source:
        target.write(PurePosixPath(file.name), iter(lambda: source.read(READ), b""))
    return 1


def _check_whole(dataset: DataSet, folder: Path) -> None:
    for below, number in dataset.holds.items():
        there = _count(folder / below)
        if there != number:
            what = f"holds {there:,} files, not {number:,}: not the data set that is listed here"
            raise UserError(Problem(str(folder / below), what))


def _print_use(dataset: DataSet, folder: Path, out: Console) -> None:
    if not dataset.use:
        out.print(f"use          no source reads these files in place; they lie in {folder}", markup=False)
        return
    out.print("use          in a spec:", markup=False)
    places = {"ROOT": folder, "ABOVE": folder.parent}
    for line in dataset.use:
        text = re.sub(r"(ROOT|ABOVE)((?:/\w+)*)", lambda match: _yaml(Path(f"{places[match[1]]}{match[2]}")), line)
        out.print(f"  {text}", markup=False)


def _yaml(path: Path) -> str:
    """Return a path as a YAML value inside braces."""
    return str(path) if set(str(path)) <= PLAIN else json.dumps(str(path), ensure_ascii=False)


def _read(where: tuple[Storage, str]) -> Record:
    """Return the record, an empty one where none can be read: then everything is checked again."""
    try:
        kept = where[0].recall_json(where[1]) or {}
        made = {str(name): [str(one) for one in below] for name, below in dict(kept.get("made") or {}).items()}
        record = Record(str(kept["accepted"]), dict(kept["came"]), dict(kept["files"]), made)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Record()
    return record if all(isinstance(count, int) for count in record.files.values()) else Record()


def _write(where: tuple[Storage, str], record: Record) -> None:
    where[0].write_json(where[1], asdict(record))
