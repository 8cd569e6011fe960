"""Advice on pre-trainings that learned nothing or were still improving: first of all, and beside the headline."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import yaml

from analysis.advice.advise import advise
from analysis.advice.pretraining import USUAL_LR
from analysis.advice.run_design import FINETUNE, PRETRAIN, UNSAID, RunDesign
from analysis.learned.upstream import TABLE, headline
from analysis.options import Options
from analysis.study import Analysis, analyse
from ray_robust.spec.run_sections import Baseline
from ray_robust.spec.sections import Finetune, Pretrain
from tests.fake_run import sweep

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
    assert yaml.safe_load(text) == {"pretrain": {"num_images": {"grid": [1, 2]}, "images_seen": 120_000}}
    assert (cost.finetunings, cost.pretrainings, cost.images) == (2, 1, 900 + 2 * 500)
    text, cost = run.pretrained(lr=USUAL_LR)
    assert yaml.safe_load(text)["pretrain"]["lr"] == USUAL_LR
    assert cost.images == 900
    grid = RunDesign("run", {"pretrain": {"epochs": {"grid": [2, 4]}}}, PLAN, pd.DataFrame())
    assert yaml.safe_load(grid.pretrained(times=3)[0]) == {"pretrain": {"epochs": {"grid": [6, 12]}}}
    assert RunDesign("run", {"pretrain": "none"}, PLAN, pd.DataFrame()).pretrained(times=3) == (None, None)


def test_what_is_left_out_of_pasted_yaml_are_defaults_of_the_spec():
    for model, defaults in ((Pretrain, PRETRAIN), (Baseline, UNSAID), (Finetune, FINETUNE)):
        assert defaults == {key: model.model_fields[key].default for key in defaults}
    assert Pretrain.model_fields["lr"].default == USUAL_LR
    run = RunDesign(
        "run", {"baseline": {"name": "scratch", "stop_if_no_line": False, "seeds": None}}, PLAN, pd.DataFrame()
    )
    assert set(yaml.safe_load(run.spread(epochs=[24])[0])["baseline"]) == {"name", "finetune"}
