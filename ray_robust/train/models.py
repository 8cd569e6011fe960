"""Models from timm, built from a name and a seed, and given a fresh head for fine-tuning."""

from __future__ import annotations

import timm
import torch
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.spec import ModelSection


def build_model(section: ModelSection, num_classes: int, seed: int) -> nn.Module:
    """A freshly initialised timm model for square images, on the CPU. The global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("init", section.name, seed))
        try:
            model = timm.create_model(section.name, num_classes=num_classes, img_size=section.image_size)
        except TypeError:  # convolutional models take any size and know no img_size
            model = timm.create_model(section.name, num_classes=num_classes)
    return model.to(memory_format=torch.channels_last)


def fresh_head(model: nn.Module, num_classes: int, seed: int) -> nn.Module:
    """Replace the classifier in place by one initialised from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("head", seed))
        model.reset_classifier(num_classes)
    return model


def input_scale(model: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, on 0-255, that this model was designed for."""
    config = getattr(model, "pretrained_cfg", None) or {}
    mean, std = config.get("mean", (0.5, 0.5, 0.5)), config.get("std", (0.5, 0.5, 0.5))
    return [255 * m for m in mean], [255 * s for s in std]
