"""The sources `cifar-10` and `cifar-100`: their python or binary version, as downloaded or as unpacked.

Owns the classes, CIFAR-100's superclasses, and what an image is: its 3,072 bytes, as the portable pixmap (PPM) that
they make, wherever they lie. The same picture saved as PNG or JPEG is other bytes, hence no identical file; the search
for duplicates by pixels finds it. Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images"
(2009).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from ray_robust.data.images.files import STAMP_FIELDS, Folder, Stamp, stamp_at
from ray_robust.data.pool import Catalog, FileOptions, Source
from ray_robust.data.published import Absent, catalog_of_counts
from ray_robust.data.readers.cifar_batches import Batch, Form, Layout, Place, find_place, pixels_of, read_part
from ray_robust.data.readers.file_pool import FilePool, Listing
from ray_robust.data.readers.folder import LocalPath, make_listing
from ray_robust.errors import DataAbsent, Problem, UserError, unexpanded

LICENCE = "no licence stated by its makers, who ask to be cited (Krizhevsky 2009)"
OBTAIN = "Obtain it: python -m ray_robust.ingest {} --download --root DIR"
HEADER = b"P6 32 32 255\n"  # of a portable pixmap: what follows are the pixels, red, green and blue of each in turn
TEN = "airplane automobile bird cat deer dog frog horse ship truck"
HUNDRED = """\
aquatic_mammals: beaver dolphin otter seal whale
fish: aquarium_fish flatfish ray shark trout
flowers: orchid poppy rose sunflower tulip
food_containers: bottle bowl can cup plate
fruit_and_vegetables: apple mushroom orange pear sweet_pepper
household_electrical_devices: clock keyboard lamp telephone television
household_furniture: bed chair couch table wardrobe
insects: bee beetle butterfly caterpillar cockroach
large_carnivores: bear leopard lion tiger wolf
large_man-made_outdoor_things: bridge castle house road skyscraper
large_natural_outdoor_scenes: cloud forest mountain plain sea
large_omnivores_and_herbivores: camel cattle chimpanzee elephant kangaroo
medium_mammals: fox porcupine possum raccoon skunk
non-insect_invertebrates: crab lobster snail spider worm
people: baby boy girl man woman
reptiles: crocodile dinosaur lizard snake turtle
small_mammals: hamster mouse rabbit shrew squirrel
trees: maple_tree oak_tree palm_tree pine_tree willow_tree
vehicles_1: bicycle bus motorcycle pickup_truck train
vehicles_2: lawn_mower rocket streetcar tank tractor"""  # both in the order of their numbers: by their names


@dataclass(frozen=True)
class Names:
    """The classes in the order of their numbers, and the superclass of each (of CIFAR-10, none)."""

    classes: tuple[str, ...]
    above: Mapping[str, str]


def _hundred() -> Names:
    above = {name: line.partition(":")[0] for line in HUNDRED.splitlines() for name in line.partition(": ")[2].split()}
    return Names(tuple(sorted(above)), above)


def _forms(name: str, python: str, binary: str, train: tuple[str, ...], test: str) -> tuple[Form, Form]:
    """Return both versions; the binary one first, which needs least to be read."""
    return (
        Form(binary, f"{name}-binary.tar.gz", {"train": tuple(f"{t}.bin" for t in train), "test": (f"{test}.bin",)}),
        Form(python, f"{name}-python.tar.gz", {"train": train, "test": (test,)}),
    )


class CifarOptions(FileOptions):
    """Where the images are, and which of them."""

    root: LocalPath = Field(
        description="the folder of the batches (python or binary version), the folder that holds it, or the tar.gz",
        examples=["root: ~/data/cifar-100-binary"],
    )
    split: Literal["train", "test", "all"] = Field(
        default="train",
        description="the part of the images: 50,000 of train, 10,000 of test, or all",
        examples=["split: all"],
    )
    absent: Absent = "fail"


class Cifar(FilePool, Source):
    """What the two have in common. An image's key is its part and its number there: `train/00000`."""

    Options = CifarOptions
    options: CifarOptions
    layout: ClassVar[Layout]
    names: ClassVar[Names]

    @property
    def parts(self) -> tuple[str, ...]:
        return ("train", "test") if self.options.split == "all" else (self.options.split,)

    @property
    def expected(self) -> int:
        """Return how many images were published of these parts."""
        return sum(self.layout.counts[p] * len(self.layout.forms[0].files[p]) for p in self.parts)

    def published(self) -> Catalog:
        return catalog_of_counts(
            f"{self.layout.name} {self.options.split}", self.expected, len(self.names.classes), LICENCE
        )

    @cached_property
    def place(self) -> Place:
        """Where the batches are. Raises UserError; DataAbsent where there is nothing."""
        root, name = Path(self.options.root), self.layout.name.lower()
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):
            what = f"no such folder, or an empty one{unexpanded(root, '.')} {OBTAIN.format(name)}"
            raise DataAbsent(Problem(str(root), what))
        if root.is_file() and root.suffix not in (".gz", ".tgz", ".tar"):
            hint = f"; did you mean {root.parent}?" if find_place(root.parent, self.layout) else ""
            raise UserError(Problem(str(root), f"is no folder and no tar.gz of {self.layout.name}{hint}"))
        if (place := find_place(root, self.layout)) is None:
            files = ", or ".join(f"{form.folder}/{form.files['test'][0]}" for form in self.layout.forms)
            packed = " or ".join(form.archive for form in self.layout.forms)
            what = f"holds no batches of {self.layout.name}; wanted: {files}, or {packed}{self._hint(root)}"
            raise UserError(Problem(str(root), what))
        return place

    def _hint(self, root: Path) -> str:
        for other in (Cifar10, Cifar100):
            if other is not type(self) and find_place(root, other.layout):
                return f"; did you mean the source {other.layout.name.lower()}?"
        inside = sorted(entry for entry in root.iterdir() if entry.is_dir())
        near = next((f for f in [*inside, *list(root.parents)[:2]] if f.is_dir() and find_place(f, self.layout)), None)
        return f"; did you mean {near}?" if near else ""

    def make_listing(self) -> Listing:
        place, layout = self.place, self.layout
        frames, problems, notes = [], [], []
        for part in self.parts:
            batches, wrong = read_part(place, layout, part)
            problems += wrong
            for number, batch in batches.items():
                problems += self._mislabelled(place.file(part, number), batch)
                frames.append(self._frame(part, number, batch) if not problems else pd.DataFrame())
        images = sum(map(len, frames))
        short = f"{images:,} of {layout.name}'s {self.expected:,} images of {self.options.split} are there"
        if not problems and images < self.expected:
            if self.options.absent == "fail" or not images:
                problems.append(Problem(str(place.path), f"{short}; copy the rest, or say `absent: drop`"))
            notes.append(f"Not the published images: {short}.")
        if problems:
            raise UserError(*problems)
        frame = pd.concat(frames, ignore_index=True)
        classes = tuple(name for name in self.names.classes if (frame["label"] == name).any())
        ranks = ("superclass",) if self.names.above else ()
        return make_listing(frame, Folder(str(place.path)), LICENCE, tuple(notes), ranks, "class", classes)

    def _mislabelled(self, file: Path, batch: Batch) -> list[Problem]:
        """Return what is wrong with the labels of a batch: a number that no class has, another superclass."""
        names = self.names
        fine = batch.labels[:, -1]
        if len(fine) and fine.max() >= len(names.classes):
            what = f"has the label {fine.max()}; {self.layout.name} has {len(names.classes)} classes"
            return [Problem(str(file), what)]
        if names.above:
            coarse = sorted(set(names.above.values()))
            right = np.array([coarse.index(names.above[name]) for name in names.classes])
            if (wrong := np.flatnonzero(batch.labels[:, 0] != right[fine])).size:
                what = f"image {wrong[0]} ({names.classes[fine[wrong[0]]]}) has another superclass than in CIFAR-100"
                return [Problem(str(file), what)]
        return []

    def _frame(self, part: str, number: int, batch: Batch) -> pd.DataFrame:
        first = number * self.layout.counts[part]
        label = np.array(self.names.classes, dtype=object)[batch.labels[:, -1]]
        frame = pd.DataFrame({"key": [f"{part}/{first + i:05d}" for i in range(len(label))], "label": label})
        if self.names.above:
            frame["rank superclass"] = frame["label"].map(self.names.above)
        return frame.assign(**dict(zip(STAMP_FIELDS, batch.stamp, strict=True)))

    def opened(self, rows: np.ndarray) -> Callable[[int], tuple[bytes, Stamp]]:
        keys, listed = self.keys(rows), self._listing.stamps[rows]

        def read(at: int) -> tuple[bytes, Stamp]:
            part, _, index = keys[at].partition("/")
            number, within = divmod(int(index), self.layout.counts[part])
            pixels = pixels_of(self.place, self.layout, part, self._stamps[part])[number][within]
            stamp: Stamp = tuple(int(value) for value in listed[at])  # type: ignore[assignment]  # four of them
            if stamp_at(str(file := self.place.file(part, number))) != stamp:
                raise UserError(Problem(str(file), "has changed since it was listed; run the same command again"))
            return HEADER + np.ascontiguousarray(pixels.reshape(3, -1).T).tobytes(), stamp

        return read

    @cached_property
    def _stamps(self) -> dict[str, tuple[tuple[int, Stamp], ...]]:
        """By part: the number of each batch, and how its file was when it was listed."""
        by_part: dict[str, dict[int, Stamp]] = {part: {} for part in self.parts}
        for key, stamp in zip(self._listing.keys, self._listing.stamps.tolist(), strict=True):
            part, _, index = key.partition("/")
            by_part[part].setdefault(int(index) // self.layout.counts[part], stamp)
        return {part: tuple(sorted(stamps.items())) for part, stamps in by_part.items()}


_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))


class Cifar10(Cifar):
    """60,000 photographs of 10 classes, 32 px; no hierarchy."""

    layout = Layout(
        "CIFAR-10",
        _forms("cifar-10", "cifar-10-batches-py", "cifar-10-batches-bin", _TRAIN, "test_batch"),
        ("labels",),
        {"train": 10_000, "test": 10_000},
    )
    names = Names(tuple(TEN.split()), {})


class Cifar100(Cifar):
    """60,000 photographs of 100 classes, 32 px; the rank `superclass` has the 20 of its makers."""

    layout = Layout(
        "CIFAR-100",
        _forms("cifar-100", "cifar-100-python", "cifar-100-binary", ("train",), "test"),
        ("coarse_labels", "fine_labels"),
        {"train": 50_000, "test": 10_000},
    )
    names = _hundred()
