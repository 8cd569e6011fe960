"""Stopping weak trials early: the rule, what a stopped trial leaves, and that a probe changes no score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import timm
import torch
from torch import nn

from ray_robust.files.storage import Storage
from ray_robust.launch.search.asha import Asha, stop_callback
from ray_robust.launch.search.objective import Objective, ValLine
from ray_robust.plan.plan import Plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.spec.pool_sections import SourceSection
from ray_robust.spec.search_section import Stop
from ray_robust.spec.sections import ModelSection, Pretrain
from ray_robust.train.context import Context
from ray_robust.train.methods.clip import Pairs
from ray_robust.train.methods.simclr import Projected
from ray_robust.train.models import build_model
from ray_robust.train.probe import body_of
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial

SPEC = """
task: {name: camera-traps, train_images: 300, id_val_images: 60, id_test_images: 60, ood_val_images: 60,
       ood_test_images: 60}
pretrain:
  sources: {species: {weight: 1, species: 20}}
  num_images: 400
  images_seen: 1280
finetune: {epochs: 1, lr: 1e-3}
baseline: none
"""
LINE = ValLine("probit", 0.6, -1.0, 0.1, 0.9, 0.95)


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    file = tmp_path_factory.mktemp("asha") / "stop.yaml"
    file.write_text(SPEC)
    return open_sweep(load_spec(file)).plan


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def asha(*milestones: float, keep: float = 0.5, objective: str = "effective_robustness") -> Asha:
    return Asha(Stop(milestones=milestones or (0.5,), keep=keep), Objective(objective, {"camera-traps": LINE}), "study")


def test_a_trial_goes_on_when_it_is_among_the_best_of_those_before(tmp_path):
    run, rule = Storage(tmp_path), asha(keep=1 / 3)
    assert rule.decide(run, 1, "a", 5.0) == {"value": 5.0, "cutoff": None, "goes_on": True}
    assert not rule.decide(run, 1, "b", 4.0)["goes_on"]
    assert rule.decide(run, 1, "c", 7.0)["goes_on"]
    assert rule.decide(run, 1, "d", 5.1) == {"value": 5.1, "cutoff": pytest.approx(5.6667, abs=1e-3), "goes_on": False}
    assert rule.decide(run, 2, "c", 0.0)["goes_on"]  # the first at the next milestone
    assert rule.decision(run, 1, "b") == {"value": 4.0, "cutoff": 5.0, "goes_on": False}
    assert rule.decision(run, 2, "b") is None


def test_milestones_are_shares_of_the_steps():
    rule = asha(0.1, 0.3)
    assert [rule.milestone(step, 100) for step in (9, 10, 11, 30, 100)] == [0, 1, 1, 2, 2]
    assert asha(0.01, 0.9).milestone(1, 10) == 1


def paths_in(folder: Path, store: Path) -> RunPaths:
    return RunPaths(str(folder / "run"), str(folder / "checkpoints"), str(store))


def run(plan: Plan, paths: RunPaths, rule: Asha | None) -> pd.DataFrame:
    trial, context = plan.trials[0], Context()
    if rule is not None:
        context = replace(context, on_step=stop_callback(rule, trial, paths))
    run_trial(trial, paths, context)
    folder = RunFolder(paths.run)
    folder.write_plan(plan.rows())
    return folder.results()


@pytest.mark.slow
def test_a_probe_changes_no_score_and_a_stopped_trial_is_a_row(plan, tmp_path):
    bare = run(plan, paths_in(tmp_path / "bare", tmp_path / "store"), None)
    paths = paths_in(tmp_path / "first", tmp_path / "store")
    first = run(plan, paths, asha())
    assert first["ood"].tolist() == bare["ood"].tolist()
    decided = asha().decision(Storage(paths.run), 1, plan.trials[0].key)
    assert decided["goes_on"]
    assert -100 < decided["value"] < 100

    behind = paths_in(tmp_path / "behind", tmp_path / "store")
    asha().decide(Storage(behind.run), 1, "better", decided["value"] + 1)
    table = run(plan, behind, asha())
    assert table["status"].tolist() == ["stopped"]
    assert table["ood"].isna().all()
    folder = RunFolder(behind.run).trial(plan.trials[0].id)
    told = folder.stopped()
    assert told["images_seen"] == 640
    assert told["reason"].startswith("stopped at 50 % of its pre-training: a probe scored ")
    assert RunFolder(behind.run).states() == {plan.trials[0].id: "stopped"}
    assert not folder.storage.exists("finetunings")

    run(plan, behind, asha())  # decided once: no second probe changes it
    assert folder.stopped()["value"] == told["value"]
    assert run(plan, behind, None)["status"].tolist() == ["done"] * 1  # asked for without a search, it is run


def test_a_probe_looks_at_the_body_alone():
    body = build_model(ModelSection(name="test_resnet"), 0, 1)
    assert body_of(body) is body
    projected = Projected(body, nn.Linear(2, 1))
    assert body_of(projected) is body
    assert {name.partition(".")[0] for name in projected.state_dict()} == {"0", "1"}  # as in states that are kept
    texts = SimpleNamespace(tokens=torch.zeros(1, 4), vocabulary=5)
    settings = Pretrain(method="clip", sources={"any": SourceSection(kind="any", options=None)})
    assert body_of(Pairs(body, texts, settings)) is body


def test_a_part_of_a_model_that_is_called_body_is_not_the_model():
    with torch.device("meta"):
        model = timm.create_model("tresnet_m")
    assert isinstance(model.body, nn.Sequential)
    assert body_of(model) is model
