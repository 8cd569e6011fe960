"""What a model predicts on a split, and the scores of those predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ray_robust.spec import ModelSection
from ray_robust.train.context import Context
from ray_robust.train.images import ImageBank, normalise
from ray_robust.train.models import input_scale

BATCH = 512


@dataclass(frozen=True, eq=False)
class Split:
    """Images with what is known of them: int64 labels [n]; int32 groups [n] where the task has them; catalog rows."""

    images: ImageBank
    labels: np.ndarray
    groups: np.ndarray | None = None
    rows: np.ndarray | None = None


@torch.inference_mode()
def predict(model: nn.Module, images: ImageBank, section: ModelSection, context: Context) -> torch.Tensor:
    """The most likely class of every image, int32 [n], on the CPU. Leaves the model in evaluation mode."""
    model.eval()
    mean, std = input_scale(model)
    found = []
    for start in range(0, len(images), BATCH):
        positions = torch.arange(start, min(start + BATCH, len(images)))
        with context.autocast(section.precision):
            scores = model(normalise(images.take(positions), mean, std))
        found.append(scores.argmax(1).to(torch.int32))
    return torch.cat(found).cpu() if found else torch.empty(0, dtype=torch.int32)
