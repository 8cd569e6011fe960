"""The files of a report: the contract's tables, verdict.json, the figures and the page.

Owns file names and column orders. The target is any folder that the run folder's storage reads, local or remote.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import duplicates, findings
from analysis.decisions import declared
from analysis.input.run_agreement import ESTIMATED
from analysis.input.table import LEFT_OUT, Table
from analysis.line.line_checks import LineChecks
from analysis.report import learned_tables, line_tables, shift_tables, subset_tables
from analysis.report.best_tables import of_best
from analysis.report.declared_tables import of_declared
from analysis.report.look_tables import of_looks
from analysis.report.score_tables import score_tables
from analysis.report.tables import report_tables
from analysis.stats import ancova, best_set, contrasts, influence, looks, raw_scores, score_differences, sensitivity
from analysis.stats.factors import FACTOR_TABLE, LEVELS
from analysis.stats.study_tables import ERRORS, GROUPS, ID_SETS, PROGRESS, TRENDS
from analysis.study import Analysis
from analysis.subsets import hidden
from analysis.views import View, views
from analysis.writing import put
from ray_robust import __version__
from ray_robust.errors import Problem, UserError
from ray_robust.files.storage import Storage, encoded
from ray_robust.run.checksums import checksum, seal, unseal
from ray_robust.text import safe_csv

if TYPE_CHECKING:
    from analysis.report.page import Part

ROBUSTNESS = ("id", "ood", "expected_ood", "er", "er_low", "er_high", "extrapolated")
BAND = ("id", "expected_ood", "mean_low", "mean_high", "prediction_low", "prediction_high")
VIEWS = ("metric", "scale", "chosen", "group", "n_used", "er", "er_low", "er_high", "extrapolated", "baseline_r2")
ALWAYS = ("trends", "robustness", "contrasts")  # of the contract: written even when they are empty
INTERIM = "interim"  # the folder of the files of a page that is written while a sweep runs
PROVENANCE = "provenance.json"  # how the report was made, and the checksums of its files
FIGURE = "trend"  # the first task's lies beside the page, all of them in export/


def csv_tables(
    table: Table, parts: Sequence[tuple[Analysis, Sequence[View]]], lines: Sequence[LineChecks | None] = ()
) -> dict[str, pd.DataFrame]:
    """Return file name -> table; `lines` are the checks of each part's line. Several tasks stand one after the other,
    with a `task` column at the end."""
    columns: dict[str, tuple[str, ...]] = {
        "scores": raw_scores.SCORES,
        "score_differences": score_differences.COLUMNS,
        "score_factors": raw_scores.FACTORS,
        "score_levels": raw_scores.LEVELS,
        "trends": TRENDS,
        "robustness": (*table.keys, *ROBUSTNESS),
        "contrasts": (*contrasts.COLUMNS, "survived", "not_robust_to"),
        "equivalence": findings.EQUIVALENCE,
        "groups": GROUPS,
        "factors": FACTOR_TABLE,
        "levels": LEVELS,
        "survival": sensitivity.COLUMNS,
        "slopes": ancova.COLUMNS,
        "at_id": ancova.AT_ID,
        "trend_line": BAND,
        "progress": PROGRESS,
        "id_sets": ID_SETS,
        "errors": ERRORS,
        "influence": influence.INFLUENCE,
        "selection": influence.SELECTION,
        "views": VIEWS,
        "duplicates": duplicates.COLUMNS,
        "reversed_images": hidden.IMAGES,
        "left_out": LEFT_OUT,
        **line_tables.FILES,
        **learned_tables.FILES,
        **shift_tables.FILES,
        **declared.FILES,
        "looks": looks.COLUMNS,
        "best": best_set.COLUMNS,
        "shift_robustness": ("shift", *table.keys, *ROBUSTNESS),
    }
    checked = [line_tables.tables(line) for line in lines or [None] * len(parts)]
    made = [_of_task(analysis, own_views) | own for (analysis, own_views), own in zip(parts, checked, strict=True)]
    several, files = len(parts) > 1, {}
    for name, wanted in columns.items():
        own = [rows[name] for rows in made]
        if any(ESTIMATED in rows and rows[ESTIMATED].notna().any() for rows in own):
            wanted = (*wanted, ESTIMATED)
        if several:
            own = [rows.assign(task=a.task) for rows, (a, _) in zip(own, parts, strict=True)]
        filled = [rows for rows in own if len(rows)]
        if filled or name in ALWAYS:
            order = [*(c for c in wanted if c != "task"), *(["task"] if several or "task" in wanted else [])]
            files[f"{name}.csv"] = pd.concat(filled or own[:1], ignore_index=True).reindex(columns=order)
    return files


def _of_task(analysis: Analysis, own_views: Sequence[View]) -> dict[str, pd.DataFrame]:
    rows = [
        view.groups.assign(metric=view.metric, scale=view.scale, chosen=view.chosen, baseline_r2=view.r2)
        for view in own_views
    ]
    own_scores = [analysis.scores.groups, analysis.scores.tuned_scores]
    return {
        **learned_tables.tables(analysis.learned),
        **shift_tables.tables(analysis),
        **declared.tables(analysis),
        "scores": pd.concat([part for part in own_scores if len(part)] or own_scores[:1], ignore_index=True),
        "score_differences": analysis.scores.differences,
        "score_factors": analysis.scores.factors,
        "score_levels": analysis.scores.levels,
        "trends": analysis.trends,
        "robustness": analysis.points,
        "contrasts": analysis.contrasts,
        "equivalence": findings.equivalence_table(analysis),
        "groups": analysis.groups,
        "factors": analysis.factor_table,
        "levels": analysis.regression.levels,
        "survival": analysis.survival,
        "slopes": analysis.ancova,
        "at_id": analysis.at_ids,
        "trend_line": analysis.band,
        "progress": analysis.progress,
        "looks": analysis.looks.table,
        "best": analysis.best,
        "id_sets": analysis.id_sets,
        "errors": analysis.errors,
        "influence": analysis.influence,
        "selection": analysis.selection,
        "views": pd.concat(rows, ignore_index=True),
        "duplicates": duplicates.with_and_without(analysis),
        "reversed_images": analysis.hidden.images,
        "left_out": analysis.left_out,
    }


def advice_in(made: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the advice of every task of a verdict, in the order of the analyses."""
    return [made["advice"], *(other["advice"] for other in made.get("tasks", {}).values())]


def write(target: str, table: Table, analyses: Sequence[Analysis], verdict: dict[str, Any]) -> tuple[str, list[str]]:
    """Write the report into the folder `target`; return the address of the page, and a sentence for every figure that
    could not be drawn. Raises Unwritable."""
    from analysis.report import export, page  # late: Altair and Vega take a second to load

    folder = Storage(target)
    drawer = ThreadPoolExecutor(1, "figures")  # waits for the process that draws, while all else is made here
    try:
        drawing = [export.begin_drawing(export.figures(analysis), drawer) for analysis in analyses]
        parts = [_part(analysis, own) for analysis, own in zip(analyses, advice_in(verdict), strict=True)]
        files = csv_tables(table, [(part.analysis, part.views) for part in parts], [part.line for part in parts])
        sections = page.sections(table, parts, folder)
        made = [export.drawn_figures(one) for one in drawing]
    finally:
        drawer.shutdown(wait=False, cancel_futures=True)  # Ctrl-C, say, does not wait for figures that nobody gets
    drawn, lost = [figures for figures, _ in made], _lost(analyses, [reasons for _, reasons in made])
    images = {f"{FIGURE}.{ending}": content for ending, content in drawn[0].get(FIGURE, {}).items()}
    papers = export.files(analyses, drawn, [part.tables for part in parts])
    beside = [*files, "verdict.json", *images, *papers]
    html = page.render(table, parts, sections, beside, lost)  # everything is made before anything is written
    contents: dict[str, bytes | str] = {name: safe_csv.text_of(rows) for name, rows in files.items()}
    contents = {**contents, "verdict.json": _json(verdict), **images, **papers, "index.html": html}
    written = {name: encoded(name, content) for name, content in contents.items()}
    put(folder, {**written, PROVENANCE: _provenance(folder, table, analyses[0], written)})
    if folder.exists(INTERIM):  # of the page that this one replaced
        folder.delete(INTERIM)
    return (folder / "index.html").shown, lost


def write_interim(
    target: str,
    table: Table,
    analyses: Sequence[Analysis],
    verdict: dict[str, Any],
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Write the report of a run that goes on into the folder `target`, where it is still `wanted` once it is made.
    Raises Unwritable.

    The page's files, tables and verdict.json, lie in a folder of their own, `interim/<when>-<process>`, and the page is
    written last, whole: whenever the writer is killed, the old page with its files or the new one with its own is
    there. Figures and tables for papers are left out: a look at half of a study is not to be published.
    """
    from analysis.report import page  # late: Altair takes a second to load

    folder = Storage(target)
    own = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
    parts = [_part(analysis, advice) for analysis, advice in zip(analyses, advice_in(verdict), strict=True)]
    files = csv_tables(table, [(part.analysis, part.views) for part in parts], [part.line for part in parts])
    html = page.render(table, parts, page.sections(table, parts, folder), [*files, "verdict.json"],
                       within=f"{INTERIM}/{own}/")  # fmt: skip
    contents: dict[str, bytes | str] = {name: safe_csv.text_of(rows) for name, rows in files.items()}
    contents["verdict.json"] = _json(verdict)
    if not wanted():
        return
    put(folder, {f"{INTERIM}/{own}/{name}": content for name, content in contents.items()})
    put(folder, {"index.html": html})
    for other in folder.names(INTERIM):
        if other != own:
            folder.delete(f"{INTERIM}/{other}")


def tables_and_verdict(table: Table, analyses: Sequence[Analysis], verdict: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files that hold a report's numbers and sentences, as they are written: tables and verdict.json."""
    parts = [(analysis, views(analysis)) for analysis in analyses]
    files = csv_tables(table, parts, [analysis.line for analysis in analyses])
    texts = {**{name: safe_csv.text_of(rows) for name, rows in files.items()}, "verdict.json": _json(verdict)}
    return {name: encoded(name, text) for name, text in texts.items()}


def refuse_another(target: str, file: str) -> None:
    """Raise UserError where the folder `target`, which nobody has named, has the report of another table than `file`
    that is still there: two tables of one name in two folders have one such folder."""
    folder = Storage(target)
    kept = (unseal(folder.recall(PROVENANCE) or b"")[0] or {}).get("table")  # as seen from the folder
    if not kept or not file:
        return
    other = os.path.normpath(os.path.join(folder.address, str(kept)))
    if os.path.exists(other) and os.path.realpath(other) != os.path.realpath(file):
        what = f"has the report of another table, {Storage(other).shown}; give another folder by --out"
        raise UserError(Problem(folder.shown, what))


def _provenance(folder: Storage, table: Table, analysis: Analysis, written: Mapping[str, bytes]) -> bytes:
    """What the report was made of, and the checksums of its files."""
    options = analysis.options
    return seal(
        {
            "ray_robust": __version__,
            "name": table.name,
            "title": table.title,
            **({"table": os.path.relpath(table.file, folder.address)} if table.file and not folder.remote else {}),
            "scale": options.scale,
            "margin": options.margin,
            "look": options.look,
            "files": {name: checksum(content) for name, content in written.items()},
        }
    )


def _json(verdict: Mapping[str, Any]) -> str:
    return json.dumps(verdict, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _lost(analyses: Sequence[Analysis], reasons: Sequence[dict[str, str]]) -> list[str]:
    """A sentence for every figure that is missing."""
    return [
        f"the figure {name}{f' of {analysis.task}' if len(analyses) > 1 else ''} could not be drawn for export: {why}"
        for analysis, own in zip(analyses, reasons, strict=True)
        for name, why in own.items()
    ]


def _part(analysis: Analysis, advice: Sequence[Mapping[str, Any]]) -> Part:
    from analysis.report.page import Part

    own_views = views(analysis)
    unit = analysis.options.unit
    made = score_tables(analysis) | report_tables(analysis, own_views) | line_tables.of_line(analysis.line, unit)
    made |= learned_tables.of_learned(analysis) | shift_tables.of_shifts(analysis) | of_declared(analysis)
    made |= of_looks(analysis) | of_best(analysis) | subset_tables.of_subset(analysis)
    if analysis.mark:
        made = {name: replace(one, caption=f"{analysis.mark}. {one.caption}") for name, one in made.items()}
    return Part(analysis, own_views, made, analysis.line, advice)
