"""One task from points to numbers: `analyse(points) -> Analysis`, all tables of the report and its verdict.

Owns the order of the steps: resample the points, fit the baseline, score every point, make the tables. Every number is
made in the module of `stats` that is named after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd

from analysis.input.declared import Declared, Earlier
from analysis.input.recount import Recount, recount
from analysis.input.run_agreement import Tests, is_estimated, unlabelled_tests, with_estimates
from analysis.input.shift_tests import on_shifts
from analysis.input.table import LEFT_OUT, Table
from analysis.learned.learned import Learned, learned
from analysis.line.checks import check_line
from analysis.line.line_checks import LineChecks
from analysis.notes import count_notes, few_trials, target
from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats import ancova, best_set, contrasts, robustness, sensitivity, study_tables
from analysis.stats.agreement import ESTIMATE, Estimated
from analysis.stats.factors import FACTOR_TABLE, Factor, Regression, factor_table
from analysis.stats.group_jackknife import Counts
from analysis.stats.group_means import MeanER, mean_er
from analysis.stats.half_gain import HALF_GAIN, half_gain_table
from analysis.stats.influence import INFLUENCE, SELECTION, cook_distances, influence_table, selection_table
from analysis.stats.looks import Looks, several
from analysis.stats.raw_scores import RawScores, raw_scores, without_images
from analysis.stats.refusals import no_line, refusals_of
from analysis.stats.resampled import Resampled, resample
from analysis.stats.robustness import Baseline
from analysis.stats.shift_results import Shifts
from analysis.stats.study_group import Group
from analysis.stats.task_points import Comparison
from analysis.stats.transform import transformed
from analysis.subsets.hidden import HiddenSubset, hidden_subset
from ray_robust.run.analysis_settings import MEAN
from ray_robust.run.interim import Interim

CONTRASTS, ANCOVA, AT_IDS = (*contrasts.COLUMNS, *contrasts.MORE), ancova.COLUMNS, ancova.AT_ID


def _empty(columns: tuple[str, ...]) -> Callable[[], pd.DataFrame]:
    return partial(pd.DataFrame, columns=list(columns))


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that is known about one task. Scores are fractions, every ER is in percentage points.

    points      one row per point, with expected_ood, er, er_low, er_high, extrapolated, clipped; of the baseline `cook`
    trends      one row per group and scale, the baseline first
    groups      mean ER per group: columns `GROUPS`; n_used points lie in the baseline's range and enter the mean
    contrasts   see `analysis.stats.contrasts`: `COLUMNS` and `MORE`
    factors     the slopes of `regression` that are per tenfold of a number
    influence, selection   see `analysis.stats.influence`
    progress    mean ER by group and epoch with its interval, columns `PROGRESS`, empty unless there are several epochs
    band        the baseline line with both bands (see `Baseline.band`), empty without a line
    baseline    None where no line can be fitted; `refused` says that its R^2 is under the floor
    errors      a row per source of error of each group's mean ER, columns `ERRORS`, se in percentage points
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
    scores      the ID and OOD scores of every group, whatever becomes of the line: see `analysis.stats.raw_scores`
    recount     which test images occur elsewhere too (see `analysis.input.recount`); None where none does
    without_duplicates  the same analysis without these images, where the run's predictions give it; else None
    shifts      the line and the effects on every shift, where there are several: see `analysis.stats.shift_results`
    learned     what the trainings learned, and where it is lost: see `analysis.learned.learned`
    interim     what is missing of a run that is not complete: every claim is withheld (`so_far`)
    looks       mean ER at every choice among looks along fine-tuning, and which `points` are of: `analysis.stats.looks`
    best        which groups cannot be told from the best one, by mean ER and by OOD score: see `stats.best_set`
    declared    what the runs decided before their scores were seen; None for a plain table
    earlier     where that was changed once there were scores, the same analysis under each earlier setting
    estimated   what the OOD scores were estimated by, where the OOD test has no labels; else None
    hidden      OOD images on which better ID means worse OOD: see `analysis.subsets.hidden`
    resampled   what came in, with its replicates and without its groups, which are large: `analysis.views` is of it
    """

    task: str
    options: Options
    points: pd.DataFrame
    trends: pd.DataFrame
    groups: pd.DataFrame
    left_out: pd.DataFrame
    target: str
    scores: RawScores
    warnings: list[str] = field(default_factory=list)
    contrasts: pd.DataFrame = field(default_factory=_empty(CONTRASTS))
    factors: list[Factor] = field(default_factory=list)
    influence: pd.DataFrame = field(default_factory=_empty(INFLUENCE))
    selection: pd.DataFrame = field(default_factory=_empty(SELECTION))
    progress: pd.DataFrame = field(default_factory=pd.DataFrame)
    band: pd.DataFrame = field(default_factory=pd.DataFrame)
    baseline: Baseline | None = None
    refused: bool = True
    errors: pd.DataFrame = field(default_factory=_empty(study_tables.ERRORS))
    ancova: pd.DataFrame = field(default_factory=_empty(ANCOVA))
    at_ids: pd.DataFrame = field(default_factory=_empty(AT_IDS))
    regression: Regression = field(default_factory=Regression)
    half_gain: pd.DataFrame = field(default_factory=_empty(HALF_GAIN))
    means: dict[str, MeanER] = field(default_factory=dict)
    id_sets: pd.DataFrame = field(default_factory=_empty(study_tables.ID_SETS))
    recount: Recount | None = None
    without_duplicates: Analysis | None = None
    survival: pd.DataFrame = field(default_factory=_empty(sensitivity.COLUMNS))
    factor_table: pd.DataFrame = field(default_factory=_empty(FACTOR_TABLE))
    refusals: tuple[str, ...] = ()
    line: LineChecks | None = None
    learned: Learned = field(default_factory=Learned)
    shifts: Shifts = field(default_factory=Shifts)
    interim: Interim | None = None
    looks: Looks = field(default_factory=Looks)
    best: pd.DataFrame = field(default_factory=_empty(best_set.COLUMNS))
    declared: Declared | None = None
    earlier: tuple[tuple[Earlier, Analysis], ...] = ()
    estimated: Estimated | None = None
    hidden: HiddenSubset = field(default_factory=HiddenSubset)
    resampled: Resampled | None = None

    @property
    def mark(self) -> str:
        """What everything made of it is marked with: that it is interim, and that OOD scores are estimates; or ""."""
        interim = "" if self.interim is None else self.interim.label
        return ", ".join(filter(None, [interim, "" if self.estimated is None else ESTIMATE]))

    @property
    def notes(self) -> list[str]:
        """The warnings but for the refusals, which are a finding."""
        return [warning for warning in self.warnings if warning not in self.refusals]

    @property
    def claims(self) -> sensitivity.Claims:
        """Every row that could claim something."""
        return sensitivity.claims_of(self.contrasts, self.factor_table, self.regression.levels)


def analyse_all(table: Table, options: Options) -> list[Analysis]:
    """Return the analysis of every task of the table, in the order of appearance; at least one, however empty the
    table."""
    tasks = list(dict.fromkeys([*table.points["task"], *table.left_out["task"].dropna()])) or ["task"]
    earlier = table.declared.earlier(options) if table.declared else []
    analyses = []
    for task in tasks:
        points = table.points.loc[(table.points["task"] == task).to_numpy()].reset_index(drop=True)
        counts, notes = table.counts(points) if table.counts and not is_estimated(points) else (None, [])
        duplicates = recount(table.runs, points)
        if duplicates is not None:
            notes = [*notes, duplicates.sentence]
        notes += [one.sentence for one in earlier]
        tests = unlabelled_tests(table.runs, points)
        data = _Data(task, points, table.missing(task), counts, (*table.warnings, *notes), duplicates, tests)
        analysis = data.analyse(options)
        lessons = learned(table, points, analysis.scores, options.baseline)
        shifts = on_shifts(table, points, counts, options, analysis.estimated)
        hidden = hidden_subset(table, points, options) if table.interim is None else HiddenSubset()
        analysis = replace(
            analysis,
            recount=duplicates,
            learned=lessons,
            shifts=shifts,
            hidden=hidden,
            warnings=[*analysis.warnings, *lessons.warnings, *shifts.notes, *hidden.warnings],
            declared=table.declared,
            earlier=tuple((one, data.analyse(one.options)) for one in earlier),
        )
        analyses.append(analysis if table.interim is None else so_far(analysis, table.interim))
    return analyses


@dataclass(frozen=True, eq=False)
class _Data:
    """What is analysed of one task, whatever the options."""

    task: str
    points: pd.DataFrame
    missing: pd.DataFrame
    counts: Mapping[str, Counts] | None
    notes: tuple[str, ...]
    duplicates: Recount | None
    tests: Tests | None

    def analyse(self, options: Options) -> Analysis:
        without, duplicates = None, self.duplicates
        if duplicates is not None and duplicates.points is not None:
            again, counts = duplicates.points, duplicates.counts
            without = analyse(self.task, again, options, self.missing, (), counts, checked=False)
        points, estimated, lost = with_estimates(self.points, options, self.tests)
        missing = pd.concat([self.missing, lost], ignore_index=True) if len(lost) else self.missing
        made = analyse(self.task, points, options, missing, self.notes, estimated or self.counts, without)
        er = {group: mean.quantity for group, mean in made.means.items()}
        return replace(made, best=best_set.best_sets(er, made.scores.means, options.baseline))


def so_far(analysis: Analysis, interim: Interim) -> Analysis:
    """Return the analysis of a run that is not complete: the same numbers, and no claim. Scores that are looked at
    again and again as they come in show differences that are none, more often than one test in twenty does."""
    scores, held = analysis.scores, sensitivity.withheld
    return replace(
        analysis,
        interim=interim,
        warnings=[text for text in analysis.warnings if text not in analysis.looks.disagreements],
        looks=replace(analysis.looks, disagreements=()),
        best=analysis.best.assign(in_set=True, at_least_behind=0.0),
        earlier=tuple((one, so_far(other, interim)) for one, other in analysis.earlier),
        contrasts=held(analysis.contrasts),
        ancova=ancova.withheld(analysis.ancova),
        at_ids=held(analysis.at_ids),
        factor_table=held(analysis.factor_table),
        shifts=analysis.shifts.held(),
        regression=replace(analysis.regression, levels=held(analysis.regression.levels)),
        scores=replace(
            scores, differences=held(scores.differences), factors=held(scores.factors), levels=held(scores.levels)
        ),
    )


def analyse(
    task: str,
    points: pd.DataFrame,
    options: Options,
    left_out: pd.DataFrame | None = None,
    warnings: tuple[str, ...] = (),
    counts: Mapping[str, Counts] | Estimated | None = None,
    without_duplicates: Analysis | None = None,
    checked: bool = True,
) -> Analysis:
    """Return the analysis of one task.

    points    columns trial, group, id, ood (see `input.table.Table`)
    counts    what each point predicted per test group, for "id" and "ood", rows aligned with `points`; None: not kept.
              Where the OOD test has no labels what its scores were estimated by
    without_duplicates   the same analysis without test images that occur elsewhere
    checked   whether the line is checked, and the claims (see `sensitivity`)

    Never raises for lack of points: what cannot be estimated is NaN, and a warning says why.
    """
    left_out = pd.DataFrame(columns=list(LEFT_OUT)) if left_out is None else left_out
    every, estimated = resample(points, counts, options), counts if isinstance(counts, Estimated) else None
    resampled = every.at_look()
    lines = [study_tables.trend_table(groups, SCALES[name]) for name, groups in resampled.groups.items()]
    trends = pd.concat(lines, ignore_index=True)
    groups = resampled.groups[options.scale]
    parts = [group.points for group in groups.values()]
    placed = pd.concat(parts, ignore_index=True) if parts else transformed(points, SCALES[options.scale], options)
    sentence = target(resampled.task_points)
    scores = raw_scores(every.task_points)
    if without_duplicates is not None:
        scores = without_images(scores, without_duplicates.scores)
    looks = Looks(MEAN if resampled.why else options.look, several(points, options.baseline))
    table = study_tables.group_table(groups, {})
    bare = Analysis(task, options, placed, trends, table, left_out, sentence, scores, looks=looks,
                    estimated=estimated, resampled=replace(resampled))  # fmt: skip
    warnings = (*warnings, *scores.choice.notes)
    fitted = _fit_baseline(bare, resampled, checked)
    comparison = None if fitted is None else fitted.comparison
    bare = replace(bare, trends=study_tables.with_plane(trends, comparison, options))
    if fitted is None:
        why = estimated.refused if estimated is not None and estimated.refused else no_line(groups, options)
        return _without_line(bare, why, [*warnings, *resampled.notes])
    bare = replace(bare, without_duplicates=without_duplicates, line=fitted.line)
    scored = _score(bare, resampled, fitted, checked)
    notes = [*fitted.refusals, *warnings, *resampled.notes, *fitted.notes]
    return _of_all_looks(_with_tables(bare, fitted, scored, notes), every, fitted)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The comparison under the baseline's line, why no ER is given (empty where it is), and the checks of the line."""

    comparison: Comparison
    refusals: list[str]
    line: LineChecks | None
    notes: list[str]


def _fit_baseline(bare: Analysis, resampled: Resampled, checked: bool) -> _Fitted | None:
    """Fit the baseline's line, compare the groups under it, check it; None where its points make no line."""
    options = bare.options
    groups = resampled.groups[options.scale]
    comparison = resampled.task_points.compare(SCALES[options.scale], groups=groups)
    if comparison is None:
        return None
    refusals = refusals_of(comparison, options)
    if not checked:
        return _Fitted(comparison, refusals, None, [])
    slope = comparison.baseline.slope(comparison.groups[options.baseline]).estimate
    line = check_line(bare.points, options, (slope.value, slope.low, slope.high))
    rises = ("slope",) if refusals else ()  # a line that does not rise is refused, which says it already
    return _Fitted(comparison, refusals, line, line.failed(*rises) if line else [])


def _without_line(bare: Analysis, why: str, notes: list[str]) -> Analysis:
    """Return the analysis of a task whose baseline makes no line."""
    empty = bare.points.assign(
        expected_ood=np.nan, er=np.nan, er_low=np.nan, er_high=np.nan, extrapolated=False, cook=np.nan
    )
    notes = [*notes, f"no effective robustness: {why}", *count_notes(empty, bare.left_out, None)]
    return replace(bare, points=empty, warnings=notes, refusals=(why,))


@dataclass(frozen=True, eq=False)
class _Scored:
    """The groups with ER and its interval per point, the mean ER of each, and which claims the checks leave standing;
    no mean, regression or claim where ER is refused."""

    groups: Mapping[str, Group]
    means: dict[str, MeanER]
    regression: Regression
    survival: pd.DataFrame


def _score(bare: Analysis, resampled: Resampled, fitted: _Fitted, checked: bool) -> _Scored:
    comparison, without = fitted.comparison, bare.without_duplicates
    baseline = comparison.baseline
    groups = {name: replace(group, points=robustness.with_intervals(group.points, baseline))
              for name, group in comparison.groups.items()}  # fmt: skip
    points = groups[baseline.name].points
    cook = cook_distances(points, baseline)
    groups[baseline.name] = replace(comparison.groups[baseline.name], points=points.assign(cook=cook))
    if fitted.refusals:
        return _Scored(groups, {}, Regression(), bare.survival)
    means = {name: mean for name, group in groups.items()
             if (mean := mean_er(group, baseline, baseline.low, baseline.high)) is not None}  # fmt: skip
    cleaned = None if without is None else {} if without.refused else without.claims  # no line: nothing holds
    survival = sensitivity.survival(resampled.task_points, comparison, cleaned) if checked else bare.survival
    levels = sensitivity.annotated(comparison.regression.levels, "levels", survival)
    return _Scored(groups, means, replace(comparison.regression, levels=levels), survival)


def _with_tables(bare: Analysis, fitted: _Fitted, scored: _Scored, notes: list[str]) -> Analysis:
    """Return the analysis with every table that ER is in."""
    options, baseline, refused = bare.options, fitted.comparison.baseline, bool(fitted.refusals)
    groups, reference = scored.groups, fitted.comparison.groups[options.baseline]
    points = pd.concat([group.points for group in groups.values()], ignore_index=True)
    slopes = factor_table(scored.regression, options.margin)
    table = contrasts.contrast(groups, baseline, options.margin, refused) if refused else fitted.comparison.contrasts
    lines, at_ids = ancova.compare({} if refused else groups, baseline, options.margin)
    regression_notes = [note.replace(" trials ", f" {options.unit}s ") for note in scored.regression.notes]
    notes = [*notes, *regression_notes, *count_notes(points, bare.left_out, baseline),
             *few_trials(groups, scored.means, options.unit)]  # fmt: skip
    return replace(
        bare,
        points=points,
        groups=study_tables.group_table(groups, scored.means),
        warnings=notes,
        contrasts=sensitivity.annotated(table, "contrasts", scored.survival),
        factor_table=sensitivity.annotated(slopes, "factors", scored.survival),
        factors=[factor for factor in scored.regression.factors if factor.per == "tenfold"],
        influence=influence_table(groups, baseline),
        band=baseline.band(reference),
        baseline=baseline,
        refused=refused,
        refusals=tuple(fitted.refusals),
        errors=study_tables.error_table(scored.means),
        ancova=lines,
        at_ids=at_ids,
        regression=scored.regression,
        half_gain=half_gain_table(groups, scored.means, baseline),
        means=scored.means,
        id_sets=study_tables.id_set_table(reference.points, baseline, options),
        survival=scored.survival,
    )


def _of_all_looks(analysis: Analysis, every: Resampled, fitted: _Fitted) -> Analysis:
    """Return the analysis with what is of the points of all looks, under the same line."""
    options, comparison = analysis.options, fitted.comparison
    if len(every.task_points.points) > len(analysis.points):
        own = every.groups[options.scale]
        comparison = every.task_points.compare(SCALES[options.scale], groups=own, of_factors=False) or comparison
    groups, refused = comparison.groups, analysis.refused
    points = pd.concat([group.points for group in groups.values()], ignore_index=True)
    looks = analysis.looks if refused else analysis.looks.of(groups, comparison.baseline, options.margin)
    return replace(
        analysis,
        looks=looks,
        warnings=[*analysis.warnings, *looks.disagreements],
        selection=selection_table(points, options.baseline, refused),
        progress=study_tables.progress_table(groups, comparison.baseline, refused),
    )
