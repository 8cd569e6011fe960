"""`Quantity`: a number with all that makes it uncertain, so that weighted sums keep what they share.

Two kinds of error add up. That of trials is linear in what each trial contributes (`cluster_robust.Robust`):
contributions of one trial, or of one seed where groups are paired by seed, are added before they are squared, so that
what two groups share cancels in their difference. That of the task's groups (cameras) enters as scores made again
without each of them (`Source`). `bench.coverage` shows how well the intervals cover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.stats.cluster_robust import Robust
from analysis.stats.estimates import Estimate, Part, combine, tied


@dataclass(frozen=True)
class ErrorSource:
    """A set of the task's groups (cameras), left out in turn for all numbers at once. `factor` corrects the variance of
    replicates, `df` are its degrees of freedom."""

    name: str
    clusters: int
    factor: float
    df: float


@dataclass(frozen=True, eq=False)
class Quantity:
    """A number and what makes it uncertain.

    trials          by coefficients with an error over trials, their weights in the number: float [k]
    replicates      per source, the number without each of its test groups, float [replicates]: those of a sum are sums
    double_counted  per source, the variance that `trials` holds too: it is subtracted from the source's
    """

    value: float
    trials: Mapping[Robust, np.ndarray] = field(default_factory=dict)
    replicates: Mapping[ErrorSource, np.ndarray] = field(default_factory=dict)
    double_counted: Mapping[ErrorSource, float] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """Every independent source of error by itself."""
        units: dict[str, list[tuple[Robust, np.ndarray]]] = {}
        for robust, combination in self.trials.items():
            units.setdefault(robust.unit, []).append((robust, combination))
        return [_of_unit(members) for members in units.values()] + [self._part(source) for source in self.replicates]

    def _part(self, source: ErrorSource) -> Part:
        """The variance under a source less what `trials` holds of it. A difference of variances is known less well: its
        degrees of freedom shrink with the square of what is left (Satterthwaite 1946), to no less than one."""
        whole = float(np.var(self.replicates[source])) * source.factor
        left = max(whole - self.double_counted.get(source, 0.0), 0.0) if np.isfinite(whole) else np.nan
        df = max(1.0, source.df * (left / whole) ** 2) if left > 0 else source.df
        return Part(left, df, source.name, source.clusters)

    @property
    def estimate(self) -> Estimate:
        """The number with its interval. Where all that it is of are equal, as coarse scores of a few trials may be,
        their spread is not seen: its standard error is 0, of no degrees of freedom, hence no interval and no p."""
        estimate = combine(self.value, self.parts)
        if tied(self.value, estimate.se):
            return replace(estimate, se=0.0, df=np.nan)
        return estimate

    @property
    def without_one(self) -> tuple[float, float]:
        """The lowest and the highest value that the number has without any one trial of any one group."""
        changes = [robust.without @ combination for robust, combination in self.trials.items()]
        moved = self.value + np.concatenate([np.zeros(1), *changes])
        return float(moved.min()), float(moved.max())


def _of_unit(members: Sequence[tuple[Robust, np.ndarray]]) -> Part:
    """The error of all that rests on the same clusters, added cluster by cluster. Its degrees of freedom are those of
    the members' own variances (Satterthwaite 1946), and fewer than there are clusters: a paired difference has one
    less."""
    each = [robust.part(combination) for robust, combination in members]
    if len(each) == 1:
        return each[0]
    together = sum(robust.effects @ combination for robust, combination in members)
    used = max(part.clusters for part in each)
    whole = combine(0.0, each)
    name = " and ".join(dict.fromkeys(part.name for part in each))
    variance = float((together**2).sum()) if np.isfinite(whole.se) else np.nan
    return Part(variance, min(whole.df, used - 1.0), name, used, max(part.bonferroni for part in each))


def weighted(quantities: Sequence[Quantity], weights: Sequence[float]) -> Quantity:
    """Return the sum of weights * quantities: what they share adds up or cancels."""
    pairs = [(q, w) for q, w in zip(quantities, weights, strict=True) if w]
    trials: dict[Robust, np.ndarray] = {}
    replicates: dict[ErrorSource, np.ndarray] = {}
    double_counted: dict[ErrorSource, float] = {}
    for quantity, weight in pairs:
        for robust, combination in quantity.trials.items():
            trials[robust] = trials.get(robust, 0.0) + weight * combination
        for source, values in quantity.replicates.items():
            replicates[source] = replicates.get(source, 0.0) + weight * values
            counted = weight**2 * quantity.double_counted.get(source, 0.0)
            double_counted[source] = double_counted.get(source, 0.0) + counted
    return Quantity(float(sum(w * q.value for q, w in pairs)), trials, replicates, double_counted)


def errors_named(quantities: Sequence[Quantity], name: str) -> list[tuple[Robust, np.ndarray, float]]:
    """Return each set of coefficients of this name that any of the quantities rests on, with its weights in each of
    them, float [quantities, k], and the degrees of freedom at their mean: NaN where its error is not known."""
    errors = dict.fromkeys(one for quantity in quantities for one in quantity.trials if one.name == name)
    weights = [np.array([quantity.trials[one] for quantity in quantities]) for one in errors]
    return [(one, pulls, one.df(pulls.mean(0))) for one, pulls in zip(errors, weights, strict=True)]
