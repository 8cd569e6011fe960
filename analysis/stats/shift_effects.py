"""Effects on several shifts of the same trained models: one table, their mean, and whether they are of one size.

A trial is tested on every shift, so effects on two shifts share its luck, the baseline's, and that of the ID images:
they are no independent numbers, and Cochran's Q, which takes them for that, would be wrong. What each trial contributes
to the effect on each shift gives their joint covariance, robust to clusters (`Quantity`). Owns `heterogeneity`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from analysis.stats import contrasts, quantities
from analysis.stats.contrasts import UNKNOWN, adjust, by_family
from analysis.stats.estimates import Part, combine
from analysis.stats.quantities import Quantity
from analysis.stats.score_differences import annotated

LEAST_SHIFTS = 2  # that are compared
Pair = tuple[str, str]
EFFECTS = ("shift", *contrasts.COLUMNS, "family", "survived", "not_robust_to")
MEANS = (
    "a", "b", "shifts", "delta_er", "low", "high", "p", "p_adjusted", "margin", "equivalent", "smallest_detectable",
    "shown", "kind_low", "kind_high", "spread", "f", "df1", "df2", "p_spread", "p_spread_adjusted", "lowest",
    "lowest_er", "highest", "highest_er", "family", "survived", "not_robust_to", "low90", "high90",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Spread:
    """Whether effects are of one size: the standard deviation of the true ones (`sd`, percentage points; 0 where they
    scatter no more than chance has them), and the test of none, F with its degrees of freedom and p. All NaN where the
    error of an effect is not known."""

    sd: float = np.nan
    f: float = np.nan
    df1: float = np.nan
    df2: float = np.nan
    p: float = np.nan


@dataclass(frozen=True, eq=False)
class ShiftEffects:
    """The effects on one shift: differences of mean ER by pair of groups, with the ID scores that both have."""

    name: str
    effects: Mapping[Pair, Quantity] = field(default_factory=dict)
    ids: Mapping[Pair, tuple[float, float]] = field(default_factory=dict)
    families: Mapping[Pair, str] = field(default_factory=dict)


def heterogeneity(effects: Sequence[Quantity]) -> Spread:
    """Test whether the true effects d_1, ..., d_S on S shifts are equal.

    With V their joint covariance and C = I - 11'/S, the sum of squared deviations d'Cd has the mean tr(CV) under
    equality; F = d'Cd / tr(CV) is taken to have f1 = tr(CV)^2 / tr(CVCV) and f1 x df degrees of freedom, df those of
    V by Satterthwaite. Of one group of trials this is the analysis of variance of repeated measures with the correction
    of Greenhouse and Geisser (1959); of any design with a covariance that may be singular, as with fewer trials than
    shifts, the ANOVA-type statistic of Brunner, Dette and Munk (1997, JASA 92:1494). The spread is by moments, the
    random-effects estimate of DerSimonian and Laird with dependent effects: sd^2 = (d'Cd - tr(CV)) / (S - 1).
    """
    count = len(effects)
    if count < LEAST_SHIFTS:
        return Spread()
    values = np.array([effect.value for effect in effects])
    whole = float(((values - values.mean()) ** 2).sum())
    mean = quantities.weighted(effects, [1 / count] * count)
    df = _degrees_of_freedom([quantities.weighted([effect, mean], [1.0, -1.0]) for effect in effects])
    centre = np.eye(count) - 1 / count
    covariance = centre @ _covariance(effects) @ centre
    expected, squares = float(np.trace(covariance)), float((covariance**2).sum())
    if not np.isfinite(df) or not expected > 0 or not squares > 0:
        return Spread()
    f, df1 = whole / expected, expected**2 / squares
    sd = float(np.sqrt(max(whole - expected, 0.0) / (count - 1)))
    return Spread(sd, f, df1, df1 * df, float(fdtrc(df1, df1 * df, f)))


def _covariance(effects: Sequence[Quantity]) -> np.ndarray:
    """The joint covariance of numbers that rest on the same clusters and test groups, float [S, S].

    What trials and test groups have in common (`Quantity.double_counted`) is in both terms and not subtracted, since it
    is known of every effect by itself, not of pairs. So V is a little too large, and the test finds too little.
    """
    count = len(effects)
    covariance = np.zeros((count, count))
    by_unit: dict[str, np.ndarray] = {}
    by_source: dict[quantities.ErrorSource, np.ndarray] = {}
    for i, effect in enumerate(effects):
        for robust, combination in effect.trials.items():
            own = robust.effects @ combination
            by_unit.setdefault(robust.unit, np.zeros((len(own), count)))[:, i] += own
        for source, values in effect.replicates.items():
            by_source.setdefault(source, np.zeros((len(values), count)))[:, i] += values
    for contributions in by_unit.values():
        covariance += contributions.T @ contributions
    for source, values in by_source.items():
        apart = values - values.mean(0)
        covariance += source.factor * apart.T @ apart / len(apart)
    return covariance


def _degrees_of_freedom(deviations: Sequence[Quantity]) -> float:
    """Those of the summed variance of the effects' deviations from their mean: its sources are independent, and one
    source's share in each of them rests on the same clusters. NaN where one is not known."""
    by_source: dict[str, list[Part]] = {}
    for deviation in deviations:
        for part in deviation.parts:
            by_source.setdefault(part.name, []).append(part)
    parts = []
    for name, own in by_source.items():
        variance = sum(part.variance for part in own)
        weighted = sum(part.variance / part.df for part in own if part.variance > 0)  # harmonic: the fewer count more
        parts.append(Part(variance, variance / weighted if weighted > 0 else np.inf, name))
    return combine(0.0, parts).df


def effect_table(shifts: Sequence[ShiftEffects], margin: float) -> pd.DataFrame:
    """Return the difference of mean ER of every pair of groups on every shift, columns `EFFECTS`, percentage points;
    both p-values are adjusted by Holm over all shifts and pairs of a family."""
    rows = []
    for shift in shifts:
        for pair, family in shift.families.items():
            low, high = shift.ids.get(pair, (np.nan, np.nan))
            own = contrasts.row(shift.effects.get(pair, UNKNOWN), margin)
            rows.append({"shift": shift.name, "a": pair[0], "b": pair[1], **own, "id_low": low, "id_high": high,
                         "family": family})  # fmt: skip
    return _checked(adjust(_table(rows)), EFFECTS)


def mean_table(shifts: Sequence[ShiftEffects], effects: pd.DataFrame, margin: float) -> pd.DataFrame:
    """Return the mean over the shifts of every pair's effect, and whether it is of one size on all, columns `MEANS`.

    delta_er, low, high  the mean over these very shifts, with its interval; `low90` and `high90` are those of 90 %
    kind_low, kind_high  its interval as a mean over shifts of their kind, of which these are a sample: the spread of
                         the true effects is added, with as many degrees of freedom as there are shifts but one
    shown                on how many shifts the effect differs from 0 after Holm's correction over the whole table
    """
    rows = []
    for pair, family in _pairs(shifts).items():
        own = [(shift.name, shift.effects[pair]) for shift in shifts if pair in shift.effects]
        if len(own) < LEAST_SHIFTS:
            continue
        each = [effect for _, effect in own]
        mean, spread = quantities.weighted(each, [1 / len(own)] * len(own)), heterogeneity(each)
        kind = combine(mean.value, [*mean.parts, Part(spread.sd**2 / len(own), len(own) - 1.0, "shifts")])
        ordered = sorted(own, key=lambda one: one[1].value)
        table = effects.loc[(effects["a"] == pair[0]) & (effects["b"] == pair[1])]
        rows.append({
            "a": pair[0], "b": pair[1], "shifts": len(own), **contrasts.row(mean, margin),
            "shown": sum(contrasts.claimed(row) == "differs" for row in table.to_dict("records")),
            "kind_low": kind.low, "kind_high": kind.high, "spread": spread.sd, "f": spread.f, "df1": spread.df1,
            "df2": spread.df2, "p_spread": spread.p, "lowest": ordered[0][0], "lowest_er": ordered[0][1].value,
            "highest": ordered[-1][0], "highest_er": ordered[-1][1].value, "family": family,
        })  # fmt: skip
    table = adjust(_table(rows))
    table["p_spread"] = pd.to_numeric(table["p_spread"] if len(table) else pd.Series(dtype=float))
    by_family(table, "p_spread", "p_spread_adjusted")
    return _checked(table, MEANS)


def _pairs(shifts: Sequence[ShiftEffects]) -> dict[Pair, str]:
    return {pair: family for shift in shifts for pair, family in shift.families.items()}


def _table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*dict.fromkeys([*contrasts.COLUMNS, *contrasts.MORE, *EFFECTS, *MEANS])])


def _checked(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with, of each claim, whether it holds without any one trial."""
    rows = annotated({**row, "delta": row["delta_er"]} for row in table.to_dict("records"))
    return pd.DataFrame(rows, columns=list(columns))
