"""The scores of a task's points without each of its test groups, and their sampling variance, from counts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.stats import group_jackknife, reliability
from analysis.stats.group_jackknife import Counts, JackknifeScores
from ray_robust.metrics import METRICS


def jackknife_scores(
    points: pd.DataFrame, counts: Mapping[str, Counts] | None, options: Options
) -> tuple[list[JackknifeScores], list[str]]:
    """Every point's scores without each test group; empty, and why, where its counts do not give its very scores."""
    if counts is None or not len(points) or not (points["group"] == options.baseline).any():
        return [], []
    only = "intervals speak of the test groups as they are"
    metrics = set(points["metric"]) if "metric" in points else set()
    metric = str(next(iter(metrics))) if len(metrics) == 1 else ""
    if metric not in METRICS:
        return [], [f"the metric is not one that counts per group can give: {only}"]
    for side in group_jackknife.SIDES:
        again = group_jackknife.scores(metric, np.ones((1, len(counts[side].groups))), counts[side])[:, 0]
        if not np.allclose(again, points[side], rtol=0, atol=1e-9):
            return [], [f"the counts per group do not give the {side} scores: {only}"]
    if METRICS[metric].not_resampled:
        return [], [f"{metric} {METRICS[metric].not_resampled}: {only}"]
    made, notes = group_jackknife.leave_groups_out(counts, metric)
    if len(options.ids) > 1:  # of a plane the scores on all sets would have to move, of which one alone is counted
        made = [replace(scores, id=None) for scores in made if scores.ood is not None]
        notes = [*notes, "several ID sets: intervals speak of the ID test images as they are"]
    return made, notes


def with_variances(points: pd.DataFrame, counts: Mapping[str, Counts] | None) -> pd.DataFrame:
    """`points` with `id_variance`, the sampling variance of the ID score, where counts give it."""
    metrics = points["metric"].dropna().unique() if "metric" in points else []
    if counts is None or len(metrics) != 1:
        return points
    variance = reliability.variance_of(counts["id"], str(metrics[0]))
    return points if variance is None else points.assign(id_variance=variance)
