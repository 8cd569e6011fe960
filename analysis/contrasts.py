"""Differences of ER: every group against the baseline, and every pair of groups, each with its interval and tests.

Owns the contrasts table: intervals, p by Holm, equivalence within the margin, and the smallest detectable effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from analysis import robustness
from analysis.bootstrap import Estimate, Weights
from analysis.robustness import Baseline

COLUMNS = (
    "a", "b", "delta_er", "low", "high", "p", "p_adjusted", "margin", "equivalent", "smallest_detectable", "id_low",
    "id_high",
)  # fmt: skip
MOST_GROUPS = 25  # beyond it (300 pairs) only the contrasts with the baseline are made: nobody reads more


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's (1979) step-down adjustment of one family of p-values; NaN stays NaN and does not count."""
    p = np.asarray(p, float)
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def contrast(
    groups: Mapping[str, pd.DataFrame],
    weights: Mapping[str, Weights],
    baseline: Baseline,
    margin: float,
    refused: bool = False,
) -> pd.DataFrame:
    """One row per contrast, a minus b, in percentage points of ER: `COLUMNS`, and for the report's own use the 90 %
    interval (low90, high90) and the family.

    groups, weights   by name, in the order of the report; the points carry id, x, er, extrapolated
    A group against the baseline is the group's mean ER (the baseline's is 0 by construction), over the ID scores that
    the group and the baseline share; two groups are compared over the ID scores that both and the baseline share, so
    that no difference comes from looking at different parts of the line. Each of the two families has its own Holm
    adjustment. Where nothing is shared, or ER is `refused`, the numbers are empty.
    """
    names = [name for name in groups if name != baseline.name]
    rows = [_row(name, baseline.name, [name], groups, weights, baseline, margin, refused) for name in names]
    pairs = combinations(reversed(names), 2) if len(names) <= MOST_GROUPS else ()
    rows += [_row(a, b, [a, b], groups, weights, baseline, margin, refused) for a, b in pairs]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "low90", "high90", "family"])
    table["p_adjusted"] = table["p_adjusted"].astype(float)
    for family in ("baseline", "pairs"):
        member = table["family"] == family
        table.loc[member, "p_adjusted"] = holm(table.loc[member, "p"])
    return table


def _row(
    a: str,
    b: str,
    compared: list[str],
    groups: Mapping[str, pd.DataFrame],
    weights: Mapping[str, Weights],
    baseline: Baseline,
    margin: float,
    refused: bool,
) -> dict[str, object]:
    low = max(baseline.low, *(groups[name]["id"].min() for name in compared))
    high = min(baseline.high, *(groups[name]["id"].max() for name in compared))
    means = [robustness.mean_of(groups[name], weights[name], baseline, low, high) for name in compared]
    known = [mean for mean in means if mean is not None]
    if refused or len(known) < len(compared):
        estimate = Estimate(np.nan, np.nan, np.nan)
    else:
        estimate = robustness.weighted(known, [1.0, -1.0][: len(known)], baseline)
    return {
        "a": a,
        "b": b,
        "delta_er": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "p": estimate.p,
        "p_adjusted": np.nan,
        "margin": margin,
        "equivalent": estimate.equivalent(margin),
        "smallest_detectable": estimate.smallest_detectable,
        "id_low": low if low <= high else np.nan,
        "id_high": high if low <= high else np.nan,
        "low90": estimate.inner[0],
        "high90": estimate.inner[1],
        "family": "baseline" if len(compared) == 1 else "pairs",
    }
