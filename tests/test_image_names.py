"""Which files of a folder are images by their names, and what is said of the others."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from make_pools import open_pool
from PIL import Image

from tests import make_images as make


def source(path):
    return open_pool("source", "folder", {"path": str(path)})


def test_files_that_may_be_images_are_warned_of(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 20, "dog": 20})
    for name in ("cat/1.HEIC", "cat/2.heic", "dog/1.tga", *(f"dog/{i}.txt" for i in range(20))):
        (tree / name).write_bytes(b"?")
    what = "files are ignored that may be images by their names"
    (warning,) = source(tree).catalog.warnings
    assert warning.startswith(f"{what}: 2 .heic, 1 .tga; convert or rename them: images are called .jpg, .jpeg, ")
    for i in range(9):
        (tree / f"dog/picture{i}").write_bytes(b"?")
    assert source(tree).catalog.warnings[0].startswith(f"{what}: 9 without a suffix, 2 .heic, 1 .tga; ")


@pytest.mark.parametrize("suffix", ["jpe", "j2k", "j2c", "jpc", "jpf", "jpx"])
def test_other_names_of_jpegs_and_jpeg_2000_are_images(tmp_path, suffix):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (16, 16), (200, 10, 10)).save(tmp_path / label / f"x.{suffix}")
    pool = source(tmp_path)
    read = pool.read(np.arange(len(pool.catalog)), 8)
    assert (len(read.images), read.broken) == (2, {})


def test_names_in_a_zip_that_begin_with_a_dot_are_those_without(tmp_path):
    with zipfile.ZipFile(tmp_path / "dots.zip", "w") as archive:
        archive.writestr("./", "")
        for name in ("./cat/", "./cat/0.jpg", "./dog/./0.jpg", "./.hidden/0.jpg"):
            archive.writestr(name, b"" if name.endswith("/") else make.encoded(make.picture()))
    pool = source(tmp_path / "dots.zip")
    assert pool.keys(np.arange(2)) == ["cat/0.jpg", "dog/0.jpg"]
    assert not pool.read(np.arange(2), 8).broken
