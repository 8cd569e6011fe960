"""Every metric against scikit-learn, the wilds package, or the definition written out."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from ray_robust.data.pool import Metric
from ray_robust.train import metrics
from ray_robust.train.metrics import METRICS, calibration_error, group_counts, tally


def random_cases(count: int = 200):
    """(truth, predicted, groups), with classes and groups that are absent from either."""
    random = np.random.default_rng(0)
    for _ in range(count):
        classes, groups, images = random.integers(2, 12), random.integers(1, 9), random.integers(1, 60)
        yield (*random.integers(0, classes, (2, images)), random.integers(0, groups, images))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_are_those_of_scikit_learn():
    for truth, predicted, groups in random_cases():
        seen = tally(truth, predicted, groups)
        there = np.unique(truth)
        assert metrics.accuracy(seen) == accuracy_score(truth, predicted)
        wanted = f1_score(truth, predicted, average="macro", labels=there)
        assert metrics.macro_f1(seen) == pytest.approx(wanted, abs=1e-12)
        assert metrics.class_accuracy(seen) == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
        by_group = [accuracy_score(truth[groups == g], predicted[groups == g]) for g in np.unique(groups)]
        assert metrics.worst_group(seen) == min(by_group)


@pytest.fixture
def _in_double():
    torch.set_default_dtype(torch.float64)  # the package rounds its scores to torch's default
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("_in_double")
def test_macro_f1_is_that_of_the_wilds_package():
    from ray_robust.data.tasks.wilds import _wilds

    _wilds()
    from wilds.common.metrics.all_metrics import F1

    for truth, predicted, _ in random_cases():
        wanted = F1(average="macro").compute(torch.from_numpy(predicted), torch.from_numpy(truth))["F1-macro_all"]
        assert metrics.macro_f1(tally(truth, predicted)) == pytest.approx(wanted, abs=1e-12)


def test_groups_aside_count_for_their_classes_only():
    truth, predicted, groups = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), np.array([0, 0, 1, 2])
    assert metrics.worst_group(tally(truth, predicted, groups)) == 0
    assert metrics.worst_group(tally(truth, predicted, groups, aside=(2,))) == 1
    assert metrics.accuracy(tally(truth, predicted, groups, aside=(2,))) == 0.75
    assert np.isnan(metrics.worst_group(tally(truth, predicted)))
    assert np.isnan(metrics.worst_group(tally(truth, predicted, groups, aside=(0, 1, 2))))


def test_calibration_error_is_its_definition():
    random = np.random.default_rng(1)
    edges = np.linspace(0, 1, metrics.CALIBRATION_BINS + 1)
    for images in (1, 50, 1000):
        confidence = np.concatenate([random.random(images), [1.0, edges[3]]])
        right = random.random(len(confidence)) < confidence
        wanted = 0.0
        for low, high in itertools.pairwise(edges):
            within = (confidence > low) & (confidence <= high)
            if within.any():
                wanted += within.mean() * abs(right[within].mean() - confidence[within].mean())
        assert calibration_error(right, confidence) == pytest.approx(wanted, abs=1e-12)
    assert calibration_error(np.array([True, False]), np.array([0.5, 0.5], np.float32)) == 0


def test_group_counts_add_up_to_every_score_of_any_groups():
    random = np.random.default_rng(2)
    for truth, predicted, groups in random_cases():
        counts = group_counts(truth, predicted, groups)
        drawn = random.integers(0, groups.max() + 1, 5)  # as a bootstrap draws them, with repeats
        picked = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        if not len(picked):
            continue
        times = np.bincount(drawn, minlength=groups.max() + 1)[counts["group"]]
        tp, fp, fn = (np.bincount(counts["class"], weights=times * counts[c]) for c in ("tp", "fp", "fn"))
        there = tp + fn > 0
        f1 = np.mean(2 * tp[there] / (2 * tp + fp + fn)[there])
        wanted = tally(truth[picked], predicted[picked])
        assert f1 == pytest.approx(metrics.macro_f1(wanted), abs=1e-12)
        assert tp.sum() / (tp + fn).sum() == pytest.approx(metrics.accuracy(wanted), abs=1e-12)


def test_metrics_are_those_a_spec_may_name():
    assert set(METRICS) == set(get_args(Metric))
