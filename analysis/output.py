"""The files of a report: the contract's tables, verdict.json, the figures and the page, written through one door.

Owns file names and column orders. The target is any folder that the run folder's storage reads, local or remote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis import ancova, checks, contrasts, duplicates, findings, sheets
from analysis.study import ERRORS, GROUPS, ID_SETS, PROGRESS, TRENDS, Analysis
from analysis.table import Table
from analysis.views import View, views
from ray_robust.storage import Storage

ROBUSTNESS = ("id", "ood", "expected_ood", "er", "er_low", "er_high", "extrapolated")
BAND = ("id", "expected_ood", "mean_low", "mean_high", "prediction_low", "prediction_high")
VIEWS = ("metric", "scale", "chosen", "group", "n_used", "er", "er_low", "er_high", "extrapolated", "baseline_r2")
LEFT_OUT = ("trial", "group", "task", "reason")
ALWAYS = ("trends", "robustness", "contrasts")  # of the contract: written even when they are empty
FIGURE = "trend"  # the first task's lies beside the page, all of them in export/


def tables(table: Table, parts: Sequence[tuple[Analysis, Sequence[View]]]) -> dict[str, pd.DataFrame]:
    """File name -> table. Several tasks stand one after the other, told apart by a `task` column at the end."""
    columns: dict[str, tuple[str, ...]] = {
        "trends": TRENDS,
        "robustness": (*table.keys, *ROBUSTNESS),
        "contrasts": contrasts.COLUMNS,
        "equivalence": findings.EQUIVALENCE,
        "groups": GROUPS,
        "factors": findings.FACTORS,
        "slopes": ancova.COLUMNS,
        "at_id": ancova.AT_ID,
        "trend_line": BAND,
        "progress": PROGRESS,
        "id_sets": ID_SETS,
        "errors": ERRORS,
        "influence": checks.INFLUENCE,
        "selection": checks.SELECTION,
        "views": VIEWS,
        "duplicates": duplicates.COMPARED,
        "left_out": LEFT_OUT,
    }
    made = [_of_task(analysis, seen) for analysis, seen in parts]
    several, found = len(parts) > 1, {}
    for name, wanted in columns.items():
        own = [rows[name] for rows in made]
        if several:
            own = [rows.assign(task=a.task) for rows, (a, _) in zip(own, parts, strict=True)]
        filled = [rows for rows in own if len(rows)]
        if filled or name in ALWAYS:
            order = [*(c for c in wanted if c != "task"), *(["task"] if several or "task" in wanted else [])]
            found[f"{name}.csv"] = pd.concat(filled or own[:1], ignore_index=True).reindex(columns=order)
    return found


def _of_task(analysis: Analysis, seen: Sequence[View]) -> dict[str, pd.DataFrame]:
    compared = [
        view.groups.assign(metric=view.metric, scale=view.scale, chosen=view.chosen, baseline_r2=view.r2)
        for view in seen
    ]
    return {
        "trends": analysis.trends,
        "robustness": analysis.points,
        "contrasts": analysis.contrasts,
        "equivalence": findings.equivalence_table(analysis),
        "groups": analysis.groups,
        "factors": findings.factor_table(analysis),
        "slopes": analysis.ancova,
        "at_id": analysis.at_ids,
        "trend_line": analysis.band,
        "progress": analysis.progress,
        "id_sets": analysis.id_sets,
        "errors": analysis.errors,
        "influence": analysis.influence,
        "selection": analysis.selection,
        "views": pd.concat(compared, ignore_index=True),
        "duplicates": duplicates.compared(analysis),
        "left_out": analysis.left_out,
    }


def write(target: str, table: Table, analyses: Sequence[Analysis], verdict: dict[str, Any]) -> str:
    """Write everything into the folder `target`; returns the address of the page."""
    from analysis import export, report  # late: Altair and Vega take a second to load

    folder = Storage(target)
    parts = [report.Part(a, seen, sheets.of_task(a, seen)) for a, seen in ((a, views(a)) for a in analyses)]
    files = tables(table, [(part.analysis, part.views) for part in parts])
    drawn = [export.figures(part.analysis, part.views) for part in parts]
    images = {f"{FIGURE}.{ending}": content for ending, content in drawn[0].get(FIGURE, {}).items()}
    papers = export.files(analyses, drawn, [part.sheets for part in parts])
    beside = [*files, "verdict.json", *images, *papers]
    page = report.page(table, parts, beside, folder)  # everything is made before anything is written
    for name, rows in files.items():
        folder.write(name, rows.to_csv(index=False))
    folder.write("verdict.json", json.dumps(verdict, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    for name, content in {**images, **papers, "index.html": page}.items():
        folder.write(name, content)
    return (folder / "index.html").shown
