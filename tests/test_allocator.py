"""Memory that a training frees is kept for its next step, and given back at the end of a trial."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
import numpy as np
from ray_robust.train.allocator import keep_freed_memory, return_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(1 << 20) for _ in range(4)]  # as the activations of a step, 8 MiB each
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

def bank():
    images = np.ones(25 << 20)  # 200 MiB
    there = resident()
    del images
    return there - resident()

plain = faults()
keep_freed_memory()
faults()
kept, held, back = faults(), resident(), bank()
return_freed_memory()
print(plain, kept, back, held - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_what_a_step_frees_is_kept_for_the_next_and_returned_at_the_end():
    out = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout
    plain, kept, back, returned = map(int, out.split())
    assert plain > 10_000  # pages that the system mapped anew
    assert kept < plain / 100
    assert back > 50_000  # of the 51,200 pages of a bank of images: at once
    assert returned > 4_000  # of the four arrays' 8,192 pages
