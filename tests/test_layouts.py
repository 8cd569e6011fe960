"""Tiny-ImageNet, mini-ImageNet, Imagenette and Imagewoof, in small in their real layouts: read in place, what is missing,
and as shifted tasks."""
# ruff: noqa: E501 - messages stand whole here, as people read them

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from make_pools import open_pool

from ray_robust.data.downloads.catalog import DOWNLOADS
from ray_robust.data.labels.wnids import names_of
from ray_robust.data.pool import SPLITS
from ray_robust.data.sources.wnid_folders import NETTE, WOOF
from ray_robust.errors import DataAbsent, UserError
from tests import make_images, make_sources
from tests import make_layouts as make

WNIDS = tuple(make.WNIDS)
REAL = Path(os.environ.get("TINY_IMAGENET", "~/data/tiny-imagenet-200")).expanduser()
PAIRS = Path(__file__).parents[2] / "shared/data/hierarchies/wordnet_is_a.txt"


def source(name: str, root, **options):
    return open_pool("source", name, {"root": str(root), "absent": "drop", **options})


def mistakes(name: str, root, **options) -> list[str]:
    with pytest.raises(UserError) as caught:
        _ = source(name, root, **{"absent": "fail", **options}).catalog
    return str(caught.value).replace(str(root), "ROOT").splitlines()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make.tiny(tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200")


# --- Tiny-ImageNet


def test_tiny_imagenet_in_its_own_layout(tiny):
    catalog = source("tiny-imagenet", tiny).catalog
    assert catalog.classes == WNIDS
    assert catalog.names == ("Chihuahua", "Yorkshire terrier", "tabby", "Egyptian cat", "beach wagon", "convertible")
    assert np.bincount(catalog.labels).tolist() == [30] * 6
    assert catalog.hierarchy is None
    assert catalog.licence.startswith("ImageNet terms of access")
    assert catalog.notes == ("Not the published images: 6 of Tiny-ImageNet's 200 classes in train are there.",)
    assert source("tiny-imagenet", tiny).keys(np.array([0])) == ["train/n02085620/images/n02085620_0.JPEG"]


def test_the_labels_of_val_are_those_of_its_list(tiny):
    pool = source("tiny-imagenet", tiny, split="val")
    listed = pd.read_csv(tiny / "val/val_annotations.txt", sep="\t", header=None, index_col=0)[1]
    keys = pool.keys(np.arange(len(pool.catalog)))
    assert [pool.catalog.classes[k] for k in pool.catalog.labels] == [listed[Path(key).name] for key in keys]
    assert len(keys) == 24
    both = source("tiny-imagenet", tiny, split="all").catalog
    assert np.bincount(both.labels).tolist() == [34] * 6


def test_val_that_somebody_sorted_by_class(tiny, tmp_path):
    root = shutil.copytree(tiny, tmp_path / "sorted")
    for line in (root / "val/val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (root / "val" / wnid).mkdir(exist_ok=True)
        (root / "val/images" / name).rename(root / "val" / wnid / name)
    (root / "val/images").rmdir()
    assert np.bincount(source("tiny-imagenet", root, split="val").catalog.labels).tolist() == [4] * 6


def test_the_folder_above_is_enough_and_one_below_is_named(tiny, tmp_path):
    assert source("tiny-imagenet", tiny.parent).catalog.fingerprint == source("tiny-imagenet", tiny).catalog.fingerprint
    wanted = "wanted: train/n01443537/images/*.JPEG, and val/images/*.JPEG with val/val_annotations.txt"
    for below in ("train", "val", "train/n02085620"):
        assert mistakes("tiny-imagenet", tiny / below) == [f"ROOT: is no Tiny-ImageNet; {wanted}; did you mean {tiny}?"]
    for name in ("a", "b"):
        make.tiny(tmp_path / "two" / name, train=1, val=1)
    where = tmp_path / "two"
    assert mistakes("tiny-imagenet", where) == [f"ROOT: is no Tiny-ImageNet; {wanted}; did you mean ROOT/a or ROOT/b?"]
    make.class_folders(tmp_path / "plain", {".": WNIDS})
    assert mistakes("tiny-imagenet", tmp_path / "plain") == [
        f"ROOT: is no Tiny-ImageNet; {wanted}; class folders without a part are read by the source folder"
    ]


def test_tiny_imagenet_is_not_there(tmp_path):
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(DataAbsent):
            _ = source("tiny-imagenet", root).catalog
    assert mistakes("tiny-imagenet", tmp_path) == [
        "ROOT: no such folder, or an empty one. Obtain it: python -m ray_robust.ingest tiny-imagenet --download --root DIR"
    ]
    for split, images in (("train", 100_000), ("val", 10_000), ("all", 110_000)):
        published = source("tiny-imagenet", tmp_path, split=split).published()
        assert (len(published), len(published.classes)) == (images, 200)


def test_half_a_copy_of_tiny_imagenet(tiny, tmp_path, monkeypatch):
    copy = "copy the rest, or say `absent: drop`"
    assert mistakes("tiny-imagenet", tiny) == [f"ROOT: 6 of Tiny-ImageNet's 200 classes in train are there; {copy}"]
    names = [f"n{k:08d}" for k in range(200)]
    for wnid in names:
        make_images.write(tmp_path / f"train/{wnid}/images/{wnid}_0.JPEG", b"one")
    (tmp_path / "wnids.txt").write_text("\n".join(names))
    assert mistakes("tiny-imagenet", tmp_path) == [
        f"ROOT: 200 of Tiny-ImageNet's 100,000 images in train are there; {copy}"
    ]
    shutil.rmtree(tmp_path / "train/n00000007")
    assert mistakes("tiny-imagenet", tmp_path) == [
        f"ROOT: 199 of Tiny-ImageNet's 200 classes in train are there (n00000007 not); {copy}"
    ]
    assert mistakes("tiny-imagenet", tmp_path, split="val") == [
        "ROOT: holds no images of val; wanted: train/n01443537/images/*.JPEG, and val/images/*.JPEG with val/val_annotations.txt; it has train: say `split: train`"
    ]


def test_what_is_wrong_with_tiny_imagenet(tiny, tmp_path):
    root = shutil.copytree(tiny, tmp_path / "wrong")
    (root / "train/n02085620").rename(root / "train/chihuahua")
    (root / "train/n02094433").rename(root / "train/dogs")
    assert mistakes("tiny-imagenet", root) == [
        "ROOT/train/chihuahua: is no class of Tiny-ImageNet; did you mean n02085620?",
        "ROOT/train/dogs: is no class of Tiny-ImageNet; known: n02085620, n02094433",
    ]
    list_of_val = root / "val/val_annotations.txt"
    lines = list_of_val.read_text().splitlines()
    list_of_val.write_text("\n".join([*lines[2:], "val_5.JPEG\tn02085620", "val_1.JPEG", "val_1.JPEG\tn00000001\t0"]))
    assert mistakes("tiny-imagenet", root, split="val") == [
        "ROOT/val/val_annotations.txt:23: val_5.JPEG has two classes, n02094433 and n02085620",
        "ROOT/val/val_annotations.txt:24: is no line like 'val_0.JPEG<TAB>n03444034<TAB>...'",
        "ROOT/val/val_annotations.txt:25: is no line like 'val_0.JPEG<TAB>n03444034<TAB>...'",
    ]
    list_of_val.write_text("\n".join(lines[2:]))
    assert mistakes("tiny-imagenet", root, split="val") == [
        "ROOT/val/images/val_0.JPEG: has no class in val_annotations.txt",
        "ROOT/val/images/val_1.JPEG: has no class in val_annotations.txt",
    ]
    list_of_val.unlink()
    assert mistakes("tiny-imagenet", root, split="val") == [
        "ROOT/val/val_annotations.txt: cannot be read: No such file or directory; wanted: lines like "
        "'val_0.JPEG<TAB>n03444034<TAB>0<TAB>32<TAB>44<TAB>62'"
    ]


# --- mini-ImageNet

PARTS = {"train": WNIDS[:3], "val": WNIDS[3:4], "test": WNIDS[4:]}


@pytest.fixture
def any_class(monkeypatch):
    """Six of the hundred ids are others here."""
    from ray_robust.data.sources import wnid_folders

    monkeypatch.setattr(wnid_folders, "timm_list", lambda name: frozenset(WNIDS))


@pytest.mark.parametrize("layout", [make.class_folders, make.mini_by_csv])
def test_mini_imagenet_by_folders_and_by_csv(layout, tmp_path, any_class):
    root = layout(tmp_path / "mini", PARTS)
    for split, wnids in {**PARTS, "all": WNIDS}.items():
        if len(wnids) > 1:
            catalog = source("mini-imagenet", root, split=split).catalog
            assert catalog.classes == wnids
            assert np.bincount(catalog.labels).tolist() == [3] * len(wnids)
    assert mistakes("mini-imagenet", root) == [
        "ROOT: 3 of mini-ImageNet's 64 classes in train are there; copy the rest, or say `absent: drop`"
    ]
    assert source("mini-imagenet", root).catalog.names == ("Chihuahua", "Yorkshire terrier", "tabby")


def test_mini_imagenet_without_parts(tmp_path, any_class):
    root = make.class_folders(tmp_path / "mini", {".": WNIDS})
    assert source("mini-imagenet", root, split="all").catalog.classes == WNIDS
    assert mistakes("mini-imagenet", root) == ["ROOT: holds class folders of no part; say `split: all`"]


def test_a_wrong_csv_of_mini_imagenet(tmp_path, any_class):
    root = make.mini_by_csv(tmp_path / "mini", PARTS)
    (root / "train.csv").write_text("filename,label\na.jpg,dog\n")
    assert mistakes("mini-imagenet", root) == ["ROOT/train.csv:2: the label 'dog' is no WordNet id like n01532829"]
    (root / "train.csv").write_text("file,label\na.jpg,n02085620\n")
    assert mistakes("mini-imagenet", root) == ["ROOT/train.csv:1: has no column 'filename'; did you mean file?"]


def test_the_hundred_classes_of_mini_imagenet_have_names():
    from ray_robust.data.labels.wnids import timm_list

    ids = timm_list("mini_imagenet_synsets.txt")
    assert len(ids) == 100
    assert not [name for name in names_of(sorted(ids)) if name in ids]
    assert names_of(["n01532829", "n99999999"]) == ("house finch", "n99999999")


# --- Imagenette and Imagewoof


@pytest.mark.parametrize(("name", "ids", "first"), [("imagenette", NETTE, "tench"), ("imagewoof", WOOF, "Shih-Tzu")])
def test_the_sets_of_fastai(name, ids, first, tmp_path):
    root = make.class_folders(tmp_path / f"{name}2-160", {"train": ids.split(), "val": ids.split()}, 2)
    catalog = source(name, tmp_path, split="all").catalog
    assert catalog.classes == tuple(ids.split())
    assert catalog.names[0] == first
    assert np.bincount(catalog.labels).tolist() == [4] * 10
    title = name.capitalize() + " 2"
    assert mistakes(name, root)[0].startswith(f"ROOT: 20 of {title}'s ")
    other = {"imagenette": "imagewoof", "imagewoof": "imagenette"}[name]
    few = ", ".join(ids.split()[:3])
    assert mistakes(other, root) == [
        f"ROOT/train: holds 10 folders, none of them a class of {other.capitalize()} 2 ({few}, ...); is it the source {name}?"
    ]


@pytest.mark.parametrize(
    "name", ["tiny-imagenet", "imagenette", "imagewoof:320", "cifar-10", "cifar-100", "inaturalist:2021-mini"]
)
def test_what_a_download_prints_reads_it(name, tmp_path):
    entry = DOWNLOADS[name]
    root = tmp_path / entry.folder
    if name == "tiny-imagenet":
        make.tiny(root, train=2, val=1)
    elif name.startswith("inaturalist"):
        make_sources.inaturalist(root, "2021-mini")
    elif name.startswith("cifar"):
        assert make.cifar(tmp_path, name, "binary") == root
    else:
        make.class_folders(root, {"train": (NETTE if "nette" in name else WOOF).split()}, 1)
    spec = yaml.safe_load("\n".join(entry.use).replace("ROOT", str(root)))
    ((used, options),) = spec["pretrain"]["sources"].items()
    assert len(open_pool("source", used, {**options, "absent": "drop"}).catalog) > 0


# --- as tasks


def by_pandas(root: Path, hierarchy: Path, depth: int) -> tuple[dict[str, set[str]], pd.DataFrame]:
    """Return the subclasses of each label, and a row per image, from files alone."""
    pairs = pd.read_csv(hierarchy, sep=r"\s+", header=None, names=["parent", "child"])
    parents = pairs.groupby("child")["parent"].agg(list).to_dict()
    words = dict(line.split("\t") for line in (hierarchy.parent / "words.txt").read_text().splitlines())
    files = pd.DataFrame({"path": [p.relative_to(root) for p in sorted((root / "train").rglob("*.JPEG"))]})
    files["subclass"] = [p.parts[1] for p in files["path"]]

    def first(node: str) -> str:
        return words.get(node, node).split(",")[0]

    def path(node: str) -> tuple[str, ...]:
        ways = [path(parent) for parent in parents.get(node, [])]
        return (*min(ways, key=lambda way: (len(way), first(way[-1]), way[-1]), default=()), node)

    of = {wnid: path(wnid)[1:] for wnid in files["subclass"].unique()}  # below the root
    files["label"] = files["subclass"].map(lambda wnid: of[wnid][min(depth, len(of[wnid])) - 1])
    members = files.groupby("label")["subclass"].unique()
    kept = {label: set(own) for label, own in members.items() if len(own) > 1}
    return kept, files[files["label"].isin(kept)]


def drawn(label: str, subclass: str, seed: int = 0) -> int:
    """The number that a subclass has in the draw of its label."""
    text = f"subclass\x1f{label}\x1f{subclass}\x1f{seed}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def check_against_pandas(root: Path, hierarchy: Path, depth: int) -> tuple[int, int]:
    """Hold labels, subclasses and sizes of the splits to a few lines of pandas; (labels, images)."""
    task = open_pool("task", "subpopulation", {
        "source": {"name": "tiny-imagenet", "root": str(root), "hierarchy": str(hierarchy), "absent": "drop"},
        "labels": f"depth:{depth}", "unseen": 0.4,
    })  # fmt: skip
    catalog, (kept, files) = task.catalog, by_pandas(root, hierarchy, depth)
    table = pd.DataFrame({
        "key": task.keys(np.arange(len(catalog))), "label": np.array(catalog.classes)[catalog.labels],
        "split": np.array(SPLITS)[catalog.split],
    })  # fmt: skip
    table["subclass"] = table["key"].str.split("/").str[1]
    assert sorted(table["key"]) == sorted(map(str, files["path"]))
    mine = table.groupby("label")["subclass"].unique().map(set)
    assert sorted(map(sorted, mine)) == sorted(map(sorted, kept.values()))
    assert len(task.outline()) == len(kept)
    seen = table.groupby("subclass")["split"].agg(lambda splits: frozenset(s.split("_")[0] for s in splits))
    for label, own in mine.items():
        order = sorted(own, key=lambda wnid: drawn(label, wnid))
        out = set(order[: min(max(round(0.4 * len(own)), 1), len(own) - 1)])
        assert {subclass for subclass in own if seen[subclass] == {"ood"}} == out
        assert all(seen[subclass] == {"train", "id"} for subclass in own - out)
        assert (table["label"].eq(label) & table["split"].str.startswith("ood")).sum() == files["subclass"].isin(
            out
        ).sum()
    inside = table["split"].isin(["train", "id_val", "id_test"])
    for split, share in (("train", 0.7), ("id_val", 0.1), ("id_test", 0.2)):
        expected = share * inside.sum()
        assert abs((table["split"] == split).sum() - expected) < 4 * np.sqrt(expected)
    return len(kept), len(table)


def test_tiny_imagenet_as_a_task_is_what_pandas_gives(tiny, tmp_path):
    hierarchy = make.pairs(tmp_path / "is_a.txt")
    assert check_against_pandas(tiny, hierarchy, 1) == (2, 180)  # animals, cars
    assert check_against_pandas(tiny, hierarchy, 2) == (2, 120)  # dogs, cats; a car is alone with itself


@pytest.mark.data
@pytest.mark.skipif(not (REAL.is_dir() and PAIRS.is_file()), reason="needs TINY_IMAGENET, and WordNet's pairs")
def test_the_real_tiny_imagenet_as_a_task_is_what_pandas_gives():
    assert len(source("tiny-imagenet", REAL, split="all", absent="fail").catalog) == 110_000
    labels, images = check_against_pandas(REAL, PAIRS, 5)
    assert 2 <= labels < 200
    assert images % 500 == 0
