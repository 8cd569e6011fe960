"""Do two groups lie on one line? Slopes are compared first, then heights; where slopes differ, at three ID scores.

Owns the tables of analysis of covariance, h(OOD) ~ h(ID) * group, with whole trials resampled (Miller et al. 2021 ask
the same of families of models). Differences of slope and height are on the transformed axis, those at ID scores in
points of ER.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis import bootstrap, contrasts
from analysis.bootstrap import Quantity
from analysis.contrasts import Pair
from analysis.robustness import Arm, Baseline, OwnLine
from analysis.trend import clip

COLUMNS = (
    "a", "b", "slope_difference", "slope_low", "slope_high", "slope_p", "slope_p_adjusted", "slopes_differ",
    "height_difference", "height_low", "height_high", "height_p", "height_p_adjusted", "heights_differ", "family",
)  # fmt: skip
AT_ID = (
    "a", "b", "id", "delta_er", "low", "high", "p", "p_adjusted", "margin", "equivalent", "smallest_detectable",
    "low90", "high90", "se", "df", "family",
)  # fmt: skip
SHARES = (0.25, 0.5, 0.75)  # of the shared ID range, on the transformed axis: where lines of unequal slope are compared
LEVEL = 0.05


def ancova(arms: Mapping[str, Arm], lines: Mapping[str, OwnLine], baseline: Baseline) -> pd.DataFrame:
    """One row per pair whose arms both have a line (`COLUMNS`): the difference of their slopes, then of their heights
    given a common slope (the weighted mean of both slopes), each with 95 % interval, p, and Holm's p in its family.

    `slopes_differ` and `heights_differ` are Holm's p at 5 %. With one slope for both, the adjusted difference of means
    is the vertical distance of the two own lines at w_b x_a + w_a x_b (x the mean ID scores, w the shares of the sums
    of squares): the same number, and it stays defined where slopes differ.
    """
    rows = []
    for pair in contrasts.pairs(arms, baseline):
        if pair.a.name in lines and pair.b.name in lines:
            slope, height = _slopes(pair, lines).estimate, _heights(pair, lines).estimate
            rows.append(
                {"a": pair.a.name, "b": pair.b.name, "family": pair.family,
                 "slope_difference": slope.value, "slope_low": slope.low, "slope_high": slope.high, "slope_p": slope.p,
                 "height_difference": height.value, "height_low": height.low, "height_high": height.high,
                 "height_p": height.p}
            )  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for what in ("slope", "height"):
        contrasts.by_family(table, f"{what}_p", f"{what}_p_adjusted")
        table[f"{what}s_differ"] = table[f"{what}_p_adjusted"] <= LEVEL
    return table


def at_ids(
    arms: Mapping[str, Arm], lines: Mapping[str, OwnLine], baseline: Baseline, compared: pd.DataFrame, margin: float
) -> pd.DataFrame:
    """Where slopes differ (`compared` is the table of `ancova`), the distance of the two lines in percentage points at
    a quarter, half and three quarters of the shared ID range: columns `AT_ID`; Holm's p over these rows per family."""
    differ = {(row.a, row.b) for row in compared.itertuples() if row.slopes_differ}
    rows = []
    for pair in contrasts.pairs(arms, baseline):
        if (pair.a.name, pair.b.name) not in differ or pair.low >= pair.high:
            continue
        ends = baseline.scale.h(clip(np.array([pair.low, pair.high]), None))
        for share in SHARES:
            x = float(ends[0] + share * (ends[1] - ends[0]))
            scores = [lines[arm.name].score_at(x, baseline.scale) for arm in (pair.a, pair.b)]
            found = bootstrap.weighted(scores, [1.0, -1.0]).estimate
            rows.append(
                {"a": pair.a.name, "b": pair.b.name, "family": pair.family, **contrasts.told(found, margin),
                 "id": float(baseline.scale.inverse(np.float64(x)))}
            )  # fmt: skip
    table = pd.DataFrame(rows, columns=list(AT_ID))
    contrasts.by_family(table, "p", "p_adjusted")
    return table


def _slopes(pair: Pair, lines: Mapping[str, OwnLine]) -> Quantity:
    return bootstrap.weighted([lines[pair.a.name].slope, lines[pair.b.name].slope], [1.0, -1.0])


def _heights(pair: Pair, lines: Mapping[str, OwnLine]) -> Quantity:
    means, squares = zip(*((arm.points["x"].mean(), _squares(arm)) for arm in (pair.a, pair.b)), strict=True)
    x = (squares[1] * means[0] + squares[0] * means[1]) / sum(squares)
    heights = [lines[arm.name].quantity(x, 1.0, float(lines[arm.name].line.at(x))) for arm in (pair.a, pair.b)]
    return bootstrap.weighted(heights, [1.0, -1.0])


def _squares(arm: Arm) -> float:
    x = arm.points["x"].to_numpy()
    return float(((x - x.mean()) ** 2).sum())
