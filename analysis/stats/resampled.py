"""A task's points on every scale with their replicates: all of them, or those of the look that ER is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats.agreement import Estimated
from analysis.stats.group_jackknife import Counts
from analysis.stats.raw_scores import RawScores, raw_scores
from analysis.stats.resampling import jackknife_scores, with_variances
from analysis.stats.study_group import Group
from analysis.stats.task_points import TaskPoints


@dataclass(frozen=True, eq=False)
class Resampled:
    """Points with their replicates; `groups` are those of every scale, by its name; `why` these are the points of all
    looks where another choice was asked for."""

    task_points: TaskPoints
    groups: Mapping[str, Mapping[str, Group]]
    notes: list[str]
    why: str = ""

    def at_look(self) -> Resampled:
        """Return the same of the points that ER is of."""
        task_points, why = self.task_points.at_look()
        if task_points is self.task_points:
            return replace(self, why=why, notes=[*self.notes, *([why] if why else [])])
        return Resampled(task_points, _groups_of(task_points), self.notes)


def resample(points: pd.DataFrame, counts: Mapping[str, Counts] | Estimated | None, options: Options) -> Resampled:
    """Return the points of all looks; `counts` of estimated scores are the estimate with its replicates."""
    if isinstance(counts, Estimated):
        scores, notes, counts = [*counts.replicates], list[str](), None
    else:
        scores, notes = jackknife_scores(points, counts, options)
    task_points = TaskPoints.of(with_variances(points, counts), options, scores)
    return Resampled(task_points, _groups_of(task_points), notes)


def _groups_of(task_points: TaskPoints) -> dict[str, dict[str, Group]]:
    return {name: task_points.groups_on(scale) for name, scale in SCALES.items()}


def scores_of(points: pd.DataFrame, options: Options, counts: Mapping[str, Counts] | None = None) -> RawScores:
    """Return the raw scores of one task alone, as `study.analyse` makes them: no line is fitted, which takes a
    fraction of the time."""
    replicates, _ = jackknife_scores(points, counts, options)
    return raw_scores(TaskPoints.of(points, options, replicates))
