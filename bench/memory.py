"""Peak memory of a whole sweep: `python -m bench.memory [SPEC] [--out DIR] [--set KEY=VALUE]`.

Runs the command and adds up, every two seconds, the proportional set size (shared pages counted once) of every process
that it started, Ray's included. Prints the peak, and the peak of each tenth of the run: the later ones must not grow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from itertools import pairwise

import psutil

from bench import show


def main(argv: list[str]) -> None:
    """Run the sweep, print its own output as it comes, then the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default="sweeps/quantity.yaml")
    args, rest = parser.parse_known_args(argv)
    begun = time.monotonic()
    driver = subprocess.Popen([sys.executable, "-m", "ray_robust.sweep", args.spec, *rest])
    samples: list[float] = []
    while driver.poll() is None:
        samples.append(memory_of(driver.pid) / 1e9)
        time.sleep(2)  # a look walks every page table: more often, and it would show in the times
    edges = [i * len(samples) // 10 for i in range(11)]
    tenths = [max(samples[low:high], default=0) for low, high in pairwise(edges)]
    found = {
        "exit": driver.returncode,
        "seconds": round(time.monotonic() - begun, 1),
        "peak_gb": round(max(samples), 2),
        "tenths_gb": [round(tenth, 2) for tenth in tenths],
    }
    show(
        ("part of the run", "peak, GB"),
        [(f"{i * 10}-{i * 10 + 10} %", f"{t:.2f}") for i, t in enumerate(tenths)],
        found,
    )


def memory_of(pid: int) -> int:
    """Bytes held by a process and all below it."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return total


if __name__ == "__main__":
    main(sys.argv[1:])
