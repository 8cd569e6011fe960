"""Sources and tasks: pools of labelled images that can be listed and read.

Defines `Catalog` (every image, without pixels), `Pool` (a catalog, and how to read its pixels) and seeds by name. A
source is a pool to pre-train on; a task is a pool whose images are divided into the five splits.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError

from ray_robust.data.images.form import Form
from ray_robust.errors import UserError, did_you_mean
from ray_robust.metrics import METRICS
from ray_robust.run.shifts import test_of

SPLITS = ("train", "id_val", "id_test", "ood_val", "ood_test")
DIGEST = np.dtype("V16")  # a BLAKE2b digest of 128 bits: compares, sorts and hashes (np.unique, pd.factorize) as it is


def _known_metric(name: Any) -> Any:
    """Return the name, where it is a metric's. Raises as for a value that is not among the listed ones."""
    if not isinstance(name, str) or name not in METRICS:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, METRICS))})
    return name


MetricName = Annotated[str, BeforeValidator(_known_metric)]


def seed_of(*names: object) -> int:
    """Return a 64-bit seed that depends on these names alone, in this order: the same on every machine, in every
    process.

    Every random choice of the project starts here, so that adding a trial, a source or an image shifts no other.
    """
    text = "\x1f".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def mix_bits(values: np.ndarray, seed: int) -> np.ndarray:
    """splitmix64 of `values ^ seed`, elementwise, uint64: a random priority for every image id.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """
    with np.errstate(over="ignore"):
        z = (values.astype(np.uint64) ^ np.uint64(seed)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def in_unit_interval(bits: np.ndarray) -> np.ndarray:
    """Return the first 53 of these 64 random bits as float64 in [0, 1), elementwise."""
    return (bits >> np.uint64(11)).astype(float) * 2.0**-53


@dataclass(frozen=True, eq=False)
class Catalog:
    """Every image that a pool knows of, without its pixels. Row i of each array is image i.

    labels     int32 [n], index into `classes`
    classes    the class names, in a fixed order
    ids        uint64 [n], one per image, from its key and what it contains: what random choices hash (see `mix_bits`)
    hierarchy  one row per class (index: class names, in the order of `classes`), one column per rank from coarse to
               fine, each value the name of the class's ancestor (or the class itself) at that rank; None without one
    below      by each name of every node: the classes (indices, ascending) under it, where the ranks do not say it all
               (a class of WordNet lies below more nodes than those of its one path); None: what the ranks say
    split      int8 [n] (int16 of a task with shifts), index into `parts`; None for a source
    group      int32 [n], index into `groups` (camera, region, hospital); None where the pool has none
    fingerprint  changes when the images or labels do, and only then: never with paths or with the pool's name
    licence    who may use the images, in one line
    notes      what a reader of the report should know about the pool, a sentence each
    warnings   what may be a mistake in how the images are labelled, a sentence each
    names      per class what people call it, where `classes` are codes (WordNet ids); need not be unique; else ()
    provisional  files of it have not been read yet, so that ids and fingerprint are of names and sizes: to plan with
    shifts     further test sets, which are parts like the splits: what identifies each, by name
    only       by shift that has some of the classes only: these, int64, ascending
    unlabelled  the parts whose images have no label: -1 in `labels`
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    ids: np.ndarray
    fingerprint: str
    licence: str
    hierarchy: pd.DataFrame | None = None
    below: Mapping[str, np.ndarray] | None = None
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    provisional: bool = False
    shifts: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, np.ndarray] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def called(self) -> tuple[str, ...]:
        """Per class what people call it."""
        return self.names or self.classes

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what a task's images are divided into: the five splits, then a test for each shift."""
        return (*SPLITS, *map(test_of, self.shifts))

    def class_names(self, labels: np.ndarray, unknown: str | None = "") -> np.ndarray:
        """Return the names of these labels, object [n]; `unknown` for -1, an image without one."""
        return np.array([*self.classes, unknown], object)[labels]

    def rows(self, split: str) -> np.ndarray:
        """Return rows of that part, ascending, int64. Raises ValueError for a pool without splits."""
        if self.split is None:
            raise ValueError("this pool has no splits")
        return np.flatnonzero(self.split == self.parts.index(split))


@dataclass(frozen=True)
class Pixels:
    """Some images, decoded: `images` uint8 [n, size, size, 3], or to be stored as JPEG object [n] of `Jpeg`; `broken`
    maps a position in it (not a catalog row) to the reason why that image could not be read (its pixels are zeros).

    skipped  positions of images that were not decoded since the store holds them
    digests  of files: DIGEST [n], what was read (zeros where a file could not be)
    stamps   of files: files.STAMP [n], how they were then
    """

    images: np.ndarray
    broken: dict[int, str]
    skipped: tuple[int, ...] = ()
    digests: np.ndarray | None = None
    stamps: np.ndarray | None = None


@dataclass(frozen=True)
class Identities:
    """What identifies some images of a pool.

    ids          uint64 [n], see `Catalog`
    content      what they contain, in bytes that change with any of them, and with none of the pool's others where
                 images are files
    provisional  files of them have not been read yet, so that both are of names and sizes
    """

    ids: np.ndarray
    content: bytes
    provisional: bool


class Options(BaseModel):
    """What a spec may say about a pool; a pool's own Options add fields. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileOptions(Options):
    """Options of pools that read image files."""

    fit: Literal["crop", "squash", "pad"] = Field(
        default="crop",
        description="how an image becomes square: its short side scaled and the centre cut out, squeezed, or "
        "letterboxed",
        examples=["fit: pad"],
    )
    broken: Literal["fail", "drop"] = Field(
        default="fail",
        description="an unreadable image ends the sweep, or is left out and listed in the report",
        examples=["broken: drop"],
    )


class TaskOptions(Options):
    """Options of every task."""

    metric: MetricName | None = Field(
        default=None,
        description=f"what `id` and `ood` hold in the results: {', '.join(METRICS)}; not given: the task's own",
        examples=["metric: accuracy"],
    )


AnyOptions = Options  # inside a pool `Options` is its own


class Pool(ABC):
    """A named pool of images. Built from its name and options alone, so that any process can build it again.

    `rendered` says that any image can be made at any moment and none can be broken, so the store need only hold
    what is asked for; otherwise the whole pool is decoded before anything is drawn from it.
    """

    Options: ClassVar[type[AnyOptions]] = AnyOptions
    options: AnyOptions  # a pool with Options of its own says `options: Options`
    rendered: ClassVar[bool] = False
    line_caveat: str = ""  # of a task: why its ID and OOD scores may make no straight line, with the reference
    identity: ClassVar[str] = "recipe"  # what ids and fingerprint are of: how images are made, or what files contain

    def __init__(self, name: str, options: AnyOptions) -> None:
        self.name, self.options = name, options

    @cached_property
    def catalog(self) -> Catalog:
        """The pool's images. Raises UserError, all problems at once, when the data makes no sense; DataAbsent when it
        is not there."""
        return self.list_images()

    @abstractmethod
    def list_images(self) -> Catalog:
        """Make the catalog; called once."""

    def published(self) -> Catalog | None:
        """Return what is known of the images while they are not there: counts that their makers published; None if
        nothing.

        Stands in for the catalog when a sweep is only planned (see `data.published`).
        """
        return None

    @abstractmethod
    def keys(self, rows: np.ndarray) -> list[str]:
        """Return the readable, unique and stable names of these images, e.g. a path inside the folder."""

    @abstractmethod
    def read(self, rows: np.ndarray, size: int) -> Pixels:
        """Decode or render these images at size x size."""

    # --- what the store asks; other answers are those of `file_pool.FilePool`

    def read_new(self, rows: np.ndarray, form: Form, stored: Callable[[bytes], bool]) -> Pixels:
        """Read as `read` does, in the form that they are stored in or as squares of its `px`; an image whose address is
        `stored` need not be decoded."""
        return self.read(rows, form.px)

    @property
    def fit(self) -> str:
        """How an oblong image becomes a square."""
        return getattr(self.options, "fit", "crop")

    @property
    def broken(self) -> str:
        """What becomes of an image that cannot be read: `fail` or `drop`."""
        return getattr(self.options, "broken", "drop")

    @property
    def pack(self) -> str:
        """What names the pack of decoded images that this pool's are in."""
        return self.meaning

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        """Return DIGEST [n]: where these images are in it; zeros where that is not known."""
        halves = [mix_bits(self.catalog.ids[rows], seed_of("store", self.meaning, half)) for half in (0, 1)]
        return np.ascontiguousarray(np.stack(halves, axis=1), "<u8").view(DIGEST)[:, 0]

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Rows whose files cannot be read, and why."""
        return {}

    def unread(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return those of `rows` (default: all) whose files have not been read yet, as far as is known here."""
        return np.empty(0, np.int64)

    def recall(self, root: Path) -> None:  # noqa: B027
        """Take in what is remembered of the files below a store's `root`."""

    def learn(self, rows: np.ndarray, read: Pixels, root: Path) -> None:  # noqa: B027
        """Take in what was read of the files, and remember it below a store's `root`."""

    def identities(self, rows: np.ndarray) -> Identities:
        """Return what identifies these images apart from all others of the pool."""
        return Identities(self.catalog.ids[rows], self.catalog.fingerprint.encode(), self.catalog.provisional)

    def digests(self, rows: np.ndarray) -> np.ndarray | None:
        """Return what these images contain, one `DIGEST` (16 bytes, numpy's V16) each: equal where the files hold the
        same bytes, zeros where one cannot be read. Files that were never read are read now. None: images are rendered,
        so that their ids say it all."""
        return None

    def reread(self, rows: np.ndarray, root: Path) -> np.ndarray:
        """Read the files of these images whatever is known of them, and remember it below a store's `root`; return the
        rows whose bytes were other ones when they were read last."""
        return rows[:0]

    def unmade(self, rows: np.ndarray) -> np.ndarray:
        """Return those of `rows` whose images `launch.ingest.generate` must make before they can be read."""
        return rows[:0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a plan, the start of a sweep and the report warn of, a sentence each."""
        return (*self.catalog.warnings, *filter(None, [self.line_caveat]))

    @property
    def meaning(self) -> str:
        """What of this pool decides a result: its fingerprint and how images become squares; never a path."""
        return f"{self.catalog.fingerprint}-{self.fit}"


class Source(Pool):
    """A pool to pre-train on."""

    def captions(self, rows: np.ndarray) -> Sequence[str | None] | None:
        """Return one text per image, None for an image without; None for a source that has no captions."""
        return None

    def values(self, column: str) -> Sequence[Any]:
        """Return a column of what is known of the images, one value per row of the catalog, None where there is none.
        Raises UserError where the source has no such column."""
        what = f"source {self.name} has no columns beside its labels"
        raise UserError(f"{what}; name a file with the columns path and {column} by `table`")


class Task(Pool):
    """A shifted fine-tuning problem: its catalog has a split for every image; `metric` scores it."""

    Options: ClassVar[type[AnyOptions]] = TaskOptions
    own_metric: str

    @property
    def metric(self) -> str:
        """What scores it: the one that the spec names, else the task's own. Raises UserError for one that is not in
        `ray_robust.metrics`."""
        name = getattr(self.options, "metric", None) or self.own_metric
        if name not in METRICS:
            what = f"its own metric {name!r} is none of ray_robust.metrics"
            raise UserError(f"task {self.name!r}: {what}{did_you_mean(name, METRICS)}")
        return name

    def shares_images(self, source: Pool) -> bool:
        """Return whether a source may hold images of this task without anything in them that shows it: of files the
        contents do."""
        return False

    def outline(self) -> Sequence[str]:
        """Return what a plan shows of how its splits were made, a line each; nothing where they are given."""
        return ()

    @property
    def aside(self) -> tuple[str, ...]:
        """Groups that the worst group is not looked for in."""
        return ()

    @property
    def corrupted(self) -> Mapping[str, tuple[str, int]]:
        """The shifts that are corruptions of id_test: kind and severity, by name."""
        return {}

    def corrupted_rows(self) -> np.ndarray:
        """Return rows of id_test that are corrupted, int64, ascending."""
        return np.empty(0, np.int64)

    @property
    def without_shifts(self) -> Task:
        """The task without further test sets: itself, where it has none."""
        return self

    @property
    def of_images(self) -> str:
        """The meaning of the images alone that the task has: not of those that are made of them (`corrupted`)."""
        return self.meaning

    @property
    def scored(self) -> str:
        """The meaning of its scores: of its images, and of the metric where that is not the task's own."""
        return self.meaning if self.metric == self.own_metric else f"{self.meaning}-{self.metric}"
