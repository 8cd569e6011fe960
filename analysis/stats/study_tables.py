"""The tables of a study's estimates: lines, mean ER by group, what its intervals are made of, ER by epoch, ID sets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import Scale
from analysis.stats.contrasts import NOT_KNOWN
from analysis.stats.estimates import combine
from analysis.stats.group_means import MeanER, mean_er
from analysis.stats.own_line import own_line
from analysis.stats.robustness import Baseline
from analysis.stats.study_group import Group
from analysis.stats.task_points import Comparison

TRENDS = (
    "group", "scale", "n", "slope", "slope_low", "slope_high", "intercept", "intercept_low", "intercept_high", "r2",
    "id_min", "id_max", "clipped",
)  # fmt: skip
GROUPS = ("group", "n_points", "n_trials", "n_used", "er", "er_low", "er_high", "extrapolated", "id_low", "id_high")
ERRORS = ("group", "source", "clusters", "se", "df")
PROGRESS = ("group", "epoch", "er", "id", "ood", "points", "trials", "er_low", "er_high")
ID_SETS = ("id_set", "share", "slope", "slope_low", "slope_high", "id_min", "id_max")
MOST_EPOCHS = 200  # that ER is followed along


def trend_table(groups: Mapping[str, Group], scale: Scale) -> pd.DataFrame:
    """Return the line of every group on a scale, columns `TRENDS`; NaN where it has none."""
    rows = []
    for name, group in groups.items():
        p, own = group.points, own_line(group)
        slope = own.slope.estimate if own else NOT_KNOWN
        intercept = own.intercept.estimate if own else NOT_KNOWN
        rows.append(
            (
                name, scale.name, len(p), slope.value, slope.low, slope.high, intercept.value, intercept.low,
                intercept.high, own.line.r2 if own else np.nan, p["id"].min(), p["id"].max(), int(p["clipped"].sum()),
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(TRENDS))


def with_plane(trends: pd.DataFrame, comparison: Comparison | None, options: Options) -> pd.DataFrame:
    """Return the lines with what several ID sets leave of their intervals: the axis is made of the baseline's points,
    so that a line along it is no surer than the plane. The baseline's slope has the plane's interval where there is
    one, no other line has any. Of one ID set they stay as they are."""
    if len(options.ids) == 1:
        return trends
    table = trends.assign(slope_low=np.nan, slope_high=np.nan, intercept_low=np.nan, intercept_high=np.nan)
    if comparison is not None:
        own = (trends["group"] == options.baseline) & (trends["scale"] == options.scale)
        slope = comparison.baseline.slope(comparison.groups[options.baseline]).estimate
        table.loc[own, ["slope_low", "slope_high"]] = slope.low, slope.high
    return table


def group_table(groups: Mapping[str, Group], means: Mapping[str, MeanER]) -> pd.DataFrame:
    """Return the mean ER of every group with its interval, percentage points, columns `GROUPS`; NaN where none."""
    rows = []
    for name, group in groups.items():
        points, mean = group.points, means.get(name)
        estimate = mean.quantity.estimate if mean else NOT_KNOWN
        outside = int(points["extrapolated"].sum()) if "extrapolated" in points else 0
        rows.append(
            (
                name, len(points), points["trial"].nunique(), mean.points if mean else 0, estimate.value, estimate.low,
                estimate.high, outside, points["id"].min(), points["id"].max(),
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(GROUPS))


def error_table(means: Mapping[str, MeanER]) -> pd.DataFrame:
    """Return the sources of error of every mean, columns `ERRORS`: standard errors in percentage points."""
    rows = [
        (name, part.name, part.clusters, float(np.sqrt(part.variance)), part.df)
        for name, mean in means.items()
        for part in mean.quantity.parts
    ]
    return pd.DataFrame(rows, columns=list(ERRORS))


def progress_table(groups: Mapping[str, Group], baseline: Baseline, refused: bool) -> pd.DataFrame:
    """Return mean ER with its interval, ID and OOD by group and epoch of fine-tuning, columns `PROGRESS`; empty where
    ER is refused or there are not several epochs."""
    epochs = {
        e for group in groups.values() if "epoch" in group.points for e in group.points["epoch"].dropna().unique()
    }
    if refused or not 2 <= len(epochs) <= MOST_EPOCHS:
        return pd.DataFrame()
    rows = []
    for name, group in groups.items():
        for epoch in sorted(group.points["epoch"].dropna().unique(), key=float):
            chosen = (group.points["epoch"] == epoch).to_numpy()
            mean = mean_er(group, baseline, baseline.low, baseline.high, chosen)
            if mean is not None:
                inside, er = group.points.loc[chosen & ~group.points["extrapolated"]], mean.quantity.estimate
                scores = inside.groupby("trial")[["id", "ood"]].mean().mean()  # as ER is
                rows.append((name, float(epoch), er.value, *scores, mean.points, mean.trials, er.low, er.high))
    return pd.DataFrame(rows, columns=list(PROGRESS))


def id_set_table(reference: pd.DataFrame, baseline: Baseline, options: Options) -> pd.DataFrame:
    """Return the coefficients of the baseline's plane, a row per ID set, columns `ID_SETS`; empty for a single one."""
    if len(options.ids) == 1:
        return pd.DataFrame(columns=list(ID_SETS))
    rows = []
    for i, name in enumerate(options.ids):
        own = baseline.errors.part(np.eye(len(baseline.coefficients))[1 + i])
        slope = combine(baseline.line.slope * float(baseline.shares[i]), [own])
        scores = reference[name].astype(float)
        label = options.id_names[i] if options.id_names else name
        rows.append((label, baseline.shares[i], slope.value, slope.low, slope.high, scores.min(), scores.max()))
    return pd.DataFrame(rows, columns=list(ID_SETS))
