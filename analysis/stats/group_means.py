"""The mean effective robustness of a group, with its error over trials, the baseline's line and the test groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.stats.least_squares import mean_error
from analysis.stats.quantities import Quantity
from analysis.stats.robustness import Baseline, er_gradient
from analysis.stats.study_group import Group, GroupJackknife


@dataclass(frozen=True, eq=False)
class MeanER:
    """The mean ER of some points of one group, and how many points and trials it is the mean of."""

    quantity: Quantity
    points: int
    trials: int

    @property
    def value(self) -> float:
        """The mean in percentage points."""
        return self.quantity.value


def mean_er(
    group: Group, baseline: Baseline | None, low: float, high: float, chosen: np.ndarray | None = None
) -> MeanER | None:
    """Return the mean ER of a group's points whose ID score lies in low..high and in the baseline's range; None where
    there is no such point.

    `chosen` bool [points] restricts it further. It is the mean over trials of each trial's mean: a trial with many
    points is still one pre-training. Its error is over trials, the baseline's line and the test groups. Without
    a `baseline` the values in the column `er` were measured from no line (see `raw_scores`), and no line adds an error.
    """
    inside = group.within(low, high) & group.inside
    if chosen is not None:
        inside = inside & chosen
    if not inside.any():
        return None
    used, codes = np.unique(group.codes[inside], return_inverse=True)
    by_trial = _means(group.points["er"].to_numpy()[inside, None], codes)[:, 0]
    own = mean_error(by_trial, used, group.clusters(f"trials of {group.name}"))
    replicates, double_counted = {}, {}
    for jackknife in group.jackknife:
        mean, counted = _under_test_groups(jackknife, _means(jackknife.er[inside], codes))
        replicates[jackknife.source], double_counted[jackknife.source] = mean, counted
    trials = {own: np.ones(1)}
    if baseline is not None:
        trials[baseline.errors] = er_gradient(_means(group.gradient[inside], codes).mean(0))
    quantity = Quantity(float(by_trial.mean()), trials, replicates, double_counted)
    return MeanER(quantity, int(inside.sum()), len(used))


def _means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Means by code: [points, k] -> [codes, k]."""
    sums = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums / np.bincount(codes)[:, None]


def _under_test_groups(jackknife: GroupJackknife, by_trial: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean ER without each test group, float [replicates], and the variance in it that the spread between trials
    holds too: the interaction of trial and test group. by_trial is each trial's mean, float [trials, replicates].

    The spread between trials is measured on one set of test groups and so contains that interaction; the jackknife
    contains it again. It is subtracted once, as in two-way clustering (Cameron, Gelbach and Miller 2011).
    """
    mean, trials = by_trial.mean(0), len(by_trial)
    if trials < 2:
        return mean, 0.0
    apart = np.var(by_trial - mean, axis=1)
    return mean, float(apart.sum()) / trials**2 * trials / (trials - 1) * jackknife.source.factor
