"""Advice on pre-trainings that learned nothing or were still improving: first of all, and beside the headline."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import yaml

from analysis.advice import run_design
from analysis.advice.advise import advise
from analysis.advice.pretraining import USUAL_LR
from analysis.advice.run_design import RunDesign
from analysis.learned.upstream import TABLE, headline
from analysis.options import Options
from analysis.report import run_facts
from analysis.study import Analysis, analyse
from ray_robust.launch.run_sweep import write_plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import EPOCHS, MIN_IMAGES_SEEN, Finetune, Pretrain
from tests.fake_run import sweep
from tests.make_images import tree

PLAN = [
    {"group": "scratch", "pretrain_method": "scratch", "finetunes": '{"a": "task"}', "cost_images": 100},
    {"group": "n=1", "pretrain_method": "supervised", "finetunes": '{"a": "task", "b": "task"}', "cost_images": 900,
     "pretrain_images_seen": 500},
]  # fmt: skip


def learned(hardly: tuple[bool, ...], improving: tuple[bool, ...]) -> Analysis:
    """An analysis whose groups learned so."""
    analysis = analyse("task", sweep({"n=1": 3.0, "n=2": 3.0}), Options("scratch"))
    rows = [
        {"group": f"n={i}", "method": "supervised", "accuracy": 7.0, "low": 5.0, "high": 9.0, "chance": 6.6,
         "late_share": 0.4, "hardly_learned": one, "still_improving": other}
        for i, (one, other) in enumerate(zip(hardly, improving, strict=True), 1)
    ]  # fmt: skip
    upstream = pd.DataFrame(rows).reindex(columns=list(TABLE))
    return replace(analysis, learned=replace(analysis.learned, upstream=upstream))


@pytest.mark.parametrize(
    ("hardly", "improving", "reason", "start"),
    [
        ((True, True), (False, False), "hardly_learned", "The question was not tested: pre-training learned nothing"),
        ((True, False), (False, True), "hardly_learned", "Not tested for n=1: pre-training learned nothing"),
        ((False, False), (True, False), "still_improving", "Tested with an unfinished pre-training: that of n=1"),
    ],
)
def test_pre_training_comes_first(hardly, improving, reason, start):
    analysis = learned(hardly, improving)
    assert advise(analysis)[0].reason == reason
    assert headline(analysis.learned.upstream).startswith(start)


def test_nothing_is_said_of_pre_trainings_that_learned():
    analysis = learned((False, False), (False, False))
    assert headline(analysis.learned.upstream) == ""
    assert not {"hardly_learned", "still_improving"} & {one.reason for one in advise(analysis)}


def test_longer_and_at_another_rate_as_yaml_with_its_cost():
    section = {"lr": 0.003, "method": "supervised", "num_images": {"grid": [1, 2]}, "images_seen": "40k"}
    run = RunDesign("run", {"pretrain": section}, PLAN, pd.DataFrame())
    text, cost = run.pretrained(times=3)
    assert yaml.safe_load(text) == {"pretrain": {**section, "images_seen": 120_000}}
    assert (cost.finetunings, cost.pretrainings, cost.images) == (2, 1, 900 + 2 * 500)
    text, cost = run.pretrained(lr=USUAL_LR)
    assert yaml.safe_load(text)["pretrain"]["lr"] == USUAL_LR
    assert cost.images == 900
    grid = RunDesign("run", {"pretrain": {"epochs": {"grid": [2, 4]}}}, PLAN, pd.DataFrame())
    assert yaml.safe_load(grid.pretrained(times=3)[0]) == {"pretrain": {"epochs": {"grid": [6, 12]}}}
    assert RunDesign("run", {"pretrain": "none"}, PLAN, pd.DataFrame()).pretrained(times=3) == (None, None)


WRITTEN = """
task: {name: camera-traps}
pretrain:
  sources: {mine: {kind: folder, path: $DATA/photos}}
  num_images: 40
finetune: {epochs: 4}
baseline: scratch
"""


def test_what_is_pasted_is_what_the_user_wrote_and_what_is_new(tmp_path, monkeypatch):
    """No default is spelled out, and no path of this machine: the file says `$DATA`, and so does what replaces it."""
    monkeypatch.setenv("DATA", str(tmp_path))
    spec = load_spec(yaml.safe_load(WRITTEN))
    run = RunDesign("run", yaml.safe_load(spec.resolved), PLAN, pd.DataFrame(), written=spec.written)
    assert str(tmp_path) in spec.resolved
    own = {"sources": {"mine": {"kind": "folder", "path": "$DATA/photos"}}, "num_images": 40}
    longer = {**own, "epochs": 3 * EPOCHS, "min_images_seen": 3 * MIN_IMAGES_SEEN}
    assert yaml.safe_load(run.pretrained(times=3)[0]) == {"pretrain": longer}
    assert yaml.safe_load(run.pretrained(lr=1e-2)[0]) == {"pretrain": {**own, "lr": 0.01}}
    wider = {"name": "scratch", "finetune": {"epochs": {"grid": [4, 24]}}}
    assert yaml.safe_load(run.spread(epochs=[24])[0]) == {"baseline": wider}
    groups = {"finetune": {"epochs": {"grid": [4, 8]}}, "baseline": {"name": "scratch", "finetune": {"epochs": 4}}}
    assert yaml.safe_load(run.groups_for(8)[0]) == groups
    bare = replace(run, spec=yaml.safe_load(load_spec({"task": {"name": "camera-traps"}, "pretrain": own}).resolved),
                   written={"task": {"name": "camera-traps"}, "pretrain": own})  # fmt: skip
    assert yaml.safe_load(bare.groups_for(8)[0])["finetune"] == {"epochs": {"grid": [8, 12]}}


@pytest.mark.parametrize("known", [True, False])
def test_what_is_pasted_after_something_else_loses_nothing(known):
    own = {"sources": {"species": 1.0}, "num_images": 40}
    spec = load_spec({"task": {"name": "camera-traps"}, "pretrain": own, "baseline": "scratch"})
    run = RunDesign("run", yaml.safe_load(spec.resolved), PLAN, pd.DataFrame(), written=spec.written if known else {})
    text, _ = run.after([run.spread(epochs=[24])[0]]).pretrained(lr=1e-2)
    assert yaml.safe_load(text)["pretrain"].items() >= {"num_images": 40, "lr": 0.01}.items()
    assert set(yaml.safe_load(text)["pretrain"]["sources"]) == {"species"}


def test_the_run_folder_keeps_what_the_user_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    tree(tmp_path / "data/photos", {"a": 40, "b": 40})
    (tmp_path / "how.yaml").write_text(WRITTEN)
    sweep = open_sweep(load_spec(tmp_path / "how.yaml", ("seeds=2", "finetune.lr=3e-4")))
    run = RunFolder(tmp_path / "run")
    write_plan(sweep, run)
    kept = run.spec()["provenance"]["written"]
    assert kept == {**yaml.safe_load(WRITTEN), "seeds": 2, "finetune": {"epochs": 4, "lr": "3e-4"}}
    assert load_spec(tmp_path / "run/spec.yaml").resolved == sweep.spec.resolved
    assert not any("written" in key for _, entries in run_facts.provenance([run]) for key, _ in entries)


def test_defaults_that_the_advice_counts_with_are_those_of_the_spec():
    assert Pretrain.model_fields["lr"].default == USUAL_LR
    fields = Finetune.model_fields
    assert (fields["epochs"].default, fields["evaluate_every"].default) == (run_design.EPOCHS, run_design.EVERY)
