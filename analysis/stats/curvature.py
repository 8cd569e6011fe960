"""Does the baseline bend? Its line against a parabola, a natural cubic spline and RESET, each clustered by trial.

Owns the tests of curvature and the curves for the figure. All of it is on the transformed axes; bends are given in
percentage points of the OOD score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.scales import PP, Scale
from analysis.stats.estimates import Estimate
from analysis.stats.least_squares import least_squares
from analysis.stats.wald import Wald

KNOTS = {4: (0.05, 0.35, 0.65, 0.95), 3: (0.1, 0.5, 0.9)}  # quantiles of ID (Harrell 2015, section 2.4.6)
GRID = 65
CURVE = ("id", "line", "square", "spline")


def knots(x: np.ndarray) -> np.ndarray | None:
    """Return the knots of a natural cubic spline of x: four, three where four would fall together, else None."""
    for quantiles in KNOTS.values():
        at = np.quantile(x, quantiles)
        if (np.diff(at) > 1e-6 * np.ptp(x)).all() and len(np.unique(x)) > len(quantiles):
            return at
    return None


def spline(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the columns that a natural cubic spline with knots `at` has beyond a straight line: float [n, knots - 2].

    Cubic between the knots and straight outside of them (Stone and Koo 1985; formula of Harrell 2015, section 2.4.5).
    """
    last, before = at[-1], at[-2]
    cubes = np.maximum(x[:, None] - at, 0) ** 3
    tail = [
        cubes[:, j]
        - cubes[:, -2] * (last - at[j]) / (last - before)
        + cubes[:, -1] * (before - at[j]) / (last - before)
        for j in range(len(at) - 2)
    ]
    return np.column_stack(tail) / (last - at[0]) ** 2


@dataclass(frozen=True, eq=False)
class Bend:
    """The three tests and how far the parabola leaves the line.

    square        the test of the parabola's coefficient; `joint` by name those of spline and RESET, where there are any
    bend          parabola less line where they are farthest apart within the ID range, percentage points of OOD
    at            the ID score of that place, a fraction
    curve         columns `CURVE`, fractions; NaN for what cannot be fitted
    """

    square: Estimate
    joint: dict[str, Wald]
    bend: Estimate
    at: float
    curve: pd.DataFrame


def bend(x: np.ndarray, axes: np.ndarray, y: np.ndarray, clusters: np.ndarray, scale: Scale) -> Bend | None:
    """Return the tests of curvature; None where nothing but a line can be fitted. The baseline's points: x [points] on
    the axis of ID scores, `axes` [points, sets] the ID sets that it is made of (x itself for one), y [points].

    With several ID sets the powers are those of their common axis, which is what RESET (Ramsey 1969) does.
    """
    middle, half = (x.max() + x.min()) / 2, np.ptp(x) / 2
    u = (x - middle) / half if half > 0 else x * 0
    straight = np.column_stack([np.ones(len(x)), axes])
    k = straight.shape[1]
    curved = least_squares(np.column_stack([straight, u**2]), y, clusters)
    if curved is None:
        return None
    joint, at = {}, knots(u)
    more = {"spline": spline(u, at) if at is not None else None, "RESET": np.column_stack([u**2, u**3])}
    for name, columns in more.items():
        bent = least_squares(np.column_stack([straight, columns]), y, clusters) if columns is not None else None
        if bent is not None:
            joint[name] = bent.joint(range(k, bent.design.shape[1]))
    square = curved.coefficient(k)
    grid = np.linspace(-1, 1, GRID)
    # the parabola less the line is its coefficient times `gap`: what u^2 has beyond a straight line through the points
    both, along = (np.column_stack([np.ones(len(v)), v]) for v in (u, grid))
    height, projected = (along @ np.linalg.lstsq(both, np.column_stack([y, u**2]), rcond=None)[0]).T
    gap = PP * scale.rate(height) * (grid**2 - projected)
    where = int(np.abs(gap).argmax())
    distance = Estimate(square.value * gap[where], square.se * abs(gap[where]), square.df)
    curve = _curve(u, y, grid, at, scale).assign(id=scale.inverse(middle + half * grid))
    return Bend(square, joint, distance, float(curve["id"].iloc[where]), curve[list(CURVE)])


def _curve(u: np.ndarray, y: np.ndarray, grid: np.ndarray, at: np.ndarray | None, scale: Scale) -> pd.DataFrame:
    """Expected OOD scores along the ID range under each model, on the common axis."""
    columns = {"line": (u[:, None], grid[:, None]), "square": tuple(np.column_stack([v, v**2]) for v in (u, grid))}
    if at is not None:
        columns["spline"] = tuple(np.column_stack([v, spline(v, at)]) for v in (u, grid))
    curve = pd.DataFrame(columns=list(CURVE), index=range(len(grid)), dtype=float)
    for name, parts in columns.items():
        design, wide = (np.column_stack([np.ones(len(part)), part]) for part in parts)
        curve[name] = scale.inverse(wide @ np.linalg.lstsq(design, y, rcond=None)[0])
    return curve
