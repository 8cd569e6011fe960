"""The tasks `domainnet`, `pacs` and `domains`: the same classes in several domains, some to train on, others OOD.

Owns which image is in which split: by the official lists where they lie beside the images, else by a hash of its key.
The layout is `<domain>/<class>/**/*.jpg` below the root; groups are domains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from ray_robust.data.images.files import SUFFIXES, Folder, in_utf8, lines_of
from ray_robust.data.pool import Catalog, FileOptions, Task, in_unit_interval, mix_bits, seed_of
from ray_robust.data.published import catalog_of_counts
from ray_robust.data.readers.file_pool import Listing
from ray_robust.data.readers.folder import ImageFiles, LocalPath, key_ids, make_listing, with_stamps
from ray_robust.data.readers.label_checks import lost_to_form
from ray_robust.data.readers.table import first_few
from ray_robust.data.tasks.shares import Share, TestShare, ood_val_share
from ray_robust.data.tasks.shift_options import ShiftedOptions
from ray_robust.errors import DataAbsent, Problem, UserError, did_you_mean

Names = Annotated[tuple[str, ...], Field(min_length=1)]
NESTED = ("", "kfold", "PACS", "PACS/kfold", "pacs_data", "pacs_data/pacs_data", "DomainNet", "domainnet")


class DomainTask(ImageFiles, Task):
    """Any root with a folder per domain. Metric: accuracy.

    The training domains are divided into train, id_val and id_test, the others into ood_val and ood_test. With the
    lists `<domain>_train.txt` and `<domain>_test.txt` in the root (DomainNet's: `<path> <number of the class>`) the
    test lists are id_test and ood_test, and hashed parts of the train lists id_val and ood_val.
    """

    class Options(FileOptions, ShiftedOptions):
        root: LocalPath = Field(description="the folder of the domains", examples=["root: ~/data/pacs"])
        train: Names = Field(description="domains to train on", examples=["train: [photo]"])
        ood: Names | None = Field(
            default=None, description="domains to test on; not given: all others", examples=["ood: [sketch, cartoon]"]
        )
        ood_val: Names | None = Field(
            default=None,
            description="domains that are ood_val as a whole, `ood` being ood_test then; not given: a part of "
            "every OOD domain",
            examples=["ood: [sketch], ood_val: [cartoon]"],
        )
        val: Share = Field(
            default=0.1, description="share of the training domains' images that is id_val", examples=["val: 0.2"]
        )
        test: TestShare = 0.2
        lists: bool = Field(
            default=True,
            description="whether official lists decide what is test, where they are there",
            examples=["lists: false"],
        )
        unseen: Literal["fail", "drop"] = Field(
            default="fail",
            description="classes that the training domains lack end the sweep, or their images are left out",
            examples=["unseen: drop"],
        )

    options: Options

    own_metric = "accuracy"
    licence: ClassVar[str] = "not stated beside the images"
    obtain: ClassVar[str] = "wanted: <domain>/<class>/*.jpg"
    sizes: ClassVar[Mapping[str, int]] = {}  # images per domain, as published
    classes: ClassVar[int] = 0

    def make_listing(self) -> Listing:
        base, domains = self._base()
        train, ood, ood_val = self._chosen(domains)
        listed = self._listed(base, [*train, *ood, *ood_val])
        frames = [_walk(base, domain) if listed is None else listed[domain] for domain in (*train, *ood, *ood_val)]
        frame = pd.concat(frames, ignore_index=True)
        if (again := frame["key"][frame["key"].duplicated()]).size:
            raise UserError(Problem(str(base), f"{again.iloc[0]} is listed twice, as {again.size:,} images are"))
        frame = with_stamps(frame, Folder(str(base)))
        if (lost := frame["key"][frame["size"] < 0]).size:
            what = f"{len(lost):,} of {len(frame):,} listed images are missing ({lost.iloc[0]}): is it half a copy?"
            raise UserError(Problem(str(base), what))
        frame = frame.assign(split=self._split(frame, train, ood_val))
        frame, notes = self._learnable(frame, base)
        counts = frame["split"].value_counts()
        if empty := [s for s in ("train", "id_val", "id_test", "ood_val", "ood_test") if s not in counts]:
            raise UserError(Problem(str(base), f"has no images in {', '.join(empty)}: too few for these shares"))
        how = "the official lists" if listed is not None else "a hash of the path"
        notes.append(f"Trained on {', '.join(train)}; OOD: {', '.join((*ood, *ood_val))}. Splits by {how}.")
        return make_listing(frame, Folder(str(base)), self.licence, tuple(notes))

    def published(self) -> Catalog | None:
        o = self.options
        if not self.sizes or not {*o.train, *(o.ood or ()), *(o.ood_val or ())} <= set(self.sizes):
            return None
        train, ood, ood_val = self._chosen(tuple(self.sizes))
        inside, outside, whole = (sum(self.sizes[d] for d in names) for names in (train, ood, ood_val))
        val = whole if ood_val else round(outside * o.val / (o.val + o.test))
        splits = {"id_val": round(inside * o.val), "id_test": round(inside * o.test), "ood_val": val}
        splits |= {"train": inside - splits["id_val"] - splits["id_test"], "ood_test": outside + whole - val}
        return catalog_of_counts(self.name, inside + outside + whole, self.classes, self.licence, splits)

    def _base(self) -> tuple[Path, tuple[str, ...]]:
        """Return the folder whose subfolders are domains, and their names."""
        root = Path(self.options.root)
        if not root.is_dir():
            raise DataAbsent(Problem(str(root), f"no such folder. {self.obtain}"))
        wanted = set(self.sizes) or set(self.options.train)
        for below in NESTED:
            names = _folders(root / below)
            if wanted & set(names):
                return root / below, names
        names = _folders(root)
        if not names:
            raise DataAbsent(Problem(str(root), f"holds no folders of domains. {self.obtain}"))
        return root, names

    def _chosen(self, domains: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return (train, ood, ood_val) of the options. Raises UserError for what is unknown or named twice."""
        o = self.options
        val = o.ood_val or ()
        ood = o.ood if o.ood is not None else tuple(d for d in domains if d not in (*o.train, *val))
        problems = [
            f"task.{key}: {self.name} has no domain {name!r}{did_you_mean(name, domains)}"
            for key, names in (("train", o.train), ("ood", ood), ("ood_val", val))
            for name in names
            if name not in domains
        ]
        every = (*o.train, *ood, *val)
        problems += [
            f"task: the domain {name} is named twice in train, ood and ood_val"
            for name in dict.fromkeys(n for n in every if every.count(n) > 1)
        ]
        if not ood:
            problems.append(f"task.ood: no domain is left to be OOD; {self.name} has {', '.join(domains)}")
        if problems:
            raise UserError(*problems)
        return o.train, ood, val

    def _listed(self, base: Path, domains: list[str]) -> dict[str, pd.DataFrame] | None:
        """Return per domain what its two lists say; None without lists. Raises UserError where only some are there."""
        files = {d: [base / f"{d}_{part}.txt" for part in ("train", "test")] for d in domains}
        there = [file for pair in files.values() for file in pair if file.exists()]
        if not self.options.lists or not there:
            return None
        if len(there) < 2 * len(domains):
            absent = [file.name for pair in files.values() for file in pair if not file.exists()]
            what = f"has {there[0].name} but no {', '.join(absent)}; add what is missing or say `lists: false`"
            raise UserError(Problem(str(base), what))
        return {d: pd.concat([_read_list(f, d) for f in pair], ignore_index=True) for d, pair in files.items()}

    def _split(self, frame: pd.DataFrame, train: tuple[str, ...], ood_val: tuple[str, ...]) -> np.ndarray:
        o = self.options
        position = in_unit_interval(mix_bits(key_ids(frame["key"]), seed_of("domains", "split")))
        inside, whole = frame["group"].isin(train), frame["group"].isin(ood_val)
        officially = frame["list"] == "test"
        by_list = (frame["list"] != "").any()
        val = np.where(inside, o.val, ood_val_share(o.val, o.test))
        test = officially if by_list else position >= np.where(inside, 1 - o.test, val)
        sides = np.where(test, "test", np.where(position < val, "val", "train"))
        if ood_val:  # whole domains are val, so the other OOD domains give nothing to it
            sides = np.where(inside, sides, np.where(whole, "val", np.where(by_list & ~officially, "train", "test")))
        names = np.where(inside, "id_", "ood_").astype(object) + sides
        names[inside & (sides == "train")] = "train"
        names[~inside & (sides == "train")] = ""  # of an official list, neither test nor drawn for ood_val
        return names

    def _learnable(self, frame: pd.DataFrame, base: Path) -> tuple[pd.DataFrame, list[str]]:
        """Return the images that are in a split and of a class that the training domains have."""
        frame = frame[frame["split"] != ""]
        unseen = ~frame["label"].isin(frame["label"][frame["split"] == "train"])
        if not unseen.any():
            return frame, []
        if other_form := [*lost_to_form(frame, str(base))]:
            raise UserError(*first_few(len(other_form), lambda i: other_form[i]))
        names = sorted(frame["label"][unseen].unique())
        listed = f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        if self.options.unseen == "fail":
            what = f"classes that train lacks cannot be learned: {listed}; leave them out with `unseen: drop`"
            raise UserError(Problem(str(base), what))
        return frame[~unseen], [f"{unseen.sum():,} images of classes that train lacks are left out: {listed}."]


class DomainNet(DomainTask):
    """Peng et al., "Moment Matching for Multi-Source Domain Adaptation" (ICCV 2019): 345 classes in six domains."""

    licence = "no licence stated; for research, by the notice of its makers (DomainNet, Peng et al. 2019)"
    obtain = (
        "Obtain it: ai.bu.edu/M3SDA has a zip per domain (cleaned version) and the lists <domain>_train.txt and "
        "<domain>_test.txt; unpack all below the root; or "
        "python -m ray_robust.ingest domainnet --download --root DIR"
    )
    sizes = {
        "clipart": 48_129,
        "infograph": 51_605,
        "painting": 72_266,
        "quickdraw": 172_500,
        "real": 172_947,
        "sketch": 69_128,
    }
    classes = 345


class Pacs(DomainTask):
    """Li et al., "Deeper, Broader and Artier Domain Generalization" (ICCV 2017): 7 classes in four domains."""

    licence = "no licence stated by its makers (PACS, Li et al. 2017)"
    obtain = (
        "Obtain it: domaingeneralization.github.io; unpack it so that photo/, sketch/ and so on lie below the root; or "
        "python -m ray_robust.ingest pacs --download --root DIR"
    )
    sizes = {"art_painting": 2_048, "cartoon": 2_344, "photo": 1_670, "sketch": 3_929}
    classes = 7


def _folders(path: Path) -> tuple[str, ...]:
    if not path.is_dir():
        return ()
    return tuple(sorted(p.name for p in path.iterdir() if p.is_dir() and p.name[0] not in "._"))


def _walk(base: Path, domain: str) -> pd.DataFrame:
    """Return the images below `<domain>/<class>/`."""
    names = Folder(str(base / domain)).walk().files
    images = [n for n in names if "/" in n and Path(n).suffix.lower() in SUFFIXES]
    if not images:
        raise UserError(Problem(str(base / domain), "holds no images; wanted: <class>/*.jpg"))
    keys, _ = in_utf8(str(base), [f"{domain}/{name}" for name in images])
    return pd.DataFrame({
        "key": pd.Series(keys, dtype="str"),
        "label": [name.partition("/")[0] for name in images],
        "group": domain,
        "list": "",
    })  # fmt: skip


def _read_list(file: Path, domain: str) -> pd.DataFrame:
    """Return the rows of an official list, `<domain>/<class>/<file> <number>`; a path may hold blanks."""

    def rows() -> Iterator[tuple[str, str]]:
        for number, line in enumerate(lines_of(file, f"{domain}/<class>/<file> <number>"), 1):
            if not line.strip():
                continue
            key = line.strip().rpartition(" ")[0]
            parts = key.split("/")
            if len(parts) < 3 or parts[0] != domain or ".." in parts:
                what = f"is no line of a list; wanted: {domain}/<class>/<file> <number>"
                raise UserError(Problem(f"{file}:{number}", what))
            yield key, parts[1]

    listed = list(rows())
    part = file.stem.rpartition("_")[2]
    return pd.DataFrame({
        "key": pd.Series([key for key, _ in listed], dtype="str"),
        "label": [label for _, label in listed],
        "group": domain,
        "list": part,
    })  # fmt: skip
