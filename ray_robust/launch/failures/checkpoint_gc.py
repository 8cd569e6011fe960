"""Garbage collection of shared pre-trained weights: they take at most `resources.disk`, least recently used go first.

Their key is a hash of all that they mean, so deleting any is safe at any time: a trial that wants them later pre-trains
again, to the same bits.
"""

from __future__ import annotations

from collections.abc import Collection

from ray_robust.files.storage import Storage
from ray_robust.run.checkpoint_paths import USED, is_finished, weights_of


def collect_garbage(weights: Storage, limit: int, wanted: Collection[str] = ()) -> list[str]:
    """Delete weights below the folder until those that are left take no more than `limit` bytes; return their keys.

    States of trainings under way are counted and not touched; the keys `wanted` by trials to come go last.
    """
    sizes = {key: weights.size(key) for key in weights.names()}
    finished = [key for key in sizes if is_finished(weights_of(weights, key))]
    order = sorted(finished, key=lambda key: (key in wanted, _last_used(weights, key), key))
    deleted, total = [], sum(sizes.values())
    for key in order:
        if total <= limit:
            break
        weights.delete(key)
        total -= sizes[key]
        deleted.append(key)
    return deleted


def _last_used(weights: Storage, key: str) -> float:
    time = (weights_of(weights, key).recall_json(USED) or {}).get("time")
    return float(time) if isinstance(time, int | float) else 0.0
