"""What a model makes of images before its head: computed once, for probes and for accuracies that need no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ray_robust.spec.load import ModelSection
from ray_robust.train.context import Context
from ray_robust.train.evaluate import BATCH, Split
from ray_robust.train.images import ImageBank, normalise
from ray_robust.train.models import input_scale

SHOTS = 20  # training images per class that a class mean is made of: as many as may be held out


def body_features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a model's head reads: float [b, width] of a normalised batch [b, 3, h, w]."""
    body: Any = model.forward_features  # methods of the models of timm
    head: Any = model.forward_head
    return head(body(images), pre_logits=True)


@torch.no_grad()
def features_of(
    model: nn.Module,
    bank: ImageBank,
    section: ModelSection,
    context: Context,
    only: torch.Tensor | None = None,
    make: Callable[[nn.Module, torch.Tensor], torch.Tensor] = body_features,
) -> torch.Tensor:
    """float32 [n, width] on the CPU, of a bank's images as they are (at the positions `only`, if given).

    Leaves the model in evaluation mode.
    """
    model.eval()
    mean, std = input_scale(model)
    found = []
    for positions in (torch.arange(len(bank)) if only is None else only).split(
        max(1, BATCH // context.grad_accum_steps)
    ):
        context.heartbeat()
        with context.autocast(section.precision):
            found.append(make(model, normalise(bank.take(positions), mean, std)).float().cpu())
    return torch.cat(found)


class Frozen:
    """What a body that stays as it is makes of images: computed once for all heads that are trained on it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ImageBank, torch.Tensor]] = {}  # with the bank, so that its id stays its own

    def of(self, model: nn.Module, bank: ImageBank, section: ModelSection, context: Context) -> torch.Tensor:
        """`features_of` a bank; the model must have the same body every time."""
        if id(bank) not in self._known:
            self._known[id(bank)] = bank, features_of(model, bank, section, context)
        return self._known[id(bank)][1]


def nearest_mean_accuracy(
    model: nn.Module, train: Split, held_out: Split, section: ModelSection, context: Context
) -> float | None:
    """Share of held-out images whose features are nearest (by cosine) to the mean of their own class.

    A mean is made of the first `SHOTS` training images of its class: an accuracy that asks for no second training, and
    compares methods that learn no labels. None when nothing was held out.
    """
    if not len(held_out.labels):
        return None
    order = np.argsort(train.labels, kind="stable")
    labels = train.labels[order]
    first = np.arange(len(labels)) - np.searchsorted(labels, labels) < SHOTS
    only, wanted = torch.from_numpy(order[first]), torch.from_numpy(labels[first])
    seen = F.normalize(features_of(model, train.images, section, context, only))
    means = F.normalize(torch.zeros(int(wanted.max()) + 1, seen.shape[1]).index_add_(0, wanted, seen))
    found = F.normalize(features_of(model, held_out.images, section, context))
    return float(np.mean((found @ means.T).argmax(1).numpy() == held_out.labels))
