"""The source diffusion, with a pipeline of random weights: made, resumed, read, and what is wrong with it."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from ray_robust import ingest as command
from ray_robust import registry
from ray_robust.data.sources.diffusion import Diffusion, Painter
from ray_robust.errors import DataAbsent, UserError
from ray_robust.launch.ingest import generate as launch
from ray_robust.launch.ingest.generate import generate
from ray_robust.launch.ingest.ingest import ingest
from tests import make_sources as make
from tests.make_pipeline import pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers and transformers, about each other


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return pipeline(tmp_path_factory.mktemp("model") / "tiny")


def source(root, model, **options) -> Diffusion:
    given = {"classes": ["cat", "dog"], "images_per_class": 6, "steps": 1, "px": 16, "batch": 4, **options}
    return Diffusion("diffusion", Diffusion.Options.model_validate({"root": str(root), "model": str(model), **given}))


def rows_of(pool) -> np.ndarray:
    return np.arange(len(pool.catalog))


def said(call, *hide) -> list[str]:
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    for path, name in zip(hide, ("ROOT", "MODEL"), strict=False):
        text = text.replace(str(path), name)
    return text.splitlines()


@pytest.mark.slow
def test_images_are_made_once_with_their_manifest(model, tmp_path):
    pool = source(tmp_path / "made", model, prompts=["a photo of a {class}", "a drawing of the {class}"])
    (store,) = ingest([(pool, 8, np.array([0, 3, 7]))], tmp_path / "store")
    files = sorted(str(p.relative_to(tmp_path / "made")) for p in (tmp_path / "made").rglob("*.webp"))
    assert files == ["cat/000000.webp", "cat/000003.webp", "dog/000001.webp"]
    assert store.take(np.array([0, 3, 7])).std() > 10
    assert pool.unmade(rows_of(pool)).tolist() == [1, 2, 4, 5, 6, 8, 9, 10, 11]
    manifest = pd.read_parquet(tmp_path / "made/manifest.parquet")
    assert manifest["image"].tolist() == pool.keys(rows_of(pool))
    assert manifest["prompt"].tolist()[5:7] == ["a drawing of the cat", "a photo of a dog"]
    assert pool.captions(np.array([5, 6])) == ["a drawing of the cat", "a photo of a dog"]
    assert manifest["seed"].nunique() == 12
    recipe = json.loads((tmp_path / "made/recipe.json").read_text())
    assert recipe["model"].startswith("folder ")
    assert (recipe["steps"], recipe["px"], recipe["guidance"]) == (1, 16, 7.5)


def test_an_image_does_not_hang_on_what_it_is_made_with(model, tmp_path):
    alone, all_of = (source(tmp_path / name, model, format="png") for name in ("alone", "all"))
    generate(alone, np.array([5]))
    generate(all_of, rows_of(all_of))
    assert np.array_equal(alone.read(np.array([5]), 16).images, all_of.read(np.array([5]), 16).images)
    assert not np.array_equal(all_of.read(np.array([4]), 16).images, all_of.read(np.array([5]), 16).images)


@pytest.mark.slow
def test_what_was_interrupted_goes_on(model, tmp_path, monkeypatch):
    pool, whole, painted = source(tmp_path / "a", model), source(tmp_path / "b", model), []
    paint = Painter.paint

    def stopped(self, rows):
        if painted:
            raise KeyboardInterrupt
        painted.append(rows)
        return paint(self, rows)

    monkeypatch.setattr(Painter, "paint", stopped)
    with pytest.raises(KeyboardInterrupt):
        generate(pool, rows_of(pool))
    assert len(pool.unmade(rows_of(pool))) == 8
    monkeypatch.setattr(Painter, "paint", paint)
    seen: list[int] = []
    generate(pool, rows_of(pool), seen.append)
    assert seen == [4, 4]
    generate(whole, rows_of(whole))
    assert np.array_equal(pool.read(rows_of(pool), 16).images, whole.read(rows_of(whole), 16).images)


def test_more_classes_or_images_leave_the_others_as_they_are(model, tmp_path):
    small = source(tmp_path, model)
    large = source(tmp_path, model, classes=["ant", "cat", "dog"], images_per_class=9)
    in_small, in_large = np.array([0, 5, 6]), np.array([9, 14, 18])
    assert small.keys(in_small) == large.keys(in_large)
    assert [small.seed(r) for r in in_small] == [large.seed(r) for r in in_large]
    assert small.catalog.ids[in_small].tolist() == large.catalog.ids[in_large].tolist()
    assert len(np.unique(large.catalog.ids)) == 27
    assert small.catalog.fingerprint != large.catalog.fingerprint
    assert source(tmp_path / "else", model, batch=2).catalog.fingerprint == small.catalog.fingerprint


def test_another_recipe_needs_another_root(model, tmp_path):
    generate(source(tmp_path, model), np.array([0]))
    assert said(lambda: source(tmp_path, model, steps=3).catalog, tmp_path) == [
        "ROOT: the images there were made with steps 1, not 3; give another root"
    ]


def test_classes_come_from_a_table_or_from_another_source(model, tmp_path):
    (tmp_path / "classes.csv").write_text("class,name\nn1/a,tench\nn2,crane\n")
    pool = source(tmp_path, model, classes=str(tmp_path / "classes.csv"))
    assert pool.catalog.classes == ("n1/a", "n2")
    assert pool.prompt(0) == "a photo of a tench"
    assert pool.keys(np.array([0, 6]))[1] == "n2/000000.webp"
    assert pool.keys(np.array([0]))[0].count("/") == 1
    root = make.imagenet(tmp_path / "imagenet")
    pool = source(tmp_path, model, classes={"source": "imagenet", "root": str(root), "hierarchy": None})
    assert pool.catalog.classes == tuple(make.WNIDS)
    assert pool.prompt(0) == "a photo of a tench"
    (tmp_path / "classes.csv").write_text("klass\ncat\n")
    assert said(lambda: source(tmp_path, model, classes=str(tmp_path / "classes.csv")).catalog, tmp_path) == [
        "ROOT/classes.csv:1: has no column 'class'; did you mean klass?"
    ]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"prompts": ["a photo"]}, "the prompt 'a photo' must say {class}, and nothing else in braces"),
        ({"prompts": ["{class} {0}"]}, "the prompt '{class} {0}' must say {class}, and nothing else in braces"),
        ({"classes": ["cat", "cat"]}, "must be at least two different names"),
        ({"classes": {"root": "x"}}, "must say whose classes it takes, e.g. {source: imagenet, root: ...}"),
        ({"classes": {"source": "imagnet"}}, "'imagnet' is no known source; did you mean imagenet?"),
        ({"classes": {"source": "imagenet"}}, "imagenet.root: missing"),
    ],
)
def test_options_are_checked(options, what, tmp_path):
    with pytest.raises(ValueError, match="validation error") as caught:
        source(tmp_path, "a/b", **options)
    assert what in str(caught.value)


def test_counts_are_known_before_anything_is_there(tmp_path):
    pool = source(tmp_path, tmp_path / "none")
    with pytest.raises(DataAbsent, match=r"no such folder; wanted: a pipeline that diffusers has saved"):
        _ = pool.catalog
    assert (len(pool.published()), len(pool.published().classes)) == (12, 2)
    pool = source(tmp_path, "a/b", classes={"source": "imagenet", "root": str(tmp_path / "none")})
    with pytest.raises(DataAbsent, match=r"none: no such folder\. Obtain it"):
        _ = pool.catalog
    assert (len(pool.published()), len(pool.published().classes)) == (6000, 1000)


def test_what_cannot_be_loaded_is_said_in_a_line(model, tmp_path, monkeypatch):
    half = shutil.copytree(model, tmp_path / "half")
    shutil.rmtree(half / "unet")
    (line,) = said(lambda: generate(source(tmp_path, half), np.array([0])), tmp_path)
    assert line.startswith("ROOT/half: cannot be loaded as a diffusers pipeline: ")
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        (line,) = said(lambda: generate(source(tmp_path, "no-such/model"), np.array([0])))
    assert line.startswith("no-such/model: cannot be loaded as a diffusers pipeline: ")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (line,) = said(lambda: generate(source(tmp_path, model), np.array([0])))
    assert line.startswith("the source diffusion needs more packages (")
    assert line.endswith("; pip install -r requirements-diffusion.txt")


def test_an_image_that_is_damaged_or_not_made(model, tmp_path):
    pool = source(tmp_path, model)
    generate(pool, np.array([0]))
    (tmp_path / "cat/000000.webp").write_bytes(b"")
    shared = "(all nodes must share this folder)"
    assert said(lambda: pool.read(np.array([0]), 8), tmp_path) == [
        f"ROOT/cat/000000.webp: is empty (0 bytes); delete it, to have it made again {shared}"
    ]
    assert said(lambda: pool.read(np.array([1]), 8), tmp_path) == [
        "ROOT/cat/000001.webp: cannot be read: No such file or directory; ray_robust.ingest makes it " + shared
    ]


def test_the_command_makes_and_ingests(model, tmp_path, capsys):
    options = {"model": model, "classes": "[cat, dog]", "images_per_class": 6, "steps": 1, "px": 16}
    args = [
        "diffusion",
        "--root",
        str(tmp_path / "made"),
        "--size",
        "8",
        "--out",
        str(tmp_path / "store"),
        "--limit",
        "5",
    ]
    args += [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    assert command.main(args) == 0
    told = capsys.readouterr().out
    assert "diffusion    12 images, 2 classes" in told
    assert "images       5 in the store, 5 of them new; 0 broken" in told
    assert len(list((tmp_path / "made").rglob("*.webp"))) == 5


def test_it_is_registered():
    assert registry.find("source", "diffusion") is Diffusion


@pytest.mark.ray
def test_ray_makes_the_same_images(model, tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(launch, "MOST_ON_CPU", 1)  # each worker takes seconds to import diffusers
    ours = not ray.is_initialized()
    if ours:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        pool, here, seen = source(tmp_path / "ray", model), source(tmp_path / "here", model), []
        generate(pool, rows_of(pool), seen.append)
        assert sum(seen) == 12
        for i in range(0, 12, 4):
            Painter(here).paint(list(range(i, i + 4)))
        assert np.array_equal(pool.read(rows_of(pool), 16).images, here.read(rows_of(here), 16).images)
    finally:
        if ours:
            ray.shutdown()
