"""Which group is best, and which cannot be told from it: a set that holds the best one with 95 % confidence.

A group is in the set unless some other lies above it by more than chance: the largest of its differences to all others,
each in its own standard errors, is compared with what that maximum reaches in 95 % of studies in which the group is as
good as all of them (Gupta 1965; the upper bounds of Hsu's 1984 multiple comparisons with the best). That level is
simulated from the joint errors of the groups (a parametric bootstrap): what they share (the baseline's line, test
groups, seeds) is drawn for all at once, and every variance is estimated again from draws with its own degrees of
freedom. So unequal variances, few trials and common errors all enter. It says nothing of two groups of equal height:
each of them is in the set in 95 % of studies, and not both at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats.quantities import Quantity, weighted
from analysis.stats.robustness import LINE

COLUMNS = ("measure", "group", "value", "in_set", "best", "at_least_behind", "at_most_behind", "known")
ER, OOD = "er", "ood"
LEVEL = 0.95
DRAWS, LEAST_DRAWS = 10_000, 2_000
WORK = 4_000_000  # draws times groups squared, about
MOST_GROUPS = 100


@dataclass(frozen=True, eq=False)
class _Source:
    """A source of error that several groups may share.

    effects  float [clusters, groups]: what each cluster adds to the errors; their covariance is effects' effects
    df       degrees of freedom of its variances, float [groups] where each group has its own clusters
    kind     `own` (each group its own), `paired` (seeds: what is common to all cancels, the rest is each group's own),
             or `shared` (the line, test groups: the covariance is as it is)
    """

    effects: np.ndarray
    df: np.ndarray
    kind: str

    def drawn(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Errors of the groups, float [count, groups]."""
        if self.kind == "shared":
            return random.standard_normal((count, len(self.effects))) @ self.effects
        return random.standard_normal((count, self.effects.shape[1])) * np.sqrt(self._own)

    def estimates(self, count: int, random: np.random.Generator) -> np.ndarray:
        """What a difference's variance is estimated from: of `own` each group's variance [count, groups], of `paired`
        residuals [count, df, groups], of `shared` a factor that is common to all [count, 1]."""
        if self.kind == "own":
            return self._own * random.chisquare(self.df, (count, len(self.df))) / self.df
        if self.kind == "paired":
            shape = (count, int(self.df[0]), self.effects.shape[1])
            return random.standard_normal(shape) * np.sqrt(self._own)
        return random.chisquare(self.df[0], (count, 1)) / self.df[0]

    def variances(self, estimates: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
        """The variance of every difference to one group by these estimates, and what it adds to the denominator of
        Satterthwaite's degrees of freedom: float [count, groups] each."""
        if self.kind == "own":
            both = estimates + estimates[:, [group]]
            return both, estimates**2 / self.df + (estimates**2 / self.df)[:, [group]]
        if self.kind == "paired":
            made = ((estimates - estimates[:, :, [group]]) ** 2).mean(1)
        else:
            made = ((self.effects - self.effects[:, [group]]) ** 2).sum(0) * estimates
        return made, made**2 / self.df[0]

    @property
    def _own(self) -> np.ndarray:
        """The variance of each group's own part, float [groups]; of paired ones their mean, since few seeds do not tell
        how groups differ in it."""
        if self.kind == "own":
            return (self.effects**2).sum(0)
        apart = self.effects - self.effects.mean(1, keepdims=True)
        groups = self.effects.shape[1]
        return np.full(groups, (apart**2).sum() / max(groups - 1, 1))


def best_set(means: Mapping[str, Quantity], measure: str, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
    """Return a row per group, columns `COLUMNS`, highest first; empty for fewer than two groups or very many.

    value   of the group, as `means` has it
    in_set  whether it cannot be told from the best
    best    whether its estimate is the highest
    at_least_behind, at_most_behind   by how much it lies below the best group, with 95 % confidence
    known   whether its error is: else it is in the set for want of an interval

    All `means` have the same sources of error.
    """
    names = list(means)
    if not 2 <= len(names) <= MOST_GROUPS:
        return pd.DataFrame(columns=list(COLUMNS))
    values = np.array([means[name].value for name in names])
    sure = np.array([np.isfinite([(one := means[name].estimate).se, one.df]).all() for name in names])
    limits = np.full(len(names), np.nan)
    if sure.sum() >= 2:
        limits[sure] = _limits([means[name] for name in np.array(names, object)[sure]], seed, draws)
    rows = []
    for k, name in enumerate(names):
        se, df = _errors(means, names, k)
        usable = sure & sure[k] & (np.arange(len(names)) != k) & (se > 0) & np.isfinite(df)
        reach = _student(limits[k], df[usable]) * se[usable]
        ahead = values[usable] - values[k]
        least, most = (ahead - reach).max(initial=0.0), (ahead + reach).max(initial=0.0)
        compared = bool(usable.any())
        rows.append((measure, name, values[k], not least > 0, bool(values[k] == values.max()),
                     least if compared else np.nan, most if compared else np.nan, compared))  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values("value", ascending=False, kind="stable", ignore_index=True)


def best_sets(er: Mapping[str, Quantity], ood: Mapping[str, Quantity], baseline: str) -> pd.DataFrame:
    """Return the sets by mean ER, of the groups but the baseline, whose ER is 0 by construction, and by the OOD score
    of all groups."""
    compared = {name: quantity for name, quantity in er.items() if name != baseline}
    return pd.concat([best_set(compared, ER), best_set(ood, OOD)], ignore_index=True)


def _errors(means: Mapping[str, Quantity], names: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard error and degrees of freedom of every group's difference to group k, [groups] each."""
    estimates = [weighted([means[name], means[names[k]]], [1.0, -1.0]).estimate for name in names]
    return np.array([one.se for one in estimates]), np.array([one.df for one in estimates])


def _limits(quantities: Sequence[Quantity], seed: int, draws: int) -> np.ndarray:
    """For each group the level that the largest of its differences to the others stays below in 95 % of studies in
    which all are equal, as `_normal` measures differences: float [groups]."""
    random, groups = np.random.default_rng(seed), len(quantities)
    sources = _sources(quantities)
    count = int(np.clip(WORK / groups**2, LEAST_DRAWS, draws))
    errors = np.sum([source.drawn(count, random) for source in sources], axis=0)
    estimates = [source.estimates(count, random) for source in sources]
    limits = np.empty(groups)
    for k in range(groups):
        parts = [source.variances(own, k) for source, own in zip(sources, estimates, strict=True)]
        variance, quotient = (np.sum([part[i] for part in parts], axis=0) for i in (0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            size = _normal((errors - errors[:, [k]]) / np.sqrt(variance), variance**2 / quotient)
        size[:, k] = -np.inf
        limits[k] = np.quantile(np.nan_to_num(size, nan=-np.inf).max(1), LEVEL)
    return limits


def _sources(quantities: Sequence[Quantity]) -> list[_Source]:
    """The sources of error of some groups, with what they share."""
    groups, effects, df = len(quantities), dict[str, np.ndarray](), dict[str, np.ndarray]()
    own = dict[str, set[int]]()
    for g, quantity in enumerate(quantities):
        for robust, combination in quantity.trials.items():
            matrix = effects.setdefault(robust.unit, np.zeros((len(robust.effects), groups)))
            matrix[:, g] += robust.effects @ combination
            part = robust.part(combination)
            if np.isfinite(part.df):
                df.setdefault(robust.unit, np.full(groups, np.inf))[g] = part.df
            if robust.name != LINE:
                own.setdefault(robust.unit, set()).add(g)
    sources, alone, alone_df = [], np.zeros(groups), np.full(groups, np.inf)
    for unit, matrix in effects.items():
        members = np.flatnonzero((matrix**2).sum(0) > 0)
        own_df = df.get(unit, np.full(groups, np.inf))
        if len(own.get(unit, ())) >= 2:
            seeds = float(own_df[np.isfinite(own_df)].min(initial=np.inf))
            sources.append(_Source(matrix, np.full(groups, max(1.0, np.floor(seeds))), "paired"))
        elif len(members) == 1 and unit in own:
            alone[members], alone_df[members] = (matrix**2).sum(0)[members], own_df[members]
        elif len(members):
            sources.append(_Source(matrix, np.full(groups, own_df[members].mean()), "shared"))
    if alone.any():
        finite = np.where(np.isfinite(alone_df), alone_df, 1e6)
        sources.append(_Source(np.sqrt(alone)[None, :], finite, "own"))
    return sources + list(_of_test_groups(quantities))


def _of_test_groups(quantities: Sequence[Quantity]) -> list[_Source]:
    """The test groups: replicates without each of them, less what the trials hold of their interaction."""
    made = []
    for source in dict.fromkeys(source for quantity in quantities for source in quantity.replicates):
        if not np.isfinite(source.df):
            continue
        replicates = np.array([quantity.replicates[source] for quantity in quantities])
        covariance = np.atleast_2d(np.cov(replicates, bias=True)) * source.factor
        covariance -= np.diag([quantity.double_counted.get(source, 0.0) for quantity in quantities])
        size, directions = np.linalg.eigh(covariance)
        effects = (directions * np.sqrt(np.maximum(size, 0.0))).T
        if (effects**2).sum() > 0:
            made.append(_Source(effects, np.full(len(quantities), source.df), "shared"))
    return made


def _normal(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Return the normal deviate that is as rare as a Student's t, so that differences with other degrees of freedom can
    be compared (Wallace 1959)."""
    with np.errstate(invalid="ignore"):
        return np.sign(t) * (8 * df + 1) / (8 * df + 3) * np.sqrt(df * np.log1p(t**2 / df))


def _student(normal: float, df: np.ndarray) -> np.ndarray:
    """Return the inverse of `_normal` for a deviate above 0."""
    return np.sqrt(df * np.expm1((normal * (8 * df + 3) / (8 * df + 1)) ** 2 / df))
