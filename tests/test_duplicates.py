"""Images that are there more than once: found across splits, sources and labels, counted, listed and pictured."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_pools import open_pool
from PIL import Image

from bench import duplicates as bench
from ray_robust import ingest as command
from ray_robust.data.duplicates import comparison, phash
from ray_robust.data.duplicates.entries import PICTURED, examine, renewed, summary
from ray_robust.data.duplicates.signatures import signatures
from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import SPLITS
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.prepare.data_entries import write_data_entries
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from tests import make_images as make


def photo(seed: int, wide: int = 96) -> Image.Image:
    return make.photo(wide, wide, seed=seed)


def task_tree(root: Path, per_class: int = 3) -> Path:
    """A task of photographs of which no two are alike."""
    seed = 0
    for split in SPLITS:
        for label in ("cat", "dog"):
            for i in range(per_class):
                make.write(root / split / label / f"{i}.png", make.encoded(photo(seed := seed + 1), "PNG"))
    return root


def opened(tmp_path: Path, kind: str, root: Path, size: int = 32, **options) -> ImageStore:
    pool = open_pool(kind, "folder", {"path": str(root), **options})
    return ingest([(pool, size, None)], tmp_path / "store")[0]


def rows(compared: comparison.Duplicates) -> list[tuple]:
    columns = ["split", "image", "where", "other", "kind"]
    table = compared.table.assign(
        image=compared.pool.keys(compared.table["image"].to_numpy(int)),
        other=compared.among.keys(compared.table["other"].to_numpy(int)),
    )
    return sorted(table[columns].itertuples(index=False, name=None))


# --- hashes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_the_search_finds_what_comparing_every_pair_finds(seed, many, others, coded):
    """Hashes in clusters, of which many pairs lie about as far apart as the radius."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**63, 4, dtype=np.uint64)

    def some(count: int) -> np.ndarray:
        flips = random.random((count, 64)) < random.uniform(0, 0.2)
        return centres[random.integers(0, 4, count)] ^ np.packbits(flips, axis=1).view(">u8")[:, 0].astype(np.uint64)

    queries, hashes = some(many), some(others)
    codes, other_codes = random.integers(0, 3, many), random.integers(0, 3, others)
    apart = np.bitwise_count(queries[:, None] ^ hashes[None])
    wanted = (apart <= phash.RADIUS) & ((codes[:, None] != other_codes[None]) | (not coded))
    index = phash.Index(hashes, other_codes if coded else None)
    query, place, bits = index.near(queries, codes if coded else None, most=10**6)
    assert set(zip(query.tolist(), place.tolist(), strict=True)) == set(
        zip(*map(np.ndarray.tolist, wanted.nonzero()), strict=True)
    )
    assert (bits == apart[query, place]).all()
    nearest = index.near(queries, codes if coded else None, most=1)
    assert nearest[2].tolist() == [min(apart[q][wanted[q]]) for q in np.unique(query)]


def test_few_candidates_at_a_time_give_the_same(monkeypatch):
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**10, 300).astype(np.uint64)  # full buckets
    whole = phash.Index(hashes).near(hashes, most=5)
    monkeypatch.setattr(phash, "AT_ONCE", 50)
    monkeypatch.setattr(phash, "BLOCK", 20)
    parts = phash.Index(hashes).near(hashes, most=5)
    assert all((a == b).all() for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("size", [16, 24, 32, 64, 80])
def test_a_copy_is_near_and_another_image_is_not(size):
    def changed(image: Image.Image) -> list[Image.Image]:
        again = Image.open(io.BytesIO(make.encoded(image, quality=50)))
        smaller = image.resize((70, 70), Image.Resampling.LANCZOS)
        darker = image.point(lambda value: int(value * 0.8))
        return [image, again.convert("RGB"), smaller, darker]

    pictures = [
        [np.asarray(one.resize((size, size), Image.Resampling.BOX)) for one in changed(photo(s))] for s in range(6)
    ]
    images = np.stack([one for copies in pictures for one in copies])
    hashes, contrast = phash.hashes(images)
    thumbs = phash.thumbnails(images)
    near = (np.bitwise_count(hashes[:, None] ^ hashes[None]) <= phash.RADIUS) & (thumbs @ thumbs.T >= phash.LIKENESS)
    same = np.arange(24)[:, None] // 4 == np.arange(24)[None] // 4
    assert contrast.all()
    assert (near == same).all()


def test_a_hash_follows_its_definition():
    from scipy.fft import dctn

    image = np.asarray(photo(3))[None]
    grey = image[0] @ np.array([0.299, 0.587, 0.114])
    low = dctn(grey, norm="ortho")[:8, :8].ravel()[1:]
    bits = np.concatenate([[False], low > np.median(low)])
    assert phash.hashes(image)[0][0] == int("".join(str(int(bit)) for bit in bits), 2)


def test_flat_and_tiny_images_have_no_hash():
    flat = np.full((2, 32, 32, 3), 90, np.uint8)
    flat[1, 4, 5] = 92  # a speck of dust
    assert not phash.hashes(flat)[1].any()
    assert not phash.thumbnails(flat[:1]).any()
    assert not phash.hashes(np.asarray(photo(1).resize((8, 8)))[None])[1].any()


# --- what is found


def test_photographs_of_different_things_are_no_duplicates(tmp_path):
    compared = comparison.within(opened(tmp_path, "task", task_tree(tmp_path / "t")))
    assert compared.table.empty
    assert summary(compared) == ""
    assert compared.images == dict.fromkeys(SPLITS, 6)


def test_copies_across_splits_and_under_two_labels(tmp_path):
    root = task_tree(tmp_path / "t")
    for i in range(3):
        shutil.copy(root / f"train/cat/{i}.png", root / f"id_test/cat/t{i}.png")
    shutil.copy(root / "train/dog/0.png", root / "ood_test/cat/leak.png")
    make.write(root / "ood_test/dog/again.jpg", make.encoded(photo(1), quality=60))  # train/cat/0, as another file
    compared = comparison.within(opened(tmp_path, "task", root))
    assert rows(compared) == sorted([
        *(("id_test", f"id_test/cat/t{i}.png", "train", f"train/cat/{i}.png", "identical") for i in range(3)),
        ("id_test", "id_test/cat/t0.png", "ood_test", "ood_test/dog/again.jpg", "near-identical"),
        ("id_test", "id_test/cat/t0.png", "another label", "ood_test/dog/again.jpg", "near-identical"),
        ("ood_test", "ood_test/dog/again.jpg", "train", "train/cat/0.png", "near-identical"),
        ("ood_test", "ood_test/dog/again.jpg", "id_test", "id_test/cat/t0.png", "near-identical"),
        ("ood_test", "ood_test/dog/again.jpg", "another label", "id_test/cat/t0.png", "near-identical"),
        ("ood_test", "ood_test/cat/leak.png", "train", "train/dog/0.png", "identical"),
        ("ood_test", "ood_test/cat/leak.png", "another label", "train/dog/0.png", "identical"),
        ("train", "train/cat/0.png", "another label", "ood_test/dog/again.jpg", "near-identical"),
        ("train", "train/dog/0.png", "another label", "ood_test/cat/leak.png", "identical"),
    ])  # fmt: skip
    assert summary(compared) == (
        "3 of 9 id_test images are also in train (3 identical); "
        "1 of 9 id_test images is also in ood_test (1 near-identical); "
        "2 of 8 ood_test images are also in train (1 identical, 1 near-identical); "
        "1 of 8 ood_test images is also in id_test (1 near-identical); "
        "5 images are there under another label too (2 identical, 3 near-identical); "
        "e.g. id_test/cat/t0.png (cat) equals train/cat/0.png (cat)"
    )


def test_what_a_source_and_a_task_share(tmp_path):
    root = task_tree(tmp_path / "t")
    pre = make.tree(tmp_path / "s", {"x": 2, "y": 2})
    shutil.copy(root / "ood_test/dog/1.png", pre / "x/same.png")
    make.write(pre / "y/small.jpg", make.encoded(Image.open(root / "id_test/cat/2.png").resize((60, 60)), quality=80))
    task, source = opened(tmp_path, "task", root), opened(tmp_path, "source", pre)
    assert rows(comparison.between(task, source)) == [
        ("id_test", "id_test/cat/2.png", "source folder", "y/small.jpg", "near-identical"),
        ("ood_test", "ood_test/dog/1.png", "source folder", "x/same.png", "identical"),
    ]
    assert comparison.within(source).table.empty


@pytest.mark.slow
def test_classes_that_are_codes_are_called_by_their_names(tmp_path):
    for wnid, seed in (("n01440764", 1), ("n02102040", 2), ("n03028079", 2)):
        make.write(tmp_path / "imagenette2" / "train" / wnid / f"{wnid}_1.png", make.encoded(photo(seed), "PNG"))
    pool = open_pool("source", "imagenette", {"root": str(tmp_path / "imagenette2"), "absent": "drop"})
    line = summary(comparison.within(ingest([(pool, 32, None)], tmp_path / "store")[0]))
    assert "n02102040/n02102040_1.png (English springer) equals train/n03028079/n03028079_1.png (church)" in line


def test_the_same_file_cut_in_another_way_is_identical(tmp_path):
    root, pre = task_tree(tmp_path / "t"), make.tree(tmp_path / "s", {"x": 2, "y": 2})
    oblong = make.encoded(make.photo(200, 90, seed=9))
    make.write(root / "id_test/cat/wide.jpg", oblong)
    make.write(pre / "x/wide.jpg", oblong)
    task, source = opened(tmp_path, "task", root), opened(tmp_path, "source", pre, fit="squash")
    assert rows(comparison.between(task, source)) == [
        ("id_test", "id_test/cat/wide.jpg", "source folder", "x/wide.jpg", "identical")
    ]


def test_blank_images_are_identical_but_never_near(tmp_path):
    root = task_tree(tmp_path / "t")
    for name, grey in (("train/cat/blank", 0), ("id_test/cat/blank", 0), ("ood_test/dog/blank", 7)):
        make.write(root / f"{name}.png", make.encoded(Image.new("RGB", (40, 40), (grey,) * 3), "PNG"))
    compared = comparison.within(opened(tmp_path, "task", root))
    assert rows(compared) == [("id_test", "id_test/cat/blank.png", "train", "train/cat/blank.png", "identical")]


def test_small_images_are_compared_by_their_pixels_alone(tmp_path):
    root = task_tree(tmp_path / "t")
    shutil.copy(root / "train/cat/0.png", root / "id_val/cat/copy.png")
    compared = comparison.within(opened(tmp_path, "task", root, size=8))
    assert rows(compared) == [("id_val", "id_val/cat/copy.png", "train", "train/cat/0.png", "identical")]
    assert compared.note == "near-identical images are not looked for under 16 px"


def test_ten_thousand_copies_are_no_trouble(tmp_path, monkeypatch):
    """One image again and again, of many labels: time and memory follow images, not pairs."""
    root = task_tree(tmp_path / "t")
    store = opened(tmp_path, "task", root)
    few = comparison.Images.of(store)
    places = np.zeros(10_000, int)
    many = comparison.Images(store, few.rows[places], np.arange(10_000) % 2, few.records[places])
    table = comparison._table("", comparison.LABELS, many, many, comparison.Search(), other_label=True)
    assert len(table) == 10_000
    assert set(table["kind"]) == {"identical"}


def test_broken_images_are_left_out(tmp_path):
    root = task_tree(tmp_path / "t")
    for split in ("train", "id_test"):
        make.write(root / split / "cat/broken.png", b"the same text")
    compared = comparison.within(opened(tmp_path, "task", root, broken="drop"))
    assert compared.table.empty
    assert compared.images["train"] == 6


def test_images_are_looked_at_once(tmp_path, monkeypatch):
    store = opened(tmp_path, "task", task_tree(tmp_path / "t"))
    first = signatures(store, np.arange(30))
    again = ImageStore.open(store.folder.parent, store.pool, store.size)
    monkeypatch.setattr(ImageStore, "take", lambda *_: pytest.fail("read again"))
    assert (signatures(again, np.arange(30)) == first).all()
    (store.folder / "signatures-2.bin").write_bytes(b"cut off")
    monkeypatch.undo()
    assert (signatures(again, np.arange(30)) == first).all()


def test_rendered_images_are_all_different_and_are_not_compared(tmp_path):
    for kind, name in (("task", "camera-traps"), ("source", "species"), ("source", "fractals")):
        pool = open_pool(kind, name, {})
        wanted = np.arange(0, len(pool.catalog), len(pool.catalog) // 400)
        store = ingest([(pool, 24, wanted)], tmp_path / "store")[0]
        assert len(np.unique(signatures(store, wanted)["content"])) == len(wanted)
        assert comparison.skipped(pool).startswith(f"{name} is drawn")
    assert (
        comparison.skipped(open_pool("source", "folder", {"path": str(make.tree(tmp_path / "t", {"a": 1, "b": 1}))}))
        == ""
    )


# --- what is told of it


def test_the_ingest_command_tells_in_one_line(tmp_path, capsys):
    root = task_tree(tmp_path / "t")
    for i in range(3):
        shutil.copy(root / f"train/cat/{i}.png", root / f"id_test/cat/t{i}.png")
    assert command.main(["folder", "--task", "--root", str(root), "--out", str(tmp_path / "store")]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("duplicates"))
    assert line == (
        "duplicates   3 of 9 id_test images are also in train (3 identical); "
        "e.g. id_test/cat/t0.png (cat) equals train/cat/0.png (cat)"
    )
    assert command.main(["folder", "--root", str(root / "train"), "--out", str(tmp_path / "store")]) == 0
    assert "duplicates   none under two labels" in capsys.readouterr().out


SPEC = """
task: {{name: folder, path: {task}}}
model: {{name: test_resnet, image_size: 32}}
pretrain: {{sources: {{web: {{kind: folder, path: {source}, weight: 1.0}}}}, num_images: 4, epochs: 1}}
finetune: {{epochs: 1}}
seeds: 1
"""


@pytest.mark.slow
def test_a_sweep_lists_them_in_its_run_folder(tmp_path):
    root, pre = task_tree(tmp_path / "t"), make.tree(tmp_path / "s", {"nan": 3, "y": 3})
    shutil.copy(root / "ood_test/dog/1.png", pre / "nan/001.png")
    for i in range(3):
        shutil.copy(root / f"train/cat/{i}.png", root / f"id_test/cat/t{i}.png")
    (tmp_path / "s.yaml").write_text(SPEC.format(task=root, source=pre))
    sweep = open_sweep(load_spec(tmp_path / "s.yaml"))
    pools = [*sweep.tasks.values(), *sweep.sources.values()]
    stores = ingest([(pool, 32, None) for pool in pools], tmp_path / "store")
    run = RunFolder(tmp_path / "run")
    lines = write_data_entries(sweep, run, stores)
    entries = {entry["name"]: entry for entry in run.data()["duplicates"]}
    assert set(entries) == {"task folder", "source web", "task folder in source web"}
    assert entries["task folder"]["affected"] == {"id_test": 3}
    (task,) = (pool for pool in run.data()["pools"] if pool["kind"] == "task")
    assert (task["tasks"], task["own"]) == (["folder"], task["fingerprint"])
    assert [one.get("tasks") for one in entries.values()] == [["folder"], None, ["folder"]]
    shared = entries["task folder in source web"]
    assert shared["counts"] == [{"split": "ood_test", "where": "source web", "kind": "identical", "images": 1}]
    table = pd.read_csv(io.BytesIO(run.read_bytes(shared["file"])), keep_default_na=False, dtype=str)
    assert table.to_dict("records") == [
        {"split": "ood_test", "image": "ood_test/dog/1.png", "label": "dog", "where": "source web",
         "other": "nan/001.png", "other_label": "nan", "kind": "identical", "bits": "0", "likeness": "1.0"}
    ]  # fmt: skip
    assert shared["list"][0]["other"] == "nan/001.png"
    with Image.open(io.BytesIO(run.read_bytes(shared["pictures"][0]["file"]))) as picture:
        left, right = np.asarray(picture)[:, :96], np.asarray(picture)[:, -96:]
    assert (left == right).all()
    assert [line.split(": ")[0] for line in lines] == ["task folder", "task folder in source web"]
    # what nothing is left to be read of keeps its entries; a pool that has changed does not
    assert {one["name"] for one in renewed(run, stores[:1], [], pools)} == set(entries)
    (root / "train/cat/0.png").unlink()
    edited = opened(tmp_path, "task", root)
    assert [one["name"] for one in renewed(run, [edited], [], [edited.pool])] == ["task folder"]


@pytest.mark.slow
def test_only_some_pairs_are_pictured_of_each_kind_one_first(tmp_path):
    root = task_tree(tmp_path / "t", per_class=10)
    for i in range(10):
        shutil.copy(root / f"train/cat/{i}.png", root / f"id_test/cat/t{i}.png")
    shutil.copy(root / "train/dog/0.png", root / "ood_test/cat/leak.png")
    run = RunFolder(tmp_path / "run")
    (entry,) = examine(run, [opened(tmp_path, "task", root)], [])
    assert len(entry["pictures"]) == PICTURED
    assert {(one["split"], one["where"]) for one in entry["pictures"][:4]} == {
        ("id_test", "train"), ("ood_test", "train"), ("ood_test", "another label"), ("train", "another label")
    }  # fmt: skip
    assert len(entry["list"]) == 13
    assert all(run.exists(one["file"]) for one in entry["pictures"])


def test_the_bench_measures_what_is_found(tmp_path, capsys):
    pool = tmp_path / "photos"
    for i in range(8):
        make.write(pool / "ab"[i % 2] / f"{i}.png", make.encoded(photo(i), "PNG"))
    make.write(pool / "a/copy.jpg", make.encoded(photo(0), quality=80))
    bench.main([str(pool), "--size", "32", "--many", "2000", "--queries", "100"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["recall"]["photos"]["30 % less contrast"] == 1
    assert told["recall"]["photos"]["mirrored"] == 0
    assert told["pairs"]["photos"] == {
        "pairs of different photographs": 36, "near-identical ones": 1, "images in them": 2
    }  # fmt: skip
