"""The image store: filled once, shared, checked, and usable after a crash at any instant."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest
from make_pools import open_pool

from ray_robust.data import store as store_module
from ray_robust.data.pool import Catalog, Options, Pixels, Pool
from ray_robust.data.store import BROKEN, MISSING, PRESENT, VERSION, ImageStore, default_root
from ray_robust.errors import UserError
from tests import make_images as make


class Drawn(Pool):
    """A small rendered pool: image i is filled with i; `bad` rows cannot be read."""

    rendered = True

    def __init__(self, n: int = 50, bad: tuple[int, ...] = ()) -> None:
        super().__init__("drawn", Options())
        self.n, self.bad, self.reads = n, bad, []

    def list_images(self) -> Catalog:
        ids = np.arange(self.n, dtype=np.uint64)
        return Catalog((ids % 2).astype(np.int32), ("a", "b"), ids, f"drawn{self.n}", "CC0")

    def keys(self, rows):
        return [f"image-{row}" for row in rows]

    def read(self, rows, size):
        self.reads.append(list(rows))
        images = np.empty((len(rows), size, size, 3), np.uint8)
        images[:] = np.asarray(rows, np.uint8)[:, None, None, None]
        broken = {i: f"row {row} is bad" for i, row in enumerate(rows) if row in self.bad}
        images[list(broken)] = 0
        return Pixels(images, broken)


def damage(store: ImageStore, row: int) -> None:
    with open(store.folder / "pixels.u8", "r+b") as file:
        file.seek(row * store.image_bytes + 5)
        file.write(b"\xee")


def test_only_what_is_asked_for_is_filled_and_once(tmp_path):
    pool = Drawn()
    store = ImageStore.open(tmp_path, pool, 4)
    rows = np.array([40, 3, 4, 5, 3])
    store.fill(rows)
    assert pool.reads == [[3, 4, 5, 40]]
    assert store.missing(rows).tolist() == []
    assert len(store.missing()) == 46
    assert (store.take(rows)[:, 0, 0, 0] == rows).all()
    assert (store.pixels[40] == 40).all()
    assert not store.pixels.flags.writeable
    again = ImageStore.open(tmp_path, Drawn(), 4)
    again.fill(rows)
    assert again.pool.reads == []
    assert (again.take(rows)[:, 3, 3, 2] == rows).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_size_and_meaning_have_stores_of_their_own(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 1, "dog": 1})
    pools = [open_pool("source", "folder", {"path": str(tree), "fit": fit}) for fit in ("crop", "pad")]
    folders = {ImageStore.open(tmp_path / "store", pool, size).folder.name for pool in pools for size in (8, 16)}
    assert len(folders) == 4
    assert any(name.endswith(f"-pad-16-v{VERSION}") for name in folders)


def test_files_are_sparse_until_written(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(2000), 64)
    store.fill(np.arange(3))
    status = (store.folder / "pixels.u8").stat()
    assert status.st_size == 2000 * 64 * 64 * 3
    assert status.st_blocks * 512 < 200_000


def test_broken_images_are_kept_with_their_reasons(tmp_path):
    pool = Drawn(bad=(7, 9))
    store = ImageStore.open(tmp_path, pool, 4)
    store.fill(np.arange(12))
    assert store.broken == {7: "row 7 is bad", 9: "row 9 is bad"}
    assert store.state[:13].tolist() == [PRESENT] * 7 + [BROKEN, PRESENT, BROKEN] + [PRESENT] * 2 + [MISSING]
    assert (store.pixels[7] == 0).all()
    assert store.missing(np.arange(12)).tolist() == []
    assert store.missing(np.arange(12), again=True).tolist() == [7, 9]
    pool.bad = (9,)
    store.fill(np.arange(12), again=True)  # one of them has been mended
    assert store.broken == {9: "row 9 is bad"}
    assert store.take(np.array([7]))[0, 0, 0, 0] == 7


def test_damage_on_disk_is_named_and_mended(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    store.fill(np.arange(50))
    damage(store, 11)
    store.take(np.arange(11))
    with pytest.raises(UserError) as caught:
        store.take(np.arange(20))
    assert str(caught.value) == (
        f"{store.folder}: 1 images are damaged on disk (image-11); delete this folder, or run ray_robust.ingest with "
        "--verify, which decodes again what is damaged"
    )
    assert store.verify().tolist() == [11]
    assert store.missing().tolist() == [11]
    store.fill(np.arange(50))
    assert store.verify().tolist() == []
    assert (store.take(np.arange(50))[:, 0, 0, 0] == np.arange(50)).all()


def test_taking_what_is_not_there_is_said(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    store.fill(np.arange(3))
    with pytest.raises(UserError, match=r"2 images are not in the store \(image-3, image-4\); fill it with"):
        store.take(np.arange(5))


def test_a_checksum_is_verified_once_per_process(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    store.fill(np.arange(5))
    store.take(np.arange(5))
    damage(store, 2)
    store.take(np.arange(5))
    with pytest.raises(UserError, match="damaged"):
        ImageStore.open(tmp_path, Drawn(), 4).take(np.arange(5))


def test_a_file_of_the_wrong_length_is_said(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    os.truncate(store.folder / "pixels.u8", 100)
    with pytest.raises(UserError, match=r"pixels.u8 is not 2,400 bytes long; delete this folder"):
        ImageStore.open(tmp_path, Drawn(), 4)


def test_a_full_disk_is_said_before_and_during(tmp_path, monkeypatch):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"50 images at 4 px need 0.00 GB, the disk has 0.00 GB free; free some or"):
        store.fill(np.arange(50))
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.os, "pwrite", full)
    with pytest.raises(UserError, match=r"the disk is full; free some room or name another folder in RAY_ROBUST_STORE"):
        store.fill(np.arange(50))
    monkeypatch.undo()
    assert len(store.missing()) == 50
    store.fill(np.arange(50))
    assert store.verify().tolist() == []


def test_a_root_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)"):
        ImageStore.open(tmp_path / "file", Drawn(), 4)


def fill_some(root, first, kill_after):
    pool = Drawn(200)
    store = ImageStore.open(root, pool, 4)
    if kill_after:
        write, calls = store._write, []

        def dies(*args):
            calls.append(args)
            if len(calls) == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            write(*args)

        store._write = dies
    store.fill(np.arange(first, 200))


@pytest.mark.parametrize("kill_after", [1, 2, 3, 4, 5, 6])
def test_killed_at_any_write_it_can_be_filled_on(tmp_path, monkeypatch, kill_after):
    monkeypatch.setattr(store_module, "BATCH_IMAGES", 64)
    process = multiprocessing.get_context("fork").Process(target=fill_some, args=(tmp_path, 0, kill_after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = ImageStore.open(tmp_path, Drawn(200), 4)
    assert len(store.missing()) == 200 - 64 * ((kill_after - 1) // 3)
    assert store.verify().tolist() == []
    store.fill(np.arange(200))
    assert (store.take(np.arange(200))[:, 0, 0, 0] == np.arange(200)).all()


def test_several_processes_fill_one_store(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "BATCH_IMAGES", 16)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=fill_some, args=(tmp_path, first, 0)) for first in (0, 50, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    store = ImageStore.open(tmp_path, Drawn(200), 4)
    assert len(store.missing()) == 0
    assert store.verify().tolist() == []


def test_it_travels_as_a_place(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(5000), 32)
    store.fill(np.arange(5000))
    _ = store.pixels, store.state
    sent = pickle.dumps(store)
    assert len(sent) < 200_000
    assert (pickle.loads(sent).take(np.array([3])) == 3).all()


def test_the_default_root(monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_STORE", "/some/where")
    assert str(default_root()) == "/some/where"
    monkeypatch.delenv("RAY_ROBUST_STORE")
    monkeypatch.setenv("RAY_ROBUST_CACHE", "/a/cache")
    assert str(default_root()) == "/a/cache/store"
    monkeypatch.delenv("RAY_ROBUST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/.cache")
    assert str(default_root()) == "/home/me/.cache/ray_robust/store"
