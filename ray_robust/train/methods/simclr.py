"""SimCLR: pulls two augmented views of an image together, and away from those of every other image of the batch.

The loss and the projection are lightly's; the projection is dropped afterwards. Source: Chen, Kornblith, Norouzi,
Hinton, "A Simple Framework for Contrastive Learning of Visual Representations" (ICML 2020).
"""

from __future__ import annotations

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import nn

from ray_robust.train.augmentation import Views
from ray_robust.train.features import nearest_mean_accuracy
from ray_robust.train.images import normalise
from ray_robust.train.loop import optimise
from ray_robust.train.models import build_model, feature_width, input_scale, seeded
from ray_robust.train.objective import Objective
from ray_robust.train.pretrain import Extended, Pretrained, PretrainJob, pretrained


class Projected(nn.Sequential, Extended):
    """A body and its projection. A sequence: states of trainings under way have their tensors by these names."""

    def model(self) -> nn.Module:
        """Return the body."""
        return self[0]


def pretrain(job: PretrainJob) -> tuple[nn.Module, Pretrained]:
    """Train a fresh body on views alone: labels choose the images, and measure upstream accuracy (by class means)."""
    settings, context, train, stage = job.settings, job.context, job.images.train, job.stage(contrastive=True)
    body = build_model(job.section, 0, job.seed)
    width = feature_width(body)
    with seeded("projection", job.section.name, job.seed):
        network = Projected(body, SimCLRProjectionHead(width, width, settings.projection))
    loss = NTXentLoss(settings.temperature, gather_distributed=context.world_size > 1)
    mean, std = input_scale(body)

    views = Views(train.images, settings.augment, 2)

    def batch(positions: torch.Tensor, seed: int) -> tuple[torch.Tensor]:
        return (normalise(views.take(positions, seed), mean, std),)

    def contrast(network: nn.Module, pairs: torch.Tensor) -> torch.Tensor:
        with context.autocast(job.section.precision):
            projected = network(pairs)
        return loss(*projected.float().chunk(2))

    objective = Objective(batch, contrast, divisible=False, prefetch=views.prefetch)
    seconds = optimise(network, objective, stage)
    upstream = nearest_mean_accuracy(body, train, job.images.held_out, job.section, context)
    return body, pretrained(stage, 0, upstream, seconds)
