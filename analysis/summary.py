"""The verdict for a terminal: the fitted lines, mean ER by group, the findings, the warnings.

Owns nothing but the look; every number comes from `study.Analysis` and every sentence from `verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from analysis.study import Analysis
from analysis.table import Table
from analysis.verdict import findings, group_span, signed


def show(table: Table, analyses: Sequence[Analysis], page: str, console: Console | None = None) -> None:
    """Print the summary of every task, then where the report is."""
    if console is None:
        wide = Console(highlight=False)
        console = wide if wide.is_terminal else Console(highlight=False, width=110)
    for analysis in analyses:
        title = f"{table.name}: {len(analysis.points)} points, baseline {analysis.options.baseline}"
        console.print(f"[bold]{escape(title)}[/]" + (f"  task {escape(analysis.task)}" if len(analyses) > 1 else ""))
        console.print(_lines(analysis))
        if not analysis.refused:
            console.print(_groups(analysis))
        for sentence in findings(analysis):
            console.print(f"  {escape(sentence)}", soft_wrap=True)
        for sentence in analysis.warnings:
            console.print(f"  [yellow]note[/] {escape(sentence)}", soft_wrap=True)
    console.print(f"report: {escape(page)}", soft_wrap=True)


def _lines(analysis: Analysis) -> Grid:
    """The fitted lines, all scales; the chosen one is marked."""
    grid = _grid("line", "scale", "points", "slope", "95 %", "intercept", "R²", "ID range")
    for row in analysis.trends.itertuples():
        if row.group != analysis.options.baseline and row.scale != analysis.options.scale:
            continue  # the other groups' other scales are in trends.csv
        mark = " *" if row.scale == analysis.options.scale else ""
        grid.add_row(
            escape(str(row.group)), f"{row.scale}{mark}", str(row.n), _number(row.slope),
            _pair(row.slope_low, row.slope_high), _number(row.intercept), _number(row.r2),
            f"{row.id_min:.0%} to {row.id_max:.0%}",
        )  # fmt: skip
    return grid


def _groups(analysis: Analysis) -> Grid:
    grid = _grid("group", f"{analysis.options.unit}s", "points", "used", "ER, points", "95 %")
    for row in analysis.groups.itertuples():
        grid.add_row(escape(str(row.group)), str(row.n_trials), str(row.n_points), str(row.n_used), signed(row.er),
                     group_span(row, analysis.options.baseline))  # fmt: skip
    return grid


def _grid(*columns: str) -> Grid:
    grid = Grid(box=None, pad_edge=True, header_style="dim")
    for i, name in enumerate(columns):
        grid.add_column(
            name, justify="left" if i == 0 or name in ("scale", "95 %") else "right", overflow="ellipsis", no_wrap=True
        )
    return grid


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _pair(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}" if math.isfinite(low) else "–"
