"""What becomes of memory that a training frees: kept between steps, returned to the system between trials.

A step on a CPU allocates and frees the same tensors every time. glibc hands the larger ones back to the system, which
has to map and clear their pages anew at every step: a tenth of the time of a small ResNet.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
NEVER = -1  # to give back what is free at the end of the heap
# Bytes up to which memory comes from the heap, the first that this glibc accepts. What is larger goes back at once:
# most banks of images that are not needed any more, and a step's very largest tensors.
LARGEST = (1 << 27, 1 << 25)


def keep_freed_memory() -> None:
    """Have this process keep what it frees for what it allocates next; without glibc nothing changes."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if any(libc.mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST):
            libc.mallopt(M_TRIM_THRESHOLD, NEVER)


def return_freed_memory() -> None:
    """Return what is free to the system: a worker that runs many trials would keep its largest one's share."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
