"""Out of memory: told from other errors, and answered by taking every batch through the model in more parts.

The batch stays what it was, so that a trial means the same; only what a model computes over a batch as such (batch
normalisation, dropout's draws) is then computed over its parts. Owns how small the parts may become. The driver reads
this too, so torch is imported late.
"""

from __future__ import annotations

import gc
from pathlib import Path

from ray_robust.plan.plan import Trial

SAID = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
CGROUP, KERNEL = Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or this machine had not enough memory; torch says the latter in words only."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in SAID)


def largest_batch(trial: Trial) -> int:
    """The largest batch that any training of a trial takes."""
    batches = [finetuning.settings.batch_size for finetuning in trial.finetunings]
    return max([*batches, trial.pretrain.batch_size] if trial.pretrain is not None else batches)


def more_parts(trial: Trial, parts: int) -> int | None:
    """Twice as many parts; None when a part is a single image already."""
    return None if parts >= largest_batch(trial) else 2 * parts


def free() -> None:
    """Give back what a training that broke off still holds."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def kills() -> int:
    """How many processes the kernel has killed for memory: of this container, else of this machine. A worker that was
    cannot tell it, but who comes after it sees the count risen. 0 where nobody counts."""
    for file in (CGROUP, KERNEL):
        try:
            counts = dict(line.split() for line in file.read_text().splitlines())
            return int(counts["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return 0
