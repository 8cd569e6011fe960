"""What the checks of the line say, as plain sentences: one per check that fails, and what could not be checked.

The numbers are those of `line_checks`' tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis import gaps, reliability
from analysis.curvature import Fit
from analysis.table import Options
from analysis.trend import SCALES
from analysis.words import interval, listed, name, number, p_value, percent, signed

if TYPE_CHECKING:
    from analysis.line_checks import LineChecks

RATIO = 1.5  # of the scatter at one end of the line to that at the other, from where it is worth a sentence
MOST_NAMED = 4  # groups in a sentence
SCHEDULES = {
    "epoch": ("epochs of fine-tuning move", "other_epochs", "epochs", "epochs"),
    "learning rate": ("the learning rate moves", "other_rates", "learning rates", "rates"),
}


def warnings(checks: LineChecks, own: pd.DataFrame, line: Fit, options: Options) -> Iterator[str]:
    """A sentence per check that fails."""
    tests = checks.tests.set_index("test")
    slope, rise = tests.loc["slope"], float(tests.loc["rise over the ID range", "value"])
    if not slope["low"] > 0 and np.isfinite(slope["low"]):
        does = "falls" if slope["high"] < 0 else "is not shown to rise"
        ends = interval(slope["low"], slope["high"], 2)
        yield f"the baseline line {does}: its slope is {number(slope['value'], 2)} ({ends})"
    if rise < options.margin:
        yield (
            f"the baseline line is flat: over its ID range it rises by {number(rise, 1)} points of OOD, less than the "
            f"margin of {options.margin:g}"
        )
    yield from _of_curvature(checks)
    yield from _of_gaps(checks.gaps)
    yield from _of_reliability(checks.reliability, own, line, options)
    yield from _of_schedule(checks)
    scatter, spread = checks.tests.loc[checks.tests["check"] == "scatter"], ratio(checks.noise)
    if scatter["fails"].any() and (spread >= RATIO or 0 < spread <= 1 / RATIO):
        low, times = ("low", spread) if spread > 1 else ("high", 1 / spread)
        yield (
            f"baseline points scatter {number(times, 1)} times as widely at {low} ID scores as at the other end of the "
            f"line (p = {p_value(float(scatter['p_adjusted'].min()))}): one prediction band does not fit both"
        )


def _of_curvature(checks: LineChecks) -> Iterator[str]:
    own = checks.tests.loc[checks.tests["check"] == "curvature"]
    if not own["fails"].any() or checks.bend is None:
        return
    bend, at = checks.bend
    apart = 100 * float(checks.curve[["square", "spline"]].sub(checks.curve["line"], axis=0).abs().max(axis=None))
    tests = listed([f"{r.test}: p = {p_value(r.p)}" for r in own.itertuples() if np.isfinite(r.p)])
    yield (
        f"the baseline bends ({tests}): a curve lies up to {number(apart, 1)} points of OOD from the line, a parabola "
        f"{signed(bend.value)} ({interval(bend.low, bend.high)}) at ID {percent(at)}; a difference of that size may be "
        "the curve's"
    )


def _of_gaps(table: pd.DataFrame) -> Iterator[str]:
    for (low, high, share), own in gaps.bridged(table).groupby(["id_low", "id_high", "share"], sort=False):
        groups = _named(list(own["group"]), [f" ({r.inside} of {r.of} points)" for r in own.itertuples()])
        yield (
            f"the baseline has no point between ID {percent(low)} and {percent(high)}, {percent(share, 0)} of its "
            f"range, where points of {groups} lie: there the line is an assumption"
        )


def _of_reliability(table: pd.DataFrame, own: pd.DataFrame, line: Fit, options: Options) -> Iterator[str]:
    several = len(table) > 1
    for row in table.itertuples():
        least = min(row.reliability, row.given_others) if several else row.reliability
        if not least < reliability.LEAST:
            continue
        which = f"of ID set {name(options.id_names[row.Index])} " if several else ""
        given = ", given the other sets" if several and row.given_others < row.reliability else ""
        text = f"ID scores {which}are measured with a reliability of {number(least, 2)}{given}"
        flat = "" if several else (
            f": the line is too flat by about {percent(1 - least, 0)}, and a group at the top of its range seems "
            f"{number(_lift(least, own, line, options), 1)} points better than it is"
        )  # fmt: skip
        yield f"{text}, under {reliability.LEAST:g}{flat}"


def _lift(least: float, own: pd.DataFrame, line: Fit, options: Options) -> float:
    """How far the line of slope / reliability lies above the line at the highest ID score, points of OOD."""
    x, scale = own["x"].to_numpy(float), SCALES[options.scale]
    height = line.coefficients[0] + line.coefficients[1] * x.max()
    steeper = height + line.coefficients[1] * (1 / max(least, 0.1) - 1) * (x.max() - x.mean())
    return 100 * float(scale.inverse(steeper) - scale.inverse(height))


def _of_schedule(checks: LineChecks) -> Iterator[str]:
    own = checks.tests.loc[checks.tests["check"] == "schedule"]
    for what, (moves, flag, *_) in SCHEDULES.items():
        rows = own.loc[own["test"].str.startswith(what)]
        if not rows["fails"].any():
            continue
        straight = rows.loc[rows["unit"].notna()]
        size = [f"{signed(r.value, 2)} {r.unit} ({interval(r.low, r.high, 2)})" for r in straight.itertuples()]
        told = ", ".join([*size, f"p = {p_value(float(rows['p_adjusted'].min()))}"])
        groups = list(checks.others.loc[checks.others[flag], "group"])
        others = f"; groups fine-tuned at others: {_named(groups)}" if groups else ""
        yield f"{moves} baseline points off the line ({told}){others}"


def _named(groups: Sequence[str], points: Sequence[str] = ()) -> str:
    """Groups in a sentence, each with what is known of it, the last of many counted."""
    texts = [name(group) + more for group, more in zip(groups, points or [""] * len(groups), strict=True)]
    rest = [f"{len(texts) - MOST_NAMED} more"] if len(texts) > MOST_NAMED else []
    return listed([*texts[:MOST_NAMED], *rest])


def notes(checks: LineChecks, own: pd.DataFrame, options: Options) -> Iterator[str]:
    """What could not be checked, and where groups were fine-tuned otherwise although nothing shows that it matters."""
    curved = checks.tests.loc[checks.tests["check"] == "curvature"]
    if not curved["p"].notna().any():
        trials = own["trial"].nunique()
        yield f"whether the baseline bends cannot be tested with {trials} {options.unit}s and {len(own)} points"
    elif checks.bend is not None and not curved["fails"].any():
        most = max(abs(checks.bend[0].low), abs(checks.bend[0].high))
        if most > options.margin:
            yield (
                f"no bend is shown, but one of up to {number(most, 1)} points of OOD cannot be excluded, more than the "
                f"margin of {options.margin:g}"
            )
    for row in checks.reliability.itertuples():
        if not np.isfinite(row.reliability):
            which = f" of ID set {name(options.id_names[row.Index])}" if len(checks.reliability) > 1 else ""
            yield f"how well ID scores{which} are measured is not known: {row.source}"
    for _, flag, what, column in SCHEDULES.values():
        other = checks.others.loc[checks.others[flag].astype(bool)]
        if len(other):
            first = checks.others.loc[checks.others["group"] == options.baseline, column].iloc[0]
            yield f"fine-tuned at other {what} than the baseline ({first}): {_named(list(other['group']))}"


def ratio(noise: pd.DataFrame) -> float:
    """How many times as widely the lower half of the points scatters, on the axis, as the upper; NaN if unknown."""
    if len(noise) < 2:
        return np.nan
    half = len(noise) // 2
    low, high = (np.sqrt((part["within"] ** 2).mean()) for part in (noise.iloc[:half], noise.iloc[-half:]))
    return float(low / high) if high > 0 else np.nan
