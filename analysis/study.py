"""One task from points to numbers: `analyse(points) -> Analysis`, all tables of the report and its verdict.

Owns the order of the steps and the shape of the tables; every number is made in the module named after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd

from analysis.input.recount import Recount, recount
from analysis.input.table import Table
from analysis.line.checks import check_line
from analysis.line.line_checks import LineChecks
from analysis.notes import count_notes, few_trials, target
from analysis.options import Options
from analysis.scales import PP, SCALES, Scale
from analysis.stats import (
    ancova,
    contrasts,
    group_jackknife,
    reliability,
    robustness,
    sensitivity,
)
from analysis.stats import (
    half_gain as gain,
)
from analysis.stats import (
    influence as checks,
)
from analysis.stats.estimates import combine
from analysis.stats.factors import FACTOR_TABLE, Factor, Regression, factor_table
from analysis.stats.group_jackknife import Counts, Resampled
from analysis.stats.robustness import Arm, Baseline, Mean
from analysis.stats.task_points import Compared, Material
from analysis.stats.transform import transformed
from analysis.stats.trend import MIN_POINTS
from ray_robust.metrics import METRICS

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
    contrasts   see `analysis.stats.contrasts`: `COLUMNS` and `MORE`
    factors     the slopes of `regression` that are per tenfold of a number
    influence, selection   see `analysis.stats.influence`
    progress    mean ER by group and epoch with its interval, columns `PROGRESS`, empty unless there are several epochs
    band        the baseline line with both bands (see `Baseline.band`), empty without a line
    baseline    None where no line can be fitted; `refused` says that its R^2 is under the floor
    errors      what the interval of each group's mean ER is made of, columns `ERRORS`: a row per source of error
                ("trials of GROUP", "baseline line", "ID groups", "OOD groups"; where groups are paired by seed the
                first two are one), se in percentage points
    ancova      slopes, then heights, of the lines of every pair: see `analysis.stats.ancova.COLUMNS`
    at_ids      where slopes differ, the contrast at three ID scores: see `analysis.stats.ancova.AT_ID`
    regression  every factor of the sweep together: see `analysis.stats.factors.Regression`
    half_gain   the amount of the varied number at which half of the gain is reached: see `analysis.stats.half_gain`
    means       mean ER per group as `groups` has it, with everything that makes it uncertain
    id_sets     with several ID sets, how each enters the expectation, columns `ID_SETS`; else empty
    factor_table  the slopes of `regression` with their tests: see `analysis.stats.factors.factor_table`
    refusals    why there is no ER, a sentence each
    line        whether the baseline's points lie on a line: see `analysis.line.checks`; None where nobody asked
    survival    which claims hold without the assumptions they were made under: see `analysis.stats.sensitivity`
    target      one sentence: which repetition of the study the intervals speak of
    recount     which test images occur elsewhere too (see `analysis.input.recount`); None where none does
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
    survival: pd.DataFrame = field(default_factory=_empty(sensitivity.COLUMNS))
    factor_table: pd.DataFrame = field(default_factory=_empty(FACTOR_TABLE))
    refusals: tuple[str, ...] = ()
    line: LineChecks | None = None

    @property
    def notes(self) -> list[str]:
        """The warnings but for the refusals, which the finding says."""
        return [warning for warning in self.warnings if warning not in self.refusals]

    @property
    def claims(self) -> sensitivity.Claims:
        """Every row that could claim something."""
        return sensitivity.claims_of(self.contrasts, self.factor_table, self.regression.levels)


def analyse_all(table: Table, options: Options) -> list[Analysis]:
    """Every task of the table by itself, in the order of appearance; at least one, however empty the table."""
    tasks = list(dict.fromkeys([*table.points["task"], *table.left_out["task"].dropna()])) or ["task"]
    found = []
    for task in tasks:
        own = (table.points["task"] == task).to_numpy()
        # a trial that failed before it could name its task is missing from every one of them
        missing = table.left_out.loc[table.left_out["task"].isna() | (table.left_out["task"] == task)]
        points = table.points.loc[own].reset_index(drop=True)
        counts, notes = table.counts(points) if table.counts else (None, [])
        again, without = recount(table.runs, points), None
        if again is not None:
            notes = [*notes, again.sentence]
            if again.points is not None:
                without = analyse(task, again.points, options, missing, (), again.counts, checked=False)
        analysis = analyse(task, points, options, missing, (*table.warnings, *notes), counts, without)
        found.append(replace(analysis, recount=again))
    return found


def analyse(
    task: str,
    points: pd.DataFrame,
    options: Options,
    left_out: pd.DataFrame | None = None,
    warnings: tuple[str, ...] = (),
    counts: Mapping[str, Counts] | None = None,
    without_duplicates: Analysis | None = None,
    checked: bool = True,
) -> Analysis:
    """The analysis of one task. `points` has trial, group, id, ood (see `input.table.Table`); `counts`, where they
    are kept, what each point predicted per group of the task, for "id" and "ood", rows aligned with `points`.
    `without_duplicates` is the same without test images that occur elsewhere. Not `checked`: nothing is asked of the
    line, nor what claims survive (see `sensitivity`).

    Never raises for lack of points: what cannot be known is NaN, and a warning says why.
    """
    left_out = pd.DataFrame(columns=list(LEFT_OUT)) if left_out is None else left_out
    resampled, notes = _resampled(points, counts, options)
    notes = [*warnings, *notes]
    material = Material.of(_with_variances(points, counts), options, resampled)
    arms_on = {name: material.on(scale) for name, scale in SCALES.items()}
    trends = pd.concat([_trends(arms, SCALES[name]) for name, arms in arms_on.items()], ignore_index=True)
    arms = arms_on[options.scale]
    parts = [arm.points for arm in arms.values()]
    placed = pd.concat(parts, ignore_index=True) if parts else transformed(points, SCALES[options.scale], options)
    bare = Analysis(task, options, placed, trends, _group_rows(arms, {}), left_out, target(material))
    compared = material.compare(SCALES[options.scale], arms=arms)
    if compared is None:
        return _without_line(bare, arms, notes)
    refusals = refusals_of(compared, options, trends)
    bare = replace(bare, without_duplicates=without_duplicates)
    if checked:
        own = trends.loc[(trends["group"] == options.baseline) & (trends["scale"] == options.scale)].iloc[0]
        slope = own[["slope", "slope_low", "slope_high"]].astype(float)
        bare = replace(bare, line=check_line(placed, options, tuple(slope)))
        rises = ("slope",) if refusals else ()  # a line that does not rise is refused, which says it already
        notes += bare.line.failed(*rises) if bare.line else []
    return _with_line(bare, compared, material, refusals, refusals + notes, checked)


def _with_line(
    bare: Analysis, compared: Compared, material: Material, refusals: list[str], notes: list[str], checked: bool
) -> Analysis:
    """Everything that there is to say once the baseline has a line; no ER where it is refused."""
    options, baseline, arms = bare.options, compared.baseline, dict(compared.arms)
    refused, reference = bool(refusals), arms[options.baseline]
    arms = {name: replace(arm, points=robustness.with_intervals(arm.points, baseline)) for name, arm in arms.items()}
    own = arms[options.baseline].points
    arms[options.baseline] = replace(reference, points=own.assign(cook=checks.cook(own, baseline)))
    points = pd.concat([arm.points for arm in arms.values()], ignore_index=True)
    means = {} if refused else {
        name: mean for name, arm in arms.items()
        if (mean := robustness.mean_of(arm, baseline, baseline.low, baseline.high)) is not None
    }  # fmt: skip
    without = bare.without_duplicates
    cleaned = None if without is None else {} if without.refused else without.claims  # no line: nothing holds
    survived = bare.survival if refused or not checked else sensitivity.survival(material, compared, cleaned)
    regression = Regression() if refused else compared.regression
    levels = sensitivity.annotated(regression.levels, "levels", survived)
    regression = replace(regression, levels=levels)
    slopes = factor_table(regression, options.margin)
    table = contrasts.contrast(arms, baseline, options.margin, refused) if refused else compared.contrasts
    lines, at_ids = ancova.compare({} if refused else arms, baseline, options.margin)
    notes = notes + regression.notes + count_notes(points, bare.left_out, baseline) + few_trials(arms, options.unit)
    return replace(
        bare,
        points=points,
        groups=_group_rows(arms, means),
        warnings=notes,
        contrasts=sensitivity.annotated(table, "contrasts", survived),
        factor_table=sensitivity.annotated(slopes, "factors", survived),
        factors=[factor for factor in regression.factors if factor.per == "tenfold"],
        influence=checks.influence(arms, baseline),
        selection=checks.selection(arms),
        progress=_progress(arms, baseline, refused),
        band=baseline.band(reference),
        baseline=baseline,
        refused=refused,
        refusals=tuple(refusals),
        errors=_errors(means),
        ancova=lines,
        at_ids=at_ids,
        regression=regression,
        half_gain=gain.half_gain(arms, means, baseline),
        means=means,
        id_sets=_id_sets(reference.points, baseline, options),
        survival=survived,
    )


def refusals_of(compared: Compared, options: Options, trends: pd.DataFrame) -> list[str]:
    """Why the baseline's line is none that ER could be measured from, a sentence each; empty where it is one.

    It must explain the baseline (R^2), rise for certain, and rise by more than the margin over the baseline's range: on
    a level line every expectation is the same, and ER only the OOD score under another name.
    """
    baseline, points = compared.baseline, compared.arms[options.baseline].points
    if (points["id"] == points["ood"]).all():
        return [
            f"the ID and the OOD scores of {options.baseline!r} are the same numbers: there is no shift to speak of"
        ]
    why, none = [], "no verdict on effective robustness is given"
    if not baseline.line.r2 >= options.min_r2:
        why.append(f"R^2 of the baseline line is {baseline.line.r2:.2f}, under the floor of {options.min_r2:g}: {none}")
    chosen = trends.loc[(trends["group"] == options.baseline) & (trends["scale"] == options.scale)].iloc[0]
    if baseline.line.slope <= 0 or chosen["slope_low"] <= 0:
        span_ = (
            f" ({chosen['slope_low']:.2f} to {chosen['slope_high']:.2f})" if np.isfinite(chosen["slope_low"]) else ""
        )
        falls = "falls" if baseline.line.slope <= 0 and not chosen["slope_high"] > 0 else "is not shown to rise"
        why.append(
            f"the baseline line {falls}, slope {baseline.line.slope:.2f}{span_}: a better ID score does not make a "
            f"better OOD score, so nothing can be expected from one; {none}"
        )
    else:
        ends = baseline.scale.inverse(baseline.line.at(np.array([points["x"].min(), points["x"].max()])))
        rise = PP * float(ends[1] - ends[0])
        if rise < options.margin:
            why.append(
                f"the baseline line rises by {rise:.1f} points of OOD score over all of its ID scores, less than the "
                f"margin of {options.margin:g}: it is level, and ER the OOD score under another name; {none}"
            )
    return why


def _with_variances(points: pd.DataFrame, counts: Mapping[str, Counts] | None) -> pd.DataFrame:
    """`points` with `id_variance`, the sampling variance of the ID score, where counts give it."""
    metrics = points["metric"].dropna().unique() if "metric" in points else []
    if counts is None or len(metrics) != 1:
        return points
    variance = reliability.variance_of(counts["id"], str(metrics[0]))
    return points if variance is None else points.assign(id_variance=variance)


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
    return replace(known, points=empty, warnings=notes + count_notes(empty, known.left_out, None), refusals=(why,))


def _resampled(
    points: pd.DataFrame, counts: Mapping[str, Counts] | None, options: Options
) -> tuple[list[Resampled], list[str]]:
    """Every point's scores under draws of the task's groups, where its counts are kept and give its very scores."""
    if counts is None or not len(points) or not (points["group"] == options.baseline).any():
        return [], []
    only = "intervals speak of the test groups as they are"
    metrics = set(points["metric"]) if "metric" in points else set()
    metric = str(next(iter(metrics))) if len(metrics) == 1 else ""
    if metric not in METRICS:
        return [], [f"the metric is not one that counts per group can give: {only}"]
    for side in group_jackknife.SIDES:
        again = group_jackknife.scores(metric, np.ones((1, len(counts[side].groups))), counts[side])[:, 0]
        if not np.allclose(again, points[side], rtol=0, atol=1e-9):
            return [], [f"the counts per group do not give the {side} scores: {only}"]
    if METRICS[metric].not_resampled:
        return [], [f"{metric} {METRICS[metric].not_resampled}: {only}"]
    return group_jackknife.resample(counts, metric)


def _trends(arms: Mapping[str, Arm], scale: Scale) -> pd.DataFrame:
    rows = []
    for name, arm in arms.items():
        p, own = arm.points, robustness.own_line(arm)
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
        own = baseline.errors.part(np.eye(len(baseline.coefficients))[1 + i])
        slope = combine(baseline.line.slope * float(baseline.shares[i]), [own])
        scores = reference[name].astype(float)
        said = options.id_names[i] if options.id_names else name
        rows.append((said, baseline.shares[i], slope.value, slope.low, slope.high, scores.min(), scores.max()))
    return pd.DataFrame(rows, columns=list(ID_SETS))
