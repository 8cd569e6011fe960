"""Models from timm and image towers from open_clip, built from a name and a seed, and given a fresh head.

Owns the interface that every model here has: `reset_classifier`, `forward_features`, `forward_head`, as timm's models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, load_model_config_from_hf
from torch import nn

from ray_robust.data.images.form import View
from ray_robust.data.pool import seed_of
from ray_robust.data.weights import HUB
from ray_robust.registry import OPEN_CLIP
from ray_robust.spec.load import ModelSection
from ray_robust.train.exceptions import BATCH_OF_ONE, TrainingFailed


def build_model(section: ModelSection, num_classes: int, seed: int) -> nn.Module:
    """Return a freshly initialised model for square images, on the CPU. The global random state does not change.

    Raises TrainingFailed for a model that cannot be built for images of this size.
    """
    try:
        with seeded("init", section.name, seed):
            model = create_model(section, num_classes)
        with torch.no_grad(), _without_idle_strides(model):  # some are built for any size, and then cannot read it
            model.eval()(torch.zeros(1, 3, section.image_size, section.image_size))
        return model.train()
    except (AssertionError, ValueError, TypeError, RuntimeError, OSError) as error:
        message = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainingFailed(f"model {section.name} cannot be built for {section.image_size} px: {message}") from error


@contextmanager
def _without_idle_strides(model: nn.Module) -> Iterator[None]:
    """Inside, a convolution that is given maps of one pixel, and with stride 1 returns such maps too, gets this stride.

    With a larger stride oneDNN's kernels for AMX (3.12) leave those taps of the weights' gradient that only padding
    meets as they were in memory, in bfloat16: training went on with wrong gradients, or ended in nan.
    """

    def settle(module: nn.Conv2d, given: tuple[torch.Tensor, ...]) -> None:
        sizes = zip(module.kernel_size, module.dilation, module.padding, strict=False)
        if given[0].shape[2:] == (1, 1) and all(2 * p == d * (k - 1) for k, d, p in sizes if isinstance(p, int)):
            module.stride = (1, 1)

    hooks = [one.register_forward_pre_hook(settle) for one in model.modules() if isinstance(one, nn.Conv2d)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def trains_on_one(section: ModelSection) -> bool:
    """Return whether batches of one image can be trained on: not where batch normalisation sees maps of one pixel.

    Tried on the device `meta`, without memory for weights. True for a model that cannot be tried there.
    """
    try:
        with torch.device("meta"):
            create_model(section, 2).train()(torch.zeros(1, 3, section.image_size, section.image_size))
    except ValueError as error:
        return BATCH_OF_ONE not in str(error)
    except Exception:  # whatever else is wrong with a model is reported where it is built
        return True
    return True


def create_model(section: ModelSection, num_classes: int, pretrained: bool = False) -> nn.Module:
    """Return the model of that name for images of that size, with its published weights if `pretrained`."""
    if section.name.startswith(OPEN_CLIP):
        model: nn.Module = ImageTower(section, num_classes, pretrained)
    else:
        options: dict[str, Any] = {"pretrained": pretrained, "num_classes": num_classes}
        try:
            model = timm.create_model(section.name, img_size=section.image_size, **options)
        except TypeError:  # convolutional models take any size and know no img_size
            model = timm.create_model(section.name, **options)
    return model.to(memory_format=torch.channels_last)


class ImageTower(nn.Module):
    """The image tower of an open_clip model, projection included, with the methods of a timm model.

    Named `open_clip:MODEL` or `open_clip:MODEL/TAG`, of which the tag decides the input's scale and the activation, in
    every building of it: the weights of some tags were trained with QuickGELU (see `registry.has_quick_gelu`).
    """

    def __init__(self, section: ModelSection, num_classes: int, pretrained: bool) -> None:
        import open_clip

        super().__init__()
        name, _, tag = section.name.removeprefix(OPEN_CLIP).partition("/")
        published = open_clip.get_pretrained_cfg(name, tag) if tag else {}
        whole = open_clip.create_model(
            name,
            pretrained=tag if pretrained else None,
            device=torch.get_default_device(),  # open_clip's own is the CPU, to which nothing can be moved from `meta`
            force_quick_gelu=published.get("quick_gelu", False),  # else open_clip warns, and takes the model's own
            force_image_size=section.image_size,
            pretrained_text=False,
        )
        self.visual = whole.visual
        self.num_features = open_clip.get_model_config(name)["embed_dim"]
        self.head: nn.Module = nn.Identity()
        self.pretrained_cfg = {
            "mean": published.get("mean", open_clip.OPENAI_DATASET_MEAN),
            "std": published.get("std", open_clip.OPENAI_DATASET_STD),
        }
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new linear one, or by none for 0 classes."""
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return float [b, num_features] of images [b, 3, h, w]."""
        return self.visual(images)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return the head's scores [b, classes], or with `pre_logits` the features themselves."""
        return features if pre_logits else self.head(features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


@contextmanager
def seeded(*names: object) -> Iterator[None]:
    """Inside, draws depend on these names alone; afterwards the global random state is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*names))
        yield


def fresh_head(model: nn.Module, num_classes: int, seed: int) -> nn.Module:
    """Replace the classifier in place by one initialised from `seed`, and return the model."""
    with seeded("head", seed):
        reset: Any = model.reset_classifier  # a method of the models of timm
        reset(num_classes)
    return model


def feature_width(model: nn.Module) -> int:
    """Return the number of features that the head reads."""
    width: Any = getattr(model, "head_hidden_size", None) or model.num_features
    return int(width)


def eval_view(section: ModelSection) -> View:
    """Return what of an image a model is shown where nothing is random: the centre, in the proportion and by the
    interpolation that timm's configuration says it was tested with (squeezed, where it says so); of an image tower of
    open_clip all of it."""
    if section.name.startswith(OPEN_CLIP):
        return View(1.0, "bicubic")
    config = _published_config(section.name)
    if config is None:
        return View()
    scaled = math.floor(section.image_size / config.crop_pct)  # px of the short side, of which the centre is cut out
    interpolation = "bilinear" if config.interpolation == "bilinear" else "bicubic"
    return View(section.image_size / scaled, interpolation, config.crop_mode == "squash")


def _published_config(name: str) -> PretrainedCfg | None:
    """Return timm's configuration of a model, None where it has none; of one of the hub its own, which is kept on this
    machine once the model was built. Raises TrainingFailed where that cannot be read."""
    if not name.startswith(HUB):
        return timm.get_pretrained_cfg(name)
    try:
        read, *_ = load_model_config_from_hf(name.partition(":")[2])
    except Exception as error:  # each hub client has errors of its own
        message = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainingFailed(f"how {name} was evaluated cannot be read: {message}") from None
    names = {field.name for field in fields(PretrainedCfg)}
    return PretrainedCfg(**{key: value for key, value in read.items() if key in names and value is not None})


def input_scale(model: nn.Module) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation per channel, on 0-255, that the model was designed for."""
    config = getattr(model, "pretrained_cfg", None) or {}
    mean, std = config.get("mean", (0.5, 0.5, 0.5)), config.get("std", (0.5, 0.5, 0.5))
    return [255 * m for m in mean], [255 * s for s in std]
