"""Files that change, cannot be read, or a process that is killed while it stores them: nothing wrong is stored."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from ray_robust.data import opened
from ray_robust.data.images import contents
from ray_robust.data.images import files as files_module
from ray_robust.data.images import pack as pack_module
from ray_robust.data.images import store as store_module
from ray_robust.data.images.pack import BROKEN, PRESENT
from ray_robust.data.images.store import ImageStore
from ray_robust.data.readers import shards
from ray_robust.errors import UserError
from ray_robust.launch.ingest import ingest as launch
from tests import make_images as make
from tests.make_folders import bmp, identity, ingested, pool_at, right, tree


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "default store"))
    opened.forget_pools()


def test_a_file_that_changes_between_listing_and_reading_counts_as_it_was_read(tmp_path):
    root = tree(tmp_path / "a", [bmp(i) for i in range(4)])
    pool = pool_at(root)
    assert pool.catalog.provisional
    (root / "cat" / "002.bmp").write_bytes(bmp(9))
    (store,) = launch.ingest([(pool, 4, None)], tmp_path / "store")
    assert right(store)
    assert identity(store) == identity(ingested(root, tmp_path / "store"))


@pytest.mark.parametrize(("how", "what"), [
    ("edited", "has changed since it was listed"),
    ("removed", "cannot be read any more: No such file or directory"),
])  # fmt: skip
def test_a_file_that_is_not_what_was_planned_with_is_refused(tmp_path, how, what):
    root = tree(tmp_path / "a", [bmp(i) for i in range(4)])
    pool = ingested(root, tmp_path / "store").pool
    path = root / "cat" / "002.bmp"
    path.unlink()
    if how == "edited":
        path.write_bytes(bmp(9))
    store = ImageStore.open(tmp_path / "of another node", pool, 4)
    with pytest.raises(UserError) as caught:
        store.fill(store.missing())
    assert str(caught.value) == f"{path}: {what}; run the same command again"
    assert not store.state.any()
    assert not store.broken
    if how == "edited":
        again = ingested(root, tmp_path / "of another node")
        assert right(again)
        assert identity(again)[0] != pool.catalog.fingerprint


def test_what_cannot_be_read_is_left_out_or_named(tmp_path, monkeypatch):
    root = tree(tmp_path / "a", [bmp(i) for i in range(6)])
    real = files_module.Folder.read_steady

    def read(self, key):
        if key == "cat/002.bmp":
            raise PermissionError(13, "Permission denied")
        return real(self, key)

    monkeypatch.setattr(files_module.Folder, "read_steady", read)
    store = ingested(root, tmp_path / "store", broken="drop")
    assert store.broken == {1: "cannot be read: Permission denied"}
    assert store.state.tolist() == [PRESENT, BROKEN, *[PRESENT] * 4]
    without = store.pool.catalog.fingerprint
    with pytest.raises(UserError, match=r"cat/002.bmp: cannot be read: Permission denied"):
        ingested(root, tmp_path / "store")
    monkeypatch.undo()
    assert ingested(root, tmp_path / "store").pool.catalog.fingerprint != without


def fill_until(root: Path, store_root: Path, calls: int) -> None:
    """Fill a store and be killed before the n-th time that something is written."""
    done = []

    def dying(write):
        def dies(*args):
            done.append(args)
            if len(done) == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*args)

        return dies

    contents.Contents.remember = dying(contents.Contents.remember)
    for name in ("_reserve", "_write", "_append"):
        setattr(pack_module.Pack, name, dying(getattr(pack_module.Pack, name)))
    store = ImageStore.open(store_root, pool_at(root), 4)
    store.fill(np.arange(store.n))


@pytest.mark.parametrize("calls", range(1, 18))
def test_an_ingest_that_is_killed_stores_nothing_wrong_and_goes_on(tmp_path, monkeypatch, calls):
    monkeypatch.setattr(store_module, "BATCH_IMAGES", 4)
    monkeypatch.setattr(pack_module, "TAIL", calls)
    make.write(tree(tmp_path / "a", [bmp(i) for i in range(15)]) / "cat" / "broken.bmp", b"BM")
    root, whole = tmp_path / "a", tmp_path / "whole"
    process = multiprocessing.get_context("fork").Process(target=fill_until, args=(root, tmp_path / "store", calls))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = ImageStore.open(tmp_path / "store", pool_at(root, broken="drop"), 4)
    assert right(store)
    assert store.verify().tolist() == []
    assert (len(store.pool.unread()) == 16) == (calls == 1)
    (store,) = launch.ingest([(store.pool, 4, None)], tmp_path / "store")
    assert identity(store) == identity(ingested(root, whole, broken="drop"))
    assert len(store.broken) == 1
    assert (store.state != 0).all()
    assert right(store)


# --- shards


class Object:
    """What pyarrow gives for an object in a store."""

    def __init__(self, data: bytes, tag: bytes | None) -> None:
        self.data, self.tag = data, tag

    def metadata(self):
        return {b"Content-Length": b"1"} | ({b"ETag": self.tag} if self.tag else {})

    def size(self):
        return len(self.data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_objects_go_by_their_etag_and_size(tmp_path):
    def stamp(data: bytes, tag: bytes | None, mtime_ns: int = 7):
        store = type("Store", (), {"open_input_file": lambda self, path: Object(data, tag)})()
        return shards._stamp(store, type("Info", (), {"path": "b/x.tar", "size": len(data), "mtime_ns": mtime_ns}))

    assert stamp(b"1234", b'"a"') == stamp(b"1234", b'"a"', mtime_ns=8)
    assert stamp(b"1234", b'"a"') != stamp(b"1234", b'"b"')
    assert stamp(b"1234", b'"a"') != stamp(b"123", b'"a"')
    assert stamp(b"1234", None) != stamp(b"1234", None, mtime_ns=8)
    listed = shards.Shards("s3://b/x.tar", None, (shards.Shard("b/x.tar", "x", stamp(b"1234", b'"a"')),))
    shards.check_shard(listed, 0, Object(b"1234", b'"a"'))
    with pytest.raises(UserError, match=r"b/x.tar: has changed since it was listed; run the same command again"):
        shards.check_shard(listed, 0, Object(b"1234", b'"b"'))
