"""The figure of raw scores: ID and OOD of every group with their intervals, the baseline's marked.

It shows what `scores.csv` holds, holds its own data, and is drawn whatever becomes of the baseline's line.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from analysis.report.chart_data import inline
from analysis.report.charts import LABEL_LENGTH, PERCENT, SHOWN, Layers, name_axis
from analysis.report.palette import BASELINE_COLOUR, GroupStyle
from analysis.scales import PP
from analysis.scores.sentences import score_name
from analysis.stats.raw_scores import OOD
from analysis.study import Analysis

NAME = "scores"
SHAPES = {OOD: "diamond"}  # of ID sets: circles, which are open
MANY = 20  # groups; the rows of more are narrower


def of_scores(analysis: Analysis, styles: Sequence[GroupStyle], width: int | str) -> dict[str, Layers]:
    """Return the figure by its name; none where no group has a score."""
    table = analysis.scores.groups.dropna(subset=["mean"])
    return {} if table.empty else {NAME: _chart(analysis, table, styles, width)}


def _chart(analysis: Analysis, table: pd.DataFrame, styles: Sequence[GroupStyle], width: int | str) -> Layers:
    sides = [OOD, *analysis.options.ids]
    names = {side: f"{score_name(analysis, side)} ({'filled' if side == OOD else 'open'})" for side in sides}
    tuned = analysis.scores.tuned_scores.dropna(subset=["mean"])
    names_of = {analysis.options.baseline: [analysis.options.baseline, *tuned["group"].unique()[:1]]}
    own = tuned.assign(row=tuned["group"], group=analysis.options.baseline)
    table = pd.concat([table.assign(row=table["group"]), own], ignore_index=True)
    rows = table.assign(
        side=table["score"].map(names),
        ood=table["score"] == OOD,
        **{column: table[column] / PP for column in ("mean", "low", "high")},
    )
    order = [row for style in styles for row in names_of.get(style.group, [style.group])]
    groups = [row for row in order if row in set(rows["row"])]
    y = alt.Y("row:N", sort=groups, scale=alt.Scale(domain=groups), title=None, axis=name_axis(groups))
    offset = alt.YOffset("side:N", sort=list(names.values()), scale=alt.Scale(domain=list(names.values()), padding=0.5))
    colours = alt.Scale(domain=[s.group for s in styles], range=[s.colour for s in styles])
    colour = alt.Color("group:N", scale=colours, legend=None)
    shapes = [SHAPES.get(side, "circle") for side in sides]
    key = alt.Legend(orient="top", title=None, symbolStrokeColor=BASELINE_COLOUR, symbolFillColor="transparent",
                     symbolSize=90, symbolStrokeWidth=2, labelLimit=220)  # fmt: skip
    shape = alt.Shape("side:N", scale=alt.Scale(domain=list(names.values()), range=shapes), legend=key)
    base = alt.Chart(inline(rows[["row", "group", "side", "ood", "mean", "low", "high", "n_trials"]]))
    x = alt.X("mean:Q", title="score", scale=_domain(rows), axis=_axis())
    whisker = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5).encode(
        alt.X("low:Q"), y, colour, x2="high:Q", yOffset=offset, opacity=_shown(0.85)
    )  # fmt: skip
    mark = base.mark_point(size=90, strokeWidth=2).encode(
        x, y, colour, shape, yOffset=offset, opacity=_shown(1),
        fill=alt.Fill("group:N", scale=colours, legend=None),
        fillOpacity={"condition": {"test": "datum.ood", "value": 1}, "value": 0},
        tooltip=[
            alt.Tooltip("row:N", title="group"),
            alt.Tooltip("side:N", title="score"),
            alt.Tooltip("mean:Q", format=".1%", title="mean"),
            alt.Tooltip("low:Q", format=".1%"),
            alt.Tooltip("high:Q", format=".1%"),
            alt.Tooltip("n_trials:Q", title=f"{analysis.options.unit}s"),
        ],
    )  # fmt: skip
    layers = [*_baseline(analysis, rows), whisker, mark]
    step = (15 if len(groups) <= MANY else 9) * len(sides) + (8 if max(map(len, groups)) > LABEL_LENGTH else 0)
    return alt.layer(*layers).add_params(
        alt.param(name="shown", value=[]), alt.param(name="picked", value="")
    ).properties(width=width, height=alt.Step(step, **{"for": "position"}))  # fmt: skip


def _baseline(analysis: Analysis, rows: pd.DataFrame) -> list[alt.Chart]:
    """The baseline's scores from top to bottom, for the eye."""
    own = rows.loc[rows["row"] == analysis.options.baseline, ["mean", "side"]]
    if own.empty:
        return []
    lines = alt.Chart(inline(own)).mark_rule(color=BASELINE_COLOUR, strokeDash=[5, 4], strokeWidth=1.5)
    return [lines.encode(alt.X("mean:Q"))]


def _domain(rows: pd.DataFrame) -> alt.Scale:
    """From the lowest end to the highest, with some room."""
    ends = rows[["mean", "low", "high"]].to_numpy(float)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = max(0.06 * (high - low), 0.01)
    return alt.Scale(domain=[max(low - room, 0.0), min(high + room, 1.0)], nice=False, zero=False)


def _axis() -> alt.Axis:
    return alt.Axis(tickCount=6, labelExpr=PERCENT, labelFlush=False, labelOverlap="greedy", labelSeparation=8)


def _shown(opacity: float) -> dict[str, object]:
    return {"condition": {"test": SHOWN, "value": opacity}, "value": 0}
