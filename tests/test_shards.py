"""The sources webdataset and parquet: found, listed once, read, filled in Ray tasks, and what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from make_damage import make_damage
from pyarrow import parquet

from ray_robust.data.images.decode import decode
from ray_robust.data.readers import tar_samples
from ray_robust.data.readers.archive import unpack
from ray_robust.data.sources.shards import ParquetShards, ShardSource, WebDataset
from ray_robust.errors import DataAbsent, UserError
from ray_robust.launch.ingest import ingest as launch
from tests import make_images
from tests import make_sources as make

SOURCES = {"webdataset": WebDataset, "parquet": ParquetShards}
MAKE = {"webdataset": make.tar_shards, "parquet": make.parquet_shards}
PICTURE = make_images.encoded(make_images.picture(seed=9))


def source(name: str, path, **options) -> ShardSource:
    cls = SOURCES[name]
    return cls(name, cls.Options.model_validate({"path": str(path), **options}))


def said(name: str, path, root=None, **options) -> list[str]:
    with pytest.raises(UserError) as caught:
        _ = source(name, path, **options).catalog
    return str(caught.value).replace(str(root or path), "ROOT").splitlines()


@pytest.mark.parametrize("name", SOURCES)
def test_shards_are_listed_and_read(name, tmp_path):
    pool = source(name, MAKE[name](tmp_path))
    seen = pool.catalog
    assert len(seen) == 18
    assert seen.classes == ("0", "1", "2", "3")
    keys = pool.keys(np.arange(18))
    stems = {"webdataset": "train-0001/000007", "parquet": "train-00001-of-00003/00000001"}
    assert keys[7] == stems[name]
    assert seen.labels[7] == 3
    rows = np.array([16, 2, 7, 3, 17])
    for image, row in zip(pool.read(rows, 20).images, rows, strict=True):
        assert np.array_equal(image, decode(make_images.encoded(make_images.picture(seed=row)), 20, "crop"))


@pytest.mark.parametrize("below", ["/train-{0000..0002}.tar", "/train-*.tar", ""])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_address_may_be_a_folder_a_pattern_or_a_uri(scheme, below, tmp_path):
    make.tar_shards(tmp_path)
    seen = source("webdataset", f"{scheme}{tmp_path}{below}").catalog
    assert len(seen) == 18
    assert seen.fingerprint == source("webdataset", tmp_path).catalog.fingerprint
    one = source("webdataset", tmp_path / "train-0001.tar").catalog
    assert len(one) == 6


def test_the_index_is_kept_until_a_shard_changes(tmp_path, monkeypatch):
    root, listed = make.tar_shards(tmp_path / "a"), []
    first = source("webdataset", root).catalog
    monkeypatch.setattr(
        WebDataset, "lister", staticmethod(lambda *args: listed.append(1) or tar_samples.list_tar(*args))
    )
    assert source("webdataset", root).catalog.fingerprint == first.fingerprint
    assert listed == []
    os.utime(root / "train-0000.tar", (1, 1))
    assert source("webdataset", root).catalog.fingerprint == first.fingerprint
    assert len(listed) == 3
    make.tar_shards(tmp_path / "b", per_shard=7)
    assert source("webdataset", tmp_path / "b").catalog.fingerprint != first.fingerprint


def test_labels_have_names(tmp_path):
    names = ("ant", "bee", "cat", "dog")
    (tmp_path / "names.txt").write_text("\n".join(names))
    root = make.tar_shards(
        tmp_path / "tar", json='{{"label": "kind {k}", "note": "picture {i}"}}', txt="a picture, {i}"
    )
    assert source("webdataset", root, classes=str(tmp_path / "names.txt")).catalog.classes == names
    assert source("webdataset", root, label="json.label").catalog.classes[3] == "kind 3"
    assert source("webdataset", root, label=None).catalog.classes == ("image",)
    assert source("webdataset", root, caption="txt").captions(np.array([3])) == ["a picture, 3"]
    assert source("webdataset", root, caption="json.note").captions(np.array([3])) == ["picture 3"]
    assert source("webdataset", root, caption="text").captions(np.array([3])) == [None]
    assert source("webdataset", root).captions(np.array([3])) is None
    root = make.parquet_shards(tmp_path / "parquet", names=names)
    pool = source("parquet", root, caption="text")
    assert pool.catalog.classes == names
    assert pool.captions(np.array([17])) == ["picture 17"]
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    what = "has the label 3, but there are 2 names of classes"
    assert (
        said("webdataset", tmp_path / "tar", classes=str(tmp_path / "names.txt"))[0] == f"ROOT/train-0000.tar: {what}"
    )


@pytest.mark.parametrize(
    ("captions", "wrong"), [([["a", "b"]] * 4, "['a', 'b']"), ([1, 2, 3, 4], "1"), (["a fox", "", " ", None], "")]
)
@pytest.mark.parametrize("name", SOURCES)
def test_a_caption_is_a_text_or_missing(name, tmp_path, captions, wrong):
    texts = [json.dumps({"class": i % 2, "captions": captions[i]}) for i in range(4)]
    if name == "webdataset":
        root = a_tar(tmp_path / "a.tar", *((f"{i}.json", text.encode(), None, "") for i, text in enumerate(texts)))
        options, key, column = {"label": "json.class"}, "0", "json.captions"
    else:
        rows = {"image": [PICTURE] * 4, "label": [0, 1, 0, 1], "captions": captions}
        root, options, key, column = tmp_path / "a.parquet", {}, "00000000", "captions"
        parquet.write_table(pa.table(rows), root)
    if wrong:
        what = f"sample {key}: its {column} is {wrong}, which is no text; wanted: one text a sample, or none"
        assert said(name, root, caption=column, **options) == [f"ROOT: {what}"]
        assert source(name, root, **options).values(column)[0] is not None  # to choose images by, anything will do
    else:
        assert source(name, root, caption=column, **options).captions(np.arange(4)) == ["a fox", None, None, None]


@pytest.mark.parametrize("how", ["empty", "cut", "flipped", "another type", "other columns"])
def test_a_damaged_index_is_made_again(tmp_path, monkeypatch, how):
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "store"))
    root = a_tar(tmp_path / "a.tar")
    first = source("webdataset", root).catalog
    (index,) = (tmp_path / "store/indices").iterdir()
    whole = pd.read_parquet(index)
    if how == "other columns":
        whole.drop(columns="caption").to_parquet(index)
    elif how == "flipped":  # in a page of values
        index.write_bytes(index.read_bytes().replace(b"a/3", b"a/7"))
    else:
        make_damage(index, how)
    assert source("webdataset", root).catalog.fingerprint == first.fingerprint
    assert pd.read_parquet(index).equals(whole)


@pytest.mark.parametrize("lines", ["ant\nbee\ncat\ndog\n\n \n", "ant\n\nbee\ncat\ndog\n", "\n \n"])
def test_a_blank_line_shifts_no_names_of_classes(tmp_path, lines):
    (tmp_path / "names.txt").write_text(lines)
    root, options = make.tar_shards(tmp_path / "tar", 1), {"classes": str(tmp_path / "names.txt")}
    if lines.startswith("ant\nbee"):
        assert source("webdataset", root, **options).catalog.classes == ("ant", "bee", "cat", "dog")
    else:
        at = 2 if lines.startswith("ant") else 1
        (line,) = said("webdataset", root, **options)
        assert line.startswith(f"{tmp_path}/names.txt:{at}: is blank; wanted: the name of a class in every line")


def test_two_classes_of_one_name_are_an_error(tmp_path):
    """They would be one class."""
    (tmp_path / "names.txt").write_text("crane\nant\ncrane\n")
    (line,) = said("webdataset", make.tar_shards(tmp_path / "tar", 1), classes=str(tmp_path / "names.txt"))
    assert line.startswith(f"{tmp_path}/names.txt:3: the name crane is that of line 1 too; wanted: a name of its own")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ((0, 1, 1, 0), ("cat", "dog")),
        ((0.0, 1.0, 1.0, 0.0), ("cat", "dog")),
        (("dog", "cat", "cat", "dog"), ("cat", "dog")),
        ((0, 1, -1, 0), "'-1'"),
        ((0.0, 1.0, 0.5, 0.0), "'0.5'"),
        (("0", "1", "dog", "0"), "'dog'"),
        (("cat", "dog", "cow", "cat"), "'cow'"),
    ],
)
def test_names_and_numbers_of_classes_are_never_mixed(tmp_path, labels, classes):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    rows = {"image": [make_images.encoded(make_images.picture(seed=i)) for i in range(4)], "label": list(labels)}
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet")
    options = {"classes": str(tmp_path / "names.txt")}
    if isinstance(classes, tuple):
        assert source("parquet", tmp_path / "a.parquet", **options).catalog.classes == classes
    else:
        what = f"has the label {classes}, which is no number of a class; wanted: 0 to 1"
        assert said("parquet", tmp_path / "a.parquet", **options) == [f"ROOT: {what}"]


def test_a_shard_without_the_names_that_others_have_is_an_error(tmp_path):
    names = make.parquet_shards(tmp_path / "all", 1, names=("ant", "bee", "cat", "dog"))
    bare = make.parquet_shards(tmp_path / "bare", 1, 4) / "train-00000-of-00001.parquet"
    bare.rename(names / "b.parquet")
    what = "has numbers as labels and no names for them, which other shards have; name them: `classes`"
    assert said("parquet", names) == [f"ROOT/b.parquet: {what}"]
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    assert source("parquet", names, classes=str(tmp_path / "names.txt")).catalog.classes == ("ant", "bee", "cat", "dog")


def test_a_label_that_is_a_list_is_an_error(tmp_path):
    rows = {"image": [make_images.encoded(make_images.picture(seed=i)) for i in range(2)], "label": [["a", "b"], []]}
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet")
    (line,) = said("parquet", tmp_path / "a.parquet")
    assert line.endswith("has the label ['a', 'b']; wanted: one class of each image, as text or a whole number")


def test_numbers_are_in_the_order_of_numbers(tmp_path):
    root = make.tar_shards(tmp_path, idx="{i}")
    assert source("webdataset", root, label="idx").catalog.classes[8:11] == ("08", "09", "10")


def test_shards_that_are_not_there(tmp_path):
    with pytest.raises(DataAbsent):
        _ = source("webdataset", tmp_path / "none").catalog
    assert said("webdataset", tmp_path) == ["ROOT: there are no shards; wanted: a folder or a pattern of .tar files"]
    make.tar_shards(tmp_path)
    lost = ["ROOT/train-0001.tar: this shard is not there"]
    (tmp_path / "train-0001.tar").rename(tmp_path / "other")
    assert said("webdataset", tmp_path) == lost
    assert said("webdataset", f"{tmp_path}/train-{{0000..0002}}.tar", tmp_path) == lost
    assert len(source("webdataset", tmp_path / "train-0000.tar").catalog) == 6
    make.parquet_shards(tmp_path / "p")
    (tmp_path / "p/train-00002-of-00003.parquet").unlink()
    assert said("parquet", tmp_path / "p") == ["ROOT/train-00002-of-00003.parquet: this shard is not there"]
    for n in (1, 0):
        (tmp_path / f"p/train-0000{n}-of-00003.parquet").rename(tmp_path / f"p/train-0000{2 * n + 1}-of-00003.parquet")
    assert said("parquet", tmp_path / "p") == ["ROOT/train-00002-of-00003.parquet: this shard is not there"]
    shutil.copy(tmp_path / "p/train-00001-of-00003.parquet", tmp_path / "p/train-00002-of-00003.parquet")
    assert len(source("parquet", tmp_path / "p").catalog) == 18  # numbered from 1
    (line,) = said("webdataset", "nothing://bucket/a.tar")
    assert line.startswith("ROOT: no file system of pyarrow's reads it: ")


def test_shards_that_are_damaged(tmp_path):
    root = make.tar_shards(tmp_path)
    whole = (root / "train-0001.tar").read_bytes()
    (root / "train-0001.tar").write_bytes(whole[: len(whole) // 2])
    assert said("webdataset", root) == ["ROOT/train-0001.tar: is cut short: it does not end as a tar file does"]
    (root / "train-0001.tar").write_bytes(gzip.compress(whole))
    assert said("webdataset", root) == [
        "ROOT/train-0001.tar: is compressed; images are read one by one, from a plain .tar"
    ]
    (root / "train-0001.tar").write_bytes(b"x" * 5000 + bytes(1024))
    (line,) = said("webdataset", root)
    assert line.startswith("ROOT/train-0001.tar: is no tar file, or a damaged one (")
    root = make.parquet_shards(tmp_path / "p")
    whole = (root / "train-00001-of-00003.parquet").read_bytes()
    (root / "train-00001-of-00003.parquet").write_bytes(whole[: len(whole) // 2])
    (line,) = said("parquet", root)
    assert line.startswith("ROOT/train-00001-of-00003.parquet: is no Parquet file, or one cut short (")


def a_tar(path: Path, *more: tuple[str, bytes, bytes | None, str]) -> Path:
    """Four samples in two classes, and members (name, content, type of what is no file, what it links to)."""
    pairs = []
    for i in range(4):
        pairs += [(f"{i}.jpg", make_images.encoded(make_images.picture(seed=i))), (f"{i}.cls", b"%d" % (i % 2))]
    with tarfile.open(path, "w") as archive:
        for name, content, kind, link in [*((*pair, None, "") for pair in pairs), *more]:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind or tarfile.REGTYPE, link
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("9.jpg", b"", tarfile.SYMTYPE, "1.jpg"), "9.jpg: is a link, of which the tar holds no bytes; pack"),
        (("9.jpg", b"", tarfile.LNKTYPE, "../8.jpg"), "9.jpg: is a link, of which the tar holds no bytes; pack"),
        (("9.jpg", b"", tarfile.FIFOTYPE, ""), "9.jpg: is a device or FIFO, not a file"),
        (("1.jpg", PICTURE, None, ""), "sample 1 has its .jpg twice; pack"),
        (("1.cls", b"0", None, ""), "sample 1 has its .cls twice; pack"),
        (("1.png", PICTURE, None, ""), "sample 1 has two images, .jpg and .png; say by `image` which one counts"),
        (("a.v2.jpg", PICTURE, None, ""), "sample a has no image but .v2.jpg: a member's kind begins at the first dot"),
    ],
)
def test_an_image_that_no_sample_has_or_two_of_one_are_a_line(tmp_path, more, line):
    path = a_tar(tmp_path / "x.tar", more)
    assert said("webdataset", path)[0].startswith(f"ROOT: {line}")


def test_hard_links_are_images_and_labels_of_their_own(tmp_path):
    more = [("9.jpg", b"", tarfile.LNKTYPE, "3.jpg"), ("9.cls", b"", tarfile.LNKTYPE, "3.cls")]
    pool = source("webdataset", a_tar(tmp_path / "x.tar", *more))
    assert pool.catalog.labels.tolist() == [0, 1, 0, 1, 1]
    images = pool.read(np.array([3, 4]), 20).images
    assert np.array_equal(images[0], images[1])


def test_samples_without_an_image_are_counted_also_from_the_index(tmp_path):
    more = [("7.cls", b"1", None, ""), ("8.cls", b"1", None, ""), ("._1.jpg", b"a Mac's", None, "")]
    path = a_tar(tmp_path / "x.tar", *more)
    for _ in range(2):
        seen = source("webdataset", path).catalog
        assert len(seen) == 4
        assert seen.notes == ("samples without an image are left out: x/7 and 1 more.",)


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_goes_on_where_tarfile_sees_an_end_is_a_line(tmp_path, packed):
    whole = a_tar(tmp_path / "x.tar").read_bytes()
    damaged = bytearray(whole)
    with tarfile.open(tmp_path / "x.tar") as archive:
        damaged[archive.getmember("2.jpg").offset + 150] ^= 1  # in its header's checksum
    for data, line in (
        (whole + whole, "it goes on behind its end at byte "),
        (bytes(damaged), "no header, but other "),
    ):
        if packed:
            (tmp_path / "x.tar.gz").write_bytes(gzip.compress(data))
            with pytest.raises(UserError, match=f"breaks off or is damaged after . files .{line}"):
                unpack(tmp_path / "x.tar.gz", tmp_path / "out", lambda *_: None)
        else:
            (tmp_path / "x.tar").write_bytes(data)
            assert said("webdataset", tmp_path / "x.tar")[0].startswith(
                f"ROOT: is no tar file, or a damaged one ({line}"
            )


def test_samples_that_lack_something(tmp_path):
    root = make.tar_shards(tmp_path)
    assert said("webdataset", root, label="class")[0] == "ROOT/train-0000.tar: sample 000000 has no .class"
    assert said("webdataset", root, image="png")[0] == "ROOT/train-0000.tar: holds no images *.png"
    assert said("webdataset", root, label="cls.x")[0] == "ROOT/train-0000.tar: sample 000000: its .cls cannot be read"
    root = make.parquet_shards(tmp_path / "p")
    where = "ROOT/train-00000-of-00003.parquet"
    assert said("parquet", root, label="labels")[0] == f"{where}: has no column 'labels'; did you mean label?"
    assert said("webdataset", make.tar_shards(tmp_path / "one", 1, 1)) == [
        "ROOT: has a single class, '0': at least two are needed"
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_a_shard_that_went_away_is_no_broken_image(name, tmp_path):
    root = MAKE[name](tmp_path)
    pool = source(name, root)
    _ = pool.catalog
    gone = sorted(root.iterdir())[1]
    gone.unlink()
    with pytest.raises(UserError, match="the shard is gone") as caught:
        pool.read(np.arange(18), 8)
    assert str(caught.value).startswith(str(gone))


def test_a_broken_image_is_named(tmp_path):
    root = make.tar_shards(tmp_path)
    data = bytearray((root / "train-0001.tar").read_bytes())
    pool = source("webdataset", root, broken="drop")
    at = int(pool._index["at"][8])
    data[at : at + 200] = bytes(200)
    (root / "train-0001.tar").write_bytes(data)
    (store,) = launch.ingest([(source("webdataset", root, broken="drop"), 8, None)], tmp_path / "store")
    assert list(store.broken) == [8]
    with pytest.raises(UserError) as caught:
        launch.ingest([(source("webdataset", root), 8, None)], tmp_path / "store")
    assert str(caught.value).splitlines()[0].startswith(f"{root}/train-0001/000008: is no JPEG, PNG, ")


def test_blocks_are_of_one_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "LARGEST_BLOCK", 4)
    pool = source("webdataset", make.tar_shards(tmp_path))
    blocks = [block.tolist() for block in launch.divide(pool, np.arange(1, 18), 2)]
    assert blocks == [[1, 2, 3, 4], [5], [6, 7, 8, 9], [10, 11], [12, 13, 14, 15], [16, 17]]


@pytest.mark.ray
def test_ray_fills_the_same_store(tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(launch, "WORTH", 0.0)
    ours = not ray.is_initialized()
    if ours:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        pool, seen = source("webdataset", make.tar_shards(tmp_path / "a", 4, 25)), []
        (store,) = launch.ingest([(pool, 8, None)], tmp_path / "ray", lambda *now: seen.append(now))
        assert seen[-1] == (100, 100)
        assert len(seen) == 4, "a task for every shard"
        assert np.array_equal(store.take(np.arange(100)), pool.read(np.arange(100), 8).images)
        (tmp_path / "a/train-0002.tar").unlink()
        before = set(threading.enumerate())
        with pytest.raises(UserError, match=r"train-0002.tar: the shard is gone"):
            launch.ingest([(pool, 16, None)], tmp_path / "ray")
        assert set(threading.enumerate()) <= before, "a thread that calls Ray while it ends has Ray end this process"
    finally:
        if ours:
            ray.shutdown()
