"""The figures, as Altair charts: ID against OOD with the baseline's bands, ER by group, ER along fine-tuning.

Owns axes, colours and shapes. The same charts go into the page (as Vega-Lite) and into trend.png, .svg and .pdf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from analysis.study import Analysis
from analysis.trend import SCALES, Scale

BASELINE_COLOUR = "#8a909a"
# Paul Tol's "vibrant" set and two more: told apart by colour-blind eyes, readable on white and on near-black.
COLOURS = ("#0077bb", "#ee7733", "#009988", "#cc3311", "#33a0dd", "#ee3377", "#a97b3d", "#8f6fc9")
RAMP = ("#5a67b8", "#2f8aa8", "#25a884", "#7dbb42", "#d6a800")  # for levels of an ordered factor, low to high
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
BACK = {"probit": "cumulativeNormal(datum.value)", "logit": "1/(1+exp(-datum.value))", "linear": "datum.value"}
MOST_POINTS = 2_000  # drawn in the page; more would be neither seen nor quick
BASELINE_SHAPE = "circle"


@dataclass(frozen=True)
class Look:
    """Colour and shape of a group, the same in every figure."""

    group: str
    colour: str
    shape: str


def looks(analysis: Analysis) -> list[Look]:
    """One look per group, in the order of the report: the baseline grey, levels of an ordered factor as a ramp."""
    names = [name for name in analysis.groups["group"] if name != analysis.options.baseline]
    colours = _ramp(len(names)) if analysis.factors else [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    found = [Look(n, c, SHAPES[(i + 1) % len(SHAPES)]) for i, (n, c) in enumerate(zip(names, colours, strict=True))]
    has_baseline = len(names) < len(analysis.groups)
    return ([Look(analysis.options.baseline, BASELINE_COLOUR, BASELINE_SHAPE)] if has_baseline else []) + found


def trend(analysis: Analysis, keys: Sequence[str] = (), width: int | str = 640, legend: bool = True) -> alt.LayerChart:
    """OOD against ID on the chosen axes, labelled in per cent: points, the baseline line, its mean band (dark) and
    prediction band (light), each group's own line (thin), and the diagonal of no loss (dashed)."""
    scale, style = SCALES[analysis.options.scale], looks(analysis)
    shown, fields = _drawn(analysis.points, keys)
    x_limits, y_limits = _limits(analysis.points["x"]), _limits(analysis.points["y"])
    x = alt.X("x:Q", title="ID score", scale=_domain(x_limits), axis=_axis(scale, x_limits))
    y = alt.Y("y:Q", title="OOD score", scale=_domain(y_limits), axis=_axis(scale, y_limits))
    visible = alt.param(name="shown", value=[look.group for look in style])
    layers: list[alt.Chart] = []
    if len(analysis.band):
        band = analysis.band.iloc[::4]
        drawn = pd.DataFrame({"x": scale.h(band["id"].to_numpy())} | {
            c: scale.h(band[c].to_numpy()) for c in band.columns if c != "id"})  # fmt: skip
        base = alt.Chart(drawn.replace([np.inf, -np.inf], np.nan).dropna())
        for kind, opacity in (("prediction", 0.14), ("mean", 0.32)):
            layers.append(
                base.mark_area(clip=True, color=BASELINE_COLOUR, opacity=opacity).encode(
                    x, alt.Y(f"{kind}_low:Q", title="OOD score", scale=_domain(y_limits)), alt.Y2(f"{kind}_high:Q")
                )
            )
        layers.append(
            base.mark_line(clip=True, color=BASELINE_COLOUR, strokeWidth=2).encode(
                x, alt.Y("expected_ood:Q", title="OOD score", scale=_domain(y_limits))
            )
        )
    low, high = max(x_limits[0], y_limits[0]), min(x_limits[1], y_limits[1])
    if low < high:
        diagonal = alt.Chart(pd.DataFrame({"x": [low, high], "y": [low, high]}))
        layers.append(diagonal.mark_line(color=BASELINE_COLOUR, strokeDash=[2, 4], strokeWidth=1).encode(x, y))
    colour = _colour(style, legend)
    own = _own_lines(analysis)
    if len(own):
        layers.append(
            alt.Chart(own)
            .mark_line(clip=True, strokeWidth=1.2, opacity=0.8)
            .encode(x, y, colour, opacity=_if_shown(0.8))
        )
    points = alt.Chart(shown).mark_point(filled=True, size=46).encode(
        x,
        y,
        colour,
        shape=alt.Shape(
            "group:N",
            scale=alt.Scale(domain=[s.group for s in style], range=[s.shape for s in style]),
            legend=_legend(legend),
        ),
        opacity=_if_shown(0.8),
        tooltip=[
            *(alt.Tooltip(f"{safe}:N", title=name) for safe, name in fields.items()),
            alt.Tooltip("id:Q", format=".1%", title="ID"),
            alt.Tooltip("ood:Q", format=".1%", title="OOD"),
            alt.Tooltip("expected_ood:Q", format=".1%", title="expected OOD"),
            alt.Tooltip("er:Q", format="+.1f", title="ER, points"),
            alt.Tooltip("extrapolated:N", title="extrapolated"),
        ],
    )  # fmt: skip
    return alt.layer(*layers, points).add_params(visible).properties(width=width, height=420)


def by_group(analysis: Analysis, width: int | str = 640) -> alt.LayerChart | None:
    """Mean ER of every group with its 95 % interval over the single points; the shaded strip is the margin."""
    groups = analysis.groups.dropna(subset=["er"])
    if groups.empty:
        return None
    style, margin = [s for s in looks(analysis) if s.group in set(groups["group"])], analysis.options.margin
    order = [s.group for s in style]
    spots, _ = _drawn(analysis.points.loc[~analysis.points["extrapolated"]], ())
    y = alt.Y("group:N", sort=order, title=None, axis=alt.Axis(labelLimit=140, ticks=False, domain=False))
    colour = _colour(style, False)
    er = alt.X("er:Q", title="ER, percentage points")
    strip = alt.Chart(pd.DataFrame({"low": [-margin], "high": [margin]}))
    strip = strip.mark_rect(color=BASELINE_COLOUR, opacity=0.14).encode(alt.X("low:Q"), alt.X2("high:Q"))
    zero = alt.Chart(pd.DataFrame({"er": [0.0]})).mark_rule(color=BASELINE_COLOUR).encode(er)
    single = alt.Chart(spots.loc[spots["group"].isin(order)]).mark_tick(thickness=1, size=12, opacity=0.35)
    single = single.encode(er, y, colour)
    base = alt.Chart(groups)
    whisker = base.transform_filter("isValid(datum.er_low)").mark_rule(strokeWidth=3)
    whisker = whisker.encode(alt.X("er_low:Q"), y, colour, x2="er_high:Q")
    mean = base.mark_point(filled=True, size=110, opacity=1).encode(
        er,
        y,
        colour,
        tooltip=[
            alt.Tooltip("group:N"),
            alt.Tooltip("er:Q", format="+.2f", title="ER, points"),
            alt.Tooltip("er_low:Q", format="+.2f", title="low"),
            alt.Tooltip("er_high:Q", format="+.2f", title="high"),
            alt.Tooltip("n_trials:Q", title="trials"),
            alt.Tooltip("n_used:Q", title="points used"),
        ],
    )
    chart = alt.layer(strip, zero, single, whisker, mean)
    return chart.properties(width=width, height=alt.Step(38))


def along(analysis: Analysis, width: int | str = 640) -> alt.LayerChart | None:
    """Mean ER by epoch of fine-tuning, one line per group: it can appear half-way and be gone at the end."""
    if analysis.progress.empty or analysis.refused:
        return None
    style = [s for s in looks(analysis) if s.group in set(analysis.progress["group"])]
    zero = alt.Chart(pd.DataFrame({"er": [0.0]})).mark_rule(color=BASELINE_COLOUR).encode(alt.Y("er:Q"))
    lines = alt.Chart(analysis.progress).mark_line(point={"filled": True, "size": 40}).encode(
        alt.X("epoch:Q", title="epoch of fine-tuning", axis=alt.Axis(tickMinStep=1, grid=False)),
        alt.Y("er:Q", title="mean ER, percentage points"),
        _colour(style, False),
        tooltip=[
            alt.Tooltip("group:N"),
            alt.Tooltip("epoch:Q"),
            alt.Tooltip("er:Q", format="+.2f", title="mean ER, points"),
            alt.Tooltip("id:Q", format=".1%", title="mean ID"),
            alt.Tooltip("ood:Q", format=".1%", title="mean OOD"),
            alt.Tooltip("points:Q"),
        ],
    )  # fmt: skip
    return alt.layer(zero, lines).properties(width=width, height=240)


def exported(analysis: Analysis) -> dict[str, bytes]:
    """trend.png (2x), trend.svg and trend.pdf, on white; no browser is needed. Nothing where there are no points."""
    if analysis.points.empty:
        return {}
    chart = trend(analysis).configure(background="white", font="sans-serif").configure_view(stroke=None)
    svg = vl_convert.vegalite_to_svg(chart.to_dict(validate=False))
    return {
        "trend.svg": svg.encode(),
        "trend.png": vl_convert.svg_to_png(svg, scale=2),
        "trend.pdf": vl_convert.svg_to_pdf(svg),
    }


def specification(chart: alt.LayerChart) -> dict[str, Any]:
    """The chart as Vega-Lite with its data inside, without Altair's own look: the page gives it one."""
    spec = chart.to_dict(validate=False)  # the schema check takes as long as the figure; a test does it
    spec.pop("config", None)
    return spec


def _drawn(points: pd.DataFrame, keys: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """At most `MOST_POINTS` rows, evenly taken, with only what a figure shows; keys under safe field names, because a
    dot or a bracket in a column's name would mean something to Vega."""
    step = -(-len(points) // MOST_POINTS) or 1
    chosen = points.iloc[::step]
    named = [key for key in keys if key in chosen and key != "group" and chosen[key].astype(str).str.strip().any()]
    fields = {"group": "group"} | {f"key{i}": key for i, key in enumerate(named)}
    shown = chosen[["group", "x", "y", "id", "ood", "expected_ood", "er", "extrapolated"]].copy()
    for safe, key in fields.items():
        shown[safe] = chosen[key].astype(str)
    numeric = shown.select_dtypes("number").columns
    shown[numeric] = shown[numeric].astype(float).round(5)
    return shown, fields


def _own_lines(analysis: Analysis) -> pd.DataFrame:
    """The two ends of each group's own line in the chosen scale, over its own ID range; the baseline has its own."""
    rows = analysis.trends.loc[analysis.trends["scale"] == analysis.options.scale].set_index("group")
    ends = []
    for name, points in analysis.points.groupby("group", sort=False):
        line = rows.loc[name]
        if name == analysis.options.baseline or not np.isfinite(line["slope"]):
            continue
        for x in (points["x"].min(), points["x"].max()):
            ends.append({"group": name, "x": x, "y": line["intercept"] + line["slope"] * x})
    return pd.DataFrame(ends)


def _if_shown(opacity: float) -> Any:
    """Opacity of a mark whose group is switched on in the page (`shown` is a parameter of the figure)."""
    return alt.condition("indexof(shown, datum.group) >= 0", alt.value(opacity), alt.value(0))


def _limits(values: pd.Series) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = max(0.05 * (high - low), 0.02)
    return low - room, high + room


def _domain(limits: tuple[float, float]) -> alt.Scale:
    return alt.Scale(domain=list(limits), nice=False, zero=False)


def _axis(scale: Scale, limits: tuple[float, float]) -> alt.Axis:
    """Ticks at round percentages wherever the scale puts them; finer ones where the axis spans little."""
    low, high = (float(v) for v in scale.inverse(np.array(limits)))
    ticks = [t for t in TICKS if low <= t <= high]
    if len(ticks) < 4:
        step = next((s for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1) if (high - low) / s <= 8), 0.1)
        ticks = [t for t in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step if 0 < t < 1]
    values = scale.h(np.array(ticks)).tolist() if ticks else alt.Undefined
    percent = f"format(100*{BACK[scale.name]}, '.3~g') + ' %'"
    return alt.Axis(values=values, labelExpr=percent, grid=True, labelOverlap="greedy", labelSeparation=8)


def _colour(style: Sequence[Look], legend: bool) -> alt.Color:
    domain, colours = [s.group for s in style], [s.colour for s in style]
    return alt.Color("group:N", scale=alt.Scale(domain=domain, range=colours), legend=_legend(legend))


def _legend(shown: bool) -> alt.Legend | None:
    return alt.Legend(orient="top", title=None, columns=4, labelLimit=150) if shown else None


def _ramp(count: int) -> list[str]:
    """That many colours along `RAMP`."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in RAMP], float)
    at = np.linspace(0, len(RAMP) - 1, count) if count > 1 else np.array([len(RAMP) - 1.0])
    mixed = np.column_stack([np.interp(at, np.arange(len(RAMP)), anchors[:, i]) for i in range(3)]).round().astype(int)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in mixed]
