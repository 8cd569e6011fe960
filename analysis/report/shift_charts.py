"""The figures of several shifts: mean ER by shift and group, and a small chart of scores for each shift.

They hold their own data. The page has a chart for each shift, laid out by the width of the screen; the exported figure
is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.report.chart_data import inline, limits, ticks
from analysis.report.charts import BEYOND, LABEL, SHOWN, Layers, name_axis
from analysis.report.palette import BASELINE_COLOUR, GroupStyle
from analysis.scales import SCALES
from analysis.stats.shift_results import ShiftResult
from analysis.study import Analysis
from ray_robust.text.names import visible

MOST_SHIFTS = 24  # with a chart of their own; the tables have them all
MOST_POINTS = 400  # of a small chart
COLUMNS, SIDE, HEIGHT = 3, 190, 180  # of the exported figure, px
EFFECTS, SMALL = "shift_effects", "shift_small"


def of_shifts(analysis: Analysis, styles: Sequence[GroupStyle], width: int | str, page: bool) -> dict[str, Any]:
    """Return the figures by name: `shift_effects`, and the small charts, on a `page` one by one (`shift_small_0`, ...),
    else as one figure. Nothing where there is one shift."""
    shown = list(analysis.shifts.results[:MOST_SHIFTS])
    if not shown:
        return {}
    figures: dict[str, Any] = {}
    if analysis.shifts.groups["er"].notna().any():
        figures[EFFECTS] = _effects(analysis, styles, width)
    if page:
        return figures | {f"{SMALL}_{i}": _small(one, analysis, styles, width) for i, one in enumerate(shown)}
    small = [_small(one, analysis, styles, SIDE) for one in shown]
    return figures | {SMALL: alt.concat(*small, columns=COLUMNS)}


def _effects(analysis: Analysis, styles: Sequence[GroupStyle], width: int | str) -> Layers:
    table = analysis.shifts.groups
    table = table.assign(shift=table["shift"].map(analysis.shifts.shown))
    rows = table.loc[(table["group"] != analysis.options.baseline) & table["er"].notna()]
    groups = [style for style in styles if style.group in set(rows["group"])]
    names = [analysis.shifts.shown(one.name) for one in analysis.shifts.results]
    order = [name for name in names if name in set(rows["shift"])]
    names = [style.group for style in groups]
    y = alt.Y("shift:N", sort=order, scale=alt.Scale(domain=order), title=None, axis=name_axis(order))
    offset = alt.YOffset("group:N", sort=names, scale=alt.Scale(domain=names, padding=0.4))
    colour = alt.Color("group:N", legend=None, scale=alt.Scale(domain=names, range=[s.colour for s in groups]))
    shape = alt.Shape("group:N", legend=None, scale=alt.Scale(domain=names, range=[s.shape for s in groups]))
    opacity: Any = {"condition": {"test": SHOWN, "value": 1}, "value": 0.05}
    base = alt.Chart(inline(rows[["shift", "group", "er", "er_low", "er_high", "n_used"]]))
    x = alt.X("er:Q", title="mean ER, points", scale=BEYOND, axis=alt.Axis(tickCount=6))
    whisker = base.transform_filter("isValid(datum.er_low)").mark_rule(strokeWidth=2.5).encode(
        alt.X("er_low:Q"), y, colour, x2="er_high:Q", yOffset=offset, opacity=opacity
    )  # fmt: skip
    mark = base.mark_point(filled=True, size=70).encode(
        x, y, colour, shape, yOffset=offset, opacity=opacity,
        tooltip=[
            alt.Tooltip("shift:N"),
            alt.Tooltip("group:N"),
            alt.Tooltip("er:Q", format="+.2f", title="mean ER, points"),
            alt.Tooltip("er_low:Q", format="+.2f", title="low"),
            alt.Tooltip("er_high:Q", format="+.2f", title="high"),
        ],
    )  # fmt: skip
    margin = analysis.options.margin
    strip = alt.Chart(alt.InlineData([{"low": -margin, "high": margin}]))
    strip = strip.mark_rect(color=BASELINE_COLOUR, opacity=0.12).encode(alt.X("low:Q"), x2="high:Q")
    zero = alt.Chart(alt.InlineData([{"at": 0}])).mark_rule(color=BASELINE_COLOUR).encode(alt.X("at:Q"))
    return alt.layer(strip, zero, whisker, mark).add_params(*_readers()).properties(
        width=width, height=alt.Step(6 + 11 * len(groups), **{"for": "position"})
    )  # fmt: skip


def _small(one: ShiftResult, analysis: Analysis, styles: Sequence[GroupStyle], width: int | str) -> Layers:
    """OOD against ID on one shift: points, the baseline's line and its band."""
    scale = SCALES[analysis.options.scale]
    step = -(-len(one.points) // MOST_POINTS) or 1
    columns = ["trial", "group", "x", "y", "id", "ood", *(["er"] if "er" in one.points else [])]
    points = alt.Chart(inline(one.points.iloc[::step][columns]))
    ends = limits(one.points["x"]), limits(one.points["y"])

    def axis(at: int) -> dict[str, Any]:
        label = LABEL.replace("axes", f"'{scale.name}'")
        marks = ticks(scale, ends[at])
        own = alt.Axis(values=marks, labelExpr=label, labelOverlap="greedy", tickCount=4)
        return {"scale": alt.Scale(domain=list(ends[at]), nice=False, zero=False), "axis": own}

    x, y = alt.X("x:Q", title="ID", **axis(0)), alt.Y("y:Q", title="OOD", **axis(1))
    names = [style.group for style in styles]
    colour = alt.Color("group:N", legend=None, scale=alt.Scale(domain=names, range=[s.colour for s in styles]))
    shape = alt.Shape("group:N", legend=None, scale=alt.Scale(domain=names, range=[s.shape for s in styles]))
    layers: list[Any] = []
    if len(one.band):
        drawn = {name: scale.h(one.band[name].iloc[::8].to_numpy(float)) for name in one.band}
        frame = pd.DataFrame(drawn).replace([np.inf, -np.inf], np.nan).dropna(subset=["id", "expected_ood"])
        band = alt.Chart(inline(frame.rename(columns={"id": "x"})))
        area = band.transform_filter("isValid(datum.mean_low)").mark_area(clip=True, color=BASELINE_COLOUR, opacity=0.3)
        layers.append(area.encode(x, alt.Y("mean_low:Q"), alt.Y2("mean_high:Q")))
        line = band.mark_line(clip=True, color=BASELINE_COLOUR, strokeWidth=2)
        layers.append(line.encode(x, alt.Y("expected_ood:Q"), order="x:Q"))
    layers.append(
        points.mark_point(filled=True, size=22).encode(
            x, y, colour, shape,
            opacity={"condition": {"test": SHOWN, "value": 0.75}, "value": 0},
            tooltip=[
                alt.Tooltip("trial:N"),
                alt.Tooltip("group:N"),
                alt.Tooltip("id:Q", format=".1%", title="ID"),
                alt.Tooltip("ood:Q", format=".1%", title="OOD"),
            ],
        )
    )  # fmt: skip
    why = " (no line)" if one.refused else ""
    return alt.layer(*layers).add_params(*_readers()).properties(
        width=width, height=HEIGHT, title=f"{visible(analysis.shifts.shown(one.name))}{why}"
    )  # fmt: skip


def _readers() -> list[alt.Parameter]:
    """What the page's reader has chosen: the groups that are shown, and a trial."""
    return [alt.param(name="shown", value=[]), alt.param(name="picked", value="")]
