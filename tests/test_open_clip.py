"""Image towers of open_clip: built as the weights of their tag were trained, under ids that say so, and tried on no
memory, so that a plan can."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from ray_robust.data.weights import weights_facts
from ray_robust.errors import UserError
from ray_robust.plan import plan as planning
from ray_robust.plan.plan import PoolFacts, make_plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.registry import has_quick_gelu
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import ModelSection
from ray_robust.train.methods import weights as ready_made
from ray_robust.train.models import build_model, create_model, trains_on_one
from tests.make_weights import state_of, write

SPEC = """
task: {name: camera-traps}
model: {name: MODEL, image_size: 32}
pretrain: PRETRAIN
"""
SMALL = "open_clip:ViT-S-32-alt"


class Pools(dict):
    """Facts of any pool: what it is called means it."""

    def __missing__(self, key: str) -> PoolFacts:
        return PoolFacts(key, 1000, {"train": 100})


def activation(name: str) -> type[nn.Module]:
    with torch.device("meta"):
        tower = create_model(ModelSection(name=name, image_size=32), 0)
    return type(tower.visual.transformer.resblocks[0].mlp.gelu)


def test_a_tower_has_the_activation_that_its_tag_was_trained_with():
    assert activation("open_clip:ViT-B-32/openai") is QuickGELU
    assert activation("open_clip:ViT-B-32/laion2b_s34b_b79k") is nn.GELU
    assert activation("open_clip:ViT-B-32") is nn.GELU


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_tower_is_built_the_same_with_its_weights_and_for_theirs(pretrained, monkeypatch):
    real, tags = open_clip.create_model, []

    def without_weights(name, *, pretrained, **options):
        tags.append(pretrained)
        return real(name, pretrained=None, **options)

    monkeypatch.setattr(open_clip, "create_model", without_weights)
    with torch.device("meta"):
        tower = create_model(ModelSection(name="open_clip:ViT-B-32/openai", image_size=32), 0, pretrained)
    assert type(tower.visual.transformer.resblocks[-1].mlp.gelu) is QuickGELU
    assert tags == ["openai" if pretrained else None]


def test_quick_gelu_is_of_the_transformers_whose_tag_and_not_whose_name_asks_for_it():
    asked = {
        f"open_clip:{model}/{tag}"
        for model, tag in open_clip.list_pretrained()
        if open_clip.get_pretrained_cfg(model, tag).get("quick_gelu")
    }
    towers = {name for name in asked if "ViT" in name and "quickgelu" not in name}
    assert {name for name in asked if has_quick_gelu(name)} == towers
    assert "open_clip:ViT-B-32/laion400m_e31" in towers
    others = ("open_clip:ViT-B-32", "open_clip:ViT-B-32/laion2b_s34b_b79k", "resnet50.a1_in1k", "ViT-B-32/openai")
    assert not any(map(has_quick_gelu, others))


@pytest.mark.parametrize(
    ("tag", "changed"),
    [
        ("ViT-B-32/openai", True),
        ("ViT-B-16/dfn2b", True),
        ("ViT-B-32/laion2b_s34b_b79k", False),
        ("ViT-B-32-quickgelu/openai", False),
        ("RN50/openai", False),
        ("resnet50.a1_in1k", False),
    ],
)
def test_ids_of_weights_say_which_towers_are_no_longer_what_they_were(tag, changed, tmp_path, monkeypatch):
    file = tmp_path / "x.yaml"
    file.write_text(SPEC.replace("MODEL", "resnet18").replace("PRETRAIN", f"{{method: weights, weights: {tag}}}"))

    def keys() -> list[str]:
        trials = make_plan(load_spec(file), Pools(), Pools(), weights={tag: weights_facts(tag)})
        return sorted(trial.key for trial in trials if trial.pretrain is not None)

    now = keys()
    monkeypatch.setattr(planning, "has_quick_gelu", lambda name: False)
    assert (keys() != now) is changed


@pytest.mark.slow
def test_whether_single_images_can_be_trained_on_is_tried_on_towers_too():
    assert not trains_on_one(ModelSection(name="open_clip:RN50", image_size=32))
    assert trains_on_one(ModelSection(name=SMALL, image_size=32))


def notes_on(file: str, model: str) -> tuple[str, ...]:
    text = SPEC.replace("MODEL", model).replace("PRETRAIN", f"{{method: weights, weights: {file}}}")
    Path("x.yaml").write_text(text)
    return open_sweep(load_spec("x.yaml"), plan_only=True).notes


@pytest.mark.slow
def test_a_plan_tries_files_on_towers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tower = state_of(build_model(ModelSection(name=SMALL, image_size=32), 0, 1))
    write(Path("tower.pth"), tower)
    (said,) = notes_on("tower.pth", SMALL)
    assert said.startswith(f"weights: loaded {len(tower)} of {len(tower)} tensors of ")
    write(Path("other.pth"), state_of(build_model(ModelSection(name="test_resnet"), 0, 1)))
    with pytest.raises(UserError, match=r"other\.pth: only 0 of "):
        notes_on("other.pth", SMALL)


def test_a_plan_says_which_model_a_file_was_not_tried_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("w.pth"), {"a": torch.ones(2)})

    def needs_memory(*_):
        raise NotImplementedError("Cannot copy out of meta tensor")

    monkeypatch.setattr(ready_made, "create_model", needs_memory)
    (said,) = notes_on("w.pth", "test_resnet")
    why = "was not tried on test_resnet, which cannot be built without memory for its weights"
    assert said == f"weights: {tmp_path / 'w.pth'} {why}"
