"""`pretrain.dedupe`: of images that are there more than once one is trained on, of those that a task has none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ray_robust.data.duplicates import comparison
from ray_robust.data.duplicates.removal import deduplicate
from ray_robust.data.images.form import Form
from ray_robust.data.images.store import ImageStore, default_root
from ray_robust.data.opened import forget_pools
from ray_robust.errors import UserError
from ray_robust.launch.cluster.connect import Cluster
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.launch.run_sweep import SweepRun
from ray_robust.plan.plan import pool_key
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.subsets import decode_jobs, draw_all
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.image_selection import Deduplication
from ray_robust.spec.load import load_spec
from ray_robust.trial.datasets import draw_mixture
from tests import make_images as make
from tests.test_duplicates import opened, photo, task_tree

BOTH = Deduplication(within=True, against="task")


@pytest.fixture(autouse=True)
def _store_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "store"))
    forget_pools()


def source_tree(root: Path, task: Path) -> Path:
    """Twelve photographs; a copy of one in JPEG, one that is there twice under two labels, one that the task trains on
    and one that it is tested on, smaller."""
    for i in range(12):
        make.write(root / ("cat", "dog")[i % 2] / f"{i:02d}.png", make.encoded(photo(1000 + i), "PNG"))
    make.write(root / "cat" / "x-jpeg.jpg", make.encoded(photo(1002), "JPEG", quality=70))
    make.write(root / "dog" / "x-same.png", make.encoded(photo(1004), "PNG"))
    make.write(root / "cat" / "y-train.png", (task / "train" / "cat" / "0.png").read_bytes())
    make.write(root / "cat" / "y-test.png", make.encoded(photo(26).resize((80, 80)), "PNG"))  # ood_test/cat/1.png
    return root


def left_of(store: ImageStore, dedupe: Deduplication, tasks: list[ImageStore]) -> set[str]:
    mask = deduplicate(dedupe, store, tasks).mask
    assert mask is not None
    return set(store.pool.keys(np.flatnonzero(~mask)))


@pytest.mark.slow
def test_copies_are_left_out_and_the_first_by_name_stays(tmp_path):
    root = task_tree(tmp_path / "task")
    source = opened(tmp_path, "source", source_tree(tmp_path / "source", root))
    task = opened(tmp_path, "task", root)
    assert left_of(source, Deduplication(within=True), [task]) == {"cat/x-jpeg.jpg", "dog/x-same.png"}
    assert left_of(source, Deduplication(against="task"), [task]) == {"cat/y-train.png", "cat/y-test.png"}
    assert left_of(source, BOTH, [task]) == {"cat/x-jpeg.jpg", "dog/x-same.png", "cat/y-train.png", "cat/y-test.png"}
    note = deduplicate(BOTH, source, [task]).note
    assert note == "4 of 16 images left out: 2 that task folder has, 2 that occur before"
    kept = comparison.Images.of(source, np.flatnonzero(deduplicate(BOTH, source, [task]).mask))
    assert not comparison.repeated(kept).any()


def test_what_is_left_of_one_form_of_the_images_is_not_taken_for_another(tmp_path):
    for i in range(4):
        make.write(tmp_path / "source" / ("cat", "dog")[i % 2] / f"{i}.png", make.encoded(photo(i), "PNG"))
    raw, dedupe = opened(tmp_path, "source", tmp_path / "source"), Deduplication(within=True)
    compact = ImageStore.open(tmp_path / "store", raw.pool, Form(32, 48))
    compact.fill(compact.missing())
    assert deduplicate(dedupe, raw, []) is deduplicate(dedupe, raw, [])
    assert deduplicate(dedupe, compact, []) is not deduplicate(dedupe, raw, [])


def spec_of(tmp_path: Path, dedupe: Any, **keys: Any) -> dict[str, Any]:
    root = tmp_path / "task" if (tmp_path / "task").exists() else task_tree(tmp_path / "task")
    source = tmp_path / "source"
    source = source if source.exists() else source_tree(source, root)
    return {"task": {"name": "folder", "path": str(root)}, "model": {"name": "test_byobnet", "image_size": 32},
            "pretrain": {"sources": {"photos": {"kind": "folder", "path": str(source)}}, "dedupe": dedupe, "holdout": 0,
                         "epochs": 1, **keys}, "finetune": {"epochs": 1}, "baseline": "none"}  # fmt: skip


@pytest.mark.slow
def test_a_trial_draws_what_the_driver_counted(tmp_path):
    spec = load_spec(spec_of(tmp_path, {"grid": ["none", {"within": True, "against": "task"}]}))
    sweep = open_sweep(spec)
    jobs = decode_jobs(sweep, sweep.plan, draw_all(sweep, {}))
    stores = dict(zip([job[0] for job in jobs], ingest([job[1:] for job in jobs], default_root()), strict=True))
    sweep = open_sweep(spec)  # its files are read now
    subsets = draw_all(sweep, stores)
    counts = {trial.group: subsets[trial.id].images for trial in sweep.plan}
    assert counts == {"dedupe=none": 16, "dedupe=within and against task": 12}
    for trial in sweep.plan:
        drawn = draw_mixture(trial, default_root(), lambda: None).subset
        assert len(drawn) == counts[trial.group]
        assert ("dedupe_note" in drawn.composition[0]) == (trial.pretrain.dedupe is not None)
    key = next(pool_key(name, section) for name, section in spec.pretrains[0].section.sources.items())
    assert sweep.sources[key] is stores[key].pool


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sources", "task", "dedupe", "message"),
    [
        (
            {"species": 1},
            {"name": "camera-traps"},
            {"within": True},
            "images of species are made here, each from random",
        ),
        ({"photos": 1}, {"name": "camera-traps"}, {"against": "task"}, "images of task camera-traps are made here"),
    ],
)
def test_images_that_are_made_here_have_no_copies(tmp_path, sources, task, dedupe, message):
    spec = spec_of(tmp_path, dedupe)
    spec["task"] = task
    if "species" in sources:
        spec["pretrain"]["sources"] = sources
    with pytest.raises(UserError, match=message):
        open_sweep(load_spec(spec))


@pytest.mark.slow
def test_a_trial_is_named_by_the_tasks_that_it_is_compared_with(tmp_path):
    def key(dedupe: Any, **more: Any) -> str:
        forget_pools()
        spec = spec_of(tmp_path, dedupe)
        spec["task"] |= more
        return open_sweep(load_spec(spec)).plan.trials[0].key

    within, against = key({"within": True}), key({"against": "task"})
    assert len({key("none"), within, against, key({"within": True, "against": "task"})}) == 4
    assert key({"against": "task"}, corruptions={"kinds": ["jpeg"]}) == against, "images made of its own"
    make.write(tmp_path / "task" / "ood_test" / "cat" / "more.png", make.encoded(photo(77), "PNG"))
    assert key({"within": True}) == within
    assert key({"against": "task"}) != against


@pytest.mark.slow
def test_a_sweep_over_image_sizes_decodes_each_before_its_trials(tmp_path, monkeypatch):
    spec = spec_of(tmp_path, "none")
    sweep = open_sweep(load_spec({**spec, "model": {"name": "test_byobnet", "image_size": {"grid": [32, 48]}}}))
    missing = {}

    def nothing_is_trained(*_):
        for kind, pool in sweep.pools():
            for size in (32, 48):
                missing[kind, size] = len(ImageStore.open(default_root(), pool, size).missing())
        return set()

    monkeypatch.setattr("ray_robust.launch.tuner.run_plan", nothing_is_trained)
    monkeypatch.setattr("ray_robust.launch.placement.living_nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr("ray.cluster_resources", dict)
    run, cluster = RunFolder(tmp_path / "run"), Cluster("", tmp_path / "scratch", False)
    SweepRun(sweep, draw_all(sweep, {}), run, Console(file=io.StringIO()), None, cluster).execute()
    assert missing == dict.fromkeys([(kind, size) for kind in ("source", "task") for size in (32, 48)], 0)
    described = [(entry["kind"], entry["name"]) for entry in run.data()["pools"]]
    assert sorted(described) == [("source", "photos"), ("task", "folder")]
