"""Each source in small, from its real layout to a trial: ingested, counted, subset, trained on for an epoch."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from ray_robust.data.images.store import ImageStore
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.subsets import decode_jobs, draw_all
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.train.context import Context
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests import make_layouts
from tests import make_sources as make
from tests.make_pipeline import pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers and transformers, about each other
SPEC = """
# Question: Does a trial run on it?
task: {{name: camera-traps, train_images: 200, id_val_images: 50, id_test_images: 50, ood_val_images: 50,
       ood_test_images: 50}}
model: {{name: test_byobnet, image_size: 16}}
pretrain:
  sources: {{{name}: {options}}}
  num_images: 8
  num_classes: 2
  holdout: 0
  epochs: 1
finetune: {{epochs: 1}}
baseline: none
"""


def imagenet(root: Path) -> dict:
    return {"root": str(make.imagenet(root, 5)), "hierarchy": None}


def inaturalist_2017(root: Path) -> dict:
    return {"root": str(make.inaturalist(root, "2017", 6))}


def inaturalist_2021(root: Path) -> dict:
    return {"root": str(make.inaturalist(root, "2021", 5)), "version": 2021}


def tiny_imagenet(root: Path) -> dict:
    return {"root": str(make_layouts.tiny(root, 5, 1)), "absent": "drop"}


def cifar_10_binary(root: Path) -> dict:
    return {"root": str(make_layouts.cifar(root, "cifar-10", "binary", 4)), "absent": "drop"}


def cifar_100_python(root: Path) -> dict:
    return {"root": str(make_layouts.packed(make_layouts.cifar(root, "cifar-100", "python2", 500))), "absent": "drop"}


def fractals(root: Path) -> dict:
    return {"classes": 1000, "images_per_class": 1000}


def webdataset(root: Path) -> dict:
    return {"path": str(make.tar_shards(root, 4))}


def parquet(root: Path) -> dict:
    return {"path": str(make.parquet_shards(root, 4, names=("ant", "bee", "cat", "dog")))}


def diffusion(root: Path) -> dict:
    made = {"root": str(root / "made"), "model": str(pipeline(root / "model")), "classes": ["ant", "bee", "cat"]}
    return {**made, "images_per_class": 6, "steps": 1, "px": 16}


# the source, how it is made, images and classes in it
SOURCES = [
    ("imagenet", imagenet, 15, 3),
    ("inaturalist", inaturalist_2017, 20, 4),
    ("inaturalist", inaturalist_2021, 20, 4),
    ("tiny-imagenet", tiny_imagenet, 30, 6),
    ("cifar-10", cifar_10_binary, 20, 4),
    ("cifar-100", cifar_100_python, 500, 100),
    ("fractals", fractals, 1_000_000, 1000),
    ("webdataset", webdataset, 24, 4),
    ("parquet", parquet, 24, 4),
    ("diffusion", diffusion, 18, 3),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "made", "images", "classes"), SOURCES, ids=[made.__name__ for _, made, *_ in SOURCES])
def test_a_trial_on_a_source(name, made, images, classes, tmp_path):
    torch.set_num_threads(1)
    file = tmp_path / "small.yaml"
    file.write_text(SPEC.format(name=name, options=json.dumps(made(tmp_path / "data"))))
    sweep = open_sweep(load_spec(file))
    (pool,) = sweep.sources.values()
    assert (len(pool.catalog), len(pool.catalog.classes)) == (images, classes)
    (trial,) = sweep.plan
    jobs = decode_jobs(sweep, sweep.plan, draw_all(sweep, {}))
    ingest([(pool, size, rows) for _, pool, size, rows in jobs], tmp_path / "store")
    paths = RunPaths(str(tmp_path / "run"), str(tmp_path / "checkpoints"), str(tmp_path / "store"))
    run_trial(trial, paths, Context())
    folder = RunFolder(paths.run).trial(trial.id)
    assert folder.failure() is None
    told = json.loads(folder.storage.read("trial.json"))
    assert (told["num_images"], told["num_classes"], told["pretrain_images_seen"]) == (8, 2, 8)
    subset = pd.read_parquet(tmp_path / "run/trials" / trial.id / "subset.parquet")
    assert subset["label"].nunique() == 2
    assert set(subset["image"]) <= set(pool.keys(ImageStore.open(tmp_path / "store", pool, 16).state.nonzero()[0]))
