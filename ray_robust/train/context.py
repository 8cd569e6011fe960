"""Where a training runs and where it reports to: all that plain PyTorch code needs to know of its launcher.

`launch/` builds a Context from a Tune actor or a Ray Train worker; benchmarks and tests build one directly.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch

from ray_robust.run.learning_curve import LearningCurve

WAITING = 0.02  # seconds between two looks at whether the other ranks are there


@dataclass(frozen=True)
class Progress:
    """How far a training is. The first report precedes its first step: what an earlier process had done."""

    stage: str
    epoch: float  # passes over the images, as a fraction
    epochs: float
    images: int  # training images processed in this stage
    images_per_second: float
    id: float | None = None  # the latest scores, once there are any
    ood: float | None = None


def _ignore(*_: object) -> None:
    pass


def _model_unused(*_: object) -> bool:
    return False


def _no_preemption() -> str:
    return ""


@dataclass(frozen=True)
class Context:
    """One rank of a trial: its device, its place among the ranks, and the launcher's hooks.

    report               called with a Progress about once a second while training
    log                  called with a line for the trial's log
    record               called with the learning curve of every training that has ended
    heartbeat            called within every piece of work that may take long, as a sign of life
    preemption           returns why this process must end soon, "" while it need not; the training then saves its state
                         and raises `Preempted`
    on_step              called after every step with (context, stage, network, steps done, all steps); returns whether
                         it used the network, which it may leave in evaluation mode. Raises Stopped to end the training
    grad_accum_steps     every batch goes through the model in so many parts, whose gradients are summed: less memory,
                         same batch
    finetunings_at_once  how many fine-tunings are interleaved in this process, over one copy of the images
    auto_precision       what `model.precision: auto` is, bf16 or float32; "": bf16 where the device computes in it
    stacked              experimental: run alike fine-tunings that are interleaved as one, see `train.stack`
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1
    report: Callable[[Progress], None] = _ignore
    log: Callable[[str], None] = _ignore
    record: Callable[[LearningCurve], None] = _ignore
    heartbeat: Callable[[], None] = _ignore
    preemption: Callable[[], str] = _no_preemption
    on_step: Callable[..., bool] = _model_unused
    grad_accum_steps: int = 1
    finetunings_at_once: int = 1
    auto_precision: str = ""
    stacked: bool = False

    @property
    def first(self) -> bool:
        """Whether this rank writes what all ranks share."""
        return self.rank == 0

    def wait_for_all(self) -> None:
        """Wait until every rank is here, however long; returns at once with a single rank. A rank that waits gives no
        sign of life of its own; the first one passes on those of ranks that work, so that the trial has no heartbeat
        once all that it waits for hang."""
        if self.world_size > 1:
            arrived = torch.distributed.barrier(_patient_group(torch.distributed.group.WORLD), async_op=True)
            signs = signs_of_life()
            while not arrived.is_completed():
                if self.first and (now := signs_of_life()) != signs:
                    signs = now
                    self.heartbeat()
                time.sleep(WAITING)
            arrived.wait()  # raises where another rank has gone

    def broadcast(self, number: int) -> int:
        """Return the first rank's number. Collective: all ranks must call it at the same step."""
        if self.world_size == 1:
            return number
        shared = torch.tensor([number], device=self.device)
        torch.distributed.broadcast(shared, src=0)
        return int(shared.item())

    def any_rank(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank. Collective: all ranks must call it at the same step."""
        if self.world_size == 1:
            return flag
        count = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(count)
        return bool(count.item())

    def precision(self, asked: str) -> str:
        """Return what a `model.precision` is here: bf16 or float32."""
        if asked != "auto":
            return asked
        return self.auto_precision or ("bf16" if computes_in_bf16(self.device) else "float32")

    def autocast(self, precision: str) -> Any:
        """Return the autocast context of a `model.precision`."""
        if self.precision(precision) == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


@lru_cache(maxsize=1)
def _patient_group(world: Any) -> Any:
    """The ranks of a process group once more, in one that waits for the others without an end: fine-tunings are shared
    out among ranks, and one may have hours more of them than another, where a collective gives up after half an hour.
    Collective: all ranks must call it at the same step."""
    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=365))


def signs_of_life(more: int = 0) -> int:
    """Return how many signs of life the ranks of this process group have given for the first one to pass on, after
    adding `more`; 0 where the rank that keeps the count has gone, as whoever waits for it will hear."""
    with suppress(RuntimeError, ValueError):  # ValueError: there is no group
        return torch.distributed.distributed_c10d._get_default_store().add("signs of life", more)
    return 0


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether a CPU or GPU has bf16 arithmetic of its own (emulated bf16 is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    if not any(part in allowed.upper() for part in ("BF16", "FP16", "AMX", "AVX10", "DEFAULT", "ALL")):
        return False  # the kernels may not use it, whatever the processor has
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
