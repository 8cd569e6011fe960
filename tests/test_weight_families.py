"""Weights under the names of other libraries: placed so that the model computes what theirs does, or refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.convnext import ConvNeXt
from torch import nn
from torchvision.models import convnext, efficientnet_b0, efficientnet_b5, efficientnet_v2_s
from torchvision.models.vision_transformer import VisionTransformer

from ray_robust.data.images.form import View
from ray_robust.errors import UserError
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import ModelSection
from ray_robust.train import models
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.methods.placement import load_body
from ray_robust.train.methods.weight_families import families_of
from ray_robust.train.models import build_model, eval_view
from tests.make_efficientnet import EfficientNet, disturbed
from tests.make_weights import prefixed, same, state_of, write

LITE = "tf_efficientnet_lite0"
SPEC = """\
task: {name: camera-traps, train_images: 300, id_val_images: 100, id_test_images: 200, ood_val_images: 100,
       ood_test_images: 200}
model: {name: NAME}
pretrain: {method: weights, weights: w.pth}
"""


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def vit() -> nn.Module:
    return VisionTransformer(
        image_size=32, patch_size=16, num_layers=6, num_heads=2, hidden_dim=64, mlp_dim=192, num_classes=10
    )


def small_convnext() -> nn.Module:
    blocks = [convnext.CNBlockConfig(a, b, n) for a, b, n in ((24, 32, 1), (32, 48, 2), (48, 64, 4), (64, None, 2))]
    return convnext.ConvNeXt(blocks, num_classes=10)


REFERENCES = {
    LITE: partial(EfficientNet, lite=True),
    "tf_efficientnet_b0": partial(EfficientNet, lite=False),
    "efficientnet_b0": partial(efficientnet_b0, num_classes=10),
    "test_vit": vit,
    "test_convnext": small_convnext,
}


def body(name: str, classes: int = 0, image_size: int = 32) -> Any:
    if name == "test_convnext":  # of its size with ConvNeXt's activation, which timm's own test_convnext approximates
        return ConvNeXt(depths=(1, 2, 4, 2), dims=(24, 32, 48, 64), num_classes=classes).eval()
    return build_model(ModelSection(name=name, image_size=image_size), classes, 1).eval()


@pytest.fixture(scope="module")
def references() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: disturbed(make()) for name, make in REFERENCES.items()}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_model_with_their_weights_computes_what_theirs_does(references, name):
    images = torch.randn(2, 3, 32, 32)
    ours, theirs = body(name, 10), references[name]
    load_body(ours, theirs.state_dict(), "w.pth", name)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
        assert theirs(images).std() > 1e-3  # of a constant any placement would be right


@pytest.mark.parametrize("name", REFERENCES)
def test_their_names_are_recognised_below_any_prefix_and_the_head_is_left_out(references, name):
    tensors = state_of(references[name])
    ours = body(name)
    loaded = load_body(ours, prefixed("model.backbone.", tensors), "here/w.pth", name)
    placed = state_of(ours)
    assert len({value.data_ptr() for value in placed.values()}) == len(placed)
    said = loaded.warnings[0]
    assert said.startswith("w.pth has the names of ")
    assert f": {len(placed)} of {len(placed)} tensors of {name} placed by timm's names, left out: model." not in said
    assert f": {len(placed)} of {len(placed)} tensors of {name} placed by timm's names, left out: " in said


def test_of_several_copies_the_averaged_one_is_used_and_of_equals_none(references):
    theirs = state_of(references[LITE])
    other = {key: torch.zeros_like(value) for key, value in theirs.items()}
    alone, chosen = body(LITE), body(LITE)
    load_body(alone, theirs, "w.pth", LITE)
    both = {**prefixed("student.backbone.", other), **prefixed("teacher.backbone.", theirs)}
    load_body(chosen, both, "w.pth", LITE)
    assert same(state_of(alone), state_of(chosen))
    assert refusal({**prefixed("a.", other), **prefixed("b.", theirs)}) == (
        "w.pth: holds 2 copies of a model (EfficientNet-PyTorch below 'a.', EfficientNet-PyTorch below 'b.'), and "
        "nothing says which is meant; save one alone"
    )


def refusal(tensors: dict[str, torch.Tensor], name: str = LITE) -> str:
    model = body(name)
    before = state_of(model)
    with pytest.raises(TrainingFailed) as failed:
        load_body(model, tensors, "w.pth", name)
    assert same(state_of(model), before)
    assert "\n" not in str(failed.value)
    return str(failed.value)


def test_a_file_with_a_tensor_too_few_too_many_or_of_another_shape_is_refused(references):
    theirs = state_of(references[LITE])
    begin, end = "w.pth: has the names of EfficientNet-PyTorch, but fits tf_efficientnet_lite0 in ", (
        "; name in model.name the model that they are of"
    )  # fmt: skip
    few = {key: value for key, value in theirs.items() if key != "_blocks.3._bn1.running_var"}
    assert refusal(few) == f"{begin}293 of 294 tensors (blocks.2.0.bn2.running_var missing){end}"
    many = {**theirs, "_blocks.16._expand_conv.weight": torch.zeros(1)}
    assert refusal(many) == f"{begin}294 of 294 tensors (_blocks.16._expand_conv.weight left over){end}"
    other = {**theirs, "_bn1.bias": torch.zeros(1281)}
    shapes = "bn2.bias is [1281] in the file, [1280] in the model; _bn1.bias left over"
    assert refusal(other) == f"{begin}293 of 294 tensors ({shapes}){end}"
    half = {key: value for key, value in theirs.items() if not key.startswith("_blocks.1")}
    assert "missing" in refusal(half)
    counted = {key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    load_body(body(LITE), counted, "w.pth", LITE)  # PyTorch before 0.4.1 did not count batches


def test_a_deeper_model_of_the_same_widths_is_refused():
    """Torchvision numbers blocks by stage: all of B0 lies in a file of a deeper one, under B0's names."""
    deeper = efficientnet_b0().state_dict()
    deeper |= {key.replace("features.2.1.", "features.2.2."): value for key, value in deeper.items()}
    assert "features.2.2.block.0.0.weight, " in refusal(deeper, "efficientnet_b0")
    assert "left over" in refusal(deeper, "efficientnet_b0")


@pytest.mark.slow
def test_names_of_no_family_are_never_placed_by_shape():
    tensors = {f"t{number}": value for number, value in enumerate(body(LITE).state_dict().values()) if value.ndim}
    said = refusal(tensors)
    assert said.startswith("w.pth: only 0 of 294 tensors (0 % of the values) fit the body of tf_efficientnet_lite0 (")
    assert "; its shapes are the model's in order, but 2" in said
    assert "order alone could mistake one for another: save them under timm's names, or those of Efficient" in said
    assert "its shapes" not in refusal(dict(list(tensors.items())[:-1]))


@pytest.mark.slow
def test_a_family_is_not_taken_for_another(references):
    names = [family.name for name in REFERENCES for family, _ in families_of(references[name].state_dict())]
    assert names == ["EfficientNet-PyTorch"] * 2 + [
        "torchvision's EfficientNet", "torchvision's VisionTransformer", "torchvision's ConvNeXt",
    ]  # fmt: skip
    with torch.device("meta"):
        assert families_of(efficientnet_v2_s().state_dict()) == []
    assert families_of(body("test_resnet", 10).state_dict()) == []


@pytest.mark.slow
def test_a_model_that_computes_otherwise_is_a_warning(references):
    theirs = references[LITE].state_dict()
    assert len(load_body(body(LITE), theirs, "w.pth", LITE).warnings) == 1
    assert load_body(body("efficientnet_lite0"), theirs, "w.pth", "efficientnet_lite0").warnings[1] == (
        "efficientnet_lite0 is not quite the model that w.pth is of: it adds 1e-05 to variances where theirs adds "
        "0.001, pads on both sides equally where theirs pads as TensorFlow does, scales images by mean "
        "0.485/0.456/0.406 and std 0.229/0.224/0.225 where theirs has mean 0.5 and std 0.5; model.name "
        "tf_efficientnet_lite0.in1k computes as theirs does"
    )
    (_, said) = load_body(body("test_vit"), references["test_vit"].state_dict(), "w.pth", "test_vit").warnings
    assert said.endswith("it scales images by mean 0.5 and std 0.5 where theirs has mean 0.485/0.456/0.406 and std "
                         "0.229/0.224/0.225")  # fmt: skip
    with torch.device("meta"):
        b5 = efficientnet_b5().state_dict()
    tensors = {key: torch.rand(value.shape) for key, value in b5.items()}
    (_, said) = load_body(body("efficientnet_b5"), tensors, "w.pth", "efficientnet_b5").warnings
    assert said.endswith("w.pth is of: it adds 1e-05 to variances where theirs adds 0.001")


def test_weights_of_a_deeper_model_under_timms_names_are_a_warning():
    deeper = state_of(body("test_resnet"))
    deeper |= {key.replace("layer1.0.", "layer1.1."): v for key, v in deeper.items() if key.startswith("layer1.0.")}
    count = sum(key.startswith("layer1.1.") for key in deeper)
    (said,) = load_body(body("test_resnet"), deeper, "w.pth", "test_resnet").warnings
    assert said.startswith(f"{count} tensors of w.pth are of layers that test_resnet does not have (layer1.1.")
    assert said.endswith("): they may be of another model")


@pytest.mark.slow
def test_a_buffer_that_is_no_longer_kept_is_no_layer_of_another_model():
    swin = state_of(body("swin_tiny_patch4_window7_224", image_size=224))
    tensors = {**swin, "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    loaded = load_body(body("swin_tiny_patch4_window7_224", image_size=224), tensors, "w.pth", "swin")
    assert loaded.warnings == ()


def test_copies_of_a_body_under_timms_names_between_which_nothing_decides_are_a_warning():
    first, second = state_of(body("test_resnet")), {k: v * 0 for k, v in state_of(body("test_resnet")).items()}
    model = body("test_resnet")
    both = {**prefixed("best.", first), **prefixed("last.", second)}
    (said,) = load_body(model, both, "here/w.pth", "test_resnet").warnings
    assert said == "w.pth holds 2 copies of the body, below best., last.: the first is used"
    assert same(state_of(model), first)
    averaged = {**prefixed("student.", second), **prefixed("teacher.", first)}
    assert load_body(model, averaged, "w.pth", "test_resnet").warnings == ()


def test_positions_of_a_transformer_are_resampled_to_another_size(references):
    theirs, larger = references["test_vit"].state_dict(), body("test_vit", image_size=48)
    load_body(larger, theirs, "w.pth", "test_vit")
    assert larger.pos_embed.shape == (1, 10, 64)
    torch.testing.assert_close(larger.pos_embed[:, 0], theirs["encoder.pos_embedding"][:, 0])


def planned(tmp_path: Path, monkeypatch, name: str) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(SPEC.replace("NAME", name))
    return open_sweep(load_spec("x.yaml"), plan_only=True).notes


def test_a_plan_says_how_weights_fit_or_refuses_them(tmp_path, monkeypatch, references):
    file = write(tmp_path / "w.pth", {"state_dict": prefixed("module.", references[LITE].state_dict())})
    (said,) = planned(tmp_path, monkeypatch, LITE)
    assert said == ("weights: w.pth has the names of EfficientNet-PyTorch: 294 of 294 tensors of tf_efficientnet_lite0 "
                    "placed by timm's names, left out: _fc.weight, _fc.bias; images are scaled by mean [0.5, 0.5, "
                    "0.5], std [0.5, 0.5, 0.5]")  # fmt: skip
    with pytest.raises(UserError) as refused:
        planned(tmp_path, monkeypatch, "test_resnet")
    assert str(refused.value).startswith(
        f"x.yaml:4: pretrain.weights: {file}: has the names of EfficientNet-PyTorch, but "
    )
    notes = planned(tmp_path, monkeypatch, "{grid: [tf_efficientnet_lite0, test_resnet]}")
    assert [note.partition(": ")[2][:40] for note in notes[-1:]] == [f"its trials will fail: {file}"[:40]]


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "hf_hub:someone/model"])
def test_a_model_of_the_hub_is_evaluated_as_its_own_configuration_says(name, monkeypatch):
    read = {"crop_pct": 0.95, "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5], "added_later": 1}
    monkeypatch.setattr(models, "load_model_config_from_hf", lambda repository: (read, "resnet50", {}))
    assert eval_view(ModelSection(name=name, image_size=224)) == View(224 / 235, "bilinear")


def test_a_configuration_of_the_hub_that_cannot_be_read_is_a_line(monkeypatch):
    def away(repository: str) -> None:
        raise ConnectionError(f"{repository} is\nnot there")

    monkeypatch.setattr(models, "load_model_config_from_hf", away)
    with pytest.raises(TrainingFailed) as error:
        eval_view(ModelSection(name="hf-hub:someone/model", image_size=224))
    assert str(error.value) == "how hf-hub:someone/model was evaluated cannot be read: someone/model is not there"
