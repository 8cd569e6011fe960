"""Names of tensors that other libraries give to models which timm has too, and timm's names for them.

A family is recognised by names that no other has. Its table renames by name and order; `placement` then compares every
shape. How a family's models compute (the epsilon of their normalisation, padding as TensorFlow pads, the scale of their
images) is in no tensor, so that `differences` compares it with the model that is asked for.

Sources: EfficientNet-PyTorch's `model.py` and its ports of EfficientNet-Lite (github lukemelas/EfficientNet-PyTorch,
RangiLyu/EfficientNet-Lite: images scaled to (x - 127) / 128); torchvision's `models/efficientnet.py`,
`vision_transformer.py` and `convnext.py`, against which the tests compare outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from ray_robust.train.models import input_scale

Tensors = Mapping[str, torch.Tensor]
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SCALE_TOLERANCE = 0.02  # 127/255 stands for 0.5; ImageNet's means differ from it by 0.015 to 0.1
TF_EPSILON = 1e-3
LARGE_TORCHVISION = 39  # blocks of its EfficientNet-B5, from which on its epsilon is another

STATISTICS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
PYTORCH_BLOCK = {  # of a block with `_expand_conv`, and of one without
    True: {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3",
    },
    False: {
        "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
        "_project_conv": "conv_pw", "_bn2": "bn2",
    },
}  # fmt: skip
TORCHVISION_BLOCK = {  # of a block of four parts, and of one of three
    True: {
        "0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2.fc1": "se.conv_reduce",
        "2.fc2": "se.conv_expand", "3.0": "conv_pwl", "3.1": "bn3",
    },
    False: {
        "0.0": "conv_dw", "0.1": "bn1", "1.fc1": "se.conv_reduce", "1.fc2": "se.conv_expand", "2.0": "conv_pw",
        "2.1": "bn2",
    },
}  # fmt: skip
PYTORCH_EFFICIENTNET = (
    (r"_conv_stem\.", "conv_stem."), (r"_bn0\.", "bn1."), (r"_conv_head\.", "conv_head."), (r"_bn1\.", "bn2."),
    (r"_fc\.", "classifier."),
)  # fmt: skip
TORCHVISION_EFFICIENTNET = (
    (r"features\.0\.0\.", "conv_stem."), (r"features\.0\.1\.", "bn1."),
    (r"features\.\d+\.0\.(?=weight$)", "conv_head."),
    (rf"features\.\d+\.1\.(?={STATISTICS}$)", "bn2."), (r"classifier\.1\.", "classifier."),
)  # fmt: skip
TORCHVISION_VIT = (
    (r"conv_proj\.", "patch_embed.proj."), (r"class_token$", "cls_token"), (r"encoder\.pos_embedding$", "pos_embed"),
    (r"encoder\.ln\.", "norm."), (r"heads\.head\.", "head."),
    *((rf"encoder\.layers\.encoder_layer_(\d+)\.{theirs}", rf"blocks.\1.{timms}") for theirs, timms in (
        (r"ln_1\.", "norm1."), (r"ln_2\.", "norm2."), (r"self_attention\.in_proj_", "attn.qkv."),
        (r"self_attention\.out_proj\.", "attn.proj."), (r"mlp\.(?:0|linear_1)\.", "mlp.fc1."),
        (r"mlp\.(?:3|linear_2)\.", "mlp.fc2."),
    )),
)  # fmt: skip
TORCHVISION_CONVNEXT = (
    (r"features\.0\.([01])\.", r"stem.\1."), (r"classifier\.0\.", "head.norm."), (r"classifier\.2\.", "head.fc."),
    *((rf"features\.{2 * stage}\.([01])\.", rf"stages.{stage}.downsample.\1.") for stage in (1, 2, 3)),
    *((rf"features\.{2 * stage + 1}\.(\d+)\.{theirs}", rf"stages.{stage}.blocks.\1.{timms}")
      for stage in range(4) for theirs, timms in (
        (r"block\.0\.", "conv_dw."), (r"block\.2\.", "norm."), (r"block\.3\.", "mlp.fc1."),
        (r"block\.5\.", "mlp.fc2."), ("layer_scale$", "gamma"),
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Arithmetic:
    """How a family's model computes what no tensor of it says.

    epsilon   of its normalisation
    as_tf     whether strided convolutions pad as TensorFlow does; None where nothing is padded
    scales    means and standard deviations of the images that it may have been trained on
    """

    epsilon: float
    as_tf: bool | None
    scales: tuple[tuple[Sequence[float], Sequence[float]], ...]


@dataclass(frozen=True)
class Family:
    """One library's names for one kind of model.

    name        for messages
    signature   names that only files of this family have, all of them, as regular expressions of the whole name
    rename      tensors by timm's names, from those of a file and timm's names of the model; what it does not know is
                left out
    arithmetic  of the model that a file is of
    """

    name: str
    signature: tuple[str, ...]
    rename: Callable[[Tensors, Sequence[str]], dict[str, tuple[str, torch.Tensor]]]
    arithmetic: Callable[[Tensors], Arithmetic]


def families_of(tensors: Iterable[str]) -> list[tuple[Family, str]]:
    """Return the families that names are of, each with the prefix below which they lie (`module.`, "", ...). One family
    has several prefixes in a file that holds several copies of a model."""
    names = set(tensors)
    recognised = []
    for family in FAMILIES:
        first, *rest = family.signature
        starts = (re.search(rf"(?:^|(?<=[./])){first}$", name) for name in sorted(names))
        for prefix in (match.string[: match.start()] for match in starts if match):
            below = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            if all(any(re.fullmatch(pattern, name) for name in below) for pattern in rest):
                recognised.append((family, prefix))
    return recognised


def differences(family: Family, tensors: Tensors, model: nn.Module, model_name: str) -> str:
    """Return in what a model computes otherwise than the one that the tensors are of, "" if in nothing."""
    theirs, clauses = family.arithmetic(tensors), []
    norms = (nn.BatchNorm2d, nn.LayerNorm)
    epsilons = sorted({module.eps for module in model.modules() if isinstance(module, norms)})
    if epsilons != [theirs.epsilon]:
        shown = " and ".join(f"{epsilon:g}" for epsilon in epsilons)
        clauses.append(f"adds {shown} to variances where theirs adds {theirs.epsilon:g}")
    as_tf = any(isinstance(module, Conv2dSame) for module in model.modules())
    if theirs.as_tf is not None and as_tf != theirs.as_tf:
        tf, plain = "as TensorFlow does", "on both sides equally"
        clauses.append(f"pads {tf if as_tf else plain} where theirs pads {tf if theirs.as_tf else plain}")
    mean, std = ([value / 255 for value in values] for values in input_scale(model))
    if not any(_near(mean, scale[0]) and _near(std, scale[1]) for scale in theirs.scales):
        shown = " or ".join(f"mean {_shown(scale[0])} and std {_shown(scale[1])}" for scale in theirs.scales)
        clauses.append(f"scales images by mean {_shown(mean)} and std {_shown(std)} where theirs has {shown}")
    better = _better_name(theirs, model_name) if clauses else ""
    advice = f"; model.name {better} computes as theirs does" if better else ""
    return ", ".join(clauses) + advice


def _better_name(theirs: Arithmetic, model_name: str) -> str:
    """A name in timm of the same architecture that has the scale, and the padding, of `theirs`; "" if there is none."""
    base = model_name.partition(".")[0]
    if theirs.as_tf is not None:  # timm: `tf_` pads as TensorFlow does and adds its 0.001, others do neither
        if theirs.as_tf != (theirs.epsilon == TF_EPSILON):
            return ""
        base = f"tf_{base.removeprefix('tf_')}" if theirs.as_tf else base.removeprefix("tf_")
    for name in timm.list_pretrained(f"{base}.*"):
        config = timm.get_pretrained_cfg(name)
        if config is not None and any(_near(config.mean, m) and _near(config.std, s) for m, s in theirs.scales):
            return name
    return ""


def _near(a: Sequence[float], b: Sequence[float]) -> bool:
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) < SCALE_TOLERANCE


def _shown(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{value:.3g}" for value in values)


def _by_rules(rules: Sequence[tuple[str, str]], tensors: Tensors) -> dict[str, tuple[str, torch.Tensor]]:
    """Return timm's name -> (the file's name, tensor) of what a rule matches from its beginning; the first that does
    counts."""
    placed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            renamed, count = re.subn(rf"^{pattern}", replacement, name)
            if count:
                placed[renamed] = name, tensor
                break
    return placed


def _pytorch_efficientnet(tensors: Tensors, body: Sequence[str]) -> dict[str, tuple[str, torch.Tensor]]:
    """EfficientNet-PyTorch counts blocks through, timm by stages: the order of blocks is the same."""
    keys = {(int(m[1]), int(m[2])) for name in body if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", name))}
    order = [f"{stage}.{block}" for stage, block in sorted(keys)]
    placed = _by_rules(PYTORCH_EFFICIENTNET, tensors)
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(_[a-z0-9_]+)\.(\w+)", name):
            table = PYTORCH_BLOCK[f"_blocks.{match[1]}._expand_conv.weight" in tensors]
            if int(match[1]) < len(order) and match[2] in table:
                placed[f"blocks.{order[int(match[1])]}.{table[match[2]]}.{match[3]}"] = name, tensor
    return placed


def _torchvision_efficientnet(tensors: Tensors, body: Sequence[str]) -> dict[str, tuple[str, torch.Tensor]]:
    placed = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"features\.(\d+)\.(\d+)\.block\.(\d\.\w+)\.(\w+)", name):
            table = TORCHVISION_BLOCK[f"features.{match[1]}.{match[2]}.block.3.0.weight" in tensors]
            if match[3] in table:
                placed[f"blocks.{int(match[1]) - 1}.{match[2]}.{table[match[3]]}.{match[4]}"] = name, tensor
    rest = {name: tensor for name, tensor in tensors.items() if ".block." not in name}
    return placed | _by_rules(TORCHVISION_EFFICIENTNET, rest)


def _torchvision_convnext(tensors: Tensors, body: Sequence[str]) -> dict[str, tuple[str, torch.Tensor]]:
    placed = _by_rules(TORCHVISION_CONVNEXT, tensors)
    return {
        name: (theirs, tensor.flatten() if name.endswith("gamma") else tensor)  # [c, 1, 1] there
        for name, (theirs, tensor) in placed.items()
    }


def _pytorch_arithmetic(tensors: Tensors) -> Arithmetic:
    """Those without squeeze-and-excitation are EfficientNet-Lite; others were trained at either scale (AdvProp)."""
    lite = not any("_se_reduce" in name for name in tensors)
    return Arithmetic(TF_EPSILON, True, (HALF,) if lite else (IMAGENET, HALF))


def _torchvision_arithmetic(tensors: Tensors) -> Arithmetic:
    blocks = {match[0] for name in tensors if (match := re.match(r"features\.\d+\.\d+\.block\.", name))}
    return Arithmetic(TF_EPSILON if len(blocks) >= LARGE_TORCHVISION else 1e-5, False, (IMAGENET,))


FAMILIES = (
    Family("EfficientNet-PyTorch", (r"_conv_stem\.weight", r"_blocks\.0\._depthwise_conv\.weight",
           r"_bn0\.running_mean"), _pytorch_efficientnet, _pytorch_arithmetic),
    Family("torchvision's EfficientNet", (r"features\.0\.0\.weight", r"features\.1\.0\.block\.1\.fc1\.weight",
           r"features\.0\.1\.running_mean"), _torchvision_efficientnet, _torchvision_arithmetic),
    Family("torchvision's VisionTransformer", (r"conv_proj\.weight", r"class_token",
           r"encoder\.layers\.encoder_layer_0\.self_attention\.in_proj_weight"),
           lambda tensors, body: _by_rules(TORCHVISION_VIT, tensors), lambda _: Arithmetic(1e-6, None, (IMAGENET,))),
    Family("torchvision's ConvNeXt", (r"features\.0\.0\.weight", r"features\.1\.0\.layer_scale"),
           _torchvision_convnext, lambda _: Arithmetic(1e-6, None, (IMAGENET,))),
)  # fmt: skip
