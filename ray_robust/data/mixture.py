"""Which images a trial pre-trains on: exact counts, nested draws, and a composition that can be read and checked.

Owns the rounding (Sainte-Lague: sums exactly, and grows monotonically with the total, so that smaller subsets lie
inside larger ones), the choice of classes and images (by a priority hashed from names alone) and the held-out images.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_robust.data.pool import Catalog, mix_bits, seed_of
from ray_robust.errors import UserError
from ray_robust.spec import Pretrain

HELD_OUT_PER_CLASS = 20  # at most: enough for an accuracy, whatever the size of the source
HELD_OUT_SHOWN = 2_000  # upstream accuracy is measured on no more than these


@dataclass(frozen=True, eq=False)
class Share:
    """What a mixture takes from one source: rows of its catalog (ascending) and their labels in the mixture."""

    source: str
    rows: np.ndarray  # int64 [n]
    labels: np.ndarray  # int64 [n]
    held_out_rows: np.ndarray
    held_out_labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Subset:
    """The drawn images of a mixture. `composition` has one dict per source: what was asked, held and taken."""

    shares: tuple[Share, ...]
    classes: tuple[str, ...]  # the label names of the pre-training head
    leaf_classes: int  # the finest classes that feed them
    composition: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return sum(len(share.rows) for share in self.shares)


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


def draw(
    mixture: Pretrain, catalogs: Mapping[str, Catalog], usable: Mapping[str, np.ndarray | None], subset_seed: int
) -> Subset:
    """The images of a mixture under a subset seed.

    `usable` is a bool mask per source, or None for all: images that could not be decoded are no supply. Raises
    UserError, all problems at once, naming source, need and supply.
    """
    names = tuple(mixture.sources)
    problems: list[str] = []
    ranks = {name: _rank_of(mixture.granularity, name, catalogs[name], problems) for name in names}
    held = {name: _hold_out(catalogs[name], usable[name], mixture.holdout, name) for name in names}
    supply = {
        name: np.bincount(catalogs[name].labels[_free(catalogs[name], usable[name], held[name])],
                          minlength=len(catalogs[name].classes)).astype(np.int64)
        for name in names
    }  # fmt: skip
    priority = {
        name: np.argsort(np.argsort(_class_priority(catalogs[name], name, subset_seed), kind="stable"), kind="stable")
        for name in names
    }
    weights = np.array([mixture.sources[name].weight for name in names])
    chosen = _choose_classes(mixture, names, weights, supply, priority, problems)
    if problems:
        raise UserError(*problems)
    counts = _count_images(mixture, names, weights, supply, priority, chosen, problems)
    if problems:
        raise UserError(*problems)

    shares, classes, offset = [], [], 0
    for name in names:
        catalog, free = catalogs[name], _free(catalogs[name], usable[name], held[name])
        rows = _first_by_priority(catalog, free, counts[name], seed_of("image", name, subset_seed))
        ancestors = ranks[name]  # the label of every class, as a name
        present = sorted({ancestors[c] for c in np.flatnonzero(counts[name])})
        index = np.array([present.index(a) if a in present else -1 for a in ancestors], dtype=np.int64) + offset
        shown = held[name][counts[name][catalog.labels[held[name]]] > 0]
        shown = shown[np.argsort(mix_bits(catalog.ids[shown], seed_of("held out shown", name)))][:HELD_OUT_SHOWN]
        shown = np.sort(shown)
        shares.append(Share(name, rows, index[catalog.labels[rows]], shown, index[catalog.labels[shown]]))
        classes += [label if len(names) == 1 else f"{name}/{label}" for label in present]
        offset += len(present)
    taken = sum(len(share.rows) for share in shares)
    composition = tuple(
        {
            "source": share.source,
            "available": int(supply[share.source].sum()),
            "held_out": len(held[share.source]),
            "selected": len(share.rows),
            "target_share": float(weight / weights.sum()),
            "share": len(share.rows) / taken,
            "classes": int((counts[share.source] > 0).sum()),
            "fewest_per_class": int(counts[share.source][counts[share.source] > 0].min()),
            "most_per_class": int(counts[share.source].max()),
        }
        for share, weight in zip(shares, weights, strict=True)
    )
    return Subset(tuple(shares), tuple(classes), sum(c["classes"] for c in composition), composition)


def _rank_of(granularity: str, name: str, catalog: Catalog, problems: list[str]) -> list[str]:
    """The label name of every class at this granularity."""
    if granularity in ("class", "leaf"):
        return list(catalog.classes)
    known = [] if catalog.hierarchy is None else list(catalog.hierarchy.columns)
    if granularity in known:
        return [str(v) for v in catalog.hierarchy[granularity]]  # type: ignore[index]
    ranks = f"it has {', '.join(known)}" if known else "it has no hierarchy; use class"
    problems.append(f"pretrain.granularity: source {name} has no rank {granularity!r}: {ranks}")
    return list(catalog.classes)


def _hold_out(catalog: Catalog, usable: np.ndarray | None, part: float, name: str) -> np.ndarray:
    """Rows that no mixture may train on: the same for every seed and total."""
    pool = np.flatnonzero(usable) if usable is not None else np.arange(len(catalog))
    sizes = np.bincount(catalog.labels[pool], minlength=len(catalog.classes))
    wanted = np.minimum(HELD_OUT_PER_CLASS, np.floor(sizes * part)).astype(np.int64)
    mask = usable if usable is not None else np.ones(len(catalog), dtype=bool)
    return _first_by_priority(catalog, mask, wanted, seed_of("held out", name))


def _free(catalog: Catalog, usable: np.ndarray | None, held: np.ndarray) -> np.ndarray:
    free = np.ones(len(catalog), dtype=bool) if usable is None else usable.copy()
    free[held] = False
    return free


def _class_priority(catalog: Catalog, name: str, subset_seed: int) -> np.ndarray:
    return np.array([seed_of("class", name, label, subset_seed) for label in catalog.classes], dtype=np.uint64)


def _choose_classes(
    mixture: Pretrain,
    names: tuple[str, ...],
    weights: np.ndarray,
    supply: dict[str, np.ndarray],
    priority: dict[str, np.ndarray],
    problems: list[str],
) -> dict[str, np.ndarray]:
    """A bool mask of classes per source: nested in their number, by priority."""
    least = mixture.images_per_class or 1
    enough = {name: supply[name] >= least for name in names}
    if mixture.num_classes == "all":
        for name in names:
            short = int((supply[name] < least).sum())
            if mixture.images_per_class and short:
                problems.append(
                    f"pretrain.images_per_class: source {name} needs {least} images in every class, but {short} of its "
                    f"{len(supply[name])} classes hold fewer (the smallest {supply[name].min()})"
                )
        return enough
    per_source = apportion(mixture.num_classes, weights)
    chosen = {}
    for name, need in zip(names, per_source, strict=True):
        have = int(enough[name].sum())
        if have < need:
            each = f" with at least {least} images each" if mixture.images_per_class else ""
            problems.append(
                f"pretrain.num_classes: source {name} needs {need} classes{each}, supply is {have} "
                f"(of {len(supply[name])} in all)"
            )
        rank = np.where(enough[name], priority[name], len(priority[name]))
        chosen[name] = enough[name] & (np.argsort(np.argsort(rank, kind="stable"), kind="stable") < need)
    return chosen


def _count_images(
    mixture: Pretrain,
    names: tuple[str, ...],
    weights: np.ndarray,
    supply: dict[str, np.ndarray],
    priority: dict[str, np.ndarray],
    chosen: dict[str, np.ndarray],
    problems: list[str],
) -> dict[str, np.ndarray]:
    """How many images of every class of every source."""
    if mixture.images_per_class is not None:
        return {name: np.where(chosen[name], mixture.images_per_class, 0) for name in names}
    offered = {name: np.where(chosen[name], supply[name], 0) for name in names}
    if mixture.num_images == "all":
        if len(names) > 1:
            problems.append("pretrain.num_images: all says nothing about a mix; give a number of images")
        return offered
    counts = {}
    for name, need in zip(names, apportion(mixture.num_images, weights), strict=True):
        have = int(offered[name].sum())
        if have < need:
            problems.append(
                f"pretrain.num_images: source {name} needs {need} images, supply is {have} "
                f"(in {int(chosen[name].sum())} classes, without the images held out for upstream accuracy)"
            )
            continue
        if need == 0:
            problems.append(f"pretrain.sources: the weight of {name} gives it no image of {mixture.num_images}")
            continue
        if mixture.balance == "uniform":
            counts[name] = fill_evenly(int(need), offered[name], priority[name])
        else:  # so many classes asked for means an image of each, however rare; of `all` the rarest may be left out
            each = np.where(chosen[name], int(mixture.num_classes != "all"), 0)
            counts[name] = each + apportion(int(need - each.sum()), offered[name] - each, priority[name])
    return counts


def _first_by_priority(catalog: Catalog, allowed: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Of every class the `counts[class]` allowed rows with the lowest priority; ascending int64."""
    rows = np.flatnonzero(allowed & (counts[catalog.labels] > 0))
    labels = catalog.labels[rows]
    order = np.lexsort((mix_bits(catalog.ids[rows], seed), labels))
    rows, labels = rows[order], labels[order]
    starts = np.searchsorted(labels, np.arange(len(counts)))
    return np.sort(rows[np.arange(len(rows)) - starts[labels] < counts[labels]])
