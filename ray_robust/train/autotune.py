"""Which way of doing the same thing is the fastest here: measured once per shape, device and version, and remembered.

Owns `fastest.json` in the cache folder, which can be deleted at any time. Who asks again, in this process or another,
gets the same answer, so that a sweep's trials are all run the same way.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from ray_robust.files.storage import Storage
from ray_robust.run.throughput import cache_folder

FILE = "fastest.json"
GAIN = 1.05  # times as fast as the plain way that another must be: it costs a warm-up in every process
ROUNDS, ROUND = 5, 0.3  # measurements of each way in turn, and their seconds, about
HOPELESS = 2.0  # times as slow as the plain way at the first look: not measured any further


def known(what: str, device: torch.device) -> str | None:
    """The way that was the fastest for this shape on this device with these versions; None when nobody has looked."""
    return (Storage(cache_folder()).recall_json(FILE) or {}).get(_key(what, device))


def fastest(what: str, device: torch.device, ways: Mapping[str, Callable[[], object]]) -> str:
    """The name of the fastest of `ways`, each of which does the same once; the first is the plain one.

    One that raises has lost, memory that is short included. The answer is remembered under `what`; of two processes
    that measure at the same time, the first to write is right.
    """
    if isinstance(answer := known(what, device), str) and answer in ways:
        return str(answer)
    plain, times = next(iter(ways)), measured(device, ways)
    best = min(times, key=times.__getitem__, default=plain)
    answer = best if plain not in times or times[best] * GAIN < times[plain] else plain
    cache = Storage(cache_folder())
    remembered = cache.recall_json(FILE) or {}
    answer = remembered.setdefault(_key(what, device), answer)
    cache.write_json(FILE, remembered)
    return answer


def measured(device: torch.device, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of the plain way and of every other that neither fails nor is hopeless, medians of rounds in turn."""
    plain, first = next(iter(ways)), dict[str, float]()
    for name, way in ways.items():
        try:
            _seconds(device, way, 3)  # kernels are chosen, code is compiled
            first[name] = _seconds(device, way, 1)
        except Exception:  # what a compiler, a batching rule or an allocator may raise has no common class
            if device.type == "cuda":
                torch.cuda.empty_cache()
    slowest = HOPELESS * first.get(plain, math.inf)
    counts = {name: max(1, round(ROUND / took)) for name, took in first.items() if took <= slowest}
    taken: dict[str, list[float]] = {name: [] for name in counts}
    for _ in range(ROUNDS if len(counts) > 1 else 1):
        for name, count in counts.items():
            taken[name].append(_seconds(device, ways[name], count) / count)
    return {name: median(each) for name, each in taken.items()}


def _seconds(device: torch.device, way: Callable[[], object], times: int) -> float:
    _wait(device)
    begun = time.perf_counter()
    for _ in range(times):
        way()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _key(what: str, device: torch.device) -> str:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{what}, {card}, torch {torch.__version__}"


def _processor() -> str:
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
