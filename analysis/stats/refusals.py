"""Why no effective robustness is given: the baseline makes no line, or one from which nothing can be expected."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.formatting import interval, number
from analysis.options import Options
from analysis.scales import PP
from analysis.stats.study_group import Group
from analysis.stats.task_points import Comparison
from analysis.stats.trend import MIN_POINTS


def no_line(groups: Mapping[str, Group], options: Options) -> str:
    """Return why the baseline's points make no line."""
    name = options.baseline
    count = len(groups[name].points) if name in groups else 0
    if count < MIN_POINTS:
        return f"the baseline {name!r} has {count} points, too few for a line"
    if len(options.ids) > 1:
        return (
            f"the ID sets of the baseline {name!r} cannot be told apart, or its plane falls: no expectation can be "
            "made of them"
        )
    return f"every point of the baseline {name!r} has the same ID score"


def refusals_of(comparison: Comparison, options: Options) -> list[str]:
    """Return why ER cannot be measured from the baseline's line, a sentence each; empty where it can.

    It must explain the baseline (R^2), rise for certain, and rise by more than the margin over the baseline's range: on
    a level line every expectation is the same, and ER only the OOD score under another name.
    """
    baseline, reference = comparison.baseline, comparison.groups[options.baseline]
    points, sure = reference.points, baseline.slope(reference).estimate
    if (points["id"] == points["ood"]).all():
        return [
            f"the ID and the OOD scores of {options.baseline!r} are the same numbers: there is no shift to speak of"
        ]
    why = []
    if not baseline.line.r2 >= options.min_r2:
        why.append(f"R² of the baseline line is {number(baseline.line.r2, 2)}, under the floor of {options.min_r2:g}")
    if baseline.line.slope <= 0 or sure.low <= 0:
        slope = number(baseline.line.slope, 2)
        if np.isfinite(sure.low):
            slope += f" ({interval(sure.low, sure.high, 2)})"
        if baseline.line.slope <= 0 and not sure.high > 0:
            why.append(f"the baseline line falls, slope {slope}: better ID scores go with worse OOD scores")
        else:
            why.append(
                f"the baseline line is not shown to rise, slope {slope}: {len(points)} points leave open whether a "
                "better ID score brings a better OOD score"
            )
    else:
        ends = baseline.scale.inverse(baseline.line.at(np.array([points["x"].min(), points["x"].max()])))
        rise = PP * float(ends[1] - ends[0])
        if rise < options.margin:
            why.append(
                f"the baseline line rises by {rise:.1f} points of OOD score over all of its ID scores, less than the "
                f"margin of {options.margin:g}: it is level, and ER the OOD score under another name"
            )
    return why
