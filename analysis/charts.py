"""The figures, as Altair charts: ID against OOD with the baseline's bands, ER by group and by epoch, intervals.

Owns axes, colours and shapes. A chart of scores holds no data: `frame` gives the data and the axes of one view (a
metric on a scale), `filled` puts them in. So one chart serves every view of the page, and the exported figures are the
same charts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.findings import PER, STATES, factor_table, state
from analysis.study import Analysis
from analysis.trend import SCALES, Scale
from analysis.views import View
from analysis.words import pair

BASELINE_COLOUR = "#8a909a"
# Paul Tol's "vibrant" set and two more: told apart by colour-blind eyes, readable on white and on near-black.
COLOURS = ("#0077bb", "#ee7733", "#009988", "#cc3311", "#33a0dd", "#ee3377", "#a97b3d", "#8f6fc9")
RAMP = ("#5a67b8", "#2f8aa8", "#25a884", "#7dbb42", "#d6a800")  # for levels of an ordered factor, low to high
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
STATE_LOOKS = {"differs": ("#00917f", "circle"), "equivalent": ("#3b82c4", "square"), "open": ("#b08a1e", "diamond")}
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
LABEL = (
    "format(100 * (axes == 'probit' ? cumulativeNormal(datum.value) : axes == 'logit' ? 1 / (1 + exp(-datum.value)) : "
    "datum.value), '.3~g') + ' %'"
)
MOST_POINTS = 2_000  # drawn; more would be neither seen nor quick
MOST_ROWS = 24  # of contrasts in their figure; the table has them all
BASELINE_SHAPE = "circle"
SHOWN = "indexof(shown, datum.group) >= 0"  # the groups that the page's chips leave on
PICKED = "picked == '' || datum.trial == picked"  # the trial that the reader looks at


@dataclass(frozen=True)
class Look:
    """Colour and shape of a group, the same in every figure."""

    group: str
    colour: str
    shape: str


def looks(analysis: Analysis) -> list[Look]:
    """One look per group, in the order of the report: the baseline grey, levels of an ordered factor as a ramp."""
    names = [name for name in analysis.groups["group"] if name != analysis.options.baseline]
    colours = _ramp(len(names)) if _ordered(analysis) else [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    # every round of colours begins one shape later, so that the ninth group is no twin of the first
    shapes = [SHAPES[(i + 1 + i // len(COLOURS)) % len(SHAPES)] for i in range(len(names))]
    found = [Look(*look) for look in zip(names, colours, shapes, strict=True)]
    has_baseline = len(names) < len(analysis.groups)
    return ([Look(analysis.options.baseline, BASELINE_COLOUR, BASELINE_SHAPE)] if has_baseline else []) + found


def trend(
    style: Sequence[Look], keys: Mapping[str, str], width: int | str = 640, legend: bool = True
) -> alt.LayerChart:
    """OOD against ID, labelled in per cent: points, the baseline line, its mean band (dark) and prediction band
    (light), each group's own line (thin), and the diagonal of no loss (dotted). `keys` maps safe field names of the
    points to the columns that a tooltip names; see `frame` for the data."""
    x = alt.X("x:Q", title="ID score", scale=_domain("x"), axis=_axis("x"))

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title="OOD score", scale=_domain("y"), axis=_axis("y"))

    base = alt.Chart(alt.NamedData("band"))
    layers: list[Any] = [
        base.mark_area(clip=True, color=BASELINE_COLOUR, opacity=opacity).encode(
            x, y(f"{kind}_low"), alt.Y2(f"{kind}_high:Q")
        )
        for kind, opacity in (("prediction", 0.14), ("mean", 0.32))
    ]
    layers.append(
        base.mark_line(clip=True, color=BASELINE_COLOUR, strokeWidth=2).encode(x, y("expected_ood"), order="x:Q")
    )
    diagonal = alt.Chart(alt.NamedData("diagonal"))
    layers.append(
        diagonal.mark_line(clip=True, color=BASELINE_COLOUR, strokeDash=[2, 4], strokeWidth=1).encode(x, y("y"))
    )
    colour = _colour(style, legend)
    own = alt.Chart(alt.NamedData("lines")).mark_line(clip=True, strokeWidth=1.2)
    layers.append(own.encode(x, y("y"), colour, opacity=_if(f"{SHOWN} && picked == ''", 0.8, 0.12)))
    path = alt.Chart(alt.NamedData("points")).transform_filter(f"picked != '' && datum.trial == picked && {SHOWN}")
    if "epoch" in keys.values():  # the way of the picked trial's fine-tunings
        safe = {column: field for field, column in keys.items()}
        detail = [f"{safe['finetune']}:N"] if "finetune" in safe else []
        layers.append(
            path.mark_line(strokeWidth=1.5, opacity=0.9).encode(
                x, y("y"), colour, detail=detail, order=alt.Order(f"{safe['epoch']}:Q")
            )
        )
    points = alt.Chart(alt.NamedData("points")).mark_point(filled=True, cursor="pointer").encode(
        x,
        y("y"),
        colour,
        shape=_shape(style, legend),
        size=_if(f"picked != '' && {PICKED}", 90, 46),
        opacity=_if(f"{SHOWN} && ({PICKED})", 0.8, 0, f"{SHOWN}", 0.15),
        tooltip=[
            *(alt.Tooltip(f"{field}:N", title=column) for field, column in keys.items()),
            alt.Tooltip("id:Q", format=".1%", title="ID"),
            alt.Tooltip("ood:Q", format=".1%", title="OOD"),
            alt.Tooltip("expected_ood:Q", format=".1%", title="expected OOD"),
            alt.Tooltip("er:Q", format="+.1f", title="ER, points"),
            alt.Tooltip("extrapolated:N", title="extrapolated"),
        ],
    )  # fmt: skip
    chart = alt.layer(*layers, points).properties(width=width, height=420)
    return chart.add_params(*_params("x_low", "x_high", "y_low", "y_high", "x_ticks", "y_ticks", "axes"), *_readers())


def by_group(style: Sequence[Look], margin: float, width: int | str = 640) -> alt.LayerChart:
    """Mean ER of every group with its 95 % interval over the single points; the shaded strip is the margin."""
    order = [look.group for look in style]
    y = alt.Y("group:N", sort=order, scale=alt.Scale(domain=order), title=None, axis=_names())
    colour, er = _colour(style, False), alt.X("er:Q", title="ER, points", axis=_points())
    single = alt.Chart(alt.NamedData("points")).transform_filter("!datum.extrapolated")
    single = single.mark_tick(thickness=1, size=12).encode(er, y, colour, opacity=_if(SHOWN, 0.35, 0))
    base = alt.Chart(alt.NamedData("groups"))
    whisker = base.transform_filter("isValid(datum.er_low)").mark_rule(strokeWidth=3)
    mean = base.transform_filter("isValid(datum.er)").mark_point(filled=True, size=110).encode(
        er,
        y,
        colour,
        shape=_shape(style, False),
        opacity=_if(SHOWN, 1, 0.1),
        tooltip=[
            alt.Tooltip("group:N"),
            alt.Tooltip("er:Q", format="+.2f", title="ER, points"),
            alt.Tooltip("er_low:Q", format="+.2f", title="low"),
            alt.Tooltip("er_high:Q", format="+.2f", title="high"),
            alt.Tooltip("n_trials:Q", title="trials"),
            alt.Tooltip("n_used:Q", title="points used"),
        ],
    )  # fmt: skip
    chart = alt.layer(
        *_strip(margin),
        single,
        whisker.encode(alt.X("er_low:Q"), y, colour, x2="er_high:Q", opacity=_if(SHOWN, 1, 0.1)),
        mean,
    )
    return chart.add_params(*_readers()).properties(width=width, height=alt.Step(38 if len(style) <= 20 else 18))


def along(style: Sequence[Look], width: int | str = 640, legend: bool = False) -> alt.LayerChart:
    """Mean ER by epoch of fine-tuning, one line per group with its 95 % interval: it can appear half-way and be gone at
    the end (Andreassen et al. 2021)."""
    x = alt.X("epoch:Q", title="epoch of fine-tuning", axis=alt.Axis(tickMinStep=1, grid=False))
    y, colour = alt.Y("er:Q", title="mean ER, points"), _colour(style, legend)
    base = alt.Chart(alt.NamedData("progress"))
    band = base.transform_filter("isValid(datum.er_low)").mark_area()
    band = band.encode(x, alt.Y("er_low:Q"), alt.Y2("er_high:Q"), colour, opacity=_if(SHOWN, 0.12, 0))
    lines = base.mark_line().encode(x, y, colour, opacity=_if(SHOWN, 1, 0.08))
    dots = base.mark_point(filled=True, size=50).encode(
        x, y, colour, shape=_shape(style, legend), opacity=_if(SHOWN, 1, 0.08),
        tooltip=[
            alt.Tooltip("group:N"),
            alt.Tooltip("epoch:Q"),
            alt.Tooltip("er:Q", format="+.2f", title="mean ER, points"),
            alt.Tooltip("er_low:Q", format="+.2f", title="low"),
            alt.Tooltip("er_high:Q", format="+.2f", title="high"),
            alt.Tooltip("id:Q", format=".1%", title="mean ID"),
            alt.Tooltip("ood:Q", format=".1%", title="mean OOD"),
            alt.Tooltip("points:Q"),
        ],
    )  # fmt: skip
    zero = alt.Chart(alt.InlineData([{"er": 0}])).mark_rule(color=BASELINE_COLOUR).encode(alt.Y("er:Q"))
    return alt.layer(zero, band, lines, dots).add_params(*_readers()).properties(width=width, height=260)


def forest(analysis: Analysis, width: int | str = 640, legend: bool = True) -> alt.LayerChart | None:
    """Every contrast with its 95 % interval, by what it shows; the shaded strip is the margin of no effect. None where
    there is nothing to compare."""
    rows = [row._asdict() for row in analysis.contrasts.itertuples(index=False) if np.isfinite(row.delta_er)]
    if analysis.refused or not rows:
        return None
    drawn = pd.DataFrame(
        {
            "row": i,
            "name": pair(r["a"], r["b"]),
            "state": STATES[state(r)],
            **{key: r[key] for key in ("delta_er", "low", "high", "p_adjusted")},
        }
        for i, r in enumerate(rows[:MOST_ROWS])
    )
    return _intervals(drawn, "delta_er", "difference, points of ER", analysis.options.margin, width, legend)


def factors(analysis: Analysis, width: int | str = 640) -> alt.LayerChart | None:
    """The slope of every factor with its 95 % interval; the shaded strip is the margin. None where there are none."""
    table = factor_table(analysis)
    if analysis.refused or table.empty:
        return None
    rows = table.to_dict("records")
    drawn = table.assign(
        row=range(len(table)),
        name=[row["label"] + PER[row["per"]] for row in rows],
        state=[STATES[state(row)] for row in rows],
    )
    return _intervals(drawn, "slope", "points of ER", analysis.options.margin, width, False)


def of_task(
    analysis: Analysis, views: Sequence[View], keys: Mapping[str, str], width: int | str, legend: bool
) -> dict[str, alt.LayerChart]:
    """Every figure of a task that has something to show, by name; those of scores want data (see `filled`)."""
    if analysis.points.empty:
        return {}
    style, with_er = looks(analysis), [view for view in views if not view.refused]
    known = {"trend": trend(style, keys, width, legend)}
    if with_er:
        known["groups"] = by_group(style, analysis.options.margin, width)
    if any(len(view.progress) for view in with_er):
        known["along"] = along(style, width, legend)
    rest = {"contrasts": forest(analysis, width, legend), "factors": factors(analysis, width)}
    return known | {name: chart for name, chart in rest.items() if chart is not None}


def frame(view: View) -> dict[str, Any]:
    """What a chart of scores needs of one view: `datasets` (band, lines, diagonal, groups, progress; the points come
    from `marks`) and `params` (the axes)."""
    scale, points = SCALES[view.scale], view.points
    x, y = _limits(points["x"]), _limits(points["y"])
    band = view.band.iloc[::2]
    drawn = pd.DataFrame({"x": scale.h(band["id"].to_numpy())} | {
        c: scale.h(band[c].to_numpy()) for c in band.columns if c != "id"}) if len(band) else band  # fmt: skip
    low, high = max(x[0], y[0]), min(x[1], y[1])
    diagonal = pd.DataFrame({"x": [low, high], "y": [low, high]} if low < high else {"x": [], "y": []})
    return {
        "datasets": {
            "band": _records(drawn.replace([np.inf, -np.inf], np.nan).dropna()),
            "lines": _records(view.lines),
            "diagonal": _records(diagonal),
            "groups": _records(view.groups),
            "progress": _records(view.progress),
        },
        "params": {
            "x_low": round(x[0], 4), "x_high": round(x[1], 4), "y_low": round(y[0], 4), "y_high": round(y[1], 4),
            "x_ticks": _ticks(scale, x), "y_ticks": _ticks(scale, y), "axes": view.scale,
        },
    }  # fmt: skip


def marks(points: pd.DataFrame, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """The points as a chart reads them, at most `MOST_POINTS`: `keys` maps safe field names to columns, because a
    dot or a bracket in a column's name would mean something to Vega."""
    chosen = points.iloc[:: thinning(len(points))]
    shown = chosen[["trial", "group", "x", "y", "id", "ood", "expected_ood", "er", "extrapolated"]].copy()
    for safe, key in keys.items():
        shown[safe] = chosen[key]
    return _records(shown)


def thinning(points: int) -> int:
    """Every how many points one is drawn, so that at most `MOST_POINTS` are."""
    return -(-points // MOST_POINTS) or 1


def filled(chart: alt.LayerChart, datasets: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The chart as Vega-Lite with these data and parameters, those that it knows; without Altair's own look."""
    spec = specification(chart)
    for param in spec.get("params", ()):
        param["value"] = params.get(param["name"], param.get("value"))
    return spec | {"datasets": {**spec.get("datasets", {}), **datasets}}


def specification(chart: alt.LayerChart) -> dict[str, Any]:
    """The chart as Vega-Lite, without Altair's own look: the page gives it one."""
    spec = chart.to_dict(validate=False)  # the schema check takes as long as the figure; a test does it
    spec.pop("config", None)
    return spec


def _intervals(
    rows: pd.DataFrame, value: str, title: str, margin: float, width: int | str, legend: bool
) -> alt.LayerChart:
    """Rows (row, name, value, low, high, p_adjusted, state) one under the other, by what they show."""
    # names enter as a list in an expression and not as the axis' domain: two of them may be the same text
    names = f"{json.dumps(list(rows['name']))}[datum.value]"
    label = alt.Axis(ticks=False, domain=False, grid=False, labelExpr=names)
    y, x = alt.Y("row:O", title=None, axis=label), alt.X(f"{value}:Q", title=title, axis=_points())
    kinds = [STATES[kind] for kind in STATES]
    colours, shapes = ([STATE_LOOKS[kind][i] for kind in STATES] for i in (0, 1))
    colour = alt.Color("state:N", legend=_legend(legend), scale=alt.Scale(domain=kinds, range=colours))
    shape = alt.Shape("state:N", legend=_legend(legend), scale=alt.Scale(domain=kinds, range=shapes))
    base = alt.Chart(alt.InlineData(_records(rows[["row", "name", "state", value, "low", "high", "p_adjusted"]])))
    whisker = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5)
    dot = base.mark_point(filled=True, size=90, opacity=1).encode(
        x, y, colour, shape,
        tooltip=[
            alt.Tooltip("name:N", title="of"),
            alt.Tooltip(f"{value}:Q", format="+.2f", title="points of ER"),
            alt.Tooltip("low:Q", format="+.2f"),
            alt.Tooltip("high:Q", format="+.2f"),
            alt.Tooltip("p_adjusted:Q", format=".3f", title="p (Holm)"),
            alt.Tooltip("state:N", title="shows"),
        ],
    )  # fmt: skip
    layers = (*_strip(margin), whisker.encode(alt.X("low:Q"), y, colour, x2="high:Q"), dot)
    return alt.layer(*layers).properties(width=width, height=alt.Step(26))


def _ordered(analysis: Analysis) -> bool:
    """Whether the groups are levels of numbers, low to high."""
    return any(factor.per == "tenfold" for factor in analysis.factors)


def _params(*names: str) -> list[alt.Parameter]:
    return [alt.param(name=name, value=[] if name.endswith("ticks") else 0) for name in names]


def _readers() -> list[alt.Parameter]:
    """What the reader of the page has chosen: the groups shown, and the trial looked at."""
    return [alt.param(name="shown", value=[]), alt.param(name="picked", value="")]


def _strip(margin: float) -> list[alt.Chart]:
    """The margin around 0, and 0."""
    strip = alt.Chart(alt.InlineData([{"low": -margin, "high": margin}])).mark_rect(color=BASELINE_COLOUR, opacity=0.14)
    zero = alt.Chart(alt.InlineData([{"zero": 0}])).mark_rule(color=BASELINE_COLOUR)
    return [strip.encode(alt.X("low:Q"), alt.X2("high:Q")), zero.encode(alt.X("zero:Q"))]


def _if(test: str, then: float, otherwise: float, second: str = "", between: float = 0) -> Any:
    """`then` where the test holds, `between` where only the second does, else `otherwise`."""
    conditions = [{"test": test, "value": then}, *([{"test": second, "value": between}] if second else [])]
    return {"condition": conditions, "value": otherwise}


def _limits(values: pd.Series) -> tuple[float, float]:
    if values.empty:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = max(0.05 * (high - low), 0.02)
    return low - room, high + room


def _domain(side: str) -> alt.Scale:
    low, high = alt.ExprRef(f"{side}_low"), alt.ExprRef(f"{side}_high")
    return alt.Scale(domainMin=low, domainMax=high, nice=False, zero=False)


def _axis(side: str) -> alt.Axis:
    return alt.Axis(values=alt.ExprRef(f"{side}_ticks"), labelExpr=LABEL, labelOverlap="greedy", labelSeparation=8)


def _ticks(scale: Scale, limits: tuple[float, float]) -> list[float]:
    """Round percentages that lie within the limits, on the axis; finer ones where the axis spans little."""
    low, high = (float(v) for v in scale.inverse(np.array(limits)))
    ticks: Any = [t for t in TICKS if low <= t <= high]
    if len(ticks) < 4:
        step = next((s for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1) if (high - low) / s <= 8), 0.1)
        ticks = [t for t in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step if 0 < t < 1]
    return [round(float(t), 5) for t in scale.h(np.array(ticks))] if len(ticks) else []


def _points() -> alt.Axis:
    """Percentage points from left to right: as many labels as stand apart."""
    return alt.Axis(tickCount=8, labelFlush=False, labelOverlap="greedy", labelSeparation=6)


def _names() -> alt.Axis:
    return alt.Axis(ticks=False, domain=False)


def _colour(style: Sequence[Look], legend: bool) -> alt.Color:
    domain, colours = [s.group for s in style], [s.colour for s in style]
    return alt.Color("group:N", scale=alt.Scale(domain=domain, range=colours), legend=_legend(legend))


def _shape(style: Sequence[Look], legend: bool) -> alt.Shape:
    domain, shapes = [s.group for s in style], [s.shape for s in style]
    return alt.Shape("group:N", scale=alt.Scale(domain=domain, range=shapes), legend=_legend(legend))


def _legend(shown: bool) -> alt.Legend | None:
    return alt.Legend(orient="top", title=None, columns=4, labelLimit=150) if shown else None


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON's own types, numbers to five digits after the point, NaN as None."""
    rounded = rows.copy()
    for column in rounded.select_dtypes("number"):
        rounded[column] = rounded[column].astype(float).round(5)
    return rounded.astype(object).where(rounded.notna(), None).to_dict("records")


def _ramp(count: int) -> list[str]:
    """That many colours along `RAMP`."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in RAMP], float)
    at = np.linspace(0, len(RAMP) - 1, count) if count > 1 else np.array([len(RAMP) - 1.0])
    mixed = np.column_stack([np.interp(at, np.arange(len(RAMP)), anchors[:, i]) for i in range(3)]).round().astype(int)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in mixed]
