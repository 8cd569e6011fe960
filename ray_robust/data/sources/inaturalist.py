"""The source `inaturalist`: the species of the iNaturalist challenges of 2017 and 2021, with their taxonomy.

Owns reading the official JSON without holding it in memory, the ranks, and saying which images are not there. Nothing
is downloaded. Source: Van Horn et al., "The iNaturalist Species Classification and Detection Dataset" (CVPR 2018) and
"Benchmarking Representation Learning for Natural World Image Collections" (CVPR 2021).
"""

from __future__ import annotations

import json
import mmap
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BeforeValidator, Field

from ray_robust.data.images.files import Folder
from ray_robust.data.pool import Catalog, FileOptions, Source
from ray_robust.data.published import Absent, catalog_of_counts
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import ImageFiles, LocalPath, make_listing, with_stamps
from ray_robust.data.readers.table import SHOWN, first_few
from ray_robust.errors import DataAbsent, Problem, UserError, did_you_mean, unexpanded

LICENCE = "each image under its photographer's licence (mostly CC BY-NC); the challenge: non-commercial research"


@dataclass(frozen=True)
class Release:
    """What was published of one version, and how its files are called. `ranks`: the JSON's keys, coarse to fine."""

    listing: str
    images: int
    classes: int
    ranks: tuple[str, ...]
    obtain: str


RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")
_OBTAIN = "Obtain it: github.com/visipedia/inat_comp/tree/master/{} ({}); terms: non-commercial research"
_DOWNLOAD = "; or python -m ray_robust.ingest inaturalist:{} --download --root DIR"
RELEASES = {
    "2017": Release("train2017.json", 579_184, 5_089, ("supercategory", "genus"),
                    _OBTAIN.format("2017", "train_val_images.tar.gz, train_val2017.zip")),
    "2021": Release("train.json", 2_686_843, 10_000, RANKS,
                    _OBTAIN.format("2021", "train.tar.gz, train.json.tar.gz") + _DOWNLOAD.format("2021")),
    "2021-mini": Release("train_mini.json", 500_000, 10_000, RANKS,
                         _OBTAIN.format("2021", "train_mini.tar.gz, train_mini.json.tar.gz")
                         + _DOWNLOAD.format("2021-mini")),
}  # fmt: skip


class INaturalist(ImageFiles, Source):
    """Classes are species by their scientific names; `Catalog.names` has the common ones (2021).

    The rank "class" of biology is called `taxon_class`, since `class` means the finest labels everywhere.
    """

    class Options(FileOptions):
        root: LocalPath = Field(
            description="the folder that holds the JSON (`train2017.json`, `train.json`, `train_mini.json`) and "
            "the images below `train_val_images/`, `train/` or `train_mini/`",
            examples=["root: ~/data/inat"],
        )
        version: Annotated[Literal["2017", "2021", "2021-mini"], BeforeValidator(str)] = Field(
            default="2017",
            description="2017 (579,184 images, 5,089 species), 2021 (2,686,843, 10,000) or 2021-mini (500,000, 10,000)",
            examples=["version: 2021-mini"],
        )
        absent: Absent = "fail"

    options: Options

    @property
    def release(self) -> Release:
        return RELEASES[self.options.version]

    def published(self) -> Catalog:
        return catalog_of_counts(
            f"inaturalist {self.options.version}", self.release.images, self.release.classes, LICENCE
        )

    def make_listing(self) -> Listing:
        release, root = self.release, Path(self.options.root)
        categories, paths = read_listing(self._file(root, release), release)
        keys = pd.Series(paths, dtype="str")
        folder = keys.str.rpartition("/")[0]
        species = _by_folder(folder, categories, release, root)
        frame = pd.DataFrame({"key": keys, "label": folder.map(species)})
        files = Folder(str(root))
        frame = with_stamps(frame, files)
        there = (frame["size"] >= 0).to_numpy(bool)
        notes = []
        if not there.all():
            problems = _absent(frame[~there], folder[~there], frame[there], root, release)
            if self.options.absent == "fail" or not there.any():
                raise UserError(*problems)
            notes = [f"Not the official images: {there.sum():,} of {len(frame):,} are there."]
            frame = frame[there].reset_index(drop=True)
        elif len(frame) != release.images:
            notes = [f"Not the official images: {len(frame):,} of {release.images:,} are listed."]
        ranks = _hierarchy(categories, release)
        listing = make_listing(frame, files, LICENCE, tuple(notes), label="species")
        classes = list(listing.catalog.classes)
        ranks = ranks.loc[classes]
        common = categories.set_index("label").get("common_name")
        more: dict[str, Any] = {"hierarchy": ranks}
        if common is not None:
            more["names"] = tuple(str(name) or label for label, name in common.loc[classes].items())
        return replace(listing, catalog=replace(listing.catalog, **more))

    def _file(self, root: Path, release: Release) -> Path:
        file = root / release.listing
        if not root.is_dir() or not any(root.iterdir()):
            raise DataAbsent(
                Problem(str(root), f"no such folder, or an empty one{unexpanded(root, '.')} {release.obtain}")
            )
        if not file.is_file():
            other = [version for version, release in RELEASES.items() if (root / release.listing).is_file()]
            hint = f"; did you mean version: {other[0]}?" if other else f". {release.obtain}"
            raise UserError(Problem(str(root), f"has no {release.listing} (version {self.options.version}){hint}"))
        return file


def read_listing(file: Path, release: Release) -> tuple[pd.DataFrame, list[str]]:
    """Return the categories (a row each: columns label, common_name where there is one, and the release's ranks) and
    the paths of all images of one of the official JSON files.

    These hold a record per image, gigabytes once they are Python objects, so that only what is wanted is searched for:
    a quote inside a JSON text is escaped, hence `"file_name":` can be nothing but a key. Raises UserError.
    """
    with open(file, "rb") as opened:
        try:
            text: Any = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise UserError(Problem(str(file), "is empty")) from None
        with text:
            key = re.search(rb'"categories"\s*:\s*(?=\[)', text)
            categories = _array(text, key.end()) if key else None
            paths = [_text(m[1]) for m in re.finditer(rb'"file_name"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")', text)]
            whole = text[text.size() - 64 :].rstrip().endswith(b"}") if text.size() > 64 else True
    if not categories or not paths or not whole:
        what = "images" if categories else "categories"
        what = "is cut short" if not whole else f"lists no {what}"
        raise UserError(Problem(str(file), f"{what}; wanted: the official {release.listing}"))
    frame = pd.DataFrame(categories)
    if "genus" not in frame and "name" in frame:  # 2017 names it by the first word of a species
        frame["genus"] = frame["name"].str.partition(" ")[0]
    if lacking := [key for key in ("name", *release.ranks) if key not in frame]:
        raise UserError(Problem(str(file), f"its categories have no {', '.join(lacking)}; is it of another version?"))
    twice = frame["name"].duplicated(keep=False)  # a plant and an animal may share a name
    frame["label"] = frame["name"].where(~twice, frame["name"] + " (" + frame[release.ranks[0]] + ")")
    return frame, paths


def _array(text: Any, start: int) -> list[dict] | None:
    """Return the JSON array that begins at `start`; None if it does not end."""
    size = 1 << 20
    while True:
        part = bytes(text[start : start + size])
        try:
            return json.JSONDecoder().raw_decode(part.decode("utf-8", "ignore"))[0]
        except json.JSONDecodeError:
            if start + size >= len(text):
                return None
            size *= 4


def _text(quoted: bytes) -> str:
    return json.loads(quoted) if b"\\" in quoted else quoted[1:-1].decode()


def _by_folder(folders: pd.Series, categories: pd.DataFrame, release: Release, root: Path) -> dict[str, str]:
    """Return the label of each folder of images: 2017 has `<top>/<supercategory>/<name>`, 2021
    `<top>/<image_dir_name>`."""
    if "image_dir_name" in categories:
        label_of = dict(zip(categories["image_dir_name"], categories["label"], strict=True))
        folder_labels = {folder: label_of.get(folder.rpartition("/")[2]) for folder in folders.unique()}
    else:
        pairs = zip(categories["supercategory"], categories["name"], strict=True)
        label_of = {"/".join(pair): label for pair, label in zip(pairs, categories["label"], strict=True)}
        folder_labels = {folder: label_of.get("/".join(folder.split("/")[-2:])) for folder in folders.unique()}
    if strange := sorted(folder for folder, label in folder_labels.items() if label is None):
        raise UserError(*first_few(len(strange), lambda i: Problem(
            str(root / release.listing), f"{strange[i]} is the folder of none of its categories")))  # fmt: skip
    return {folder: label for folder, label in folder_labels.items() if label is not None}


def _hierarchy(categories: pd.DataFrame, release: Release) -> pd.DataFrame:
    """Ranks by label, coarse to fine, the species last. A name that stands under two parents (the genus Aotus is one of
    plants and one of monkeys) gets its parent's name behind it, so that no two branches are taken for one."""
    ranks = pd.DataFrame(index=pd.Index(categories["label"], name=None))
    above: pd.Series | None = None
    for rank in release.ranks:
        names = pd.Series(categories[rank].to_numpy(str), index=ranks.index)
        if above is not None:
            parents = pd.DataFrame({"name": names, "above": above}).drop_duplicates()
            shared = names.isin(parents["name"][parents["name"].duplicated()])
            names = names.where(~shared, names + " (" + above + ")")
        ranks["taxon_class" if rank == "class" else rank] = above = names
    ranks["species"] = ranks.index.to_numpy()
    return ranks


def _absent(lost: pd.DataFrame, folders: pd.Series, there: pd.DataFrame, root: Path, release: Release) -> list[Problem]:
    """Whole folders that are not there, each with the folder that it may have become; else how many images lack."""
    gone = sorted(folder for folder in folders.unique() if not (root / folder).is_dir())
    total = len(lost) + len(there)
    count = f"{len(lost):,} of the {total:,} images of {release.listing} are not there"
    example = f"({lost['key'].iloc[0]}{', ...' if len(lost) > 1 else ''})"
    rest = "copy the rest, or say `absent: drop`"
    problems = []
    used = {key.rpartition("/")[0] for key in there["key"]}
    for folder in map(Path, gone[:SHOWN]):
        above = root / folder.parent
        beside = {str(e.relative_to(root)) for e in above.iterdir()} - used if above.is_dir() else set()
        hint = did_you_mean(folder.name, [Path(path).name for path in beside]) if beside else ""
        problems.append(Problem(str(root / folder), f"this class folder is not there{hint}"))
    return [*problems, Problem(str(root), f"{count} {example}; {rest}")]
