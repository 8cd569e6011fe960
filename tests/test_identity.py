"""What a file contains decides: which pool it is, which images are drawn, and what lies in the store."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_pools import open_pool
from PIL import Image
from rich.console import Console

from analysis.input.run_points import identity_of, read_run
from analysis.report import run_facts
from ray_robust import ingest as command
from ray_robust import sweep
from ray_robust.data import contents, decode, opened, shards
from ray_robust.data import files as files_module
from ray_robust.data import pack as pack_module
from ray_robust.data import store as store_module
from ray_robust.data.file_pool import FilePool
from ray_robust.data.pack import BROKEN, PRESENT
from ray_robust.data.pool import SPLITS
from ray_robust.data.samples import describe
from ray_robust.data.signatures import signatures
from ray_robust.data.store import ImageStore
from ray_robust.errors import UserError
from ray_robust.launch.ingest import ingest as launch
from ray_robust.prepare import open_sweep as preparation
from ray_robust.prepare import provenance
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.plan_text import print_plan
from ray_robust.prepare.subsets import draw_all
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from tests import fake_run
from tests import make_images as make


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "default store"))
    opened.forget_pools()


def bmp(seed: int) -> bytes:
    """A picture of which every one has the same size."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def tree(root: Path, images: list[bytes]) -> Path:
    """These images in two classes by turns: cat/000.bmp, dog/001.bmp, ..."""
    for i, data in enumerate(images):
        make.write(root / ("cat", "dog")[i % 2] / f"{i:03d}.bmp", data)
    return root


def pool_at(path, **options) -> FilePool:
    pool = open_pool("source", "folder", {"path": str(path), **options})
    assert isinstance(pool, FilePool)
    return pool


def ingested(path, root: Path, size: int = 4, **options) -> ImageStore:
    (store,) = launch.ingest([(pool_at(path, **options), size, None)], root)
    return store


def identity(store: ImageStore) -> tuple[str, list[int], list[bytes]]:
    """Fingerprint, ids, and addresses in the store."""
    catalog = store.pool.catalog
    assert not catalog.provisional
    return catalog.fingerprint, catalog.ids.tolist(), [bytes(a) for a in store.pool.addresses(np.arange(store.n))]


def right(store: ImageStore) -> bool:
    """Whether what is present shows what the files show now."""
    rows = np.flatnonzero(store.state == PRESENT)
    return bool((store.take(rows) == pool_at(store.pool.options.path).read(rows, store.size).images).all())


@pytest.fixture
def decoded(monkeypatch):
    """How many images are decoded, as it goes."""
    seen, real = [], contents.digest_of
    decode_one = decode.decode
    monkeypatch.setattr(decode, "decode", lambda data, *args: (seen.append(real(data)), decode_one(data, *args))[1])
    return seen


# --- one byte, and no byte


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
    assert lines["old stores"].startswith("1 folders of an earlier version (0123456789abcdef-crop-4-v2), which told")
    assert lines["images"] == "4 in the store, 4 of them new; 0 broken"
    assert right(ingested(root, tmp_path / "store"))


# --- plans


SPEC = """
task: {{name: folder, path: {task}, metric: accuracy}}
model: {{name: test_byobnet, image_size: 32, precision: float32, compile: false}}
pretrain: {{sources: {{mine: {{kind: folder, path: {source}}}}}, num_images: 4, epochs: 1}}
finetune: {{epochs: 1, lr: 1e-3, batch_size: 8}}
seeds: 2
"""


def spec_at(tmp_path) -> Path:
    for split in SPLITS:
        tree(tmp_path / "task" / split, [bmp(i) for i in range(4)])
    tree(tmp_path / "source", [bmp(i) for i in range(60, 80)])
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.format(task=tmp_path / "task", source=tmp_path / "source"))
    return file


def ids(opened_spec) -> tuple[list[str], list[str]]:
    return [trial.id for trial in opened_spec.plan], [f.id for trial in opened_spec.plan for f in trial.finetunings]


def printed(opened_spec) -> str:
    out = Console(file=io.StringIO(), width=200)
    print_plan(out, opened_spec, draw_all(opened_spec, {}))
    return out.file.getvalue()


def fresh(file: Path, **how) -> preparation.Sweep:
    opened.forget_pools()
    return open_sweep(load_spec(file), **how)


def test_a_plan_of_files_that_were_not_read_is_provisional(tmp_path, monkeypatch):
    file = spec_at(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files_module.Folder, "read_steady", lambda *args: pytest.fail("a plan reads no image"))
        before = fresh(file, plan_only=True)
        assert "unread  mine: 20 of 20 files have not been read yet; until they are" in printed(before)
        assert ids(fresh(file, plan_only=True)) == ids(before)
    launch.read_files([(pool, 32, None) for pool in before.unread()], None, None)
    with monkeypatch.context() as patch:
        patch.setattr(files_module.Folder, "read_steady", lambda *args: pytest.fail("known files are not read"))
        after = fresh(file, plan_only=True)
        assert "unread" not in printed(after)
        assert ids(after) != ids(before)
        assert ids(fresh(file)) == ids(after)
    (tmp_path / "source" / "cat" / "000.bmp").write_bytes(bmp(99))
    edited = fresh(file, plan_only=True)
    assert "unread  mine: 1 of 20 files have not been read yet" in printed(edited)
    launch.read_files([(pool, 32, None) for pool in edited.unread()], None, None)
    (mixed, finetunings), (was, tasks) = ids(fresh(file)), ids(after)
    assert set(mixed) & set(was) == {name for name in was if "scratch" in name}  # what it did not change is as it was
    assert finetunings == tasks


# --- faults


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


def test_files_may_change_and_go_away_while_a_sweep_trains(tmp_path):
    """A trial takes the pools that were planned with, and the pixels that are in the store."""
    before = fresh(spec_at(tmp_path))
    launch.read_files([(pool, 32, None) for pool in before.unread()], None, None)
    sections = [level.section.sources["mine"] for level in before.spec.pretrains]
    planned = opened.open_pool("source", "mine", sections[0])
    wanted = planned.read(np.arange(20), 32).images
    sent = pickle.dumps(opened.listed())
    opened.forget_pools()
    (tmp_path / "source" / "cat" / "000.bmp").write_bytes(bmp(99))
    shutil.rmtree(tmp_path / "source" / "dog")
    opened.adopt(pickle.loads(sent))
    pool = opened.open_pool("source", "mine", sections[0])
    store = opened.open_store(store_module.default_root(), pool, 32)
    images, rows = opened.images_of(store, np.arange(20))
    assert rows is None
    assert (images == wanted).all()
    assert pool.catalog.fingerprint == planned.catalog.fingerprint
    assert opened.usable(store) is None


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
    for name in ("_reserve", "_write_pixels", "_append"):
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


# --- runs of earlier versions


def test_a_run_from_before_says_that_its_identity_was_by_size(tmp_path):
    run = fake_run.run_folder(str(tmp_path / "run"), fake_run.sweep({"num_images=1000": 0.0}))
    data = run.data()
    data["pools"][1] |= {"name": "shops", "licence": "not stated beside the images", "fingerprint": "ccd5de641e1d0a82"}
    del data["pools"][0]["identity"], data["pools"][1]["identity"]
    run.write("data.json", json.dumps(data))
    assert [identity_of(pool) for pool in run.data()["pools"]] == ["recipe", "names and sizes"]
    table, _ = read_run(str(tmp_path / "run"))
    assert [warning for warning in table.warnings if "names and sizes" in warning] == [
        "task shops: its images were told apart by their names and sizes, not by what they contain, in this run of an "
        "earlier version: other images with the same names and sizes would have passed for them"
    ]
    assert ("identity", "by names and sizes") in run_facts.samples([run])[1]["facts"]
    pool = pool_at(tree(tmp_path / "a", [bmp(i) for i in range(4)]))
    pool.name = "shops"
    assert [line[:44] for line in provenance.identified_by_size(run, [("task", pool)])] == [
        "shops: an earlier version told its images ap"
    ]
    assert list(provenance.identified_by_size(run, [("source", pool)])) == []


def test_a_new_run_says_what_its_identity_is_of(tmp_path):
    store = ingested(tree(tmp_path / "a", [bmp(i) for i in range(4)]), tmp_path / "store")
    entry = describe(RunFolder(str(tmp_path / "run")), "source", store)
    assert (entry["identity"], entry["fingerprint"]) == ("content", store.pool.catalog.fingerprint)
    assert pd.Series(store.pool.catalog.ids).is_unique


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_reads_plans_and_goes_on_where_nothing_but_times_has_changed(tmp_path, monkeypatch, capsys):
    file, run = spec_at(tmp_path), tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    args = [str(file), "--out", str(run), "--set", "seeds=1"]
    assert sweep.main(args) == 0
    first = capsys.readouterr().out
    assert "folder: reads 20 of 20 files, which are new or were touched since" in first
    assert "mine: reads 20 of 20 files" in first
    assert "0 of 2 trials are done, 2 to run" in first
    assert {pool["identity"] for pool in RunFolder(str(run)).data()["pools"]} == {"content"}
    for path in tmp_path.rglob("*.bmp"):
        os.utime(path, (5, 5))
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", lambda *args: pytest.fail("nothing is decoded again"))
        assert sweep.main(args) == 0
        again = capsys.readouterr().out
        assert "mine: reads 20 of 20 files" in again
        assert "2 of 2 trials are done, 0 to run" in again
        assert sweep.main(args) == 0
        assert "reads" not in capsys.readouterr().out
    (tmp_path / "source" / "dog" / "001.bmp").write_bytes(bmp(99))
    planned = (run / "plan.csv").read_bytes()
    assert sweep.main([*args, "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "unread  mine: 1 of 20 files" in shown
    assert "plan  run/plan.csv: left as it is, since these ids are provisional" in shown
    assert (run / "plan.csv").read_bytes() == planned
