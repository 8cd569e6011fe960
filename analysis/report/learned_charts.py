"""The figures of "Was anything learned?": learning curves, and differences by test group. They hold their own data."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from analysis.learned.learned import Learned
from analysis.report.chart_data import inline
from analysis.report.charts import Layers
from analysis.report.learned_tables import drawn_test_groups
from analysis.report.palette import BASELINE_COLOUR, GroupStyle
from analysis.scales import PP
from analysis.study import Analysis
from ray_robust.text.names import visible

MOST_CURVES = 40  # drawn, as many of every group as there is room for
MOST_POINTS = 60  # drawn of a curve
DIFFERENCE = "#0077bb"
DASHES = ([1, 0], [7, 3], [2, 2], [8, 2, 2, 2])  # of groups in turn, since two hues may look alike


def of_learned(analysis: Analysis, styles: Sequence[GroupStyle], width: int | str) -> dict[str, Layers]:
    """Return every figure that has something to show, by name."""
    own = analysis.learned
    figures = {
        "learning": _curves(own, "pretrain", "pre-training images seen", "images_seen", styles, width),
        "tuning": _curves(own, "finetune", "epoch of fine-tuning", "epoch", styles, width),
        "test_groups": _test_groups(own, width),
    }
    return {name: chart for name, chart in figures.items() if chart is not None}


def drawn(curves: pd.DataFrame, stage: str) -> pd.DataFrame:
    """Return what is drawn of the curves of a stage: the first trainings of every group, of many points means."""
    own = curves.loc[(curves["stage"] == stage) & curves["loss"].notna()]
    if own.empty:
        return own
    each = max(1, MOST_CURVES // own["group"].nunique())
    training = own.groupby(["trial", "training"], sort=False).ngroup()
    number = training.groupby(own["group"]).transform(lambda codes: pd.factorize(codes)[0])
    own = own.assign(curve=training).loc[number < each]
    own = own.loc[own["curve"].isin(own["curve"].unique()[:MOST_CURVES])]
    place, size = own.groupby("curve").cumcount(), own.groupby("curve")["step"].transform("size")
    step = np.ceil(size / MOST_POINTS).astype(int)
    ends = dict.fromkeys(("trial", "group", "step", "images_seen", "epoch"), "last")
    return own.groupby(["curve", place // step], as_index=False, sort=False).agg(
        {**ends, "curve": "last", "loss": "mean"}
    )


def _curves(
    own: Learned, stage: str, title: str, along: str, styles: Sequence[GroupStyle], width: int | str
) -> Layers | None:
    rows = drawn(own.curves, stage)
    if rows.empty:
        return None
    shown = [style for style in styles if style.group in set(rows["group"])]
    scale = alt.Scale(domain=[s.group for s in shown], range=[s.colour for s in shown])
    dashes = [DASHES[i % len(DASHES)] for i in range(len(shown))]
    key = alt.Legend(orient="top", title=None, columns=2, labelLimit=150, symbolType="stroke", symbolSize=300)
    base = alt.Chart(inline(rows[["curve", "trial", "group", along, "loss"]]))
    lines = base.mark_line(strokeWidth=1.4, opacity=0.85).encode(
        alt.X(f"{along}:Q", title=title, axis=alt.Axis(grid=False, tickCount=6, labelOverlap="greedy")),
        alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False)),
        alt.Color("group:N", scale=scale, legend=key),
        alt.StrokeDash("group:N", scale=alt.Scale(domain=[s.group for s in shown], range=dashes), legend=key),
        detail="curve:N",
        tooltip=[alt.Tooltip("group:N"), alt.Tooltip("trial:N"), alt.Tooltip("loss:Q", format=".3f")],
    )
    return alt.layer(lines).properties(width=width, height=240)


def _test_groups(own: Learned, width: int | str) -> Layers | None:
    """The difference in every test group with its interval, the largest first."""
    rows = drawn_test_groups(own).reset_index(drop=True)
    if rows.empty:
        return None
    rows = rows.assign(row=range(len(rows)), name=[visible(str(name)) for name in rows["test_group"]])
    label = f"{json.dumps(list(rows['name']))}[datum.value]"
    y = alt.Y(
        "row:O", title=None, axis=alt.Axis(ticks=False, domain=False, grid=False, labelExpr=label, labelLimit=140)
    )
    for end in ("delta_low", "delta_high"):  # as far as a difference of two scores can go
        rows[end] = pd.to_numeric(rows[end], errors="coerce").clip(-PP, PP)
    ends = np.append(rows[["delta", "delta_low", "delta_high"]].to_numpy(float), 0.0)
    room = max(0.04 * float(np.nanmax(ends) - np.nanmin(ends)), 0.5)
    domain = [max(float(np.nanmin(ends)) - room, -PP), min(float(np.nanmax(ends)) + room, PP)]
    scale = alt.Scale(domain=domain, nice=False)
    axis = alt.Axis(tickCount=8, labelOverlap="greedy")
    x = alt.X("delta:Q", title="difference, percentage points", axis=axis, scale=scale)
    columns = ["row", "name", "images", "baseline_score", "score", "delta", "delta_low", "delta_high", "p_adjusted"]
    base = alt.Chart(inline(rows[columns]))
    zero = alt.Chart(alt.InlineData([{"zero": 0}])).mark_rule(color=BASELINE_COLOUR).encode(alt.X("zero:Q"))
    whisker = base.transform_filter("isValid(datum.delta_low)").mark_rule(strokeWidth=2, color=DIFFERENCE)
    dot = base.mark_point(filled=True, size=60, opacity=1, color=DIFFERENCE).encode(
        x, y,
        tooltip=[
            alt.Tooltip("name:N", title="test group"),
            alt.Tooltip("images:Q"),
            alt.Tooltip("baseline_score:Q", format=".1f", title="baseline"),
            alt.Tooltip("score:Q", format=".1f"),
            alt.Tooltip("delta:Q", format="+.1f", title="difference"),
            alt.Tooltip("delta_low:Q", format="+.1f", title="low"),
            alt.Tooltip("delta_high:Q", format="+.1f", title="high"),
            alt.Tooltip("p_adjusted:Q", format=".3f", title="p (Holm)"),
        ],
    )  # fmt: skip
    layers = (zero, whisker.encode(alt.X("delta_low:Q"), y, x2="delta_high:Q"), dot)
    return alt.layer(*layers).properties(width=width, height=alt.Step(16))
