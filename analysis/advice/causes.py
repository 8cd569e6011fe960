"""Why a baseline makes no line, or one that ER is not measured from: one `Cause` with the numbers that show it.

Decided by comparing what the line would be with more of one thing at the present noise (`widening`): a cause is named
where its remedy would help, and widening the ID range is not advised where a bend, a fall, or the tests are the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import atanh, sqrt, tanh

import numpy as np
import pandas as pd

from analysis.advice.widening import USUAL_SLOPE, Signal, signal, target_r2
from analysis.formatting import interval, name, number, p_value, percent
from analysis.learned.upstream import described
from analysis.scales import PP, SCALES
from analysis.stats import reliability
from analysis.stats.trend import MIN_POINTS
from analysis.study import Analysis
from ray_robust.text.names import count_noun

FEW_POINTS = 8  # under which the R^2 of a sample is so uncertain that it is not held against the line
MOSTLY = 0.5  # of the residual variance
SPARE, LEAST_TIMES = 1.2, 1.5  # times as wide as it must be, since the noise is an estimate; and at least
LEVEL = 0.2  # of the usual slope, under which a line that certainly rises is level all the same


@dataclass(frozen=True, eq=False)
class Cause:
    """reason    a key of `advice.REASONS`
    evidence  a sentence with the numbers that show it
    signal    of the baseline's points; None where they make no line
    times     how many times as wide the ID range should become, 1 where widening is no remedy
    room      how many times as wide it can become
    """

    reason: str
    evidence: str
    signal: Signal | None = None
    times: float = 1.0
    room: float = 1.0


@dataclass(frozen=True, eq=False)
class _Line:
    """A baseline's points and the numbers of its line, on the chosen scale."""

    analysis: Analysis
    own: pd.DataFrame
    signal: Signal
    slope: tuple[float, float, float]
    room: float

    @property
    def floor(self) -> float:
        return self.analysis.options.min_r2

    @property
    def lost(self) -> bool:
        """Whether the slope is lost in the noise: that of a sample may then be anything."""
        return not self.slope[1] > 0 and self.signal.slope < USUAL_SLOPE / 2

    @property
    def planned(self) -> Signal:
        """What is planned with: a slope that is lost in the noise is taken as half of the usual one."""
        return self.signal.with_slope(USUAL_SLOPE / 2) if self.lost else self.signal

    @property
    def times(self) -> float:
        """How many times as wide the range must be."""
        return self.planned.times_for(target_r2(self.floor))

    @property
    def hopeless(self) -> bool:
        """Whether the widest range there can be would clear the floor by less than half of what is planned for."""
        least = (self.floor + target_r2(self.floor)) / 2
        return self.times > self.room and self.planned.expected_r2(self.room) < least

    @property
    def assumption(self) -> str:
        return f" and a slope of {USUAL_SLOPE / 2:g}" if self.lost else ""

    @property
    def id_text(self) -> str:
        return f"{percent(self.signal.low)} to {percent(self.signal.high)}"

    @property
    def slope_text(self) -> str:
        value, low, high = self.slope
        return f"{number(value, 2)} ({interval(low, high, 2)})" if np.isfinite(low) else number(value, 2)


def cause_of(analysis: Analysis, classes: int = 0) -> Cause:
    """Return why a refused analysis has no ER. `classes` of the task: an ID score of chance is the lowest that can be
    aimed at."""
    options = analysis.options
    own = analysis.points.loc[analysis.points["group"] == options.baseline]
    if unlearned := _not_learned(analysis):
        return unlearned
    made = _signal(analysis, own)
    if made is None or (analysis.baseline is None and len(options.ids) < 2):
        return _no_points(analysis, own)
    highest = float(analysis.points["id"].max())
    room = made.room(highest, 1 / classes if classes else 0.0)
    line = _Line(analysis, own, made, _slope(analysis, made), room)
    tests: tuple[Callable[[_Line], Cause | None], ...] = (
        _no_shift, _falling, _bent, _few_points, _few_trials, _level, _test_images, _noisy,
    )  # fmt: skip
    return next(filter(None, (test(line) for test in tests)), _narrow(line))


def _not_learned(analysis: Analysis) -> Cause | None:
    """The best of the baseline's fine-tunings is no better than naming the most frequent class."""
    tasks = analysis.learned.tasks
    rows = tasks.loc[(tasks["group"] == analysis.options.baseline) & tasks["not_learned"].astype(bool)]
    if rows.empty:
        return None
    what = described(rows.iloc[0].to_dict())
    return Cause("task_not_learned", f"The highest ID accuracy is not clearly above chance: {what}.")


def _signal(analysis: Analysis, own: pd.DataFrame) -> Signal | None:
    if len(own) < MIN_POINTS:
        return None
    scale = SCALES[analysis.options.scale]
    error, _ = reliability.on_axis(own, "id", "x", scale)
    return signal(own["id"].to_numpy(float), own["ood"].to_numpy(float), scale, 0.0 if error is None else error.mean())


def _slope(analysis: Analysis, made: Signal) -> tuple[float, float, float]:
    options, trends = analysis.options, analysis.trends
    own = trends.loc[(trends["group"] == options.baseline) & (trends["scale"] == options.scale)]
    if own.empty:
        return made.slope, np.nan, np.nan
    low, high = (float(own.iloc[0][key]) for key in ("slope_low", "slope_high"))
    return made.slope, low, high


def _no_points(analysis: Analysis, own: pd.DataFrame) -> Cause:
    base, missing = analysis.options.baseline, analysis.left_out
    failed = missing.loc[missing["group"] == base, "trial"].nunique()
    count = f"{name(base)} has {count_noun(len(own), 'point')} with scores; a line needs {MIN_POINTS}"
    if failed:
        count += f"; {count_noun(failed, analysis.options.unit)} of it failed, as a whole or in part, or lack scores"
    elif len(own) >= MIN_POINTS:
        count = f"the {len(own)} points of {name(base)} have the same ID score, {percent(float(own['id'].iloc[0]))}"
    return Cause("no_points", f"{count}.")


def _no_shift(line: _Line) -> Cause | None:
    if (line.own["id"] != line.own["ood"]).any():
        return None
    return Cause("no_shift", f"In all {len(line.own)} baseline points the OOD score equals the ID score.", line.signal)


def _falling(line: _Line) -> Cause | None:
    if not line.slope[2] < 0:
        return None
    text = f"The line through ID scores of {line.id_text} has a slope of {line.slope_text}: it falls."
    return Cause("falling", text, line.signal)


def _bent(line: _Line) -> Cause | None:
    """A curve explains at least half of what the line lacks, and the test for a bend is significant."""
    checks = line.analysis.line
    if checks is None or len(line.own) < FEW_POINTS:
        return None
    rows = checks.tests.loc[(checks.tests["check"] == "curvature") & checks.tests["fails"]]
    x, y = (line.own[axis].to_numpy(float) for axis in ("x", "y"))
    curve = 1 - np.square(y - np.polyval(np.polyfit(x, y, 2), x)).sum() / np.square(y - y.mean()).sum()
    if rows.empty or curve - line.signal.r2 < (target_r2(line.floor) - line.signal.r2) / 2:
        return None
    p = p_value(float(rows["p_adjusted"].min()))
    text = (
        f"A curve explains {percent(curve, 0)} of the variance of the baseline's OOD scores, the straight line "
        f"{percent(line.signal.r2, 0)} (test for a bend: p {p if p.startswith('<') else '= ' + p})."
    )
    return Cause("bent", text, line.signal)


def _few_points(line: _Line) -> Cause | None:
    """So few that an R^2 of the target is not excluded (Fisher's z of the correlation)."""
    count, r2 = len(line.own), line.signal.r2
    if count >= FEW_POINTS or r2 >= line.floor:
        return None
    r = sqrt(min(r2, 0.999))
    reach = 1.96 / sqrt(count - 3) if count > 3 else np.inf
    low, high = max(tanh(atanh(r) - reach), 0.0) ** 2, tanh(atanh(r) + reach) ** 2
    if high < target_r2(line.floor):
        return None
    text = f"R² is {number(r2, 2)} from {count} points, which leaves anything from {low:.2f} to {high:.2f} possible."
    return Cause("few_points", text, line.signal, max(line.times, 1.0), line.room)


def _few_trials(line: _Line) -> Cause | None:
    """The points lie along a rising line, which so few trials do not show to rise."""
    trials = line.own["trial"].nunique()
    if line.signal.r2 < line.floor or line.signal.slope <= 0 or not line.slope[1] <= 0:
        return None
    text = (
        f"R² is {number(line.signal.r2, 2)}, but {trials} {line.analysis.options.unit}s leave the slope at "
        f"{line.slope_text}."
    )
    return Cause("few_trials", text, line.signal, 1.0, line.room)


def _level(line: _Line) -> Cause | None:
    """A line as steep as usual would have been seen in this ID range, and there is none."""
    usual = line.signal.with_slope(USUAL_SLOPE).expected_r2(1.0)
    (slope, low, _), steep = line.slope, np.nan_to_num(line.slope[2]) >= USUAL_SLOPE
    rises = low > 0 and slope >= LEVEL * USUAL_SLOPE
    if usual < target_r2(line.floor) or slope >= USUAL_SLOPE / 2 or steep or rises:
        return None
    text = (
        f"Over ID scores of {line.id_text} the slope is {line.slope_text}; a usual slope of {USUAL_SLOPE:g} would show "
        f"as an R² of {number(usual, 2)}."
    )
    return Cause("level", text, line.signal)


def _test_images(line: _Line) -> Cause | None:
    """Most of the scatter is sampling error of the tests, and no room is left to outgrow it."""
    scale = SCALES[line.analysis.options.scale]
    variances = [reliability.on_axis(line.own, name, axis, scale)[0] for name, axis in (("id", "x"), ("ood", "y"))]
    if not line.hopeless or any(one is None for one in variances):
        return None
    of_id, of_ood = (float(np.mean(one)) for one in variances if one is not None)
    share = min((of_ood + line.signal.slope**2 * of_id) / line.signal.residual, 1.0)
    if share < MOSTLY:
        return None
    sizes = [pd.to_numeric(line.own[f"{side}_images"], errors="coerce").median()
             if f"{side}_images" in line.own else np.nan for side in ("id", "ood")]  # fmt: skip
    images = f" ({sizes[0]:,.0f} ID and {sizes[1]:,.0f} OOD images)" if np.isfinite(sizes).all() else ""
    text = (
        f"Sampling error of the tests{images} makes {percent(share, 0)} of the variance around the line, whose R² is "
        f"{number(line.signal.r2, 2)} over ID scores of {line.id_text}."
    )
    return Cause("test_images", text, line.signal, line.room, line.room)


def _noisy(line: _Line) -> Cause | None:
    if not line.hopeless:
        return None
    best = line.planned.expected_r2(line.room)
    text = (
        f"Points scatter by {number(_scatter(line), 1)} points of OOD around the line (R² "
        f"{number(line.signal.r2, 2)}, ID {line.id_text}); with that scatter{line.assumption} even the widest ID range "
        f"would give an R² of about {number(best, 2)}."
    )
    return Cause("noisy", text, line.signal, line.room, line.room)


def _narrow(line: _Line) -> Cause:
    times = min(max(SPARE * line.times, LEAST_TIMES), line.room)
    aim = line.signal.low_at(times)
    text = (
        f"ID scores span {line.id_text}, and points scatter by {number(_scatter(line), 1)} points of OOD around the "
        f"line (slope {line.slope_text}, R² {number(line.signal.r2, 2)}, floor {line.floor:g}). At that scatter"
        f"{line.assumption} a range {number(times, 1)} times as wide, for example from {percent(aim, 0)}, gives an R² "
        f"of about {number(line.planned.expected_r2(times), 2)}."
    )
    return Cause("narrow", text, line.signal, times, line.room)


def _scatter(line: _Line) -> float:
    """The residual standard deviation in points of OOD, at the middle of the line."""
    scale = SCALES[line.analysis.options.scale]
    return PP * sqrt(line.signal.residual) * float(scale.rate(np.array([line.own["y"].mean()]))[0])
