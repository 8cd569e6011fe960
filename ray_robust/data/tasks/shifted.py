"""A task with further test sets: `shifts` of its options, as parts of one pool beside the task's own splits, and
`corruptions` of its ID test, which are made of the images that are there.

Owns which classes each shift has, and what makes it unfit. As one pool, its images are listed, decoded, compared for
duplicates and shown like those of any split. The images of the task itself come first, in the order that they have
without shifts, so that every draw from them stays the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ray_robust.data.corruptions.kinds import VERSION
from ray_robust.data.images.files import STAMP
from ray_robust.data.images.form import Form
from ray_robust.data.pool import DIGEST, SPLITS, Catalog, Identities, Pixels, Pool, Task, mix_bits, seed_of
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import FolderOptions, ImageFiles, list_folder
from ray_robust.data.tasks.shift_classes import SHOWN, numbers_in_task
from ray_robust.data.tasks.shift_options import ESTIMABLE, NOT_ESTIMABLE, Corruptions, Shift, TestSet
from ray_robust.errors import Problem, UserError
from ray_robust.metrics import METRICS
from ray_robust.run.shifts import id_set_of, named, of_id_set, test_of

FEW = 100  # images, under which one image moves an accuracy by more than a point


class ShiftImages(ImageFiles):
    """The images of one shift, listed like a source of the kind `folder`; without labels where it has none."""

    options: FolderOptions

    def __init__(self, name: str, options: FolderOptions, unlabelled: bool = False) -> None:
        super().__init__(name, options)
        self.unlabelled = unlabelled

    def make_listing(self) -> Listing:
        return list_folder(self.options, splits=False, unlabelled=self.unlabelled)


@dataclass(frozen=True, eq=False)
class Part:
    """Images of a pool that are images of the task: rows int64 [n] of the pool, and their labels, int32 [n]."""

    pool: Pool
    rows: np.ndarray
    labels: np.ndarray


class ShiftedTask(Task):
    """`task` with the test sets and corruptions that its options name. All else is the task's own."""

    def __init__(self, task: Task, shifts: Mapping[str, TestSet], corruptions: Corruptions | None = None) -> None:
        super().__init__(task.name, task.options)
        self.task, self.shifts, self.corruptions = task, shifts, corruptions
        self.rendered = task.rendered  # type: ignore[misc]  # as the task's
        self.identity, self.line_caveat = task.identity, task.line_caveat  # type: ignore[misc]  # as the task's
        self.own_metric = task.own_metric
        if task.rendered and shifts:
            what = "images of the built-in world are rendered, shifts are files; their `shift` is an axis of the task"
            raise UserError(f"task {task.name}: shifts: {what}")
        self._current: tuple[tuple[str, ...], Catalog] | None = None

    # --- what the parts are

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        """The task and every shift, in order. Raises UserError with every problem of every shift."""
        catalog, problems = self.task.catalog, list[Problem]()
        parts = [Part(self.task, np.arange(len(catalog)), catalog.labels)]
        if METRICS[self.metric].needs_groups and self.shifts:
            problems.append(Problem(f"task {self.name}", f"metric {self.metric} needs groups, which shifts lack"))
        for name in self.shifts:
            if name in catalog.groups:
                problems.append(Problem(f"task {self.name}", f"shifts.{name}: a group of the task has this name"))
            if self.shifts[name].unlabelled and self.metric != ESTIMABLE:
                problems.append(Problem(f"task {self.name}", f"shifts.{name}: labels: none: {NOT_ESTIMABLE}"))
            if name in self.corrupted:
                problems.append(Problem(f"task {self.name}", f"shifts.{name}: a corruption has this name"))
        for name, shift in self.shifts.items():
            try:
                parts.append(self._part(name, shift))
            except UserError as error:
                problems += [Problem(one.where, f"{called(name)}: {one.what}") for one in error.problems]
        if problems:
            raise UserError(*problems)
        return tuple(parts)

    def _part(self, name: str, shift: TestSet) -> Part:
        options = FolderOptions(path=shift.path, images=shift.images, label=shift.label, parents=(), fit=self.fit)
        pool = ShiftImages(name, options, shift.unlabelled)
        if pool.unlabelled:
            return Part(pool, np.arange(len(pool.catalog)), pool.catalog.labels)
        own = self.task.catalog.classes
        labels = numbers_in_task(pool, shift, own)[pool.catalog.labels]
        rows = np.flatnonzero(labels >= 0)
        tested = self.task.catalog.labels[self.task.catalog.rows("id_test")]
        lacking = np.setdiff1d(labels[rows], tested)
        if id_set_of(name) and len(absent := np.setdiff1d(tested, labels[rows])):
            listed = ", ".join(own[k] for k in absent[:SHOWN])
            what = f"has no image of {len(absent)} of the classes of id_test ({listed})"
            raise UserError(Problem(pool.where, f"{what}; an ID set has them all"))
        if len(lacking) and self._restricts(shift, labels[rows]):
            listed = ", ".join(own[k] for k in lacking[:SHOWN])
            what = f"id_test has no image of {len(lacking)} of its classes ({listed}), so no ID score over them"
            raise UserError(Problem(pool.where, f"{what}; leave them out, or say `classes: all`"))
        return Part(pool, rows, labels[rows])

    def _restricts(self, shift: TestSet, labels: np.ndarray) -> bool:
        shared = isinstance(shift, Shift) and not shift.unlabelled and shift.classes == "shared"
        return shared and len(np.unique(labels)) < len(self.task.catalog.classes)

    @property
    def catalog(self) -> Catalog:  # it becomes another one when files have been read
        """The images of the task, then those of every shift."""
        fingerprints = tuple(part.pool.catalog.fingerprint for part in self._parts)
        if self._current is None or self._current[0] != fingerprints:
            self._current = fingerprints, self._joined(fingerprints)
        return self._current[1]

    def list_images(self) -> Catalog:
        return self.catalog

    def _joined(self, fingerprints: Sequence[str]) -> Catalog:
        names, shifts, base = tuple(self.shifts), self._parts[1:], self._parts[0].pool.catalog
        self._refuse_equal(fingerprints)
        assert base.split is not None
        sizes = [len(part.rows) for part in shifts]
        codes = np.repeat(np.arange(len(SPLITS), len(SPLITS) + len(names), dtype=np.int16), sizes)
        only = {name: np.unique(part.labels).astype(np.int64) for name, part in zip(names, shifts, strict=True)
                if self._restricts(self.shifts[name], part.labels)}  # fmt: skip
        identities = self._identities(fingerprints)
        group = None
        if base.group is not None:  # a group of its own, so that every image has one
            own = np.repeat(np.arange(len(names), dtype=np.int32) + len(base.groups), sizes)
            group = np.concatenate([base.group, own])
        return replace(
            base,
            labels=np.concatenate([part.labels for part in self._parts]),
            ids=np.concatenate([part.pool.catalog.ids[part.rows] for part in self._parts]),
            fingerprint=self._fingerprint(fingerprints[0], identities, bool(self.corruptions)),
            split=np.concatenate([base.split, codes]),
            group=group,
            groups=(*base.groups, *names) if group is not None else (),
            notes=(*base.notes, *self._notes(only)),
            warnings=(*base.warnings, *self._warnings()),
            provisional=any(part.pool.catalog.provisional for part in self._parts),
            shifts=identities,
            only=only,
            unlabelled=(*base.unlabelled, *(test_of(name) for name in names if self.shifts[name].unlabelled)),
        )

    def _identities(self, fingerprints: Sequence[str]) -> dict[str, str]:
        """What each shift is of, by name; `fingerprints` as of all parts."""
        return {name: f"{fingerprint}-{self.shifts[name].unseen}-{getattr(self.shifts[name], 'classes', 'all')}"
                for name, fingerprint in zip(self.shifts, fingerprints[1:], strict=True)}  # fmt: skip

    def _fingerprint(self, own: str, identities: Mapping[str, str], corrupted: bool) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for text in (own, *(f"{name}\x1f{identity}" for name, identity in identities.items())):
            digest.update(f"{text}\x1e".encode())
        digest.update(repr(self.corrupted_as).encode() if corrupted else b"")
        return digest.hexdigest()

    @property
    def of_images(self) -> str:
        if not self.shifts:
            return self.task.of_images
        fingerprints = [part.pool.catalog.fingerprint for part in self._parts]
        return f"{self._fingerprint(fingerprints[0], self._identities(fingerprints), False)}-{self.fit}"

    def _refuse_equal(self, fingerprints: Sequence[str]) -> None:
        """Raise UserError where two shifts are the same images under the same labels. Until their files have been read,
        names and sizes are known alone, which those of other images may be too: then only where they lie tells."""
        first: dict[tuple[str, str], str] = {}
        for name, fingerprint, part in zip(self.shifts, fingerprints[1:], self._parts[1:], strict=True):
            where = str(self.shifts[name].path) if part.pool.catalog.provisional else ""
            if (other := first.setdefault((fingerprint, where), name)) != name:
                both = f"shifts {other} and {name}"
                if id_set_of(other) or id_set_of(name):
                    both = f"{called(other)} and {called(name)}"
                raise UserError(f"task {self.name}: {both} are the same images; leave one out")

    def _notes(self, only: Mapping[str, np.ndarray]) -> Iterator[str]:
        classes = len(self.task.catalog.classes)
        if names := list(self.corrupted):
            count = len(self.task.catalog.rows("id_test"))
            images = min(self.corruptions.images if self.corruptions else 0, count)
            yield f"Corruptions of {images:,} of {count:,} images of id_test: {', '.join(names)}."
        for name, part in zip(self.shifts, self._parts[1:], strict=True):
            dropped = len(part.pool.catalog) - len(part.rows)
            left = f"; {dropped:,} images of classes that the task lacks are left out" if dropped else ""
            if self.shifts[name].unlabelled:
                yield f"Shift {name}: {len(part.rows):,} images without labels, whose accuracy is estimated."
                continue
            of = "all classes" if name not in only else (
                f"{len(only[name]):,} of {classes:,} classes, which its predictions and ID scores are restricted to"
            )  # fmt: skip
            yield f"{called(name, True)}: {len(part.rows):,} images of {of}{left}."

    def _warnings(self) -> Iterator[str]:
        for name, part in zip(self.shifts, self._parts[1:], strict=True):
            if (count := len(part.rows)) < FEW:
                yield f"{called(name)} has {count} images: one of them moves its accuracy by {100 / count:.1f} points"
        most, images = len(self.task.catalog.rows("id_test")), self.corruptions.images if self.corruptions else 0
        if self.metric != ESTIMABLE and 0 < images < most:
            yield (f"corruptions are of {images:,} of {most:,} images of id_test: {self.metric} on them has fewer "
                   f"images of each class than the ID score it is compared with; say `images: {most}`")  # fmt: skip

    # --- corruptions

    @property
    def corrupted(self) -> Mapping[str, tuple[str, int]]:
        return self.corruptions.names if self.corruptions else {}

    @property
    def corrupted_as(self) -> dict[str, str]:
        """What identifies each corruption beside the images, by name."""
        images = self.corruptions.images if self.corruptions else 0
        return dict.fromkeys(self.corrupted, f"corruption-{VERSION}-{images}")

    def corrupted_rows(self) -> np.ndarray:
        """Those of lowest hashed priority, the same for every kind and severity."""
        rows, most = self.catalog.rows("id_test"), self.corruptions.images if self.corruptions else 0
        priority = mix_bits(self.catalog.ids[rows], seed_of("corrupted"))
        return np.sort(rows[np.argsort(priority, kind="stable")[:most]])

    # --- what the task says of itself

    @property
    def without_shifts(self) -> Task:
        return self.task

    @property
    def aside(self) -> tuple[str, ...]:
        return self.task.aside

    def published(self) -> Catalog | None:
        return self.task.published()

    def shares_images(self, source: Pool) -> bool:
        return self.task.shares_images(source)

    def outline(self) -> Sequence[str]:
        return (*self._notes(self.catalog.only), *self.task.outline())

    @property
    def fit(self) -> Any:
        return self.task.fit

    @property
    def broken(self) -> str:
        return self.task.broken

    # --- the images are those of the parts

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(part.rows) for part in self._parts)])

    def _each(self, rows: np.ndarray) -> Iterator[tuple[Part, np.ndarray, np.ndarray]]:
        """Yield the parts that some of `rows` are of: the positions in `rows`, and the rows of the part's pool."""
        rows = np.asarray(rows, np.int64)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(which):
            at = np.flatnonzero(which == number)
            yield self._parts[number], at, self._parts[number].rows[rows[at] - self._starts[number]]

    def _gathered(self, rows: np.ndarray, ask: Callable[[Pool, np.ndarray], np.ndarray], dtype: object) -> np.ndarray:
        values = np.empty(len(rows), dtype)  # type: ignore[call-overload]
        for part, at, own in self._each(rows):
            values[at] = ask(part.pool, own)
        return values

    def _those(self, rows: np.ndarray, ask: Callable[[Pool, np.ndarray], np.ndarray]) -> np.ndarray:
        """Return those of `rows` that a question to their pools picks out."""
        rows, chosen = np.asarray(rows, np.int64), np.zeros(len(rows), bool)
        for part, at, own in self._each(rows):
            chosen[at] = np.isin(own, ask(part.pool, own))
        return rows[chosen]

    def keys(self, rows: np.ndarray) -> list[str]:
        keys = np.empty(len(rows), object)
        for part, at, own in self._each(rows):
            within = "" if part.pool is self.task else f"{test_of(part.pool.name)}/"
            keys[at] = [f"{within}{key}" for key in part.pool.keys(own)]
        return list(keys)

    def read(self, rows: np.ndarray, size: int) -> Pixels:
        return self._read(rows, lambda pool, own: pool.read(own, size))

    def read_new(self, rows: np.ndarray, form: Form, stored: Callable[[bytes], bool]) -> Pixels:
        return self._read(rows, lambda pool, own: pool.read_new(own, form, stored))

    def _read(self, rows: np.ndarray, read: Callable[[Pool, np.ndarray], Pixels]) -> Pixels:
        parts = [(at, read(part.pool, own)) for part, at, own in self._each(rows)]
        if len(parts) == 1:
            return parts[0][1]
        first = parts[0][1].images
        whole = Pixels(np.empty((len(rows), *first.shape[1:]), first.dtype), {}, digests=np.zeros(len(rows), DIGEST),
                       stamps=np.zeros(len(rows), STAMP))  # fmt: skip
        skipped: list[int] = []
        for at, pixels in parts:
            whole.images[at] = pixels.images
            whole.broken.update({int(at[i]): why for i, why in pixels.broken.items()})
            skipped += [int(at[i]) for i in pixels.skipped]
            for values, own in ((whole.digests, pixels.digests), (whole.stamps, pixels.stamps)):
                assert values is not None
                assert own is not None
                values[at] = own
        return replace(whole, skipped=tuple(skipped))

    def learn(self, rows: np.ndarray, read: Pixels, root: Path) -> None:
        if self.rendered:  # no files
            return
        assert read.digests is not None
        assert read.stamps is not None
        for part, at, own in self._each(rows):
            position = {int(i): j for j, i in enumerate(at)}
            broken = {position[i]: why for i, why in read.broken.items() if i in position}
            part.pool.learn(own, Pixels(read.images[:0], broken, (), read.digests[at], read.stamps[at]), root)

    @property
    def pack(self) -> str:
        return self.task.pack

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        return self._gathered(rows, lambda pool, own: pool.addresses(own), DIGEST)

    def digests(self, rows: np.ndarray) -> np.ndarray | None:
        if self.rendered:
            return self.task.digests(rows)

        def of(pool: Pool, own: np.ndarray) -> np.ndarray:
            digests = pool.digests(own)
            assert digests is not None  # of files
            return digests

        return self._gathered(rows, of, DIGEST)

    def identities(self, rows: np.ndarray) -> Identities:
        ids, content, provisional = np.empty(len(rows), np.uint64), b"", False
        for part, at, own in self._each(rows):
            identities = part.pool.identities(own)
            ids[at], content = identities.ids, content + part.pool.name.encode() + identities.content
            provisional |= identities.provisional
        return Identities(ids, content, provisional)

    @property
    def unreadable(self) -> Mapping[int, str]:
        unreadable: dict[int, str] = {}
        for part, start in zip(self._parts, self._starts, strict=False):
            place = {int(row): i for i, row in enumerate(part.rows)} if part.pool.unreadable else {}
            unreadable |= {int(start) + place[row]: why for row, why in part.pool.unreadable.items() if row in place}
        return unreadable

    def unread(self, rows: np.ndarray | None = None) -> np.ndarray:
        rows = np.arange(self._starts[-1]) if rows is None else rows
        return self._those(rows, lambda pool, own: pool.unread(own))

    def reread(self, rows: np.ndarray, root: Path) -> np.ndarray:
        return self._those(rows, lambda pool, own: pool.reread(own, root))

    def unmade(self, rows: np.ndarray) -> np.ndarray:
        return self._those(rows, lambda pool, own: pool.unmade(own))

    def recall(self, root: Path) -> None:
        for part in self._parts:
            part.pool.recall(root)


def called(name: str, begins: bool = False) -> str:
    """Return what a message calls a test set: `shift v2`, `ID set web`."""
    text = named(test_of(name))
    return text[0].upper() + text[1:] if begins else text


def with_shifts(task: Task) -> Task:
    """Return the task with the further test sets that its options name: itself where they name none."""
    shifts, id_sets, corruptions = (getattr(task.options, name, None) for name in ("shifts", "id_sets", "corruptions"))
    sets = {**(shifts or {}), **{of_id_set(name): one for name, one in (id_sets or {}).items()}}
    return ShiftedTask(task, sets, corruptions) if sets or corruptions else task
