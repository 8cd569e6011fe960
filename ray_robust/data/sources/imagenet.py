"""The source `imagenet`: ILSVRC2012's training images as they are unpacked, classes by their WordNet ids.

Owns finding the images and the list of classes in any of the forms that they come in, and saying what is not there.
Nothing is downloaded. Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge" (IJCV 2015).
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from ray_robust.data.images.files import SUFFIXES, Folder, Walk, lines_of
from ray_robust.data.labels.hierarchy import attach_hierarchy
from ray_robust.data.labels.wnids import is_wnid
from ray_robust.data.labels.wordnet import HierarchyOption
from ray_robust.data.pool import Catalog, FileOptions, Source
from ray_robust.data.published import Absent, catalog_of_counts
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import ImageFiles, LocalPath, make_listing
from ray_robust.data.readers.listing_cache import cached
from ray_robust.data.readers.table import first_few
from ray_robust.errors import DataAbsent, Problem, UserError, did_you_mean, unexpanded

IMAGES, CLASSES = 1_281_167, 1_000
LICENCE = "ImageNet terms of access: non-commercial research and education (ILSVRC2012, Russakovsky et al. 2015)"
OBTAIN = (
    "Obtain it: image-net.org/download after registration (training images and development kit of ILSVRC2012), or "
    "kaggle.com/c/imagenet-object-localization-challenge; terms: non-commercial research"
)
LAYOUTS = ("train", "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", ".")
MAPPINGS, DEVKIT = ("LOC_synset_mapping.txt", "synset_words.txt"), "ILSVRC2012_devkit_t12"


@dataclass(frozen=True)
class ClassList:
    """The classes of a file: what people call them, by id, in sorted order. `complete`: no others are listed there."""

    file: Path
    names: Mapping[str, str]
    complete: bool = True


class ImageNet(ImageFiles, Source):
    """Classes are WordNet ids in sorted order; `Catalog.names` has what people call them."""

    class Options(FileOptions):
        root: LocalPath = Field(
            description="the folder that holds `train/<wnid>/*.JPEG` or `ILSVRC/Data/CLS-LOC/train/...`, and "
            "beside it the list of classes: LOC_synset_mapping.txt, synset_words.txt, torchvision's "
            "meta.bin, the development kit, or words.txt",
            examples=["root: ~/data/imagenet"],
        )
        hierarchy: HierarchyOption | None = Field(
            default="wordnet",
            description="`wordnet`, the folder or file of another, or null for none",
            examples=["hierarchy: null"],
        )
        absent: Absent = "fail"

    options: Options

    def published(self) -> Catalog:
        return catalog_of_counts("imagenet", IMAGES, CLASSES, LICENCE)

    def make_listing(self) -> Listing:
        folder = _find_images(Path(self.options.root))
        listed = _class_list(Path(self.options.root), folder)
        what = json.dumps([str(listed.file), sorted(listed.names.items()), listed.complete, self.options.absent])
        listing = cached(Folder(str(folder)), f"imagenet {what}", partial(self._list, folder, listed))
        return replace(listing, catalog=self._placed(listing.catalog))

    def _list(self, folder: Path, listed: ClassList, walk: Walk) -> Listing:
        paths, folders, drop = walk.files, walk.folders, self.options.absent == "drop"
        images = pd.Series(
            [p for p in paths if p.count("/") == 1 and p.isascii() and os.path.splitext(p)[1].lower() in SUFFIXES],
            dtype="str",
        )
        frame = pd.DataFrame({"key": images, "label": images.str.partition("/")[0] if len(images) else images})
        present = set(frame["label"].unique())
        expected = set(listed.names) if listed.complete else set(filter(is_wnid, folders))
        strange = sorted(({f for f in folders if "/" not in f} | present) - expected)
        lacking = sorted(expected - present)
        problems = list(
            first_few(len(strange), lambda i: Problem(f"{folder}/{strange[i]}", _strange(strange[i], listed, lacking)))
        )
        packed = sorted(p for p in paths if "/" not in p and p.endswith(".tar"))
        if packed:
            what = (
                f"{len(packed)} archives of classes are not unpacked ({_few(packed)}); each makes a folder of its name"
            )
            problems.append(Problem(str(folder), what))
        short = [*_short(frame, expected, lacking, listed)]
        if short and not drop and not packed:
            problems += [Problem(str(folder), f"{what}; copy the rest, or say `absent: drop`") for what in short]
        if len(present) < 2 and not problems:
            problems.append(Problem(str(folder), "holds images of fewer than two classes"))
        if problems:
            raise UserError(*problems)
        other = len(paths) - len(images)
        notes = [f"Not the official images: {what}." for what in short]
        notes += [f"{other} files that are no images of a class were ignored."] if other else []
        listing = make_listing(frame, Folder(str(folder)), LICENCE, tuple(notes), label="wnid")
        names = tuple(listed.names.get(wnid, wnid) for wnid in listing.catalog.classes)
        return replace(listing, catalog=replace(listing.catalog, names=names))

    def _placed(self, catalog: Catalog) -> Catalog:
        if self.options.hierarchy is None:
            return catalog
        try:
            return attach_hierarchy(catalog, self.options.hierarchy)
        except UserError as error:
            first, *others = error.problems
            what = f"{first.what}; or say `hierarchy: null`, to do without one"
            raise UserError(Problem(first.where, what), *others) from None


def _find_images(root: Path) -> Path:
    """Return the folder of class folders."""
    if not root.is_dir():
        raise DataAbsent(Problem(str(root), f"no such folder{unexpanded(root, '.')} {OBTAIN}"))
    for layout in LAYOUTS:
        folder = root / layout
        if folder.is_dir() and any(is_wnid(entry.name.removesuffix(".tar")) for entry in folder.iterdir()):
            return folder
    what = "holds no class folders; wanted: train/n01440764/*.JPEG or ILSVRC/Data/CLS-LOC/train/n01440764/*.JPEG"
    absent = not any(root.iterdir())
    raise (DataAbsent if absent else UserError)(Problem(str(root), f"{what}. {OBTAIN}" if absent else what))


def _class_list(root: Path, images: Path) -> ClassList:
    """Return the list of classes, from the first file of those that have one."""
    candidates = dict.fromkeys((root, images.parent, images))
    for read, name in (
        *((_mapping, name) for name in MAPPINGS),
        (_torchvision, "meta.bin"),
        (_devkit, f"{DEVKIT}/data/meta.mat"),
        (_devkit, f"{DEVKIT}.tar.gz"),
        (_words, "words.txt"),
    ):
        for folder in candidates:
            if (file := folder / name).is_file():
                try:
                    return read(file)
                except UserError:
                    raise
                except Exception as error:  # of torch, scipy or tarfile, on a file that is cut short or another's
                    what = f"is no list of ImageNet's classes that can be read ({type(error).__name__})"
                    raise UserError(Problem(str(file), what)) from None
    what = (
        "has no list of its classes: put LOC_synset_mapping.txt (or synset_words.txt, words.txt, meta.bin, "
        f"{DEVKIT}.tar.gz) there; it comes with the images"
    )
    raise UserError(Problem(str(root), what))


def _mapping(file: Path) -> ClassList:
    return ClassList(file, _named(file, " ", "n01440764 tench, Tinca tinca"))


def _words(file: Path) -> ClassList:
    return ClassList(file, _named(file, "\t", "n01440764<TAB>tench, Tinca tinca"), complete=False)


def _named(file: Path, between: str, wanted: str) -> dict[str, str]:
    names = {}
    for number, line in enumerate(lines_of(file, f"lines like {wanted!r}"), 1):
        wnid, _, words = line.partition(between)
        if not is_wnid(wnid) or not words.strip():
            raise UserError(Problem(f"{file}:{number}", f"is no line like {wanted!r}"))
        names[wnid] = words.split(",")[0].strip()
    return dict(sorted(names.items()))


def _torchvision(file: Path) -> ClassList:
    import torch  # seconds: only for those who have this file alone

    by_id, _ = torch.load(file, weights_only=True)
    return ClassList(file, {wnid: words[0] for wnid, words in sorted(by_id.items())})


def _devkit(file: Path) -> ClassList:
    from scipy.io import loadmat

    if file.suffix == ".mat":
        synsets = loadmat(file, squeeze_me=True)["synsets"]
    else:
        with tarfile.open(file) as archive:
            member: Any = archive.extractfile(f"{DEVKIT}/data/meta.mat")
            synsets = loadmat(member, squeeze_me=True)["synsets"]
    leaves = [row for row in synsets if row["num_children"] == 0]
    return ClassList(
        file, {str(r["WNID"]): str(r["words"]).split(",")[0] for r in sorted(leaves, key=lambda r: r["WNID"])}
    )


def _short(frame: pd.DataFrame, expected: set[str], lacking: list[str], listed: ClassList) -> Iterator[str]:
    """Yield what is missing of a whole copy."""
    if lacking:
        yield f"{len(lacking)} of the {len(expected):,} classes of {listed.file.name} have no images ({_few(lacking)})"
    elif listed.complete and len(expected) == CLASSES and len(frame) < IMAGES:
        yield f"{len(frame):,} of ILSVRC2012's {IMAGES:,} images are there"


def _strange(folder: str, listed: ClassList, lacking: list[str]) -> str:
    plain = folder.replace("_", " ").lower()
    meant = next((w for w, name in listed.names.items() if name.lower() == plain), None)
    hint = f"; did you mean {meant}?" if meant else did_you_mean(folder, lacking) if lacking else ""
    return f"is no class of {listed.file.name}{hint}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
