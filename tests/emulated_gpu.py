"""A GPU emulated on the CPU, so that the lines that only a GPU takes are run where there is none.

Within `emulated`, tensors that would lie on a GPU lie in RAM, and streams and events do nothing: what such lines call,
and in which order, is tested; that a GPU computes the same, and that nothing reads memory too early, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


class InRam(TorchFunctionMode):
    """Every call of torch that names a GPU, or pinned memory, with the CPU instead."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "") == "pin_memory":
            return args[0]
        kwargs = {key: _in_ram(value) for key, value in (kwargs or {}).items() if key != "pin_memory"}
        return func(*(_in_ram(value) for value in args), **kwargs)


def _in_ram(value: Any) -> Any:
    return CPU if isinstance(value, torch.device) and value.type == "cuda" else value


class Threads(ThreadPoolExecutor):
    """Threads in which a GPU is emulated too."""

    def submit(self, work: Callable, /, *args: Any, **options: Any) -> Any:
        def within() -> Any:
            with InRam():
                return work(*args, **options)

        return super().submit(within)


class Stream:
    """Counts how often it waited for another."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device, self.waits = device or torch.device("cuda", 0), 0

    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)
        self.waits += 1


class Event:
    """One that has come to pass once it was recorded."""

    recorded = False

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded


@contextmanager
def emulated() -> Iterator[None]:
    """Emulate one GPU with a GiB of memory in this thread, and in those that fetch images."""
    here = Stream()
    with pytest.MonkeyPatch.context() as patch, InRam():
        patch.setattr("ray_robust.train.images.ThreadPoolExecutor", Threads)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        for name, value in {
            "Stream": Stream, "Event": Event, "current_stream": lambda device=None: here,
            "stream": lambda stream: nullcontext(), "current_device": lambda: 0,
            "synchronize": lambda device=None: None,
            "get_device_name": lambda device=None: "emulated", "mem_get_info": lambda device=None: (2**30, 2**30),
            "get_per_process_memory_fraction": lambda device=None: 1.0, "memory_reserved": lambda device=None: 0,
            "manual_seed": torch.default_generator.manual_seed,
            "get_rng_state": lambda device=None: torch.get_rng_state(),
            "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
            "is_bf16_supported": lambda including_emulation=True: False,
        }.items():  # fmt: skip
            patch.setattr(torch.cuda, name, value)
        yield
