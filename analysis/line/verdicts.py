"""The verdict of every check of the line: whether it passes, fails or stays open, and a plain sentence.

The numbers are those of `LineChecks`' tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.formatting import interval, listed, name, number, p_value, percent, signed, some
from analysis.line import gaps
from analysis.line.line_checks import FAILS, OPEN, PASSES, QUESTIONS, LineChecks, Verdict
from analysis.options import Options
from analysis.scales import PP, SCALES
from analysis.stats import reliability
from analysis.stats.least_squares import ClusteredFit
from ray_robust.text.names import count_noun

RATIO = 1.5  # of the scatter at one end of the line to that at the other, from where it is a warning
MOST_NAMED = 4  # groups in a sentence
SCHEDULES = {
    "epoch": ("epochs of fine-tuning move", "other_epochs", "epochs", "epochs"),
    "learning rate": ("the learning rate moves", "other_rates", "learning rates", "rates"),
}


def verdicts(checks: LineChecks, own: pd.DataFrame, line: ClusteredFit, options: Options) -> list[Verdict]:
    """Return the verdict of every check that could be made, in the order of `QUESTIONS`."""
    states = (
        _slope(checks, options),
        _curvature(checks, own, options),
        _reliability(checks.reliability, own, line, options),
        _schedule(checks, options),
        _scatter(checks, options),
        _gaps(checks.gaps),
    )
    return [Verdict(check, *one) for check, one in zip(QUESTIONS, states, strict=True) if one is not None]


def _slope(checks: LineChecks, options: Options) -> tuple[str, str]:
    tests = checks.tests.set_index("test")
    slope, rise = tests.loc["slope"], float(tests.loc["rise over the ID range", "value"])
    size = f"its slope is {number(slope['value'], 2)} ({interval(slope['low'], slope['high'], 2)})"
    if slope["high"] < 0:
        return FAILS, f"the baseline line falls: {size}"
    if slope["low"] <= 0:
        return FAILS, f"the baseline line is not shown to rise: {size}"
    text = f"over its ID range it rises by {number(rise, 1)} points of OOD"
    if rise < options.margin:
        return FAILS, f"the baseline line is flat: {text}, less than the margin of {options.margin:g}"
    if not np.isfinite(slope["low"]):
        return OPEN, f"its slope is {number(slope['value'], 2)}, without an interval; {text}"
    return PASSES, f"{size}; {text}"


def _curvature(checks: LineChecks, own: pd.DataFrame, options: Options) -> tuple[str, str]:
    rows = checks.tests.loc[checks.tests["check"] == "curvature"]
    if checks.bend is None or not rows["p"].notna().any():
        trials = own["trial"].nunique()
        basis = f"{count_noun(trials, options.unit)} and {len(own)} points"
        return OPEN, f"whether the baseline bends cannot be tested with {basis}"
    bend, at = checks.bend
    parabola = f"{signed(bend.value)} ({interval(bend.low, bend.high)}) at ID {percent(at)}"
    if rows["fails"].any():
        apart = PP * float(checks.curve[["square", "spline"]].sub(checks.curve["line"], axis=0).abs().max(axis=None))
        tests = listed([f"{r.test}: {_p(r.p)}" for r in rows.itertuples() if np.isfinite(r.p)])
        return FAILS, (
            f"the baseline bends ({tests}): a curve lies up to {number(apart, 1)} points of OOD from the line, a "
            f"parabola {parabola}; a difference of that size may be the curve's"
        )
    text = f"no bend is shown ({_p(rows['p_adjusted'].min())}): a parabola lies {parabola}"
    most = np.nanmax(np.abs([bend.low, bend.high, 0.0]))
    if most > options.margin:
        return OPEN, f"{text}; {number(most, 1)} points, more than the margin of {options.margin:g}, are not excluded"
    return PASSES, text


def _reliability(table: pd.DataFrame, own: pd.DataFrame, line: ClusteredFit, options: Options) -> tuple[str, str]:
    several, low, unknown, high = len(table) > 1, [], [], []
    for row in table.itertuples():
        least = min(row.reliability, row.given_others) if several else row.reliability
        which = f"of ID set {name(options.id_names[row.Index])} " if several else ""
        if not np.isfinite(row.reliability):
            unknown.append(f"how well ID scores {which}are measured is not known: {row.source}")
            continue
        given = ", given the other sets" if several and row.given_others < row.reliability else ""
        text = f"ID scores {which}are measured with a reliability of {number(least, 3)}{given}"
        if least >= reliability.LEAST:
            high.append(text)
            continue
        flat = "" if several else (
            f": the line is too flat by about {percent(1 - least, 0)}, and a group at the top of its range seems "
            f"{number(_lift(least, own, line, options), 1)} points better than it is"
        )  # fmt: skip
        low.append(f"{text}, under {reliability.LEAST:g}{flat}")
    state = FAILS if low else OPEN if unknown else PASSES
    return state, "; ".join(low or unknown or high)


def _lift(least: float, own: pd.DataFrame, line: ClusteredFit, options: Options) -> float:
    """How far the line of slope / reliability lies above the line at the highest ID score, points of OOD."""
    x, scale = own["x"].to_numpy(float), SCALES[options.scale]
    height = line.coefficients[0] + line.coefficients[1] * x.max()
    steeper = height + line.coefficients[1] * (1 / max(least, 0.1) - 1) * (x.max() - x.mean())
    return PP * float(scale.inverse(steeper) - scale.inverse(height))


def _schedule(checks: LineChecks, options: Options) -> tuple[str, str] | None:
    own = checks.tests.loc[checks.tests["check"] == "schedule"]
    others = [_fine_tuned(checks.others, flag, what, column, options) for _, flag, what, column in SCHEDULES.values()]
    differences = "; ".join(filter(None, others))
    if own.empty:
        return (OPEN, differences) if differences else None
    moved = []
    for what, (moves, *_) in SCHEDULES.items():
        rows = own.loc[own["test"].str.startswith(what)]
        if rows["fails"].any():
            straight = rows.loc[rows["unit"].notna()]
            size = [f"{signed(r.value, 2)} {r.unit} ({interval(r.low, r.high, 2)})" for r in straight.itertuples()]
            least = _p(rows["p_adjusted"].min())
            moved.append(f"{moves} baseline points off the line ({', '.join([*size, least])})")
    if moved:
        return FAILS, "; ".join([*moved, *filter(None, [differences])])
    if not own["p"].notna().any():
        return OPEN, "; ".join([f"too few {options.unit}s to test it", *filter(None, [differences])])
    shown = f"no effect on the baseline's residuals is shown ({_p(own['p_adjusted'].min())})"
    return (OPEN, f"{shown}, but {differences}") if differences else (PASSES, shown)


def _fine_tuned(others: pd.DataFrame, flag: str, what: str, column: str, options: Options) -> str:
    """Which groups were fine-tuned otherwise than the baseline."""
    groups = others.loc[others[flag].astype(bool)]
    if groups.empty:
        return ""
    first = others.loc[others["group"] == options.baseline, column].iloc[0]
    return f"fine-tuned at other {what} than the baseline ({first}): {_named(list(groups['group']))}"


def _scatter(checks: LineChecks, options: Options) -> tuple[str, str] | None:
    own, spread = checks.tests.loc[checks.tests["check"] == "scatter"], ratio(checks.noise)
    if own.empty or not spread > 0:
        return None
    if not own["p"].notna().any():
        return OPEN, f"too few {options.unit}s to test it"
    low, times = ("low", spread) if spread > 1 else ("high", 1 / spread)
    p = _p(own["p_adjusted"].min())
    text = f"baseline points scatter {number(times, 1)} times as widely at {low} ID scores as at the other end ({p})"
    if own["fails"].any() and times >= RATIO:
        return FAILS, f"{text}: one prediction band does not fit both"
    return (OPEN, f"{text}, which is not shown to be more than chance") if times >= RATIO else (PASSES, text)


def _gaps(table: pd.DataFrame) -> tuple[str, str] | None:
    if table.empty:
        return None
    held = []
    for (low, high, share), own in gaps.bridged(table).groupby(["id_low", "id_high", "share"], sort=False):
        groups = _named(list(own["group"]), [f" ({r.inside} of {r.of} points)" for r in own.itertuples()])
        held.append(
            f"the baseline has no point between ID {percent(low)} and {percent(high)}, {percent(share, 0)} of its "
            f"range, where points of {groups} lie: there the line is an assumption"
        )
    first = table.iloc[0]
    widest = (
        f"from ID {percent(first['id_low'])} to {percent(first['id_high'])}, {percent(first['share'], 0)} of the range"
    )
    return (FAILS, "; ".join(held)) if held else (PASSES, f"the widest gap is {widest}")


def _p(value: float) -> str:
    """`p = 0.02`, `p < 0.001`."""
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _named(groups: Sequence[str], points: Sequence[str] = ()) -> str:
    """Groups in a sentence, each with what is known of it, the last of many counted."""
    texts = [name(group) + more for group, more in zip(groups, points or [""] * len(groups), strict=True)]
    return some(texts, MOST_NAMED)


def ratio(noise: pd.DataFrame) -> float:
    """Return how many times as widely the lower half of the points scatters, on the axis, as the upper; NaN if
    unknown."""
    if len(noise) < 2:
        return np.nan
    half = len(noise) // 2
    low, high = (np.sqrt((part["within"] ** 2).mean()) for part in (noise.iloc[:half], noise.iloc[-half:]))
    return float(low / high) if high > 0 else np.nan
