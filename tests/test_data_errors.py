"""Errors in data: named with their file before anything runs; broken images are named, or left out where asked."""
# ruff: noqa: E501 - messages stand whole here, as people read them

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import make_images as make
import numpy as np
import pytest
from deadlines import HANG
from error_lines import error_lines
from PIL import Image

from ray_robust.data.pool import SPLITS
from ray_robust.errors import UserError
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.prepare.subsets import decode_jobs, draw_all
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def task_rows(splits: tuple[str, ...] = SPLITS, count: int = 1) -> list[dict[str, str]]:
    return [
        {"path": f"{split}/{label}{i}.png", "label": label, "split": split}
        for split in splits
        for label in ("cat", "dog")
        for i in range(count)
    ]


def a_task(more: list[dict[str, str]] | None = None, splits: tuple[str, ...] = SPLITS, count: int = 1) -> None:
    make.table(Path("task/index.csv"), [*task_rows(splits, count), *(more or [])])


def a_source(counts: dict[str, int] | None = None) -> None:
    make.tree(Path("pets"), counts or {"cat": 8, "dog": 8})


def a_spec(source: str = "path: pets", task: str = "path: task/index.csv", num_images: int | str = "all") -> None:
    Path("x.yaml").write_text(f"""\
task: {{name: folder, {task}}}
model: {{name: test_resnet, image_size: 16}}
pretrain:
  sources: {{pets: {{kind: folder, {source}}}}}
  num_images: {num_images}
  images_seen: 64
  holdout: 0
finetune: {{epochs: 1}}
""")


def only(name: str, data: bytes) -> None:
    Path("pets").mkdir()
    Path("pets", name).write_bytes(data)


# what stands on the disk (besides a good task, a good source and the spec), and everything that is said of it
LISTED: dict[str, tuple[Callable[[], object], list[str]]] = {
    "no file": (lambda: a_spec("path: nowhere"), ["4: {here}/nowhere: no such file or folder"]),
    "an address": (lambda: a_spec("path: s3://me:hunter2@b/x"), ["4: pretrain.sources.pets.path: must be a path on every node, "
        "not the address s3://REDACTED@b/x; mount it, or see the sources webdataset and parquet, which read addresses"]),
    "both absent": (lambda: a_spec("path: nowhere", "path: none"),
        ["4: {here}/nowhere: no such file or folder", "1: {here}/none: no such file or folder"]),
    "an empty table": (lambda: (only("i.csv", b""), a_spec("path: pets/i.csv")),
        ["4: {here}/pets/i.csv: is empty; wanted: a header and a line for each image"]),
    "a table without rows": (lambda: (only("i.csv", b"path,label\n"), a_spec("path: pets/i.csv")),
        ["4: {here}/pets/i.csv: lists no images"]),
    "a table without labels": (lambda: (only("i.csv", b"path,lable\na.jpg,cat\n"), a_spec("path: pets/i.csv")),
        ["4: {here}/pets/i.csv:1: has no column 'label'; did you mean lable?"]),
    "images that are not there": (lambda: (only("i.csv", b"path,label\na.jpg,cat\nb.jpg,dog\n"), a_spec("path: pets/i.csv")),
        ["4: {here}/pets/i.csv:2: a.jpg is no file in {here}/pets", "4: {here}/pets/i.csv:3: b.jpg is no file in {here}/pets"]),
    "a path that leaves": (lambda: (a_source(), Path("pets/i.csv").write_text("path,label\ncat/000.jpg,cat\ndog/000.jpg,dog\n../x.jpg,cat\n"),
        a_spec("path: pets/i.csv")), ["4: {here}/pets/i.csv:4: path '../x.jpg' leaves {here}/pets; wanted: a path inside it"]),
    "an empty class": (lambda: a_source({"cat": 2, "dog": 2, "emu": 0}), ["4: {here}/pets/emu: this class folder holds no images; put some there or remove it"]),
    "a single class": (lambda: a_source({"cat": 2}), ["4: {here}/pets: has a single class, 'cat': at least two are needed"]),
    "no classes": (lambda: only("a.jpg", make.encoded(make.picture())), ["4: {here}/pets: a.jpg lies in no class folder; wanted: <class>/*.jpg"]),
    "no images": (lambda: only("read.me", b""), ["4: {here}/pets: holds no images; wanted: <class>/*.jpg"]),
    "a zip that is none": (lambda: (only("a.zip", b"no zip"), a_spec("path: pets/a.zip")),
        ["4: {here}/pets/a.zip: is no zip, or an incomplete one (File is not a zip file)"]),
    "no OOD split": (lambda: a_task(splits=SPLITS[:3]),
        ["1: {here}/task/index.csv: has no OOD split: a task needs images in ood_val and ood_test"]),
    "no training split": (lambda: a_task(splits=SPLITS[1:]),
        ["1: {here}/task/index.csv: has no images in split train: a task needs train, id_val, id_test, ood_val, ood_test"]),
    "a label only in the OOD split": (lambda: a_task([{"path": "e.png", "label": "emu", "split": "ood_test"}]),
        ["1: {here}/task/index.csv: label 'emu' is only in ood_test (1 images), so it cannot be learned; give it images in "
         "train, or leave such labels out with `unseen: drop`"]),
    "an unknown split": (lambda: a_task([{"path": "e.png", "label": "cat", "split": "ood_tset"}]),
        ["1: {here}/task/index.csv:12: unknown split 'ood_tset' (1 images); did you mean ood_test?"]),
    "more images than there are": (lambda: a_spec(num_images=17), [
        "5: pretrain.num_images: source pets needs 17 images, supply is 16 (in 2 classes, without the images held out for "
        "upstream accuracy) [pretrained]"]),
}  # fmt: skip


def prepare(change: Callable[[], object]) -> None:
    """What `change` makes, and of the spec, the source and the task whatever it does not make."""
    change()
    if not Path("pets").exists():
        a_source()
    if not Path("task").exists():
        a_task()
    if not Path("x.yaml").exists():
        a_spec()


@pytest.mark.parametrize("name", LISTED)
def test_broken_data_are_reported_before_anything_runs(name, capsys):
    change, lines = LISTED[name]
    prepare(change)
    wanted = [f"x.yaml:{line.format(here=Path.cwd())}" for line in lines]
    assert error_lines("x.yaml", "--plan", "--out", "out", capsys=capsys) == wanted


JPEG = make.encoded(make.picture())
BROKEN = {
    "text": (
        b"<html>not found</html>",
        "is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image; it begins as a web page or XML does",
    ),
    "nothing": (b"", "is empty (0 bytes)"),
    "truncated": (JPEG[:-100], "is a damaged JPEG: premature end of JPEG file"),
    "only a header": (JPEG[:30], "cannot be decoded: Truncated File Read"),
}
ODD = {  # odd, but images
    "CMYK": lambda: make.encoded(make.picture().convert("CMYK")),
    "16 bits": lambda: make.encoded(Image.fromarray(np.full((40, 40), 30_000, np.uint16)), "PNG"),
    "grey": lambda: make.encoded(make.picture().convert("L")),
    "a palette with a transparent colour": lambda: make.encoded(make.picture().convert("P"), "PNG", transparency=3),
    "one pixel": lambda: make.encoded(make.picture(1, 1), "PNG"),
    "a long strip": lambda: make.encoded(make.picture(3000, 2), "PNG"),
}


def ingested() -> tuple[Sweep, dict]:
    """As a run does before its first trial: open, decode, draw again without what is broken."""
    opened = open_sweep(load_spec("x.yaml"))
    jobs = decode_jobs(opened, opened.plan, draw_all(opened, {}))
    stores = ingest([(pool, size, rows) for _, pool, size, rows in jobs], Path("store"))
    by_key = {key: store for (key, *_), store in zip(jobs, stores, strict=True)}
    return opened, draw_all(opened, by_key)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_named_or_left_out(name):
    data, reason = BROKEN[name]
    prepare(lambda: (a_source(), Path("pets/cat/003.jpg").write_bytes(data)))
    with pytest.raises(UserError) as caught:
        ingested()
    first, last = str(caught.value).splitlines()
    assert first.startswith(f"{Path.cwd()}/pets/cat/003.jpg: {reason}")
    assert last == f"{Path.cwd()}/pets: 1 of 16 images are broken; mend or remove them, or say `broken: drop`"
    a_spec("path: pets, broken: drop")
    _, subsets = ingested()
    assert {subset.images for subset in subsets.values()} == {15}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_is_an_image(name):
    prepare(lambda: (a_source(), Path("pets/cat/003.jpg").write_bytes(ODD[name]())))
    _, subsets = ingested()
    assert {subset.images for subset in subsets.values()} == {16}


def test_a_class_with_one_image_is_a_class():
    prepare(lambda: a_source({"cat": 8, "dog": 1}))
    opened, subsets = ingested()
    assert {subset.classes for subset in subsets.values()} == {("cat", "dog")}
    (pool,) = opened.sources.values()
    assert pool.catalog.notes == ("1 classes have a single image: dog.",)


def test_a_total_that_only_the_broken_images_would_fill_is_error_lines():
    prepare(
        lambda: (
            a_source(),
            Path("pets/cat/003.jpg").write_bytes(b""),
            a_spec("path: pets, broken: drop", num_images=16),
        )
    )
    with pytest.raises(UserError) as caught:
        ingested()
    assert str(caught.value) == (
        "x.yaml:5: pretrain.num_images: source pets needs 16 images, supply is 15 (in 2 classes, without the images held "
        "out for upstream accuracy) [pretrained]"
    )


def run_sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", "ray_robust.sweep", "x.yaml", "--out", "out", *arguments]
    return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=HANG, env={**os.environ})


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_sweep_refuses_broken_images_or_leaves_them_out_and_lists_them():
    prepare(lambda: (a_source({"cat": 12, "dog": 12}), a_task(count=4)))
    Path("pets/cat/003.jpg").write_bytes(b"no image")
    Path("task/train/cat1.png").write_bytes(b"")
    ended = run_sweep()
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines() == [
        f"{Path.cwd()}/pets/cat/003.jpg: is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image",
        f"{Path.cwd()}/pets: 1 of 24 images are broken; mend or remove them, or say `broken: drop`",
        f"{Path.cwd()}/task/train/cat1.png: is empty (0 bytes)",
        f"{Path.cwd()}/task: 1 of 40 images are broken; mend or remove them, or say `broken: drop`",
    ]
    assert not Path("out").exists()

    a_spec("path: pets, broken: drop", "path: task/index.csv, broken: drop")
    ended = run_sweep()
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    run = RunFolder("out")
    broken = {pool["kind"]: pool["broken"] for pool in run.data()["pools"]}
    assert broken == {
        "source": [
            {"key": "cat/003.jpg", "reason": "is no JPEG, PNG, JPEG2000, WEBP, BMP, GIF, TIFF, AVIF or PPM image"}
        ],
        "task": [{"key": "train/cat1.png", "reason": "is empty (0 bytes)"}],
    }
    assert set(run.states().values()) == {"done"}
    table = run.results()
    assert table["num_images"].tolist() == [0, 23]
    assert table["finetune_images"].tolist() == [7, 7]
    assert "cat/003.jpg" in Path("out/report/index.html").read_text()
