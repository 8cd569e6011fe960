"""Weights and training state on disk: safetensors with a JSON header and a checksum, whole or absent, never a pickle.

One file holds a model, optionally its optimizer and extra tensors, and facts about it as JSON. The states of a training
are two files written in turn, so that one that is damaged leaves the one before it.
"""

from __future__ import annotations

import json
import math
import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn

from ray_robust.files.storage import Storage
from ray_robust.run.checkpoint_paths import SUFFIX

Tensors = Mapping[str, torch.Tensor]
MODEL, OPTIMIZER, EXTRA = "model/", "optimizer/", "kept/"  # what names of tensors begin with


def save_checkpoint(folder: Storage, name: str, model: nn.Module, facts: dict[str, Any]) -> None:
    """Write `name`.safetensors: the model's state, and `facts` as JSON. It is on the disk when this returns.

    Raises Outage when the storage is full or unreachable.
    """
    tensors = {key: value.cpu().contiguous() for key, value in _tensors(model).items()}
    _write(folder, name, tensors, {"facts": json.dumps(facts)}, durable=True)


def _tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, extra_state: Tensors | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, sharing memory with the model."""
    tensors = {f"{MODEL}{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"{EXTRA}{key}": value for key, value in (extra_state or {}).items()}
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{OPTIMIZER}{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    return {key: value.detach() for key, value in tensors.items()}


def _write(folder: Storage, name: str, tensors: Tensors, metadata: dict[str, str], durable: bool) -> None:
    data = save(dict(tensors), {**metadata, "crc32": _checksum(tensors, "".join(metadata.values()))})
    folder.write(f"{name}{SUFFIX}", data, durable=durable)


def _packed(tensors: Tensors) -> tuple[dict[str, torch.Tensor], str]:
    """Copies on the CPU as one long tensor per dtype, and their names and shapes in order, as JSON: hundreds of small
    tensors take several times as long to copy, sum and write."""
    parts: dict[str, list[torch.Tensor]] = {}
    layout: dict[str, list[tuple[str, list[int]]]] = {}
    for key, value in tensors.items():
        kind = str(value.dtype)
        parts.setdefault(kind, []).append(value.reshape(-1))
        layout.setdefault(kind, []).append((key, list(value.shape)))
    packed: dict[str, torch.Tensor] = {}
    for kind, flat in parts.items():
        if len({value.device for value in flat}) > 1:  # an optimizer counts its steps on the CPU
            flat = [value.cpu() for value in flat]
        packed[kind] = torch.cat(flat).cpu()
    return packed, json.dumps(layout)


def _unpacked(packed: Tensors, layout: str) -> dict[str, torch.Tensor]:
    """The tensors by name again: the inverse of `_packed`."""
    tensors: dict[str, torch.Tensor] = {}
    for kind, entries in json.loads(layout).items():
        sizes = [math.prod(shape) for _, shape in entries]
        for (key, shape), part in zip(entries, packed[kind].split(sizes), strict=True):
            tensors[key] = part.reshape(shape)
    return tensors


def load_checkpoint(
    folder: Storage,
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    extra_state: dict[str, torch.Tensor] | None = None,
) -> dict[str, Any] | None:
    """Load a checkpoint into the model (and optimizer, and `extra_state`) and return its facts.

    Return None, with nothing changed, when there is no such file, or it is cut short or damaged.
    """
    checkpoint = read_checkpoint(folder, name)
    if checkpoint is None:
        return None
    tensors, facts = checkpoint
    model.load_state_dict(weights_in(tensors))
    if optimizer is not None:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(OPTIMIZER):
                _, index, field = key.split("/")
                state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        _match_layouts(optimizer)
    if extra_state is not None:
        extra_state.update(_below(EXTRA, tensors))
    return facts


def read_checkpoint(folder: Storage, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return every tensor of a checkpoint and its facts, None when it is absent, cut short or damaged."""
    data = folder.read(f"{name}{SUFFIX}")
    if data is None:
        return None
    try:
        tensors, metadata = load(data), _header(data)
        facts, layout = json.loads(metadata["facts"]), metadata.get("layout", "")
        if metadata.get("crc32", "") not in ("", _checksum(tensors, metadata["facts"] + layout)):
            return None
        return _unpacked(tensors, layout) if layout else tensors, facts
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None


def weights_in(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return the model's state dict among the tensors of a checkpoint."""
    return _below(MODEL, tensors)


def _below(prefix: str, tensors: Tensors) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


class StateWriter:
    """Writes states to resume a training from, in a thread, each over the older of its two files.

    The training waits while its tensors are copied, not for checksums and storage. Storage that is full or unreachable
    costs the work since the last state, not the training. `folder` None: nothing is written, since another rank does.
    `number` is that of the state that the training was resumed from, 0 if there was none.
    """

    def __init__(self, folder: Storage | None, stage: str, number: int) -> None:
        self.folder, self.stage, self.number = folder, stage, number
        self.cost = 0.0  # seconds of this process that the last state took
        self._thread: threading.Thread | None = None

    def write(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any], extra_state: Tensors | None
    ) -> None:
        """Begin to write a state, once the one before it is written; the arguments may change after this returns."""
        if self.folder is None:
            return
        self.wait()
        begun = time.monotonic()
        tensors, layout = _packed(_tensors(model, optimizer, extra_state))
        copied = time.monotonic() - begun

        def work(folder: Storage) -> None:
            spent, number = time.thread_time(), self.number + 1
            with suppress(OSError):
                # a lost state can be computed again, so nothing waits for the disk
                metadata = {"facts": json.dumps({**facts, "number": number}), "layout": layout}
                _write(folder, f"{self.stage}.{number % 2}", tensors, metadata, durable=False)
                self.number = number
            self.cost = copied + time.thread_time() - spent

        self._thread = threading.Thread(target=work, args=(self.folder,), name="state", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once the state that was begun is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def load_state(
    folder: Storage,
    stage: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra_state: dict[str, torch.Tensor] | None = None,
) -> dict[str, Any] | None:
    """Load the newest state of a training that is not damaged and return its facts, None where there is none."""
    for name, _ in _states(folder, stage):
        if (facts := load_checkpoint(folder, name, model, optimizer, extra_state)) is not None:
            return facts
    return None


def state_facts(folder: Storage, stage: str) -> dict[str, Any] | None:
    """Return the facts of the newest state of a training, None where there is none. Its tensors are not checked."""
    return next((facts for _, facts in _states(folder, stage)), None)


def _states(folder: Storage, stage: str) -> list[tuple[str, dict[str, Any]]]:
    """The names and facts of a training's states, the newest first."""
    headers = [(name, checkpoint_facts(folder, name)) for name in (f"{stage}.0", f"{stage}.1")]
    states = [(name, facts) for name, facts in headers if facts is not None]
    return sorted(states, key=lambda state: state[1]["number"], reverse=True)


def drop_state(folder: Storage, stage: str) -> None:
    """Remove the states of a training that is over."""
    for number in (0, 1):
        folder.delete(f"{stage}.{number}{SUFFIX}")


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give every state the memory layout of its parameter: files have none, and fused kernels rely on it."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def checkpoint_facts(folder: Storage, name: str) -> dict[str, Any] | None:
    """Return the facts of a checkpoint alone, None when it is absent or cut short. Its tensors are not checked."""
    path = folder.local(f"{name}{SUFFIX}")
    try:
        if path is None:
            data = folder.read(f"{name}{SUFFIX}")
            return None if data is None else json.loads(_header(data)["facts"])
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["facts"])
    except (SafetensorError, ValueError, KeyError, TypeError, FileNotFoundError):
        return None


def _header(data: bytes) -> dict[str, str]:
    """The metadata in a safetensors header: eight bytes of length, then the header itself as JSON."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def _checksum(tensors: Tensors, metadata: str) -> str:
    """CRC-32 of the metadata and of every tensor with its name, in the order of the names."""
    crc = zlib.crc32(metadata.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        if tensors[name].numel():
            crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
