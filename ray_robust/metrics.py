"""The metrics: an entry in `METRICS` is all that a new one needs.

An entry reaches `task.metric` of a spec, the columns `id_<name>` and `ood_<name>` of the results, the views of the
report, resampling over groups and the reliability of the ID axis. Every metric is a function of a `Tally`, counts of
predictions, so that training, which counts one split, and the analysis, which counts many resamples of it at once, use
the same function. Scores of images' probabilities, which counts do not give, are in `CONFIDENCE_SCORES`: results have
their columns, and no task can be scored by them.

`tally` and `group_counts` make the counts of predictions. numpy alone is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

CALIBRATION_BINS = 15  # as in Guo et al. 2017
LEAST = 1e-300  # divides where a class is absent, whose hits are 0


class Tally(Protocol):
    """Counts of the predictions on one split. Shapes begin with [replicates] when groups are resampled; arrays that are
    the same in all of them may lack it.

    right, images             [...]           images predicted right, and all
    hits, truth, guessed      [..., classes]  true positives, true images, and images predicted as the class
    group_hits, group_images  [..., groups]   images predicted right, and all (0 of a group that is left out); None for
                                              a task without groups
    """

    @property
    def right(self) -> np.ndarray: ...
    @property
    def images(self) -> np.ndarray: ...
    @property
    def hits(self) -> np.ndarray: ...
    @property
    def truth(self) -> np.ndarray: ...
    @property
    def guessed(self) -> np.ndarray: ...
    @property
    def group_hits(self) -> np.ndarray | None: ...
    @property
    def group_images(self) -> np.ndarray | None: ...


@dataclass(frozen=True, eq=False)
class SplitCounts:
    """A split's predictions as a `Tally`, int64: per class [classes] and per group [groups], None
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


@dataclass(frozen=True)
class Metric:
    """A score in [0, 1] of which more is better, as the scales of the report's axes require.

    label            what the report calls it
    function         the score, float [...], of a `Tally`
    variance         the sampling variance of the score over other images of the same kind, float, of a `Tally` without
                     replicates: the delta method, the sum over images of the squared influence of one image on the
                     score given its class. None where it is not known
    needs_groups     whether it has no value for a task without groups
    not_resampled    why leaving out groups does not estimate its variance over other groups; "" where it does
    share_of_images  whether it is a share of images, so that p(1 - p)/n is its variance even where counts are missing
    """

    label: str
    function: Callable[[Tally], np.ndarray]
    variance: Callable[[Tally], float] | None = None
    needs_groups: bool = False
    not_resampled: str = ""
    share_of_images: bool = False

    def score(self, tally: Tally) -> float:
        """Return the score of one split; NaN where it has none."""
        return float("nan") if self.needs_groups and tally.group_images is None else float(self.function(tally))


@dataclass(frozen=True)
class ConfidenceScore:
    """A score of `right`, bool [n], and `confidence`, the probability given to the predicted class, float [n]."""

    label: str
    function: Callable[[np.ndarray, np.ndarray], float]


def accuracy(tally: Tally) -> np.ndarray:
    """Return the share of images predicted right, 0 where there are no images."""
    images = np.asarray(tally.images)
    return tally.right / np.where(images > 0, images, 1)


def accuracy_variance(tally: Tally) -> float:
    """Return p(1 - p)/n."""
    share = tally.right / tally.images
    return float(share * (1 - share) / tally.images)


def macro_f1(tally: Tally) -> np.ndarray:
    """Return the mean over the classes present in truth of F1 = 2 tp/(true + predicted), WILDS' rule for iWildCam.

    Source: Koh et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts" (ICML 2021).

    Equals scikit-learn's f1_score(truth, predicted, average="macro", labels=np.unique(truth)).
    """
    return 2 * _class_mean(tally.hits, tally.truth + tally.guessed, tally.truth)


def macro_f1_variance(tally: Tally) -> float:
    """Return the sum over images of their squared influence.

    An image of class t has (2 - 2 F_t)/(T_t + G_t) when it is right, and -F_t/(T_t + G_t) - F_g/(T_g + G_g) when it is
    taken for g (T true, G guessed images of a class, F = 2 tp/(T + G)). Which t is taken for which g is not in the
    counts: they are taken to be independent.
    """
    there = tally.truth > 0
    truth, hits, guessed = tally.truth[there], tally.hits[there], tally.guessed[there]
    both = truth + guessed
    f1 = 2 * hits / both
    right, wrong = (2 - 2 * f1) / both, f1 / both
    missed, false = truth - hits, guessed - hits
    together = (wrong @ missed) * (wrong @ false) / max(missed.sum(), 1)
    squares = (right**2) @ hits + (wrong**2) @ (missed + false) + 2 * together
    return float(squares) / len(truth) ** 2


def class_accuracy(tally: Tally) -> np.ndarray:
    """Return the mean over the classes present in truth of the share predicted right.

    Equals scikit-learn's balanced_accuracy_score.
    """
    return _class_mean(tally.hits, tally.truth, tally.truth)


def class_accuracy_variance(tally: Tally) -> float:
    """Return the variance of a mean of independent shares, of variance p(1 - p)/n each."""
    there = tally.truth > 0
    share = tally.hits[there] / tally.truth[there]
    return float((share * (1 - share) / tally.truth[there]).sum() / there.sum() ** 2)


def worst_group(tally: Tally) -> np.ndarray:
    """Return the lowest accuracy of any group that has images (the rule of WILDS); NaN where there are none."""
    assert tally.group_hits is not None
    assert tally.group_images is not None
    there = tally.group_images > 0
    share = np.where(there, tally.group_hits / np.maximum(tally.group_images, 1), np.inf).min(-1)
    return np.where(there.any(-1), share, np.nan)


def worst_group_variance(tally: Tally) -> float:
    """Return p(1 - p)/n of the worst group."""
    assert tally.group_hits is not None
    assert tally.group_images is not None
    there = tally.group_images > 0
    images = tally.group_images[there]
    share = tally.group_hits[there] / images
    worst = int(share.argmin())
    return float(share[worst] * (1 - share[worst]) / images[worst])


def _class_mean(above: np.ndarray, below: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mean of above/below over the classes with true images; `above` is 0 in all other classes."""
    there = truth > 0
    somewhere = there.reshape(-1, there.shape[-1]).any(0)
    if not somewhere.all():  # so that the sum of one split is over its own classes, in their order
        above, below, there = above[..., somewhere], below[..., somewhere], there[..., somewhere]
    return (above / np.maximum(below, LEAST)).sum(-1) / there.sum(-1)


def calibration_error(right: np.ndarray, confidence: np.ndarray) -> float:
    """Return the expected calibration error: |accuracy - mean confidence| in bins of equal width, weighted by images.

    `right` bool [n], `confidence` the probability given to the predicted class [n]. Source: Guo, Pleiss, Sun,
    Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017), equation 3.
    """
    confidence = confidence.astype(np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    excess = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(excess).sum() / max(1, len(right)))


# in the order of the results' columns; the names are keys of specs and columns of results
METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", accuracy, accuracy_variance, share_of_images=True),
    "macro_f1": Metric("macro-F1", macro_f1, macro_f1_variance),
    "worst_group": Metric(
        "worst group",
        worst_group,
        worst_group_variance,
        needs_groups=True,
        # the least of some groups is never under that of all: resampling is inconsistent (Bickel and Freedman 1981)
        not_resampled="is no mean over groups, of which leaving some out would tell",
    ),
    "class_accuracy": Metric("class accuracy (balanced)", class_accuracy, class_accuracy_variance),
}

CONFIDENCE_SCORES: dict[str, ConfidenceScore] = {"ece": ConfidenceScore("calibration error", calibration_error)}


def label_of(name: str) -> str:
    """Return what the report calls a metric, also one of a table of somebody else's."""
    return METRICS[name].label if name in METRICS else name.replace("_", " ")
