"""What a file contains decides: which pool it is, which images are drawn, and what lies in the store."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ray_robust import ingest as command
from ray_robust.data import opened
from ray_robust.data.duplicates import comparison
from ray_robust.data.duplicates.signatures import signatures
from ray_robust.data.images import contents
from ray_robust.data.images import files as files_module
from ray_robust.data.images.form import Form
from ray_robust.data.images.store import ImageStore
from ray_robust.data.readers import file_pool
from tests import make_images as make
from tests.make_folders import bmp, identity, ingested, pool_at, right, tree


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "default store"))
    opened.forget_pools()


@pytest.fixture
def decoded(monkeypatch):
    """How many images are decoded, as it goes."""
    seen, real = [], contents.digest_of
    decode_one = file_pool.decode
    monkeypatch.setattr(file_pool, "decode", lambda data, *args: (seen.append(real(data)), decode_one(data, *args))[1])
    return seen


# --- one byte, and no byte


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=6, unique=True),
    st.integers(0, 5),
    st.integers(0, 10**6),
    st.integers(1, 255),
    st.booleans(),
)
def test_a_byte_makes_another_pool(seeds, which, place, mask, zipped):
    images = [bmp(seed) for seed in seeds]
    which %= len(images)
    edited = bytearray(images[which])
    edited[place % len(edited)] ^= mask
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        one = tree(root / "one", images)
        two = tree(root / "two", [*images[:which], bytes(edited), *images[which + 1 :]])
        if zipped:
            one, two = (Path(shutil.make_archive(str(path), "zip", path)) for path in (one, two))
        stores = [ingested(path, root / "store", broken="drop") if _most_work(path) else None for path in (one, two)]
        if None in stores:  # two images, one of them broken: too many to drop
            return
        first, second = (identity(store) for store in stores)
        assert first[0] != second[0]
        row = stores[0].pool.keys(np.arange(len(images))).index(f"{('cat', 'dog')[which % 2]}/{which:03d}.bmp")
        assert [a != b for a, b in zip(first[1], second[1], strict=True)] == [i == row for i in range(len(images))]
        assert [a != b for a, b in zip(first[2], second[2], strict=True)] == [i == row for i in range(len(images))]
        assert all(right(store) for store in stores)


def _most_work(path: Path) -> bool:
    pool = pool_at(path)
    return len(pool.read(np.arange(len(pool.catalog)), 4).broken) * 2 <= len(pool.catalog)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=5),
    st.sampled_from(["moved", "copied", "touched", "zipped", "another store"]),
)
def test_a_pool_is_the_same_wherever_and_whenever_it_lies(seeds, how):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path, store_root = tree(root / "one", [bmp(seed) for seed in seeds]), root / "store"
        first = identity(ingested(path, store_root))
        if how == "moved":
            path = path.rename(root / "elsewhere")
        elif how == "copied":
            path = Path(shutil.copytree(path, root / "copy"))
        elif how == "zipped":
            path = Path(shutil.make_archive(str(root / "packed"), "zip", path))
        elif how == "touched":
            for file in path.rglob("*.bmp"):
                os.utime(file, (5, 5))
        else:
            store_root = root / "another"
        store = ingested(path, store_root)
        assert identity(store) == first
        if how != "another store":
            assert (store.folder / "pixels.u8").stat().st_size == len(set(seeds)) * store.image_bytes
        assert right(store)


def test_labels_splits_and_names_count_as_well(tmp_path):
    first = identity(ingested(tree(tmp_path / "a", [bmp(i) for i in range(4)]), tmp_path / "store"))
    other = tree(tmp_path / "b", [bmp(i) for i in range(4)])
    (other / "cat" / "000.bmp").rename(other / "dog" / "000.bmp")
    second = identity(ingested(other, tmp_path / "store"))
    assert first[0] != second[0]
    assert sorted(first[2]) == sorted(second[2])


# --- sharing


def test_pools_share_what_they_share(tmp_path, decoded):
    images = [bmp(i) for i in range(6)]
    one = ingested(tree(tmp_path / "a", images), tmp_path / "store")
    assert len(decoded) == 6
    two = ingested(tree(tmp_path / "b", [*images[:4], bmp(7), bmp(7)]), tmp_path / "store")
    assert len(decoded) == 6 + 2  # the last two are read side by side: neither is stored when the other is looked at
    assert one.folder == two.folder
    assert (one.folder / "pixels.u8").stat().st_size == 7 * one.image_bytes
    assert right(one)
    assert right(two)
    decoded.clear()
    ingested(tmp_path / "b", tmp_path / "store", size=8)
    assert len(decoded) == 6


def test_signatures_are_of_the_images_and_not_of_their_numbers(tmp_path):
    images = [make.encoded(make.picture(64, 64, i), "PNG") for i in range(6)]
    one, two = tree(tmp_path / "a", images), tree(tmp_path / "b", [images[0], *images[2:], images[1], images[1]])
    stores = [ingested(path, tmp_path / "store", size=32) for path in (one, two)]
    both = [signatures(store, np.arange(store.n)) for store in stores]
    alone = [signatures(ingested(path, tmp_path / f"own {path.name}", size=32), np.arange(len(made)))
             for path, made in zip((one, two), both, strict=True)]  # fmt: skip
    assert all((shared == own).all() for shared, own in zip(both, alone, strict=True))


@pytest.mark.parametrize("lost", ["pixels.u8", "log.records", "a part"])
@pytest.mark.parametrize("form", [Form(32), Form(32, 36)], ids=["decoded", "compact"])
def test_no_image_has_the_signature_of_another_that_was_in_its_slot(tmp_path, lost, form):
    """Duplicates among other images were those of the images before, once files of the store were removed or cut."""
    if form.side is not None and lost == "pixels.u8":
        lost = "jpegs.bin"
    stores = []
    for name, seeds in (("one", range(6)), ("two", [9, 9, *range(10, 14)])):
        images = [make.encoded(make.photo(64, 64, seed), "PNG", compress_level=i) for i, seed in enumerate(seeds)]
        stores.append(ImageStore.open(tmp_path / "store", pool_at(tree(tmp_path / name, images)), form))
        stores[-1].fill(np.arange(6))
        if name == "one":
            assert signatures(stores[-1], np.arange(6))["state"].all()
            file = stores[-1].folder / (stores[-1].pack.files[-2] if lost == "a part" else lost)
            os.truncate(file, file.stat().st_size // 2) if lost == "a part" else file.unlink()
    made = signatures(stores[1], np.arange(6))
    assert made["content"][0] == made["content"][3]  # the first image of the other class
    assert len(np.unique(made["content"])) == 5
    assert comparison.repeated(comparison.Images.of(stores[1])).tolist() == [False, False, False, True, False, False]


# --- the command


def told(capsys, *args) -> dict[str, str]:
    capsys.readouterr()
    assert command.main(["folder", *map(str, args)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:12].strip(): line[13:] for line in lines}


def test_a_picture_that_is_turned_in_place_is_turned_in_the_store(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 1
    picture = make.picture(12, 12)
    make.write(tmp_path / "s" / "a" / "p.jpg", make.encoded(picture, exif=exif))
    make.write(tmp_path / "s" / "b" / "q.jpg", make.encoded(make.picture(seed=5)))
    args = ("--root", tmp_path / "s", "--out", tmp_path / "store", "--size", 12)
    first = told(capsys, *args)
    path = tmp_path / "s" / "a" / "p.jpg"
    data = bytearray(path.read_bytes())
    place = data.index(b"\x01\x12")  # the tag, in either order of bytes; its value lies in the last four of twelve
    place = place if data[place : place + 2] == b"\x01\x12" else data.index(b"\x12\x01")
    at = next(i for i in range(place + 8, place + 12) if data[i] == 1)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"\x03")
    second = told(capsys, *args)
    assert second["images"] == "2 in the store, 1 of them new; 0 broken"
    assert second["fingerprint"] != first["fingerprint"]
    store = ingested(tmp_path / "s", tmp_path / "store", size=12)
    assert right(store)
    before = pool_at(tmp_path / "s").read(np.array([0]), 12).images[0]
    path.write_bytes(make.encoded(picture, exif=exif))
    assert (np.rot90(before, 2) == pool_at(tmp_path / "s").read(np.array([0]), 12).images[0]).all()


def test_verify_reads_the_files_again(tmp_path, capsys, monkeypatch):
    """An edit that leaves no trace in size, times and inode: possible on a file system that keeps neither."""
    monkeypatch.setattr(files_module, "stamp_of", lambda status: (status.st_size, 1, 1, 1))
    root = tree(tmp_path / "a", [bmp(i) for i in range(6)])
    args = ("--root", root, "--out", tmp_path / "store", "--size", 4)
    first = told(capsys, *args)
    (root / "dog" / "003.bmp").write_bytes(bmp(9))
    assert told(capsys, *args)["fingerprint"] == first["fingerprint"]
    verified = told(capsys, *args, "--verify")
    assert verified["sources"] == "6 files read again; 1 hold other bytes than before (dog/003.bmp)"
    assert verified["checksums"] == "0 images damaged"
    assert verified["images"] == "6 in the store, 1 of them new; 0 broken"
    assert verified["fingerprint"] != first["fingerprint"]
    assert told(capsys, *args)["fingerprint"] == verified["fingerprint"]
    assert right(ingested(root, tmp_path / "store"))


def test_stores_of_an_earlier_version_are_pointed_out(tmp_path, capsys):
    root = tree(tmp_path / "a", [bmp(i) for i in range(4)])
    old = tmp_path / "store" / "0123456789abcdef-crop-4-v2"
    old.mkdir(parents=True)
    (old / "pixels.u8").write_bytes(bytes(4 * 48))
    (old / "state.u8").write_bytes(b"\x01" * 4)
    lines = told(capsys, "--root", root, "--out", tmp_path / "store", "--size", 4)
    assert lines["old stores"].startswith(
        "1 folders of an earlier version (0123456789abcdef-crop-4-v2), which identified"
    )
    assert lines["images"] == "4 in the store, 4 of them new; 0 broken"
    assert right(ingested(root, tmp_path / "store"))
