"""Sensitivity analysis: which claims hold when the comparisons are repeated under other lines and scales.

Owns the checks, in the order of `CHECKS`, and the table of which claim holds in which. A check that cannot be made (no
sizes of test sets, one learning rate) is not in the table. A claim that does not hold in a check is not made:
its sentence says so (`check_words`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats import line_models, schedules
from analysis.stats.contrasts import claimed
from analysis.stats.estimates import keeps_half
from analysis.stats.factors import factor_table
from analysis.stats.line_models import LineModel
from analysis.stats.study_group import Group
from analysis.stats.task_points import NOISE, Comparison, TaskPoints
from analysis.stats.trend import fit

# name of the check: what is done in it
ERRORS, SCHEDULE, ONE_TRIAL, ONE_LEVEL = "errors in ID", "the schedule", "any one trial", "any one level"
DUPLICATES = "duplicates"
CHECKS = {
    "a curve": "the baseline's line is a parabola, a natural cubic spline with four knots, and broken at its quartiles",
    ERRORS: "the line is corrected for the known sampling error of the ID scores (Fuller 1987)",
    SCHEDULE: "epoch and learning rate enter the line, where they move the baseline off it",
    "unequal noise": "baseline points are weighted by a noise that changes along the line",
    "other scales": "the line is fitted on the other scales that it is straight on, and ER measured along the axis",
    ONE_TRIAL: "every trial is left out in turn: the sign stays, and at least half of the size",
    ONE_LEVEL: "every level of a number is left out in turn: the slope's sign stays, and at least half of it",
    DUPLICATES: "test images that also occur elsewhere are left out",
}
MISSING_TRIALS = "missing trials"  # of an interim analysis: no claim is made before they are in
COLUMNS = ("table", "a", "b", "factor", "claim", "check", "how", "value", "low", "high", "p_adjusted", "holds")
BENDS = 0.05  # p under which a scale is taken not to give a straight line
LEAST_POINTS = 8  # of the baseline, for a curve to be fitted
USED = ("a", "b", "factor", "delta_er", "slope", "low", "high", "p_adjusted", "margin", "equivalent", "without_low",
        "without_high", "without_level_low", "without_level_high")  # columns of what is compared  # fmt: skip
Key = tuple[str, str, str, str]  # table, a, b, factor


@dataclass(frozen=True)
class Claim:
    """A row that could claim something: what it shows (`differs`, `equivalent` or `open`), and its numbers."""

    kind: str
    row: Mapping[str, Any]


Claims = Mapping[Key, Claim]


def claims_of(contrasts: pd.DataFrame, factors: pd.DataFrame, levels: pd.DataFrame) -> Claims:
    """Return everything that a comparison could claim, by its key."""
    claims = {}
    for table, rows in (("contrasts", contrasts), ("factors", factors), ("levels", levels)):
        columns = [column for column in USED if column in rows]
        for values in zip(*(rows[column].tolist() for column in columns), strict=True):
            row = dict(zip(columns, values, strict=True))
            if table == "factors":
                row["delta_er"] = row["slope"]
            key = (table, row.get("a", ""), row.get("b", ""), row.get("factor", ""))
            claims[key] = Claim(claimed(row), row)
    return claims


def _of(comparison: Comparison, margin: float) -> Claims:
    table = factor_table(comparison.regression, margin)
    return claims_of(comparison.contrasts, table, comparison.regression.levels)


def survival(task_points: TaskPoints, comparison: Comparison, cleaned: Claims | None = None) -> pd.DataFrame:
    """Return for every claim and every check that could be made whether the claim holds in it, and the number there,
    columns `COLUMNS`. `how` names the variant of a check; a claim holds in a check where it does in each variant.

    comparison  the one that the claims are made from, of the points `task_points`
    cleaned     the claims without test images that occur elsewhere; None where no image does
    """
    margin = task_points.options.margin
    claims = {key: claim for key, claim in _of(comparison, margin).items() if claim.kind != "open"}
    if not claims:
        return pd.DataFrame(columns=list(COLUMNS))
    rows = [_without_trial(key, claim) for key, claim in claims.items() if _is_one_number(key, claim)]
    rows += [_without_level(key, claim) for key, claim in claims.items() if _has_levels(key, claim)]
    of_factors = any(table != "contrasts" for table, *_ in claims)
    for check, how, other in _variants(task_points, comparison, of_factors):
        if other is None:  # the ID scores are mostly sampling error: no claim can be claims of them
            rows += _compared(claims, {}, check, how, needed=True)
        else:  # the margin of equivalence is in points, and says nothing along the axis
            kinds = ("differs",) if other.baseline.on_axis else ("differs", "equivalent")
            rows += _compared(claims, _of(other, margin), check, how, kinds)
    if cleaned is not None:
        rows += _compared(claims, cleaned, DUPLICATES, "", needed=True)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def annotated(table: pd.DataFrame, name: str, survived: pd.DataFrame) -> pd.DataFrame:
    """Return the table of that name with columns `survived` and `not_robust_to`: names of checks, joined by "; "."""
    if table.empty:
        return table
    own = survived.loc[survived["table"] == name]
    keys = [key for key in ("a", "b", "factor") if key in table]
    by_key = own.groupby([*keys, "check"], sort=False)["holds"].all()
    texts: dict[tuple[Any, ...], dict[bool, list[str]]] = {}
    for (*key, check), holds in by_key.items():
        texts.setdefault(tuple(key), {True: [], False: []})[bool(holds)].append(check)
    mine = [texts.get(tuple(key), {True: [], False: []}) for key in table[keys].itertuples(index=False)]
    return table.assign(survived=["; ".join(m[True]) for m in mine], not_robust_to=["; ".join(m[False]) for m in mine])


def withheld(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with column `not_robust_to`, of an interim analysis, with each claim marked as not robust to
    `MISSING_TRIALS`."""
    if table.empty or "not_robust_to" not in table:
        return table
    return marked_missing(table, [claimed(row) != "open" for row in table.to_dict("records")])


def marked_missing(table: pd.DataFrame, claims: Iterable[bool]) -> pd.DataFrame:
    """Return a table with `MISSING_TRIALS` among the checks of the rows that claim something."""
    checks = [
        "; ".join(filter(None, [text, MISSING_TRIALS])) if claim else text
        for text, claim in zip(table["not_robust_to"], claims, strict=True)
    ]
    return table.assign(not_robust_to=checks)


@dataclass(frozen=True)
class _Again:
    """The number of a claim in one variant of a check."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p_adjusted: float = np.nan


def _checked(key: Key, claim: Claim, check: str, how: str, again: _Again, holds: bool) -> dict[str, Any]:
    """A row of the table."""
    table, a, b, factor = key
    return {"table": table, "a": a, "b": b, "factor": factor, "claim": claim.kind, "check": check, "how": how,
            **asdict(again), "holds": bool(holds)}  # fmt: skip


def _compared(
    claims: Claims,
    others: Claims,
    check: str,
    how: str,
    kinds: tuple[str, ...] = ("differs", "equivalent"),
    needed: bool = False,
) -> list[dict[str, Any]]:
    """Whether each claim is among the others, which are made in another way. A claim without an interval there could
    not be checked, and does not hold where that is `needed`."""
    rows = []
    for key, claim in claims.items():
        other = others.get(key)
        if claim.kind not in kinds:
            continue
        if other is None or not np.isfinite(other.row["low"]):
            rows += [_checked(key, claim, check, how, _Again(), holds=False)] if needed else []
            continue
        row = other.row
        same = other.kind == "differs" and np.sign(row["delta_er"]) == np.sign(claim.row["delta_er"])
        holds = same if claim.kind == "differs" else bool(row["equivalent"])
        again = _Again(row["delta_er"], row["low"], row["high"], row["p_adjusted"])
        rows.append(_checked(key, claim, check, how, again, holds))
    return rows


def _without_trial(key: Key, claim: Claim) -> dict[str, Any]:
    low, high = claim.row["without_low"], claim.row["without_high"]
    if claim.kind == "differs":
        return _without_one(key, claim, ONE_TRIAL, low, high)
    margin = claim.row["margin"]
    nearest = low if claim.row["delta_er"] > 0 else high
    return _checked(key, claim, ONE_TRIAL, "", _Again(nearest, low, high), holds=-margin < low and high < margin)


def _is_one_number(key: Key, claim: Claim) -> bool:
    """Whether a claim is of the number in its row. "No effect" of a factor is of every pair of its levels, whose values
    without a trial are not in the row: there the check cannot be made."""
    return key[0] != "factors" or claim.kind == "differs"


def _has_levels(key: Key, claim: Claim) -> bool:
    return key[0] == "factors" and claim.kind == "differs" and bool(np.isfinite(claim.row["without_level_low"]))


def _without_level(key: Key, claim: Claim) -> dict[str, Any]:
    return _without_one(key, claim, ONE_LEVEL, claim.row["without_level_low"], claim.row["without_level_high"])


def _without_one(key: Key, claim: Claim, check: str, low: float, high: float) -> dict[str, Any]:
    """A difference holds where the value nearest to 0 keeps its sign and half of its size."""
    value = claim.row["delta_er"]
    nearest = low if value > 0 else high
    return _checked(key, claim, check, "", _Again(nearest, low, high), keeps_half(value, low, high))


def _variants(
    task_points: TaskPoints, comparison: Comparison, of_factors: bool
) -> Iterator[tuple[str, str, Comparison | None]]:
    """Every check that repeats the comparison: its name, its variant and the other comparison, None where it is needed
    and cannot be made. `of_factors`: with the regression."""
    options, scale = task_points.options, SCALES[task_points.options.scale]
    x = comparison.groups[options.baseline].points["x"].to_numpy()
    tried: list[tuple[str, str, LineModel | None]] = []
    if len(x) >= LEAST_POINTS:
        tried.append(("a curve", "parabola", line_models.parabola(options.axes, x)))
        tried.append(("a curve", "spline", line_models.spline(options.axes, x)))
        tried.append(("a curve", "broken line", line_models.broken(options.axes, x)))
    noisy = [f"{NOISE}{axis}" for axis in options.axes]
    if all(name in group.points for group in comparison.groups.values() for name in noisy):
        tried.append((ERRORS, "", line_models.noisy(options.axes, noisy)))
    own = comparison.groups[options.baseline]
    others = [group for name, group in comparison.groups.items() if name != options.baseline]
    tried += [(SCHEDULE, model.name, model) for model in schedules.models(own, others, options.axes)]
    reference = comparison.groups[options.baseline].points
    residuals = reference["y"].to_numpy() - comparison.baseline.height(reference)
    tried.append(("unequal noise", "", line_models.unequal(options.axes, x, residuals)))
    again = partial(task_points.compare, layout=comparison.layout, of_factors=of_factors)
    for check, how, model in tried:
        other = again(scale, model, groups=comparison.groups) if model is not None else None
        if other is not None or check == ERRORS:
            yield check, how, other
    if scale.name != "linear":
        along = again(scale, on_axis=True, groups=comparison.groups)
        if along is not None:
            yield "other scales", f"along the {scale.name} axis", along
    for name, another in SCALES.items():
        if name == scale.name:
            continue
        groups = task_points.groups_on(another)
        other = again(another, groups=groups) if _straight(groups[options.baseline], options) else None
        if other is not None:
            yield "other scales", name, other


def _straight(group: Group, options: Options) -> bool:
    """Whether the baseline lies on a straight line here: R^2 above the floor, and no parabola fits better."""
    x = group.points["x"].to_numpy()
    line = fit(x, group.points["y"].to_numpy())
    if line is None or not line.r2 >= options.min_r2:
        return False
    return not schedules.moves(line_models.parabola(options.axes, x), group, [-1], BENDS)
