"""Predictions of a model on a split, from which every score is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ray_robust.spec.load import ModelSection
from ray_robust.train.context import Context
from ray_robust.train.counts import SplitCounts, tally
from ray_robust.train.images import ImageBank, normalise
from ray_robust.train.models import input_scale

BATCH = 512


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    labels  int64 [n]
    groups  int32 [n], None where the task has none
    rows    int64 [n], their rows in the task's catalog; None for a mixture
    aside   groups that are left out of `worst_group`
    """

    images: ImageBank
    labels: np.ndarray
    groups: np.ndarray | None = None
    rows: np.ndarray | None = None
    aside: tuple[int, ...] = ()

    def tally(self, classes: np.ndarray) -> SplitCounts:
        """Return the counts from which every score of the predicted `classes` [n] is computed."""
        return tally(self.labels, classes, self.groups, self.aside)


@dataclass(frozen=True, eq=False)
class Predictions:
    """The most likely class of n images, int32 [n], and its softmax probability, float32 [n]."""

    classes: np.ndarray
    confidence: np.ndarray


@torch.inference_mode()
def predict(
    model: nn.Module, images: ImageBank, section: ModelSection, context: Context, only: torch.Tensor | None = None
) -> Predictions:
    """Return the most likely class of every image and its probability; `only` are int64 positions of those that are
    wanted. Leaves the model in evaluation mode."""
    model.eval()
    mean, std = input_scale(model)

    def scores_of(positions: torch.Tensor) -> torch.Tensor:
        return model(normalise(images.take(positions), mean, std))

    return _predict_batches(scores_of, torch.arange(len(images)) if only is None else only, section, context)


@torch.inference_mode()
def predict_from(head: nn.Module, features: torch.Tensor, section: ModelSection, context: Context) -> Predictions:
    """Return the same from features of the images, float32 [n, width], by the model's linear head."""

    def scores_of(positions: torch.Tensor) -> torch.Tensor:
        return head(features[positions].to(context.device))

    return _predict_batches(scores_of, torch.arange(len(features)), section, context)


def _predict_batches(
    scores_of: Callable[[torch.Tensor], torch.Tensor], every: torch.Tensor, section: ModelSection, context: Context
) -> Predictions:
    classes, confidence = [torch.empty(0, dtype=torch.int32)], [torch.empty(0)]
    size = max(1, BATCH // context.grad_accum_steps)
    for positions in every.split(size):
        context.heartbeat()
        with context.autocast(section.precision):
            scores = scores_of(positions)
        best = scores.argmax(1, keepdim=True)
        classes.append(best[:, 0].to(torch.int32))
        confidence.append(scores.float().softmax(1).gather(1, best)[:, 0])
    device = classes[-1].device
    joined = (torch.cat([batch.to(device) for batch in batches]).cpu().numpy() for batches in (classes, confidence))
    return Predictions(*joined)
