"""The line through a group's own points, with its error over trials and test groups: what slopes are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.scales import PP, Scale
from analysis.stats.cluster_robust import Robust
from analysis.stats.least_squares import errors_of
from analysis.stats.quantities import ErrorSource, Quantity
from analysis.stats.study_group import Group
from analysis.stats.trend import Line, fit


@dataclass(frozen=True, eq=False)
class OwnLine:
    """The line through a group's own points with its error.

    errors      of intercept and slope, in this order, over the group's trials
    replicates  per source the slopes and intercepts without each test group, float [replicates] each
    """

    line: Line
    errors: Robust
    replicates: Mapping[ErrorSource, tuple[np.ndarray, np.ndarray]]

    def quantity(self, slope: float, intercept: float, value: float) -> Quantity:
        """Return the quantity `value`, whose derivative is `slope` by the slope and `intercept` by the intercept."""
        replicates = {source: slope * slopes + intercept * heights
                      for source, (slopes, heights) in self.replicates.items()}  # fmt: skip
        return Quantity(value, {self.errors: np.array([intercept, slope])}, replicates)

    @property
    def slope(self) -> Quantity:
        """The slope, per unit of the transformed axes."""
        return self.quantity(1.0, 0.0, self.line.slope)

    @property
    def intercept(self) -> Quantity:
        """The height at h(ID) = 0."""
        return self.quantity(0.0, 1.0, self.line.intercept)

    def score_at(self, x: float, scale: Scale) -> Quantity:
        """Return the OOD score of the line at the transformed ID score x, in percentage points."""
        height = float(self.line.at(x))
        rate = PP * float(scale.rate(np.float64(height)))
        return self.quantity(rate * x, rate, PP * float(scale.inverse(np.float64(height))))


def own_line(group: Group) -> OwnLine | None:
    """Return the line through a group's points with its error over trials and test groups; None where there is no
    line (see `trend.fit`)."""
    x, y = group.points["x"].to_numpy(), group.points["y"].to_numpy()
    line = fit(x, y)
    if line is None:
        return None
    replicates = {each.source: slopes_and_intercepts(each.x, each.y) for each in group.jackknife}
    design = np.column_stack([np.ones_like(x), x])
    name = f"trials of {group.name}"
    errors = errors_of(design, y, y - line.at(x), group.clusters(name))
    return OwnLine(line, errors, replicates)


def slopes_and_intercepts(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes and intercepts of least squares of y on x, both [points, replicates], along the first axis:
    [replicates] each; NaN where every x is the same."""
    mx, my = x.mean(0), y.mean(0)
    u = x - mx
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = (u * (y - my)).sum(0) / (u * u).sum(0)
    return slopes, my - slopes * mx
