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


class Preempted(Exception):
    """A training that stopped because it was told to leave this machine; its state is on disk."""


class Stopped(Exception):
    """A training that a search ended, since it is behind others; `facts` are plain and say how it was compared."""

    def __init__(self, reason: str, facts: dict[str, Any]) -> None:
        super().__init__(reason)
        self.facts = facts


@dataclass(frozen=True)
class Progress:
    """What a training tells while it runs, the first time before its first step: what an earlier process had done.
    `epoch` counts passes over its images, as a fraction."""

    stage: str
    epoch: float
    epochs: float
    images: int  # training images processed in this stage
    images_per_second: float
    id: float | None = None  # the latest scores, once there are any
    ood: float | None = None


def _silent(*_: object) -> None:
    pass


def _not_looked(*_: object) -> bool:
    return False


def _staying() -> str:
    return ""


@dataclass(frozen=True)
class Context:
    """One rank.

    report   called about once a second while training
    say      told a sentence for the trial's log
    alive    called within every piece of work that may take long, as a sign of life
    leaving  why this process must end soon ("" as long as it need not): its state is then saved and `Preempted` raised
    watch    called after every step with (stage, network, steps done, steps in all); whether it used the network, which
             it may leave in evaluation mode. Raises Stopped to end the training
    at_once  how many fine-tunings take turns in this process, over one copy of the images
    parts    every batch goes through the model in so many parts, whose gradients are summed: less memory, same batch
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    report: Callable[[Progress], None] = _silent
    say: Callable[[str], None] = _silent
    alive: Callable[[], None] = _silent
    leaving: Callable[[], str] = _staying
    watch: Callable[..., bool] = _not_looked
    parts: int = 1
    at_once: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes what all share."""
        return self.rank == 0

    def wait_for_all(self) -> None:
        """A barrier over the ranks; nothing with a single one."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def of_first(self, number: int) -> int:
        """The number that the first rank has; all must ask at the same step."""
        if self.world_size == 1:
            return number
        told = torch.tensor([number], device=self.device)
        torch.distributed.broadcast(told, src=0)
        return int(told.item())

    def any_says(self, word: str) -> bool:
        """Whether any rank says something; all must ask at the same step."""
        if self.world_size == 1:
            return bool(word)
        said = torch.tensor([float(bool(word))], device=self.device)
        torch.distributed.all_reduce(said)
        return bool(said.item())

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
