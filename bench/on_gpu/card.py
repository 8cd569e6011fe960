"""What a step makes of a card: memory, and shares of the matrix and copy rates that the card reaches beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.step import CLASSES, Shape, wait
from ray_robust.train.context import Context
from ray_robust.train.models import build_model

FEW = (2, 4)  # images in the two passes whose difference is what one image adds
ADAMW_BYTES = 28  # of each weight in float32: itself and two states read and written, its gradient read


def of_card(shape: Shape, rate: float, context: Context, dry: bool) -> dict[str, str]:
    """Return what `rate` images per second of training are of this card."""
    device = context.device
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    model = build_model(shape.section, CLASSES, seed=0).eval()
    flops = 3 * rate * _flops(model, shape)  # a backward pass costs two forward ones
    weights = sum(parameter.numel() for parameter in model.parameters())
    moved = rate * (2 * _saved_bytes(model, shape, context) + ADAMW_BYTES * weights / shape.batch)
    matrix, copy = _matrix_rate(device, 256 if dry else 8192), _copy_rate(device, 1 << (20 if dry else 30))
    return {
        "memory, all ways": f"{memory:.1f} GB",
        "matrix rate": f"{flops / 1e12:.1f} of {matrix / 1e12:.1f} TFLOP/s, {flops / matrix:.0%}",
        "copy rate, at least": f"{moved / 1e9:.1f} of {copy / 1e9:.1f} GB/s, {moved / copy:.0%}",
    }


def _flops(model: nn.Module, shape: Shape) -> float:
    """Of the forward pass of one image."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(torch.zeros(1, 3, shape.px, shape.px))
    return counter.get_total_flops()


def _saved_bytes(model: nn.Module, shape: Shape, context: Context) -> float:
    """What an image leaves in memory between its passes: written by one and read by the other, whatever is fused."""
    model, counts = model.to(context.device).train(), []
    for images in FEW:
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = torch.zeros(images, 3, shape.px, shape.px, device=context.device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), context.autocast("auto"):
            model(batch.to(memory_format=torch.channels_last)).float().sum().backward()
        counts.append(sum(sizes.values()))
    return (counts[1] - counts[0]) / (FEW[1] - FEW[0])


def _matrix_rate(device: torch.device, size: int) -> float:
    """FLOP/s of a product of random matrices in bfloat16."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / _seconds(lambda: a @ a, device)


def _copy_rate(device: torch.device, size: int) -> float:
    """Bytes per second, read and written, of a copy on the card."""
    a = torch.empty(size, device=device, dtype=torch.uint8)
    b = torch.empty_like(a)
    return 2 * size / _seconds(lambda: b.copy_(a), device)


def _seconds(work: Callable[[], Any], device: torch.device, times: int = 20) -> float:
    work()
    wait(device)
    begun = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - begun) / times
