"""Figures and tables for a paper: each figure as SVG, PDF and PNG on white, each table as LaTeX; no browser is needed.

Owns the names of the files under `export/`. The page draws the same charts, the CSVs hold the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from analysis.formatting import LOCALE
from analysis.line.line_checks import LineChecks
from analysis.report import chart_data, charts, latex, learned_charts, line_charts, score_charts, shift_charts
from analysis.report.figures import NotDrawn, draw
from analysis.report.palette import group_styles
from analysis.report.tables import ReportTable
from analysis.study import Analysis
from analysis.views import View, own_view

FOLDER = "export"
WIDTH = 640
ONE_COLUMN = {"trend": 400}  # figures for one column of a paper: 3.3 inches make their letters 6.5 points high
STYLE: dict[str, Any] = {
    "background": "white",
    "locale": LOCALE,
    "font": "Helvetica, Arial, Liberation Sans, sans-serif",
    "view": {"stroke": None},
    "axisY": {"labelLimit": 260},
    "axis": {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": 500, "titlePadding": 10, "gridOpacity": 0.6},
    "legend": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 400,
        "symbolOpacity": 1,
        "labelLimit": 200,
        "layout": {"bottom": {"direction": "vertical", "margin": 2}},
    },
}


def specifications(
    analysis: Analysis,
    view: View,
    line: LineChecks | None,
    keys: Mapping[str, str],
    points: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return figure -> Vega-Lite with its data, of one view and of the checks of its line, without a look. `keys` are
    the columns that a tooltip names (see `charts.trend`), `points` the marks, with these."""
    styles = group_styles(analysis)
    made = charts.of_task(analysis, [view], keys, WIDTH, legend=True)
    made |= {name: made[name].properties(width=width) for name, width in ONE_COLUMN.items() if name in made}
    made |= score_charts.of_scores(analysis, styles, WIDTH)
    if line is not None:
        made |= line_charts.of_line(line, analysis.points, styles, analysis.options.scale, WIDTH)
    made |= learned_charts.of_learned(analysis, styles, WIDTH)
    made |= shift_charts.of_shifts(analysis, styles, WIDTH, page=False)
    made = charts.marked(made, analysis)
    frame = chart_data.frame(view)
    params = frame["params"] | {"shown": [style.group for style in styles], "picked": ""}
    data = frame["datasets"] | {"points": points}
    return {name: charts.filled(chart, data, params) for name, chart in made.items()}


def figures(analysis: Analysis) -> dict[str, dict[str, Any]]:
    """Return figure -> Vega-Lite with its data, of the view that the verdict is about and of the checks of its line."""
    view = own_view(analysis)
    return specifications(analysis, view, analysis.line, {}, chart_data.marks(view.points))


Drawing = Mapping[str, Future[dict[str, bytes]]]  # figures that are being drawn, by name


def begin_drawing(figures: Mapping[str, Mapping[str, Any]], drawer: Executor) -> Drawing:
    """Have figures drawn, one by one, so that those that wait can be cancelled."""
    return {name: drawer.submit(draw, {**made, "config": STYLE}) for name, made in figures.items()}


def drawn_figures(drawing: Drawing) -> tuple[dict[str, dict[str, bytes]], dict[str, str]]:
    """Wait; return figure -> ending -> file, and why the missing figures could not be drawn, by name."""
    drawn, lost = {}, {}
    for name, one in drawing.items():
        try:
            drawn[name] = one.result()
        except NotDrawn as error:
            lost[name] = str(error)
    return drawn, lost


def files(
    analyses: Sequence[Analysis],
    drawn: Sequence[Mapping[str, Mapping[str, bytes]]],
    tables: Sequence[Mapping[str, ReportTable]],
) -> dict[str, bytes]:
    """Return file name -> contents, of all tasks; where there are several, each name has its task."""
    contents: dict[str, bytes] = {}
    for i, analysis in enumerate(analyses):
        of = "" if len(analyses) == 1 else f"-{i + 1}-{slug(analysis.task)}".rstrip("-")
        for name, endings in drawn[i].items():
            contents |= {f"{FOLDER}/{name}{of}.{ending}": content for ending, content in endings.items()}
        for name, own in tables[i].items():
            if own.rows:
                contents[f"{FOLDER}/{name}{of}.tex"] = latex.table(own, f"{name}{of}").encode()
    return contents


def slug(name: str) -> str:
    """Return a user's name as part of a file's: letters, digits and hyphens, 40 at most, perhaps none."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower(), flags=re.ASCII).strip("-")[:40]
