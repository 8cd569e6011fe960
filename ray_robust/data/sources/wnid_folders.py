"""The sources `tiny-imagenet`, `mini-imagenet`, `imagenette`, `imagewoof`: parts of ImageNet in folders of WordNet ids.

Owns finding each in the layouts that it is published in, their published counts, and saying what is not there. Nothing
is downloaded. A part is what the makers divided the images by; parts of one distribution are no shift: the task
`subpopulation` makes one of any of these sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd
from pydantic import Field

from ray_robust.data.images.files import SUFFIXES, Folder, lines_of
from ray_robust.data.labels.hierarchy import attach_hierarchy
from ray_robust.data.labels.wnids import is_wnid, names_of, timm_list
from ray_robust.data.labels.wordnet import HierarchyOption
from ray_robust.data.pool import Catalog, FileOptions, Source
from ray_robust.data.published import Absent, catalog_of_counts
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import ImageFiles, LocalPath, make_listing
from ray_robust.data.readers.table import first_few, read_table
from ray_robust.data.sources.imagenet import LICENCE
from ray_robust.errors import DataAbsent, Problem, UserError, did_you_mean, unexpanded

DOWNLOAD = "Obtain it: python -m ray_robust.ingest {} --download --root DIR"
# github.com/fastai/imagenette
NETTE = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257"
WOOF = "n02086240 n02087394 n02088364 n02089973 n02093754 n02096294 n02099601 n02105641 n02111889 n02115641"
ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True)
class Published:
    """What was published of a set: of each part its images and classes, and of the whole; `wnids`: its classes, where
    they are the same in every part."""

    title: str
    obtain: str
    parts: Mapping[str, tuple[int, int]]
    whole: tuple[int, int]
    layout: str
    wnids: Callable[[Path], frozenset[str]]

    def counts(self, split: str) -> tuple[int, int]:
        return self.whole if split == "all" else self.parts[split]


@dataclass
class PartListing:
    """Key and label of each image of the parts that were read, and what is wrong with them."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    ignored: int = 0


class WnidOptions(FileOptions):
    """Parts of ImageNet in folders of WordNet ids, in the layouts that they are published in."""

    root: LocalPath = Field(
        description="the folder that was unpacked, or the one that holds it",
        examples=["root: ~/data/tiny-imagenet-200"],
    )
    split: Literal["train", "val", "all"] = Field(
        default="train",
        description="the part of the images: as published, or all",
        examples=["split: all"],
    )
    hierarchy: HierarchyOption | None = Field(
        default=None,
        description="`wordnet`, WordNet's dict folder, or a file of parent-child pairs; not given: none",
        examples=["hierarchy: wordnet"],
    )
    absent: Absent = "fail"


class WnidFolders(ImageFiles, Source):
    """Classes are WordNet ids in sorted order; `Catalog.names` has what people call them."""

    Options = WnidOptions
    options: WnidOptions
    facts: ClassVar[Published]

    def published(self) -> Catalog:
        images, classes = self.facts.counts(self.options.split)
        return catalog_of_counts(f"{self.facts.title} {self.options.split}", images, classes, LICENCE)

    def make_listing(self) -> Listing:
        facts, split = self.facts, self.options.split
        root = self._root(Path(self.options.root))
        listed = self._list(root, [*facts.parts] if split == "all" else [split])
        frame = pd.DataFrame(listed.rows, columns=["key", "label"], dtype="str")
        problems = listed.problems
        short = self._short(root, frame) if not problems else ""
        if not len(frame) and not problems:
            there = [part for part in facts.parts if part != split and self._list(root, [part]).rows]
            hint = f"; it has {', '.join(there)}: say `split: {there[0]}`" if there else ""
            problems.append(Problem(str(root), f"holds no images of {split}; wanted: {facts.layout}{hint}"))
        elif short and self.options.absent == "fail":
            problems.append(Problem(str(root), f"{short}; copy the rest, or say `absent: drop`"))
        elif frame["label"].nunique() < 2 and not problems:
            problems.append(Problem(str(root), "holds images of fewer than two classes"))
        if problems:
            raise UserError(*problems)
        notes = [f"Not the published images: {short}."] if short else []
        notes += [f"{listed.ignored} files that are no images of a class were ignored."] if listed.ignored else []
        listing = make_listing(frame, Folder(str(root)), LICENCE, tuple(notes), label="wnid")
        catalog = replace(listing.catalog, names=names_of(listing.catalog.classes, root / "words.txt"))
        if self.options.hierarchy is not None:
            catalog = attach_hierarchy(catalog, self.options.hierarchy)
        return replace(listing, catalog=catalog)

    def _list(self, root: Path, parts: Iterable[str]) -> PartListing:
        listed = PartListing()
        for part in parts:
            self.list_part(root, part, listed)
        return listed

    def list_part(self, root: Path, part: str, listed: PartListing) -> None:
        """Add to `listed` the images of a part: every one below `<part>/<wnid>/`."""
        self.list_classes(root, part, listed)

    def list_classes(self, root: Path, below: str, listed: PartListing) -> None:
        """Add to `listed` the images in the class folders of `below`, a folder of `root`."""
        folder = root / below
        if not folder.is_dir():
            return
        files, folders, _ = Folder(str(folder)).walk()
        wnids = self.facts.wnids(root)
        classes = {f for f in folders if "/" not in f}
        strange = sorted(f for f in classes if f not in wnids and (wnids or not is_wnid(f)))
        listed.problems += self._strange(folder, strange, classes, wnids)
        images = [f for f in files if "/" in f and f.isascii() and Path(f).suffix.lower() in SUFFIXES]
        listed.ignored += len(files) - len(images) - sum(f.endswith("_boxes.txt") or f == ANNOTATIONS for f in files)
        prefix = "" if below == "." else f"{below}/"
        listed.rows += [(f"{prefix}{f}", f.partition("/")[0]) for f in images]

    def is_root(self, folder: Path) -> bool:
        """Return whether the set lies in this folder."""
        return any(_holds_classes(folder / part) for part in self.facts.parts)

    def _root(self, root: Path) -> Path:
        """Return the folder of the set: `root`, or the one inside it. Raises UserError; DataAbsent where there is
        nothing."""
        if not root.is_dir() or not any(root.iterdir()):
            what = f"no such folder, or an empty one{unexpanded(root, '.')} {self.facts.obtain}"
            raise DataAbsent(Problem(str(root), what))
        if self.is_root(root):
            return root
        inside = sorted(entry for entry in root.iterdir() if entry.is_dir() and self.is_root(entry))
        if len(inside) == 1:
            return inside[0]
        above = next((folder for folder in list(root.parents)[:3] if self.is_root(folder)), None)
        hint = f"; did you mean {above}?" if above else ""
        if inside:
            hint = f"; did you mean {' or '.join(map(str, inside[:3]))}?"
        if _holds_classes(root) and not hint:
            hint = "; class folders without a part are read by the source folder"
        raise UserError(Problem(str(root), f"is no {self.facts.title}; wanted: {self.facts.layout}{hint}"))

    def _strange(self, folder: Path, strange: list[str], classes: set[str], wnids: frozenset[str]) -> Iterable[Problem]:
        """Yield the folders that are no class of the set; of another set's in one line."""
        what = f"is no class of {self.facts.title}"
        if len(strange) > 1 and not classes & wnids:
            other = next((f"; is it the source {name}?" for name, ids in OWN.items() if classes <= ids), "")
            few = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
            return [
                Problem(
                    str(folder),
                    f"holds {len(strange)} folders, none of them a class of {self.facts.title} ({few}){other}",
                )
            ]
        lacking = sorted(wnids - classes)
        called = {name.lower(): wnid for wnid, name in zip(lacking, names_of(lacking), strict=True)}

        def problem(i: int) -> Problem:
            name = strange[i]
            meant = called.get(name.replace("_", " ").lower())
            hint = f"; did you mean {meant}?" if meant else "" if is_wnid(name) else did_you_mean(name, lacking)
            return Problem(f"{folder}/{name}", what + hint)

        return first_few(len(strange), problem)

    def _short(self, root: Path, frame: pd.DataFrame) -> str:
        """Return what lacks of the published images, "" where nothing does. Where all that was published is there, the
        parts may be those that somebody else made of it."""
        facts, split = self.facts, self.options.split
        images, classes = facts.counts(split)
        present, ids = set(frame["label"]), facts.wnids(root)
        if len(frame) >= images and len(present) >= classes:
            return ""
        if split != "all":
            every = self._list(root, facts.parts).rows
            if len(every) >= facts.whole[0] and len({label for _, label in every}) >= facts.whole[1]:
                return ""
        where = "" if split == "all" else f" in {split}"
        if len(present) < classes:
            lacking = sorted(ids - present) if len(ids) == classes else []
            which = f" ({', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''} not)" if lacking else ""
            return f"{len(present):,} of {facts.title}'s {classes:,} classes{where} are there{which}"
        return f"{len(frame):,} of {facts.title}'s {images:,} images{where} are there"


class TinyImageNet(WnidFolders):
    """200 classes of ImageNet at 64 px: 500 images of each to train on, 50 in val. Le and Yang, CS 231N 2015.

    Its test images have no labels, and are not read. Where somebody sorted val into class folders it is read so.
    """

    facts = Published(
        "Tiny-ImageNet",
        DOWNLOAD.format("tiny-imagenet"),
        {"train": (100_000, 200), "val": (10_000, 200)},
        (110_000, 200),
        f"train/n01443537/images/*.JPEG, and val/images/*.JPEG with val/{ANNOTATIONS}",
        lambda root: _listed(root / "wnids.txt"),
    )

    def list_part(self, root: Path, part: str, listed: PartListing) -> None:
        if part == "val" and ((root / "val" / ANNOTATIONS).is_file() or (root / "val/images").is_dir()):
            self._list_val(root, listed)
        else:
            super().list_part(root, part, listed)

    def _list_val(self, root: Path, listed: PartListing) -> None:
        file, classes = root / "val" / ANNOTATIONS, self.facts.wnids(root)
        label_of: dict[str, str] = {}
        wrong: list[Problem] = []
        lines = lines_of(file, "lines like 'val_0.JPEG<TAB>n03444034<TAB>0<TAB>32<TAB>44<TAB>62'")
        for number, line in enumerate(lines, 1):
            name, _, wnid = line.partition("\t")
            wnid = wnid.partition("\t")[0]
            if not is_wnid(wnid) or (classes and wnid not in classes):
                wrong.append(Problem(f"{file}:{number}", "is no line like 'val_0.JPEG<TAB>n03444034<TAB>...'"))
            elif label_of.setdefault(name, wnid) != wnid:
                wrong.append(Problem(f"{file}:{number}", f"{name} has two classes, {label_of[name]} and {wnid}"))
        listed.problems += first_few(len(wrong), lambda i: wrong[i])
        images = root / "val/images"
        if not images.is_dir():  # sorted into class folders, with the list left beside them
            self.list_classes(root, "val", listed)
            return
        there = {name for name in Folder(str(images)).walk().files if Path(name).suffix.lower() in SUFFIXES}
        unlisted = sorted(there - set(label_of))
        if not wrong:
            listed.problems += first_few(
                len(unlisted), lambda i: Problem(f"{images}/{unlisted[i]}", f"has no class in {file.name}")
            )
        listed.rows += [(f"val/images/{name}", label_of[name]) for name in sorted(there & set(label_of))]


class MiniImageNet(WnidFolders):
    """100 classes of ImageNet, 600 images of each. Vinyals et al., "Matching Networks for One Shot Learning" (2016).

    Counts are those of the division by classes of Ravi and Larochelle (ICLR 2017), 64 to train on, 16 in val, 20 in
    test; another one is read as well, where all 60,000 images are there.
    """

    class Options(WnidOptions):
        root: LocalPath = Field(
            description="the folder that holds `train`, `val` and `test` with class folders, or `images` and "
            "train.csv, val.csv, test.csv (filename, label), or the class folders themselves",
            examples=["root: ~/data/mini-imagenet"],
        )
        split: Literal["train", "val", "test", "all"] = Field(  # type: ignore[assignment]  # one part more
            default="train",
            description="the part of the classes: as published, or all",
            examples=["split: all"],
        )

    facts = Published(
        "mini-ImageNet",
        "Obtain ImageNet and make it by the lists of github.com/twitter-research/meta-learning-lstm, or copy it from "
        "where somebody did; terms: non-commercial research",
        {"train": (38_400, 64), "val": (9_600, 16), "test": (12_000, 20)},
        (60_000, 100),
        "train/n01532829/*.jpg (val, test), or images/*.jpg with train.csv (val.csv, test.csv)",
        lambda root: timm_list("mini_imagenet_synsets.txt"),
    )

    def is_root(self, folder: Path) -> bool:
        by_csv = (folder / "images").is_dir() and any((folder / f"{part}.csv").is_file() for part in self.facts.parts)
        return (
            by_csv
            or super().is_root(folder)
            or (_holds_classes(folder) and not _holds_classes(folder.parent / "train"))
        )

    def list_part(self, root: Path, part: str, listed: PartListing) -> None:
        file = root / f"{part}.csv"
        if file.is_file() and (root / "images").is_dir():
            self._list_csv(root, file, part, listed)
        elif _holds_classes(root):
            if part == "train" and self.options.split != "all":
                listed.problems.append(Problem(str(root), "holds class folders of no part; say `split: all`"))
            elif part == "train":
                self.list_classes(root, ".", listed)
        else:
            super().list_part(root, part, listed)

    def _list_csv(self, root: Path, file: Path, part: str, listed: PartListing) -> None:
        table, lines = read_table(file, ("filename", "label"))
        if lacking := [column for column in ("filename", "label") if column not in table]:
            listed.problems.append(
                Problem(
                    f"{file}:{lines.header}", f"has no column {lacking[0]!r}{did_you_mean(lacking[0], table.columns)}"
                )
            )
            return
        there = set(Folder(str(root / "images")).walk().files)
        wrong: list[tuple[int, str]] = []
        for at, (name, label) in enumerate(zip(table["filename"], table["label"], strict=True)):
            key = next((k for k in (name, f"{label}/{name}") if k in there), None)
            if not is_wnid(label):
                wrong.append((at, f"the label {label!r} is no WordNet id like n01532829"))
            elif key is not None:
                listed.rows.append((f"images/{key}", label))
        listed.problems += first_few(len(wrong), lambda i: Problem(f"{file}:{lines[wrong[i][0]]}", wrong[i][1]))


def _fastai(title: str, name: str, train: int, val: int, wnids: str) -> Published:
    ids = frozenset(wnids.split())
    first = min(ids)
    return Published(
        title,
        DOWNLOAD.format(name),
        {"train": (train, 10), "val": (val, 10)},
        (train + val, 10),
        f"train/{first}/*.JPEG and val/{first}/*.JPEG",
        lambda root: ids,
    )


class Imagenette(WnidFolders):
    """10 classes of ImageNet that are easily told apart, in any of its sizes. Howard, github.com/fastai/imagenette."""

    facts = _fastai("Imagenette 2", "imagenette", 9_469, 3_925, NETTE)


class Imagewoof(WnidFolders):
    """10 breeds of dogs of ImageNet, in any of its sizes. Howard, github.com/fastai/imagenette."""

    facts = _fastai("Imagewoof 2", "imagewoof", 9_025, 3_929, WOOF)


OWN = {"imagenette": frozenset(NETTE.split()), "imagewoof": frozenset(WOOF.split())}


def _holds_classes(folder: Path) -> bool:
    return folder.is_dir() and any(is_wnid(entry.name) for entry in folder.iterdir())


def _listed(file: Path) -> frozenset[str]:
    """Return the ids of a list; none where there is no such file."""
    return frozenset(filter(is_wnid, lines_of(file, "an id a line"))) if file.is_file() else frozenset()
