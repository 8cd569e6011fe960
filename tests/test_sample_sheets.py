"""The pictures of a run's sample sheets have the names of what they show, in data.json and on the page."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from make_pools import open_pool
from PIL import Image

from analysis.__main__ import Request, report_on
from analysis.report import run_facts
from ray_robust.data import samples
from ray_robust.data.images.store import ImageStore
from ray_robust.run.run_folder import RunFolder
from tests import make_layouts
from tests.fake_run import run_folder, sweep

COLOURS = {"n02085620": (250, 10, 10), "n02123045": (10, 250, 10), "n03100240": (10, 10, 250)}
NAMES = {"n02085620": "Chihuahua", "n02123045": "tabby", "n03100240": "convertible"}


@pytest.fixture
def coloured(tmp_path):
    """Tiny-ImageNet with three classes, each in one colour, 12 images of each."""
    for wnid, colour in COLOURS.items():
        for i in range(12):
            file = tmp_path / f"tiny/train/{wnid}/images/{wnid}_{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32 + i, 32), colour).save(file)
    return tmp_path / "tiny"


def described(pool, kind: str, root) -> tuple[dict, RunFolder]:
    run = RunFolder(str(root / "run"))
    return samples.describe(run, kind, ImageStore.open(root / "store", pool, 32)), run


def test_each_tile_has_the_name_of_its_class(coloured, tmp_path):
    pool = open_pool("source", "tiny-imagenet", {"root": str(coloured), "absent": "drop"})
    entry, run = described(pool, "source", tmp_path)
    tiles = entry["tiles"]["images"]
    assert tiles.keys() == {"columns", "classes"}
    assert len(tiles["classes"]) == samples.COLUMNS * samples.ROWS
    assert set(tiles["classes"]) == set(NAMES.values())
    sheet = np.asarray(Image.open(io.BytesIO(run.storage.read(entry["samples"]["images"]))))
    step = samples.TILE + 2
    shown = {NAMES[wnid]: colour for wnid, colour in COLOURS.items()}
    for i, name in enumerate(tiles["classes"]):
        row, column = divmod(i, tiles["columns"])
        assert tuple(sheet[row * step + 30, column * step + 30]) == shown[name]


def test_a_task_has_the_groups_as_well(tmp_path):
    root = make_layouts.tiny(tmp_path / "tiny", train=20, val=1)
    source = {"name": "tiny-imagenet", "root": str(root), "absent": "drop",
              "hierarchy": str(make_layouts.pairs(tmp_path / "is_a.txt"))}  # fmt: skip
    pool = open_pool("task", "subpopulation", {"source": source, "labels": "depth:1"})
    entry, _ = described(pool, "task", tmp_path)
    for split, tiles in entry["tiles"].items():
        assert len(tiles["classes"]) == len(tiles["groups"]) == min(24, len(pool.catalog.rows(split)))
        assert set(tiles["classes"]) == {"animal", "car"}
        assert set(tiles["groups"]) <= {words.split(",")[0] for words in make_layouts.WNIDS.values()}


def test_the_page_has_names_and_a_run_without_them_is_shown_as_before(tmp_path):
    run = run_folder(str(tmp_path / "run"), sweep({"num_images=1000": 1.0}))
    before = run_facts.samples([run])
    assert all(sheet["classes"] == "" and sheet["tiles"] == [] for pool in before for sheet in pool["sheets"])
    data = run.data()
    names = ["<b>tench</b>", "<b>tench</b>", "ox"]
    data["pools"][1]["tiles"] = {"train": {"columns": 3, "classes": names, "groups": ["a", "b", "c"]}}
    data["pools"][0]["tiles"] = {"all": {"columns": 3, "classes": names, "groups": ["of another length"]}}
    run.write("data.json", json.dumps(data))
    source, task = run_facts.samples([run])
    assert task["sheets"][0]["tiles"] == ["<b>tench</b>, a", "<b>tench</b>, b", "ox, c"]
    assert task["sheets"][0]["classes"] == "<b>tench</b> \u00d72, ox"
    assert task["sheets"][1]["tiles"] == []
    assert source["sheets"][0]["tiles"] == names


@pytest.mark.slow
def test_the_report_shows_them(tmp_path):
    run = run_folder(str(tmp_path / "run"), sweep({"num_images=1000": 1.0}))
    data = run.data()
    data["pools"][1]["tiles"] = {
        "train": {"columns": 3, "classes": ["<b>tench</b>", "ox", "ox"], "groups": ["a", "b", "c"]}
    }
    run.write("data.json", json.dumps(data))
    report_on(Request((str(tmp_path / "run"),)), quiet=True)
    titles, alts = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag != "b"
            (titles if tag == "span" else alts).extend(
                v for k, v in attrs if k == ("title" if tag == "span" else "alt")
            )

    text = (tmp_path / "run/report/index.html").read_text("utf-8")
    Reader().feed(text)
    assert [title for title in titles if title.endswith((", a", ", b", ", c"))] == ["<b>tench</b>, a", "ox, b", "ox, c"]
    assert "Sample images of camera-traps, train: <b>tench</b>, ox \u00d72" in alts
    assert "By rows: <bdi>&lt;b&gt;tench&lt;/b&gt;, ox \u00d72</bdi>" in text


def test_a_pair_of_images_is_shown_once():
    pairs = [{"image": "a", "other": "b", "where": "train"}, {"image": "c", "other": "d", "where": "train"},
             {"image": "b", "other": "a", "where": "another label"}]  # fmt: skip
    assert run_facts.pairs_once(pairs) == pairs[:2]
