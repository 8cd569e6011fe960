"""The task `subpopulation`: coarse labels of any labelled pool; OOD are subclasses of them that training lacks.

Owns which subclass and which image is in which split. Source of the construction: Santurkar, Tsipras, Madry, "BREEDS:
Benchmarks for Subpopulation Shift" (ICLR 2021).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ray_robust import registry
from ray_robust.data.images.form import Form
from ray_robust.data.labels.class_labels import by_name, coarse_labels
from ray_robust.data.labels.hierarchy import subtrees
from ray_robust.data.pool import (
    SPLITS,
    Catalog,
    Identities,
    Options,
    Pixels,
    Pool,
    Task,
    in_unit_interval,
    mix_bits,
    seed_of,
)
from ray_robust.data.readers.folder import key_ids
from ray_robust.data.readers.label_checks import split_warnings
from ray_robust.data.tasks.shares import Share, TestShare, ood_val_share
from ray_robust.data.tasks.shift_options import ShiftedOptions
from ray_robust.errors import UserError, did_you_mean
from ray_robust.spec.class_selection import parse_granularity
from ray_robust.spec.values import number_for

LEAST = 2  # subclasses of a label: one to train on, one that is not seen
SHOWN = 4  # names in a line of the plan


class SourceOptions(BaseModel):
    """A source of images by its registered name, with that source's own keys: `{name: folder, path: ...}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        description="a source of the README's table", examples=["source: {name: folder, path: images.csv}"]
    )
    options: SerializeAsAny[Options] = Field(json_schema_extra={"written": False})

    @model_validator(mode="before")
    @classmethod
    def _validated_by_the_source(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or isinstance(raw.get("options"), Options):
            return raw
        keys = dict(raw)
        name = keys.pop("name", None)
        if not isinstance(name, str):
            raise _wrong("name", f"missing; must name a source{did_you_mean('', registry.SOURCES)}")
        try:
            own = registry.find("source", name).Options
        except UserError as error:
            raise _wrong("name", error.problems[0].what) from None
        if name == "diffusion":
            raise _wrong("name", "images of diffusion are made for pre-training alone; save them, and name the folder")
        fields = own.model_fields
        numbers = {key: number_for(fields.get(key), value) for key, value in keys.items()}
        try:
            return {"name": name, "options": own.model_validate(numbers)}
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or name
            unknown = first["type"] == "extra_forbidden"
            raise _wrong(key, f"unknown key{did_you_mean(key, fields)}" if unknown else first["msg"]) from None

    @model_serializer
    def written(self) -> dict[str, Any]:
        """Return it as a user could have written it."""
        return {"name": self.name, **self.options.model_dump(mode="json")}


def _wrong(key: str, what: str) -> PydanticCustomError:
    return PydanticCustomError("source", "{what}", {"what": f"{key}: {what}"})


@dataclass(frozen=True, eq=False)
class Division:
    """How the classes of a pool become labels and splits.

    label   by class of the pool: its label, "" where it is not used
    unseen  bool, by class: not trained on
    notes   on what is left out, a sentence each
    """

    label: np.ndarray
    unseen: np.ndarray
    notes: tuple[str, ...]


class Subpopulation(Task):
    """Labels are a coarse cut of the hierarchy of `source`; groups are its classes. Metric: accuracy.

    Of each label's subclasses a share of `unseen` is OOD (ood_val and ood_test), drawn by their names and `split_seed`;
    the images of the others are divided into train, id_val and id_test by a hash of their keys.
    """

    class Options(ShiftedOptions):
        source: SourceOptions = Field(
            description="the images, as a source with a hierarchy: its name and its own keys",
            examples=["source: {name: species}"],
        )
        labels: str = Field(
            description="what is learned: a rank of the hierarchy, `depth:N` (1 is the coarsest), or about so many "
            "labels",
            examples=["labels: family", "labels: depth:2", "labels: 20"],
        )
        under: str | None = Field(
            default=None,
            description="only classes below this node of the hierarchy; not given: all",
            examples=["under: Cervanta"],
        )
        unseen: float = Field(
            default=0.4,
            gt=0,
            lt=1,
            description="share of each label's subclasses that training and ID lack: at least one, never all",
            examples=["unseen: 0.5"],
        )
        subclasses: int | None = Field(
            default=None,
            ge=LEAST,
            description="so many subclasses of every label, and none of a label that has fewer; not given: all",
            examples=["subclasses: 4"],
        )
        val: Share = Field(
            default=0.1, description="share of the seen subclasses' images that is id_val", examples=["val: 0.2"]
        )
        test: TestShare = 0.2
        images_per_subclass: int | None = Field(
            default=None,
            ge=1,
            description="at most so many images of each subclass; not given: all",
            examples=["images_per_subclass: 200"],
        )
        split_seed: int = Field(
            default=0,
            ge=0,
            description="of the draw of unseen subclasses; a grid of seeds is one task for each",
            examples=["split_seed: {grid: [0, 1, 2]}"],
        )

        _labels = field_validator("labels", mode="before")(parse_granularity)

    options: Options

    own_metric = "accuracy"

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        source = options.source
        self.source: Pool = registry.find("source", source.name)(source.name, source.options)
        self.rendered = self.source.rendered  # type: ignore[misc]  # as the pool that it is made of
        self.identity = self.source.identity  # type: ignore[misc]
        self._identified: tuple[Identities, Catalog] | None = None

    # --- the catalog

    @property
    def catalog(self) -> Catalog:  # it becomes another one when its files have been read
        """The task's images: those rows of the source whose classes are used, in its order."""
        identities = self.source.identities(self.rows)
        if self._identified is None or self._identified[0].content != identities.content:
            listed = self._listed[0]
            digest = hashlib.blake2b(listed.fingerprint.encode() + identities.content, digest_size=8).hexdigest()
            catalog = replace(listed, ids=identities.ids, fingerprint=digest, provisional=identities.provisional)
            self._identified = identities, catalog
        return self._identified[1]

    @property
    def rows(self) -> np.ndarray:
        """int64 [n]: the row of the source that each image is."""
        return self._listed[1]

    def list_images(self) -> Catalog:
        return self.catalog

    @cached_property
    def _listed(self) -> tuple[Catalog, np.ndarray]:
        """The catalog, its fingerprint being of labels, groups and splits alone, and `rows`."""
        whole = self.source.catalog
        division = self._division(whole)
        used = division.label != ""
        rows = self._drawn(whole, np.flatnonzero(used[whole.labels]))
        classes = whole.labels[rows]
        names = tuple(sorted(set(division.label[used])))
        kept = np.flatnonzero(used)
        group_of = np.full(len(used), -1, np.int32)
        group_of[kept] = np.arange(len(kept))
        label_of = pd.Index(names).get_indexer(division.label).astype(np.int32)
        split = self._splits(rows, division.unseen[classes])
        if empty := [s for i, s in enumerate(SPLITS) if not (split == i).any()]:
            raise UserError(f"task {self.name}: no images in {', '.join(empty)}: too few for these shares")
        trained = set(label_of[classes[split == SPLITS.index("train")]])
        if lacking := [name for k, name in enumerate(names) if k not in trained]:
            what = f"no images of {', '.join(lacking[:SHOWN])}{', ...' if len(lacking) > SHOWN else ''} in train"
            raise UserError(f"task {self.name}: {what}: too few for these shares")
        groups = _group_names(whole, kept)
        words = pd.DataFrame({"label": np.array(names, object)[label_of[classes]], "split": np.array(SPLITS)[split]})
        digest = hashlib.blake2b(repr((names, groups)).encode(), digest_size=8)
        for part in (label_of[classes], group_of[classes], split):
            digest.update(part.tobytes())
        unseen = int(division.unseen[kept].sum())
        note = (
            f"Subpopulation shift: {len(names):,} labels of {len(kept):,} subclasses, of which {unseen:,} are OOD "
            f"alone (split_seed {self.options.split_seed})."
        )
        catalog = Catalog(
            labels=label_of[classes],
            classes=names,
            ids=whole.ids[rows],
            fingerprint=digest.hexdigest(),
            licence=whole.licence,
            split=split,
            group=group_of[classes],
            groups=groups,
            notes=(*whole.notes, note, *division.notes),
            warnings=(*whole.warnings, *split_warnings(words)),
        )
        return catalog, rows

    def _division(self, whole: Catalog) -> Division:
        o, where = self.options, f"task {self.name}"
        held = np.bincount(whole.labels, minlength=len(whole.classes)) > 0
        if o.under is not None:
            below = subtrees(whole)
            if o.under not in below:
                what = f"under: source {self.source.name} has no node {o.under!r}{did_you_mean(o.under, below)}"
                raise UserError(f"{where}: {what}")
            inside = np.zeros(len(held), bool)
            inside[below[o.under]] = True
            held &= inside
        try:
            label = np.array(coarse_labels(whole, o.labels, held), dtype=object)
        except ValueError as error:
            raise UserError(f"{where}: labels: source {self.source.name} {error}") from None
        label[~held] = ""
        unseen, small = np.zeros(len(label), bool), []
        for name in sorted(set(label) - {""}):
            members = np.flatnonzero(label == name)
            drawn = members[np.argsort(by_name("subclass", name, [whole.classes[m] for m in members], o.split_seed))]
            if len(members) < (o.subclasses or LEAST):
                label[members] = ""
                small.append(name)
                continue
            label[drawn[o.subclasses :] if o.subclasses else []] = ""
            drawn = drawn[: o.subclasses]
            count = min(max(round(o.unseen * len(drawn)), 1), len(drawn) - 1)
            unseen[drawn[:count]] = True
        labels = len(set(label) - {""})
        if labels < LEAST:
            what = f"{labels} of its labels have {o.subclasses or LEAST} subclasses or more"
            raise UserError(f"{where}: labels: {o.labels} of source {self.source.name}: {what}; take a coarser cut")
        few = f"{', '.join(small[:SHOWN])}{', ...' if len(small) > SHOWN else '.'}"
        needed = f"fewer than {o.subclasses or LEAST} subclasses"
        notes = (f"{len(small):,} labels with {needed} are left out: {few}",) if small else ()
        return Division(label, unseen, notes)

    def _drawn(self, whole: Catalog, rows: np.ndarray) -> np.ndarray:
        """Return those of `rows` that are used, ascending: of each class the first so many by a hash of their keys."""
        most = self.options.images_per_subclass
        if most is None:
            return rows
        order = rows[np.argsort(self._hashes(rows, "draw"), kind="stable")]
        return np.sort(order[pd.Series(whole.labels[order]).groupby(whole.labels[order]).cumcount().to_numpy() < most])

    def _hashes(self, rows: np.ndarray, what: str) -> np.ndarray:
        """Return uint64 [n], random numbers by the keys of these rows of the source and by `split_seed`."""
        keys = pd.Series(self.source.keys(rows), dtype="str")
        return mix_bits(key_ids(keys), seed_of("subpopulation", what, self.options.split_seed))

    def _splits(self, rows: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        """Return int8 [n]: the split of each image, by a hash of its key."""
        o = self.options
        position = in_unit_interval(self._hashes(rows, "split"))
        inside = np.select([position < o.val, position >= 1 - o.test], [1, 2], 0)
        outside = np.where(position < ood_val_share(o.val, o.test), 3, 4)
        return np.where(unseen, outside, inside).astype(np.int8)

    def shares_images(self, source: Pool) -> bool:
        return self.rendered and source.pack == self.pack

    def outline(self) -> Sequence[str]:
        """Return a line for each label: the subclasses that are trained on, those that are not, and their images."""
        whole, division = self.source.catalog, self._division(self.source.catalog)
        count = np.bincount(whole.labels[self.rows], minlength=len(whole.classes))
        names = whole.called

        def listed(members: np.ndarray) -> str:
            rest = f" and {len(members) - SHOWN} more" if len(members) > SHOWN else ""
            shown = ", ".join(names[m] for m in members[:SHOWN])
            return f"{shown}{rest} ({count[members].sum():,} images)"

        lines = []
        for label in self.catalog.classes:
            members = np.flatnonzero(division.label == label)
            seen, unseen = (members[division.unseen[members] == value] for value in (False, True))
            lines.append(f"{label}: trained on {listed(seen)}; OOD {listed(unseen)}")
        return lines

    # --- the images are the source's

    def keys(self, rows: np.ndarray) -> list[str]:
        return self.source.keys(self.rows[rows])

    def read(self, rows: np.ndarray, size: int) -> Pixels:
        return self.source.read(self.rows[rows], size)

    def read_new(self, rows: np.ndarray, form: Form, stored: Callable[[bytes], bool]) -> Pixels:
        return self.source.read_new(self.rows[rows], form, stored)

    @property
    def fit(self) -> str:
        return self.source.fit

    @property
    def broken(self) -> str:
        return self.source.broken

    @property
    def where(self) -> str:
        """Where the files are, for errors that name one."""
        return getattr(self.source, "where", self.source.name)

    @property
    def pack(self) -> str:
        return self.source.pack

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        return self.source.addresses(self.rows[rows])

    @property
    def unreadable(self) -> Mapping[int, str]:
        if not (unreadable := self.source.unreadable):
            return {}
        place = {int(row): i for i, row in enumerate(self.rows)}
        return {place[row]: why for row, why in unreadable.items() if row in place}

    def unread(self, rows: np.ndarray | None = None) -> np.ndarray:
        rows = np.arange(len(self.rows)) if rows is None else np.asarray(rows, np.int64)
        return rows[np.isin(self.rows[rows], self.source.unread(self.rows[rows]))]

    def recall(self, root: Path) -> None:
        self.source.recall(root)

    def learn(self, rows: np.ndarray, read: Pixels, root: Path) -> None:
        self.source.learn(self.rows[rows], read, root)

    def digests(self, rows: np.ndarray) -> np.ndarray | None:
        return self.source.digests(self.rows[rows])

    def reread(self, rows: np.ndarray, root: Path) -> np.ndarray:
        return rows[np.isin(self.rows[rows], self.source.reread(self.rows[rows], root))]

    def unmade(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.isin(self.rows[rows], self.source.unmade(self.rows[rows]))]


def _group_names(whole: Catalog, classes: np.ndarray) -> tuple[str, ...]:
    """Return what people call these classes, with the class behind it where two are called the same."""
    if not whole.names:
        return tuple(whole.classes[k] for k in classes)
    called = pd.Series([whole.names[k] for k in classes])
    twice = called.duplicated(keep=False)
    return tuple(f"{n} ({whole.classes[k]})" if t else n for n, k, t in zip(called, classes, twice, strict=True))
