"""What files contain, and when it is looked at again."""

from __future__ import annotations

import os
import shutil
import zipfile

import numpy as np
import pytest
from make_pools import open_pool

from ray_robust.data.images import files as files_module
from ray_robust.data.images.contents import RECORD, digest_of
from ray_robust.data.images.files import Folder
from ray_robust.data.pool import DIGEST
from ray_robust.errors import UserError
from tests import make_images as make


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of this test's own; its path."""
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def read(monkeypatch):
    """The keys of the files that are read, as they are."""
    seen, real = [], Folder.read_steady
    monkeypatch.setattr(Folder, "read_steady", lambda self, key: (seen.append(key), real(self, key))[1])
    return seen


def pool(root):
    return open_pool("source", "folder", {"path": str(root)})


def digests(root) -> list[bytes]:
    listed = pool(root)
    return [bytes(one) for one in listed.digests(np.arange(len(listed.catalog)))]


def test_digests_are_of_the_bytes_in_the_order_of_the_catalog(tmp_path, store):
    root = make.tree(tmp_path / "a", {"cat": 3, "dog": 2})
    listed = pool(root)
    found = listed.digests(np.array([4, 0, 0]))
    assert found.dtype == DIGEST
    assert found.shape == (3,)
    wanted = [digest_of((root / key).read_bytes()) for key in ("dog/001.jpg", "cat/000.jpg", "cat/000.jpg")]
    assert [bytes(one) for one in found] == wanted
    assert len(np.unique(listed.digests(np.arange(5)))) == 5


def test_an_unchanged_file_is_read_once_and_a_touched_one_again(tmp_path, store, read):
    root = make.tree(tmp_path / "a", {"cat": 3, "dog": 2})
    first = digests(root)
    assert len(read) == 5
    read.clear()
    assert digests(root) == first
    assert read == []
    os.utime(root / "cat" / "001.jpg", ns=(1, 1))
    assert digests(root) == first
    assert read == ["cat/001.jpg"]
    read.clear()
    assert digests(root) == first
    assert read == []


@pytest.mark.parametrize("how", ["in place", "another file", "times put back"])
def test_an_edited_file_is_read_again(tmp_path, store, read, how):
    root = make.tree(tmp_path / "a", {"cat": 2, "dog": 2})
    first, path = digests(root), root / "dog" / "000.jpg"
    data, before = bytearray(path.read_bytes()), path.stat()
    data[-3] ^= 1
    if how == "another file":
        path.unlink()
    path.write_bytes(data)  # of the same size
    if how == "times put back":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    read.clear()
    assert [a == b for a, b in zip(digests(root), first, strict=True)] == [True, True, False, True]
    assert read == ["dog/000.jpg"]
    assert pool(root).contents.unknown().tolist() == []


def test_a_copy_and_a_zip_have_the_same_digests(tmp_path, store):
    root = make.tree(tmp_path / "a", {"cat": 2, "dog": 2})
    shutil.copytree(root, tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*.jpg")):
            archive.write(path, path.relative_to(root))
    first = digests(root)
    assert digests(tmp_path / "b") == digests(tmp_path / "c.zip") == digests(tmp_path / "c.zip") == first


def test_a_zip_in_the_place_of_another_of_its_size_and_time_is_read(tmp_path, store):
    path = tmp_path / "a.zip"

    def write(to, byte: bytes) -> None:
        with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as archive:
            for name in ("cat/0.jpg", "dog/0.jpg"):
                archive.writestr(zipfile.ZipInfo(name), byte * 40)

    write(path, b"a")
    first, before = digests(path), path.stat()
    write(tmp_path / "b.zip", b"b")
    os.utime(tmp_path / "b.zip", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(tmp_path / "b.zip", path)
    assert path.stat().st_size == before.st_size
    assert digests(path) == [digest_of(b"b" * 40)] * 2 != first


def test_what_cannot_be_read_is_zeros_and_tried_again(tmp_path, store):
    root = make.tree(tmp_path / "a", {"cat": 2, "dog": 2})
    listed = pool(root)
    _ = listed.catalog
    (root / "cat" / "001.jpg").unlink()
    assert bytes(listed.digests(np.array([1]))[0]) == bytes(16)
    assert listed.contents.unreadable == {1: "cannot be read: No such file or directory"}
    assert listed.contents.unknown().tolist() == [0, 2, 3]


def test_half_a_record_and_zeros_are_no_digests(tmp_path, store):
    root = make.tree(tmp_path / "a", {"cat": 2, "dog": 2})
    first = digests(root)
    (file,) = (store / "digests").iterdir()
    assert file.stat().st_size == 4 * RECORD.itemsize
    with open(file, "r+b") as opened:
        opened.seek(RECORD.itemsize)
        opened.write(bytes(RECORD.itemsize))  # never reached the disk
        opened.truncate(3 * RECORD.itemsize + 10)  # killed while it was written
    assert pool(root).contents.unknown().tolist() == [1, 3]
    assert digests(root) == first
    assert file.stat().st_size == 5 * RECORD.itemsize
    assert pool(root).contents.unknown().tolist() == []


# --- files that change while they are read


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    path, looks = tmp_path / "x.jpg", []
    path.write_bytes(b"old!")
    real = files_module.stamp_of

    def edited(status):
        looks.append(status)
        if len(looks) == 3:  # after the first read
            path.write_bytes(b"new!")
            os.utime(path, ns=(5, 5))
            status = os.stat(path)
        return real(status)

    monkeypatch.setattr(files_module, "stamp_of", edited)
    data, stamp = Folder(str(tmp_path)).read_steady("x.jpg")
    assert data == b"new!"
    assert stamp == real(path.stat())


def test_a_file_that_never_stays_is_refused_in_a_line(tmp_path, monkeypatch):
    path, times = tmp_path / "x.jpg", iter(range(1, 99))
    path.write_bytes(b"old!")
    monkeypatch.setattr(files_module, "stamp_of", lambda status: (4, next(times), 7, 7))
    with pytest.raises(UserError) as caught:
        Folder(str(tmp_path)).read_steady("x.jpg")
    assert str(caught.value) == f"{path}: changes while it is read; run the command again once it is written"


@pytest.mark.parametrize(("mtime", "ctime", "waits"), [
    (3600, -3600, False),  # a camera whose clock is ahead
    (3600, 0, True),  # the same, copied here just now
    (0, 0, True),
    (-3600, -3600, False),
])  # fmt: skip
def test_only_what_was_written_a_moment_ago_is_waited_for(monkeypatch, mtime, ctime, waits):
    now, slept = 1_800_000_000 * 10**9, []
    monkeypatch.setattr(files_module.time, "time_ns", lambda: now)
    monkeypatch.setattr(files_module.time, "sleep", slept.append)
    stamp = (5, now + mtime * 10**9, 7, now + ctime * 10**9)
    assert files_module.settled(lambda: stamp) == stamp
    assert bool(slept) is waits
    assert all(seconds <= 2 for seconds in slept)
