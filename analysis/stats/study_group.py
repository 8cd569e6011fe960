"""A study's groups: the points of each, what its trials are, and its scores without each of the test groups.

Owns `Group` (all that was trained alike: one level of what the study varies, or the baseline) and `GroupJackknife`, the
replicates of its points. What is fitted to them is in `robustness`, `group_means` and `own_line`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.scales import Scale
from analysis.stats.group_jackknife import JackknifeScores
from analysis.stats.least_squares import Clusters
from analysis.stats.quantities import ErrorSource
from analysis.stats.stages import Stages

Clip = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class GroupJackknife:
    """Points without each of the test groups in turn, the baseline's curve refitted every time.

    source     the test groups that are left out
    x, y, ood  float [points, replicates], or [points, 1] where the groups are not of that side; x and y transformed
    er         float [points, replicates], percentage points; `coefficients` float [replicates, k] are the baseline's.
               Both are empty until there is a baseline (see `robustness.with_baseline`)
    """

    source: ErrorSource
    x: np.ndarray
    y: np.ndarray
    ood: np.ndarray
    er: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    coefficients: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    def take(self, rows: np.ndarray) -> GroupJackknife:
        """Return the same for some of the points, int [n]."""
        er = self.er[rows] if len(self.er) else self.er
        return replace(self, x=self.x[rows], y=self.y[rows], ood=self.ood[rows], er=er)


@dataclass(frozen=True, eq=False)
class Group:
    """One group of a study.

    points               columns trial, group, id, ood, x, y (transformed); with a baseline er and extrapolated too
    unit, codes, count   the clusters that its error over trials rests on (see `least_squares.Clusters`): int [points]
    jackknife            the points without each of the test groups, per set of them
    stages               of a study in two stages, which clusters are of the first
    gradient             of the expected OOD score of each point in the baseline's coefficients, float [points, k] (see
                         `Baseline.gradient`); empty until there is a baseline
    """

    name: str
    points: pd.DataFrame
    unit: str
    codes: np.ndarray
    count: int
    jackknife: tuple[GroupJackknife, ...] = ()
    stages: Stages | None = None
    gradient: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def trials(self) -> int:
        """The number of trials."""
        return int(self.points["trial"].nunique())

    @cached_property
    def id(self) -> np.ndarray:
        """ID scores, float [points]."""
        return self.points["id"].to_numpy(float)

    @cached_property
    def inside(self) -> np.ndarray:
        """Which points lie in the baseline's range, bool [points]."""
        return ~self.points["extrapolated"].to_numpy(bool)

    @property
    def first(self) -> np.ndarray:
        """Which points are of a study's first stage, bool [points]; all of one in one stage."""
        return np.ones(len(self.codes), bool) if self.stages is None else self.stages.first[self.codes]

    def clusters(self, name: str = "trials") -> Clusters:
        """Return the clusters of its points, for an error of that name."""
        return Clusters(self.codes, self.count, self.unit, name, self.stages)

    def within(self, low: float, high: float) -> np.ndarray:
        """Return which points have an ID score in low..high, bool [points]."""
        return (self.id >= low) & (self.id <= high)

    def take(self, rows: np.ndarray) -> Group:
        """Return the same with some of its points, int [n]."""
        points = self.points.iloc[rows].reset_index(drop=True)
        gradient = self.gradient[rows] if len(self.gradient) else self.gradient
        jackknife = tuple(replicates.take(rows) for replicates in self.jackknife)
        return replace(self, points=points, codes=self.codes[rows], jackknife=jackknife, gradient=gradient)

    def between(self, low: float, high: float) -> Group:
        """Return the group with the points whose ID score lies in low..high."""
        return self.take(np.flatnonzero(self.within(low, high)))


def jackknife_on(
    scale: Scale, points: pd.DataFrame, replicates: JackknifeScores, clip: Mapping[str, Clip]
) -> GroupJackknife:
    """Return the replicates of all points on a scale, rows aligned with `points`; `clip` moves the scores of each side
    off 0 and 1."""
    sides = {"id": replicates.id, "ood": replicates.ood}
    scores = {side: points[side].to_numpy(float)[:, None] if own is None else own for side, own in sides.items()}
    x, y = (scale.h(clip[side](scores[side])) for side in ("id", "ood"))
    return GroupJackknife(replicates.source, x, y, scores["ood"])
