"""What a training minimises, of a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch

from ray_robust.train.interleave import Loss


@dataclass(frozen=True)
class Objective:
    """What a training minimises.

    batch      int64 positions of this rank's images, on the CPU -> the tensors that `loss` wants, alike in length;
               whatever is random about them is drawn here, for the whole batch at once
    loss       (the network, possibly wrapped; those tensors, or a part of them) -> the mean over them, a scalar
    divisible  whether the loss of a batch is the mean over its images, and not a comparison among them
    kin        what `loss` and the network hang on: trainings in which it is equal can be stacked; None: not this one
    ahead      told, with positions that `batch` will be asked for next, so that they can be fetched meanwhile
    """

    batch: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    loss: Loss
    divisible: bool = True
    kin: Hashable | None = None
    ahead: Callable[[torch.Tensor], None] | None = None
