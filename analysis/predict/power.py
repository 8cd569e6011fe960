"""Power of a design before anything is trained: the smallest difference of ER that it would detect, and the smallest
margin within which it could prove that there is none.

Owns `Power`, one row per kind of contrast, from a `Design` and a `Spread`. Light enough for a plan: numpy and scipy's
special functions.

The analysis makes a contrast's error of independent parts, each with a variance and degrees of freedom, and tests it
by Student's t with Welch and Satterthwaite's degrees of freedom (`estimates.combine`). The power is that of this very
procedure: an error e and the parts' estimated variances are drawn `DRAWS` times (normal; chi-squared over its degrees
of freedom), with the standard error s that follows. A true difference D is found when D + e > t(97.5 %) s, so the
smallest one found in 80 % of sweeps is the 80 % quantile of t s - e. That a true difference of 0 lies within M is
proved when |e| + t(95 %) s < M (Schuirmann 1987), so the smallest such margin is the 80 % quantile of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.special import stdtrit

from analysis.predict.design import Design
from analysis.predict.spread import Spread
from analysis.stats.estimates import LEVEL, POWER, TWO_SIDED, Part, combine
from analysis.stats.factor_rows import LEAST_DF
from analysis.stats.robustness import LINE

DRAWS = 20_000  # the share of sweeps that a quantile stands for is then exact to 0.3 %
TRIALS = "trials"  # name of that cause of error; the line's is `LINE`
SEEDS = (1, 2, 3, 5, 10, 20, 50)  # what the table over seeds shows
MOST_SEEDS = 2_000
TREND = "trend over"  # begins the name of such a contrast


@dataclass(frozen=True)
class Power:
    """What a design can see of one kind of contrast; percentage points of ER (per tenfold for a trend), NaN where no
    interval could be given.

    detectable   the smallest difference found in 80 % of sweeps, two-sided 5 %
    after_holm   the same where its p must pass Holm's first step among all contrasts of its family
    provable     the smallest margin that a true difference of 0 is proved to lie within in 80 % of sweeps
    at_margin    the share of sweeps that prove a true difference of 0 to lie within the design's margin
    shares       of each cause of error, its share of the variance
    """

    kind: str
    family: int
    se: float
    detectable: float
    after_holm: float
    provable: float
    at_margin: float
    shares: Mapping[str, float]

    @property
    def of_trend(self) -> bool:
        """Whether it is per tenfold of a number."""
        return self.kind.startswith(TREND)


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of contrast: its weights over groups, and the size of the family that Holm's correction takes it with.

    own   its error from the trials: (variance in units of one trial's, degrees of freedom) of each independent part
    """

    name: str
    family: int
    weights: np.ndarray
    own: tuple[tuple[float, float], ...]


def kinds(design: Design) -> list[Kind]:
    """Return every kind of contrast that the design allows; none without a baseline, for there is no ER then."""
    count, trials, contrasts = len(design.groups), design.trials, []
    if not count or not design.baseline:
        return []
    mean = (1 / max(trials, 1), trials - 1.0)
    contrasts.append(Kind("a group against the baseline", count, np.ones(1), (mean,)))
    if count > 1:
        contrasts.append(Kind("two groups", comb(count, 2), np.array([1.0, -1.0]), (mean, mean)))
    return contrasts + _trends(design)


def _trends(design: Design) -> list[Kind]:
    """A trend over every number that varies, as `factors.factors` fits it: least squares over trials, whose degrees of
    freedom are those of the variance estimate CR2 (Bell and McCaffrey 2002)."""
    names, trials = list(design.factors), list(design.groups.values())
    if not names:
        return []
    x = np.repeat(np.array([design.factors[name] for name in names]).T, trials, axis=0)
    if len(x) < len(names) + 2:
        return []
    matrix = np.column_stack([np.ones(len(x)), x])
    if np.linalg.matrix_rank(matrix) < matrix.shape[1]:
        return []
    inverse = np.linalg.inv(matrix.T @ matrix)
    left = 1 - np.einsum("ij,jk,ik->i", matrix, inverse, matrix)
    trends, group = [], np.repeat(np.arange(len(trials)), trials)
    for number, name in enumerate(names, 1):
        by_trial = matrix @ inverse[number]
        pull = by_trial / np.sqrt(np.maximum(left, 1e-9))
        z = matrix * pull[:, None]
        small, cross = inverse @ (z.T @ z), np.einsum("ij,jk,ik->i", z, inverse, z)
        trace, square = (pull**2).sum() - cross.sum(), (pull**4).sum() - 2 * (pull**2) @ cross + np.trace(small @ small)
        df = float(trace**2 / square) if square > 1e-12 else np.nan
        own = (float(by_trial @ by_trial), df if df >= LEAST_DF else np.nan)
        weights = np.bincount(group, by_trial, len(trials))
        trends.append(Kind(f"{TREND} {name}, per tenfold", len(names), weights, (own,)))
    return trends


def power(design: Design, spread: Spread) -> list[Power]:
    """Return the power of every kind of contrast (see `kinds`)."""
    return [_power(kind, design, spread) for kind in kinds(design)]


def chance(kind: Kind, design: Design, spread: Spread, difference: float) -> float:
    """Return the share of sweeps that would find a true difference, in percentage points, with a two-sided 5 % test."""
    e, s, df = _drawn(by_seed(parts(kind, design, spread), design))
    return float(np.mean(np.abs(difference + e) > _t(df, TWO_SIDED) * s))


def parts(kind: Kind, design: Design, spread: Spread) -> list[Part]:
    """Return the parts of a contrast's error, as the analysis would find them (see `quantities.Quantity`)."""
    variance = spread.of_trial(design.finetunings)
    error = [Part(factor * variance, df if df >= 0.5 else np.nan, TRIALS) for factor, df in kind.own]
    shared = [(LINE, spread.of_line(design.baseline_finetunings), design.baseline)]
    shared += [(name, cause, design.test_groups.get(name, 0)) for name, cause in spread.test_groups.items()]
    return error + [cause.part(kind.weights, units, name) for name, cause, units in shared if units]


def by_seed(parts: Sequence[Part], design: Design) -> list[Part]:
    """Return the parts as the test takes them: where groups are paired by seed, trials and the line are one, since a
    seed's contributions to both are added before they are squared, with one degree of freedom less than there are
    seeds."""
    own = [part for part in parts if part.name in (TRIALS, LINE)]
    if not design.paired or not own:
        return list(parts)
    whole = combine(0.0, own)
    one = Part(whole.se**2, min(whole.df, design.trials - 1.0), TRIALS)
    return [one, *(part for part in parts if part not in own)]


def seeds_for(value: float, kind: int, design: Design, spread: Spread, of: Callable[[Power], float]) -> int | None:
    """Return the fewest seeds at which `of` the kind of contrast with that number is at most `value`; None where none
    are enough (the test groups set a floor), or more than `MOST_SEEDS`."""

    def enough(seeds: int) -> bool:
        planned = design.with_seeds(seeds)
        return bool(of(_power(kinds(planned)[kind], planned, spread)) <= value)

    high = 2
    while not enough(high):
        if high == MOST_SEEDS:
            return None
        high = min(2 * high, MOST_SEEDS)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _power(kind: Kind, design: Design, spread: Spread) -> Power:
    error = parts(kind, design, spread)
    total = sum(part.variance for part in error)
    if not np.isfinite(total) or any(np.isnan(part.df) for part in error):
        return Power(kind.name, kind.family, np.nan, np.nan, np.nan, np.nan, np.nan, {})
    shares: dict[str, float] = {}
    for part in error:
        shares[part.name] = shares.get(part.name, 0.0) + float(part.variance / total)
    e, s, df = _drawn(by_seed(error, design))
    inner = np.abs(e) + _t(df, LEVEL) * s
    return Power(
        kind=kind.name,
        family=kind.family,
        se=float(np.sqrt(total)),
        detectable=float(np.quantile(_t(df, TWO_SIDED) * s - e, POWER)),
        after_holm=float(np.quantile(_t(df, 1 - (1 - TWO_SIDED) / kind.family) * s - e, POWER)),
        provable=float(np.quantile(inner, POWER)),
        at_margin=float(np.mean(inner < design.margin)),
        shares=shares,
    )


def _drawn(error: Sequence[Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Error, standard error and degrees of freedom as so many sweeps would have them, float [DRAWS] each."""
    random = np.random.default_rng(0)
    e = np.sqrt(sum(p.variance for p in error)) * random.standard_normal(DRAWS)
    df = np.array([p.df for p in error])
    variances = np.array([p.variance for p in error]) * random.chisquare(df, (DRAWS, len(error))) / df
    total = variances.sum(1)
    return e, np.sqrt(total), total**2 / (variances**2 / df).sum(1)


def _t(df: np.ndarray, level: float) -> np.ndarray:
    """Student's t quantiles, float [n], interpolated in 1/df: a direct evaluation takes a second."""
    low, high = 1 / df.max(), 1 / df.min()
    knots = np.linspace(low, high, 400)
    return np.interp(1 / df, knots, stdtrit(1 / knots, level))
