"""The figures of a study as Vega-Lite with their data in it, for a notebook.

They are the charts of the report; the points carry what a tooltip names, and the look is left to the reader's theme but
for what keeps long names apart.
"""

from __future__ import annotations

from typing import Any

from analysis.input.table import Table
from analysis.report import chart_data, export, page_data
from analysis.report.chart_data import records
from analysis.study import Analysis
from analysis.views import own_view

LOOK = {
    name: export.STYLE[name] for name in ("locale", "view", "axis", "axisY")
} | {  # background and font are the theme's
    "legend": {
        key: value for key, value in export.STYLE["legend"].items() if key != "layout"
    }  # Vega's, not Vega-Lite's
}


def specifications(analysis: Analysis, table: Table) -> dict[str, dict[str, Any]]:
    """Return figure -> Vega-Lite, of the metric and scale that the verdict is about."""
    view = own_view(analysis)
    keys = page_data.tooltip_columns(analysis, table) if len(analysis.points) else {}
    named = view.points.iloc[:: chart_data.thinning(len(view.points))][list(keys.values())]
    tooltips = records(named.set_axis(list(keys), axis=1))
    points = [{**mark, **own} for mark, own in zip(chart_data.marks(view.points), tooltips, strict=True)]
    return export.specifications(analysis, view, analysis.line, keys, points)
