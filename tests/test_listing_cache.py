"""Listings of large folders are kept, and never stand for a folder that has become another one."""

from __future__ import annotations

import os
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from make_damage import DAMAGES, make_damage
from make_pools import open_pool

from ray_robust.data.images.files import Folder
from ray_robust.data.pool import SPLITS, Catalog
from ray_robust.data.readers import listing_cache
from ray_robust.errors import UserError
from tests import make_images as make
from tests import make_sources


class Every:
    def __contains__(self, _):
        return True


@pytest.fixture(autouse=True)
def walks(tmp_path, monkeypatch) -> list[str]:
    """A store in which listings of small, fresh folders of any file system are kept; the folders that are walked."""
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "store"))
    for name, value in {"WORTH": 1, "SETTLED": -(10**18), "NOTING": Every()}.items():
        monkeypatch.setattr(listing_cache, name, value)
    walk, walked = Folder.walk, []
    monkeypatch.setattr(Folder, "walk", lambda self: walked.append(self.where) or walk(self))
    return walked


def listing(root, kind="source", **options):
    return open_pool(kind, "folder", {"path": str(root), **options})._listing


def same(one, other) -> bool:
    for field in fields(Catalog):
        a, b = getattr(one.catalog, field.name), getattr(other.catalog, field.name)
        assert type(a) is type(b), field.name
        assert np.array_equal(a, b), field.name
    pd.testing.assert_series_equal(one.keys, other.keys)
    assert one.files == other.files
    return bool((one.stamps == other.stamps).all() and (one.key_digests == other.key_digests).all())


def task_tree(root):
    for split in SPLITS:
        make.tree(root / split, {"cat": 2, "dog": 1})
    return root


def test_a_folder_is_listed_once(tmp_path, walks):
    root, tasks = make.tree(tmp_path / "a", {"cat": 2, "dög": 3}), task_tree(tmp_path / "b")
    (root / "notes.txt").write_text("no image")
    (tmp_path / "c").symlink_to(root)
    cases = [("source", root), ("task", tasks), ("source", tmp_path / "c")]
    first = [listing(path, kind) for kind, path in cases]
    assert walks == [str(path) for _, path in cases]
    assert all(same(listing(path, kind), one) for (kind, path), one in zip(cases, first, strict=True))
    assert len(walks) == 3
    assert first[1].catalog.split is not None
    assert first[0].catalog.notes == ("1 files that are no images by their names were ignored.",)


def test_a_listing_goes_by_what_is_asked(tmp_path, walks):
    root = task_tree(tmp_path / "b")
    make.tree(root / "ood_test", {"emu": 1})
    notes = listing(root, "task", unseen="drop").catalog.notes
    assert "emu" in notes[0]
    assert listing(root, "task", unseen="drop").catalog.notes == notes
    assert len(walks) == 1
    for _ in range(2):
        with pytest.raises(UserError, match="emu"):
            listing(root, "task")
        with pytest.raises(UserError, match="are called like splits"):
            listing(root)
    assert len(walks) == 5


def in_place(root):
    with open(root / "cat" / "000.jpg", "r+b") as file:
        file.write(b"x")


def by_another(root):
    make.write(root / "new.jpg", seed=99)
    os.replace(root / "new.jpg", root / "cat" / "000.jpg")


def another_folder(root):
    root.rename(root.with_name("old"))
    make.tree(root, {"cat": 2, "dog": 3})


CHANGES = {
    "in place": in_place,
    "by another": by_another,
    "added": lambda root: make.write(root / "dog" / "deep" / "9.jpg", seed=9),
    "class added": lambda root: make.tree(root, {"emu": 2}),
    "removed": lambda root: (root / "cat" / "000.jpg").unlink(),
    "renamed": lambda root: (root / "cat" / "000.jpg").rename(root / "cat" / "z.jpg"),
    "another folder": another_folder,
    "no image added": lambda root: (root / "dog" / "notes.txt").write_text("x"),
    "licence added": lambda root: (root / "LICENSE").write_text("x"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_every_change_is_seen(tmp_path, monkeypatch, how):
    root = make.tree(tmp_path / "a", {"cat": 2, "dog": 3})
    before, times = listing(root), os.stat(root)
    CHANGES[how](root)
    os.utime(root, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = listing(root)
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "another store"))
    assert same(after, listing(root))
    catalogs = before.catalog, after.catalog
    assert len({(c.fingerprint, c.notes, c.licence) for c in catalogs}) == 2 or (before.stamps != after.stamps).any()


def test_a_file_that_went_where_no_folder_shows_it_is_reported(tmp_path, monkeypatch):
    root = make.tree(tmp_path / "a", {"cat": 2, "dog": 3})
    listing(root)
    looked = listing_cache._look(Folder(str(root)), Folder(str(root)).walk().folders)
    (root / "cat" / "000.jpg").unlink()
    (root / "cat" / "000.jpg").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(listing_cache, "_look", lambda *_: looked)  # a file system that notes nothing
    with pytest.raises(UserError, match=r"cat/000\.jpg is a link that leads nowhere"):
        listing(root)


def test_what_may_change_without_its_folders_is_not_kept(tmp_path, walks, monkeypatch):
    make.write(tmp_path / "one.jpg", seed=1)
    (tmp_path / "other").mkdir()
    links = {"file": tmp_path / "one.jpg", "circle": tmp_path, "nowhere": tmp_path / "none"}
    for name, target in links.items():
        root = make.tree(tmp_path / name, {"cat": 2, "dog": 1})
        (root / "cat" / ("9.jpg" if name == "file" else "9")).symlink_to(target)
        assert same(listing(root), listing(root))
    assert len(walks) == 6
    root = make.tree(tmp_path / "plain", {"cat": 2, "dog": 1})
    for name, value in {"WORTH": 4, "SETTLED": 10**18, "NOTING": set(), "_code": lambda: ""}.items():
        with monkeypatch.context() as patch:
            patch.setattr(listing_cache, name, value)
            listing(root)
    assert not list((tmp_path / "store").rglob("*.npz"))
    listing(root)
    walks.clear()
    with monkeypatch.context() as patch:  # other code may list otherwise
        patch.setattr(listing_cache, "_code", lambda: "newer")
        listing(root)
    assert walks == [str(root)]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_listing_is_made_again(tmp_path, walks, how):
    root = make.tree(tmp_path / "a", {"cat": 2, "dog": 3})
    first = listing(root)
    (file,) = (tmp_path / "store").rglob("*.npz")
    make_damage(file, how)
    assert same(listing(root), first)
    assert same(listing(root), first)
    assert len(walks) == 2 or how == "flipped"  # which may be a bit that nobody reads


def test_imagenet_is_listed_once_for_a_list_of_its_classes(tmp_path, walks):
    root = make_sources.imagenet(tmp_path)

    def names(**options):
        options = {"root": str(root), "hierarchy": None, "absent": "drop", **options}
        return open_pool("source", "imagenet", options)._listing.catalog.names

    first = names()
    assert names() == first
    assert len(walks) == 1
    file = root / "LOC_synset_mapping.txt"
    file.write_text(file.read_text().replace(first[0], "another name"))
    assert names() == ("another name", *first[1:])
    assert len(walks) == 2


def test_a_folder_whose_name_is_no_utf8_is_listed_again(tmp_path, walks):
    root = make.tree(tmp_path / "a", {"cat": 2, "dog": 3})
    os.mkdir(os.fsencode(root / "cat") + b"/caf\xe9")  # in Latin-1, and without images
    first = listing(root)
    assert same(listing(root), first)
    assert walks == [str(root)]
