"""`Study`: what an analysis has found, as tables, sentences and charts; in a notebook it shows itself.

Owns how results are handed to a caller in Python. Every number is that of the report, which `Study.write` writes.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import pandas as pd

from analysis.findings import STATES, Finding, findings
from analysis.input.table import Table, own_folder
from analysis.report import output
from analysis.stats import contrasts, raw_scores
from analysis.stats.study_tables import GROUPS
from analysis.study import Analysis
from analysis.verdict import verdict
from analysis.views import own_view
from ray_robust.errors import Problem, UserError, check_out, did_you_mean
from ray_robust.text.names import printable

if TYPE_CHECKING:
    import altair as alt


class Findings(Sequence[Finding]):
    """The sentences of a study, in the order of the report; printed one to a line."""

    def __init__(self, by_task: Mapping[str, Sequence[Finding]]) -> None:
        self.by_task = {task: tuple(own) for task, own in by_task.items()}
        self._all = tuple(finding for own in self.by_task.values() for finding in own)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        for task, own in self.by_task.items():
            if len(self.by_task) > 1:
                yield printable(f"task {task}")
            yield from (printable(finding.text) for finding in own)

    def _repr_html_(self) -> str:
        parts = []
        for task, own in self.by_task.items():
            if len(self.by_task) > 1:
                parts.append(f"<p>task {_escaped(task)}</p>")
            items = (f'<li title="{STATES[one.kind]}">{one.mark} {_escaped(one.text)}</li>' for one in own)
            parts.append(f'<ul style="list-style: none; padding-left: 0">{"".join(items)}</ul>')
        return "".join(parts)


class Tables(dict[str, pd.DataFrame]):
    """Tables by name. Raises KeyError, with the nearest name or all of them, for another."""

    def __missing__(self, name: str) -> pd.DataFrame:
        raise KeyError(f"no table {name!r}{did_you_mean(name, self) or '; known: ' + ', '.join(self)}")


class Study:
    """The analysis of a run, of several joined, or of a table.

    Tables have a row per group, contrast, ... of every task, with a column `task` where there are several; scores are
    fractions, effective robustness (`er`) is in percentage points, and columns are those of the CSV files of the report
    (docs/report.md). A study is made by `Run.analyse` and `analysis.analyse`.
    """

    def __init__(self, table: Table, analyses: Sequence[Analysis], target: str) -> None:
        self.table, self.analyses, self._target = table, tuple(analyses), target
        self._figures: dict[str, dict[str, dict[str, Any]]] = {}  # task -> figure -> Vega-Lite; made once

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of the report."""
        return [analysis.task for analysis in self.analyses]

    @property
    def groups(self) -> pd.DataFrame:
        """Mean ER of every group with its 95 % interval (`er`, `er_low`, `er_high`), and what it rests on."""
        return self._stacked(lambda analysis: analysis.groups, GROUPS)

    @property
    def contrasts(self) -> pd.DataFrame:
        """The difference in ER of every pair of groups, with intervals and tests."""
        columns = (*contrasts.COLUMNS, "survived", "not_robust_to")
        return self._stacked(lambda analysis: analysis.contrasts, columns)

    @property
    def scores(self) -> pd.DataFrame:
        """ID and OOD scores of every group as they are, whatever becomes of the line."""
        return self._stacked(lambda analysis: analysis.scores.groups, raw_scores.SCORES)

    @property
    def points(self) -> pd.DataFrame:
        """Every point with its expected OOD score and its ER."""
        keys = [key for key in self.table.keys if key != "task"]
        return self._stacked(lambda analysis: analysis.points, (*keys, *output.ROBUSTNESS))

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the report that has rows, by the name of its file without `.csv`, of the metric and scale that
        the verdict is about."""
        parts = [(analysis, [own_view(analysis)]) for analysis in self.analyses]
        files = output.csv_tables(self.table, parts, [analysis.line for analysis in self.analyses])
        return Tables({name.removesuffix(".csv"): rows for name, rows in files.items()})

    @cached_property
    def findings(self) -> Findings:
        """What follows from intervals and tests, a sentence each."""
        return Findings({analysis.task: findings(analysis) for analysis in self.analyses})

    @cached_property
    def verdict(self) -> dict[str, Any]:
        """The verdict as `verdict.json` has it (docs/verdict.md): the advice is in it."""
        made = verdict(self.analyses, self.table)
        return {"title": self.table.title, **made} if self.table.title else made

    @property
    def notes(self) -> list[str]:
        """What a reader should know of the data, a sentence each."""
        return list(dict.fromkeys(note for analysis in self.analyses for note in analysis.warnings))

    def chart(self, name: str = "trend", task: str | None = None) -> alt.TopLevelMixin:
        """Return a figure of the report as an Altair chart with its data in it: `trend` (OOD against ID), `groups`,
        `contrasts`, `factors`, ... (`charts` lists them). A notebook shows it; Altair's themes and
        `.configure_axis(...)` change its look, `.save("figure.pdf")` writes it, also as .svg, .png or .html.

        `task` is needed where there are several. Raises UserError where there is no such task or figure.
        """
        import altair as alt

        from analysis.interface.charts import LOOK

        made = self._specifications(self._of(task))
        if name not in made:
            hint = did_you_mean(name, made).partition("; known:")[0]  # all are named below
            what = "has nothing to show here" if name in FIGURES else f"is no figure{hint}"
            raise UserError(Problem("chart", f"{name!r} {what}; there are {', '.join(made) or 'none'}"))
        return alt.Chart.from_dict(made[name] | {"config": LOOK})

    def charts(self, task: str | None = None) -> list[str]:
        """Return the names of the figures of a task, the only one where `task` is None. Raises UserError."""
        return list(self._specifications(self._of(task)))

    def write(self, out: str | None = None, quiet: bool = True) -> str:
        """Write the report: page, tables, figures, verdict.json. Return the address of its page.

        out    the folder; None: the run's own `report`, or `NAME-analysis` here for a table; joined runs have none
        quiet  whether the summary is not printed

        Raises UserError for what names no folder, `analysis.writing.Unwritable` for one that cannot be written.
        """
        check_out("out", out)
        target = out or self._target
        if not target and self.table.runs:
            raise UserError("several runs are joined: say with out= where their report goes")
        if not target:
            target = own_folder(self.table.name)
            output.refuse_another(target, self.table.file)
        page, lost = output.write(target, self.table, self.analyses, self.verdict)
        if not quiet:
            from analysis.report.terminal import show

            show(self.table, self.analyses, page, lost, advice=output.advice_in(self.verdict))
        return page

    def _of(self, task: str | None) -> Analysis:
        if task is None and len(self.analyses) == 1:
            return self.analyses[0]
        for analysis in self.analyses:
            if analysis.task == task:
                return analysis
        what = "say which task: " if task is None else f"{task!r} is no task; there are "
        raise UserError(Problem("task", f"{what}{', '.join(self.tasks)}"))

    def _specifications(self, analysis: Analysis) -> dict[str, dict[str, Any]]:
        from analysis.interface.charts import specifications

        if analysis.task not in self._figures:
            self._figures[analysis.task] = specifications(analysis, self.table)
        return self._figures[analysis.task]

    def _stacked(self, of: Callable[[Analysis], pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
        several = len(self.analyses) > 1
        frames = [of(one).assign(task=one.task) if several else of(one) for one in self.analyses]
        filled = [frame for frame in frames if len(frame)] or frames[:1]
        wanted = [*columns, "task"] if several and "task" not in columns else list(columns)
        return pd.concat(filled, ignore_index=True).reindex(columns=wanted)

    def __repr__(self) -> str:
        return printable(f"Study of {self._name}: {sum(len(one.points) for one in self.analyses)} points, "
                         f"{len(self.groups)} groups")  # fmt: skip

    def __str__(self) -> str:
        return f"{self!r}\n{self.findings}"

    @property
    def _name(self) -> str:
        return self.table.title or self.table.name

    def _repr_html_(self) -> str:
        groups = self.groups[["group", "n_points", "n_trials", "er", "er_low", "er_high"]].round(2)
        shown = groups.map(lambda cell: printable(cell) if isinstance(cell, str) else cell)
        return (
            f"<h4>{_escaped(self._name)}</h4>{self.findings._repr_html_()}"
            f"{shown.to_html(index=False, na_rep='', border=0)}"
        )


FIGURES = ("trend", "groups", "along", "contrasts", "factors")  # that a study without ER lacks


def _escaped(text: str) -> str:
    return html.escape(printable(text))
