"""Differences of ER: every group against the baseline, and every pair of groups, each with its interval and tests.

Owns the contrasts table: intervals, p by Holm, equivalence within the margin, and the smallest detectable effect. Which
pairs there are, and over which ID scores each is made, serves the comparison of lines (`ancova`) too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import quantities
from analysis.stats.estimates import Estimate
from analysis.stats.group_means import mean_er
from analysis.stats.quantities import Quantity
from analysis.stats.robustness import Baseline
from analysis.stats.study_group import Group

COLUMNS = (
    "a", "b", "delta_er", "low", "high", "p", "p_adjusted", "margin", "equivalent", "smallest_detectable", "id_low",
    "id_high",
)  # fmt: skip
MORE = ("low90", "high90", "se", "df", "family", "p_equivalent", "without_low", "without_high",
        "survived", "not_robust_to")  # fmt: skip
LEVEL = 0.05
MOST_GROUPS = 25  # beyond it (300 pairs) only the contrasts with the baseline are made: nobody reads more
NOT_KNOWN = Estimate(np.nan, np.nan, np.nan)
UNKNOWN = Quantity(np.nan)


def holm(p: Sequence[float]) -> np.ndarray:
    """Return Holm's (1979) step-down adjustment of one family of p-values; NaN stays NaN and does not count."""
    values = np.asarray(p, float)
    adjusted, finite = np.full(len(values), np.nan), np.flatnonzero(np.isfinite(values))
    order = finite[np.argsort(values[finite], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def by_family(table: pd.DataFrame, p: str, adjusted: str) -> None:
    """Fill the column `adjusted` with Holm's adjustment of `p` within each family of the table, in place."""
    values, families = table[p].to_numpy(float), table["family"].to_numpy(object)
    result = np.full(len(table), np.nan)
    for family in dict.fromkeys(families):
        result[families == family] = holm(values[families == family])
    table[adjusted] = result


def adjust(table: pd.DataFrame) -> pd.DataFrame:
    """Adjust both p-values of a table of differences by Holm per family: whether they differ from 0 (`p_adjusted`) and
    whether they lie beyond the margin (`p_equivalent`, which decides `equivalent`). Of twenty groups at the margin one
    would else be called equal by chance. Return the table."""
    by_family(table, "p", "p_adjusted")
    by_family(table, "p_equivalent", "p_equivalent")
    table["equivalent"] = table["p_equivalent"] <= LEVEL
    return table


@dataclass(frozen=True, eq=False)
class Pair:
    """Two groups to compare, a minus b, over the ID scores low..high that both and the baseline's line have; nothing is
    shared where low > high. The family is `baseline` where b is the baseline, else `pairs`."""

    a: Group
    b: Group
    low: float
    high: float
    family: str


def pairs(groups: Mapping[str, Group], baseline: Baseline) -> Iterable[Pair]:
    """Yield every group against the baseline, then all pairs of groups, the later one less the earlier."""
    others = [group for group in groups.values() if group.name != baseline.name]
    compared = [(group, groups[baseline.name]) for group in others]
    compared += list(combinations(reversed(others), 2)) if len(others) <= MOST_GROUPS else []
    for a, b in compared:
        ids = [group.points["id"] for group in (a, b) if group.name != baseline.name]
        yield Pair(
            a,
            b,
            max(baseline.low, *(id_.min() for id_ in ids)),
            min(baseline.high, *(id_.max() for id_ in ids)),
            "baseline" if b.name == baseline.name else "pairs",
        )


def contrast(groups: Mapping[str, Group], baseline: Baseline, margin: float, refused: bool = False) -> pd.DataFrame:
    """Return one row per contrast, a minus b, in percentage points of ER: `COLUMNS`, and `MORE`: the 90 % interval, the
    standard error with its degrees of freedom, the family.

    A group against the baseline is the group's mean ER (the baseline's is 0 by construction), over the ID scores that
    the group and the baseline share; two groups are compared over the ID scores that both and the baseline share, so
    that no difference comes from looking at different parts of the line. Each of the two families has its own Holm
    adjustment. Where nothing is shared, or ER is `refused`, the numbers are empty.
    """
    rows = [_row(pair, baseline, margin, refused) for pair in pairs(groups, baseline)]
    return adjust(pd.DataFrame(rows, columns=[*COLUMNS, *MORE]))


def difference(pair: Pair, baseline: Baseline) -> Quantity | None:
    """Return the difference of mean ER over the shared ID scores, or None where one of the two has no point there."""
    compared = [pair.a] if pair.family == "baseline" else [pair.a, pair.b]
    means = [mean_er(group, baseline, pair.low, pair.high) for group in compared]
    if any(mean is None for mean in means):
        return None
    return quantities.weighted([mean.quantity for mean in means if mean], [1.0, -1.0][: len(means)])


def row(quantity: Quantity, margin: float) -> dict[str, object]:
    """Return the columns of one difference in percentage points, before `adjust`."""
    estimate, without = quantity.estimate, quantity.without_one
    return {
        "delta_er": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "p": estimate.p,
        "p_adjusted": np.nan,
        "margin": margin,
        "equivalent": False,
        "smallest_detectable": estimate.smallest_detectable,
        "low90": estimate.inner[0],
        "high90": estimate.inner[1],
        "se": estimate.se,
        "df": estimate.df,
        "p_equivalent": estimate.p_outside(margin),
        "without_low": without[0],
        "without_high": without[1],
        "survived": "",
        "not_robust_to": "",
    }


def state(row: Mapping[str, Any]) -> str:
    """Return the state of a row with low, high, p_adjusted and equivalent: `differs` where its 95 % interval excludes 0
    and p after Holm's correction is at most 5 %, else `equivalent` (no effect within the margin), or `open`; `fragile`
    where either does not hold in some check (column `not_robust_to`)."""
    kind = claimed(row)
    return "fragile" if kind != "open" and row.get("not_robust_to") else kind


def claimed(row: Mapping[str, Any]) -> str:
    """Return the state of a row without regard to the checks."""
    if (row["low"] > 0 or row["high"] < 0) and row["p_adjusted"] <= LEVEL:
        return "differs"
    return "equivalent" if row["equivalent"] else "open"


def _row(pair: Pair, baseline: Baseline, margin: float, refused: bool) -> dict[str, object]:
    quantity = None if refused else difference(pair, baseline)
    shared = pair.low <= pair.high
    return {
        "a": pair.a.name,
        "b": pair.b.name,
        **row(UNKNOWN if quantity is None else quantity, margin),
        "id_low": pair.low if shared else np.nan,
        "id_high": pair.high if shared else np.nan,
        "family": pair.family,
    }
