"""Labelled images in a folder or a zip, listed by a tree of class folders or by a CSV, with every error reported.

Order is by key, so that neither the path of the folder nor the order of a CSV's rows matters.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field

from ray_robust.data.images.contents import digests_of
from ray_robust.data.images.files import (
    STAMP,
    STAMP_FIELDS,
    SUFFIXES,
    Files,
    Folder,
    Stamp,
    Walk,
    Zip,
    absolute,
    ignored,
    in_utf8,
)
from ray_robust.data.pool import SPLITS, Catalog, FileOptions
from ray_robust.data.readers.file_pool import FilePool, Listing
from ray_robust.data.readers.label_checks import (
    check_labels,
    check_split_names,
    check_splits,
    label_warnings,
    split_warnings,
)
from ray_robust.data.readers.listing_cache import cached
from ray_robust.data.readers.table import SHOWN, Table, first_few, name_problems, read_table
from ray_robust.errors import Problem, UserError, did_you_mean, unexpanded
from ray_robust.files.regular_file import kind_at

UNLABELLED = "ood_test"  # the split of a task that may lack labels
RESERVED = ("path", "label", "split", "group")  # columns that are never a rank of the hierarchy by themselves


def _local_path(path: str) -> str:
    """Raises ValueError for an address, which as a path would lead to a folder called `s3:`."""
    if "://" in path:
        raise ValueError(f"must be a path on every node, not the address {path}; mount it, or see the sources "
                         "webdataset and parquet, which read addresses")  # fmt: skip
    return str(absolute(path))


LocalPath = Annotated[str, AfterValidator(_local_path)]


class FolderOptions(FileOptions):
    """Where the images are. Paths are relative to the working directory; `~` and $VARIABLES are expanded."""

    path: LocalPath = Field(
        description="a folder (or zip) of class folders, `<class>/**/*.jpg`, for a task "
        "`<split>/<class>/**/*.jpg`; or a CSV with the columns `path, label[, split][, group][, "
        "ranks...]`",
        examples=["path: ~/images/shops"],
    )
    images: LocalPath | None = Field(
        default=None,
        description="with a CSV: the folder or zip that its paths lie in; not given: `images.zip` beside it, "
        "else its own folder",
        examples=["path: shops.csv, images: ~/images"],
    )
    label: str = Field(
        default="label", description="the CSV's column that is learned", examples=["path: shops.csv, label: product"]
    )
    parents: tuple[str, ...] | None = Field(
        default=None,
        description="the CSV's columns with ancestors of the label, in any order; not given: every other "
        "column with no more values than there are labels; an empty list: no hierarchy",
        examples=["path: shops.csv, parents: [family, order]"],
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        description="the CSV's column with the unit that shifts (camera, shop); not given: `group`, if there is one",
        examples=["path: shops.csv, group: shop"],
    )


class ImageFiles(FilePool):
    """A pool whose images are files below a folder or in a zip. A subclass says what they are in `make_listing`."""

    def opened(self, rows: np.ndarray) -> Callable[[int], tuple[bytes, Stamp]]:
        keys, files = self.keys(rows), self._listing.files
        return lambda at: files.read_steady(keys[at])


def list_folder(options: FolderOptions, splits: bool, drop_unseen: bool = False, unlabelled: bool = False) -> Listing:
    """List the images that `options` point at; `splits` for a task, whose labels must be in its train split. Of a large
    folder the listing is kept.

    unlabelled  no label is read of the images of a task's split `UNLABELLED`, of all images where there are no splits

    Raises UserError with all problems at once.
    """
    path = Path(options.path)
    if not path.exists():
        raise UserError(Problem(str(path), "no such file or folder" + unexpanded(path)))

    def listed(table: Table) -> Listing:
        return _list_table(table, options, splits, drop_unseen, unlabelled)

    if path.is_dir():
        folder, what = Folder(str(path)), f"class folders {splits} {drop_unseen} {unlabelled} {options.label}"
        return cached(folder, what, lambda walk: listed(_from_tree(folder, walk, splits, unlabelled)))
    if path.suffix.lower() == ".zip":
        archive = Zip(str(path))
        return listed(_from_tree(archive, archive.walk(), splits, unlabelled))
    return listed(_from_csv(path, options, splits, unlabelled))


def _list_table(table: Table, options: FolderOptions, splits: bool, drop_unseen: bool, unlabelled: bool) -> Listing:
    table, problems = _check_files(table)
    labelled = table
    if unlabelled:
        table = _without_labels(table)
        labelled = replace(table, frame=table.frame[table.frame["label"].notna()].reset_index(drop=True))
        table.frame["label"] = table.frame["label"].fillna("")
    problems += check_labels(labelled, table) if splits or not unlabelled else ()
    problems += check_splits(table, drop_unseen, unlabelled) if splits else check_split_names(labelled)
    if problems:
        raise UserError(*problems)
    frame, notes = table.frame, list(table.notes)
    if splits:
        unseen = ~frame["label"].isin(frame["label"][frame["split"] == "train"]) & (frame["label"] != "")
        if unseen.any():
            names = sorted(frame["label"][unseen].unique())
            notes.append(f"{unseen.sum()} images of labels that train lacks are left out: {', '.join(names[:8])}.")
            frame = frame[~unseen]
    counts = frame["label"].value_counts().drop("", errors="ignore")
    if lonely := sorted(counts.index[counts == 1]):
        notes.append(f"{len(lonely)} classes have a single image: {', '.join(lonely[:8])}.")
    warnings = (*table.warnings, *(split_warnings(frame) if splits else ()))
    licence = _licence(Path(options.path))
    return make_listing(frame, table.files, licence, tuple(notes), table.ranks, options.label, None, warnings)


def make_listing(
    frame: pd.DataFrame,
    files: Files,
    licence: str,
    notes: tuple[str, ...] = (),
    ranks: tuple[str, ...] = (),
    label: str = "label",
    classes: tuple[str, ...] | None = None,
    warnings: tuple[str, ...] = (),
) -> Listing:
    """Return the listing of a checked table: columns `key, label[, split][, group]` and `rank <name>` for each of
    `ranks`; those of `with_stamps` too where the files were looked at already.

    Rows are sorted by key, classes are in the order given, else of their names. The fingerprint, of what is listed
    alone, hashes every cell, hence neither paths nor the order of rows nor the names of columns. Ranks go from coarse
    to fine; the hierarchy's last column is the label itself, under the name `label`.
    """
    columns = [f"rank {rank}" for rank in ranks]
    if STAMP_FIELDS[0] not in frame:
        frame = with_stamps(frame, files)
    frame = frame.sort_values("key", ignore_index=True)
    hashed = [c for c in ("key", "label", "split", "group", *columns) if c in frame]
    digest = hashlib.blake2b(digest_size=16)
    digest.update("\x1e".join(map("\x1f".join, zip(*(frame[c].tolist() for c in hashed), strict=True))).encode())
    classes = classes or tuple(sorted(set(frame["label"]) - {""}))
    bare = frame["label"] == ""
    catalog = Catalog(
        labels=pd.Categorical(frame["label"], categories=classes).codes.astype(np.int32),
        classes=classes,
        ids=key_ids(frame["key"]),
        fingerprint=digest.hexdigest(),
        licence=licence,
        notes=notes,
        warnings=(*label_warnings(frame, files.where), *warnings),
        provisional=True,
        unlabelled=tuple(sorted(set(frame["split"][bare]))) if "split" in frame else (),
    )
    more: dict = {}
    if ranks:
        firsts = frame.drop_duplicates("label").set_index("label").loc[list(catalog.classes), columns]
        more["hierarchy"] = firsts.set_axis(list(ranks), axis=1).assign(**{label: catalog.classes}).rename_axis(None)
    if "split" in frame:
        more["split"] = pd.Categorical(frame["split"], categories=SPLITS).codes.astype(np.int8)
    if "group" in frame:
        codes, names = pd.factorize(frame["group"], sort=True)
        more |= {"group": codes.astype(np.int32), "groups": tuple(map(str, names))}
    stamps = np.empty(len(frame), STAMP)
    for name in STAMP_FIELDS:
        stamps[name] = frame[name]
    return Listing(Catalog(**{**vars(catalog), **more}), frame["key"], files, stamps, digests_of(frame["key"].tolist()))


def with_stamps(frame: pd.DataFrame, files: Files) -> pd.DataFrame:
    """Return the table with the columns of files.STAMP; in `size` -1 where there is no file of that key."""
    stamps = files.stamps(frame["key"].tolist())
    return frame.assign(**{name: stamps[name] for name in STAMP_FIELDS})


def key_ids(keys: pd.Series) -> np.ndarray:
    """Return uint64 per key, from the key alone: the first eight bytes of its BLAKE2b digest."""
    hashes = (hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys.tolist())
    return np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)


def _without_labels(table: Table) -> Table:
    """The table with the labels of those images as missing that none is read of, and a note where some were given."""
    frame = table.frame
    bare = frame["split"] == UNLABELLED if "split" in frame else pd.Series(True, frame.index)
    given = int((bare & (frame["label"] != "")).sum())
    notes = (f"The labels of {given:,} images are not read: `labels: none`.",) if given else ()
    return replace(table, frame=frame.assign(label=frame["label"].where(~bare)), notes=(*table.notes, *notes))


def _from_tree(files: Files, walk: Walk, splits: bool, unlabelled: bool) -> Table:
    path = Path(files.where)
    depth = 2 if splits else 1  # folders above an image: split and class, or class
    layout = "<split>/<class>/*.jpg" if splits else "<class>/*.jpg"
    names, unwritable = in_utf8(str(path), walk.files)
    keys = pd.Series(names, dtype="str")
    image = keys.str.lower().str.extract(r"(\.[^./]+)$", expand=False).isin(SUFFIXES).to_numpy(bool)
    bare = keys.str.startswith(f"{UNLABELLED}/" if splits else "").to_numpy(bool) & unlabelled
    deep = (keys.str.count("/") >= depth - bare).to_numpy(bool)
    shallow = keys[image & ~deep]
    other = [*keys[~image].tolist(), *unwritable]
    bare, keys = bare[image & deep], keys[image & deep].reset_index(drop=True)
    parts = keys.str.split("/", n=depth, expand=True)
    frame = pd.DataFrame({"key": keys, "label": parts[depth - 1].where(~bare, "") if len(keys) else keys, "line": 0})
    if splits:
        frame["split"] = parts[0] if len(keys) else keys
    problems = list(first_few(len(shallow), lambda i: Problem(str(path), _not_in_class(shallow.iloc[i], layout))))
    if splits and not len(keys) and len(shallow) and shallow.str.contains("/").all():
        held_by = sorted(shallow.str.partition("/")[0].unique())
        what = f"images lie directly in {_names(held_by)}, without class folders between; wanted: {layout}"
        problems = [Problem(str(path), what)]
    if not len(keys) and not len(shallow):
        beside = path / "index.csv"
        hint = f"; did you mean {beside}?" if beside.exists() else f"; wanted: {layout}"
        problems.append(Problem(str(path), f"holds no images{hint}"))
    held = {"/".join(key.split("/")[:depth]) for key in keys}
    empty = sorted(f for f in walk.folders if f.count("/") == depth - 1 and f not in held)
    if len(keys):
        problems += first_few(
            len(empty),
            lambda i: Problem(f"{path}/{empty[i]}", "this class folder holds no images; put some there or remove it"),
        )
    note, warning = ignored(other, len(keys))
    notes, warnings = (tuple(filter(None, [text])) for text in (note, warning))
    return Table(frame, str(path), files, notes=notes, problems=tuple(problems), warnings=warnings)


def _names(folders: Sequence[str]) -> str:
    rest = f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else ""
    return ", ".join(folders[:SHOWN]) + rest


def _not_in_class(key: str, layout: str) -> str:
    return f"{key} lies in no class folder; wanted: {layout}"


def _from_csv(path: Path, options: FolderOptions, splits: bool, unlabelled: bool) -> Table:
    images = Path(options.images) if options.images else path.parent / "images.zip"
    if not options.images and not images.exists():
        images = path.parent
    problems: list[Problem] = []
    if not images.exists():
        problems.append(Problem(str(images), "no such folder or zip of images" + unexpanded(images)))
    raw, lines = read_table(path)
    group = options.group or ("group" if "group" in raw else None)
    if unlabelled and not splits and options.label not in raw:
        raw[options.label] = ""
    wanted = {"path": "path", "label": options.label} | ({"split": "split"} if splits else {})
    wanted |= {f"parents[{i}]": c for i, c in enumerate(options.parents or ())} | ({"group": group} if group else {})
    for column in dict.fromkeys(wanted.values()):
        if column not in raw:
            what = f"has no column {column!r}{did_you_mean(column, raw.columns)}"
            problems.append(Problem(f"{path}:{lines.header}", what))
    problems = problems or [*name_problems(raw, lines, [column for column in wanted.values() if column != "path"])]
    if problems:
        raise UserError(*problems)
    frame = pd.DataFrame({"key": raw["path"], "label": raw[options.label].str.strip()})
    frame["line"] = np.arange(len(raw))
    if splits:
        frame["split"] = raw["split"].str.strip()
    if group:
        frame["group"] = raw[group].str.strip()
    most = frame["label"].nunique()
    ranks = tuple(c for c in options.parents or () if c != options.label)
    if options.parents is None:
        others = [c for c in raw.columns if c not in {*RESERVED, options.label, group}]
        if options.label != "label" and "label" in raw:
            others.append("label")
        ranks = tuple(c for c in others if raw[c].nunique() <= most)
    ranks = tuple(sorted(ranks, key=lambda c: raw[c].nunique()))
    if problems := [*name_problems(raw, lines, ranks, ", or the column left out with `parents`")]:
        raise UserError(*problems)
    for rank in ranks:
        frame[f"rank {rank}"] = raw[rank].str.strip()
    notes: tuple[str, ...] = ()
    if not splits and "split" in raw:
        notes = ("The column split is not used by a source: images of every split are in the pool.",)
    files = Folder(str(images)) if images.is_dir() else Zip(str(images))
    return Table(frame, str(path), files, lines=lines, ranks=ranks, notes=notes)


def _check_files(table: Table) -> tuple[Table, list[Problem]]:
    """Return the table with keys in normal form and the files' stamps; and the paths that leave the folder, come twice,
    or lead nowhere. Rows of the first two kinds are left out."""
    frame, problems = table.frame, list(table.problems)
    if table.lines is not None:
        frame["key"] = _plain_keys(frame["key"], table.files.where)
        out = frame["key"].str.contains(r"^/|^\.\.(?:/|$)|^\.?$").to_numpy(bool)
        problems += table.at_rows(np.flatnonzero(out), lambda i: _outside(frame["key"].iloc[i], table.files.where))
        again = frame["key"].duplicated().to_numpy(bool) & ~out
        if again.any():
            first = frame.drop_duplicates("key").set_index("key")["line"]
            earlier = table.frame["key"].map(first)
            problems += table.at_rows(
                np.flatnonzero(again),
                lambda i: f"{frame['key'].iloc[i]} is already on line {table.line(earlier.iloc[i])}",
            )
        frame = frame[~(out | again)].reset_index(drop=True)
    frame = with_stamps(frame, table.files)
    table = replace(table, frame=frame)
    absent = np.flatnonzero((frame["size"] < 0).to_numpy(bool))
    problems += table.at_rows(absent, lambda i: _absent(frame["key"].iloc[i], table.files))
    return table, problems


def column_of_csv(path: Path, column: str, where: str, keys: Sequence[str]) -> list[str | None]:
    """Return a column of a CSV of images, for each of `keys` (paths in the folder or zip `where`). Raises UserError
    where there is none, and where the CSV lacks an image that it listed before."""
    raw, lines = read_table(path)
    if column not in raw:
        raise UserError(
            Problem(f"{path}:{lines.header}", f"has no column {column!r}{did_you_mean(column, raw.columns)}")
        )
    cells = pd.Series(raw[column].to_numpy(object), index=_plain_keys(raw["path"], where))
    if not pd.Index(keys).isin(cells.index).all():
        raise UserError(Problem(str(path), "has changed since it was listed; run the same command again"))
    return cells[~cells.index.duplicated()].reindex(keys).tolist()


def _plain_keys(keys: pd.Series, where: str) -> pd.Series:
    """Return the paths of a CSV as names in `where`, in normal form."""
    odd = keys.str.contains(r"(?:^|/)\.{0,2}(?:/|$)|^$|\\").to_numpy(bool)
    if odd.any():  # rare, so that only these pay for being taken apart
        keys = keys.copy()
        plain = [str(PurePosixPath(os.path.normpath(key))) if key else "" for key in keys[odd]]
        keys[odd] = _inside(plain, where)
    return keys


def _inside(keys: list[str], where: str) -> list[str]:
    """Return absolute paths into the folder, by symbolic links too, as paths inside it; all others as they are."""
    real = lru_cache(os.path.realpath)

    def inside(key: str) -> str:
        if key.startswith("/"):
            folder, name = os.path.split(key)
            for folder_path, path in ((where, key), (real(where), f"{real(folder)}/{name}")):
                if path.startswith(f"{folder_path.rstrip('/')}/"):
                    return path[len(folder_path.rstrip("/")) + 1 :]
        return key

    return [inside(key) for key in keys]


def _absent(key: str, files: Files) -> str:
    """Return what to report of a path that leads nowhere."""
    hint = ""
    if "\\" in key:
        slashed = key.replace("\\", "/")
        there = files.stamps([slashed])["size"][0] >= 0
        hint = f"; did you mean {slashed}?" if there else "; folders are parted by /, not by \\"
    elif kind := kind_at(f"{files.where}/{key}") if isinstance(files, Folder) else "":
        return f"{key} is {kind}, not a file"
    return f"{key} is no file in {files.where}{hint}"


def _outside(key: str, where: str) -> str:
    return f"path {key!r} leaves {where}; wanted: a path inside it" if key else "the path is empty"


def _licence(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.upper().startswith(("LICENSE", "LICENCE")))
    return f"see {names[0]} beside the images" if names else "not stated beside the images"
