"""Plans and runs of files: ids are provisional until the files are read, and a run says what its identity is of."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.input.run_points import identity_of, read_run
from analysis.report import run_facts
from ray_robust import sweep
from ray_robust.data import opened
from ray_robust.data.images import decode
from ray_robust.data.images import files as files_module
from ray_robust.data.images import store as store_module
from ray_robust.data.pool import SPLITS
from ray_robust.data.samples import describe
from ray_robust.launch.ingest import ingest as launch
from ray_robust.prepare import open_sweep as preparation
from ray_robust.prepare import provenance
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.plan_text import print_plan
from ray_robust.prepare.subsets import draw_all
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from tests import fake_run
from tests.make_folders import bmp, ingested, pool_at, tree


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "default store"))
    opened.forget_pools()


# --- plans


SPEC = """
task: {{name: folder, path: {task}, metric: accuracy}}
model: {{name: test_byobnet, image_size: 32, precision: float32, compile: false}}
pretrain: {{sources: {{mine: {{kind: folder, path: {source}}}}}, num_images: 4, epochs: 1}}
finetune: {{epochs: 1, lr: 1e-3, batch_size: 8}}
seeds: 2
"""


def spec_at(tmp_path) -> Path:
    for split in SPLITS:
        tree(tmp_path / "task" / split, [bmp(i) for i in range(4)])
    tree(tmp_path / "source", [bmp(i) for i in range(60, 80)])
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.format(task=tmp_path / "task", source=tmp_path / "source"))
    return file


def ids(opened_spec) -> tuple[list[str], list[str]]:
    return [trial.id for trial in opened_spec.plan], [f.id for trial in opened_spec.plan for f in trial.finetunings]


def printed(opened_spec) -> str:
    out = Console(file=io.StringIO(), width=200)
    print_plan(out, opened_spec, draw_all(opened_spec, {}))
    return out.file.getvalue()


def fresh(file: Path, **how) -> preparation.Sweep:
    opened.forget_pools()
    return open_sweep(load_spec(file), **how)


def test_a_plan_of_files_that_were_not_read_is_provisional(tmp_path, monkeypatch):
    file = spec_at(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files_module.Folder, "read_steady", lambda *args: pytest.fail("a plan reads no image"))
        before = fresh(file, plan_only=True)
        assert "unread  mine: 20 of 20 files have not been read yet; until they are" in printed(before)
        assert ids(fresh(file, plan_only=True)) == ids(before)
    launch.read_files([(pool, 32, None) for pool in before.unread()], None, None)
    with monkeypatch.context() as patch:
        patch.setattr(files_module.Folder, "read_steady", lambda *args: pytest.fail("known files are not read"))
        after = fresh(file, plan_only=True)
        assert "unread" not in printed(after)
        assert ids(after) != ids(before)
        assert ids(fresh(file)) == ids(after)
    (tmp_path / "source" / "cat" / "000.bmp").write_bytes(bmp(99))
    edited = fresh(file, plan_only=True)
    assert "unread  mine: 1 of 20 files have not been read yet" in printed(edited)
    launch.read_files([(pool, 32, None) for pool in edited.unread()], None, None)
    (mixed, finetunings), (was, tasks) = ids(fresh(file)), ids(after)
    assert set(mixed) & set(was) == {name for name in was if "scratch" in name}  # what it did not change is as it was
    assert finetunings == tasks


def test_files_may_change_and_go_away_while_a_sweep_trains(tmp_path):
    """A trial takes the pools that were planned with, and the pixels that are in the store."""
    before = fresh(spec_at(tmp_path))
    launch.read_files([(pool, 32, None) for pool in before.unread()], None, None)
    sections = [level.section.sources["mine"] for level in before.spec.pretrains]
    planned = opened.open_pool("source", "mine", sections[0])
    wanted = planned.read(np.arange(20), 32).images
    sent = pickle.dumps(opened.listed())
    opened.forget_pools()
    (tmp_path / "source" / "cat" / "000.bmp").write_bytes(bmp(99))
    shutil.rmtree(tmp_path / "source" / "dog")
    opened.adopt(pickle.loads(sent))
    pool = opened.open_pool("source", "mine", sections[0])
    store = opened.open_store(store_module.default_root(), pool, 32)
    images, rows = opened.images_of(store, np.arange(20))
    assert rows is None
    assert (images == wanted).all()
    assert pool.catalog.fingerprint == planned.catalog.fingerprint
    assert opened.usable(store) is None


# --- runs of earlier versions


def test_a_run_from_before_says_that_its_identity_was_by_size(tmp_path):
    run = fake_run.run_folder(str(tmp_path / "run"), fake_run.sweep({"num_images=1000": 0.0}))
    data = run.data()
    data["pools"][1] |= {"name": "shops", "licence": "not stated beside the images", "fingerprint": "ccd5de641e1d0a82"}
    del data["pools"][0]["identity"], data["pools"][1]["identity"]
    run.write("data.json", json.dumps(data))
    assert [identity_of(pool) for pool in run.data()["pools"]] == ["recipe", "names and sizes"]
    table, _ = read_run(str(tmp_path / "run"))
    assert [warning for warning in table.warnings if "names and sizes" in warning] == [
        "task shops: its images were told apart by their names and sizes, not by what they contain, in this run of an "
        "earlier version: other images with the same names and sizes would have passed for them"
    ]
    assert ("identity", "by names and sizes") in run_facts.samples([run])[1]["facts"]
    pool = pool_at(tree(tmp_path / "a", [bmp(i) for i in range(4)]))
    pool.name = "shops"
    assert [line[:44] for line in provenance.identified_by_size(run, [("task", pool)])] == [
        "shops: an earlier version identified its ima"
    ]
    assert list(provenance.identified_by_size(run, [("source", pool)])) == []


def test_a_new_run_says_what_its_identity_is_of(tmp_path):
    store = ingested(tree(tmp_path / "a", [bmp(i) for i in range(4)]), tmp_path / "store")
    entry = describe(RunFolder(str(tmp_path / "run")), "source", store)
    assert (entry["identity"], entry["fingerprint"]) == ("content", store.pool.catalog.fingerprint)
    assert pd.Series(store.pool.catalog.ids).is_unique


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_reads_plans_and_goes_on_where_nothing_but_times_has_changed(tmp_path, monkeypatch, capsys):
    file, run = spec_at(tmp_path), tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    args = [str(file), "--out", str(run), "--set", "seeds=1"]
    assert sweep.main(args) == 0
    first = capsys.readouterr().out
    assert "folder: reads 20 of 20 files, which are new or were touched since" in first
    assert "mine: reads 20 of 20 files" in first
    assert "0 of 2 trials are done, 2 to run" in first
    assert {pool["identity"] for pool in RunFolder(str(run)).data()["pools"]} == {"content"}
    for path in tmp_path.rglob("*.bmp"):
        os.utime(path, (5, 5))
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", lambda *args: pytest.fail("nothing is decoded again"))
        assert sweep.main(args) == 0
        again = capsys.readouterr().out
        assert "mine: reads 20 of 20 files" in again
        assert "2 of 2 trials are done, 0 to run" in again
        assert sweep.main(args) == 0
        assert "reads" not in capsys.readouterr().out
    (tmp_path / "source" / "dog" / "001.bmp").write_bytes(bmp(99))
    planned = (run / "plan.csv").read_bytes()
    assert sweep.main([*args, "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "unread  mine: 1 of 20 files" in shown
    assert "plan  not written: run has a run, which goes by its own plan.csv; give another --out" in shown
    assert (run / "plan.csv").read_bytes() == planned
