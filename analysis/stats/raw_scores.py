"""The plain ID and OOD scores of every group: what one gets who deploys a model, whatever becomes of the line.

Owns the choice of the evaluation point of each trial (`chosen_points`), the mean score of every group, its difference
from the baseline and from the best group, and slopes over what the sweep varies. Percentage points throughout. Errors
are those of a mean ER without its line: over trials (over seeds, where groups share them) and over the task's groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import PP
from analysis.stats import contrasts, estimates, quantities
from analysis.stats.chosen_points import Choice, choose
from analysis.stats.contrasts import claimed, holm
from analysis.stats.estimates import Estimate, keeps_half
from analysis.stats.factor_coding import WITHIN_TRIALS
from analysis.stats.factor_rows import Layout, Rows, varied
from analysis.stats.factors import FACTOR_TABLE, factor_table, regression
from analysis.stats.group_means import mean_er
from analysis.stats.quantities import Quantity
from analysis.stats.sensitivity import ONE_LEVEL, ONE_TRIAL
from analysis.stats.study_group import Group, GroupJackknife
from analysis.stats.task_points import TaskPoints, pairing

SCORES = ("group", "score", "mean", "low", "high", "se", "df", "n_trials", "n_points", "chosen_by")
DIFFERENCES = (
    "a", "b", "score", "family", "delta", "low", "high", "p", "p_adjusted", "margin", "equivalent",
    "smallest_detectable", "low90", "high90", "se", "df", "p_equivalent", "without_low", "without_high", "survived",
    "not_robust_to",
)  # fmt: skip
FACTORS = ("score", *FACTOR_TABLE)
BASELINE, BEST = "baseline", "best"  # the families of differences
OOD = "ood"
NO_LINE = np.empty((0, 0))


def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


@dataclass(frozen=True, eq=False)
class RawScores:
    """Scores, their differences and slopes in percentage points, of the points that `choice` describes.

    groups       one row per group and score (`id`, of several ID sets `id_1`, `id_2`, ...; `ood`), columns `SCORES`
    differences  a minus b: family `baseline` has every group against the baseline, Holm per score; family `best` every
                 group against the one with the highest score. Which that is was read off the same scores, so p is
                 Holm's, and the intervals are simultaneous by Bonferroni, over all pairs of groups. Columns
                 `DIFFERENCES`
    factors      slopes over what the sweep varies, see `factors.factor_table`, with the score that they are of
    """

    choice: Choice
    groups: pd.DataFrame = field(default_factory=lambda: _empty(SCORES))
    differences: pd.DataFrame = field(default_factory=lambda: _empty(DIFFERENCES))
    factors: pd.DataFrame = field(default_factory=lambda: _empty(FACTORS))

    def best(self, score: str = OOD) -> str:
        """Return the group with the highest mean score, the first of several; empty without groups."""
        own = self.groups.loc[self.groups["score"] == score]
        return str(own.loc[own["mean"].idxmax(), "group"]) if own["mean"].notna().any() else ""

    def mean(self, group: str, score: str = OOD) -> Mapping[str, Any]:
        """Return the row of a group's score."""
        own = self.groups.loc[(self.groups["group"] == group) & (self.groups["score"] == score)]
        return own.iloc[0].to_dict()

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
    choice = choose(points, options.baseline)
    inner = [column for column in WITHIN_TRIALS if column in points]
    cells = choose(points, options.baseline, inner) if inner else choice
    tables: dict[str, list[pd.DataFrame]] = {"groups": [], "differences": [], "factors": []}
    for score in (*options.ids, OOD):
        groups = _groups_with(task_points, choice.rows, score)
        means = {name: mean.quantity for name, group in groups.items()
                 if (mean := mean_er(group, None, -np.inf, np.inf)) is not None}  # fmt: skip
        tables["groups"].append(_score_table(groups, means, score, choice.by))
        tables["differences"].append(_differences(means, options, score))
        own = groups if cells is choice else _groups_with(task_points, cells.rows, score)
        tables["factors"].append(_slopes(own, options, score))
    return RawScores(choice, *(_joined(tables[name]) for name in ("groups", "differences", "factors")))


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def _groups_with(task_points: TaskPoints, rows: np.ndarray, score: str) -> dict[str, Group]:
    """The groups with the points `rows` (int, of the task's), and their score where ER would be: percentage points, as
    are the replicates without each test group. Trials are paired anew, since what is compared are other points."""
    points = task_points.points.iloc[rows].reset_index(drop=True)
    value = PP * points[score].to_numpy(float)
    points = points.assign(id=points[score].astype(float), er=value, extrapolated=False)
    paired = pairing(points, task_points.options.unit)
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
        groups[name] = Group(name, own_points, unit, paired.codes[own_rows], count, jackknife)
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


def _differences(means: Mapping[str, Quantity], options: Options, score: str) -> pd.DataFrame:
    """Both families of one score; of more than `contrasts.MOST_GROUPS` groups none against the best, which would be one
    of very many pairs."""
    rows = []
    if options.baseline in means:
        family = [_row(_minus(means, name, options.baseline), name, options.baseline, BASELINE, options.margin)
                  for name in means if name != options.baseline]  # fmt: skip
        p, outside = ([row[column] for row in family] for column in ("p", "p_equivalent"))
        rows += _annotated(family, holm(p), holm(outside))
    if 2 <= len(means) <= contrasts.MOST_GROUPS + 1:
        rows += _against_best(means, options.margin)
    return pd.DataFrame(rows, columns=list(DIFFERENCES)).assign(score=score)


def _against_best(means: Mapping[str, Quantity], margin: float) -> list[dict[str, Any]]:
    """Every group less the best one. The best is picked by the scores that are tested: what holds for all pairs of
    groups at once holds for those with it, whichever it is."""
    best = max(means, key=lambda name: means[name].value)
    pairs = list(combinations(means, 2))
    every = [_minus(means, a, b).estimate for a, b in pairs]
    p, outside = holm([one.p for one in every]), holm([one.p_outside(margin) for one in every])
    own = [i for i, pair in enumerate(pairs) if best in pair]
    rows = []
    for i in own:
        name = next(name for name in pairs[i] if name != best)
        quantity = _minus(means, name, best)
        rows.append(_row(quantity, name, best, BEST, margin) | _simultaneous(quantity.estimate, len(pairs)))
    return _annotated(rows, p[own], outside[own])


def _simultaneous(estimate: Estimate, many: int) -> dict[str, float]:
    """The ends of an interval that is one of `many` by Bonferroni's inequality, and the smallest detectable effect."""
    wide, inner = (estimates.quantile(1 - (1 - level) / many, estimate.df) for level in (0.975, 0.95))
    power = estimates.quantile(estimates.POWER, estimate.df)
    value, se = estimate.value, estimate.se
    return {
        "low": value - wide * se, "high": value + wide * se, "low90": value - inner * se, "high90": value + inner * se,
        "smallest_detectable": (wide + power) * se,
    }  # fmt: skip


def _minus(means: Mapping[str, Quantity], a: str, b: str) -> Quantity:
    return quantities.weighted([means[a], means[b]], [1.0, -1.0])


def _row(quantity: Quantity, a: str, b: str, family: str, margin: float) -> dict[str, Any]:
    row = contrasts.row(quantity, margin)
    return {"a": a, "b": b, "score": "", "family": family, "delta": row.pop("delta_er"), **row}


def _annotated(rows: list[dict[str, Any]], p: np.ndarray, outside: np.ndarray) -> list[dict[str, Any]]:
    """The rows with both adjusted p-values, what they decide, and whether that holds without any one trial."""
    made = []
    for row, own, beyond in zip(rows, p, outside, strict=True):
        row = {**row, "p_adjusted": own, "p_equivalent": beyond, "equivalent": bool(beyond <= contrasts.LEVEL)}
        kind, low, high = claimed(row), row["without_low"], row["without_high"]
        within = -row["margin"] < low <= high < row["margin"]
        holds = keeps_half(row["delta"], low, high) if kind == "differs" else within
        if kind != "open":
            row["survived" if holds else "not_robust_to"] = ONE_TRIAL
        made.append(row)
    return made


def _slopes(groups: Mapping[str, Group], options: Options, score: str) -> pd.DataFrame:
    """The slopes of a score over what the sweep varies; a claim has to hold without any one trial and any one level."""
    own = [group for group in varied(groups, options.baseline) if len(group.points)]
    rows = Rows.of(own, Layout.of(own)) if own else None
    table = factor_table(regression(rows, None, options.margin), options.margin)
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
    return pd.DataFrame(made, columns=list(FACTORS))
