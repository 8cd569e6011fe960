"""Listing folders, zips and CSVs, and what is said about broken ones."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from effort import calls
from make_pools import open_pool

from ray_robust.data.pool import SPLITS
from ray_robust.errors import UserError
from tests import make_images as make

DATA = Path(__file__).parents[2] / "shared" / "data"


def source(path: Path, **options):
    return open_pool("source", "folder", {"path": str(path), **options})


def task(path: Path, **options):
    return open_pool("task", "folder", {"path": str(path), **options})


def mistakes(pool) -> list[str]:
    with pytest.raises(UserError) as caught:
        _ = pool.catalog
    return str(caught.value).splitlines()


def rows_of(splits=SPLITS, labels=("cat", "dog"), **more) -> list[dict[str, str]]:
    return [{"path": f"{s}/{x}.jpg", "label": x, "split": s, **more} for s in splits for x in labels]


# --- what works


def test_a_tree_a_csv_and_a_zip_list_the_same_images(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 2, "dog": 3})
    (tree / "cat" / "notes.txt").write_text("no image")
    (tree / ".DS_Store").write_text("hidden")
    seen = source(tree).catalog
    assert seen.classes == ("cat", "dog")
    assert seen.labels.tolist() == [0, 0, 1, 1, 1]
    assert seen.notes == ("1 files that are no images by their names were ignored.",)
    assert seen.warnings == ()
    assert seen.split is None

    rows = [{"path": key, "label": key[:3]} for key in source(tree).keys(np.arange(5))]
    shuffled = make.table(tree / "list.csv", rows[::-1], images=False)
    moved = shutil.copytree(tree, tmp_path / "moved")
    with zipfile.ZipFile(moved / "images.zip", "w") as archive:
        for row in rows:
            archive.write(tree / row["path"], row["path"])
    zipped = moved / "list.csv"
    assert source(shuffled).catalog.fingerprint == seen.fingerprint  # neither place nor order matters
    for pool in (source(shuffled), source(zipped), source(moved / "images.zip"), source(zipped, images=str(tree))):
        assert pool.keys(np.arange(5)) == [row["path"] for row in rows]
        assert (pool.catalog.ids == seen.ids).all()
        assert (pool.read(np.arange(5), 8).images == source(tree).read(np.arange(5), 8).images).all()


def test_the_fingerprint_follows_images_and_labels(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 2, "dog": 2})
    first = source(tree).catalog.fingerprint
    (tree / "dog" / "000.jpg").rename(tree / "cat" / "002.jpg")
    relabelled = source(tree).catalog.fingerprint
    make.write(tree / "dog" / "001.jpg", make.encoded(make.picture(50, 50)))
    changed = source(tree).catalog.fingerprint
    assert len({first, relabelled, changed}) == 3
    assert source(tree).meaning == f"{changed}-crop"
    assert source(tree, fit="pad").meaning.endswith("-pad")


def test_a_task_has_splits_groups_and_ranks(tmp_path):
    rows = [
        {**row, "group": f"camera {i % 3}", "kind": "pet", "sub": row["label"][0]}
        for i, row in enumerate(rows_of(labels=("cat", "cow", "dog")))
    ]
    pool = task(make.table(tmp_path / "index.csv", rows))
    seen = pool.catalog
    assert [len(seen.rows(split)) for split in SPLITS] == [3, 3, 3, 3, 3]
    assert seen.groups == ("camera 0", "camera 1", "camera 2")
    assert list(seen.hierarchy.columns) == ["kind", "sub", "label"]  # coarse to fine
    assert seen.hierarchy.loc["cow"].tolist() == ["pet", "c", "cow"]
    assert pool.metric == "macro_f1"
    assert task(tmp_path / "index.csv", metric="accuracy").metric == "accuracy"
    by_order = task(tmp_path / "index.csv", parents=("sub", "kind")).catalog
    assert by_order.fingerprint == seen.fingerprint
    assert task(tmp_path / "index.csv", parents=()).catalog.hierarchy is None


def test_a_task_from_a_tree_of_splits(tmp_path):
    counts = {f"{split}/{label}": 1 + (split == "train") for split in SPLITS for label in ("cat", "dog")}
    seen = task(make.tree(tmp_path, counts)).catalog
    assert [len(seen.rows(split)) for split in SPLITS] == [4, 2, 2, 2, 2]
    assert seen.classes == ("cat", "dog")


def test_another_column_can_be_learned(tmp_path):
    rows = [{"path": f"{i}.jpg", "label": f"s{i}", "genus": f"g{i // 2}", "order": "o", "title": i} for i in range(4)]
    seen = source(make.table(tmp_path / "index.csv", rows), label="genus").catalog
    assert seen.classes == ("g0", "g1")
    assert list(seen.hierarchy.columns) == ["order", "genus"]  # finer columns are no ranks above it


def test_labels_are_texts_and_paths_are_normal(tmp_path):
    rows = [{"path": "./a//1.jpg", "label": "NA"}, {"path": "b/../b/2.jpg", "label": " 007 "}]
    make.write(tmp_path / "a" / "1.jpg")
    make.write(tmp_path / "b" / "2.jpg")
    pool = source(make.table(tmp_path / "index.csv", rows, images=False))
    assert pool.catalog.classes == ("007", "NA")
    assert pool.keys(np.arange(2)) == ["a/1.jpg", "b/2.jpg"]


def test_paths_are_relative_to_the_current_directory(tmp_path, monkeypatch):
    make.tree(tmp_path / "tree", {"cat": 1, "dog": 1})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PICTURES", str(tmp_path))
    pools = source(Path("tree")), source(Path("$PICTURES/tree"))
    monkeypatch.chdir("/")  # a worker may run elsewhere
    assert [len(pool.catalog) for pool in pools] == [2, 2]


def test_labels_that_train_lacks_can_be_left_out(tmp_path):
    rows = [*rows_of(), {"path": "new.jpg", "label": "emu", "split": "ood_test"}]
    seen = task(make.table(tmp_path / "index.csv", rows), unseen="drop").catalog
    assert seen.classes == ("cat", "dog")
    assert "1 images of labels that train lacks are left out: emu." in seen.notes


def test_a_class_with_one_image_is_noted(tmp_path):
    seen = source(make.tree(tmp_path, {"cat": 3, "dog": 1})).catalog
    assert seen.notes == ("1 classes have a single image: dog.",)


def test_rows_that_are_alike_are_looked_at_together(tmp_path):
    with zipfile.ZipFile(tmp_path / "few.zip", "w") as archive:
        archive.writestr("a/0.jpg", b"")

    def listing(n: int) -> int:
        number = pd.Series(np.arange(n)).astype(str)
        frame = pd.DataFrame({"path": "a/" + number + ".jpg", "label": "c" + (number.str[-3:]), "kind": "k"})
        frame.to_csv(tmp_path / f"{n}.csv", index=False)
        lines = []
        count = calls(lambda: lines.extend(mistakes(source(tmp_path / f"{n}.csv", images=str(tmp_path / "few.zip")))))
        assert lines[-1].endswith(f"and {n - 1 - 5} more like the last one")
        return count

    listing(1_000)  # whatever is imported late is there from here on
    assert listing(21_000) - listing(1_000) < 2 * 20_000  # a call or two for a row: a million list in seconds


# --- what is said


def test_every_problem_at_once_with_its_line(tmp_path):
    make.write(tmp_path / "a.jpg")
    (tmp_path / "index.csv").write_text(
        "path,label,split\n"
        "a.jpg,cat,train\n"
        "\n"  # a blank line is counted but is no row
        "b.jpg,dog,train\n"
        "a.jpg,cat,id_val\n"
        "../secret.jpg,cat,id_test\n"
        "/etc/passwd,cat,id_test\n"
        "c.jpg,,ood_test\n"
        "d.jpg,cat,ood_tset\n"
        ",cat,train\n"
    )
    csv = tmp_path / "index.csv"
    assert mistakes(task(csv)) == [
        f"{csv}:6: path '../secret.jpg' leaves {tmp_path}; wanted: a path inside it",
        f"{csv}:7: path '/etc/passwd' leaves {tmp_path}; wanted: a path inside it",
        f"{csv}:10: the path is empty",
        f"{csv}:5: a.jpg is already on line 2",
        f"{csv}:4: b.jpg is no file in {tmp_path}",
        f"{csv}:8: c.jpg is no file in {tmp_path}",
        f"{csv}:9: d.jpg is no file in {tmp_path}",
        f"{csv}:8: c.jpg: the label is empty",
        f"{csv}:9: unknown split 'ood_tset' (1 images); did you mean ood_test?",
        f"{csv}: has no images in split id_val: a task needs train, id_val, id_test, ood_val, ood_test",
        f"{csv}: has no images in split id_test: a task needs train, id_val, id_test, ood_val, ood_test",
        f"{csv}: has no images in split ood_val: a task needs train, id_val, id_test, ood_val, ood_test",
    ]


def test_absolute_paths_inside_the_folder_mean_the_same_as_relative_ones(tmp_path):
    """Also by a symbolic link to it, or past one in it."""
    real, link = tmp_path / "real", tmp_path / "link"
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(real)
    rows = [{"path": f"{label}/{i}.png", "label": label} for label in ("cat", "dog") for i in range(2)]
    known = source(make.table(real / "relative.csv", rows)).catalog
    os.replace(real / "dog/1.png", tmp_path / "elsewhere/1.png")
    (real / "dog/1.png").symlink_to(tmp_path / "elsewhere/1.png")
    for name, (own, other) in {"a": (real, real), "b": (real, link), "c": (link, real), "d": (link, link)}.items():
        csv = make.table(real / f"{name}.csv", [{**row, "path": f"{own}/{row['path']}"} for row in rows], images=False)
        found = source(other / csv.name)
        assert found.keys(np.arange(4)) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
        assert (found.catalog.ids == known.ids).all()
        assert found.catalog.fingerprint == known.fingerprint
    csv = make.table(
        real / "outside.csv", [*rows, {"path": f"{tmp_path}/elsewhere/1.png", "label": "cat"}], images=False
    )
    wanted = f"{csv}:6: path '{tmp_path}/elsewhere/1.png' leaves {real}; wanted: a path inside it"
    assert mistakes(source(csv)) == [wanted]


def test_a_backslash_in_a_path_gets_a_hint(tmp_path):
    rows = [{"path": f"{label}/{i}.png", "label": label} for label in ("cat", "dog") for i in range(2)]
    make.table(tmp_path / "index.csv", rows)
    backwards = [{**row, "path": row["path"].replace("/", "\\")} for row in rows[:3]]
    csv = make.table(tmp_path / "windows.csv", [*backwards, {"path": "C:\\img\\1.png", "label": "dog"}], images=False)
    assert mistakes(source(csv)) == [
        f"{csv}:2: cat\\0.png is no file in {tmp_path}; did you mean cat/0.png?",
        f"{csv}:3: cat\\1.png is no file in {tmp_path}; did you mean cat/1.png?",
        f"{csv}:4: dog\\0.png is no file in {tmp_path}; did you mean dog/0.png?",
        f"{csv}:5: C:\\img\\1.png is no file in {tmp_path}; folders are parted by /, not by \\",
    ]


def test_many_of_one_kind_are_counted(tmp_path):
    rows = [{"path": f"{i}.jpg", "label": f"c{i % 2}"} for i in range(20)]
    lines = mistakes(source(make.table(tmp_path / "index.csv", rows, images=False)))
    assert lines[0] == f"{tmp_path}/index.csv:2: 0.jpg is no file in {tmp_path}"
    assert lines[5:] == [f"{tmp_path}/index.csv: and 15 more like the last one"]


def a_csv(text: bytes):
    def build(root: Path) -> Path:
        root.mkdir(exist_ok=True)
        (root / "index.csv").write_bytes(text)
        return root / "index.csv"

    return build


BROKEN_SOURCES = {
    "nothing there": (lambda root: root / "nowhere", "{root}/nowhere: no such file or folder"),
    "a variable": (lambda root: Path("$NO_SUCH/x"), "$NO_SUCH/x: no such file or folder; is the variable set?"),
    "an empty file": (a_csv(b""), "{root}/index.csv: is empty; wanted: a header and a line for each image"),
    "only a header": (a_csv(b"path,label\n"), "{root}/index.csv: lists no images"),
    "no column": (a_csv(b"path,lable\na.jpg,cat\n"), "index.csv:1: has no column 'label'; did you mean lable?"),
    "semicolons": (a_csv(b"path;label\na.jpg;cat\n"), "index.csv:1: has no column 'path'; known: path;label"),
    "a column twice": (a_csv(b"path,label,label\na,b,c\n"), "index.csv:1: has the column 'label' more than once"),
    "ragged": (a_csv(b"path,label\na.jpg,cat,x\n"), "index.csv: is no proper CSV: CSV parse error"),
    "not UTF-8": (a_csv(b"path,label\n\xff\xfe.jpg,cat\n"), "index.csv: is no "),
    "a picture": (a_csv(make.encoded(make.picture())), "index.csv: is no "),
    "no images": (lambda root: make.tree(root, {"cat": 0}), "{root}: holds no images; wanted: <class>/*.jpg"),
    "no class folders": (
        lambda root: make.write(root / "a.jpg").parent,
        "{root}: a.jpg lies in no class folder; wanted: <class>/*.jpg",
    ),
    "an empty class": (
        lambda root: make.tree(root, {"cat": 1, "dog": 1, "emu": 0}),
        "{root}/emu: this class folder holds no images; put some there or remove it",
    ),
    "a single class": (lambda root: make.tree(root, {"cat": 2}), "has a single class, 'cat': at least two are needed"),
    "no zip": (lambda root: make.write(root / "a.zip", b"no zip"), "{root}/a.zip: is no zip, or an incomplete one"),
    "the CSV is inside": (
        lambda root: make.table(root / "index.csv", [{"path": "a", "label": "b"}], images=False).parent,
        "{root}: holds no images; did you mean {root}/index.csv?",
    ),
    "a folder as an image": (
        lambda root: make.table(
            make.tree(root, {"a.jpg": 1}) / "index.csv", [{"path": "a.jpg", "label": "b"}], images=False
        ),
        "index.csv:2: a.jpg is a folder, not a file",
    ),
    "two parents": (
        lambda root: make.table(
            root / "index.csv",
            [{"path": f"{i}.jpg", "label": "cb"[i % 2], "kind": "xy"[i // 2]} for i in range(4)],
        ),
        "index.csv: column 'kind' gives label 'b' 2 parents ('x', 'y'): a label has one; leave the column out with "
        "`parents`",
    ),
}


@pytest.mark.parametrize("name", BROKEN_SOURCES)
def test_a_broken_source_is_said(name, tmp_path):
    build, wanted = BROKEN_SOURCES[name]
    lines = mistakes(source(build(tmp_path / "data")))
    assert any(wanted.format(root=tmp_path / "data") in line for line in lines), lines


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"images": "gone.zip"}, "gone.zip: no such folder or zip of images"),
        ({"label": "lable"}, "index.csv:1: has no column 'lable'; did you mean label?"),
        ({"group": "camera"}, "index.csv:1: has no column 'camera'"),
        ({"parents": ["kind", "knd"]}, "index.csv:1: has no column 'knd'; did you mean kind?"),
    ],
)
def test_an_option_that_names_nothing_is_said(options, wanted, tmp_path):
    path = make.table(tmp_path / "index.csv", rows_of(kind="pet"))
    lines = mistakes(task(path, **options))
    assert any(wanted in line for line in lines), lines


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (rows_of(SPLITS[:3]), "has no OOD split: a task needs images in ood_val and ood_test"),
        (rows_of(SPLITS[1:]), "has no images in split train"),
        (
            [*rows_of(), {"path": "new.jpg", "label": "emu", "split": "ood_test"}],
            "label 'emu' is only in ood_test (1 images), so it cannot be learned; give it images in train, or leave "
            "such labels out with `unseen: drop`",
        ),
        ([*rows_of(), {"path": "new.jpg", "label": "cat", "split": ""}], "index.csv:12: the split is empty (1 images)"),
        (
            [*rows_of(), {"path": "v.jpg", "label": "cat", "split": "val"}],
            "index.csv:12: unknown split 'val' (1 images)",
        ),
    ],
)
def test_a_task_that_cannot_be_is_said(rows, wanted, tmp_path):
    lines = mistakes(task(make.table(tmp_path / "index.csv", rows)))
    assert any(wanted in line for line in lines), lines


def test_a_tree_of_unknown_splits_is_said(tmp_path):
    counts = {f"{split}/{label}": 1 for split in ("train", "val", "test") for label in ("cat", "dog")}
    lines = mistakes(task(make.tree(tmp_path, counts)))
    assert f"{tmp_path}: unknown split 'val' (2 images); did you mean id_val?" in lines


def test_a_zip_with_a_damaged_entry_breaks_only_that_image(tmp_path):
    data = make.encoded(make.picture(), "BMP")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        for key in ("cat/1.bmp", "dog/1.bmp"):
            archive.writestr(key, data)
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[200] ^= 255
    (tmp_path / "a.zip").write_bytes(raw)
    assert list(source(tmp_path / "a.zip").read(np.arange(2), 8).broken) == [0]


def test_links_are_followed_but_not_in_circles(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 1})
    make.tree(tmp_path / "elsewhere", {"dog": 2})
    (tree / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    (tree / "cat" / "round").symlink_to(tree)
    assert source(tree).keys(np.arange(3)) == ["cat/000.jpg", "dog/000.jpg", "dog/001.jpg"]
    assert len(source(tree).catalog) == 3


def test_a_name_that_is_no_text_is_said(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 1, "dog": 1})
    Path(os.fsdecode(bytes(tree / "cat") + b"/\xff.n\xff")).write_text("of what is no image nothing is said")
    assert source(tree).catalog.notes[0] == "1 files that are no images by their names were ignored."
    (tree / "cat" / "000.jpg").rename(os.fsdecode(bytes(tree / "cat") + b"/\xff.jpg"))
    assert mistakes(source(tree)) == [f"{tree}: the name of the file 'cat/\\udcff.jpg' is not in UTF-8"]


# --- the real images beside the checkout


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real images are not here")
def test_the_real_images_list_as_their_readme_says():
    caltech = source(DATA / "caltech101" / "index.csv")
    assert (len(caltech.catalog), len(caltech.catalog.classes)) == (7807, 99)
    assert list(caltech.catalog.hierarchy.columns) == ["top", "mid", "label"]
    assert not caltech.read(np.arange(200), 32).broken
    grocery = task(DATA / "grocery_store" / "index.csv").catalog
    assert [len(grocery.rows(split)) for split in SPLITS] == [1586, 393, 661, 296, 2485]
    assert (len(grocery.classes), *grocery.hierarchy.nunique()) == (81, 3, 43, 81)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice_is_a_line_and_one_without_a_name_is_no_matter(tmp_path):
    tree = make.tree(tmp_path / "tree", {"cat": 2, "dog": 2})
    (tmp_path / "list.csv").write_text("path,label\ncat/0.jpg,cat\ndog/0.jpg,dog\n")
    images = sorted(tree.rglob("*.jpg"))
    for name, twice in (("a.zip", False), ("b.zip", True)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for image in images:
                archive.write(image, image.relative_to(tree))
            nameless = zipfile.ZipInfo("x")
            nameless.filename = ""
            for again in (nameless, *["cat/", "cat/", *[str(image.relative_to(tree)) for image in images]] * twice):
                archive.writestr(again, images[0].read_bytes())
    assert len(source(tmp_path / "a.zip").catalog) == 4
    line = f"holds {str(images[0].relative_to(tree))!r} and 3 other names more than once; zip the files anew"
    for pool in (source(tmp_path / "b.zip"), source(tmp_path / "list.csv", images=str(tmp_path / "b.zip"))):
        assert mistakes(pool) == [f"{tmp_path}/b.zip: {line}"]
