"""Do two groups lie on one line? Slopes are compared first, then heights; where slopes differ, at three ID scores.

Owns the tables of analysis of covariance, h(OOD) ~ h(ID) * group over the ID scores that both have, clustered by trial
(Miller et al. 2021 ask the same of families of models), and the checks that a difference of slopes must hold in.
Differences of slope and height are on the transformed axis, those at ID scores in points of ER.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis.scales import clip
from analysis.stats import contrasts, line_models, quantities, schedules
from analysis.stats.contrasts import Pair
from analysis.stats.estimates import Estimate, keeps_half
from analysis.stats.least_squares import mean_error
from analysis.stats.line_models import LineModel
from analysis.stats.own_line import OwnLine, own_line, slopes_and_intercepts
from analysis.stats.quantities import Quantity
from analysis.stats.robustness import Baseline
from analysis.stats.sensitivity import ERRORS, ONE_TRIAL, SCHEDULE, marked_missing
from analysis.stats.study_group import Group
from analysis.stats.task_points import NOISE

COLUMNS = (
    "a", "b", "slope_difference", "slope_low", "slope_high", "slope_p", "slope_p_adjusted", "slopes_differ",
    "height_difference", "height_low", "height_high", "height_p", "height_p_adjusted", "heights_differ", "family",
    "survived", "not_robust_to",
)  # fmt: skip
AT_ID = (
    "a", "b", "id", "delta_er", "low", "high", "p", "p_adjusted", "margin", "equivalent", "smallest_detectable",
    "low90", "high90", "se", "df", "family", "p_equivalent",
    "without_low", "without_high", "survived", "not_robust_to",
)  # fmt: skip
SHARES = (0.25, 0.5, 0.75)  # of the shared ID range, on the transformed axis: where lines of unequal slope are compared
LEVEL = 0.05
# what a difference of slopes must hold in: the lines corrected for the known sampling error of their ID scores, which
# flattens the line over the narrower range more (Fuller 1987); epoch and learning rate beside the ID score, where they
# move the baseline off its line; the mean of the slopes that single trials have (`WITHIN`), which owes nothing to
# trials that lie above others and at other ID scores; and every trial left out in turn: the sign and half of it stay
WITHIN = "within trials"
LEAST_POINTS = 3  # of a trial, for a slope of its own


def compare(groups: Mapping[str, Group], baseline: Baseline, margin: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables `COLUMNS`, one row per pair whose groups both have a line over the ID scores that they share,
    and `AT_ID`, for pairs whose slopes differ. Of several ID sets pairs with the baseline are left out.

    First the difference of the slopes, then of the heights given a common slope (the weighted mean of both slopes),
    each with 95 % interval and p. `slope_p_adjusted` is Holm's over the whole table, since "do these lines have one
    slope?" is one question; `height_p_adjusted` is Holm's per family, as for the contrasts that it goes with.
    `slopes_differ` where the first is at most 5 % and the same holds, with the same sign, in the checks (`survived`,
    `not_robust_to`); `heights_differ` where the second is. Where slopes differ, the distance of the two lines in
    percentage points at a quarter, half and three quarters of the shared range, with Holm's p over these rows per
    family.
    """
    comparison = []
    for pair in contrasts.pairs(groups, baseline):
        if len(baseline.ids) > 1 and pair.family == "baseline":  # its own points made the axis: see `Baseline.slope`
            continue
        near = [group.between(pair.low, pair.high) for group in (pair.a, pair.b)]
        lines = [own_line(group) for group in near if len(group.points)]
        if len(lines) == 2 and lines[0] is not None and lines[1] is not None:
            comparison.append(_Lines(pair, near, (lines[0], lines[1])))
    table = pd.DataFrame([_row(each) for each in comparison], columns=list(COLUMNS))
    table["slope_p_adjusted"] = contrasts.holm(table["slope_p"].to_numpy(float))
    contrasts.by_family(table, "height_p", "height_p_adjusted")
    table["heights_differ"] = table["height_p_adjusted"] <= LEVEL
    table["slopes_differ"] = _checked(table, comparison, groups, baseline)
    differ = [each for each, shown in zip(comparison, table["slopes_differ"], strict=True) if shown]
    rows = [row for each in differ for row in _at_ids(each.pair, each.own, baseline, margin)]
    return table, contrasts.adjust(pd.DataFrame(rows, columns=list(AT_ID)))


def withheld(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first table, of an interim analysis: no slope or height is called different."""
    if table.empty:
        return table
    claims = table["slopes_differ"].astype(bool) | table["heights_differ"].astype(bool)
    return marked_missing(table, claims).assign(slopes_differ=False, heights_differ=False)


@dataclass(frozen=True, eq=False)
class _Lines:
    """Two groups inside the ID scores that they share, and the line of each."""

    pair: Pair
    near: Sequence[Group]
    own: tuple[OwnLine, OwnLine]

    @property
    def slope(self) -> Quantity:
        """The difference of slopes."""
        return _less([own.slope for own in self.own])

    @property
    def height(self) -> Quantity:
        """The difference of heights given a common slope.

        With one slope for both, the adjusted difference of means is the vertical distance of the two own lines at
        w_b x_a + w_a x_b (x the mean ID scores, w the shares of the sums of squares): the same number, and it stays
        defined where slopes differ.
        """
        x = [group.points["x"].to_numpy() for group in self.near]
        squares = [float(((own - own.mean()) ** 2).sum()) for own in x]
        at = (squares[1] * x[0].mean() + squares[0] * x[1].mean()) / sum(squares)
        return _less([own.quantity(at, 1.0, float(own.line.at(at))) for own in self.own])

    def check(self, slope: Callable[[Group, OwnLine], Quantity | None]) -> Estimate | None:
        """Return the difference of slopes that are estimated in another way; None where they cannot be."""
        a, b = (slope(group, own) for group, own in zip(self.near, self.own, strict=True))
        return None if a is None or b is None else _less([a, b]).estimate


def _less(pair: Sequence[Quantity]) -> Quantity:
    return quantities.weighted(pair, [1.0, -1.0])


def _checked(
    table: pd.DataFrame, comparison: Sequence[_Lines], groups: Mapping[str, Group], baseline: Baseline
) -> np.ndarray:
    """Which slopes differ, bool [rows]; fills `survived` and `not_robust_to` of those that would without the checks. A
    check without an interval, where the sampling error is most of what is seen, is not passed."""
    differ = (table["slope_p_adjusted"] <= LEVEL).to_numpy()
    passed: list[list[str]] = [[] for _ in comparison]
    failed: list[list[str]] = [[] for _ in comparison]
    table["survived"] = table["not_robust_to"] = ""
    if not differ.any():
        return differ
    for i in np.flatnonzero(differ).tolist():
        difference = comparison[i].slope
        (passed if keeps_half(difference.value, *difference.without_one) else failed)[i].append(ONE_TRIAL)
    others = [group for name, group in groups.items() if name != baseline.name]
    moving = schedules.moving(groups[baseline.name], others, tuple(axis for axis, _, _ in baseline.ids))
    checks: dict[str, Callable[[Group, OwnLine], Quantity | None]] = {
        ERRORS: _corrected, SCHEDULE: partial(_scheduled, moving=moving), WITHIN: _within
    }  # fmt: skip
    for check, slope in checks.items():
        again = [each.check(slope) for each in comparison]
        adjusted = contrasts.holm([np.nan if one is None else one.p for one in again])
        for i in np.flatnonzero(differ).tolist():
            one = again[i]
            if one is not None:
                holds = adjusted[i] <= LEVEL and np.sign(one.value) == np.sign(table["slope_difference"].iloc[i])
                (passed if holds else failed)[i].append(check)
    table["survived"], table["not_robust_to"] = ["; ".join(one) for one in passed], ["; ".join(one) for one in failed]
    return differ & np.array([not one for one in failed], bool)


def _corrected(group: Group, own: OwnLine) -> Quantity | None:
    """The slope without the sampling error of the ID scores; NaN where that is most of what they show. None where it is
    not known, and with several ID sets."""
    points, noise = group.points, f"{NOISE}x"
    if noise not in points:
        return None
    return _slope_of(line_models.noisy(("x",), (noise,)), group, own)


def _scheduled(group: Group, own: OwnLine, moving: Sequence[str]) -> Quantity | None:
    """The slope at equal epochs and rates, of those that move the baseline; NaN where they cannot be separated from
    ID."""
    if not moving:
        return None
    varied = [name for name in moving if len(schedules.values(group, name)) > 1]
    columns = [column for name in varied for column in schedules.columns(name, group)]
    return _slope_of(line_models.with_columns(("x",), columns, "with the schedule"), group, own)


def _slope_of(model: LineModel, group: Group, own: OwnLine) -> Quantity:
    """Return the coefficient of the ID score in a model of a group's points; NaN where they do not determine it."""
    fit = model.fit(group.points, group.clusters(own.errors.name))
    if fit is None:
        return contrasts.UNKNOWN
    combination = np.eye(len(fit.coefficients))[1]
    return Quantity(float(fit.coefficients[1]), {fit.errors: combination}, own.slope.replicates)


def _within(group: Group, own: OwnLine) -> Quantity | None:
    """The mean of the slopes of single trials; None where fewer than two trials have one."""
    x, y = group.points["x"].to_numpy(), group.points["y"].to_numpy()
    trials, slopes = [], []
    for trial in np.unique(group.codes):
        rows = group.codes == trial
        if rows.sum() >= LEAST_POINTS and np.ptp(x[rows]) > 0:
            trials.append(trial)
            slopes.append(float(slopes_and_intercepts(x[rows], y[rows])[0]))
    if len(trials) < 2:
        return None
    errors = mean_error(np.array(slopes), np.array(trials), group.clusters(own.errors.name))
    return Quantity(float(np.mean(slopes)), {errors: np.ones(1)}, own.slope.replicates)


def _row(lines: _Lines) -> dict[str, object]:
    pair = lines.pair
    row: dict[str, object] = {"a": pair.a.name, "b": pair.b.name, "family": pair.family}
    for what, estimate in (("slope", lines.slope.estimate), ("height", lines.height.estimate)):
        row |= {f"{what}_difference": estimate.value, f"{what}_low": estimate.low, f"{what}_high": estimate.high}
        row[f"{what}_p"] = estimate.p
    return row


def _at_ids(
    pair: Pair, lines: tuple[OwnLine, OwnLine], baseline: Baseline, margin: float
) -> Iterator[dict[str, object]]:
    ends = baseline.scale.h(clip(np.array([pair.low, pair.high]), None))
    for share in SHARES:
        x = float(ends[0] + share * (ends[1] - ends[0]))
        apart = quantities.weighted([own.score_at(x, baseline.scale) for own in lines], [1.0, -1.0])
        at = {
            "a": pair.a.name,
            "b": pair.b.name,
            "family": pair.family,
            "id": float(baseline.scale.inverse(np.array(x))),
        }
        yield {**at, **contrasts.row(apart, margin)}
