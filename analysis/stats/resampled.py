"""A task's points on every scale with their replicates: all of them, or those of the look that ER is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats.agreement import Estimated
from analysis.stats.group_jackknife import SIDES, Counts
from analysis.stats.raw_scores import RawScores, raw_scores
from analysis.stats.resampling import jackknife_scores, with_variances
from analysis.stats.study_group import Group
from analysis.stats.task_points import TaskPoints


@dataclass(frozen=True, eq=False)
class Resampled:
    """Points with their replicates; `counts` as they were resampled from; `why` these are the points of all looks where
    another choice was asked for."""

    task_points: TaskPoints
    notes: list[str]
    counts: Mapping[str, Counts] | Estimated | None = None
    why: str = ""

    @cached_property
    def groups(self) -> Mapping[str, Mapping[str, Group]]:
        """The groups on every scale, by its name."""
        return {name: self.task_points.groups_on(scale) for name, scale in SCALES.items()}

    def at_look(self) -> Resampled:
        """Return the same of the points that ER is of."""
        task_points, rows, why = self.task_points.at_look()
        if task_points is not self.task_points:
            return Resampled(task_points, self.notes, self._counts_of(rows))
        if why:
            return replace(self, why=why, notes=[*self.notes, why])
        return self

    def of_metric(self, metric: str) -> Resampled:
        """Return the points that have another metric's scores, columns id_<metric> and ood_<metric>, with these."""
        points = self.task_points.points
        scores = {side: pd.to_numeric(points[f"{side}_{metric}"], errors="coerce").astype(float) for side in SIDES}
        rows = np.flatnonzero(scores["id"].notna() & scores["ood"].notna())
        points = points.assign(metric=metric, **scores).drop(columns="id_variance", errors="ignore")
        own = points.iloc[rows].reset_index(drop=True)
        return resample(own, self._counts_of(rows), self.task_points.options)

    def _counts_of(self, rows: np.ndarray) -> Mapping[str, Counts] | None:
        if self.counts is None or isinstance(self.counts, Estimated):  # an estimate is of the points that it came with
            return None
        return {side: counts.take(rows) for side, counts in self.counts.items()}


def resample(points: pd.DataFrame, counts: Mapping[str, Counts] | Estimated | None, options: Options) -> Resampled:
    """Return the points of all looks; `counts` of estimated scores are the estimate with its replicates."""
    if isinstance(counts, Estimated):
        scores, notes, varied = [*counts.replicates], list[str](), points
    else:
        (scores, notes), varied = jackknife_scores(points, counts, options), with_variances(points, counts)
    return Resampled(TaskPoints.of(varied, options, scores), notes, counts)


def scores_of(points: pd.DataFrame, options: Options, counts: Mapping[str, Counts] | None = None) -> RawScores:
    """Return the raw scores of one task alone, as `study.analyse` makes them: no line is fitted, which takes a
    fraction of the time."""
    replicates, _ = jackknife_scores(points, counts, options)
    return raw_scores(TaskPoints.of(points, options, replicates))
