"""Where a training runs and whom it tells: the little that plain PyTorch code needs to know of its launcher.

`launch/` makes a Context from a Tune actor or a Ray Train worker; a benchmark or a test makes one by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch


class TrainingFailed(Exception):
    """A training that cannot go on, with its reason in one line: it fails its trial and leaves the others alone."""


@dataclass(frozen=True)
class Progress:
    """What a training tells while it runs. `epoch` counts passes over its images, as a fraction."""

    stage: str
    epoch: float
    epochs: float
    images: int  # training images processed in this stage
    images_per_second: float
    id: float | None = None  # the latest scores, once there are any
    ood: float | None = None


def _silent(progress: Progress) -> None:
    pass


@dataclass(frozen=True)
class Context:
    """One rank. `report` is called about once a second."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    report: Callable[[Progress], None] = _silent

    @property
    def first(self) -> bool:
        """Whether this rank writes what all share."""
        return self.rank == 0

    def wait_for_all(self) -> None:
        """A barrier over the ranks; nothing with a single one."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def autocast(self, precision: str) -> Any:
        """The autocast context of a `model.precision`: auto is bf16 where the hardware computes in it."""
        if precision == "bf16" or (precision == "auto" and computes_in_bf16(self.device)):
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def computes_in_bf16(device: torch.device) -> bool:
    """Whether this processor or GPU has bf16 arithmetic of its own (emulated bf16 is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
