"""Exact integer apportionment: counts that sum to a total, and only grow when it does.

Sainte-Lague for shares by weight, and even filling up to each supply. Smaller subsets are nested in larger ones because
of this.
"""

from __future__ import annotations

import heapq

import numpy as np


def apportion(total: int, weights: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """Divide `total` by `weights` with the Sainte-Lague method: int64 counts that sum to `total`.

    Every count grows (or stays) when the total does, and with weights that are sizes no count exceeds its size before
    the total exceeds their sum. Ties go to the lower rank in `order` (default: position).
    Source: Balinski, Young, "Fair Representation" (1982): Webster's divisor method, odd divisors 1, 3, 5, ...
    """
    weights = np.asarray(weights, dtype=np.float64)
    rank = np.arange(len(weights)) if order is None else np.asarray(order)
    if total == 0 or weights.sum() == 0:
        return np.zeros(len(weights), dtype=np.int64)
    # a little under one half: what lies on the edge is a tie, and ties are for the order below to settle
    counts = np.floor(weights * (total / weights.sum()) + (0.5 - 1e-6)).astype(np.int64)
    missing = total - int(counts.sum())  # at most half the number of weights, either way
    if missing > 0:
        heap = [
            (-w / (2 * c + 1), r, i) for i, (w, c, r) in enumerate(zip(weights, counts, rank, strict=True)) if w > 0
        ]
        heapq.heapify(heap)
        for _ in range(missing):
            _, r, i = heap[0]
            counts[i] += 1
            heapq.heapreplace(heap, (-weights[i] / (2 * counts[i] + 1), r, i))
    elif missing < 0:
        heap = [
            (w / (2 * c - 1), -r, i) for i, (w, c, r) in enumerate(zip(weights, counts, rank, strict=True)) if c > 0
        ]
        heapq.heapify(heap)
        for _ in range(-missing):
            _, r, i = heapq.heappop(heap)
            counts[i] -= 1
            if counts[i] > 0:
                heapq.heappush(heap, (weights[i] / (2 * counts[i] - 1), r, i))
    return counts


def fill_evenly(total: int, supply: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Divide `total` as evenly as the supplies allow, int64; the remainder goes to the lower ranks in `order`.

    Grows monotonically with the total. `total` must not exceed the supplies' sum.
    """
    low, high = 0, int(supply.max(initial=0))
    while low < high:  # the highest level at which every class takes min(supply, level)
        level = (low + high + 1) // 2
        low, high = (level, high) if int(np.minimum(supply, level).sum()) <= total else (low, level - 1)
    counts = np.minimum(supply, low)
    more = [i for i in np.argsort(order, kind="stable") if supply[i] > low][: total - int(counts.sum())]
    counts[more] += 1
    return counts


def most_to_apportion(weights: np.ndarray, supply: np.ndarray) -> int:
    """Return the largest total of which `apportion` gives no one more than its supply."""
    low, high = 0, int(supply.sum())
    while low < high:  # counts grow with the total, so that halving finds it
        total = (low + high + 1) // 2
        low, high = (total, high) if (apportion(total, weights) <= supply).all() else (low, total - 1)
    return low
