"""A task's points, ready for any scale and any model of the line: `Material`, and what is compared under one of them.

Owns which trials are compared with which: where every group was trained with the same seeds, groups are paired by seed,
since what a seed does to one (its subset, its initial weights, its order of images) it may do to all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import Scale
from analysis.stats import contrasts, factors, robustness
from analysis.stats.factor_rows import Layout, varied
from analysis.stats.factors import Regression
from analysis.stats.group_jackknife import Resampled
from analysis.stats.line_models import LineModel, straight
from analysis.stats.reliability import on_axis
from analysis.stats.robustness import Arm, Baseline
from analysis.stats.transform import clips, ordered_groups, shares_of, transformed
from analysis.stats.trend import fit

LEAST_SEEDS = 3  # shared by all groups, from which on they are paired
SEEDS = "seeds"
NOISE = "noise_"  # columns of the sampling variance on each axis, where it is known


@dataclass(frozen=True, eq=False)
class Pairing:
    """What a point's error over trials rests on: `unit` per group, int codes [points], clusters per unit."""

    codes: np.ndarray
    units: Mapping[str, tuple[str, int]]
    seeds: int = 0  # that all groups share; 0: they are not paired


def pairing(points: pd.DataFrame, unit: str = "trial") -> Pairing:
    """By seed where every group has the same `LEAST_SEEDS` seeds or more, one trial of each; else by trial."""
    seeds = _shared_seeds(points)
    if seeds is not None:
        codes, names = pd.factorize(seeds, sort=True)
        units = dict.fromkeys(points["group"].unique(), (SEEDS, len(names)))
        return Pairing(codes, units, len(names))
    codes, units = np.zeros(len(points), int), {}
    for name, rows in points.groupby("group", sort=False).indices.items():
        codes[rows], trials = pd.factorize(points["trial"].iloc[rows].astype(str), sort=True)
        units[name] = f"{unit}s of {name}", len(trials)
    return Pairing(codes, units)


def _shared_seeds(points: pd.DataFrame) -> pd.Series | None:
    if "seed" not in points or points["seed"].isna().any() or points["group"].nunique() < 2:
        return None
    pairs = points[["group", "trial", "seed"]].astype({"seed": str}).drop_duplicates()
    if pairs.duplicated(["group", "seed"]).any() or pairs.duplicated(["group", "trial"]).any():
        return None
    every = pairs.groupby("group")["seed"].agg(frozenset)
    return points["seed"].astype(str) if len(set(every)) == 1 and len(every.iloc[0]) >= LEAST_SEEDS else None


@dataclass(frozen=True, eq=False)
class Compared:
    """What a study says under one model of the line: its arms with ER, the contrasts and the factors, with the layout
    of their regression, which another line shares."""

    arms: Mapping[str, Arm]
    baseline: Baseline
    contrasts: pd.DataFrame
    regression: Regression
    layout: Layout | None


@dataclass(frozen=True, eq=False)
class Material:
    """The points of one task with what makes them uncertain, before anything is fitted.

    resampled  every point's scores without each of the task's groups, rows aligned with `points`
    """

    points: pd.DataFrame
    options: Options
    resampled: tuple[Resampled, ...]
    pairing: Pairing
    names: tuple[str, ...]

    @staticmethod
    def of(points: pd.DataFrame, options: Options, resampled: Sequence[Resampled]) -> Material:
        """Groups in order, trials paired where they can be."""
        names = tuple(ordered_groups(points, options.baseline))
        return Material(points, options, tuple(resampled), pairing(points, options.unit), names)

    def on(self, scale: Scale) -> dict[str, Arm]:
        """Every group's points on a scale, without ER."""
        moved = transformed(self.points, scale, self.options)
        for name, axis in zip(self.options.ids, self.options.axes, strict=True):
            variance, _ = on_axis(moved, name, axis, scale)
            if variance is not None:
                moved[f"{NOISE}{axis}"] = variance
        redrawn = [robustness.redraw(moved, r, scale, clips(self.points, scale)) for r in self.resampled]
        arms = {}
        for name in self.names:
            rows = np.flatnonzero(self.points["group"] == name)
            unit, count = self.pairing.units[name]
            own = moved.iloc[rows].reset_index(drop=True)
            arms[name] = Arm(name, own, unit, self.pairing.codes[rows], count, tuple(r.of(rows) for r in redrawn))
        return arms

    def compare(
        self,
        scale: Scale,
        model: LineModel | None = None,
        on_axis: bool = False,
        arms: Mapping[str, Arm] | None = None,
        layout: Layout | None = None,
        of_factors: bool = True,
    ) -> Compared | None:
        """The comparisons on a scale under a model of the line (default: the straight line); None where the baseline
        makes no such line. `arms` are those of `on`, `layout` that of the regression, if they are there already.
        Not `of_factors`: the regression is left out."""
        options, arms = self.options, arms or self.on(scale)
        reference = arms.get(options.baseline)
        if reference is None:
            return None
        line = fit(reference.points["x"].to_numpy(), reference.points["y"].to_numpy())
        share = shares_of(reference.points, options)
        chosen = straight(options.axes) if model is None else model
        if line is None or share is None:
            return None
        baseline = robustness.baseline_of(reference, scale, line, chosen, options.axes, share, on_axis)
        if baseline is None:
            return None
        arms = robustness.with_baseline(arms, baseline)
        table = contrasts.contrast(arms, baseline, options.margin)
        if not of_factors:
            return Compared(arms, baseline, table, Regression(), layout)
        layout = layout or Layout.of(varied(arms, baseline.name))
        regression = factors.factors(arms, baseline, options.margin, layout)
        return Compared(arms, baseline, table, regression, layout)
