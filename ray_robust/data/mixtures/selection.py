"""Selection of images: of every class those of lowest priority, in one pass over the pool in blocks.

Only what lies near a class's limit is sorted: a hundred million images take seconds and little more memory than the
answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ray_robust.data.pool import Catalog, mix_bits

BLOCK = 1 << 20  # images looked at together: what numpy makes in between stays in the processor's cache
HIGHEST = np.iinfo(np.uint64).max


def count_labels(catalog: Catalog, allowed: np.ndarray | None = None) -> np.ndarray:
    """Return int64 [classes]: how many (allowed) images every class has."""
    counts = np.zeros(len(catalog.classes), dtype=np.int64)
    for block in _blocks(len(catalog)):
        labels = catalog.labels[block] if allowed is None else catalog.labels[block][allowed[block]]
        counts += np.bincount(labels, minlength=len(counts))
    return counts


def lowest(catalog: Catalog, allowed: np.ndarray | None, have: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Return bool [n]: of every class the `counts[class]` allowed images whose hashed id is lowest (ties: the first
    rows).

    `have` is how many every class has of those allowed.

    Priorities are uniform, so about where the k-th lowest of n lies is known: below it by a wide margin an image is in,
    above it out, and only those between are sorted. Where the margin was missed the whole class is sorted.
    """
    chosen = np.zeros(len(catalog), dtype=bool)
    todo = counts > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(counts / have)
        margin = np.nan_to_num(6 * np.sqrt(share * (1 - share) / have) + 20 / have)
    sure, possible = _as_priority(share - margin), _as_priority(share + margin)
    whole = counts >= have
    sure[whole], possible[whole] = HIGHEST, HIGHEST
    while todo.any():
        missed = _pass(catalog, allowed, counts, seed, todo, sure, possible, chosen)
        todo &= missed
        sure[missed], possible[missed] = 0, HIGHEST
    return chosen


def _pass(
    catalog: Catalog,
    allowed: np.ndarray | None,
    counts: np.ndarray,
    seed: int,
    todo: np.ndarray,
    sure: np.ndarray,
    possible: np.ndarray,
    chosen: np.ndarray,
) -> np.ndarray:
    """Mark the images of the classes `todo` in `chosen`; bool [classes] where the limits were not around the k-th."""
    taken = np.zeros(len(counts), dtype=np.int64)
    near_rows, near_priority = [], []
    everything = todo.all()
    for block in _blocks(len(catalog)):
        labels = catalog.labels[block]
        priority = mix_bits(catalog.ids[block], seed)
        here = np.ones(len(labels), dtype=bool) if everything else todo[labels]
        if allowed is not None:
            here &= allowed[block]
        low = priority < sure[labels]
        near = here & ~low & (priority <= possible[labels])
        low &= here
        chosen[block] |= low
        taken += np.bincount(labels[low], minlength=len(counts))
        near_rows.append(np.flatnonzero(near) + block.start)
        near_priority.append(priority[near])
    rows, priority = np.concatenate(near_rows), np.concatenate(near_priority)
    labels = catalog.labels[rows]
    wanted = np.where(todo, counts - taken, 0)
    missed = (wanted < 0) | (wanted > np.bincount(labels, minlength=len(counts)))
    order = np.lexsort((priority, labels))
    rows, labels = rows[order], labels[order]
    starts = np.searchsorted(labels, np.arange(len(counts)))
    selected = np.arange(len(rows)) - starts[labels] < np.where(missed, 0, wanted)[labels]
    chosen[rows[selected]] = True
    if missed.any():
        for block in _blocks(len(catalog)):
            chosen[block] &= ~missed[catalog.labels[block]]
    return missed


def _as_priority(share: np.ndarray) -> np.ndarray:
    """Return a share of the range of priorities as a priority."""
    scaled = np.clip(share, 0, 1) * 2.0**64
    return np.where(scaled >= 2.0**64, HIGHEST, np.minimum(scaled, 2.0**64 - 2048).astype(np.uint64))


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, BLOCK):
        yield slice(start, min(start + BLOCK, length))
