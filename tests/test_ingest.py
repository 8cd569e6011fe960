"""Filling stores, in this process and on Ray, and the command `python -m ray_robust.ingest`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from deadlines import wait_for
from make_pools import open_pool

from ray_robust import ingest as command
from ray_robust.data.images.store import VERSION, ImageStore
from ray_robust.data.pool import SPLITS
from ray_robust.errors import UserError
from ray_robust.launch.ingest import ingest as launch
from tests import make_images as make


def folder(path, **options):
    return open_pool("source", "folder", {"path": str(path), **options})


def pets(root, count=5):
    return make.tree(root, {"cat": count, "dog": count})


def said(call) -> list[str]:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value).splitlines()


# --- in this process


def test_files_are_filled_wholly_and_only_once(tmp_path):
    pool, seen = folder(pets(tmp_path / "a")), []
    jobs = [(pool, 8, np.array([1])), (pool, 16, None)]
    stores = launch.ingest(jobs, tmp_path / "store", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, 20)
    assert [len(store.missing()) for store in stores] == [0, 0]
    assert (stores[1].take(np.arange(10)) == pool.read(np.arange(10), 16).images).all()
    seen.clear()
    launch.ingest(jobs, tmp_path / "store", lambda *now: seen.append(now))
    assert seen == []


def test_what_can_be_rendered_has_a_head_start(tmp_path):
    world, files = open_pool("source", "species", {"species": 4, "images_per_class": 50}), folder(pets(tmp_path / "a"))
    wanted = np.arange(0, 200, 2)
    stores = [ImageStore.open(tmp_path / "store", pool, 8) for pool in (world, files)]
    with launch.head_start([(files, 8, None), (world, 8, wanted)], tmp_path / "store"):
        wait_for(lambda: not len(stores[0].missing(wanted)), 0.01)
    assert (stores[0].missing() == np.arange(1, 200, 2)).all()
    assert len(stores[1].missing()) == 10  # files may be broken: `ingest` says which


def test_a_head_start_ends_with_its_block(tmp_path):
    world = open_pool("source", "species", {"images_per_class": 1_000})
    with launch.head_start([(world, 32, np.arange(200_000))], tmp_path / "store"):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == launch.HEAD_START]
    assert len(ImageStore.open(tmp_path / "store", world, 32).missing(np.arange(200_000)))


def test_every_broken_image_is_named_until_it_is_mended(tmp_path):
    root = pets(tmp_path / "a", 30)
    for i in range(25):
        make.write(root / "cat" / f"{i:03d}.jpg", b"text")
    make.write(root / "dog" / "000.jpg", b"")
    pool = folder(root)
    lines = said(lambda: launch.ingest([(pool, 8, None)], tmp_path / "store"))
    assert lines[0] == f"{root}/cat/000.jpg: is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image"
    assert lines[-1] == f"{root}: 26 of 60 images are broken; mend or remove them, or say `broken: drop`"
    assert len(lines) == launch.SHOWN + 1
    for i in range(25):
        (root / "cat" / f"{i:03d}.jpg").write_bytes(make.encoded(make.picture()))
    (root / "dog" / "000.jpg").unlink()
    assert len(launch.ingest([(folder(root), 8, None)], tmp_path / "store")[0].broken) == 0


def test_the_same_store_is_tried_again_where_broken_images_fail(tmp_path):
    root = pets(tmp_path / "a")
    good = (root / "cat" / "000.jpg").read_bytes()
    make.write(root / "cat" / "000.jpg", b"x" * len(good))  # the size, hence the fingerprint, stays
    assert len(said(lambda: launch.ingest([(folder(root), 8, None)], tmp_path / "store"))) == 2
    make.write(root / "cat" / "000.jpg", good)
    assert launch.ingest([(folder(root), 8, None)], tmp_path / "store")[0].broken == {}


def test_broken_images_can_be_left_out_but_not_most_of_them(tmp_path):
    root = pets(tmp_path / "a")
    make.write(root / "cat" / "003.jpg", b"")
    (store,) = launch.ingest([(folder(root, broken="drop"), 8, None)], tmp_path / "store")
    assert store.broken == {3: "is empty (0 bytes)"}
    for i in range(5):
        make.write(root / "dog" / f"{i:03d}.jpg", b"")
    lines = said(lambda: launch.ingest([(folder(root, broken="drop"), 8, None)], tmp_path / "store"))
    assert lines == [f"{root}: 6 of 10 images cannot be read (is empty (0 bytes)): too many to drop"]


def test_blocks_cover_every_row_once_in_order(tmp_path):
    pool = folder(pets(tmp_path))
    for n, cpus in ((0, 2), (1, 2), (63, 4), (5000, 2), (1_000_000, 16)):
        rows = np.arange(n) * 3
        blocks = launch.divide(pool, rows, cpus)
        assert np.array_equal(np.concatenate([*blocks, rows[:0]]), rows)
        assert all(0 < len(block) <= 2048 for block in blocks)


# --- the command


def test_the_command_tells_what_it_found_and_where_it_lies(tmp_path, capsys):
    rows = [{"path": f"{s}-{x}.jpg", "label": x, "split": s, "kind": "pet"} for s in SPLITS for x in ("cat", "dog")]
    path = make.table(tmp_path / "index.csv", rows)
    make.write(tmp_path / "LICENSE.txt", b"CC0")
    args = ("folder", "--root", str(path), "--task", "--size", "8", "--fit", "pad", "--out", str(tmp_path / "store"))
    assert command.main([*args]) == 0
    (store,) = (tmp_path / "store").glob("images-*")
    pool = open_pool("task", "folder", {"path": str(path)})
    pool.recall(tmp_path / "store")
    assert capsys.readouterr().out.splitlines() == [
        "folder       10 images, 2 classes",
        "classes      cat 5, dog 5",
        "ranks        kind 1, label 2",
        "splits       train 2, id_val 2, id_test 2, ood_val 2, ood_test 2",
        "licence      see LICENSE.txt beside the images",
        f"fingerprint  {pool.catalog.fingerprint}",
        "images       10 in the store, 10 of them new; 0 broken",
        "duplicates   none across splits or under two labels; near-identical images are not looked for under 16 px",
        f"store        {store}",
    ]
    assert store.name.endswith(f"-pad-8-v{VERSION}")
    assert command.main([*args]) == 0
    assert "images       10 in the store, 0 of them new; 0 broken" in capsys.readouterr().out


def test_further_test_sets_are_filled_as_a_sweep_reads_them(tmp_path, capsys):
    """`shifts`, `id_sets` and `corruptions` were taken and ignored."""
    root = make.tree(tmp_path / "task", {f"{s}/{x}": 2 for s in SPLITS for x in ("cat", "dog")})
    more = [make.tree(tmp_path / name, {"cat": n, "dog": n}) for name, n in (("v2", 3), ("web", 4))]
    args = ["folder", "--root", str(root), "--task", "--size", "8", "--out", str(tmp_path / "store")]
    sets = [f"shifts={{v2: {more[0]}}}", f"id_sets={{web: {more[1]}}}", "corruptions={kinds: [jpeg], severities: [1]}"]
    assert command.main([*args, *(part for one in sets for part in ("--set", one))]) == 0
    told = capsys.readouterr().out
    assert "folder       34 images, 2 classes" in told
    for note in (
        "Shift v2: 6 images of all classes.",
        "ID set web: 8 images of all classes.",
        "Corruptions of 4 of 4 images of id_test: jpeg-1.",
        "Corruptions are made on each node by the first trial of a sweep, not here.",
    ):
        assert f"note         {note}\n" in told
    store = ImageStore.open(tmp_path / "store", folder(more[0]), 8)
    assert not len(store.missing())
    assert said(lambda: command.main([*args, "--set", f"shifts={{v2: {tmp_path}/none}}"])) == [
        f"{tmp_path}/none: shift v2: no such file or folder"
    ]


def test_verify_mends(tmp_path, capsys):
    root, out = pets(tmp_path / "a"), tmp_path / "store"
    args = ["folder", "--root", str(root), "--out", str(out), "--size", "8"]
    command.main(args)
    with open(next(out.glob("images-*")) / "pixels.u8", "r+b") as file:
        file.write(b"\xaa\xbb\xcc")
    capsys.readouterr()
    assert command.main([*args, "--verify"]) == 0
    told = capsys.readouterr().out
    assert "checksums    1 images damaged, to be decoded again" in told
    assert "images       10 in the store, 1 of them new; 0 broken" in told
    assert ImageStore.open(out, folder(root), 8).verify().tolist() == []


def test_dropped_images_are_listed(tmp_path, capsys):
    root = pets(tmp_path / "a")
    make.write(root / "cat" / "003.jpg", b"")
    command.main(["folder", "--root", str(root), "--out", str(tmp_path / "store"), "--broken", "drop"])
    assert "  left out   cat/003.jpg: is empty (0 bytes)" in capsys.readouterr().out.splitlines()


def test_a_rendered_source_can_be_filled_in_part(tmp_path, capsys):
    assert command.main(["species", "--limit", "40", "--size", "8", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "images       40 in the store, 40 of them new; 0 broken" in told
    assert "ranks        order " in told


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["foldr"], "'foldr' is no known source or task; did you mean folder?"),
        (["folder"], "--root: folder needs the folder that its images are in"),
        (["folder", "--root", "{root}", "--set", "lable=x"], "folder: lable: unknown option; did you mean label?"),
        (["folder", "--root", "{root}", "--set", "label"], "--set label: wanted KEY=VALUE"),
        (["species", "--root", "{root}"], "--root: species is rendered, so there is nothing to read"),
        (
            ["subpopulation", "--root", "{root}", "--set", "labels=order", "--set", "source={{name: species}}"],
            "--root: subpopulation has none; its images are those of its source; say where by --set "
            "'source={{name: folder, path: DIR}}'",
        ),
        (["folder", "--root", "{root}", "--limit", "5"], "--limit: folder is decoded as a whole; only a rendered"),
        (["folder", "--root", "{root}", "--size", "0"], "--size: 0 px is no size; wanted: 1 to 2048"),
        (["folder", "--root", "{root}/none"], "{root}/none: no such file or folder"),
        (["wilds:iwildcam", "--root", "{root}"], "{root}/iwildcam_v2.0: has no metadata.csv, train. Obtain it: "),
    ],
)
def test_mistakes_are_said(args, wanted, tmp_path):
    out = tmp_path / "store"
    lines = said(lambda: command.main([a.format(root=tmp_path) for a in args] + ["--out", str(out)]))
    assert lines[0].startswith(wanted.format(root=tmp_path))
    assert not out.exists()


def test_an_empty_out_is_not_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = said(lambda: command.main(["species", "--out", ""]))
    assert lines == ["--out: is empty; wanted: the path or URI of a folder, or no --out"]


def test_as_a_program_a_mistake_is_a_line_and_exit_code_2(tmp_path):
    args = [sys.executable, "-m", "ray_robust.ingest", "folder", "--root", str(tmp_path), "--out", str(tmp_path / "s")]
    done = subprocess.run(args, capture_output=True, text=True, cwd=os.getcwd())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path}: holds no images; wanted: <class>/*.jpg\n"


# --- on Ray


@pytest.fixture(scope="module")
def cluster():
    """This machine's Ray, of this module when no other has started one."""
    import ray

    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.ray
def test_ray_fills_the_same_store(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "WORTH", 0.0)
    root = pets(tmp_path / "a", 100)
    make.write(root / "dog" / "050.jpg", b"")
    pool, seen = folder(root, broken="drop"), []
    (store,) = launch.ingest([(pool, 8, None)], tmp_path / "ray", lambda *now: seen.append(now))
    (here,) = [ImageStore.open(tmp_path / "here", pool, 8)]
    here.fill(np.arange(200))
    assert seen[-1] == (200, 200)
    assert len(seen) > 1
    rows = np.flatnonzero(np.arange(200) != 150)
    assert (store.take(rows) == here.take(rows)).all()
    assert not pool.catalog.provisional
    assert store.broken == here.broken == {150: "is empty (0 bytes)"}
    assert store.verify().tolist() == []


@pytest.mark.ray
def test_a_mistake_on_a_worker_is_said_as_here(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "WORTH", 0.0)
    root = pets(tmp_path / "a", 100)
    pool = folder(root)
    _ = pool.catalog
    root.rename(tmp_path / "gone")
    assert said(lambda: launch.ingest([(pool, 8, None)], tmp_path / "store")) == [
        f"{root}: the folder of images is gone"
    ]


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("{sise: 48}", "--store {sise: 48}: sise: unknown option; did you mean size?"),
        ("{size: 4}", "--store {size: 4}: size: input should be greater than or equal to 8"),
        ("{size: 20}", "--store {size: 20}: store.size: 20 px are fewer than the 32 of image_size that models see; "
                       "store at least as many"),
        ("small", "--store small: must be auto, raw, compact, or a mapping such as {size: 288, quality: 95}, not "
                  "'small'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_form_of_a_store_that_is_filled_ahead(form, line):
    with pytest.raises(UserError) as error:
        command.main(["species", "--store", form])
    assert str(error.value) == line
