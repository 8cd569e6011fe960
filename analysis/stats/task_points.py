"""A task's points before anything is fitted, and the comparisons of a study under one scale and one model of the line.

Owns `TaskPoints`, `Comparison` and which trials are paired: where every group was trained with the same seeds, groups
are paired by seed, since a seed (its subset, its initial weights, its order of images) may move all of them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.options import FirstStage, Options
from analysis.scales import Scale
from analysis.stats import contrasts, factors, robustness
from analysis.stats.factor_rows import Layout, names_of_rows, varied
from analysis.stats.factors import Regression
from analysis.stats.group_jackknife import JackknifeScores
from analysis.stats.line_models import LineModel, straight
from analysis.stats.looks import rows_at
from analysis.stats.reliability import on_axis
from analysis.stats.robustness import Baseline
from analysis.stats.stages import Stages, of_first_stage
from analysis.stats.study_group import Group, jackknife_on
from analysis.stats.transform import clips, ordered_groups, shares_of, transformed
from analysis.stats.trend import fit

LEAST_SEEDS = 3  # shared by all groups, from which on they are paired
SEEDS = "seeds"
NOISE = "noise_"  # columns of the sampling variance on each axis, where it is known


@dataclass(frozen=True, eq=False)
class Pairing:
    """What a point's error over trials rests on: `unit` per group with its number of clusters, int codes [points].

    seeds   how many all groups share; 0: they are not paired
    stages  by group, of a study in two stages, which clusters are of the first
    """

    codes: np.ndarray
    units: Mapping[str, tuple[str, int]]
    seeds: int = 0
    stages: Mapping[str, Stages | None] = field(default_factory=dict)


def pairing(points: pd.DataFrame, unit: str = "trial", rule: FirstStage | None = None) -> Pairing:
    """Return the pairing by seed where every group has the same `LEAST_SEEDS` seeds or more, one trial of each; else by
    trial. Of a study in two stages, whose `rule` says which is which, those of the first one decide."""
    first = np.ones(len(points), bool) if rule is None else of_first_stage(points, rule)
    seeds = _shared_seeds(points, first)
    if seeds is not None:
        codes, names = pd.factorize(seeds, sort=True)
        groups = points["group"].unique()
        stages = Stages.of(rule, codes, first, len(names))
        shared = len(names) if stages is None else int(stages.first.sum())
        return Pairing(codes, dict.fromkeys(groups, (SEEDS, len(names))), shared, dict.fromkeys(groups, stages))
    codes, units, by_group = np.zeros(len(points), int), {}, {}
    for name, rows in points.groupby("group", sort=False).indices.items():
        codes[rows], trials = pd.factorize(points["trial"].iloc[rows].astype(str), sort=True)
        units[name] = f"{unit}s of {name}", len(trials)
        by_group[name] = Stages.of(rule, codes[rows], first[rows], len(trials))
    return Pairing(codes, units, stages=by_group)


def _shared_seeds(points: pd.DataFrame, first: np.ndarray) -> pd.Series | None:
    if "seed" not in points or points["seed"].isna().any() or points["group"].nunique() < 2:
        return None
    pairs = points[["group", "trial", "seed"]].astype({"seed": str}).assign(first=first).drop_duplicates()
    if pairs.duplicated(["group", "seed"]).any() or pairs.duplicated(["group", "trial"]).any():
        return None
    every = pairs.loc[pairs["first"]].groupby("group")["seed"].agg(frozenset)
    same = len(every) == points["group"].nunique() and len(set(every)) == 1
    return points["seed"].astype(str) if same and len(every.iloc[0]) >= LEAST_SEEDS else None


@dataclass(frozen=True, eq=False)
class Comparison:
    """The results under one model of the line: groups with ER, contrasts and regression over the factors, with the
    layout of the regression, which is the same for every line."""

    groups: Mapping[str, Group]
    baseline: Baseline
    contrasts: pd.DataFrame
    regression: Regression
    layout: Layout | None


@dataclass(frozen=True, eq=False)
class TaskPoints:
    """The points of one task with their replicates and the pairing of trials, before anything is fitted.

    jackknife_scores  every point's scores without each of the test groups, rows aligned with `points`
    names             of the groups, in the order of the report
    """

    points: pd.DataFrame
    options: Options
    jackknife_scores: tuple[JackknifeScores, ...]
    pairing: Pairing
    names: tuple[str, ...]

    @staticmethod
    def of(points: pd.DataFrame, options: Options, jackknife_scores: Sequence[JackknifeScores]) -> TaskPoints:
        """Return the points with groups in the report's order and trials paired where they can be."""
        names = tuple(ordered_groups(points, options.baseline))
        paired = pairing(points, options.unit, options.first_stage)
        return TaskPoints(points, options, tuple(jackknife_scores), paired, names)

    def at_look(self) -> tuple[TaskPoints, np.ndarray, str]:
        """Return the points that ER is of (see `looks`), which these are, int [n], and "" or why they are all."""
        rows, why = rows_at(self.points, self.options.baseline, self.options.look)
        if len(rows) == len(self.points):
            return self, rows, why
        scores = [each.take(rows) for each in self.jackknife_scores]
        return TaskPoints.of(self.points.iloc[rows].reset_index(drop=True), self.options, scores), rows, why

    def groups_on(self, scale: Scale) -> dict[str, Group]:
        """Return every group's points on a scale, without ER."""
        moved = transformed(self.points, scale, self.options)
        for name, axis in zip(self.options.ids, self.options.axes, strict=True):
            variance, _ = on_axis(moved, name, axis, scale)
            if variance is not None:
                moved[f"{NOISE}{axis}"] = variance
        clip = clips(self.points, scale)
        jackknife = [jackknife_on(scale, moved, scores, clip) for scores in self.jackknife_scores]
        groups = {}
        for name in self.names:
            rows = np.flatnonzero(self.points["group"] == name)
            unit, count = self.pairing.units[name]
            own = moved.iloc[rows].reset_index(drop=True)
            replicates = tuple(each.take(rows) for each in jackknife)
            stages = self.pairing.stages.get(name)
            groups[name] = Group(name, own, unit, self.pairing.codes[rows], count, replicates, stages)
        return groups

    def compare(
        self,
        scale: Scale,
        model: LineModel | None = None,
        on_axis: bool = False,
        groups: Mapping[str, Group] | None = None,
        layout: Layout | None = None,
        of_factors: bool = True,
    ) -> Comparison | None:
        """Return the comparison on a scale under a model of the line; None where the baseline makes no such line.

        model       default: the straight line
        on_axis     measure ER along the transformed axis (see `Baseline`)
        groups      those of `groups_on`, if they exist already; `layout` that of the regression likewise
        of_factors  whether the regression is made
        """
        options, groups = self.options, groups or self.groups_on(scale)
        reference = groups.get(options.baseline)
        if reference is None:
            return None
        line = fit(reference.points["x"].to_numpy(), reference.points["y"].to_numpy())
        share = shares_of(reference.points, options)
        chosen = straight(options.axes) if model is None else model
        if line is None or share is None:
            return None
        baseline = robustness.fit_baseline(reference, scale, line, chosen, options.axes, share, on_axis)
        if baseline is None:
            return None
        groups = robustness.with_baseline(groups, baseline)
        table = contrasts.contrast(groups, baseline, options.margin)
        if not of_factors:
            return Comparison(groups, baseline, table, Regression(), layout)
        layout = layout or Layout.of(varied(groups, baseline.name), names_of_rows(groups))
        regression = factors.factors(groups, baseline, options.margin, layout)
        return Comparison(groups, baseline, table, regression, layout)
