"""Out of memory: how it is recognised, and gradient accumulation over smaller parts of a batch as the answer.

The batch stays the same, so that a trial means the same; only what a model computes over a batch (batch normalisation,
dropout masks) is computed over its parts. Owns how small the parts may become. The driver uses this too, so torch is
imported late.
"""

from __future__ import annotations

import gc
from pathlib import Path

from ray_robust.plan.plan import Trial

MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
CGROUP, KERNEL = Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a GPU or this machine was short of memory; torch reports the latter by its message alone."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in MESSAGES)


def largest_batch(trial: Trial) -> int:
    """Return the largest batch of any training of a trial."""
    batches = [finetuning.settings.batch_size for finetuning in trial.finetunings]
    return max([*batches, trial.pretrain.batch_size] if trial.pretrain is not None else batches)


def next_grad_accum_steps(trial: Trial, steps: int) -> int | None:
    """Return twice as many steps; None when a part of a batch is a single image already."""
    return None if steps >= largest_batch(trial) else 2 * steps


def release_memory() -> None:
    """Return to the system what a failed training still holds."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory, in this container or else on this machine; 0 where it
    does not count them. A killed worker leaves no message, but the next one finds the count increased."""
    for file in (CGROUP, KERNEL):
        try:
            counts = dict(line.split() for line in file.read_text().splitlines())
            return int(counts["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return 0
