"""The amount of a factor at which half of the full gain in ER is reached.

Owns the table of half gains. The curve is the mean ER of the levels, straight between them on the logarithmic axis.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.stats.estimates import Estimate
from analysis.stats.factor_coding import FACTORS
from analysis.stats.group_means import MeanER
from analysis.stats.quantities import weighted
from analysis.stats.robustness import Baseline
from analysis.stats.study_group import Group

HALF_GAIN = ("factor", "gain", "gain_low", "gain_high", "half_at", "half_low", "half_high")
LEAST_LEVELS = 3
STEPS = 200  # of the search, over the range of the levels


def half_gain_table(groups: Mapping[str, Group], means: Mapping[str, MeanER], baseline: Baseline) -> pd.DataFrame:
    """Return one row where the study varies exactly one number over three levels or more, and the ER at its highest
    level is above the baseline's: that gain (percentage points), and the amount at which the curve first reaches half
    of it.

    half_low, half_high   all amounts at which "half" cannot be refuted: ER(x) - gain/2 is a weighted sum of means, and
    its 95 % interval holds 0 (Fieller 1954). Empty where that goes on beyond the levels: the amount is then lower than
    the lowest, or not bounded from above. Empty `half_at`: more than half is reached at the lowest level already.
    """
    empty = pd.DataFrame(columns=list(HALF_GAIN))
    names = [name for name in means if name != baseline.name]
    levels = {factor: [_level(groups[name].points, factor) for name in names] for factor in FACTORS}
    varied = [factor for factor, values in levels.items() if len(set(values)) > 1]
    if not varied or any(value is None for value in levels[varied[0]]):
        return empty
    factor = varied[0]
    amount = np.array(levels[factor], float)
    alone = len(set(amount)) == len(names) >= LEAST_LEVELS
    if not alone or not all(_follows(levels[other], amount) for other in varied[1:]):
        return empty
    order = np.argsort(amount)
    x, quantities = np.log10(amount[order]), [means[names[i]].quantity for i in order]
    gain = quantities[-1].estimate
    if not gain.low > 0:
        return empty

    def above_half(at: float) -> Estimate:
        """ER at `at` less half the gain."""
        weights = [float(np.interp(at, x, row)) for row in np.eye(len(x))]
        weights[-1] -= 0.5
        return weighted(quantities, weights).estimate

    grid = np.linspace(x[0], x[-1], STEPS)
    above = [above_half(at) for at in grid]
    value = np.array([one.value for one in above])
    possible = np.array([not (one.low > 0 or one.high < 0) for one in above])
    reached = int(np.argmax(value >= 0))
    at = (
        np.nan
        if reached == 0
        else float(np.interp(0, value[reached - 1 : reached + 1], grid[reached - 1 : reached + 1]))
    )
    within = np.flatnonzero(possible)
    low = np.nan if not len(within) or possible[0] else 10 ** grid[within[0]]
    high = np.nan if not len(within) or possible[-1] else 10 ** grid[within[-1]]
    row = (factor, gain.value, gain.low, gain.high, 10**at, low, high)
    return pd.DataFrame([row], columns=list(HALF_GAIN))


def _level(points: pd.DataFrame, factor: str) -> float | None:
    """The positive number that all points of a group share, or None."""
    values = pd.to_numeric(points[factor], errors="coerce").dropna().unique() if factor in points else []
    return float(values[0]) if len(values) == 1 and values[0] > 0 else None


def _follows(values: list[float | None], amount: np.ndarray) -> bool:
    """Whether another number only moves in proportion, as images processed do at a fixed number of epochs."""
    numbers = np.array([np.nan if value is None else value for value in values])
    return bool(np.ptp(numbers / amount) <= 1e-9 * abs(numbers / amount).max()) if np.isfinite(numbers).all() else False
