"""The page: one HTML file that opens offline, with the charts, the tables, the sample images and the provenance.

Owns what is shown and in which order. All text goes through Jinja's escaping, all data through `_json`; nothing that a
user named reaches the page as markup.
"""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.decisions.best import WHAT, best_sentence
from analysis.decisions.declared import before
from analysis.decisions.looks import which
from analysis.findings import STATES, Finding, capital, factor_findings, findings, marks_key
from analysis.formatting import listed, number
from analysis.input.table import Table
from analysis.learned.upstream import headline
from analysis.line.line_checks import QUESTIONS, LineChecks
from analysis.report import (
    chart_data,
    charts,
    learned_charts,
    line_charts,
    page_data,
    run_facts,
    score_charts,
    shift_charts,
)
from analysis.report.bundle import javascript
from analysis.report.captions import captions, glossary, point_name
from analysis.report.palette import STATE_STYLES, GroupStyle, group_styles
from analysis.report.pasting import ORDER, paste_line
from analysis.report.tables import CHECKS, ReportTable, plain
from analysis.scores.sentences import ScoreSummary, summary
from analysis.shifts.sentences import over_shifts, shift_findings
from analysis.stats.agreement import ASSUMES, ESTIMATE
from analysis.stats.check_words import holds
from analysis.study import Analysis
from analysis.views import View, metric_of
from ray_robust.files.storage import Storage
from ray_robust.metrics import label_of
from ray_robust.run.analysis_settings import LOOKS
from ray_robust.text.names import printable, printable_in

TEMPLATES = Path(__file__).parent / "template"
MOST_ANSWERS = 3  # tasks whose answer stands at the top
MOST_EARLIER = 12  # findings of an earlier setting
MOST_ROWS = 200  # of a table in the page; the CSV beside it has them all


@dataclass(frozen=True)
class Part:
    """One task with all that is made of it: its analysis, its views, its tables as text, the checks of its line, and
    what to do next as verdict.json has it."""

    analysis: Analysis
    views: Sequence[View]
    tables: Mapping[str, ReportTable]
    line: LineChecks | None = None
    advice: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Sections:
    """What takes time to make of a page: what the template needs of every task, and the charts with their data."""

    tasks: Sequence[dict[str, Any]]
    drawn: Mapping[str, Any]


def sections(table: Table, parts: Sequence[Part], target: Storage) -> Sections:
    """Return the sections of a page that goes to the folder `target`."""
    drawn: dict[str, Any] = {"tasks": [], "charts": {}}
    return Sections([_task(part, table, i, target, drawn) for i, part in enumerate(parts)], drawn)


def render(
    table: Table,
    parts: Sequence[Part],
    made: Sections,
    beside: Sequence[str],
    notes: Sequence[str] = (),
    within: str = "",
) -> str:
    """Return the whole page as HTML.

    made     the sections of these parts
    beside   names of the files that lie beside it
    notes    sentences that are shown with the warnings of the analyses
    within   the folder of the files, from the page's: "" where they lie beside it, else with a slash at its end
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, finalize=_text,
    )  # fmt: skip
    first, runs = parts[0].analysis, table.runs
    order = [name for part in parts for name in part.analysis.groups["group"]]
    questions = [str(run.spec().get("question") or "").strip() for run in runs]
    return environment.get_template("report.html").render(
        title=table.title or " ".join(dict.fromkeys(filter(None, questions))) or table.name,
        name=table.name,
        interim=table.interim,
        due=round(table.interim.due(time.process_time())) if table.interim is not None else 0,
        estimates=_estimates(parts),
        within=within,
        glossary=glossary(first),
        counted=_counted(table, first.options.unit),
        question=_question(parts),
        unit=first.options.unit,
        targets=list(dict.fromkeys(part.analysis.target for part in parts)),
        tasks=made.tasks,
        warnings=list(dict.fromkeys([w for part in parts for w in _warnings(part.analysis)] + [*notes])),
        left_out=plain("Left out", "Left out of every mean and line", table.left_out[["trial", "group", "reason"]]),
        samples=run_facts.samples(runs),
        seed_plans=run_facts.seed_plans(runs),
        composition=run_facts.compositions(runs, order) if runs else None,
        provenance=run_facts.provenance(runs),
        beside=beside,
        most_rows=MOST_ROWS,
        data=_json(made.drawn),
        javascript=Markup(javascript()),
        stylesheet=Markup((TEMPLATES / "report.css").read_text("utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text("utf-8")),
        shape=_symbol,
        coded=_coded,
        paste_line=paste_line,
        unbroken=_unbroken,
        most_answers=MOST_ANSWERS,
        most_earlier=MOST_EARLIER,
        states=[(GroupStyle("", *STATE_STYLES[kind]), word) for kind, word in STATES.items()],
        number=number,
    )


def _estimates(parts: Sequence[Part]) -> list[tuple[str, str, str]]:
    """Of every task whose OOD scores are estimates: what it is marked with, what they rest on, what they assume."""
    several = len(parts) > 1
    return [
        (f"{ESTIMATE}{f' ({one.task})' if several else ''}", capital(one.estimated.sentence), ASSUMES)
        for one in (part.analysis for part in parts)
        if one.estimated is not None
    ]


def _warnings(analysis: Analysis) -> list[str]:
    """The warnings, but for those that stand below the table of scores."""
    return [warning for warning in analysis.notes if warning not in analysis.scores.choice.notes]


def _counted(table: Table, unit: str) -> str:
    """How much was looked at, in words."""
    trials, points, failed = table.points["trial"].nunique(), len(table.points), len(table.left_out)
    head = f"{trials} {unit}s, {points} points" if trials < points else f"{points} points"
    return head + (f", {failed} failed or without scores" if failed else "")


def _question(parts: Sequence[Part]) -> list[tuple[str, str]]:
    """What was asked, and what was decided before looking."""
    first = parts[0].analysis
    options, points = first.options, first.points
    models = list(dict.fromkeys(points["model"].dropna().astype(str))) if "model" in points else []
    entries = [
        ("Task", listed([part.analysis.task for part in parts]) if parts[0].analysis.task != "task" else ""),
        ("Metric", label_of(metric_of(first))),
        ("Model", listed(models) if len(models) <= 3 else f"{len(models)} models"),
        ("Groups compared", str(max(len(first.groups) - 1, 0))),
        ("Baseline", options.baseline),
        ("Axes", options.scale),
        ("No effect means within", f"±{options.margin:g} points"),
        ("Floor of the baseline's R²", f"{options.min_r2:g}"),
        ("ER is of", LOOKS[first.looks.used] if first.looks.several else ""),
        ("Declared", first.declared.text if first.declared else ""),
    ]
    return [(key, text) for key, text in entries if text]


def _task(part: Part, table: Table, index: int, target: Storage, drawn: dict[str, Any]) -> dict[str, Any]:
    """What the template needs for one task; what the script needs of it is added to `drawn`."""
    analysis, views = part.analysis, part.views
    keys = page_data.tooltip_columns(analysis, table)
    styles = group_styles(analysis)
    figures = charts.of_task(analysis, views, keys, "container", legend=False)
    figures |= score_charts.of_scores(analysis, styles, "container")
    if part.line is not None:
        figures |= line_charts.of_line(part.line, analysis.points, styles, analysis.options.scale, "container")
    figures |= learned_charts.of_learned(analysis, styles, "container")
    figures |= shift_charts.of_shifts(analysis, styles, "container", page=True)
    figures = charts.marked(figures, analysis)
    drawn["tasks"].append(page_data.figure_data(analysis, views, table, target))
    for name, chart in figures.items():
        drawn["charts"][f"{name}-{index}"] = {"task": index, "spec": charts.specification(chart)}
    chosen = analysis.trends.loc[analysis.trends["scale"] == analysis.options.scale]
    counts = analysis.groups.set_index("group")["n_points"]
    count, step = len(analysis.points), chart_data.thinning(len(analysis.points))
    return {
        "name": analysis.task,
        "number": index,
        "options": analysis.options,
        "metric": metric_of(analysis),
        "label": label_of(metric_of(analysis)),
        "metrics": {name: label_of(name) for name in drawn["tasks"][-1]["views"]},
        "scales": list(drawn["tasks"][-1]["views"][metric_of(analysis)]),
        "trials": _trials(analysis, table, step),
        "untested": headline(analysis.learned.upstream, analysis.interim is not None),
        "marks": marks_key(analysis.options.margin),
        "order": ORDER if sum(bool(one["yaml"]) for one in part.advice) > 1 else "",
        "no_robustness": analysis.refused or analysis.baseline is None,
        "scores": _sentences(summary(analysis), index, analysis.options.unit),
        "advice": part.advice,
        "findings": [_located(finding, index, analysis.options.unit) for finding in findings(analysis)],
        "trend": [_located(one, index, analysis.options.unit) for one in factor_findings(analysis)[:1]],
        "earlier": before(analysis),
        "look": which(analysis),
        "best": {measure: best_sentence(analysis, measure) for measure in WHAT},
        "figures": figures,
        "captions": captions(analysis),
        "styles": [(style, int(counts[style.group])) for style in styles],
        "line": analysis.baseline.line if analysis.baseline else None,
        "fitted": analysis.baseline is not None,
        "tables": part.tables,
        "compared": analysis.learned.compared,
        "learned_notes": analysis.learned.notes,
        "shifts": _shifts(analysis, index),
        "checks": CHECKS,
        "verdicts": [(QUESTIONS[one.check], one.state, f"{capital(one.text)}.") for one in part.line.verdicts]
        if part.line
        else [],
        "duplicates": run_facts.duplicates(table.runs, analysis.task, first=index == 0),
        "hidden": run_facts.hidden(table.runs, analysis.task, analysis.hidden),
        "contrasts_drawn": charts.MOST_ROWS,
        "clipped": int(chosen["clipped"].sum()),
        "extrapolated": int(analysis.points["extrapolated"].sum()),
        "points": count,
        "drawn": -(-count // step),
    }


def _shifts(analysis: Analysis, index: int) -> dict[str, Any]:
    """What the section of a task's shifts needs beside its figures and tables."""
    names = [one.name for one in analysis.shifts.results]
    return {
        "names": names[: shift_charts.MOST_SHIFTS],
        "more": len(names[shift_charts.MOST_SHIFTS :]),
        "compared": over_shifts(analysis),
        "findings": [_located(finding, index, analysis.options.unit) for finding in shift_findings(analysis)],
        "point": point_name(analysis),
    }


def _trials(analysis: Analysis, table: Table, step: int) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every trial with a point in the figure, by group: its name, and what it is called in the list. A row of a table
    goes by its first column, if it has one."""
    points = analysis.points.iloc[::step].drop_duplicates("trial")
    names = [key for key in table.keys if key not in ("trial", "group")]
    single = not table.runs and len(names) and points["trial"].nunique() == len(analysis.points.iloc[::step])
    label = points[names[0]].astype(str) + " (" + points["trial"] + ")" if single else points["trial"]
    return [
        (str(group), list(zip(own["trial"], own["label"], strict=True)))
        for group, own in points.assign(label=label).groupby("group", sort=False)
    ]


def _sentences(sentences: ScoreSummary, task: int, unit: str) -> dict[str, Any]:
    """The sentences on raw scores, each finding with the link to its row."""
    first = sentences.deployment
    return {
        "deployment": None if first is None else _located(first, task, unit),
        "robustness": sentences.alone,
        "findings": [_located(finding, task, unit) for finding in sentences.findings],
        "lead": [_located(finding, task, unit) for finding in sentences.lead],
    }


def _located(finding: Finding, task: int, unit: str) -> dict[str, Any]:
    derived = {"look": finding.look, "mark": finding.mark, "survived": holds(finding.survived, unit)}
    return asdict(finding) | _place(finding, task) | derived


def _place(finding: Finding, task: int) -> dict[str, Any]:
    """Where in the page the row is that a finding rests on, and the text of the link to it."""
    row = "" if finding.index is None else f", row {finding.index + 1}"
    shown = finding.index is not None and finding.index < MOST_ROWS
    return {"place": f"{finding.table}-row-{task}-{finding.index}" if shown else "", "source": f"{finding.table}{row}"}


def _symbol(style: GroupStyle) -> Markup:
    """The group's mark as a small inline picture, so that the legend shows shape as well as colour."""
    triangle = "M6 1 L11 10.5 L1 10.5 Z"
    turn = {"triangle-up": 0, "triangle-right": 90, "triangle-down": 180, "triangle-left": 270}
    paths = {
        "circle": "M6 1a5 5 0 1 0 .01 0Z",
        "square": "M1.5 1.5h9v9h-9Z",
        "diamond": "M6 .5 L11 6 L6 11.5 L1 6 Z",
        "cross": "M4 1h4v3h3v4h-3v3h-4v-3h-3v-4h3Z",
    }
    path, angle = paths.get(style.shape, triangle), turn.get(style.shape, 0)
    return Markup(
        f'<svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"><path d="{path}" '
        f'fill="{html.escape(style.colour)}" transform="rotate({angle} 6 6)"/></svg>'
    )


def _coded(text: str) -> Markup:
    """A sentence in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(printable(text))))


def _unbroken(text: str) -> str:
    """A title in which a line does not end within a name such as `Caltech-101`."""
    return re.sub(r"(?<=\w)-(?=\d)", "\u2011", text)


def _text(value: Any) -> Any:
    """What the template writes: names cleaned, as `_json` has them; what is markup already stays."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _json(value: Any) -> Markup:
    """JSON that cannot close the element it stands in: every <, > and & is written as its code."""
    text = json.dumps(printable_in(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
