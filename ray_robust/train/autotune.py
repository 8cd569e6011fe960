"""Which of several ways to compute the same thing is the fastest here: measured once per shape, device and version.

Owns `fastest.json` in the cache folder, which can be deleted at any time. Every process reads the same answer, so that
all trials of a sweep are run the same way.
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
MIN_SPEEDUP = 1.05  # over the plain candidate that another must reach: it costs a warm-up in every process
ROUNDS, ROUND_SECONDS = 5, 0.3  # measurements of each candidate, in turn with the others, of about so many seconds
MAX_SLOWDOWN = 2.0  # a candidate that is slower than the plain one by more is not measured further

Candidates = Mapping[str, Callable[[], object]]  # each computes the same once; the first is the plain one


def remembered(key: str, device: torch.device) -> str | None:
    """Return the fastest candidate measured earlier for this device and torch version, None if there was none."""
    return (Storage(cache_folder()).recall_json(FILE) or {}).get(_cache_key(key, device))


def pick_fastest(key: str, device: torch.device, candidates: Candidates) -> str:
    """Return the name of the fastest candidate; one that raises, out of memory included, is not chosen.

    The answer is kept under `key`, which names the computation and its shapes; of two processes that measure at the
    same time, the first to write decides.
    """
    if isinstance(answer := remembered(key, device), str) and answer in candidates:
        return str(answer)
    plain, seconds = next(iter(candidates)), measure(device, candidates)
    best = min(seconds, key=seconds.__getitem__, default=plain)
    answer = best if plain not in seconds or seconds[best] * MIN_SPEEDUP < seconds[plain] else plain
    cache = Storage(cache_folder())
    answers = cache.recall_json(FILE) or {}
    answer = answers.setdefault(_cache_key(key, device), answer)
    cache.write_json(FILE, answers)
    return answer


def measure(device: torch.device, candidates: Candidates) -> dict[str, float]:
    """Return the median seconds per candidate; those that raise or are `MAX_SLOWDOWN` times slower are left out."""
    plain, first = next(iter(candidates)), dict[str, float]()
    for name, candidate in candidates.items():
        try:
            _seconds(device, candidate, 3)  # kernels are chosen, code is compiled
            first[name] = _seconds(device, candidate, 1)
        except Exception:  # what a compiler, a batching rule or an allocator may raise has no common class
            if device.type == "cuda":
                torch.cuda.empty_cache()
    slowest = MAX_SLOWDOWN * first.get(plain, math.inf)
    counts = {name: max(1, round(ROUND_SECONDS / once)) for name, once in first.items() if once <= slowest}
    seconds: dict[str, list[float]] = {name: [] for name in counts}
    for _ in range(ROUNDS if len(counts) > 1 else 1):
        for name, count in counts.items():
            seconds[name].append(_seconds(device, candidates[name], count) / count)
    return {name: median(values) for name, values in seconds.items()}


def _seconds(device: torch.device, candidate: Callable[[], object], times: int) -> float:
    _synchronise(device)
    begun = time.perf_counter()
    for _ in range(times):
        candidate()
    _synchronise(device)
    return time.perf_counter() - begun


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cache_key(key: str, device: torch.device) -> str:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{key}, {card}, torch {torch.__version__}"


def _processor() -> str:
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
