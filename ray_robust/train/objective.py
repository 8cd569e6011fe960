"""What a training minimises, one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch

from ray_robust.train.interleave import LossFn


@dataclass(frozen=True)
class Objective:
    """What a training minimises.

    batch      (int64 positions of this rank's images, on the CPU; a seed of this step's for their crops) -> the tensors
               that `loss_fn` takes, all of the batch's length; random augmentation is drawn here, for the whole batch
    loss_fn    (the network, possibly wrapped; those tensors, or a micro-batch of them) -> the mean over them, a scalar
    divisible  whether the loss of a batch is the mean over its images, and not a comparison among them
    stack_key  equal for trainings whose `loss_fn` and network are alike, which can be stacked; None: cannot be stacked
    prefetch   called with the positions and the seed of the next batch, so that its images can be fetched meanwhile
    """

    batch: Callable[[torch.Tensor, int], tuple[torch.Tensor, ...]]
    loss_fn: LossFn
    divisible: bool = True
    stack_key: Hashable | None = None
    prefetch: Callable[[torch.Tensor, int], None] | None = None
