"""The figures, as Altair charts: ID against OOD with the baseline's bands, ER by group and by epoch, intervals.

A chart of scores holds no data: `chart_data` makes that of one view (a metric on a scale), `filled` puts it in. So one
chart serves every view of the page, and the exported figures are the same charts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.findings import PER, STATES, two_levels
from analysis.formatting import LOCALE, pair
from analysis.report.captions import trend_key
from analysis.report.chart_data import inline
from analysis.report.palette import BASELINE_COLOUR, STATE_STYLES, GroupStyle, group_styles
from analysis.stats.contrasts import state
from analysis.study import Analysis
from analysis.views import View

Layers = alt.LayerChart | alt.FacetChart  # what `alt.layer` makes
LABEL = (
    "format(100 * (axes == 'probit' ? cumulativeNormal(datum.value) : axes == 'logit' ? 1 / (1 + exp(-datum.value)) : "
    "datum.value), '.3~g') + ' %'"
)
PERCENT = "format(100 * datum.value, '.3~g') + ' %'"  # of an axis of fractions
TREND_COLUMNS = 2  # of the legend of groups: the exported figure is one column wide
MOST_ROWS = 24  # of contrasts in their figure; the table has them all
TREND_WORDS = {  # the legend of bands and lines: mark -> text; `captions.trend_key` has that of one analysis
    "point": "one mark: one point",
    "line": "line of the baseline",
    "mean": "95 % interval of that line",
    "prediction": "95 % prediction: one more of its points",
    "diagonal": "OOD = ID: no loss under shift",
}
LABEL_LENGTH, LABEL_WIDTH = 18, 150  # characters in one line; pixels
BEYOND = alt.Scale(padding=24)  # pixels beyond what is drawn, so that the end of the margin is seen
SHOWN = "indexof(shown, datum.group) >= 0"  # the groups that the page's chips leave on
PICKED = "picked == '' || datum.trial == picked"  # the trial that the reader looks at


def marked(figures: Mapping[str, Any], analysis: Analysis) -> dict[str, Any]:
    """Return charts by name, those of an analysis that is interim or of estimates with its mark as their title."""
    if not analysis.mark:
        return dict(figures)
    title = ", ".join([analysis.mark, *([analysis.interim.date] if analysis.interim is not None else [])])
    return {name: chart.properties(title=title) for name, chart in figures.items()}


def trend(
    styles: Sequence[GroupStyle],
    keys: Mapping[str, str],
    width: int | str = 640,
    legend: bool = True,
    words: Mapping[str, str] = TREND_WORDS,
) -> Layers:
    """Return the chart of OOD against ID, labelled in per cent: points, the baseline line, its mean band (dark) and
    prediction band (light), each group's own line (thin), and the diagonal of no loss (dotted), with a legend of these.
    `keys` maps safe field names of the points to the columns that a tooltip names; see `chart_data.frame` for the data.
    """
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
    dotted = alt.Chart(alt.NamedData("diagonal")).mark_line(clip=True, strokeDash=[2, 4], strokeWidth=1)
    layers += [dotted.encode(x, y("y"), color=alt.value(BASELINE_COLOUR)), *_key(words)]
    key = {"columns": TREND_COLUMNS, "title": words["point"]}
    colour = _colour(styles, legend, **key)
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
        shape=_shape(styles, legend, **key),
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


def by_group(styles: Sequence[GroupStyle], margin: float, width: int | str = 640, units: str = "trials") -> Layers:
    """Return the chart of mean ER of every group with its 95 % interval over the single points; the shaded strip is the
    margin, `units` what a group has several of."""
    order = [style.group for style in styles]
    y = alt.Y("group:N", sort=order, scale=alt.Scale(domain=order), title=None, axis=name_axis(order))
    colour, er = _colour(styles, False), alt.X("er:Q", title="ER, points", axis=_points(), scale=BEYOND)
    single = alt.Chart(alt.NamedData("points")).transform_filter("!datum.extrapolated")
    single = single.mark_tick(thickness=1, size=12).encode(er, y, colour, opacity=_if(SHOWN, 0.35, 0))
    base = alt.Chart(alt.NamedData("groups"))
    whisker = base.transform_filter("isValid(datum.er_low)").mark_rule(strokeWidth=3)
    mean = base.transform_filter("isValid(datum.er)").mark_point(filled=True, size=110).encode(
        er,
        y,
        colour,
        shape=_shape(styles, False),
        opacity=_if(SHOWN, 1, 0.1),
        tooltip=[
            alt.Tooltip("group:N"),
            alt.Tooltip("er:Q", format="+.2f", title="ER, points"),
            alt.Tooltip("er_low:Q", format="+.2f", title="low"),
            alt.Tooltip("er_high:Q", format="+.2f", title="high"),
            alt.Tooltip("n_trials:Q", title=units),
            alt.Tooltip("n_used:Q", title="points used"),
        ],
    )  # fmt: skip
    chart = alt.layer(
        *_strip(margin),
        single,
        whisker.encode(alt.X("er_low:Q"), y, colour, x2="er_high:Q", opacity=_if(SHOWN, 1, 0.1)),
        mean,
    )
    return chart.add_params(*_readers()).properties(width=width, height=alt.Step(38 if len(styles) <= 20 else 18))


def along(styles: Sequence[GroupStyle], width: int | str = 640, legend: bool = False) -> Layers:
    """Return the chart of mean ER by epoch of fine-tuning, one line per group with its 95 % interval: it can appear
    half-way and be gone at the end (Andreassen et al. 2021)."""
    x = alt.X("epoch:Q", title="epoch of fine-tuning", axis=alt.Axis(tickMinStep=1, grid=False))
    y, colour = alt.Y("er:Q", title="mean ER, points"), _colour(styles, legend)
    base = alt.Chart(alt.NamedData("progress"))
    band = base.transform_filter("isValid(datum.er_low)").mark_area()
    band = band.encode(x, alt.Y("er_low:Q"), alt.Y2("er_high:Q"), colour, opacity=_if(SHOWN, 0.12, 0))
    lines = base.mark_line().encode(x, y, colour, opacity=_if(SHOWN, 1, 0.08))
    dots = base.mark_point(filled=True, size=50).encode(
        x, y, colour, shape=_shape(styles, legend), opacity=_if(SHOWN, 1, 0.08),
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


def forest(analysis: Analysis, width: int | str = 640, legend: bool = True) -> Layers | None:
    """Return the chart of every contrast with its 95 % interval, by what it shows; the shaded strip is the margin of no
    effect. None where there is nothing to compare."""
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


def factors(analysis: Analysis, width: int | str = 640) -> Layers | None:
    """Return the chart of the slope of every factor with its 95 % interval; the shaded strip is the margin. None where
    there are none, but for those that are a contrast."""
    table = analysis.factor_table
    if analysis.refused or table.empty:
        return None
    table = table.loc[[two_levels(analysis, row) is None for row in table.to_dict("records")]].reset_index(drop=True)
    if table.empty:
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
) -> dict[str, Layers]:
    """Return every figure of a task that has something to show, by name; those of scores want data (see `filled`)."""
    if analysis.points.empty:
        return {}
    styles, with_er = group_styles(analysis), [view for view in views if not view.refused]
    figures = {"trend": trend(styles, keys, width, legend, trend_key(analysis))}
    if with_er:
        figures["groups"] = by_group(styles, analysis.options.margin, width, f"{analysis.options.unit}s")
    if any(len(view.progress) for view in with_er):
        figures["along"] = along(styles, width, legend)
    rest = {"contrasts": forest(analysis, width, legend), "factors": factors(analysis, width)}
    return figures | {name: chart for name, chart in rest.items() if chart is not None}


def filled(chart: Layers, datasets: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart as Vega-Lite with these data and parameters, those that it knows; without Altair's own look."""
    spec = specification(chart)
    for param in spec.get("params", ()):
        param["value"] = params.get(param["name"], param.get("value"))
    return spec | {"datasets": {**spec.get("datasets", {}), **datasets}}


def specification(chart: Layers) -> dict[str, Any]:
    """Return the chart as Vega-Lite, without Altair's own look, the page gives it one, but with numbers as in text."""
    spec = chart.to_dict(validate=False)  # the schema check takes as long as the figure; a test does it
    return spec | {"config": {"locale": LOCALE}}


def _intervals(rows: pd.DataFrame, value: str, title: str, margin: float, width: int | str, legend: bool) -> Layers:
    """Rows (row, name, value, low, high, p_adjusted, state) one under the other, by what they show."""
    # names enter as a list in an expression and not as the axis' domain: two of them may be the same text
    names = f"{json.dumps([broken(one) for one in rows['name']])}[datum.value]"
    label = alt.Axis(ticks=False, domain=False, grid=False, labelExpr=names, labelLimit=LABEL_WIDTH)
    y, x = alt.Y("row:O", title=None, axis=label), alt.X(f"{value}:Q", title=title, axis=_points(), scale=BEYOND)
    kinds = [STATES[kind] for kind in STATES]
    colours, shapes = ([STATE_STYLES[kind][i] for kind in STATES] for i in (0, 1))
    colour = alt.Color("state:N", legend=_legend(legend), scale=alt.Scale(domain=kinds, range=colours))
    shape = alt.Shape("state:N", legend=_legend(legend), scale=alt.Scale(domain=kinds, range=shapes))
    base = alt.Chart(inline(rows[["row", "name", "state", value, "low", "high", "p_adjusted"]]))
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
    return alt.layer(*layers).properties(width=width, height=alt.Step(34 if any(map(_long, rows["name"])) else 26))


def _key(words: Mapping[str, str]) -> list[alt.Chart]:
    """The legend of bands and lines: marks without size, whose scales have it drawn under the figure."""
    bands, lines = [words["mean"], words["prediction"]], [words["line"], words["diagonal"]]

    def rows(texts: Sequence[str]) -> alt.Chart:
        return alt.Chart(alt.InlineData([{"what": text} for text in texts]))

    look: dict[str, Any] = {
        "orient": "bottom",
        "title": None,
        "direction": "vertical",
        "labelLimit": 330,
        "offset": 6,
        "rowPadding": 1,
    }
    shade = alt.Legend(symbolType="square", symbolFillColor=BASELINE_COLOUR, symbolStrokeColor=BASELINE_COLOUR,
                       symbolSize=150, symbolStrokeWidth=0, **look)  # fmt: skip
    dash = alt.Legend(
        symbolType="stroke", symbolStrokeColor=BASELINE_COLOUR, symbolSize=300, symbolStrokeWidth=2, **look
    )
    area = (
        rows(bands)
        .mark_point(size=0, filled=True, color=BASELINE_COLOUR)
        .encode(opacity=alt.Opacity("what:N", legend=shade, scale=alt.Scale(domain=bands, range=[0.46, 0.16])))
    )
    stroke = (
        rows(lines)
        .mark_rule(size=0)
        .encode(strokeDash=alt.StrokeDash("what:N", legend=dash, scale=alt.Scale(domain=lines, range=[[1, 0], [2, 4]])))
    )
    return [stroke, area]


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


def _domain(side: str) -> alt.Scale:
    low, high = alt.ExprRef(f"{side}_low"), alt.ExprRef(f"{side}_high")
    return alt.Scale(domainMin=low, domainMax=high, nice=False, zero=False)


def _axis(side: str) -> alt.Axis:
    return alt.Axis(values=alt.ExprRef(f"{side}_ticks"), labelExpr=LABEL, labelOverlap="greedy", labelSeparation=8)


def _points() -> alt.Axis:
    """Percentage points from left to right: as many labels as stand apart."""
    return alt.Axis(tickCount=8, labelFlush=False, labelOverlap="greedy", labelSeparation=6)


def name_axis(names: Sequence[str]) -> alt.Axis:
    """Return the axis of names of groups, long ones in two lines, so that a narrow screen shows them whole."""
    lines = {one: broken(one) for one in names if _long(one)}
    if not lines:
        return alt.Axis(ticks=False, domain=False)
    label = f"{json.dumps(lines)}[datum.value] || datum.label"
    return alt.Axis(ticks=False, domain=False, labelExpr=label, labelLimit=LABEL_WIDTH)


def _long(name: str) -> bool:
    return len(name) > LABEL_LENGTH


def broken(name: str) -> list[str] | str:
    """Return a long name as two lines, broken where that leaves them about equally long."""
    if not _long(name):
        return name
    if " − " in name:
        first, second = name.split(" − ", 1)
        return [first, f"− {second}"]
    ends = [i for i, one in enumerate(name) if one in " ,;/=+·" and 0 < i < len(name) - 1]
    if not ends:
        return name
    at = min(ends, key=lambda i: abs(i + 1 - len(name) / 2)) + 1
    return [name[:at].strip(), name[at:].strip()]


def _colour(styles: Sequence[GroupStyle], legend: bool, **key: Any) -> alt.Color:
    domain, colours = [s.group for s in styles], [s.colour for s in styles]
    return alt.Color("group:N", scale=alt.Scale(domain=domain, range=colours), legend=_legend(legend, **key))


def _shape(styles: Sequence[GroupStyle], legend: bool, **key: Any) -> alt.Shape:
    domain, shapes = [s.group for s in styles], [s.shape for s in styles]
    return alt.Shape("group:N", scale=alt.Scale(domain=domain, range=shapes), legend=_legend(legend, **key))


def _legend(shown: bool, columns: int = 4, title: str | None = None) -> alt.Legend | None:
    return alt.Legend(orient="top", title=title, titleLimit=360, columns=columns, labelLimit=150) if shown else None
