"""The sources `webdataset` and `parquet`: images in shards, wherever pyarrow's file systems reach, e.g. s3://.

For what no single disk holds: the shards stay where they are and are listed once (the index is kept beside the image
store), `launch.ingest` reads and decodes them in Ray tasks. Owns the options, the index and the catalog.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field

from ray_robust.data.images.files import STAMP, STAMP_FIELDS, Folder, Stamp, absolute, lines_of
from ray_robust.data.images.store import default_root
from ray_robust.data.pool import FileOptions, Source
from ray_robust.data.readers.file_pool import FilePool, Listing
from ray_robust.data.readers.folder import LocalPath, make_listing
from ray_robust.data.readers.shards import (
    AT_ONCE,
    NAMED,
    Columns,
    Reader,
    Shards,
    Unlistable,
    check_shard,
    find_shards,
    list_parquet,
    open_shard,
    unlisted,
)
from ray_robust.data.readers.tar_samples import LACKING, list_tar
from ray_robust.errors import Problem, UserError

LISTING = 4  # raised when the index of a shard changes
INDEX = ("key", "label", "caption", "shard", "at", "size")  # its columns

Address = Annotated[str, AfterValidator(lambda text: text if "://" in text else str(absolute(text)))]


class ShardOptions(FileOptions):
    """Where the shards are, and what is what in them."""

    path: Address = Field(
        description="a folder, a file, or a pattern with * or {000..146}, local or a URI (s3://, gs://, hdfs://)",
        examples=['path: "s3://bucket/train-{000..146}.tar"'],
    )
    label: str | None = Field(
        default="cls",
        description="of a tar the extension with the label, of a Parquet file the column; `json.KEY` reaches "
        "into a .json; null where there are none",
        examples=["label: json.class"],
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        description="likewise, of the image; not given, of a tar: the extension of an image",
        examples=["image: jpg"],
    )
    caption: str | None = Field(
        default=None, min_length=1, description="likewise, of texts for method clip", examples=["caption: txt"]
    )
    classes: LocalPath | None = Field(
        default=None,
        description="a file with a name in each line, for labels that are whole numbers",
        examples=["classes: ~/data/names.txt"],
    )
    licence: str = Field(
        default="not stated beside the images",
        description="who may use the images, in one line",
        examples=["licence: CC BY 4.0"],
    )


def _class_names(file: Path) -> tuple[str, ...]:
    """Return the names in a file, of which line 1 is that of label 0. Raises UserError for a blank line between them,
    which is no name, and without which those below it would be of other labels; and for a name that stands there twice,
    as ImageNet's crane does, a bird and a machine: both would be one class."""
    names = "\n".join(map(str.strip, lines_of(file, "a name a line"))).rstrip().split("\n")
    if "" in names:
        right = "wanted: the name of a class in every line" + ("" if any(names) else "; the file has none")
        raise UserError(Problem(f"{file}:{names.index('') + 1}", f"is blank; {right}"))
    lines = dict[str, int]()
    for number, name in enumerate(names, 1):
        if (before := lines.setdefault(name, number)) != number:
            what = f"the name {name} is that of line {before} too; wanted: a name of its own for every class"
            raise UserError(Problem(f"{file}:{number}", what))
    return tuple(names)


class ShardSource(FilePool, Source):
    """What the two have in common."""

    Options = ShardOptions
    options: ShardOptions
    suffix: ClassVar[str]
    lister: ClassVar[staticmethod[[Any, Columns], pd.DataFrame]]

    @property
    def where(self) -> str:
        return self.options.path

    @cached_property
    def shards(self) -> Shards:
        return find_shards(self.options.path, self.suffix)

    @cached_property
    def columns(self) -> Columns:
        o = self.options
        return Columns(o.image, o.label, o.caption, _class_names(Path(o.classes)) if o.classes is not None else ())

    def make_listing(self) -> Listing:
        index = self._index
        if index["label"].nunique() < 2 and self.options.label is not None:
            raise UserError(
                Problem(self.where, f"has a single class, {index['label'].iloc[0]!r}: at least two are needed")
            )
        stamps = np.array([shard.stamp for shard in self.shards.shards], STAMP)[self._shard]
        frame = pd.DataFrame({"key": index["key"], "label": index["label"]})
        frame = frame.assign(**{name: stamps[name] for name in STAMP_FIELDS})
        lacking = index.attrs.get(LACKING, [])
        more = f" and {lacking[0] - 1:,} more" if lacking and lacking[0] > 1 else ""
        notes = (f"samples without an image are left out: {lacking[1]}{more}.",) if lacking else ()
        return make_listing(frame, Folder(self.where), self.options.licence, notes)

    @cached_property
    def _index(self) -> pd.DataFrame:
        """A row per image, by key: key, label, caption, and where it lies: shard, at, size. In `attrs[LACKING]` the
        number of samples without one and the first of them, if there are any."""
        return self._indexed(self.columns)

    def _indexed(self, columns: Columns) -> pd.DataFrame:
        shards = self.shards
        meaning = [LISTING, self.suffix, repr(columns), [(s.path, *s.stamp) for s in shards.shards]]
        name = hashlib.blake2b(json.dumps(meaning).encode(), digest_size=10).hexdigest()
        file = default_root() / "indices" / f"{name}.parquet"
        if (kept := _kept_index(file)) is not None:
            return kept
        with ThreadPoolExecutor(AT_ONCE) as threads:
            listed = list(threads.map(partial(self._list, columns), range(len(shards.shards))))
        if wrong := [part for part in listed if isinstance(part, tuple)]:
            raise UserError(*unlisted(wrong))
        parts = [part for part in listed if not isinstance(part, tuple)]
        self._check_names(parts)
        lacking = [key for part in parts for key in part.attrs.pop(LACKING, ())]
        index = pd.concat(parts).sort_values("key", ignore_index=True)
        index.attrs = {LACKING: [len(lacking), lacking[0]]} if lacking else {}
        labels = index["label"]
        if (labels.str.isdecimal()).all():  # in the order of numbers
            index["label"] = labels.str.zfill(labels.str.len().max())
        if (twice := index["key"].duplicated()).any():
            what = f"sample {index['key'][twice].iloc[0]} is there more than once"
            raise UserError(Problem(self.where, what))
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        index.to_parquet(draft, index=False, write_page_checksum=True)
        draft.replace(file)
        return pd.read_parquet(file)  # as every later command has it: whole numbers with gaps are read as others

    def _check_names(self, parts: list[pd.DataFrame]) -> None:
        """Raise UserError where some shards name their classes and others have numbers: one class would be two."""
        if any(named := [part.attrs.pop(NAMED, False) for part in parts]) and not self.columns.names:
            for part, has_names, shard in zip(parts, named, self.shards.shards, strict=True):
                if not has_names and part["label"].str.isdecimal().any():
                    what = "has numbers as labels and no names for them, which other shards have; name them: `classes`"
                    raise UserError(Problem(shard.path, what))

    def _list(self, columns: Columns, number: int) -> pd.DataFrame | tuple[str, str]:
        """Return the index of one shard, or its path and what is wrong with it."""
        shard = self.shards.shards[number]
        try:
            with open_shard(self.shards, number) as file:
                rows = type(self).lister(file, columns)
        except Unlistable as error:
            return shard.path, str(error)
        except UserError as error:
            return shard.path, error.problems[0].what
        rows["key"] = f"{shard.name}/" + rows["key"]
        if lacking := rows.attrs.get(LACKING):
            rows.attrs[LACKING] = [f"{shard.name}/{key}" for key in lacking]
        return rows.assign(shard=number)

    def captions(self, rows: np.ndarray) -> list[str | None] | None:
        if self.options.caption is None:
            return None
        return [None if pd.isna(text) else text for text in self._index["caption"].take(rows)]

    def values(self, column: str) -> Sequence[Any]:
        """Return what is in the place of the caption where that is of this column, as it is: the shards are listed once
        for each."""
        index = self._indexed(replace(self.columns, caption=column, texts=False))
        if not index["key"].equals(self._index["key"]):
            raise UserError(Problem(self.where, "its samples are not those that were listed; run the command again"))
        return index["caption"].tolist()

    def in_order(self, rows: np.ndarray) -> list[int]:
        return np.lexsort((self._at[rows], self._shard[rows])).tolist()

    def opened(self, rows: np.ndarray) -> Callable[[int], tuple[bytes, Stamp]]:
        fetch, of = self.fetch(Reader(self.shards, self.options.image)), self._shard[rows].tolist()

        def read(at: int) -> tuple[bytes, Stamp]:
            data = fetch(int(rows[at]))
            check_shard(self.shards, of[at])  # it was read while the shard was as it is in the index
            return data, self.shards.shards[of[at]].stamp

        return read

    def fetch(self, reader: Reader) -> Callable[[Any], bytes]:
        """Return a function from a row to the bytes of its image."""
        raise NotImplementedError

    def shard_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the shard that each image lies in, int64."""
        return self._shard[rows]

    @cached_property
    def _shard(self) -> np.ndarray:
        return self._index["shard"].to_numpy()

    @cached_property
    def _at(self) -> np.ndarray:
        return self._index["at"].to_numpy()


class WebDataset(ShardSource):
    """Tar files in which the members of a sample share a name: 000001.jpg, 000001.cls, 000001.txt."""

    suffix = ".tar"
    lister = staticmethod(list_tar)

    def fetch(self, reader: Reader) -> Callable[[Any], bytes]:
        sizes = self._index["size"].to_numpy()
        return lambda row: reader.tar(int(self._shard[row]), int(self._at[row]), int(sizes[row]))


class ParquetShards(ShardSource):
    """Parquet files with a column of image bytes (or of {bytes, path}, as the package `datasets` writes them)."""

    class Options(ShardOptions):
        image: str = Field(
            default="image",
            min_length=1,
            description="likewise, of the image; not given, of a tar: the extension of an image",
            examples=["image: jpg"],
        )
        label: str | None = Field(
            default="label",
            description="of a tar the extension with the label, of a Parquet file the column; `json.KEY` reaches "
            "into a .json; null where there are none",
            examples=["label: json.class"],
        )

    options: Options

    suffix = ".parquet"
    lister = staticmethod(list_parquet)

    def fetch(self, reader: Reader) -> Callable[[Any], bytes]:
        return lambda row: reader.parquet(int(self._shard[row]), int(self._at[row]))


def _kept_index(file: Path) -> pd.DataFrame | None:
    """Return an index that was kept; None where there is none, or one that is damaged: shards are listed again."""
    try:
        index = pd.read_parquet(file, page_checksum_verification=True)
    except Exception:  # pyarrow has many for what is no Parquet file
        return None
    return index if set(INDEX) <= set(index.columns) else None
