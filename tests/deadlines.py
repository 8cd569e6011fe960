"""The one deadline of the tests. It guards against hanging, and nothing that is tested depends on it: it is many times
what the slowest step takes on a machine that is busy with other work. `test_clocks.py` keeps other deadlines out, and
assertions on elapsed time; how fast things are is measured in `bench/`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

HANG = 1800.0  # seconds after which whatever is waited for hangs


def wait_for(state: Callable[[], T], every: float = 0.05) -> T:
    """Return what `state` returns as soon as that is true; it is asked every `every` seconds. AssertionError when it
    hangs."""
    until = time.monotonic() + HANG
    while not (now := state()):
        assert time.monotonic() < until, f"nothing came of it in {HANG:.0f} s"
        time.sleep(every)
    return now
