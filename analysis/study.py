"""One task from points to numbers: `analyse(points) -> Analysis`, all tables of the report and its verdict.

Owns the order of the steps and the shape of the tables; every number is made in the module named after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis import bootstrap, checks, contrasts, factors, robustness
from analysis.bootstrap import Estimate, Weights
from analysis.factors import FACTORS, Factor
from analysis.robustness import Baseline, Mean
from analysis.table import Options, Table
from analysis.trend import SCALES, clip, fit

TRENDS = (
    "group", "scale", "n", "slope", "slope_low", "slope_high", "intercept", "intercept_low", "intercept_high", "r2",
    "id_min", "id_max", "clipped",
)  # fmt: skip
GROUPS = ("group", "n_points", "n_trials", "n_used", "er", "er_low", "er_high", "extrapolated", "id_low", "id_high")
NOT_KNOWN = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that is known about one task. Scores are fractions, every ER is in percentage points.

    points      one row per point, with expected_ood, er, er_low, er_high, extrapolated, clipped (groups in order)
    trends      one row per group and scale, the baseline first
    groups      mean ER per group: columns `GROUPS`; n_used points lie in the baseline's range and enter the mean
    contrasts   see `analysis.contrasts`
    progress    mean ER by group and epoch, empty unless there are several epochs
    band        the baseline line with both bands (see `Baseline.band`), empty without a line
    baseline    None where no line can be fitted; `refused` says that its R^2 is under the floor
    """

    task: str
    options: Options
    points: pd.DataFrame
    trends: pd.DataFrame
    groups: pd.DataFrame
    contrasts: pd.DataFrame
    factors: list[Factor]
    influence: pd.DataFrame
    selection: pd.DataFrame
    progress: pd.DataFrame
    band: pd.DataFrame
    baseline: Baseline | None
    refused: bool
    left_out: pd.DataFrame
    warnings: list[str] = field(default_factory=list)


def analyse_all(table: Table, options: Options) -> list[Analysis]:
    """Every task of the table by itself, in the order of appearance; at least one, however empty the table."""
    tasks = list(dict.fromkeys([*table.points["task"], *table.left_out["task"].dropna()])) or ["task"]
    found = []
    for task in tasks:
        points = table.points.loc[table.points["task"] == task].reset_index(drop=True)
        # a trial that failed before it could name its task is missing from every one of them
        missing = table.left_out.loc[table.left_out["task"].isna() | (table.left_out["task"] == task)]
        found.append(analyse(task, points, options, missing, table.warnings))
    return found


def analyse(
    task: str,
    points: pd.DataFrame,
    options: Options,
    left_out: pd.DataFrame | None = None,
    warnings: tuple[str, ...] = (),
) -> Analysis:
    """The analysis of one task. `points` has trial, group, id, ood (see `analysis.table.Table`).

    Never raises for lack of points: what cannot be known is NaN, and a warning says why.
    """
    scale = SCALES[options.scale]
    names = ordered_groups(points, options.baseline)
    points = _transformed(points, options.scale)
    by_group = {name: points.loc[points["group"] == name].reset_index(drop=True) for name in names}
    weights = {
        name: bootstrap.draw(group["trial"], f"{task}/{name}", options.replicates, options.seed)
        for name, group in by_group.items()
    }
    notes = list(warnings)
    trends = _trends(by_group, weights)
    reference = by_group.get(options.baseline)
    line = None if reference is None else fit(reference["x"].to_numpy(), reference["y"].to_numpy())
    left_out = pd.DataFrame(columns=["trial", "group", "task", "reason"]) if left_out is None else left_out
    if line is None:
        count = 0 if reference is None else len(reference)
        notes.append(
            f"no effective robustness: the baseline {options.baseline!r} has {count} points, too few for a line"
            if count < 3
            else f"no effective robustness: every point of the baseline {options.baseline!r} has the same ID score"
        )
        empty = points.assign(expected_ood=np.nan, er=np.nan, er_low=np.nan, er_high=np.nan, extrapolated=False)
        return Analysis(
            task, options, empty, trends, _group_rows(by_group, {}, {}), pd.DataFrame(columns=list(contrasts.COLUMNS)),
            [], pd.DataFrame(columns=list(checks.INFLUENCE)), pd.DataFrame(columns=list(checks.SELECTION)),
            pd.DataFrame(), pd.DataFrame(), None, True, left_out, notes + _count_notes(empty, left_out, None),
        )  # fmt: skip

    baseline = robustness.baseline_of(reference, options.baseline, scale, line, weights[options.baseline])
    by_group = {name: robustness.per_point(group, baseline) for name, group in by_group.items()}
    points = pd.concat(by_group.values(), ignore_index=True)
    refused = not line.r2 >= options.min_r2
    if refused:
        notes.append(
            f"R^2 of the baseline line is {line.r2:.2f}, under the floor of {options.min_r2:g}: no verdict on "
            "effective robustness is given"
        )
    means: dict[str, Mean] = {}
    for name, group in by_group.items():
        mean = robustness.mean_of(group, weights[name], baseline, baseline.low, baseline.high)
        if mean is not None and not refused:
            means[name] = mean
    estimates = {name: robustness.weighted([mean], [1.0], baseline) for name, mean in means.items()}
    trend_over, left = factors.factors(by_group, means, baseline)
    notes += left + _count_notes(points, left_out, baseline) + _few_trials(by_group, weights, options.unit)
    return Analysis(
        task=task,
        options=options,
        points=points,
        trends=trends,
        groups=_group_rows(by_group, means, estimates),
        contrasts=contrasts.contrast(by_group, weights, baseline, options.margin, refused),
        factors=trend_over,
        influence=checks.influence(by_group, weights, baseline),
        selection=checks.selection(by_group),
        progress=_progress(points),
        band=baseline.band(),
        baseline=baseline,
        refused=refused,
        left_out=left_out,
        warnings=notes,
    )


def ordered_groups(points: pd.DataFrame, baseline: str) -> list[str]:
    """The baseline first; then by the numbers that the sweep varies, where every group has one; else as they come."""
    names = [name for name in dict.fromkeys(points["group"]) if name != baseline]
    levels = {
        name: [pd.to_numeric(rows[f], errors="coerce").min() for f in FACTORS if f in rows]
        for name, rows in points.groupby("group", sort=False)
    }
    known = len(levels[names[0]]) if names else 0
    varied = [i for i in range(known) if len({levels[n][i] for n in names}) > 1]
    usable = [i for i in varied if all(np.isfinite(float(levels[n][i])) for n in names)]
    if usable:
        names.sort(key=lambda name: [levels[name][i] for i in usable])
    return ([baseline] if baseline in levels else []) + names


def _transformed(points: pd.DataFrame, scale_name: str) -> pd.DataFrame:
    """`points` with x = h(ID), y = h(OOD) and whether clipping moved the point."""
    scale = SCALES[scale_name]
    id_, ood = clipped_scores(points)
    moved = (id_ != points["id"]) | (ood != points["ood"])
    if not scale.bounded:
        return points.assign(x=points["id"].astype(float), y=points["ood"].astype(float), clipped=False)
    return points.assign(x=scale.h(id_.to_numpy()), y=scale.h(ood.to_numpy()), clipped=moved)


def clipped_scores(points: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """ID and OOD scores moved off 0 and 1 by half an example of their split (columns id_images, ood_images)."""
    moved = []
    for score, size in (("id", "id_images"), ("ood", "ood_images")):
        known = pd.to_numeric(points[size], errors="coerce").astype("float64").max() if size in points else np.nan
        examples = int(known) if np.isfinite(known) and known > 0 else None
        moved.append(pd.Series(clip(points[score].to_numpy(float), examples), index=points.index))
    return moved[0], moved[1]


def _trends(by_group: Mapping[str, pd.DataFrame], weights: Mapping[str, Weights]) -> pd.DataFrame:
    rows = []
    for scale_name in SCALES:
        for name, group in by_group.items():
            p = _transformed(group, scale_name)
            x, y = p["x"].to_numpy(), p["y"].to_numpy()
            line = fit(x, y)
            slope = intercept = NOT_KNOWN
            if line is not None:
                slopes, intercepts = bootstrap.lines(weights[name], x, y)
                count, parameters = weights[name].clusters, bootstrap.parameters(weights[name].codes, x)
                slope = bootstrap.combine(line.slope, [bootstrap.part(slopes, count, parameters)])
                intercept = bootstrap.combine(line.intercept, [bootstrap.part(intercepts, count, parameters)])
            rows.append(
                (
                    name, scale_name, len(p), slope.value, slope.low, slope.high, intercept.value, intercept.low,
                    intercept.high, line.r2 if line else np.nan, p["id"].min(), p["id"].max(), int(p["clipped"].sum()),
                )
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(TRENDS))


def _group_rows(
    by_group: Mapping[str, pd.DataFrame], means: Mapping[str, Mean], estimates: Mapping[str, Estimate]
) -> pd.DataFrame:
    rows = []
    for name, group in by_group.items():
        mean, estimate = means.get(name), estimates.get(name, NOT_KNOWN)
        outside = int(group["extrapolated"].sum()) if "extrapolated" in group else 0
        rows.append(
            (
                name, len(group), group["trial"].nunique(), mean.points if mean else 0, estimate.value, estimate.low,
                estimate.high, outside, group["id"].min(), group["id"].max(),
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(GROUPS))


def _progress(points: pd.DataFrame) -> pd.DataFrame:
    """Mean ER, ID and OOD by group and epoch of fine-tuning (columns group, epoch, er, id, ood, points)."""
    if "epoch" not in points or points["epoch"].nunique() < 2:
        return pd.DataFrame()
    inside = points.loc[~points["extrapolated"]].assign(epoch=points["epoch"].astype(float))
    by = inside.groupby(["group", "epoch"], sort=False)
    return by.agg(er=("er", "mean"), id=("id", "mean"), ood=("ood", "mean"), points=("er", "size")).reset_index()


def _count_notes(points: pd.DataFrame, left_out: pd.DataFrame, baseline: Baseline | None) -> list[str]:
    notes = []
    if len(left_out):
        notes.append(f"{len(left_out)} failed or empty rows are left out of every mean and line; they are listed")
    outside = points.loc[points["extrapolated"]]
    if len(outside) and baseline is not None:
        where = ", ".join(f"{name} {count}" for name, count in outside["group"].value_counts(sort=False).items())
        notes.append(
            f"{len(outside)} of {len(points)} points lie outside the baseline's ID range of {baseline.low:.1%} to "
            f"{baseline.high:.1%}: they are marked extrapolated and enter no mean ({where})"
        )
    clipped = int(points["clipped"].sum())
    if clipped:
        notes.append(f"{clipped} points have a score of 0 or 1 and were moved off it by half an example of their split")
    for name, group in points.groupby("group", sort=False):
        if baseline is not None and group["extrapolated"].all():
            notes.append(f"{name}: no point lies in the baseline's ID range, so nothing is said about this group")
    return notes


def _few_trials(by_group: Mapping[str, pd.DataFrame], weights: Mapping[str, Weights], unit: str) -> list[str]:
    single = [name for name in by_group if weights[name].clusters < 2]
    if not single:
        return []
    return [f"{', '.join(single)}: a single {unit}, so no interval can be given; the spread between {unit}s is unknown"]
