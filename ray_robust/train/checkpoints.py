"""Weights and training state on disk: safetensors with a JSON header and a checksum, whole or absent, never a pickle.

One file holds a model, optionally its optimizer and whatever plain facts belong to it. The state of a training lies in
two files that are written in turn, so that one that was damaged leaves the one before it.
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

Tensors = Mapping[str, torch.Tensor]


def save_checkpoint(folder: Storage, name: str, model: nn.Module, facts: dict[str, Any]) -> None:
    """Write `name`.safetensors: the model's state, and `facts` as JSON. It is on the disk when this returns."""
    whole = {key: value.cpu().contiguous() for key, value in _tensors(model).items()}
    _write(folder, name, whole, {"facts": json.dumps(facts)}, durable=True)


def _tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, kept: Tensors | None = None
) -> dict[str, torch.Tensor]:
    """What a checkpoint holds, by name: the model's own memory."""
    tensors = {f"model/{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"kept/{key}": value for key, value in (kept or {}).items()}
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    return {key: value.detach() for key, value in tensors.items()}


def _write(folder: Storage, name: str, tensors: Tensors, said: dict[str, str], durable: bool) -> None:
    data = save(dict(tensors), {**said, "crc32": _checksum(tensors, "".join(said.values()))})
    folder.write(f"{name}.safetensors", data, durable=durable)


def _packed(tensors: Tensors) -> tuple[dict[str, torch.Tensor], str]:
    """Copies on the CPU as one long tensor per type, and which lie where in them, as JSON: hundreds of small ones would
    take several times as long to copy, sum and write."""
    parts: dict[str, list[torch.Tensor]] = {}
    layout: dict[str, list[tuple[str, list[int]]]] = {}
    for key, value in tensors.items():
        kind = str(value.dtype)
        parts.setdefault(kind, []).append(value.reshape(-1))
        layout.setdefault(kind, []).append((key, list(value.shape)))
    together: dict[str, torch.Tensor] = {}
    for kind, each in parts.items():
        if len({value.device for value in each}) > 1:  # an optimizer counts its steps on the CPU
            each = [value.cpu() for value in each]
        together[kind] = torch.cat(each).cpu()
    return together, json.dumps(layout)


def _unpacked(packed: Tensors, layout: str) -> dict[str, torch.Tensor]:
    """The tensors by name again."""
    found: dict[str, torch.Tensor] = {}
    for kind, places in json.loads(layout).items():
        sizes = [math.prod(shape) for _, shape in places]
        for (key, shape), part in zip(places, packed[kind].split(sizes), strict=True):
            found[key] = part.reshape(shape)
    return found


def load_checkpoint(
    folder: Storage,
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    kept: dict[str, torch.Tensor] | None = None,
) -> dict[str, Any] | None:
    """Load what `save_checkpoint` wrote into the model (and optimizer, and `kept`) and return its facts.

    None, with nothing changed, when there is no such file, or it is cut short or damaged.
    """
    found = read_checkpoint(folder, name)
    if found is None:
        return None
    tensors, facts = found
    model.load_state_dict(weights_in(tensors))
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


def read_checkpoint(folder: Storage, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Every tensor of a checkpoint and its facts; None when it is absent, cut short or damaged."""
    data = folder.read(f"{name}.safetensors")
    if data is None:
        return None
    try:
        tensors, said = load(data), _header(data)
        facts, layout = json.loads(said["facts"]), said.get("layout", "")
        if said.get("crc32", "") not in ("", _checksum(tensors, said["facts"] + layout)):
            return None
        return _unpacked(tensors, layout) if layout else tensors, facts
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None


def weights_in(tensors: Tensors) -> dict[str, torch.Tensor]:
    """A model's state among the tensors of its checkpoint."""
    return {key[6:]: value for key, value in tensors.items() if key.startswith("model/")}


class StateWriter:
    """Writes the state of a training to resume from, in the place of the older of its two files, behind its back.

    The training waits while its tensors are copied, not for checksums and storage. A disk that is full or away costs
    the work since the last state, not the training. `folder` None: nothing is written, since another rank does.
    `number` is that of the state that the training began from.
    """

    def __init__(self, folder: Storage | None, stage: str, number: int) -> None:
        self.folder, self.stage, self.number = folder, stage, number
        self.cost = 0.0  # seconds of this process that the last state took
        self._thread: threading.Thread | None = None

    def write(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any], kept: Tensors | None
    ) -> None:
        """Begin to write a state, once the one before it is written; what is passed may change from now on."""
        if self.folder is None:
            return
        self.wait()
        begun = time.monotonic()
        tensors, layout = _packed(_tensors(model, optimizer, kept))
        copied = time.monotonic() - begun

        def work(folder: Storage) -> None:
            spent, number = time.thread_time(), self.number + 1
            with suppress(OSError):
                # what was lost can be made again by running on, so nothing waits for the disk
                said = {"facts": json.dumps({**facts, "number": number}), "layout": layout}
                _write(folder, f"{self.stage}.{number % 2}", tensors, said, durable=False)
                self.number = number
            self.cost = copied + time.thread_time() - spent

        self._thread = threading.Thread(target=work, args=(self.folder,), name="state", daemon=True)
        self._thread.start()

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()  # however the training ends, what was begun is whole

    def wait(self) -> None:
        """Until what was begun is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def load_state(
    folder: Storage,
    stage: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: dict[str, torch.Tensor] | None = None,
) -> dict[str, Any] | None:
    """Load the newest whole state of a training, the one before it where the newest is damaged; None: there is none."""
    headers = {name: checkpoint_facts(folder, name) for name in (f"{stage}.0", f"{stage}.1")}
    known = {name: facts["number"] for name, facts in headers.items() if facts is not None}
    for name in sorted(known, key=known.__getitem__, reverse=True):
        if (facts := load_checkpoint(folder, name, model, optimizer, kept)) is not None:
            return facts
    return None


def drop_state(folder: Storage, stage: str) -> None:
    """Remove the state of a training that is over."""
    for number in (0, 1):
        folder.delete(f"{stage}.{number}.safetensors")


def _lay_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Give every state the memory layout of its parameter: files know none, and the fused kernels trust it."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def checkpoint_facts(folder: Storage, name: str) -> dict[str, Any] | None:
    """The facts of a checkpoint alone; None when it is absent or cut short. What else is damaged only reading tells."""
    path = folder.local(f"{name}.safetensors")
    try:
        if path is None:
            data = folder.read(f"{name}.safetensors")
            return None if data is None else json.loads(_header(data)["facts"])
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["facts"])
    except (SafetensorError, ValueError, KeyError, TypeError, FileNotFoundError):
        return None


def _header(data: bytes) -> dict[str, str]:
    """The metadata in a safetensors header: eight bytes of length, then the header itself as JSON."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def _checksum(tensors: Tensors, said: str) -> str:
    """CRC-32 of what is said of them and of every tensor with its name, in the order of the names."""
    crc = zlib.crc32(said.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        if tensors[name].numel():
            crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
