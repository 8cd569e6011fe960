"""CIFAR-10 and CIFAR-100: both versions, folder and archive, are the same pool; pickles are read, never run."""
# ruff: noqa: E501 - messages stand whole here, as people read them

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
import shutil
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_pools import open_pool
from PIL import Image

from ray_robust.data.readers import array_pickle
from ray_robust.data.readers.array_pickle import Refused, array_of, load
from ray_robust.errors import DataAbsent, UserError
from tests import make_layouts as make

SETS = ("cifar-10", "cifar-100")
TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def source(name: str, root, **options):
    return open_pool("source", name, {"root": str(root), "absent": "drop", "split": "all", **options})


def mistakes(name: str, root, **options) -> list[str]:
    with pytest.raises(UserError) as caught:
        _ = source(name, root, **{"absent": "fail", **options}).catalog
    return str(caught.value).replace(str(root), "ROOT").splitlines()


def identity(pool) -> str:
    pool.digests(np.arange(len(pool.catalog)))
    assert not pool.catalog.provisional
    return pool.catalog.fingerprint


# --- the pool


@pytest.mark.parametrize("name", SETS)
def test_every_version_is_the_same_pool(name, tmp_path):
    fingerprints = set()
    for form in ("binary", "python", "python2"):
        folder = make.cifar(tmp_path / form, name, form)
        archive = make.packed(folder)
        for root in (folder, folder.parent, archive):
            fingerprints.add(identity(source(name, root)))
        shutil.rmtree(folder)
        fingerprints.add(identity(source(name, folder.parent)))  # the archive in it
        fingerprints.add(identity(source(name, archive.rename(archive.with_name("renamed.tar.gz")))))
    assert len(fingerprints) == 1


@pytest.mark.parametrize("form", ["binary", "python2"])
@pytest.mark.parametrize("name", SETS)
def test_an_image_is_what_its_bytes_say(name, form, tmp_path):
    pool = source(name, make.cifar(tmp_path, name, form))
    rows = np.random.default_rng(0).permutation(len(pool.catalog))
    images = pool.read(rows, 32)
    assert images.broken == {}
    columns = len(pool.layout.labels)
    for row, image in zip(rows, images.images, strict=True):
        (key,) = pool.keys(np.array([row]))
        part, _, index = key.partition("/")
        batch, within = divmod(int(index), pool.layout.counts[part])
        labels, pixels = make.cifar_arrays(columns, batch + 10 * (part == "test"))
        assert np.array_equal(image, pixels[within].reshape(3, 32, 32).transpose(1, 2, 0))
        assert pool.catalog.classes[pool.catalog.labels[row]] == pool.names.classes[labels[within, -1]]


def test_classes_and_superclasses_are_the_published_ones(tmp_path):
    ten, hundred = (source(name, make.cifar(tmp_path, name, "binary", 100)) for name in SETS)
    assert ten.catalog.classes == TEN
    assert ten.catalog.hierarchy is None
    ranks = hundred.catalog.hierarchy
    assert list(ranks.columns) == ["superclass", "class"]
    assert ranks["superclass"].value_counts().tolist() == [5] * 20
    assert ranks.loc["maple_tree", "superclass"] == "trees"
    assert hundred.catalog.classes[:3] == ("apple", "aquarium_fish", "baby")


@pytest.mark.parametrize(("split", "images"), [("train", 20), ("test", 20), ("all", 40)])
def test_parts(split, images, tmp_path):
    pool = source("cifar-100", make.cifar(tmp_path, "cifar-100", "python"), split=split)
    assert len(pool.catalog) == images
    assert {key.partition("/")[0] for key in pool.keys(np.arange(images))} == {
        part for part in ("train", "test") if split in (part, "all")
    }


def test_cifar_100_as_a_task(tmp_path):
    root = make.cifar(tmp_path, "cifar-100", "binary", 1_000)
    task = open_pool("task", "subpopulation", {
        "source": {"name": "cifar-100", "root": str(root), "absent": "drop"}, "labels": "superclass",
    })  # fmt: skip
    catalog = task.catalog
    assert (len(catalog.classes), len(catalog.groups), len(catalog)) == (20, 100, 1_000)
    above = task.source.names.above
    for label, group in {
        (catalog.classes[k], catalog.groups[g]) for k, g in zip(catalog.labels, catalog.group, strict=True)
    }:
        assert above[group] == label
    out = np.unique(catalog.group[catalog.split >= 3])
    assert sorted(np.unique([above[catalog.groups[g]] for g in out], return_counts=True)[1]) == [2] * 20


def test_the_same_picture_as_png_is_a_duplicate_by_its_pixels_alone(tmp_path):
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8).repeat(4, axis=2).repeat(4, axis=3)
    labels = np.arange(20, dtype=np.uint8)[:, None] % 10
    folder = make.cifar(tmp_path, "cifar-10", "binary")
    (folder / "test_batch.bin").write_bytes(make.binary(labels, blocks.reshape(20, -1)))
    for i, block in enumerate(blocks):
        file = tmp_path / f"png/{'ab'[i % 2]}/{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(block.transpose(1, 2, 0)).save(file)
    batches, pngs = (
        source("cifar-10", folder, split="test"),
        open_pool("source", "folder", {"path": str(tmp_path / "png")}),
    )
    rows = np.arange(20)
    assert not set(map(bytes, batches.digests(rows))) & set(map(bytes, pngs.digests(rows)))
    ours, theirs = batches.read(rows, 32).images, pngs.read(rows, 32).images
    assert sorted(image.tobytes() for image in ours) == sorted(image.tobytes() for image in theirs)


# --- mistakes


def test_it_is_not_there(tmp_path):
    with pytest.raises(DataAbsent):
        _ = source("cifar-10", tmp_path / "none").catalog
    assert mistakes("cifar-100", tmp_path) == [
        "ROOT: no such folder, or an empty one. Obtain it: python -m ray_robust.ingest cifar-100 --download --root DIR"
    ]
    (said,) = mistakes("cifar-100", tmp_path / "$UNSET")
    assert "an empty one; is the variable set? Obtain it:" in said
    for split, images in (("train", 50_000), ("test", 10_000), ("all", 60_000)):
        published = source("cifar-100", tmp_path, split=split).published()
        assert (len(published), len(published.classes)) == (images, 100)


def test_a_wrong_folder_is_told_from_the_right_one(tmp_path):
    ten = make.cifar(tmp_path / "x", "cifar-10", "binary")
    wanted = "wanted: cifar-100-binary/test.bin, or cifar-100-python/test, or cifar-100-binary.tar.gz or cifar-100-python.tar.gz"
    assert mistakes("cifar-100", ten) == [
        f"ROOT: holds no batches of CIFAR-100; {wanted}; did you mean the source cifar-10?"
    ]
    (line,) = mistakes("cifar-10", tmp_path)
    assert line.endswith("; did you mean ROOT/x?")
    (ten / "more").mkdir()
    (ten / "more/a").write_text("")
    (line,) = mistakes("cifar-10", ten / "more")
    assert line.endswith(f"; did you mean {ten}?")
    assert mistakes("cifar-10", ten / "data_batch_1.bin") == [
        f"ROOT: is no folder and no tar.gz of CIFAR-10; did you mean {ten}?"
    ]
    assert mistakes("cifar-100", make.packed(ten)) == ["ROOT: holds no batches of CIFAR-100"]


def test_half_a_copy(tmp_path):
    folder = make.cifar(tmp_path, "cifar-10", "binary")
    copy = "copy the rest, or say `absent: drop`"
    assert mistakes("cifar-10", folder) == [f"ROOT: 120 of CIFAR-10's 60,000 images of all are there; {copy}"]
    (folder / "data_batch_2.bin").unlink()
    assert mistakes("cifar-10", folder, split="train") == [
        f"ROOT: 80 of CIFAR-10's 50,000 images of train are there; {copy}"
    ]
    assert source("cifar-10", folder).keys(np.array([40, 59])) == ["train/20000", "train/20019"]  # as in a whole copy
    with open(folder / "data_batch_3.bin", "r+b") as file:
        file.truncate(3073 * 5 + 17)
    assert mistakes("cifar-10", folder) == [
        "ROOT/data_batch_3.bin: is 15,382 bytes long, no multiple of the 3,073 of an image: a half copy, or not CIFAR-10; copy it again"
    ]


def test_half_an_archive(tmp_path):
    archive = make.packed(make.cifar(tmp_path, "cifar-100", "python"))
    with open(archive, "r+b") as file:
        file.truncate(archive.stat().st_size // 2)
    (line,) = mistakes("cifar-100", archive)
    assert line.startswith("ROOT: breaks off, is damaged, or no tar.gz (")
    archive.write_bytes(b"not a tar at all" * 100)
    (line,) = mistakes("cifar-100", archive)
    assert line.startswith("ROOT: breaks off, is damaged, or no tar.gz (")


def test_labels_that_are_not_cifars(tmp_path):
    folder = make.cifar(tmp_path, "cifar-10", "binary")
    labels, pixels = make.cifar_arrays(1, 0)
    labels[3] = 77
    (folder / "data_batch_1.bin").write_bytes(make.binary(labels, pixels))
    assert mistakes("cifar-10", folder) == ["ROOT/data_batch_1.bin: has the label 77; CIFAR-10 has 10 classes"]
    folder = make.cifar(tmp_path, "cifar-100", "python")
    labels, pixels = make.cifar_arrays(2, 0)
    labels[5, 0] += 1
    (folder / "train").write_bytes(make.python(labels, pixels))
    assert mistakes("cifar-100", folder) == ["ROOT/train: image 5 (girl) has another superclass than in CIFAR-100"]


def test_a_batch_that_changes_after_it_was_listed(tmp_path):
    folder = make.cifar(tmp_path, "cifar-10", "binary")
    pool = source("cifar-10", folder)
    _ = pool.catalog
    labels, pixels = make.cifar_arrays(1, 99)
    (folder / "data_batch_2.bin").write_bytes(make.binary(labels, pixels))
    with pytest.raises(
        UserError, match=r"data_batch_2\.bin: has changed since it was listed; run the same command again"
    ):
        pool.read(np.arange(len(pool.catalog)), 32)


# --- pickles


class Evil:
    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back_whatever_the_protocol(protocol):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3072), dtype=np.uint8)
    held = {
        b"data": pixels,
        "labels": [1, 2, 300, -4],
        b"more": (None, True, b"\xff\0", "\u00e9", 2**70),
        "n": np.arange(3),
    }
    back = load(pickle.dumps(held, protocol=protocol))
    assert np.array_equal(array_of(back[b"data"]), pixels)
    assert array_of(back["labels"]).tolist() == [1, 2, 300, -4]
    assert back[b"more"] == held[b"more"]
    assert array_of(back["n"]).tolist() == [0, 1, 2]
    assert array_of(back[b"more"]) is None
    by_column = load(pickle.dumps(np.asfortranarray(pixels), protocol=protocol))
    assert np.array_equal(array_of(by_column), pixels)


def test_the_published_form_is_read_as_python_reads_it():
    """What `make.python2` writes is a pickle like the real ones: Python's own reader comes to the same."""
    labels, pixels = make.cifar_arrays(2, 1)
    data = make.python2(labels, pixels)
    theirs, mine = pickle.loads(data, encoding="bytes"), load(data)
    assert theirs.keys() == mine.keys()
    assert np.array_equal(theirs[b"data"], array_of(mine[b"data"]))
    assert theirs[b"fine_labels"] == mine[b"fine_labels"] == labels[:, 1].tolist()


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_that_a_pickle_asks_for_is_called(protocol, tmp_path):
    mark = tmp_path / "mark"
    for evil in (
        Evil(os.system, f"touch {mark}"),
        Evil(os.mkdir, str(mark)),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(np.memmap, str(mark), "uint8", "w+", 0, (8,)),
    ):
        with pytest.raises(Refused, match=r"which data does not need|plain data"):
            load(pickle.dumps({b"data": evil}, protocol=protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", None),  # a place of 2^31: Python's reader makes a table up to it
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b".", "is no pickle of plain data, or one cut short (ValueError)"),
        (b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", None),
        (b"\x80\x02cnumpy\ndtype\nU\x02f8\x85R.", "holds an array of 'f8'; wanted: whole numbers"),
        (b"\x80\x02cos\nsystem\n.", "asks for 'os.system', which data does not need; do not open it elsewhere"),
        (b"\x80\x02}K\x01\x85K\x02s.", "holds a mapping whose keys are no texts"),
        (b"\x80\x02P1\n.", "holds the instruction PERSID at byte 2, which plain data does not need"),
        (b"\x80\x02]K\x01b.", "sets the state of an object that data does not need"),
        (b"\x80\x02K\x01)R.", "calls what is no callable"),
        (b"\x80\x02K\x01K\x02a.", "appends to what is no list"),
        (b"\x80\x02.", "is no pickle of plain data, or one cut short (ValueError)"),
        (b"\x80\x02(t", "is no pickle of plain data, or one cut short (ValueError)"),
        (b"", "is no pickle of plain data, or one cut short (ValueError)"),
    ],
)
def test_pickles_written_by_hand(data, why):
    if why is None:
        load(data)  # harmless here
    else:
        with pytest.raises(Refused) as caught:
            load(data)
        assert str(caught.value) == why


def test_too_long_a_pickle_and_too_many_steps(monkeypatch):
    data = pickle.dumps(list(range(100)), protocol=2)
    monkeypatch.setattr(array_pickle, "MOST_STEPS", 50)
    with pytest.raises(Refused, match="holds more than 50 instructions"):
        load(data)
    monkeypatch.setattr(array_pickle, "LARGEST", 50)
    with pytest.raises(Refused, match=rf"is {len(data)} bytes long, more than the limit of 50"):
        load(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_refused_or_read_and_nothing_else(data):
    """Some bytes of a batch replaced: never another exception."""
    whole = bytearray(make.python(*make.cifar_arrays(1, 0, 2)))
    starts = [at for _, _, at in pickletools.genops(bytes(whole))]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from(starts)) + data.draw(st.integers(0, 1))
        whole[min(at, len(whole) - 1)] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Refused):
        load(bytes(whole[: data.draw(st.integers(1, len(whole)))]))


def test_a_pickle_of_something_else_is_named(tmp_path):
    folder = make.cifar(tmp_path, "cifar-100", "python")
    _, pixels = make.cifar_arrays(2, 0)
    for held, line in (
        ([1, 2], "holds no mapping with the keys data, coarse_labels, fine_labels"),
        ({"data": pixels}, "has no 'coarse_labels', so it is no batch of CIFAR-100"),
        (
            {"data": pixels[:, :5], "coarse_labels": [0], "fine_labels": [0]},
            "its 'data' is no array of so many times 3,072 bytes",
        ),
        ({"data": pixels, "coarse_labels": [0], "fine_labels": [0]}, "has not a label for each of its 20 images"),
        ({"data": pixels, "coarse_labels": [0] * 20, "fine_labels": [-1] * 20}, "has the label -1"),
    ):
        (folder / "train").write_bytes(pickle.dumps(held))
        assert mistakes("cifar-100", folder) == [f"ROOT/train: {line}"]
    (folder / "train").unlink()
    os.mkfifo(folder / "train")
    assert mistakes("cifar-100", folder) == ["ROOT/train: is a FIFO, not a file"]


def test_an_archive_that_unpacks_without_end(tmp_path, monkeypatch):
    from ray_robust.data.readers import cifar_batches

    monkeypatch.setattr(cifar_batches, "LARGEST_TAR", 1_000_000)
    file = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/zeros")
        member.size = 2_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert mistakes("cifar-10", file) == ["ROOT: unpacks to more than 1,000,000 bytes: not CIFAR"]
