"""Scores from predictions, in numpy: the metrics a task may name, and accuracy beside each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of examples predicted right."""
    return float(np.mean(truth == predicted))


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes present in `truth`: the rule of WILDS for iWildCam (Koh et al. 2021).

    Equals scikit-learn's f1_score(truth, predicted, average="macro", labels=np.unique(truth)).
    """
    classes = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    support = np.bincount(truth, minlength=classes)
    guessed = np.bincount(predicted, minlength=classes)
    hits = np.bincount(truth[truth == predicted], minlength=classes)
    present = support > 0
    return float(np.mean(2 * hits[present] / (support[present] + guessed[present])))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"accuracy": accuracy, "macro_f1": macro_f1}
