"""What a training step asks of a device: of each operation its FLOPs and the bytes that it reads and writes.

Counted on the device `meta`, where nothing is computed and no memory is taken: the operations are those that PyTorch
would run, forward and backward, unfused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ray_robust.spec.sections import ModelSection
from ray_robust.train.models import build_model

CLASSES = 20  # of the head: it is little of any model
OPTIMIZER_BYTES = 28  # of each weight, in float32: itself and two moments read and written, its gradient read (AdamW)


@dataclass(frozen=True)
class StepCost:
    """What a step asks for.

    operations       FLOPs and bytes of each, in their order
    optimizer_bytes  read and written by the update of the weights
    images           in the step
    """

    operations: tuple[tuple[float, float], ...]
    optimizer_bytes: float
    images: int


def step_cost(section: ModelSection, images: int, trained: bool = True) -> StepCost:
    """Return what a step with so many images asks for; of one that only evaluates, the forward pass."""
    dtype = torch.float32 if section.precision == "float32" else torch.bfloat16
    model = build_model(section, CLASSES, seed=0).to("meta", dtype)
    batch = torch.zeros(images, 3, section.image_size, section.image_size, device="meta", dtype=dtype)
    labels = torch.zeros(images, device="meta", dtype=torch.long)
    counter = _Counter()
    with counter, torch.set_grad_enabled(trained):
        scores = model.train(trained)(batch)
        if trained:
            cross_entropy(scores, labels).backward()
    weights = sum(parameter.numel() for parameter in model.parameters())
    return StepCost(tuple(counter.operations), float(OPTIMIZER_BYTES * weights * trained), images)


class _Counter(TorchDispatchMode):
    """Notes every operation that is run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        result = func(*args, **options)
        if not func.is_view and func.namespace == "aten":
            tensors = [leaf for leaf in tree_leaves((args, options, result)) if isinstance(leaf, torch.Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.operations.append((_flops(func.overloadpacket, args, options, result), float(moved)))
        return result


def _flops(packet: Any, args: tuple, options: Mapping[str, Any], result: Any) -> float:
    if packet is torch.ops.aten.convolution_backward:  # torch's own count takes grouped ones for dense
        grad, _, weight = args[:3]
        each = 2 * grad.numel() * prod(weight.shape[1:])
        return float(each * sum(args[-1][:2]))  # of the inputs and of the weights, where these are asked for
    if (counted := flop_registry.get(packet)) is None:
        return 0.0
    with suppress(TypeError, ValueError):
        return float(counted(*args, **options, out_val=result))
    return 0.0
