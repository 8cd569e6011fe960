"""What `precision: auto` is in a trial: decided where it begins, and kept by whatever continues it on other machines.

Scores in bf16 and float32 may differ by as much as those of two seeds, so that a trial that moves keeps to one of them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ray_robust.train.context import Context, computes_in_bf16

PRECISIONS = ("bf16", "float32")
CHANGED = "began in bf16, in which the device that continued it cannot compute: float32 from there on"


def emulates_bf16(device: torch.device) -> bool:
    """Return whether PyTorch computes in bf16 on a CPU or GPU at all, be it slowly."""
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=True))


def keep_precision(context: Context, asked: str, recorded: object) -> tuple[Context, str]:
    """Return the context with what `auto` is, the same on all ranks, and a warning, "" where there is none.

    asked     `model.precision`: where it is not `auto` it holds as it is
    recorded  what the first rank knows of an earlier part of the trial, any other value where it knows nothing; it is
              kept where every rank's device computes or emulates it, else `CHANGED` is the warning

    Collective: all ranks must call it at the same step.
    """
    if asked != "auto":
        return context, ""
    earlier = context.broadcast(PRECISIONS.index(recorded) if recorded in PRECISIONS else len(PRECISIONS))
    slow = context.any_rank(not computes_in_bf16(context.device))
    impossible = context.any_rank(not emulates_bf16(context.device))
    chosen = (*PRECISIONS, "float32" if slow else "bf16")[earlier]
    if chosen == "bf16" and impossible:
        return replace(context, auto_precision="float32"), CHANGED
    if chosen == "bf16" and slow:
        context.log("continues in bf16, in which it began; here that is emulated, and slower than float32")
    if chosen == "float32" and not slow:
        context.log("continues in float32, in which it began")
    return replace(context, auto_precision=chosen), ""
