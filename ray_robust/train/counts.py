"""Counts of predictions: per class and group of one split, as metrics need them, and as the analysis reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SplitCounts:
    """A split's predictions as a `ray_robust.metrics.Tally`, int64: per class [classes] and per group [groups], None
    without groups."""

    hits: np.ndarray  # of a class, predicted as it
    truth: np.ndarray  # of a class in truth
    guessed: np.ndarray  # predicted as a class
    group_hits: np.ndarray | None = None
    group_images: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray:
        """Images predicted right, int64."""
        return np.asarray(self.hits.sum())

    @property
    def images(self) -> np.ndarray:
        """All images, int64."""
        return np.asarray(self.truth.sum())


def tally(
    truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None = None, aside: tuple[int, ...] = ()
) -> SplitCounts:
    """Count predictions: `truth` and `predicted` are class numbers [n], `groups` group numbers [n], none below 0.

    Groups in `aside` count for their classes only.
    """
    right = truth == predicted
    classes = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    by_class = (np.bincount(values, minlength=classes) for values in (truth[right], truth, predicted))
    if groups is None:
        return SplitCounts(*by_class)
    counted = ~np.isin(groups, aside)
    total = int(groups.max(initial=0)) + 1
    return SplitCounts(*by_class, *(np.bincount(groups[of], minlength=total) for of in (right & counted, counted)))


def group_counts(truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """True positives, false positives and false negatives per group and class, one row per pair that has any.

    int32 columns group, class, tp, fp, fn. Every score of any multiset of groups can be made from their sums: an
    accuracy is sum tp / sum (tp + fn), a class's F1 2 tp / (2 tp + fp + fn).
    """
    classes = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    right = truth == predicted
    cells = groups.astype(np.int64) * classes
    parts = [cells[right] + truth[right], cells[~right] + predicted[~right], cells[~right] + truth[~right]]
    occupied, where = np.unique(np.concatenate(parts), return_inverse=True)
    kind = np.repeat(np.arange(3), [len(part) for part in parts])
    counts = np.bincount(where * 3 + kind, minlength=3 * len(occupied)).reshape(-1, 3)
    columns = (occupied // classes, occupied % classes, *counts.T)
    return {n: c.astype(np.int32) for n, c in zip(("group", "class", "tp", "fp", "fn"), columns, strict=True)}
