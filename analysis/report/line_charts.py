"""The figures of "Is this line real?": line against curves, residuals by epoch and rate, scatter, reliability, gaps.

They show the metric and scale that the verdict is about and hold their own data, which the `line_*.csv` beside the page
have as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.line.line_checks import STEPS, LineChecks
from analysis.report.chart_data import MOST_POINTS, inline, limits, thinning, ticks
from analysis.report.charts import LABEL, PERCENT, Layers, name_axis
from analysis.report.palette import BASELINE_COLOUR, GroupStyle
from analysis.scales import SCALES, Scale
from analysis.stats import reliability

MODELS = {"line": "line", "square": "parabola", "spline": "spline"}
COLOURS, DASHES = ("#6b7280", "#ee7733", "#0077bb"), ([1, 0], [6, 3], [2, 2])
STEP_COLOUR = "#0077bb"
NAMES = ("curve", "epochs", "rates", "scatter", "reliability", "gaps")


def of_line(
    checks: LineChecks, points: pd.DataFrame, styles: Sequence[GroupStyle], scale: str, width: int | str
) -> dict[str, Layers]:
    """Return every figure that has something to show, by name (of `NAMES`). `points` of all groups have group and
    id."""
    figures = {
        "curve": _curve(checks, scale, width),
        "epochs": _by_step(checks, "epoch", width),
        "rates": _by_step(checks, "finetune_lr", width),
        "scatter": _scatter(checks, width),
        "reliability": _reliability(checks, width),
        "gaps": _gaps(checks, points, styles, width),
    }
    return {name: chart for name, chart in figures.items() if chart is not None}


def _curve(checks: LineChecks, scale: str, width: int | str) -> Layers | None:
    """OOD against ID on the verdict's axes: the baseline's points, its line, and curves fitted to the same points."""
    if checks.curve.empty:
        return None
    axis = SCALES[scale]
    long = checks.curve.melt("id", var_name="model", value_name="ood").dropna()
    long = long.assign(
        x=axis.of(long["id"].to_numpy()), y=axis.of(long["ood"].to_numpy()), model=long["model"].map(MODELS)
    )
    dots = checks.residuals.iloc[:: thinning(len(checks.residuals))]
    dots = dots.assign(x=axis.of(dots["id"].to_numpy()), y=axis.of(dots["ood"].to_numpy()))
    x, y = (
        _score(axis, pd.concat([long[c], dots[c]]), c, title) for c, title in (("x", "ID score"), ("y", "OOD score"))
    )
    label = LABEL.replace("axes", json.dumps(scale))
    for channel in (x, y):
        channel.axis.labelExpr = label
    shown = [name for name in MODELS.values() if name in set(long["model"])]
    colours, dashes = ([values[list(MODELS.values()).index(name)] for name in shown] for values in (COLOURS, DASHES))
    legend = alt.Legend(orient="top", title=None, symbolStrokeWidth=3, symbolSize=400, labelLimit=180)
    lines = alt.Chart(_inline(long[["x", "y", "model"]])).mark_line(strokeWidth=2.2, clip=True).encode(
        x, y,
        alt.Color("model:N", scale=alt.Scale(domain=shown, range=colours), legend=legend),
        alt.StrokeDash("model:N", scale=alt.Scale(domain=shown, range=dashes), legend=legend),
        order="x:Q",
    )  # fmt: skip
    marks = alt.Chart(_inline(dots[["x", "y", "trial", "id", "ood"]])).mark_point(
        filled=True, size=40, opacity=0.6, color=BASELINE_COLOUR
    )
    return alt.layer(marks.encode(x, y, tooltip=_point()), lines).properties(width=width, height=320)


def _by_step(checks: LineChecks, column: str, width: int | str) -> Layers | None:
    """Mean residual of the baseline at every epoch, or learning rate, with its interval, over the single points."""
    means = checks.schedule.loc[checks.schedule["what"] == STEPS[column]]
    if means.empty:
        return None
    log = column == "finetune_lr"
    scale = alt.Scale(type="log" if log else "linear", zero=False, padding=20, nice=False)
    axis = alt.Axis(values=[float(f"{v:.3g}") for v in means["value"]], format="~g", grid=False, labelOverlap="greedy")
    title = STEPS[column] if log else "epoch of fine-tuning"
    x, y = alt.X("value:Q", title=title, scale=scale, axis=axis), alt.Y("residual:Q", title="off the line, points")
    single = checks.residuals.iloc[:: thinning(len(checks.residuals))]
    single = single.assign(value=pd.to_numeric(single[column], errors="coerce"))
    dots = alt.Chart(_inline(single[["value", "residual", "trial", "id", "ood"]])).mark_tick(
        orient="horizontal", thickness=1, size=14, opacity=0.4, color=BASELINE_COLOUR
    )
    base = alt.Chart(_inline(means))
    whisker = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5, color=STEP_COLOUR)
    mean = base.mark_point(filled=True, size=80, opacity=1, color=STEP_COLOUR).encode(
        x, y,
        tooltip=[
            alt.Tooltip("value:Q", format="~g", title=title),
            alt.Tooltip("residual:Q", format="+.2f", title="off the line, points"),
            alt.Tooltip("low:Q", format="+.2f"),
            alt.Tooltip("high:Q", format="+.2f"),
            alt.Tooltip("trials:Q"),
            alt.Tooltip("points:Q"),
        ],
    )  # fmt: skip
    layers = (_zero(), dots.encode(x, y, tooltip=_point()), whisker.encode(x, alt.Y("low:Q"), y2="high:Q"), mean)
    return alt.layer(*layers).properties(width=width, height=220)


def _scatter(checks: LineChecks, width: int | str) -> Layers:
    """Residuals against ID, and their standard deviation in parts of the range that hold equally many points."""
    single = checks.residuals.iloc[:: thinning(len(checks.residuals))]
    ends = [single["id"]] + ([checks.noise["id_low"], checks.noise["id_high"]] if len(checks.noise) else [])
    x, y = _percent(pd.concat(ends)), alt.Y("residual:Q", title="off the line, points")
    dots = alt.Chart(_inline(single[["id", "ood", "residual", "trial"]])).mark_point(
        filled=True, size=40, opacity=0.7, color=BASELINE_COLOUR
    )
    layers = [_zero(), dots.encode(x, y, tooltip=_point())]
    if len(checks.noise):
        bands = alt.Chart(_inline(checks.noise.assign(below=-checks.noise["sd"])))
        band = bands.mark_rect(color=STEP_COLOUR, opacity=0.16, stroke=STEP_COLOUR, strokeOpacity=0.5)
        tooltip = [alt.Tooltip("sd:Q", format=".2f", title="standard deviation, points"), alt.Tooltip("points:Q")]
        layers.insert(0, band.encode(alt.X("id_low:Q"), alt.Y("below:Q"), x2="id_high:Q", y2="sd:Q", tooltip=tooltip))
    return alt.layer(*layers).properties(width=width, height=220)


def _reliability(checks: LineChecks, width: int | str) -> Layers | None:
    """The reliability of every ID set, and the least that does without a warning."""
    measured = checks.reliability.dropna(subset=["reliability"])
    if measured.empty:
        return None
    columns = {"reliability": "alone", "given_others": "given the other ID sets"}
    ways = columns if len(measured) > 1 else {"reliability": "alone"}
    drawn = measured.melt(["id_set", "source", "images"], list(ways), var_name="way", value_name="value")
    drawn = drawn.assign(way=drawn["way"].map(columns))
    low = min(0.8, float(np.floor(drawn["value"].min() * 10) / 10))
    x = alt.X("value:Q", title="reliability", scale=alt.Scale(domain=[low, 1], nice=False), axis=alt.Axis(tickCount=5))
    y = alt.Y("id_set:N", title=None, axis=alt.Axis(ticks=False, domain=False))
    legend = alt.Legend(orient="top", title=None) if len(ways) > 1 else None
    dots = alt.Chart(_inline(drawn)).mark_point(filled=True, size=110, opacity=1, color=STEP_COLOUR).encode(
        x, y,
        alt.Shape("way:N", legend=legend, scale=alt.Scale(domain=list(ways.values()), range=["circle", "diamond"])),
        tooltip=[
            alt.Tooltip("id_set:N", title="ID set"),
            alt.Tooltip("value:Q", format=".3f", title="reliability"),
            alt.Tooltip("way:N", title="of it"),
            alt.Tooltip("images:Q", format=".0f"),
            alt.Tooltip("source:N", title="variance from"),
        ],
    )  # fmt: skip
    short = alt.Chart(alt.InlineData([{"low": low, "high": reliability.LEAST}])).mark_rect(
        color=BASELINE_COLOUR, opacity=0.16
    )
    least = alt.Chart(alt.InlineData([{"least": reliability.LEAST}])).mark_rule(
        color=BASELINE_COLOUR, strokeDash=[4, 3]
    )
    left, edge = (alt.X(f"{name}:Q", scale=alt.Scale(domain=[low, 1], nice=False)) for name in ("low", "least"))
    layers = (short.encode(left, alt.X2("high:Q")), least.encode(edge), dots)
    return alt.layer(*layers).properties(width=width, height=alt.Step(34))


def _gaps(checks: LineChecks, points: pd.DataFrame, styles: Sequence[GroupStyle], width: int | str) -> Layers | None:
    """Where every group has its ID scores, and the widest gaps of the baseline's."""
    if checks.gaps.empty:
        return None
    names, colours = [style.group for style in styles], [style.colour for style in styles]
    drawn = points.loc[points["group"].isin(names), ["group", "id"]]
    order = alt.Y("group:N", sort=names, scale=alt.Scale(domain=names), title=None, axis=name_axis(names))
    colour = alt.Color("group:N", scale=alt.Scale(domain=names, range=colours), legend=None)
    single = alt.Chart(_inline(drawn.iloc[:: thinning(len(drawn))])).mark_tick(thickness=1.5, size=16, opacity=0.8)
    wide = checks.gaps.drop_duplicates(["id_low", "id_high"])[["id_low", "id_high", "share", "wide"]]
    strips = alt.Chart(_inline(wide.assign(kind=np.where(wide["wide"].astype(bool), "wide", "usual"))))
    strip = strips.mark_rect(color=BASELINE_COLOUR).encode(
        alt.X("id_low:Q"),
        alt.X2("id_high:Q"),
        opacity=alt.Opacity("kind:N", legend=None, scale=alt.Scale(domain=["wide", "usual"], range=[0.4, 0.14])),
        tooltip=[alt.Tooltip("share:Q", format=".0%", title="gap, of the range"), alt.Tooltip("kind:N", title="is")],
    )
    rows = alt.Step(26 if len(names) <= 20 else 16)
    return alt.layer(strip, single.encode(_percent(drawn["id"]), order, colour)).properties(width=width, height=rows)


def _score(scale: Scale, values: pd.Series, side: str, title: str) -> Any:
    """An axis of transformed scores, labelled in per cent."""
    ends = limits(values)
    label = LABEL.replace("axes", json.dumps(scale.name))
    axis = alt.Axis(values=ticks(scale, ends), labelExpr=label, labelOverlap="greedy", labelSeparation=8)
    channel = alt.X if side == "x" else alt.Y
    return channel(f"{side}:Q", title=title, axis=axis, scale=alt.Scale(domain=list(ends), nice=False, zero=False))


def _percent(scores: pd.Series) -> alt.X:
    """ID scores, with some room beyond them but none beyond what a score can be, and labels that differ."""
    low, high = float(scores.min()), float(scores.max())
    room = max(0.04 * (high - low), 0.002)
    scale = alt.Scale(domain=[max(low - room, 0.0), min(high + room, 1.0)], nice=False, zero=False)
    axis = alt.Axis(tickCount=8, labelExpr=PERCENT, labelOverlap="greedy", labelSeparation=8, grid=False)
    return alt.X("id:Q", title="ID score", scale=scale, axis=axis)


def _zero() -> alt.Chart:
    return alt.Chart(alt.InlineData([{"residual": 0}])).mark_rule(color=BASELINE_COLOUR).encode(alt.Y("residual:Q"))


def _point() -> list[alt.Tooltip]:
    tips = [alt.Tooltip("trial:N")]
    return [*tips, *(alt.Tooltip(f"{side}:Q", format=".1%", title=side.upper()) for side in ("id", "ood"))]


def _inline(rows: pd.DataFrame) -> alt.InlineData:
    """At most `MOST_POINTS` rows; those of points are thinned before."""
    return inline(rows.head(MOST_POINTS))
