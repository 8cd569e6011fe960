"""Scores from predictions, in numpy: what a task may name as its metric, calibration beside it, and counts per group.

Every score is made from a `Tally`, so that each prediction is counted once however many scores are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CALIBRATION_BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of a split's predictions, int64: per class [classes] and per group [groups], None without groups."""

    hits: np.ndarray  # of a class, predicted as it
    support: np.ndarray  # of a class in truth
    guessed: np.ndarray  # predicted as a class
    group_hits: np.ndarray | None = None
    group_support: np.ndarray | None = None


def tally(
    truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None = None, aside: tuple[int, ...] = ()
) -> Tally:
    """Count predictions: `truth` and `predicted` are class numbers [n], `groups` group numbers [n], none below 0.

    Groups in `aside` count for their classes only.
    """
    right = truth == predicted
    classes = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    by_class = (np.bincount(values, minlength=classes) for values in (truth[right], truth, predicted))
    if groups is None:
        return Tally(*by_class)
    known = ~np.isin(groups, aside)
    total = int(groups.max(initial=0)) + 1
    return Tally(*by_class, *(np.bincount(groups[of], minlength=total) for of in (right & known, known)))


def accuracy(seen: Tally) -> float:
    """Share of images predicted right."""
    return float(seen.hits.sum() / max(1, seen.support.sum()))


def macro_f1(seen: Tally) -> float:
    """Mean F1 over the classes present in truth: the rule of WILDS for iWildCam (Koh et al. 2021).

    Equals scikit-learn's f1_score(truth, predicted, average="macro", labels=np.unique(truth)).
    """
    there = seen.support > 0
    return float(np.mean(2 * seen.hits[there] / (seen.support[there] + seen.guessed[there])))


def class_accuracy(seen: Tally) -> float:
    """Mean over the classes present in truth of the share predicted right: scikit-learn's balanced_accuracy_score."""
    there = seen.support > 0
    return float(np.mean(seen.hits[there] / seen.support[there]))


def worst_group(seen: Tally) -> float:
    """The lowest accuracy of any group that has images (the rule of WILDS); NaN where there are none."""
    if seen.group_hits is None or seen.group_support is None:
        return float("nan")
    there = seen.group_support > 0
    return float(np.min(seen.group_hits[there] / seen.group_support[there])) if there.any() else float("nan")


METRICS: dict[str, Callable[[Tally], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "class_accuracy": class_accuracy,
    "worst_group": worst_group,
}


def calibration_error(right: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error: |accuracy - mean confidence| in bins of equal width, by their share of the images.

    `right` bool [n], `confidence` the probability given to the predicted class [n]. Source: Guo, Pleiss, Sun,
    Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017), equation 3.
    """
    confidence = confidence.astype(np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    excess = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(excess).sum() / max(1, len(right)))


def group_counts(truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """True positives, false positives and false negatives per group and class, one row per pair that has any.

    int32 columns group, class, tp, fp, fn. Every score of any multiset of groups can be made from their sums: an
    accuracy is sum tp / sum (tp + fn), a class's F1 2 tp / (2 tp + fp + fn).
    """
    classes = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    right = truth == predicted
    cells = groups.astype(np.int64) * classes
    parts = [cells[right] + truth[right], cells[~right] + predicted[~right], cells[~right] + truth[~right]]
    found, where = np.unique(np.concatenate(parts), return_inverse=True)
    kind = np.repeat(np.arange(3), [len(part) for part in parts])
    counts = np.bincount(where * 3 + kind, minlength=3 * len(found)).reshape(-1, 3)
    columns = (found // classes, found % classes, *counts.T)
    return {n: c.astype(np.int32) for n, c in zip(("group", "class", "tp", "fp", "fn"), columns, strict=True)}
