"""A number with two levels in a study of two groups: its slope is their difference, and is given as that, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.findings import records
from analysis.stats.score_differences import BEST
from analysis.study import Analysis


def pair_of(analysis: Analysis, score: str) -> tuple[int, Mapping[str, Any]] | None:
    """Return the number and the row of the difference between the only two groups beside the baseline, among those from
    the best group; None where there are not two, or neither is best."""
    baseline = analysis.options.baseline
    if len(set(analysis.scores.groups["group"]) - {baseline}) != 2:
        return None
    for index, row in enumerate(records(analysis.scores.differences)):
        if (row["family"], row["score"]) == (BEST, score) and baseline not in (row["a"], row["b"]):
            return index, row
    return None


def levels_of(analysis: Analysis, factor: str) -> tuple[float, float] | None:
    """Return the lower and the higher level of a number that has two among the groups, else None."""
    points, baseline = analysis.points, analysis.options.baseline
    values = pd.to_numeric(points.loc[points["group"] != baseline, factor], errors="coerce").dropna()
    values = np.unique(values[values > 0].to_numpy(float))
    return (float(values[0]), float(values[1])) if len(values) == 2 else None
