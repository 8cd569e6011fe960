"""Weights and training state on disk: safetensors with a JSON header, whole or absent, never a pickle.

One file holds a model, optionally its optimizer and whatever plain facts belong to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn

from ray_robust.storage import Storage


def save_checkpoint(
    folder: Storage,
    name: str,
    model: nn.Module,
    facts: dict[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
    kept: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write `name`.safetensors: the model's state, the optimizer's where given, `kept` tensors, `facts` as JSON."""
    tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"kept/{key}": value for key, value in (kept or {}).items()}
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # the optimizer's copy can be made again by running on, so only the weights wait for the disk
    folder.write(f"{name}.safetensors", save(whole, {"facts": json.dumps(facts)}), durable=optimizer is None)


def load_checkpoint(
    folder: Storage,
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    kept: dict[str, torch.Tensor] | None = None,
) -> dict[str, Any] | None:
    """Load what `save_checkpoint` wrote into the model (and optimizer, and `kept`) and return its facts.

    None, with nothing changed, when there is no such file or it is cut short.
    """
    data = folder.read(f"{name}.safetensors")
    if data is None:
        return None
    try:
        tensors, facts = load(data), _facts(data)
    except (SafetensorError, ValueError, KeyError):
        return None
    model.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("model/")})
    if optimizer is not None:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, field = key.split("/")
                state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        _lay_out_alike(optimizer)
    if kept is not None:
        kept.update({key[5:]: value for key, value in tensors.items() if key.startswith("kept/")})
    return facts


def _lay_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Give every state the memory layout of its parameter: files know none, and the fused kernels trust it."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def checkpoint_facts(folder: Storage, name: str) -> dict[str, Any] | None:
    """The facts of a checkpoint alone; None when it is absent or cut short."""
    path = folder.local(f"{name}.safetensors")
    try:
        if path is None:
            data = folder.read(f"{name}.safetensors")
            return None if data is None else _facts(data)
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["facts"])
    except (SafetensorError, ValueError, KeyError, TypeError, FileNotFoundError):
        return None


def _facts(data: bytes) -> dict[str, Any]:
    """The JSON in a safetensors header: eight bytes of length, then the header itself."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["facts"])
