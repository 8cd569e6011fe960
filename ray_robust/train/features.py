"""Features of images, which a model's head reads: computed once, for probes and for accuracies without a training."""

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

SHOTS = 20  # training images per class in a class mean: as many as may be held out


def body_features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return what a model's head reads: float [b, width] of a normalised batch [b, 3, h, w]."""
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
    """Return float32 [n, width] on the CPU: the features of a bank's images, not augmented.

    `only` are int64 positions in the bank, None for all of it; `make(model, batch)` computes the features. Leaves the
    model in evaluation mode.
    """
    model.eval()
    mean, std = input_scale(model)
    batches = []
    for positions in (torch.arange(len(bank)) if only is None else only).split(
        max(1, BATCH // context.grad_accum_steps)
    ):
        context.heartbeat()
        with context.autocast(section.precision):
            batches.append(make(model, normalise(bank.take(positions), mean, std)).float().cpu())
    return torch.cat(batches)


class FeatureCache:
    """Features by a body that is not trained: computed once for all heads that are trained on it."""

    def __init__(self) -> None:
        self._features: dict[int, tuple[ImageBank, torch.Tensor]] = {}  # with the bank, so that its id is not reused

    def of(self, model: nn.Module, bank: ImageBank, section: ModelSection, context: Context) -> torch.Tensor:
        """Return `features_of` a bank; the model must have the same body at every call."""
        if id(bank) not in self._features:
            self._features[id(bank)] = bank, features_of(model, bank, section, context)
        return self._features[id(bank)][1]


def nearest_mean_accuracy(
    model: nn.Module, train: Split, held_out: Split, section: ModelSection, context: Context
) -> float | None:
    """Return the share of held-out images whose features are nearest (by cosine) to the mean of their own class.

    A mean is that of the first `SHOTS` training images of its class: an accuracy that needs no second training, and
    compares methods that learn no labels. None when no image is held out.
    """
    if not len(held_out.labels):
        return None
    order = np.argsort(train.labels, kind="stable")
    labels = train.labels[order]
    first = np.arange(len(labels)) - np.searchsorted(labels, labels) < SHOTS
    only, classes = torch.from_numpy(order[first]), torch.from_numpy(labels[first])
    shots = F.normalize(features_of(model, train.images, section, context, only))
    means = F.normalize(torch.zeros(int(classes.max()) + 1, shots.shape[1]).index_add_(0, classes, shots))
    queries = F.normalize(features_of(model, held_out.images, section, context))
    return float(np.mean((queries @ means.T).argmax(1).numpy() == held_out.labels))
