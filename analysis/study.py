"""One task from points to numbers: `analyse(points) -> Analysis`, all tables of the report and its verdict.

Owns the order of the steps and the shape of the tables; every number is made in the module named after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd

from analysis import ancova, bootstrap, checks, contrasts, duplicates, factors, gain, groups, robustness
from analysis.duplicates import Recount
from analysis.factors import Factor, Regression
from analysis.groups import Counts, Resampled
from analysis.placed import clips, ordered_groups, shares_of, transformed
from analysis.robustness import Arm, Baseline, Mean, OwnLine
from analysis.table import Options, Table
from analysis.trend import MIN_POINTS, SCALES, Scale
from ray_robust.results import RunFolder

TRENDS = (
    "group", "scale", "n", "slope", "slope_low", "slope_high", "intercept", "intercept_low", "intercept_high", "r2",
    "id_min", "id_max", "clipped",
)  # fmt: skip
GROUPS = ("group", "n_points", "n_trials", "n_used", "er", "er_low", "er_high", "extrapolated", "id_low", "id_high")
ERRORS = ("group", "source", "clusters", "se", "df")
PROGRESS = ("group", "epoch", "er", "id", "ood", "points", "trials", "er_low", "er_high")
ID_SETS = ("id_set", "share", "slope", "slope_low", "slope_high", "id_min", "id_max")
MOST_EPOCHS = 200  # that ER is followed along
CONTRASTS, ANCOVA, AT_IDS = (*contrasts.COLUMNS, *contrasts.MORE), ancova.COLUMNS, ancova.AT_ID
LEFT_OUT = ("trial", "group", "task", "reason")


def _empty(columns: tuple[str, ...]) -> Callable[[], pd.DataFrame]:
    return partial(pd.DataFrame, columns=list(columns))


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that is known about one task. Scores are fractions, every ER is in percentage points.

    points      one row per point, with expected_ood, er, er_low, er_high, extrapolated, clipped, and `cook`, Cook's
                distance of the baseline's points (groups in order)
    trends      one row per group and scale, the baseline first
    groups      mean ER per group: columns `GROUPS`; n_used points lie in the baseline's range and enter the mean
    contrasts   see `analysis.contrasts`: `COLUMNS` and `MORE`
    factors     the slopes of `regression` that are per tenfold of a number
    influence, selection   see `analysis.checks`
    progress    mean ER by group and epoch with its interval, columns `PROGRESS`, empty unless there are several epochs
    band        the baseline line with both bands (see `Baseline.band`), empty without a line
    baseline    None where no line can be fitted; `refused` says that its R^2 is under the floor
    errors      what the interval of each group's mean ER is made of, columns `ERRORS`: a row per source of error
                ("trials of GROUP", "baseline line", "ID groups", "OOD groups"), se in percentage points
    ancova      slopes, then heights, of the lines of every pair: see `analysis.ancova.COLUMNS`
    at_ids      where slopes differ, the contrast at three ID scores: see `analysis.ancova.AT_ID`
    regression  every factor of the sweep together: see `analysis.factors.Regression`
    half_gain   the amount of the varied number at which half of the gain is reached: see `analysis.gain`
    means       mean ER per group as `groups` has it, with everything that makes it uncertain
    id_sets     with several ID sets, how each enters the expectation, columns `ID_SETS`; else empty
    target      one sentence: which repetition of the study the intervals speak of
    recount     which test images occur elsewhere too (see `analysis.duplicates`); None where none does
    without_duplicates  the same analysis without these images, where the run's predictions give it; else None
    """

    task: str
    options: Options
    points: pd.DataFrame
    trends: pd.DataFrame
    groups: pd.DataFrame
    left_out: pd.DataFrame
    target: str
    warnings: list[str] = field(default_factory=list)
    contrasts: pd.DataFrame = field(default_factory=_empty(CONTRASTS))
    factors: list[Factor] = field(default_factory=list)
    influence: pd.DataFrame = field(default_factory=_empty(checks.INFLUENCE))
    selection: pd.DataFrame = field(default_factory=_empty(checks.SELECTION))
    progress: pd.DataFrame = field(default_factory=pd.DataFrame)
    band: pd.DataFrame = field(default_factory=pd.DataFrame)
    baseline: Baseline | None = None
    refused: bool = True
    errors: pd.DataFrame = field(default_factory=_empty(ERRORS))
    ancova: pd.DataFrame = field(default_factory=_empty(ANCOVA))
    at_ids: pd.DataFrame = field(default_factory=_empty(AT_IDS))
    regression: Regression = field(default_factory=Regression)
    half_gain: pd.DataFrame = field(default_factory=_empty(gain.COLUMNS))
    means: dict[str, Mean] = field(default_factory=dict)
    id_sets: pd.DataFrame = field(default_factory=_empty(ID_SETS))
    recount: Recount | None = None
    without_duplicates: Analysis | None = None


def analyse_all(table: Table, options: Options) -> list[Analysis]:
    """Every task of the table by itself, in the order of appearance; at least one, however empty the table."""
    tasks = list(dict.fromkeys([*table.points["task"], *table.left_out["task"].dropna()])) or ["task"]
    found = []
    for task in tasks:
        own = (table.points["task"] == task).to_numpy()
        # a trial that failed before it could name its task is missing from every one of them
        missing = table.left_out.loc[table.left_out["task"].isna() | (table.left_out["task"] == task)]
        points = table.points.loc[own].reset_index(drop=True)
        counts, said = table.counts(points) if table.counts else (None, [])
        analysis = analyse(task, points, options, missing, (*table.warnings, *said), counts)
        found.append(_recounted(analysis, points, table.runs))
    return found


def _recounted(analysis: Analysis, points: pd.DataFrame, runs: Sequence[RunFolder]) -> Analysis:
    """The analysis with a second one beside it, without test images that occur elsewhere too."""
    again = duplicates.recount(runs, points)
    if again is None:
        return analysis
    without = None
    if again.points is not None:
        without = analyse(analysis.task, again.points, analysis.options, analysis.left_out, (), again.counts)
    return replace(analysis, recount=again, without_duplicates=without, warnings=[*analysis.warnings, again.sentence])


def analyse(
    task: str,
    points: pd.DataFrame,
    options: Options,
    left_out: pd.DataFrame | None = None,
    warnings: tuple[str, ...] = (),
    counts: Mapping[str, Counts] | None = None,
) -> Analysis:
    """The analysis of one task. `points` has trial, group, id, ood (see `analysis.table.Table`); `counts`, where they
    are kept, what each point predicted per group of the task, for "id" and "ood", rows aligned with `points`.

    Never raises for lack of points: what cannot be known is NaN, and a warning says why.
    """
    left_out = pd.DataFrame(columns=list(LEFT_OUT)) if left_out is None else left_out
    notes = list(warnings)
    resampled, said = _resampled(points, counts, options)
    notes += said
    names = ordered_groups(points, options.baseline)
    rows = {name: np.flatnonzero(points["group"] == name) for name in names}
    weights = {
        name: bootstrap.draw(points["trial"].iloc[own], f"{task}/{name}", options.replicates, options.seed)
        for name, own in rows.items()
    }

    def arms_on(scale: Scale) -> dict[str, Arm]:
        moved = transformed(points, scale, options)
        redrawn = [robustness.redraw(moved, r, options.baseline, scale, clips(points, scale)) for r in resampled]
        return {
            name: Arm(name, moved.iloc[own].reset_index(drop=True), weights[name], tuple(r.of(own) for r in redrawn))
            for name, own in rows.items()
        }

    trends = []
    for name, scale in SCALES.items():
        arms = arms_on(scale)
        lines = {arm.name: line for arm in arms.values() if (line := robustness.own_line(arm)) is not None}
        trends.append(_trends(arms, lines, scale))
        if name == options.scale:
            chosen = arms, lines
    arms, lines = chosen
    parts = [arm.points for arm in arms.values()]
    points = pd.concat(parts, ignore_index=True) if parts else transformed(points, SCALES[options.scale], options)
    known = Analysis(task, options, points, pd.concat(trends, ignore_index=True), _group_rows(arms, {}), left_out,
                     _target(options, resampled))  # fmt: skip
    share = shares_of(arms[options.baseline].points, options) if options.baseline in lines else None
    if share is None:
        return _without_line(known, arms, notes)

    reference, line = arms[options.baseline], lines[options.baseline].line
    baseline = robustness.baseline_of(reference, SCALES[options.scale], line, options.axes, share)
    refused = not baseline.line.r2 >= options.min_r2
    if refused:
        notes.append(
            f"R^2 of the baseline line is {baseline.line.r2:.2f}, under the floor of {options.min_r2:g}: no verdict on "
            "effective robustness is given"
        )
    arms = {name: replace(arm, points=robustness.per_point(arm.points, baseline)) for name, arm in arms.items()}
    arms[options.baseline] = reference = replace(
        arms[options.baseline],
        points=arms[options.baseline].points.assign(cook=checks.cook(reference.points, baseline)),
    )
    points = pd.concat([arm.points for arm in arms.values()], ignore_index=True)
    means = {} if refused else {
        name: mean for name, arm in arms.items()
        if (mean := robustness.mean_of(arm, baseline, baseline.low, baseline.high)) is not None
    }  # fmt: skip
    regression = Regression() if refused else factors.factors(arms, baseline)
    compared, at_ids = ancova.compare({} if refused else arms, baseline, options.margin)
    notes += regression.notes + _count_notes(points, left_out, baseline) + _few_trials(arms, options.unit)
    return replace(
        known,
        points=points,
        groups=_group_rows(arms, means),
        warnings=notes,
        contrasts=contrasts.contrast(arms, baseline, options.margin, refused),
        factors=[factor for factor in regression.factors if factor.per == "tenfold"],
        influence=checks.influence(arms, baseline),
        selection=checks.selection(arms),
        progress=_progress(arms, baseline, refused),
        band=baseline.band(reference),
        baseline=baseline,
        refused=refused,
        errors=_errors(means),
        ancova=compared,
        at_ids=at_ids,
        regression=regression,
        half_gain=gain.half_gain(arms, means, baseline),
        means=means,
        id_sets=_id_sets(reference.points, baseline, options),
    )


def _without_line(known: Analysis, arms: Mapping[str, Arm], notes: list[str]) -> Analysis:
    """What is left to say when the baseline makes no line."""
    name = known.options.baseline
    count = len(arms[name].points) if name in arms else 0
    if count < MIN_POINTS:
        why = f"the baseline {name!r} has {count} points, too few for a line"
    elif len(known.options.ids) > 1:
        why = (
            f"the ID sets of the baseline {name!r} cannot be told apart, or its plane falls: no expectation can be "
            "made of them"
        )
    else:
        why = f"every point of the baseline {name!r} has the same ID score"
    notes.append(f"no effective robustness: {why}")
    empty = known.points.assign(
        expected_ood=np.nan, er=np.nan, er_low=np.nan, er_high=np.nan, extrapolated=False, cook=np.nan
    )
    return replace(known, points=empty, warnings=notes + _count_notes(empty, known.left_out, None))


def _resampled(
    points: pd.DataFrame, counts: Mapping[str, Counts] | None, options: Options
) -> tuple[list[Resampled], list[str]]:
    """Every point's scores under draws of the task's groups, where its counts are kept and give its very scores."""
    if counts is None or not len(points) or not (points["group"] == options.baseline).any():
        return [], []
    only = "intervals speak of the test groups as they are"
    metrics = set(points["metric"]) if "metric" in points else set()
    metric = str(next(iter(metrics))) if len(metrics) == 1 else ""
    if metric not in groups.METRICS:
        return [], [f"the metric is not one that counts per group can give: {only}"]
    for side in groups.SIDES:
        again = groups.scores(metric, np.ones((1, len(counts[side].groups))), counts[side])[:, 0]
        if not np.allclose(again, points[side], rtol=0, atol=1e-9):
            return [], [f"the counts per group do not give the {side} scores: {only}"]
    if metric in groups.EXTREMES:
        return [], [f"{metric} is no mean over groups, of which leaving some out would tell: {only}"]
    return groups.resample(counts, metric)


def _target(options: Options, resampled: list[Resampled]) -> str:
    drawn = {
        "ID groups": "test groups in distribution",
        "OOD groups": "test groups under shift",
        "groups": "test groups",
    }
    others = [f"other {options.unit}s", *(f"other {drawn[r.source.name]} of the same kind" for r in resampled)]
    same = "" if len(resampled) else " and the same test images"
    return f"Intervals speak of the study repeated with {', '.join(others)}{same}."


def _trends(arms: Mapping[str, Arm], lines: Mapping[str, OwnLine], scale: Scale) -> pd.DataFrame:
    rows = []
    for name, arm in arms.items():
        p, own = arm.points, lines.get(name)
        slope = own.slope.estimate if own else contrasts.NOT_KNOWN
        intercept = own.intercept.estimate if own else contrasts.NOT_KNOWN
        rows.append(
            (
                name, scale.name, len(p), slope.value, slope.low, slope.high, intercept.value, intercept.low,
                intercept.high, own.line.r2 if own else np.nan, p["id"].min(), p["id"].max(), int(p["clipped"].sum()),
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(TRENDS))


def _group_rows(arms: Mapping[str, Arm], means: Mapping[str, Mean]) -> pd.DataFrame:
    rows = []
    for name, arm in arms.items():
        points, mean = arm.points, means.get(name)
        estimate = mean.quantity.estimate if mean else contrasts.NOT_KNOWN
        outside = int(points["extrapolated"].sum()) if "extrapolated" in points else 0
        rows.append(
            (
                name, len(points), points["trial"].nunique(), mean.points if mean else 0, estimate.value, estimate.low,
                estimate.high, outside, points["id"].min(), points["id"].max(),
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(GROUPS))


def _errors(means: Mapping[str, Mean]) -> pd.DataFrame:
    rows = [
        (name, part.name, part.clusters, float(np.sqrt(part.variance)), part.df)
        for name, mean in means.items()
        for part in mean.quantity.parts
    ]
    return pd.DataFrame(rows, columns=list(ERRORS))


def _progress(arms: Mapping[str, Arm], baseline: Baseline, refused: bool) -> pd.DataFrame:
    """Mean ER, ID and OOD by group and epoch of fine-tuning, with the interval of the mean ER."""
    epochs = {e for arm in arms.values() if "epoch" in arm.points for e in arm.points["epoch"].dropna().unique()}
    if refused or not 2 <= len(epochs) <= MOST_EPOCHS:
        return pd.DataFrame()
    rows = []
    for name, arm in arms.items():
        for epoch in sorted(arm.points["epoch"].dropna().unique(), key=float):
            chosen = (arm.points["epoch"] == epoch).to_numpy()
            mean = robustness.mean_of(arm, baseline, baseline.low, baseline.high, chosen)
            if mean is not None:
                inside, er = arm.points.loc[chosen & ~arm.points["extrapolated"]], mean.quantity.estimate
                scores = inside["id"].mean(), inside["ood"].mean()
                rows.append((name, float(epoch), er.value, *scores, mean.points, mean.trials, er.low, er.high))
    return pd.DataFrame(rows, columns=list(PROGRESS))


def _id_sets(reference: pd.DataFrame, baseline: Baseline, options: Options) -> pd.DataFrame:
    """The coefficients of the baseline's plane, one row per ID set; empty for a single one."""
    if len(options.ids) == 1:
        return pd.DataFrame(columns=list(ID_SETS))
    rows = []
    for i, name in enumerate(options.ids):
        own = bootstrap.part(baseline.changes[:, 1 + i], baseline.weights.clusters, baseline.p)
        slope = bootstrap.combine(baseline.line.slope * float(baseline.shares[i]), [own])
        scores = reference[name].astype(float)
        said = options.id_names[i] if options.id_names else name
        rows.append((said, baseline.shares[i], slope.value, slope.low, slope.high, scores.min(), scores.max()))
    return pd.DataFrame(rows, columns=list(ID_SETS))


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


def _few_trials(arms: Mapping[str, Arm], unit: str) -> list[str]:
    """What one or two trials cannot say."""
    one, two = ([name for name, arm in arms.items() if arm.trials == count] for count in (1, 2))
    notes = []
    if one:
        notes.append(
            f"{', '.join(one)}: a single {unit}, so no interval can be given; the spread between {unit}s is unknown"
        )
    if two:
        notes.append(f"{', '.join(two)}: two {unit}s, whose spread is hardly known; intervals are as wide as that")
    return notes
