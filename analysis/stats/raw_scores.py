"""The plain ID and OOD scores of every group: what one gets who deploys a model, whatever becomes of the line.

Owns the choice of the evaluation point of each trial (`chosen_points`), the mean score of every group, its difference
from the baseline and from the best group, and slopes over what the sweep varies. Percentage points throughout. Errors
are those of a mean ER without its line: over trials (over seeds, where groups share them) and over the task's groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import PP
from analysis.stats import factors, score_differences
from analysis.stats.chosen_points import ID_VAL, TRIAL, Choice, choose, same_settings
from analysis.stats.contrasts import claimed
from analysis.stats.estimates import keeps_half
from analysis.stats.factor_coding import WITHIN_TRIALS
from analysis.stats.factor_rows import Layout, Rows, names_of_rows, varied
from analysis.stats.factors import FACTOR_TABLE, factor_table, regression
from analysis.stats.group_means import mean_er
from analysis.stats.quantities import Quantity
from analysis.stats.score_differences import BASELINE, against_tuned, annotated, differences
from analysis.stats.sensitivity import DUPLICATES, ONE_LEVEL, ONE_TRIAL
from analysis.stats.study_group import Group, GroupJackknife
from analysis.stats.task_points import TaskPoints, pairing
from analysis.stats.tuned_baseline import TunedBaseline, tuned_baseline

SCORES = ("group", "score", "mean", "low", "high", "se", "df", "n_trials", "n_points", "chosen_by")
FACTORS, LEVELS = ("score", *FACTOR_TABLE), ("score", *factors.LEVELS)
OOD = "ood"
NO_LINE = np.empty((0, 0))
OTHER_MODELS = (
    "raw scores are means over the rows that each group has: they compare like with like only where groups have the "
    "same kinds of models, which no column says; what is left at equal ID score is ER"
)


def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


@dataclass(frozen=True, eq=False)
class RawScores:
    """Scores, their differences and slopes in percentage points, of the points that `choice` describes.

    groups       one row per group and score (`id`, of several ID sets `id_1`, `id_2`, ...; `ood`), columns `SCORES`
    differences  a minus b: family `baseline` has every group against the baseline, Holm per score; family `best` every
                 group against the one with the highest score. Which that is was read off the same scores, so p and
                 intervals are Bonferroni's over all pairs of groups. Columns `score_differences.COLUMNS`; family
                 `tuned` has every group against the tuned baseline; picked_low..picked_high is the interval of the
                 group that is picked for its score
    factors      slopes over what the sweep varies, see `factors.factor_table`, with the score that they are of
    tuned        the baseline's best setting that no group has, None where there is none; its scores are the rows of
                 `tuned_scores`, under the name `tuned_name`
    means        the mean OOD score of every group, with everything that makes it uncertain
    levels       of numbers, each level less the one below it, see `factors.Regression`, with the score
    """

    choice: Choice
    groups: pd.DataFrame = field(default_factory=lambda: _empty(SCORES))
    differences: pd.DataFrame = field(default_factory=lambda: _empty(score_differences.COLUMNS))
    factors: pd.DataFrame = field(default_factory=lambda: _empty(FACTORS))
    levels: pd.DataFrame = field(default_factory=lambda: _empty(LEVELS))
    tuned: TunedBaseline | None = None
    tuned_scores: pd.DataFrame = field(default_factory=lambda: _empty(SCORES))
    means: Mapping[str, Quantity] = field(default_factory=dict)

    def best(self, score: str = OOD) -> str:
        """Return the group with the highest mean score, the first of several; empty without groups."""
        own = self.groups.loc[self.groups["score"] == score]
        return str(own.loc[own["mean"].idxmax(), "group"]) if own["mean"].notna().any() else ""

    def leading(self, baseline: str) -> str:
        """Return the group, but for the baseline, with the highest OOD score; empty where none has one."""
        own = self.groups.loc[(self.groups["score"] == OOD) & (self.groups["group"] != baseline)]
        return str(own.loc[own["mean"].idxmax(), "group"]) if own["mean"].notna().any() else ""

    def mean(self, group: str, score: str = OOD) -> Mapping[str, Any]:
        """Return the row of a group's score."""
        table = pd.concat([self.groups, self.tuned_scores]) if len(self.tuned_scores) else self.groups
        return table.loc[(table["group"] == group) & (table["score"] == score)].iloc[0].to_dict()

    @property
    def tuned_name(self) -> str:
        """What the tuned baseline is called in the tables: `scratch, 32 epochs`; empty without one."""
        return str(self.tuned_scores["group"].iloc[0]) if len(self.tuned_scores) else ""

    def difference(self, group: str, score: str = OOD, family: str = BASELINE) -> Mapping[str, Any] | None:
        """Return the row of a group's difference in a family; None where there is none."""
        table = self.differences
        own = table.loc[(table["a"] == group) & (table["score"] == score) & (table["family"] == family)]
        return own.iloc[0].to_dict() if len(own) else None


def raw_scores(task_points: TaskPoints) -> RawScores:
    """Return the raw scores of a task's points, of one point per trial where validation scores choose it (see
    `chosen_points.choose`). What cannot be estimated is NaN."""
    options, points = task_points.options, task_points.points
    if points.empty:
        return RawScores(Choice(np.array([], int), "", ()))
    choice = _cautioned(choose(points, options.baseline, unit=options.unit), task_points)
    inner = [column for column in WITHIN_TRIALS if column in points]
    cells = choose(points, options.baseline, inner) if inner else choice
    tuned = tuned_baseline(points, options.baseline, choice)
    tables: dict[str, list[pd.DataFrame]] = {
        "groups": [], "differences": [], "factors": [], "levels": [], "tuned_scores": []
    }  # fmt: skip
    for score in (*options.ids, OOD):
        groups = _groups_with(task_points, choice.rows, score)
        means = _means(groups)
        tables["groups"].append(_score_table(groups, means, score, choice.by))
        tables["differences"].append(differences(means, options.baseline, options.margin, score))
        if tuned is not None:
            scores, compared = _of_tuned(task_points, choice, tuned, score)
            tables["tuned_scores"].append(scores)
            tables["differences"].append(compared)
        own = groups if cells is choice else _groups_with(task_points, cells.rows, score)
        slopes, levels = _slopes(own, options, score)
        tables["factors"].append(slopes)
        tables["levels"].append(levels)
    made = {name: _joined(parts) for name, parts in tables.items() if parts}
    return RawScores(choice, tuned=tuned, means=means, **made)  # type: ignore[arg-type]


def _cautioned(choice: Choice, task_points: TaskPoints) -> Choice:
    """The choice with whether groups can be taken to have the same kinds of models, and a note where they cannot: a
    sweep trains every group alike, while a baseline of a table may be spread on purpose, from poor models to good ones,
    so that its mean is that of other models than a group's."""
    points = task_points.points.iloc[choice.rows]
    by_design = task_points.options.unit == TRIAL or choice.by == ID_VAL or bool(task_points.pairing.seeds)
    if by_design or points["group"].nunique() < 2 or same_settings(points):
        return choice
    return replace(choice, alike=False, notes=(*choice.notes, OTHER_MODELS))


def _means(groups: Mapping[str, Group]) -> dict[str, Quantity]:
    """The mean score of every group that has one."""
    means = {name: mean_er(group, None, -np.inf, np.inf) for name, group in groups.items()}
    return {name: mean.quantity for name, mean in means.items() if mean is not None}


def _of_tuned(
    task_points: TaskPoints, choice: Choice, tuned: TunedBaseline, score: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The score of the tuned baseline, and every group less it."""
    baseline = task_points.options.baseline
    others = choice.rows[(task_points.points["group"] != baseline).to_numpy()[choice.rows]]
    groups = _groups_with(task_points, np.sort(np.concatenate([others, tuned.rows])), score)
    means, label = _means(groups), f"{baseline}, {tuned.setting}"
    own = {name: mean for name, mean in means.items() if name == baseline}
    table = _score_table(groups, own, score, choice.by).assign(group=label)
    return table, against_tuned(means, baseline, label, task_points.options.margin, score)


def without_images(scores: RawScores, cleaned: RawScores) -> RawScores:
    """Return the scores with each claim marked by whether it holds without the test images that occur elsewhere too,
    whose scores are `cleaned`. A claim that cannot be made there (another group is best) does not hold."""
    keys = {"differences": ["a", "b", "score", "family"], "factors": ["score", "factor"],
            "levels": ["score", "factor", "a", "b"]}  # fmt: skip
    marked = {}
    for name, columns in keys.items():
        table, others = getattr(scores, name), getattr(cleaned, name)
        by_key = {tuple(row[key] for key in columns): row for row in others.to_dict("records")}
        rows = [_marked(row, by_key.get(tuple(row[key] for key in columns))) for row in table.to_dict("records")]
        marked[name] = pd.DataFrame(rows, columns=list(table))
    return replace(scores, **marked)


def _marked(row: dict[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    kind = claimed(row)
    if kind == "open":
        return row
    value = next(column for column in ("slope", "delta", "delta_er") if column in row)
    if other is None:
        holds = False
    elif kind == "differs":
        holds = claimed(other) == "differs" and np.sign(other[value]) == np.sign(row[value])
    else:
        holds = other["equivalent"]
    column = "survived" if holds else "not_robust_to"
    return {**row, column: "; ".join(filter(None, [row[column], DUPLICATES]))}


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def _groups_with(task_points: TaskPoints, rows: np.ndarray, score: str) -> dict[str, Group]:
    """The groups with the points `rows` (int, of the task's), and their score where ER would be: percentage points, as
    are the replicates without each test group. Trials are paired anew, since what is compared are other points."""
    points = task_points.points.iloc[rows].reset_index(drop=True)
    value = PP * points[score].to_numpy(float)
    points = points.assign(id=points[score].astype(float), er=value, extrapolated=False)
    paired = pairing(points, task_points.options.unit, task_points.options.first_stage)
    replicates = []
    for scores in task_points.jackknife_scores:
        own = scores.ood if score == OOD else scores.id
        if own is not None:
            replicates.append(GroupJackknife(scores.source, NO_LINE, NO_LINE, NO_LINE, PP * own[rows]))
    groups = {}
    for name in task_points.names:
        own_rows = np.flatnonzero(points["group"] == name)
        unit, count = paired.units[name]
        own_points = points.iloc[own_rows].reset_index(drop=True)
        jackknife = tuple(replace(each, er=each.er[own_rows]) for each in replicates)
        stages = paired.stages.get(name)
        groups[name] = Group(name, own_points, unit, paired.codes[own_rows], count, jackknife, stages)
    return groups


def _score_table(
    groups: Mapping[str, Group], means: Mapping[str, Quantity], score: str, chosen_by: str
) -> pd.DataFrame:
    rows = []
    for name, mean in means.items():
        estimate, group = mean.estimate, groups[name]
        low, high = np.clip([estimate.low, estimate.high], 0.0, PP)  # NaN stays NaN
        rows.append((name, score, estimate.value, low, high, estimate.se, estimate.df, group.trials,
                     len(group.points), chosen_by))  # fmt: skip
    return pd.DataFrame(rows, columns=list(SCORES))


def _slopes(groups: Mapping[str, Group], options: Options, score: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The slopes of a score over what the sweep varies, and the differences of a number's neighbouring levels; a claim
    has to hold without any one trial, a slope also without any one level."""
    own = [group for group in varied(groups, options.baseline) if len(group.points)]
    rows = Rows.of(own, Layout.of(own, names_of_rows(groups))) if own else None
    fitted = regression(rows, None, options.margin)
    table = factor_table(fitted, options.margin)
    made = []
    for row in table.to_dict("records"):
        holds = {}
        if claimed(row) == "differs":
            holds[ONE_TRIAL] = keeps_half(row["slope"], row["without_low"], row["without_high"])
            if np.isfinite(row["without_level_low"]):
                ends = row["without_level_low"], row["without_level_high"]
                holds[ONE_LEVEL] = keeps_half(row["slope"], *ends)
        made.append({**row, "score": score, "survived": "; ".join(n for n, ok in holds.items() if ok),
                     "not_robust_to": "; ".join(n for n, ok in holds.items() if not ok)})  # fmt: skip
    levels = annotated([{**row, "delta": row["delta_er"]} for row in fitted.levels.to_dict("records")])
    return pd.DataFrame(made, columns=list(FACTORS)), pd.DataFrame(levels, columns=list(LEVELS)).assign(score=score)
