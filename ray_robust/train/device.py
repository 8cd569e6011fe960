"""Tensors that go from the CPU to a device at every step, without the CPU waiting for a GPU.

A copy of ordinary memory to a GPU waits for everything that was queued before it, so that the GPU has nothing to do
until the CPU has queued the next step; one of pinned memory does not.
"""

from __future__ import annotations

from functools import lru_cache

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device, in the order of the current stream; itself where it is there already."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return these numbers as float32 [n] on a device, copied there once. Must not be changed."""
    with torch.inference_mode(False):  # the first to ask may be an evaluation, whose tensors no training may use
        return torch.tensor(values, dtype=torch.float32, device=device)
