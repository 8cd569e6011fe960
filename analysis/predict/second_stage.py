"""How many seeds each group of a sweep needs, from the scatter of a first stage: Stein's (1945) two-stage rule.

A comparison's interval after the second stage is known but for its middle: its error over trials is the first stage's,
less as trials are added (`stats.stages`), and the part that the test groups make stays. So the seeds are those at which
that interval, as the analysis will make it, is as narrow as the spec asks. They follow from variances alone, never from
the estimates, which would bias these; only whether a comparison is decided already, or hardly can be, looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr

from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats import contrasts
from analysis.stats.agreement import Estimated
from analysis.stats.contrasts import claimed
from analysis.stats.estimates import LEVEL, TWO_SIDED, Estimate, keeps_half
from analysis.stats.factors import factor_table
from analysis.stats.group_jackknife import Counts
from analysis.stats.quantities import Quantity
from analysis.stats.refusals import refusals_of
from analysis.stats.resampled import resample
from analysis.stats.robustness import LINE
from analysis.stats.stages import extended
from analysis.stats.task_points import Comparison
from ray_robust.run.seed_plan import (
    BONFERRONI,
    CAPPED,
    DECIDED,
    GROUPS,
    MORE,
    NARROW,
    OUT_OF_REACH,
    TREND,
    UNKNOWN,
    UNLIKELY,
    Need,
    SeedRule,
)

TINY = 1e-9  # of a goal: nothing
FUTILE = 0.2  # chance of a decision under which no seed is spent on it


@dataclass(frozen=True, eq=False)
class Target:
    """A comparison that seeds are to decide: its number, the groups whose trials it rests on, by the names of their
    errors, and whether it is decided already."""

    name: str
    quantity: Quantity
    groups: Mapping[str, str]
    decided: bool = False


def targets(
    points: pd.DataFrame, options: Options, rule: SeedRule, counts: Mapping[str, Counts] | Estimated | None = None
) -> list[Target]:
    """Return the comparisons that a rule names, from the points of the first stage, at the look that ER is of; none
    where there is no ER. `counts` of estimated scores are the estimate with its replicates."""
    if rule.until is None and options.first_stage is not None:
        options = replace(options, first_stage=replace(options.first_stage, bonferroni=BONFERRONI["early"]))
    resampled, scale = resample(points, counts, options).at_look(), SCALES[options.scale]
    groups = resampled.groups[options.scale]
    compared = resampled.task_points.compare(scale, groups=groups, of_factors=rule.of == TREND)
    if compared is None:
        return []
    if refusals_of(compared, options):
        return []
    names = {f"trials of {name}": name for name in compared.groups} | {LINE: options.baseline}
    named = _trends(compared, options) if rule.of == TREND else _pairs(compared, rule)
    return [Target(name, quantity, names, rule.until is None and decided) for name, quantity, decided in named]


def _trends(compared: Comparison, options: Options) -> list[tuple[str, Quantity, bool]]:
    rows = {row["factor"]: row for row in factor_table(compared.regression, options.margin).to_dict("records")}
    return [
        (f"trend over {factor.name}", factor.quantity, _is_decided(rows[factor.name], factor.slope.value))
        for factor in compared.regression.factors
        if factor.per == "tenfold" and factor.quantity is not None
    ]


def _pairs(compared: Comparison, rule: SeedRule) -> list[tuple[str, Quantity, bool]]:
    rows = {(row["a"], row["b"]): row for row in compared.contrasts.to_dict("records")}
    pairs = []
    for pair in contrasts.pairs(compared.groups, compared.baseline):
        names = pair.a.name, pair.b.name
        wanted = pair.family == "baseline" if rule.of == GROUPS else set(names) == set(rule.of)
        if wanted:
            quantity = contrasts.difference(pair, compared.baseline) if pair.low <= pair.high else None
            missing = contrasts.UNKNOWN if quantity is None else quantity
            pairs.append((" against ".join(names), missing, _is_decided(rows[names], missing.value)))
    return pairs


def _is_decided(row: Mapping[str, Any], value: float) -> bool:
    """Whether a difference, or that there is none, is shown, and no one trial of few decides it."""
    claim, low, high = claimed(row), row["without_low"], row["without_high"]
    if claim == "equivalent":
        return bool(-row["margin"] < low and high < row["margin"]) or "slope" in row
    return claim == "differs" and keeps_half(value, low, high)


@dataclass(frozen=True, eq=False)
class Stage:
    """What the second stage may be: seeds of every group in the `first` one, the most that each may have (of one whose
    seeds are fixed as many), and the cost of one seed of each; `margin` of "no effect"."""

    first: Mapping[str, int]
    most: Mapping[str, int]
    costs: Mapping[str, float]
    margin: float


@dataclass(frozen=True, eq=False)
class _Want:
    """A target, what of its estimate is to shrink, and to what."""

    target: Target
    measure: Callable[[Estimate], float]
    goal: float

    def at(self, seeds: Mapping[str, int], stage: Stage) -> float:
        """Return what it measures, relative to its goal: 1 or less is enough."""
        return self.measure(_at(self.target, seeds, stage)) / self.goal


def plan_seeds(
    targets: Sequence[Target], rule: SeedRule, stage: Stage, task: str = ""
) -> tuple[dict[str, int], list[Need]]:
    """Return how many seeds every group gets, and what became of each target."""
    bonferroni = BONFERRONI["late"] if rule.until is None else 1.0

    def reach(level: float) -> Callable[[Estimate], float]:
        return lambda estimate: replace(estimate, bonferroni=bonferroni).reach(level)

    def span(estimate: Estimate) -> float:
        """The width, or the reach from which on every estimate is decided: it is either farther from 0 than its
        interval reaches, or near enough for the equivalence test."""
        outer = reach(TWO_SIDED)(estimate)
        return 2 * outer if rule.until is not None else outer + reach(LEVEL)(estimate)

    goal = stage.margin if rule.until is None else rule.until
    states, wants = dict[int, str](), dict[int, _Want]()
    for i, target in enumerate(targets):
        size, least = abs(target.quantity.value), span(_least(target, stage))
        at_first = span(_at(target, stage.first, stage))
        if not np.isfinite(at_first):
            states[i] = UNKNOWN
        elif target.decided:  # and has to stay so: what it shares with a baseline of more seeds no longer cancels
            states[i] = DECIDED
            apart = _Want(target, reach(TWO_SIDED), max(size, 1e-9)), _Want(target, reach(LEVEL), stage.margin - size)
            holds = [want for want in apart if want.goal > 0 and want.at(stage.first, stage) <= 1]
            wants |= {i: holds[0]} if holds else {}
        elif at_first <= goal or least <= goal:
            states |= {i: NARROW} if at_first <= goal else {}
            wants[i] = _Want(target, span, goal)
        else:
            states[i] = OUT_OF_REACH
    while True:
        seeds = _allocated(list(wants.values()), stage)
        hopeless = [] if rule.until is not None else [
            i
            for i, want in wants.items()
            if i not in states and _chance(want.target, seeds, stage, bonferroni) < FUTILE
        ]  # fmt: skip
        if not hopeless:
            break
        for i in hopeless:
            states[i] = UNLIKELY
            del wants[i]
    needs = []
    for i, target in enumerate(targets):
        state = states.get(i) or (MORE if wants[i].at(seeds, stage) <= 1 else CAPPED)
        estimates = _at(target, stage.first, stage), _at(target, seeds, stage), _least(target, stage)
        needs.append(Need(target.name, task, state, *(float(2 * reach(TWO_SIDED)(one)) for one in estimates)))
    return seeds, needs


def _allocated(wants: Sequence[_Want], stage: Stage) -> dict[str, int]:
    """The seeds with which every want is met, or that may be: one after the other where it gains most for its cost,
    alone or in all groups of a target (groups that share seeds may gain by them together alone)."""
    seeds, used = dict(stage.first), {id(want): set(_groups(want.target)) for want in wants}
    while short := [(want, value) for want in wants if (value := want.at(seeds, stage)) > 1]:
        room = {group for want, _ in short for group in used[id(want)] if seeds[group] < stage.most[group]}
        steps = [{group} for group in sorted(room)]
        steps += [more for want, _ in short if len(more := used[id(want)] & room) > 1]
        best, gain = None, 1e-12
        for step in steps:
            raised = {group: count + (group in step) for group, count in seeds.items()}
            touched = [(want, old) for want, old in short if used[id(want)] & step]
            gained = sum(float(np.log(old / max(want.at(raised, stage), TINY))) for want, old in touched)
            if (rate := gained / sum(stage.costs[group] for group in step)) > gain:
                best, gain = raised, rate
        if best is None:
            break
        seeds = best
    kept = {group for want in wants if want.at(seeds, stage) > 1 for group in used[id(want)]}
    for group in sorted(set(seeds) - kept, key=lambda name: -stage.costs[name]):  # what was given too much
        mine = [want for want in wants if group in used[id(want)]]
        while seeds[group] > stage.first[group]:
            fewer = seeds | {group: seeds[group] - 1}
            if any(want.at(fewer, stage) > 1 for want in mine):
                break
            seeds = fewer
    return seeds


def _groups(target: Target) -> list[str]:
    """The groups whose trials the target's error rests on."""
    return [target.groups[robust.name] for robust in target.quantity.trials if robust.name in target.groups]


def _at(target: Target, seeds: Mapping[str, int], stage: Stage) -> Estimate:
    """The target's estimate with so many seeds of every group: the first stage's value, and the error that it will
    have."""
    trials = {}
    for robust, combination in target.quantity.trials.items():
        group = target.groups.get(robust.name)
        if group is not None and stage.most[group] > stage.first[group]:
            first, per_seed = stage.first[group], len(robust.effects) / stage.first[group]
            there = np.arange(round((max(stage.most.values()) - first) * per_seed))
            more = there < (seeds[group] - first) * per_seed
            robust = extended(robust, len(robust.effects), first / seeds[group], more)
        trials[robust] = combination
    return replace(target.quantity, trials=_aligned(trials)).estimate


def _aligned(trials: Mapping) -> dict:
    """Errors of one unit with as many rows each: those of a group whose seeds are fixed have no later ones."""
    longest: dict[str, int] = {}
    for robust in trials:
        longest[robust.unit] = max(longest.get(robust.unit, 0), len(robust.effects))
    filled = {}
    for robust, combination in trials.items():
        more = longest[robust.unit] - len(robust.effects)
        rows = np.concatenate([robust.effects, np.zeros((more, robust.effects.shape[1]))])
        filled[replace(robust, effects=rows)] = combination
    return filled


def _least(target: Target, stage: Stage) -> Estimate:
    """The target's estimate with any number of seeds: what is left is the test groups', and of fixed seeds."""
    fixed = {
        robust: combination
        for robust, combination in target.quantity.trials.items()
        if (group := target.groups.get(robust.name)) is None or stage.most[group] <= stage.first[group]
    }
    left = replace(target.quantity, trials=fixed)
    return left.estimate if left.parts else Estimate(target.quantity.value, 0.0, 1.0)


def _chance(target: Target, seeds: Mapping[str, int], stage: Stage, bonferroni: float) -> float:
    """The chance that so many seeds decide a target: its estimate then lies around the first stage's, with the variance
    that they take away."""
    early, late = _at(target, stage.first, stage), replace(_at(target, seeds, stage), bonferroni=bonferroni)
    sd = float(np.sqrt(max(early.se**2 - late.se**2, 0.0)))
    if not sd > 0:
        return 0.0
    outer, inner = late.reach(TWO_SIDED), stage.margin - late.reach(LEVEL)

    def below(x: float) -> float:
        return float(stdtr(early.df, (x - early.value) / sd))

    apart = 1 - below(outer) + below(-outer)
    return apart + (below(inner) - below(-inner) if inner > 0 else 0.0)
