"""Shards: tar files of WebDataset and Parquet files, anywhere that pyarrow's file systems reach, read image by image.

Finds the shards of an address, lists what a Parquet file holds without reading its pixels (`tar_samples` lists a tar),
and reads images in the order of storage.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import fs as arrow_fs
from pyarrow import parquet

from ray_robust.data.images.files import Stamp, absolute, settled, stamp_at
from ray_robust.data.readers.table import first_few
from ray_robust.errors import DataAbsent, Outage, Problem, UserError, did_you_mean
from ray_robust.files.object_store import etag, without_bucket
from ray_robust.files.retry import patiently, unread

AT_ONCE = 8  # shards looked at side by side: what takes the time is waiting for a distant store
MOST_SHARDS = 1_000_000  # that {000..146} may stand for: LAION's 2 billion images are in 230,000
NAMED = "named"  # in `attrs` of a listing: whether the shard itself names its classes
BUFFER = 1 << 20  # bytes asked of a file system at a time: small images come many to a request


@dataclass(frozen=True)
class Shard:
    """One file: its path in the file system, its name (without what all have in common, and the suffix), and its state:
    of a local file as `files` has it, of an object in a store its size and its ETag."""

    path: str
    name: str
    stamp: Stamp


@dataclass(frozen=True)
class Columns:
    """What of a sample is the image, the label and the caption: extensions in a tar, columns in a Parquet file.

    `label` and `caption` may reach into JSON: `json.label`. `names` are those of whole-number labels. `texts` says that
    captions must be texts; otherwise they are values of any kind, by which images are chosen.
    """

    image: str | None
    label: str | None
    caption: str | None
    names: tuple[str, ...]
    texts: bool = True


@dataclass(frozen=True)
class Shards:
    """The shards of an address, in order of their paths."""

    address: str
    filesystem: Any
    shards: tuple[Shard, ...]


class Unlistable(Exception):
    """What is wrong with a shard, in one line."""


def find_shards(address: str, suffix: str) -> Shards:
    """Return the shards that an address means: a file, a folder (and all below it), or a pattern with * or {000..146}.

    A local path or any URI of pyarrow's (s3://, gs://, hdfs://, file://). Raises DataAbsent when nothing is there, and
    UserError naming every shard that lacks.
    """
    filesystem, path = _filesystem(address)
    names = _braces(path)
    if len(names) > 1:
        infos = filesystem.get_file_info(names)
    elif any(sign in path for sign in "*?["):
        below = arrow_fs.FileSelector(path.rpartition("/")[0], allow_not_found=True)
        infos = [info for info in filesystem.get_file_info(below) if fnmatch.fnmatch(info.path, path)]
    else:
        infos = [filesystem.get_file_info(path)]
        if infos[0].type == arrow_fs.FileType.Directory:
            infos = filesystem.get_file_info(arrow_fs.FileSelector(path, recursive=True))
            infos = [info for info in infos if info.path.endswith(suffix)]
    files = sorted((i for i in infos if i.type == arrow_fs.FileType.File), key=lambda info: info.path)
    if not files:
        what = f"there are no shards; wanted: a folder or a pattern of {suffix} files"
        raise DataAbsent(Problem(address, what + without_bucket(filesystem, path)))
    absent = [info.path for info in infos if info.type == arrow_fs.FileType.NotFound]
    absent = absent or _gaps([info.path for info in files])
    if absent:
        raise UserError(*first_few(len(absent), lambda i: Problem(absent[i], "this shard is not there")))
    above = PurePosixPath(files[0].path).parent
    while not all(PurePosixPath(info.path).is_relative_to(above) for info in files):
        above = above.parent
    names = [str(PurePosixPath(info.path).relative_to(above).with_suffix("")) for info in files]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        stamps = list(threads.map(lambda info: _stamp(filesystem, info), files))
    shards = [Shard(info.path, name, stamp) for info, name, stamp in zip(files, names, stamps, strict=True)]
    return Shards(address, filesystem, tuple(shards))


def _stamp(filesystem: Any, info: Any) -> Stamp:
    """Return how a shard is now. An ETag changes with the content alone; where a store has none, the time stands for
    it."""
    if isinstance(filesystem, arrow_fs.LocalFileSystem):
        return settled(lambda: stamp_at(info.path))
    try:
        with filesystem.open_input_file(info.path) as file:
            tag = _tag(file)
    except (OSError, pa.ArrowException):  # reported when the shard is listed
        tag = 0
    return (info.size, 0, tag, 0) if tag else (info.size, info.mtime_ns or 0, 0, 0)


def _tag(file: Any) -> int:
    """Return the ETag of an object as a number; 0 where its store has none."""
    tag = etag(file)
    return int.from_bytes(hashlib.blake2b(tag, digest_size=8).digest(), "little") >> 1 if tag else 0


def _filesystem(address: str) -> tuple[Any, str]:
    if "://" not in address:
        return arrow_fs.LocalFileSystem(), str(absolute(address))
    base, query, rest = address.partition("?")
    plain = re.split(r"[*\[{]", base)[0].rpartition("/")[0]
    try:
        filesystem, path = arrow_fs.FileSystem.from_uri(f"{plain}{query}{rest}")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(Problem(address, f"no file system of pyarrow's reads it: {error}")) from None
    return filesystem, path.rstrip("/") + base[len(plain) :]


def _braces(path: str) -> list[str]:
    """`a-{08..10}.tar` written out: a-08.tar, a-09.tar, a-10.tar."""
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", path)
    digits = [len(number) for i, number in enumerate(parts) if i % 3]
    if max(digits, default=0) > 12 or (count := math.prod(
        max(0, int(high) - int(low) + 1) for low, high in zip(parts[1::3], parts[2::3], strict=True)
    )) > MOST_SHARDS:  # fmt: skip
        many = "far more" if max(digits) > 12 else f"{count:,}"
        raise UserError(Problem(path, f"stands for {many} shards; at most {MOST_SHARDS:,} are possible"))
    runs = [[f"{n:0{len(low)}d}" for n in range(int(low), int(high) + 1)]
            for low, high in zip(parts[1::3], parts[2::3], strict=True)]  # fmt: skip
    texts = parts[::3]
    return [
        "".join(itertools.chain.from_iterable(zip(texts, (*pick, ""), strict=True)))
        for pick in itertools.product(*runs)
    ]


def _gaps(paths: Sequence[str]) -> list[str]:
    """Return shards that the numbers of the others ask for: train-0003.tar between 0002 and 0004, or of "-of-0010"."""
    existing = set(paths)
    series: dict[tuple[str, int, str, str, int], list[int]] = {}
    for path in paths:
        if match := re.fullmatch(r"(.*?)(\d+)(-of-(\d+))?(\D*)", path):
            head, number, of, total, tail = match.groups()
            series.setdefault((head, len(number), of or "", tail, int(total or 0)), []).append(int(number))
    wanted = []
    for (head, wide, of, tail, total), numbers in series.items():
        first, last = min(numbers), max(numbers)
        if total:
            first = 1 if last == total else 0  # "00004-of-00004" is of a series that begins with 1
            last = first + total - 1
        elif last - first >= 2 * len(numbers):
            continue  # no numbers of a series
        wanted += [f"{head}{n:0{wide}d}{of}{tail}" for n in range(first, last + 1)]
    return [path for path in wanted if path not in existing]


# --- what is in a shard


def list_parquet(file: Any, columns: Columns) -> pd.DataFrame:
    """Return a row per row, as `list_tar` has them; at is the row's number, size 0. Raises Unlistable."""
    try:
        opened = parquet.ParquetFile(file)
        schema = opened.schema_arrow
        wanted = [name for name in (columns.image, columns.label, columns.caption) if name]
        if lacking := [name for name in wanted if name not in schema.names]:
            raise Unlistable(f"has no column {lacking[0]!r}{did_you_mean(lacking[0], schema.names)}")
        table = opened.read(columns=wanted[1:])
    except (pa.ArrowException, OSError) as error:
        raise Unlistable(f"is no Parquet file, or one cut short ({error})") from None
    count = opened.metadata.num_rows
    if columns.label and table[columns.label].null_count:
        raise Unlistable(f"has {table[columns.label].null_count} rows without {columns.label}")
    at = np.arange(count)
    frame = pd.DataFrame({"key": [f"{i:08d}" for i in at], "at": at, "size": 0})
    labels = table[columns.label].to_pylist() if columns.label else [None] * count
    names = _names_in(schema, columns.label)
    frame["label"] = named(labels, columns, names)
    frame.attrs[NAMED] = bool(names)
    values = table[columns.caption].to_pylist() if columns.caption else [None] * count
    frame["caption"] = captions(values, frame["key"], columns) if columns.texts else values
    return frame


def _names_in(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """Return the class names that the package `datasets` keeps in a Parquet file."""
    dataset = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return tuple(dataset.get("info", {}).get("features", {}).get(label, {}).get("names", ()))


def named(labels: list[Any], columns: Columns, names: tuple[str, ...] = ()) -> list[str]:
    """Return labels as class names: whole numbers by the names, where there are any. Raises Unlistable for a label that
    then is neither: numbers and names of the same classes would be classes of their own."""
    names = columns.names or names
    if columns.label is None:
        return ["image"] * len(labels)
    if several := [label for label in labels if isinstance(label, list | tuple | dict)]:
        raise Unlistable(f"has the label {several[0]!r}; wanted: one class of each image, as text or a whole number")
    texts = [str(label) for label in labels]
    if not names:
        return texts
    numbers = [int(match[1]) if (match := re.fullmatch(r"(\d+)(\.0+)?", text)) else None for text in texts]
    whole = [number for number in numbers if number is not None]
    wrong = [text for text, number in zip(texts, numbers, strict=True) if number is None]
    if not whole:  # the names themselves
        wrong = [text for text in wrong if text not in names]
    if wrong:
        raise Unlistable(f"has the label {wrong[0]!r}, which is no number of a class; wanted: 0 to {len(names) - 1}")
    if not whole:
        return texts
    if (most := max(whole)) >= len(names):
        raise Unlistable(f"has the label {most}, but there are {len(names)} names of classes")
    return [names[number] for number in whole]


def captions(values: Sequence[Any], keys: Sequence[str], columns: Columns) -> list[str | None]:
    """Return the texts of samples, None for one that is missing or blank. Raises Unlistable for what is no text."""
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, str | None):
            shown = repr(value)[:40]
            what = f"sample {key}: its {columns.caption} is {shown}, which is no text"
            raise Unlistable(f"{what}; wanted: one text a sample, or none")
    return [value if value and value.strip() else None for value in values]


# --- reading images


class Reader:
    """The bytes of images by (shard, at, size); fast where these come in the order in which they lie."""

    def __init__(self, shards: Shards, image: str | None) -> None:
        self._shards, self._image = shards, image
        self._open: tuple[int, Any] = (-1, None)
        self._group: tuple[int, int, Any] = (0, 0, None)  # rows from, to, and their images

    def tar(self, shard: int, at: int, size: int) -> bytes:
        file = self._file(shard)
        file.seek(at)
        data = file.read(size)
        if len(data) < size:
            raise UserError(Problem(self._shards.shards[shard].path, "is shorter than when it was listed"))
        return data

    def parquet(self, shard: int, at: int) -> bytes:
        file = self._file(shard)
        if not self._group[0] <= at < self._group[1]:
            opened, start = parquet.ParquetFile(file), 0
            for group in range(opened.num_row_groups):
                stop = start + opened.metadata.row_group(group).num_rows
                if at < stop:
                    self._group = (start, stop, opened.read_row_group(group, [self._image])[0])
                    break
                start = stop
        cell = self._group[2][at - self._group[0]].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        return data or b""

    def _file(self, shard: int) -> Any:
        if self._open[0] != shard:
            self._group = (0, 0, None)  # first: an error on the way leaves no images of another shard
            self._open = (shard, open_shard(self._shards, shard))
        return self._open[1]


def open_shard(shards: Shards, number: int) -> Any:
    """Return a shard, opened for reading at any place. Raises UserError when it is gone, Outage when its storage stays
    away."""
    path = shards.shards[number].path

    def opened() -> Any:
        file = shards.filesystem.open_input_file(path)
        check_shard(shards, number, file)
        return file

    try:
        return io.BufferedReader(patiently(opened, lambda: path, partial(unread, path)), BUFFER)
    except Outage:
        raise
    except FileNotFoundError:
        raise UserError(Problem(path, "the shard is gone since it was listed")) from None
    except OSError as error:
        raise UserError(Problem(path, f"the shard cannot be read: {error}")) from None


def check_shard(shards: Shards, number: int, file: Any = None) -> None:
    """Raise UserError unless a shard, at an object store the one that was opened as `file`, is as it was when it was
    found: where its images lie is no longer certain."""
    shard = shards.shards[number]
    if isinstance(shards.filesystem, arrow_fs.LocalFileSystem):
        same = stamp_at(shard.path) == shard.stamp
    else:
        same = file is None or (file.size() == shard.stamp[0] and _tag(file) == shard.stamp[2])
    if not same:
        raise UserError(Problem(shard.path, "has changed since it was listed; run the same command again"))


def unlisted(problems: Sequence[tuple[str, str]]) -> Iterator[Problem]:
    """Yield (path, what is wrong) of shards as problems: a few, then how many more."""
    return first_few(len(problems), lambda i: Problem(*problems[i]))
