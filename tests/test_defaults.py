"""Defaults and ids: what is left out has the id of its default written out, and ids of earlier versions stay.

An id leaves out every key that has its default. A default that changed would give the id of an earlier training to a
different one, and a run would be continued with weights that its spec does not mean.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ray_robust.plan.plan import Plan, PoolFacts, make_plan
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import EPOCHS, MIN_IMAGES_SEEN, Finetune, ModelSection, Pretrain, SourceSection
from ray_robust.train.duration import Duration

FACTS = PoolFacts("any", 5000, {"train": 100})
SPEC = """\
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: {grid: [1k, 16k]}, LENGTH}
finetune: {lr: 1e-3}
seeds: 1
"""
AT_FIRST = {  # by which ids were made in the first version; None: not given
    ModelSection: {"name": "test_resnet", "image_size": 32, "precision": "auto", "compile": "auto"},
    SourceSection: {"weight": 1.0},
    Pretrain: {
        "lr": 3e-3, "weight_decay": 0.05, "optimizer": "adamw", "batch_size": 128, "warmup": 0.05,
        "label_smoothing": 0.1, "augment": "crop", "method": "supervised", "sources": {}, "num_images": "all",
        "num_classes": "all", "images_per_class": None, "classes": None, "match": True, "granularity": "class",
        "subclasses_per_label": None, "label_space": "separate", "balance": "natural", "holdout": 0.05,
        "subset_seed": None, "images_seen": None, "epochs": None, "temperature": 0.5, "projection": 128,
        "templates": ("a photo of a {}.",), "text_width": 128, "text_layers": 2, "text_length": 32, "weights": None,
    },
    Finetune: {
        "lr": 1e-3, "weight_decay": 0.05, "optimizer": "adamw", "batch_size": 128, "warmup": 0.05,
        "label_smoothing": 0.0, "augment": "crop", "method": "full", "epochs": 12, "evaluate_every": 3,
        "num_images": None, "per_class": None, "probe_epochs": 10, "probe_lr": 1e-2, "wise_ft": (),
    },
}  # fmt: skip


class Pools(dict):
    """Facts of any pool."""

    def __missing__(self, key: str) -> PoolFacts:
        return FACTS


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan_of(text: str, *overrides: str) -> Plan:
    Path("defaults.yaml").write_text(text)
    return make_plan(load_spec("defaults.yaml", overrides), Pools(), Pools())


def ids(text: str, *overrides: str) -> list[str]:
    return [f"{trial.id} {f.id}" for trial in plan_of(text, *overrides) for f in trial.finetunings]


@pytest.mark.parametrize("section", AT_FIRST)
def test_a_default_that_ids_leave_out_never_changes(section):
    """Another default belongs where a value is not given at all, written out as `Pretrain` does with its length: the id
    then has it, and that of the value given stays as it was."""
    defaults = {name: field.default for name, field in section.model_fields.items()}
    assert {name: defaults[name] for name in AT_FIRST[section]} == AT_FIRST[section]
    added = {name: value for name, value in defaults.items() if name not in AT_FIRST[section]}
    required = {"kind", "options"} if section is SourceSection else set()
    assert {name for name, value in added.items() if value is not None} <= required


def test_ids_of_the_first_version_stay():
    assert ids(SPEC.replace("LENGTH", "epochs: 2")) == [
        "defaults-16000-s1-b8bf674cb1 lr0.001-e12-6b180278", "defaults-1000-s1-efe83a4bfa lr0.001-e12-6b180278",
        "defaults-scratch-s1-b8ba757814 lr0.001-e12-6b180278",
    ]  # fmt: skip
    assert ids(SPEC.replace("LENGTH", "images_seen: 36k, lr: 3e-3, augment: crop")) == [
        "defaults-1000-s1-39a55ba8bd lr0.001-e12-6b180278", "defaults-16000-s1-1ff21e3f3f lr0.001-e12-6b180278",
        "defaults-scratch-s1-b8ba757814 lr0.001-e12-6b180278",
    ]  # fmt: skip


def test_a_length_that_is_not_given_has_the_id_of_the_default_written_out():
    left_out = ids(SPEC.replace(", LENGTH", ""))
    assert left_out == ids(SPEC.replace("LENGTH", f"epochs: {EPOCHS}, min_images_seen: {MIN_IMAGES_SEEN}"))
    assert left_out == ids(SPEC.replace("LENGTH", "epochs:"))
    others = ids(SPEC.replace("LENGTH", f"epochs: {EPOCHS}")), ids(SPEC.replace("LENGTH", "min_images_seen: 100k"))
    assert not {one for one in left_out if "scratch" not in one} & {one for other in others for one in other}


def test_the_runs_spec_writes_the_length_out_and_is_the_same_sweep():
    text = SPEC.replace(", LENGTH", "")
    first = ids(text)
    written = load_spec("defaults.yaml").resolved
    assert (
        yaml.safe_load(written)["pretrain"] | {"epochs": EPOCHS, "min_images_seen": MIN_IMAGES_SEEN}
        == (yaml.safe_load(written)["pretrain"])
    )
    assert ids(written) == first


@pytest.mark.parametrize(
    "pretrain",
    [
        "{sources: {species: 1}, points: [{num_images: 1k}, {num_images: 2k, epochs: 3}]}",
        "{sources: {species: 1}, points: [{num_images: 2k, epochs: 3}, {num_images: 1k}, {images_seen: 9k}]}",
        "{grid: [{sources: {species: 1}}, {sources: {species: 1}, epochs: 3}]}",
        "{sources: {species: 1}, method: {grid: [weights, supervised, simclr]}, weights: w.pth}",
        "{sources: {species: 1}, epochs: {grid: [2, 10]}}",
        "{sources: {species: 1}, min_images_seen: {grid: [2k, 10k]}}",
    ],
)
def test_levels_with_and_without_a_length_read_back_alike(pretrain):
    Path("w.pth").write_bytes(b"")
    text = f"task: {{name: camera-traps}}\npretrain: {pretrain}\n"
    sections = [level.section for level in load_spec(_written(text)).pretrains]
    again = load_spec(_written(load_spec("defaults.yaml").resolved)).pretrains
    assert [level.section for level in again] == sections
    assert all((one.method == "weights") == (one.epochs is one.images_seen is None) for one in sections)


def _written(text: str) -> str:
    Path("defaults.yaml").write_text(text)
    return "defaults.yaml"


def test_few_images_are_seen_often_and_many_a_few_times():
    trials = [trial for trial in plan_of(SPEC.replace(", LENGTH", "")) if trial.pretrain]
    assert [trial.pretrain_images for trial in trials] == [EPOCHS * 16_000, MIN_IMAGES_SEEN]
    steps = [Duration.of(n, 128, EPOCHS, None, MIN_IMAGES_SEEN).steps for n in (100, 1000, 16_000)]
    assert steps == [MIN_IMAGES_SEEN // 100, MIN_IMAGES_SEEN // 128, EPOCHS * (16_000 // 128)]
