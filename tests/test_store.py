"""The image store: filled once, shared, checked, and usable after a crash at any instant."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest
from make_damage import DAMAGES, make_damage
from make_pools import open_pool

from ray_robust.data.images import pack as pack_module
from ray_robust.data.images import store as store_module
from ray_robust.data.images.pack import BROKEN, MISSING, PRESENT, RECORD, Pack
from ray_robust.data.images.store import VERSION, ImageStore, default_root, outdated
from ray_robust.data.pool import DIGEST, Catalog, Options, Pixels, Pool
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
        file.seek(int(store.mapped([row])[1][0]) * store.image_bytes + 5)
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
    pixels, slots = store.mapped(rows)
    assert (pixels[slots] == store.take(rows)).all()
    assert not pixels.flags.writeable
    again = ImageStore.open(tmp_path, Drawn(), 4)
    again.fill(rows)
    assert again.pool.reads == []
    assert (again.take(rows)[:, 3, 3, 2] == rows).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_ways_to_decode_have_packs_of_their_own_and_what_is_rendered_one_per_pool(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 1, "dog": 1})
    pools = [open_pool("source", "folder", {"path": str(tree), "fit": fit}) for fit in ("crop", "pad")]
    pools += [Drawn(3), Drawn(4)]
    stores = [ImageStore.open(tmp_path / "store", pool, size) for pool in pools for size in (8, 16)]
    folders = sorted({store.folder.name for store in stores})
    ways = ("drawn3-crop", "drawn4-crop", "images-crop", "images-pad")
    assert folders == sorted(f"{way}-{size}-v{VERSION}" for way in ways for size in (8, 16))


def test_a_store_takes_the_room_of_what_is_in_it(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(2000), 64)
    store.fill(np.arange(3))
    assert (store.folder / "pixels.u8").stat().st_size == 3 * 64 * 64 * 3
    store.fill(np.arange(2, 5))
    assert (store.folder / "pixels.u8").stat().st_size == 5 * 64 * 64 * 3


def test_broken_images_are_kept_with_their_reasons(tmp_path):
    pool = Drawn(bad=(7, 9))
    store = ImageStore.open(tmp_path, pool, 4)
    store.fill(np.arange(12))
    assert store.broken == {7: "row 7 is bad", 9: "row 9 is bad"}
    assert store.state[:13].tolist() == [PRESENT] * 7 + [BROKEN, PRESENT, BROKEN] + [PRESENT] * 2 + [MISSING]
    with pytest.raises(UserError, match="1 images are not in the store"):
        store.mapped(np.array([7]))
    assert store.missing(np.arange(12)).tolist() == []
    assert store.missing(np.arange(12), again=True).tolist() == [7, 9]
    pool.bad = (9,)
    store.fill(np.arange(12), again=True)  # one of them has been mended
    assert store.broken == {9: "row 9 is bad"}
    assert store.take(np.array([7]))[0, 0, 0, 0] == 7


def test_damage_on_disk_is_found_and_mended(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    store.fill(np.arange(50))
    damage(store, 11)
    assert store.verify().tolist() == [11]
    assert store.missing().tolist() == [11]
    store.fill(np.arange(50))
    assert store.verify().tolist() == []
    assert (store.take(np.arange(50))[:, 0, 0, 0] == np.arange(50)).all()


def test_what_is_taken_and_damaged_is_decoded_again(tmp_path, monkeypatch):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    store.fill(np.arange(50))
    damage(store, 11)
    store.take(np.arange(11))
    assert (store.take(np.arange(20))[:, 0, 0, 0] == np.arange(20)).all()
    assert store.verify().tolist() == []
    damage(store, 30)
    fill = ImageStore.fill

    def fails(self, rows):
        fill(self, rows)
        damage(self, 30)

    monkeypatch.setattr(ImageStore, "fill", fails)
    with pytest.raises(UserError) as caught:
        store.take(np.arange(40))
    assert str(caught.value) == (
        f"{store.folder}: 1 images are damaged on disk (image-30); delete this folder, or run ray_robust.ingest with "
        "--verify, which decodes again what is damaged"
    )


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
    assert not (store.take(np.arange(5))[2] == 2).all()
    assert (ImageStore.open(tmp_path, Drawn(), 4).take(np.arange(5))[2] == 2).all()


STORE_FILES = ("pixels.u8", "log.records", "broken.jsonl", "meta.json", "lock")


@pytest.mark.parametrize("damaged", DAMAGES)
@pytest.mark.parametrize("name", STORE_FILES)
def test_a_damaged_store_file_is_rebuilt(tmp_path, name, damaged):
    pool = Drawn()
    pool.bad = (9,)
    store = ImageStore.open(tmp_path, pool, 4)
    store.fill(np.arange(50))
    make_damage(store.folder / name, damaged)
    good = np.delete(np.arange(50), 9)
    for _ in range(2):  # the second time nothing is left to rebuild
        again = ImageStore.open(tmp_path, pool, 4)
        again.fill(np.arange(50))
        assert (again.take(good)[:, 0, 0, 0] == good).all()
        assert list(again.broken) == [9]
        assert again.verify().tolist() == []
        size = (store.folder / "log.records").stat().st_size
    ImageStore.open(tmp_path, pool, 4)
    assert (store.folder / "log.records").stat().st_size == size


def test_a_folder_in_the_place_of_a_store_file_is_not_removed_with_what_is_in_it(tmp_path):
    folder = ImageStore.open(tmp_path, Drawn(), 4).folder
    (folder / "pixels.u8").unlink()
    (folder / "pixels.u8").mkdir()
    (folder / "pixels.u8" / "mine.txt").write_text("mine")
    with pytest.raises(
        UserError, match=r"pixels.u8 is a folder, where a file belongs; delete the store's folder: it is"
    ):
        ImageStore.open(tmp_path, Drawn(), 4)


def test_who_has_read_what_became_shorter_goes_on_with_what_is_left(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    store.fill(np.arange(50))
    assert len(store.missing()) == 0
    os.truncate(store.folder / "log.records", 5 * RECORD.itemsize)
    assert len(store.missing()) == 45
    store.fill(np.arange(50))
    assert (store.take(np.arange(50))[:, 0, 0, 0] == np.arange(50)).all()


def test_who_has_read_what_began_afresh_reads_it_anew_even_where_it_has_grown_again(tmp_path):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    store.fill(np.arange(5))
    assert store.take(np.array([4]))[0, 0, 0, 0] == 4
    (store.folder / "pixels.u8").unlink()
    again = ImageStore.open(tmp_path, Drawn(), 4)
    again.fill(np.arange(49, -1, -1))  # in other slots, and more of them
    assert (store.take(np.arange(50))[:, 0, 0, 0] == np.arange(50)).all()
    pixels, slots = store.mapped(np.arange(50))
    assert (pixels[slots, 0, 0, 0] == np.arange(50)).all()
    (store.folder / "meta.json").unlink()
    assert len(store.missing()) == 0


def test_the_stores_of_earlier_versions_are_not_read(tmp_path):
    for name in (f"0123456789abcdef-crop-32-v{VERSION - 1}", f"images-crop-32-v{VERSION}", "digests", "x-8-v1"):
        (tmp_path / "store" / name).mkdir(parents=True)
    assert [folder.name for folder in outdated(tmp_path / "store")] == ["0123456789abcdef-crop-32-v2", "x-8-v1"]
    assert outdated(tmp_path / "none") == []


def test_a_full_disk_is_said_before_and_during(tmp_path, monkeypatch):
    store = ImageStore.open(tmp_path, Drawn(), 4)
    monkeypatch.setattr(pack_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"50 images at 4 px need 0.00 GB, the disk has 0.00 GB free; free some or"):
        store.fill(np.arange(50))
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack_module.os, "pwrite", full)
    with pytest.raises(UserError, match=r"the disk is full; free some room or name another folder in RAY_ROBUST_STORE"):
        store.fill(np.arange(50))
    monkeypatch.undo()
    assert len(store.missing()) == 50
    store.fill(np.arange(50))
    assert store.verify().tolist() == []


def test_a_root_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/file: is a file, where a folder belongs; mend it, or name"):
        ImageStore.open(tmp_path / "file", Drawn(), 4)


def die_at_write(store, number):
    """Have this process killed when it writes to a store for that many times."""
    calls = []

    def dying(write):
        def dies(*args):
            calls.append(args)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*args)

        return dies

    for name in ("_reserve", "_write", "_append"):
        setattr(store.pack, name, dying(getattr(store.pack, name)))


def fill_some(root, first, kill_after):
    pool = Drawn(200)
    store = ImageStore.open(root, pool, 4)
    if kill_after:
        die_at_write(store, kill_after)
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
    with open(store.folder / "log.records", "ab") as file:
        file.write(b"half a record"[: kill_after * 2])
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
    _ = store.mapped(np.array([3])), store.state
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


# --- the pack


def addressed(*numbers: int) -> np.ndarray:
    return np.array([n.to_bytes(16, "little") for n in numbers], DIGEST)


def filled(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


@pytest.fixture(params=[0, 4096], ids=["sorted at once", "looked up one by one"])
def pack(request, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_module, "TAIL", request.param)
    pack = Pack(tmp_path / "pack", 2)
    pack.create({})
    return pack


def test_a_pack_keeps_each_address_once(pack):
    pack.add(addressed(1, 2, 1), filled(10, 20, 10), {})
    pack.add(addressed(2, 3), filled(20, 30), {})
    found = pack.look_up(addressed(3, 9, 1, 2))
    assert found["state"].tolist() == [PRESENT, MISSING, PRESENT, PRESENT]
    assert (pack.folder / "pixels.u8").stat().st_size == 3 * pack.image_bytes
    assert pack.pixels(2)[found["slot"][[0, 2, 3]], 0, 0, 0].tolist() == [30, 10, 20]
    assert len(pack) == len(Pack(pack.folder, 2)) == 3


def test_addresses_with_the_same_first_half_are_told_apart(pack):
    same = [(high << 64) + 7 for high in range(1, 6)]
    pack.add(addressed(*same[:4]), filled(1, 2, 3, 4), {})
    found = pack.look_up(addressed(*reversed(same)))
    assert [pack.holds(number.to_bytes(16, "little"), (PRESENT,)) for number in (*same, 1)] == [True] * 4 + [False] * 2
    assert not pack.holds(same[0].to_bytes(16, "little"), (BROKEN,))
    assert found["state"].tolist() == [MISSING] + [PRESENT] * 4
    assert pack.pixels(3)[found["slot"][1:], 0, 0, 0].tolist() == [4, 3, 2, 1]


def test_the_last_word_on_an_address_holds(pack):
    pack.add(addressed(1, 2), filled(0, 20), {0: "is empty"})
    assert pack.look_up(addressed(1, 2))["state"].tolist() == [BROKEN, PRESENT]
    pack.add(addressed(1), filled(0), {0: "is empty"})
    assert (pack.folder / "broken.jsonl").read_text().count("is empty") == 1
    pack.add(addressed(1), filled(10), {})
    pack.forget(addressed(2))
    assert pack.look_up(addressed(1, 2))["state"].tolist() == [PRESENT, MISSING]
    pack.add(addressed(2), filled(21), {})
    for one in (pack, Pack(pack.folder, 2)):
        found = one.look_up(addressed(1, 2))
        assert one.pixels(int(found["slot"].max()))[found["slot"], 0, 0, 0].tolist() == [10, 21]


def test_what_a_crash_leaves_of_a_log_says_nothing(pack):
    pack.add(addressed(1), filled(10), {})
    with open(pack.folder / "log.records", "ab") as file:
        file.write(bytes(RECORD.itemsize) + b"half")
    with open(pack.folder / "broken.jsonl", "a") as file:
        file.write('["00')
    pack.add(addressed(2, 3), filled(20, 0), {1: "is empty"})
    again = Pack(pack.folder, 2)
    assert again.look_up(addressed(1, 2, 3))["state"].tolist() == [PRESENT, PRESENT, BROKEN]
    assert list(again.reasons().values()) == ["is empty"]
    assert (pack.folder / "log.records").stat().st_size == 4 * RECORD.itemsize
    assert again.pixels(1)[again.look_up(addressed(2))["slot"], 0, 0, 0].tolist() == [20]


def test_thousands_of_records_in_any_order(tmp_path):
    pack, order = Pack(tmp_path / "pack", 1), np.random.default_rng(0).permutation(20_000) + 1
    pack.create({})
    for part in np.array_split(order, 7):
        pack.add(addressed(*part.tolist()), np.repeat(np.uint8(part % 251), 3).reshape(-1, 1, 1, 3), {})
    found = pack.look_up(addressed(*range(1, 20_001)))
    assert (found["state"] == PRESENT).all()
    assert (pack.pixels(19_999)[found["slot"], 0, 0, 2] == np.arange(1, 20_001) % 251).all()
