"""The verdict for a terminal: the fitted lines, mean ER by group as a small drawing, the findings, the warnings.

Owns nothing but the look; every number comes from `study.Analysis` and every sentence from `findings`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from analysis.decisions.best import WHAT, best_sentence
from analysis.decisions.declared import before
from analysis.decisions.looks import which
from analysis.findings import MARKS, Finding, capital, factor_findings, findings, marks_key
from analysis.formatting import interval, name, number, percent, signed
from analysis.input.table import Table
from analysis.learned.upstream import described, headline
from analysis.report.pasting import ORDER, paste_line
from analysis.report.score_tables import score_cells, score_names, why_wider
from analysis.report.tables import group_interval
from analysis.scores.sentences import ScoreSummary, summary
from analysis.shifts.sentences import shift_findings
from analysis.stats.agreement import ASSUMES, ESTIMATE
from analysis.study import Analysis
from ray_robust.run.seed_plan import plans_of
from ray_robust.text.console import console as screen

COLOURS = {
    "up": "green",
    "down": "red",
    "differs": "green",
    "equivalent": "blue",
    "fragile": "yellow",
    "open": "yellow",
}
DRAWING = 33  # characters; odd, so that there is a middle
NAME = 36
UPSTREAM_GROUPS = 6
EARLIER = 6  # findings of an earlier setting


def show(
    table: Table,
    analyses: Sequence[Analysis],
    page: str,
    lost: Sequence[str] = (),
    console: Console | None = None,
    advice: Sequence[Sequence[Mapping[str, Any]]] = (),
) -> None:
    """Print the summary of every task, the figures that were `lost`, then where the report is. `advice` is each task's,
    as in verdict.json."""
    if console is None:
        console = screen()
    if table.interim is not None:
        label = f"{table.interim.label}, {table.interim.date}"
        console.print(f"[bold yellow]{escape(label)}[/]", soft_wrap=True)
        for sentence in (table.interim.missing, table.interim.meaning):
            console.print(f"  {escape(sentence)}", soft_wrap=True)
    for analysis, own in zip(analyses, advice or [()] * len(analyses), strict=True):
        title = f"{table.title or table.name}: {len(analysis.points)} points, baseline {analysis.options.baseline}"
        console.print(f"[bold]{escape(title)}[/]" + (f"  task {escape(analysis.task)}" if len(analyses) > 1 else ""))
        if analysis.estimated is not None:
            console.print(f"[bold yellow]{ESTIMATE}[/]: {escape(analysis.estimated.sentence)}", soft_wrap=True)
            console.print(f"  {ASSUMES}", soft_wrap=True)
        sentences = summary(analysis)
        _show_answer(analysis, sentences, console)
        _show_advice(own, console)
        _show_scores(analysis, sentences, console)
        if len(analysis.trends):
            _print_grid(_lines(analysis), console)
        if not analysis.refused:
            _print_grid(_groups(analysis), console)
        for finding in findings(analysis):
            console.print(f" {_mark(finding)} {escape(finding.text)}", soft_wrap=True)
        console.print(f"  [dim]{escape(marks_key(analysis.options.margin))}[/]", soft_wrap=True)
        for measure in WHAT:
            if sentence := best_sentence(analysis, measure):
                console.print(f"   {escape(sentence)}", soft_wrap=True)
        if look := which(analysis):
            console.print(f"  [dim]{escape(look.replace('`', ''))}[/]", soft_wrap=True)
        for finding in shift_findings(analysis):
            console.print(f" {_mark(finding)} {escape(finding.text)}", soft_wrap=True)
        _show_earlier(analysis, console)
        if line := _upstream(analysis):
            console.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)
        for sentence in analysis.notes:
            console.print(f"  [yellow]note[/] {escape(' '.join(sentence.split()))}", soft_wrap=True)
        console.print(f"  [dim]{escape(analysis.target)}[/]", soft_wrap=True)
    for _, plan in plans_of(table.runs):
        for sentence in plan.sentences():
            console.print(f"  [dim]seeds: {escape(sentence)}[/]", soft_wrap=True)
    for sentence in lost:
        console.print(f"  [yellow]note[/] {escape(sentence)}", soft_wrap=True)
    console.print(f"report: {escape(page)}", soft_wrap=True)


def _show_earlier(analysis: Analysis, console: Console) -> None:
    """Print what settings give that were changed once there were scores; the notes say what was changed."""
    for one in before(analysis):
        console.print(f"  [yellow]changed[/] {escape(one.sentence)}. {escape(one.outcome)}", soft_wrap=True)
        for finding in one.findings[:EARLIER]:
            console.print(f"   {_mark(finding)} {escape(finding.text)}", soft_wrap=True)
        if more := len(one.findings[EARLIER:]):
            console.print(f"   and {more} more: declared.csv", soft_wrap=True)


def _show_answer(analysis: Analysis, sentences: ScoreSummary, console: Console) -> None:
    """Print the short answer: what whoever deploys a model gets."""
    if untested := headline(analysis.learned.upstream, analysis.interim is not None):
        console.print(f" {_coloured('open')} [bold]{escape(untested)}[/]", soft_wrap=True)
    if sentences.deployment is not None:
        console.print(f" {_mark(sentences.deployment)} [bold]{escape(sentences.deployment.text)}[/]", soft_wrap=True)
    for finding in factor_findings(analysis)[:1]:
        console.print(f" {_mark(finding)} [bold]At equal ID score. {escape(finding.text)}[/]", soft_wrap=True)


def _show_scores(analysis: Analysis, sentences: ScoreSummary, console: Console) -> None:
    """Print what has to be read with the answer, the raw scores, and what else they show."""
    if sentences.deployment is None:
        return
    for finding in sentences.lead:
        console.print(f" {_mark(finding)} {escape(finding.text)}", soft_wrap=True)
    if sentences.alone:
        console.print(f"   {escape(sentences.alone)}", soft_wrap=True)
    _print_grid(_scores(analysis), console)
    for why in why_wider(analysis):
        console.print(f"  {capital(why)}.", soft_wrap=True)
    for finding in sentences.findings:
        console.print(f" {_mark(finding)} {escape(finding.text)}", soft_wrap=True)


def _mark(finding: Finding) -> str:
    return _coloured(finding.look)


def _coloured(look: str) -> str:
    return f"[{COLOURS[look]}]{MARKS[look]}[/]"


def _show_advice(advice: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print what to do next, with what to paste and what it costs."""
    for number_, one in enumerate(advice, 1):
        title = " [bold]What to do[/] 1. " if number_ == 1 else f"            {number_}. "
        console.print(f"{title}[bold]{escape(one['action'])}[/]", soft_wrap=True)
        if one["cost"]:
            console.print(f"       cost: {escape(one['cost']['text'])}", soft_wrap=True)
        if one["yaml"]:
            console.print(f"       {escape(paste_line(one['yaml']))}", soft_wrap=True)
        for line in (one["yaml"] or "").splitlines():
            console.print(f"           [green]{escape(line)}[/]", soft_wrap=True)
        console.print(f"       why: {escape(one['evidence'])}", soft_wrap=True)
    if sum(bool(one["yaml"]) for one in advice) > 1:
        console.print(f"       [dim]{escape(ORDER)}[/]", soft_wrap=True)


def _upstream(analysis: Analysis) -> str:
    """Return upstream accuracy by group beside chance, "" where there is none."""
    rows = [row for row in analysis.learned.upstream.to_dict("records") if math.isfinite(row["accuracy"])]
    more = f"; {len(rows) - UPSTREAM_GROUPS} more: upstream.csv" if len(rows) > UPSTREAM_GROUPS else ""
    return f"upstream accuracy: {'; '.join(map(described, rows[:UPSTREAM_GROUPS]))}{more}" if rows else ""


def _scores(analysis: Analysis) -> Grid:
    names = score_names(analysis)
    rows = {group: score_cells(analysis, group) for group in names}
    grid = _grid("group", *("95 %" if column == "95 % interval" else column for column in rows[names[0]]))
    for group, cells in rows.items():
        grid.add_row(escape(name(group, NAME)), *cells.values())
    return grid


def _lines(analysis: Analysis) -> Grid:
    """The fitted lines, all scales; the chosen one is marked."""
    grid = _grid("line", "scale", "points", "slope", "95 %", "intercept", "R²", "ID range")
    for row in analysis.trends.itertuples():
        if row.group != analysis.options.baseline and row.scale != analysis.options.scale:
            continue  # the other groups' other scales are in trends.csv
        mark = " *" if row.scale == analysis.options.scale else ""
        grid.add_row(
            escape(name(row.group, NAME)), f"{row.scale}{mark}", str(row.n), number(row.slope),
            interval(row.slope_low, row.slope_high, 3), number(row.intercept), number(row.r2),
            f"{percent(row.id_min, 0)} to {percent(row.id_max, 0)}",
        )  # fmt: skip
    return grid


def _groups(analysis: Analysis) -> Grid:
    unit, baseline = analysis.options.unit, analysis.options.baseline
    rows = analysis.groups.to_dict("records")
    ends = [v for r in rows for v in (r["er"], r["er_low"], r["er_high"]) if math.isfinite(v)]
    reach = max([analysis.options.margin, *map(abs, ends)])
    grid = _grid("group", f"{unit}s", "points", "used", "ER, points", "95 %", f"−{reach:.0f} to +{reach:.0f} points")
    for row in rows:
        grid.add_row(
            escape(name(row["group"], NAME)), str(row["n_trials"]), str(row["n_points"]), str(row["n_used"]),
            signed(row["er"]), group_interval(row, baseline), _drawing(row["er"], row["er_low"], row["er_high"], reach),
        )  # fmt: skip
    return grid


def _drawing(value: float, low: float, high: float, reach: float) -> str:
    """The interval as a line of characters around a middle of 0, `reach` points to each side."""
    if not math.isfinite(value):
        return ""

    def place(points: float) -> int:
        return round((points / reach + 1) / 2 * (DRAWING - 1))

    cells = [" "] * DRAWING
    if math.isfinite(low):
        for i in range(place(max(low, -reach)), place(min(high, reach)) + 1):
            cells[i] = "─"
    cells[DRAWING // 2] = "┼" if cells[DRAWING // 2] == "─" else "│"
    cells[place(value)] = "●"
    return "".join(cells)


def _print_grid(grid: Grid, console: Console) -> None:
    """Print a table without the last columns for which a narrow terminal has no room: numbers are never cut."""
    unbounded = console.options.update(width=10_000)
    left_out: list[str] = []
    while len(grid.columns) > 2 and console.measure(grid, options=unbounded).maximum > console.width:
        left_out.insert(0, str(grid.columns.pop().header))
    console.print(grid)
    if left_out:
        console.print(f"  [dim]no room for {escape(', '.join(left_out))}[/]", soft_wrap=True)


def _grid(*columns: str) -> Grid:
    grid = Grid(box=None, pad_edge=True, header_style="dim")
    for i, column in enumerate(columns):
        left = i == 0 or column in ("scale", "95 %") or column.startswith("−")
        grid.add_column(column, justify="left" if left else "right", overflow="ellipsis", no_wrap=True)
    return grid
