"""How sure we are: whole trials are resampled within their group, and the baseline line is refitted each time.

Owns the weights (`draw`), the lines refitted under them (`lines`), `Quantity`, a number with all that makes it
uncertain, so that weighted sums of such numbers keep what they share, and `Estimate`, a number with an interval that
holds for few trials. Points of one trial always travel together: they share a pre-training and are not independent.

Bayesian bootstrap (Rubin 1981, Annals of Statistics 9:130): each replicate weighs the G trials by a flat Dirichlet draw
instead of by counts. Its spread is the classical one's but for the factor below, and it never degenerates, where one
classical resample in nine of three trials is the same trial three times.

Small samples. Three trials a group are the rule here, and percentile intervals are then far too narrow. So the
replicates' spread is only used as a standard error: for the mean of G trials its variance is S/(G(G+1)), S the sum of
squared deviations, and the unbiased one is S/(G(G-1)); hence the factor (G+1)/(G-p), p = 1, and Student's t with G-p
degrees of freedom. A line has two parameters: p = 1 + the share of the variance of x that lies between trials (1 when
every trial spans the line by itself, 2 when each trial is a single point, as in textbook regression). Independent parts
add up, with Welch-Satterthwaite degrees of freedom. `tests/test_analysis_coverage.py` shows how well that covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

REPLICATES = 2_000
MOST_CLUSTERS = 2_000
LEVEL = 0.95
TWO_SIDED = 0.5 + LEVEL / 2
POWER = 0.80


@dataclass(frozen=True)
class Weights:
    """Random weights of the clusters of one group: `values` float [replicates, clusters], rows summing to `clusters`.

    `codes` int [points] says which cluster a point belongs to.
    """

    values: np.ndarray
    codes: np.ndarray

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return self.values.shape[1]

    def of(self, points: np.ndarray) -> Weights:
        """The same draws for some of the points (int), without the clusters that none of them is in."""
        used, codes = np.unique(self.codes[points], return_inverse=True)
        return Weights(self.values[:, used], codes)

    def sums(self, per_point: np.ndarray) -> np.ndarray:
        """Sum of `per_point` [points] or [points, k] under each replicate: [replicates] or [replicates, k]."""
        totals = np.zeros((self.clusters, *per_point.shape[1:]))
        np.add.at(totals, self.codes, per_point)
        return self.values @ totals


def draw(clusters: Sequence[object], name: str, replicates: int = REPLICATES, seed: int = 0) -> Weights:
    """Weights for points with these cluster labels. Seeded by `name`, so that adding a group shifts no other.

    More than `MOST_CLUSTERS` are dealt at random into so many blocks that are resampled as wholes: the variance of a
    mean stays what it is, and memory no longer grows with the table.
    """
    codes, labels = pd.factorize(pd.Series(clusters).astype(str).to_numpy(dtype=object), sort=True)
    random, count = np.random.default_rng([seed, *name.encode()]), len(labels)
    if count > MOST_CLUSTERS:
        codes, count = (random.permutation(count) % MOST_CLUSTERS)[codes], MOST_CLUSTERS
    values = random.standard_exponential((replicates, count))
    return Weights(values * (count / values.sum(1, keepdims=True)), codes)


def lines(weights: Weights, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of y on x under every replicate: slopes [replicates], intercepts [replicates].

    From five sums per cluster, so the cost does not grow with the number of points. Centred first, for precision.
    """
    mx, my = x.mean(), y.mean()
    u, v = x - mx, y - my
    n, su, sv, suu, suv = weights.sums(np.column_stack([np.ones_like(u), u, v, u * u, u * v])).T
    slope = (suv - su * sv / n) / (suu - su * su / n)
    return slope, my + (sv - slope * su) / n - slope * mx


def planes(weights: Weights, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares of y [points] on the columns of x [points, sets] under every replicate: intercept and slopes, float
    [replicates, 1 + sets]. NaN where a replicate leaves no plane."""
    if x.shape[1] == 1:
        slopes, intercepts = lines(weights, x[:, 0], y)
        return np.column_stack([intercepts, slopes])
    mx, my, sets = x.mean(0), y.mean(), x.shape[1]
    design = np.column_stack([np.ones(len(x)), x - mx])
    outer = (design[:, :, None] * design[:, None, :]).reshape(len(x), -1)
    sums = weights.sums(np.column_stack([outer, design * (y - my)[:, None]]))
    square = sums[:, : (sets + 1) ** 2].reshape(-1, sets + 1, sets + 1)
    found = np.linalg.solve(square, sums[:, (sets + 1) ** 2 :, None])[:, :, 0]
    found[:, 0] += my - found[:, 1:] @ mx
    return found


def parameters(codes: np.ndarray, x: np.ndarray) -> float:
    """p of the module's docstring: 1 + the share of the variance of x [points] that lies between clusters."""
    u = x - x.mean()
    size = np.bincount(codes)
    between = (np.bincount(codes, u) ** 2 / size).sum()
    return 1.0 + float(between / (u @ u))


@dataclass(frozen=True)
class Part:
    """One independent source of error: its variance and the degrees of freedom behind it, NaN where unknown; its name
    and how many clusters (trials, groups) it rests on are for the tables."""

    variance: float
    df: float
    name: str = ""
    clusters: int = 0


def correction(clusters: int, p: float = 1.0) -> tuple[float, float]:
    """What a variance over replicates is multiplied by, and its degrees of freedom; NaN under half a degree."""
    df = clusters - p
    return ((clusters + 1) / df, df) if df >= 0.5 else (np.nan, np.nan)


def quantile(level: float, df: float) -> float:
    """Student's t quantile; NaN for unknown degrees of freedom."""
    return float(stdtrit(df, level)) if np.isfinite(df) else np.nan


def part(replicates: np.ndarray, clusters: int, p: float = 1.0, name: str = "") -> Part:
    """The corrected variance of replicate estimates [replicates] that rest on that many clusters."""
    factor, df = correction(clusters, p)
    return Part(float(np.var(replicates)) * factor, df, name, clusters)


@dataclass(frozen=True)
class Source:
    """A source of error that several numbers share, drawn once for all of them: the baseline's trials, the task's
    groups. `factor` corrects the variance of replicates, `df` are its degrees of freedom."""

    name: str
    clusters: int
    factor: float
    df: float


@dataclass(frozen=True, eq=False)
class Quantity:
    """A number and what makes it uncertain.

    own     errors that no other quantity has
    shared  per source of error the number's replicates under it, float [replicates]: those of a sum are the sums
    twice   per source the variance that `own` holds too: it is taken off the source's
    """

    value: float
    own: tuple[Part, ...] = ()
    shared: Mapping[Source, np.ndarray] = field(default_factory=dict)
    twice: Mapping[Source, float] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """Every source of error by itself."""
        return [*self.own, *(self._part(source) for source in self.shared)]

    def _part(self, source: Source) -> Part:
        """The variance under a source less what `own` holds of it. A difference of variances is known less well: its
        degrees of freedom shrink with the square of what is left (Satterthwaite 1946), to no less than one."""
        whole = float(np.var(self.shared[source])) * source.factor
        left = max(whole - self.twice.get(source, 0.0), 0.0) if np.isfinite(whole) else np.nan
        df = max(1.0, source.df * (left / whole) ** 2) if left > 0 else source.df
        return Part(left, df, source.name, source.clusters)

    @property
    def estimate(self) -> Estimate:
        """The number with its interval."""
        return combine(self.value, self.parts)


def weighted(quantities: Sequence[Quantity], weights: Sequence[float]) -> Quantity:
    """The sum of weights * quantities, whose own errors are independent: what they share adds up or cancels."""
    pairs = [(q, w) for q, w in zip(quantities, weights, strict=True) if w]
    shared: dict[Source, np.ndarray] = {}
    twice: dict[Source, float] = {}
    for quantity, weight in pairs:
        for source, replicates in quantity.shared.items():
            shared[source] = shared.get(source, 0.0) + weight * replicates
            twice[source] = twice.get(source, 0.0) + weight**2 * quantity.twice.get(source, 0.0)
    own = tuple(replace(part, variance=w * w * part.variance) for q, w in pairs for part in q.own)
    return Quantity(float(sum(w * q.value for q, w in pairs)), own, shared, twice)


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and degrees of freedom; `se` is NaN where no interval can be given."""

    value: float
    se: float
    df: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - quantile(TWO_SIDED, self.df) * self.se

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + quantile(TWO_SIDED, self.df) * self.se

    @property
    def p(self) -> float:
        """Two-sided p-value of "the truth is 0"."""
        return float(2 * stdtr(self.df, -abs(self.value) / self.se)) if self.se > 0 else np.nan

    @property
    def inner(self) -> tuple[float, float]:
        """The 90 % interval, which the equivalence test looks at."""
        reach = quantile(LEVEL, self.df) * self.se
        return self.value - reach, self.value + reach

    def equivalent(self, margin: float) -> bool:
        """Two one-sided tests at 5 % (Schuirmann 1987): the 90 % interval lies inside -margin .. +margin."""
        return bool(self.inner[0] > -margin and self.inner[1] < margin)

    @property
    def smallest_detectable(self) -> float:
        """The true effect that a two-sided 5 % test of this precision would find with 80 % power."""
        return (quantile(TWO_SIDED, self.df) + quantile(POWER, self.df)) * self.se


def combine(value: float, parts: Sequence[Part]) -> Estimate:
    """A sum of independent parts: variances add, degrees of freedom by Welch-Satterthwaite."""
    variance = sum(p.variance for p in parts)
    if not parts or not np.isfinite(variance):
        return Estimate(value, np.nan, np.nan)
    df = variance**2 / sum(p.variance**2 / p.df for p in parts) if variance > 0 else min(p.df for p in parts)
    return Estimate(value, float(np.sqrt(variance)), df)
