"""What a design can see before anything is trained: the smallest difference of ER that it would find, and the
smallest margin within which it could prove that there is none.

Owns `Design` (what a spec plans), `Spread` (how much ER varies, from an earlier run or from published figures) and
`Power`, one row per kind of contrast. Light enough for a plan: numpy and scipy's special functions.

The analysis makes a contrast's error of independent parts, each with a variance and degrees of freedom, and tests it
by Student's t with Welch and Satterthwaite's degrees of freedom (`uncertainty.combine`). The power is that of this very
procedure: an error e and the parts' estimated variances are drawn `DRAWS` times (normal; chi-squared over its degrees
of freedom), with the standard error s that follows. A true difference D is found when D + e > t(97.5 %) s, so the
smallest one found in 80 % of sweeps is the 80 % quantile of t s - e. That a true difference of 0 lies within M is
proved when |e| + t(95 %) s < M (Schuirmann 1987), so the smallest such margin is the 80 % quantile of that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb, hypot, log10
from typing import Any

import numpy as np
from scipy.special import stdtrit

from analysis.stats.estimates import LEVEL, POWER, TWO_SIDED, Part, combine
from analysis.stats.factor_rows import LEAST_DF
from analysis.stats.robustness import LINE
from analysis.stats.task_points import LEAST_SEEDS
from ray_robust.run.analysis_settings import DEFAULTS

DRAWS = 20_000  # the share of sweeps that a quantile stands for is then exact to 0.3 %
TRIALS = "trials"  # name of that cause of error; the line's is `LINE`
SEEDS = (1, 2, 3, 5, 10, 20, 50)  # what the table over seeds shows
MOST_SEEDS = 2_000
FACTORS = ("num_images", "num_classes")


@dataclass(frozen=True)
class Design:
    """What is planned, for one task. Counts of trials, and of fine-tunings within one of them.

    groups       trials of every group but the baseline, in the plan's order
    factors      of each number that the groups vary: its decimal logarithm in each group
    test_groups  how many groups (cameras, hospitals) each source of error named after them has
    same_seeds   whether every group, the baseline too, has the same seeds, one trial of each
    """

    groups: Mapping[str, int]
    baseline: int
    finetunings: int
    baseline_finetunings: int
    factors: Mapping[str, tuple[float, ...]]
    test_groups: Mapping[str, int] = field(default_factory=dict)
    margin: float = DEFAULTS.margin
    same_seeds: bool = False

    @property
    def paired(self) -> bool:
        """Whether the analysis will pair groups by seed (see `task_points.pairing`)."""
        return self.same_seeds and self.trials >= LEAST_SEEDS

    def with_seeds(self, seeds: int) -> Design:
        """The same with so many trials in every group; the baseline keeps its ratio to them."""
        ratio = self.baseline / max(self.trials, 1)
        return replace(self, groups=dict.fromkeys(self.groups, seeds), baseline=max(1, round(ratio * seeds)))

    @property
    def trials(self) -> int:
        """Trials of the smallest group."""
        return min(self.groups.values(), default=0)


def design_of(
    rows: Iterable[Mapping[str, Any]], baseline: str, margin: float, test_groups: Mapping[str, int] | None = None
) -> Design:
    """The design behind the rows of a plan (see `Plan.rows`): how many trials and fine-tunings each group has."""
    trials, finetunings = dict[str, int](), dict[str, int]()
    levels: dict[str, dict[str, set]] = {}
    seeds: dict[str, list[Any]] = {}
    for row in rows:
        group = str(row["group"])
        seeds.setdefault(group, []).append(row.get("seed"))
        trials[group] = trials.get(group, 0) + 1
        tasks = list(json.loads(row["finetunes"]).values())
        finetunings[group] = max(tasks.count(task) for task in tasks) if tasks else 0
        for factor in FACTORS:
            levels.setdefault(factor, {}).setdefault(group, set()).add(row.get(factor))
    own = {group: count for group, count in trials.items() if group != baseline}
    factors = {}
    for factor, values in levels.items():
        known = [values[group] for group in own]
        if all(len(level) == 1 and _positive(next(iter(level))) for level in known):
            logs = tuple(log10(float(next(iter(level)))) for level in known)
            if len(set(logs)) > 1:
                factors[factor] = logs
    each = {tuple(sorted(map(str, own))) for own in seeds.values()}
    same = len(each) == 1 and None not in seeds[group] and len(set(seeds[group])) == len(seeds[group])
    return Design(own, trials.get(baseline, 0), max((finetunings[g] for g in own), default=0),
                  finetunings.get(baseline, 0), factors, test_groups or {}, margin, same)  # fmt: skip


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


@dataclass(frozen=True)
class Cause:
    """One cause of error of groups' mean ER, in squared percentage points, as if it rested on a single unit.

    alone    the variance of one group's mean; `shared` the covariance of two groups' means
    spent    degrees of freedom that its estimate costs
    even     degrees of freedom that a further unit brings: under 1 where units weigh unevenly
    """

    alone: float
    shared: float = 0.0
    spent: float = 1.0
    even: float = 1.0

    def part(self, weights: np.ndarray, units: int, name: str) -> Part:
        """The part of a weighted sum of groups' means (weights [1, 2 or groups]), which are taken as alike."""
        variance = (weights @ weights) * (self.alone - self.shared) + weights.sum() ** 2 * self.shared
        df = self.even * units - self.spent
        return Part(variance / units if df >= 0.5 else np.nan, df if df >= 0.5 else np.nan, name, units)


@dataclass(frozen=True)
class Spread:
    """How much ER varies, in percentage points.

    trials, finetunings   standard deviations: of a trial's mean beyond its fine-tunings, and of one of these in a trial
    line                  what one baseline trial does, through the line, to groups' means, from so many fine-tunings
                          (`line_finetunings`); `line_trials` and `line_noise` are the baseline's own deviations
    test_groups           what one test group does, by the name of the source of error; empty where it is not known
    df                    degrees of freedom behind `trials`; 0 for published figures
    by                    where the figures come from, for people
    """

    trials: float
    finetunings: float
    line: Cause
    line_trials: float
    line_noise: float
    line_finetunings: int
    test_groups: Mapping[str, Cause]
    df: int
    by: str

    def of_trial(self, finetunings: int) -> float:
        """The variance of the mean ER of a trial with so many fine-tunings."""
        return self.trials**2 + self.finetunings**2 / max(finetunings, 1)

    def of_line(self, finetunings: int) -> Cause:
        """The line's cause for baseline trials with so many fine-tunings."""
        now, then = (self.line_trials**2 + self.line_noise**2 / max(n, 1) for n in (finetunings, self.line_finetunings))
        return replace(self.line, alone=self.line.alone * now / then, shared=self.line.shared * now / then)


# WILDS' iWildCam, ERM ResNet-50 (Koh et al. 2021): macro-F1 47.0 in distribution and 31.0 under shift, with standard
# deviations over seeds of 1.4 and 1.3. Along a line through the origin the expectation moves by 31/47 of an ID score,
# so that a model's ER has a standard deviation of 1.6 points, ID and OOD errors taken as independent.
PUBLISHED_SD = hypot(1.3, 31.0 / 47.0 * 1.4)


def published(design: Design) -> Spread:
    """Where there is no earlier run: the published spread between seeds, all of it between trials, baseline's too.

    Baseline trials of several fine-tunings each span the line by themselves, so that a trial moves it as a whole: what
    it does to one group it does to all. Where a trial is a single point, groups' mean ID is taken to lie one standard
    deviation of the baseline's ID scores away from their mean, in any direction: the line's variance is 2 sigma^2 / n
    there, half of which two groups share, and it spends two degrees of freedom. Of test groups nothing is known.
    """
    variance = PUBLISHED_SD**2
    spans = design.baseline_finetunings > 1
    line = Cause(variance, variance) if spans else Cause(2 * variance, variance, spent=2.0)
    by = f"published figures: the ER of a model varies by {PUBLISHED_SD:.1f} points between seeds (iWildCam, ResNet-50)"
    return Spread(PUBLISHED_SD, 0.0, line, PUBLISHED_SD, 0.0, 1, {}, 0, by)


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
    """Every kind of contrast that the design allows; none without a baseline, for there is no ER then."""
    count, trials, found = len(design.groups), design.trials, []
    if not count or not design.baseline:
        return []
    mean = (1 / max(trials, 1), trials - 1.0)
    found.append(Kind("a group against the baseline", count, np.ones(1), (mean,)))
    if count > 1:
        found.append(Kind("two groups", comb(count, 2), np.array([1.0, -1.0]), (mean, mean)))
    return found + _trends(design)


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
    found, group = [], np.repeat(np.arange(len(trials)), trials)
    for number, name in enumerate(names, 1):
        by_trial = matrix @ inverse[number]
        pull = by_trial / np.sqrt(np.maximum(left, 1e-9))
        z = matrix * pull[:, None]
        small, cross = inverse @ (z.T @ z), np.einsum("ij,jk,ik->i", z, inverse, z)
        trace, square = (pull**2).sum() - cross.sum(), (pull**4).sum() - 2 * (pull**2) @ cross + np.trace(small @ small)
        df = float(trace**2 / square) if square > 1e-12 else np.nan
        own = (float(by_trial @ by_trial), df if df >= LEAST_DF else np.nan)
        weights = np.bincount(group, by_trial, len(trials))
        found.append(Kind(f"trend over {name}, per tenfold", 1, weights, (own,)))
    return found


def power(design: Design, spread: Spread) -> list[Power]:
    """One row per kind of contrast."""
    return [_power(kind, design, spread) for kind in kinds(design)]


def chance(kind: Kind, design: Design, spread: Spread, difference: float) -> float:
    """The share of sweeps that would find a true difference, in percentage points, with a two-sided 5 % test."""
    e, s, df = _drawn(by_seed(parts(kind, design, spread), design))
    return float(np.mean(np.abs(difference + e) > _t(df, TWO_SIDED) * s))


def parts(kind: Kind, design: Design, spread: Spread) -> list[Part]:
    """What the contrast's error is made of, as the analysis would find it (see `uncertainty.Quantity`)."""
    variance = spread.of_trial(design.finetunings)
    found = [Part(factor * variance, df if df >= 0.5 else np.nan, TRIALS) for factor, df in kind.own]
    shared = [(LINE, spread.of_line(design.baseline_finetunings), design.baseline)]
    shared += [(name, cause, design.test_groups.get(name, 0)) for name, cause in spread.test_groups.items()]
    return found + [cause.part(kind.weights, units, name) for name, cause, units in shared if units]


def by_seed(parts: Sequence[Part], design: Design) -> list[Part]:
    """The parts as the test takes them: where groups are paired by seed, trials and the line are one, since a seed's
    contributions to both are added before they are squared, with one degree of freedom less than there are seeds."""
    own = [part for part in parts if part.name in (TRIALS, LINE)]
    if not design.paired or not own:
        return list(parts)
    whole = combine(0.0, own)
    one = Part(whole.se**2, min(whole.df, design.trials - 1.0), TRIALS)
    return [one, *(part for part in parts if part not in own)]


def seeds_for(value: float, kind: int, design: Design, spread: Spread, of: Callable[[Power], float]) -> int | None:
    """The fewest seeds at which `of` the kind of contrast with that number is at most `value`; None where none are
    enough (the test groups set a floor), or more than `MOST_SEEDS`."""

    def enough(seeds: int) -> bool:
        planned = design.with_seeds(seeds)
        return bool(of(_power(kinds(planned)[kind], planned, spread)) <= value)

    high = 2
    while not enough(high):
        high *= 2
        if high > MOST_SEEDS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _power(kind: Kind, design: Design, spread: Spread) -> Power:
    found = parts(kind, design, spread)
    total = sum(part.variance for part in found)
    if not np.isfinite(total) or any(np.isnan(part.df) for part in found):
        return Power(kind.name, kind.family, np.nan, np.nan, np.nan, np.nan, np.nan, {})
    shares: dict[str, float] = {}
    for part in found:
        shares[part.name] = shares.get(part.name, 0.0) + float(part.variance / total)
    e, s, df = _drawn(by_seed(found, design))
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


def _drawn(found: Sequence[Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Error, standard error and degrees of freedom as so many sweeps would have them, float [DRAWS] each."""
    random = np.random.default_rng(0)
    e = np.sqrt(sum(p.variance for p in found)) * random.standard_normal(DRAWS)
    df = np.array([p.df for p in found])
    variances = np.array([p.variance for p in found]) * random.chisquare(df, (DRAWS, len(found))) / df
    total = variances.sum(1)
    return e, np.sqrt(total), total**2 / (variances**2 / df).sum(1)


def _t(df: np.ndarray, level: float) -> np.ndarray:
    """Student's t quantiles, float [n], interpolated in 1/df: a direct evaluation takes a second."""
    low, high = 1 / df.max(), 1 / df.min()
    knots = np.linspace(low, high, 400)
    return np.interp(1 / df, knots, stdtrit(1 / knots, level))
