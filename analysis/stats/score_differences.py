"""Differences of the groups' raw scores: every group against the baseline, and against the one that scores highest.

Owns both families with their intervals and tests, in percentage points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import contrasts, estimates, quantities
from analysis.stats.contrasts import claimed, holm
from analysis.stats.estimates import Estimate, keeps_half
from analysis.stats.quantities import Quantity
from analysis.stats.sensitivity import ONE_TRIAL

COLUMNS = (
    "a", "b", "score", "family", "delta", "low", "high", "p", "p_adjusted", "margin", "equivalent",
    "smallest_detectable", "low90", "high90", "se", "df", "p_equivalent", "without_low", "without_high", "survived",
    "not_robust_to", "picked_low", "picked_high",
)  # fmt: skip
BASELINE, BEST, TUNED = "baseline", "best", "tuned"  # the families


def differences(means: Mapping[str, Quantity], baseline: str, margin: float, score: str) -> pd.DataFrame:
    """Return both families of one score, columns `COLUMNS`; of more than `contrasts.MOST_GROUPS` groups none against
    the best, which would be one of very many pairs."""
    rows = _against_baseline(means, baseline, margin) if baseline in means else []
    if 2 <= len(means) <= contrasts.MOST_GROUPS + 1:
        rows += _against_best(means, margin)
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(score=score)


def against_tuned(means: Mapping[str, Quantity], baseline: str, label: str, margin: float, score: str) -> pd.DataFrame:
    """Return every group less the tuned baseline, whose mean is that of `baseline` in `means`, under its `label`. It
    was picked by validation scores, so nothing but the pick of the group widens an interval."""
    rows = _against_baseline(means, baseline, margin) if baseline in means else []
    rows = [{**row, "b": label, "family": TUNED} for row in rows]
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(score=score)


def _against_baseline(means: Mapping[str, Quantity], baseline: str, margin: float) -> list[dict[str, Any]]:
    """Every group less the baseline. Intervals are those of one difference each; `picked_low` and `picked_high` are of
    the group that is picked because it scores highest. The pick can be any of the m groups whose estimate is too high;
    it lies too low only where that of the truly best one does too. So m + 1 one-sided errors share the 5 %."""
    names = [name for name in means if name != baseline]
    every = [_minus(means, name, baseline) for name in names]
    many = _count(quantity.estimate for quantity in every)
    rows = []
    for name, quantity in zip(names, every, strict=True):
        low, high = _ends(quantity.estimate, estimates.LEVEL, many + 1)  # one-sided
        row = _row(quantity, name, baseline, BASELINE, margin)
        rows.append({**row, "picked_low": low, "picked_high": high})
    p, outside = ([row[column] for row in rows] for column in ("p", "p_equivalent"))
    return _adjusted(rows, holm(p), holm(outside))


def _against_best(means: Mapping[str, Quantity], margin: float) -> list[dict[str, Any]]:
    """Every group less the best one. The best is picked by the scores that are tested: what holds for all pairs of
    groups at once holds for those with it, whichever it is. p and intervals are both Bonferroni's, so that no p under
    5 % stands beside an interval with 0, and hold whatever groups share (seeds, cameras). Hsu's (1984) comparisons with
    the best need smaller steps; but they establish "no better than the best of the others", and of groups that are
    equally good one would be called lower in more than 5 % of studies."""
    best = max(means, key=lambda name: means[name].value)
    pairs = list(combinations(means, 2))
    every = [_minus(means, a, b).estimate for a, b in pairs]
    many = _count(every)
    p, outside = (
        np.minimum(many * np.array(each, float), 1.0)
        for each in ([one.p for one in every], [one.p_outside(margin) for one in every])
    )
    own = [i for i, pair in enumerate(pairs) if best in pair]
    rows = []
    for i in own:
        name = next(name for name in pairs[i] if name != best)
        quantity = _minus(means, name, best)
        rows.append(_row(quantity, name, best, BEST, margin) | _simultaneous(quantity.estimate, many))
    return _adjusted(rows, p[own], outside[own])


def _count(every: Iterable[Estimate]) -> int:
    """How many of them claim anything: one without an error does not."""
    return max(1, sum(one.se > 0 for one in every))


def _ends(estimate: Estimate, level: float, many: int) -> tuple[float, float]:
    """The ends, at a one-sided level, of an interval that is one of `many` by Bonferroni's inequality."""
    reach = estimate.reach(1 - (1 - level) / many)
    return estimate.value - reach, estimate.value + reach


def _simultaneous(estimate: Estimate, many: int) -> dict[str, float]:
    """The columns of a difference of which all is one of `many`."""
    (low, high), inner = _ends(estimate, estimates.TWO_SIDED, many), _ends(estimate, estimates.LEVEL, many)
    power = estimates.quantile(estimates.POWER, estimate.df) * estimate.se
    return {
        "low": low, "high": high, "low90": inner[0], "high90": inner[1],
        "smallest_detectable": high - estimate.value + power, "picked_low": low, "picked_high": high,
    }  # fmt: skip


def detectable(row: Mapping[str, Any]) -> float:
    """Return the true effect that the interval of the picked group would find with 80 % power, percentage points."""
    return float(row["picked_high"] - row["delta"] + estimates.quantile(estimates.POWER, row["df"]) * row["se"])


def _minus(means: Mapping[str, Quantity], a: str, b: str) -> Quantity:
    return quantities.weighted([means[a], means[b]], [1.0, -1.0])


def _row(quantity: Quantity, a: str, b: str, family: str, margin: float) -> dict[str, Any]:
    row = contrasts.row(quantity, margin)
    return {"a": a, "b": b, "score": "", "family": family, "delta": row.pop("delta_er"), **row}


def _adjusted(rows: list[dict[str, Any]], p: np.ndarray, outside: np.ndarray) -> list[dict[str, Any]]:
    """The rows with both adjusted p-values, and what they decide."""
    own = zip(rows, p, outside, strict=True)
    return annotated({**row, "p_adjusted": adjusted, "p_equivalent": beyond,
                      "equivalent": bool(beyond <= contrasts.LEVEL)} for row, adjusted, beyond in own)  # fmt: skip


def annotated(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of differences (column `delta`) with, of those that claim anything, whether that holds without any
    one trial, in the columns `survived` and `not_robust_to`."""
    made = []
    for row in rows:
        kind, low, high = claimed(row), row["without_low"], row["without_high"]
        within = -row["margin"] < low <= high < row["margin"]
        holds = keeps_half(row["delta"], low, high) if kind == "differs" else within
        marks = {} if kind == "open" else {"survived" if holds else "not_robust_to": ONE_TRIAL}
        made.append({**row, **marks})
    return made
