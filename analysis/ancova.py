"""Do two groups lie on one line? Slopes are compared first, then heights; where slopes differ, at three ID scores.

Owns the tables of analysis of covariance, h(OOD) ~ h(ID) * group over the ID scores that both have, clustered by trial
(Miller et al. 2021 ask the same of families of models). Differences of slope and height are on the transformed axis,
those at ID scores in points of ER.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from analysis import contrasts, robustness, uncertainty
from analysis.contrasts import Pair
from analysis.robustness import Arm, Baseline, OwnLine
from analysis.trend import clip
from analysis.uncertainty import Estimate

COLUMNS = (
    "a", "b", "slope_difference", "slope_low", "slope_high", "slope_p", "slope_p_adjusted", "slopes_differ",
    "height_difference", "height_low", "height_high", "height_p", "height_p_adjusted", "heights_differ", "family",
)  # fmt: skip
AT_ID = (
    "a", "b", "id", "delta_er", "low", "high", "p", "p_adjusted", "margin", "equivalent", "smallest_detectable",
    "low90", "high90", "se", "df", "family", "p_equivalent",
    "without_low", "without_high", "survived", "not_robust_to",
)  # fmt: skip
SHARES = (0.25, 0.5, 0.75)  # of the shared ID range, on the transformed axis: where lines of unequal slope are compared
LEVEL = 0.05


def compare(arms: Mapping[str, Arm], baseline: Baseline, margin: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `COLUMNS`, one row per pair whose arms both have a line over the ID scores that they share, and
    `AT_ID`, for pairs whose slopes differ.

    First the difference of the slopes, then of the heights given a common slope (the weighted mean of both slopes),
    each with 95 % interval, p, and Holm's p in its family; `slopes_differ` and `heights_differ` are that p at 5 %.
    Where slopes differ, the distance of the two lines in percentage points at a quarter, half and three quarters of
    the shared range, with Holm's p over these rows per family.
    """
    known = []
    for pair in contrasts.pairs(arms, baseline):
        near = [arm.between(pair.low, pair.high) for arm in (pair.a, pair.b)]
        lines = [robustness.own_line(arm) for arm in near if len(arm.points)]
        if len(lines) == 2 and lines[0] is not None and lines[1] is not None:
            known.append((pair, near, (lines[0], lines[1])))
    table = pd.DataFrame([_row(pair, *_differences(near, lines)) for pair, near, lines in known], columns=list(COLUMNS))
    for what in ("slope", "height"):
        contrasts.by_family(table, f"{what}_p", f"{what}_p_adjusted")
        table[f"{what}s_differ"] = table[f"{what}_p_adjusted"] <= LEVEL
    differ = [each for each, shown in zip(known, table["slopes_differ"], strict=True) if shown]
    rows = [row for pair, _, lines in differ for row in _at_ids(pair, lines, baseline, margin)]
    return table, contrasts.adjust(pd.DataFrame(rows, columns=list(AT_ID)))


def _differences(near: list[Arm], lines: tuple[OwnLine, OwnLine]) -> tuple[Estimate, Estimate]:
    """The difference of slopes, and of heights given a common slope.

    With one slope for both, the adjusted difference of means is the vertical distance of the two own lines at
    w_b x_a + w_a x_b (x the mean ID scores, w the shares of the sums of squares): the same number, and it stays defined
    where slopes differ.
    """
    slope = uncertainty.weighted([lines[0].slope, lines[1].slope], [1.0, -1.0])
    x = [arm.points["x"].to_numpy() for arm in near]
    squares = [float(((own - own.mean()) ** 2).sum()) for own in x]
    at = (squares[1] * x[0].mean() + squares[0] * x[1].mean()) / sum(squares)
    height = uncertainty.weighted([own.quantity(at, 1.0, float(own.line.at(at))) for own in lines], [1.0, -1.0])
    return slope.estimate, height.estimate


def _row(pair: Pair, slope: Estimate, height: Estimate) -> dict[str, object]:
    row: dict[str, object] = {"a": pair.a.name, "b": pair.b.name, "family": pair.family}
    for what, found in (("slope", slope), ("height", height)):
        row |= {f"{what}_difference": found.value, f"{what}_low": found.low, f"{what}_high": found.high}
        row[f"{what}_p"] = found.p
    return row


def _at_ids(
    pair: Pair, lines: tuple[OwnLine, OwnLine], baseline: Baseline, margin: float
) -> Iterator[dict[str, object]]:
    ends = baseline.scale.h(clip(np.array([pair.low, pair.high]), None))
    for share in SHARES:
        x = float(ends[0] + share * (ends[1] - ends[0]))
        apart = uncertainty.weighted([own.score_at(x, baseline.scale) for own in lines], [1.0, -1.0])
        at = {
            "a": pair.a.name,
            "b": pair.b.name,
            "family": pair.family,
            "id": float(baseline.scale.inverse(np.array(x))),
        }
        yield {**at, **contrasts.row(apart, margin)}
