"""What a model predicts on a split, and the scores of those predictions."""

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
    """Images with what is known of them: int64 labels [n]; int32 groups [n] where the task has them; catalog rows.

    `aside` are groups that the worst group is not looked for in.
    """

    images: ImageBank
    labels: np.ndarray
    groups: np.ndarray | None = None
    rows: np.ndarray | None = None
    aside: tuple[int, ...] = ()

    def tally(self, classes: np.ndarray) -> SplitCounts:
        """The counts that every score of these predicted classes [n] is made from."""
        return tally(self.labels, classes, self.groups, self.aside)


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model says of n images: the most likely class, int32 [n], and its softmax probability, float32 [n]."""

    classes: np.ndarray
    confidence: np.ndarray


@torch.inference_mode()
def predict(model: nn.Module, images: ImageBank, section: ModelSection, context: Context) -> Predicted:
    """The most likely class of every image and its probability. Leaves the model in evaluation mode."""
    model.eval()
    mean, std = input_scale(model)

    def scores_of(positions: torch.Tensor) -> torch.Tensor:
        return model(normalise(images.take(positions), mean, std))

    return _predicted(scores_of, len(images), section, context)


@torch.inference_mode()
def predict_from(head: nn.Module, features: torch.Tensor, section: ModelSection, context: Context) -> Predicted:
    """The same from what the model's body has made of the images already, [n, width]."""
    return _predicted(lambda positions: head(features[positions].to(context.device)), len(features), section, context)


def _predicted(
    scores_of: Callable[[torch.Tensor], torch.Tensor], count: int, section: ModelSection, context: Context
) -> Predicted:
    classes, confidence = [torch.empty(0, dtype=torch.int32)], [torch.empty(0)]
    size = max(1, BATCH // context.grad_accum_steps)
    for positions in torch.arange(count).split(size):
        context.heartbeat()
        with context.autocast(section.precision):
            scores = scores_of(positions)
        best = scores.argmax(1, keepdim=True)
        classes.append(best[:, 0].to(torch.int32))
        confidence.append(scores.float().softmax(1).gather(1, best)[:, 0])
    device = classes[-1].device
    return Predicted(*(torch.cat([part.to(device) for part in parts]).cpu().numpy() for parts in (classes, confidence)))
