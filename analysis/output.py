"""The files of a report: the contract's tables, verdict.json, the figures and the page, written through one door.

Owns file names and column orders. The target is any folder that the run folder's storage reads, local or remote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis import contrasts
from analysis.study import GROUPS, TRENDS, Analysis
from analysis.table import Table
from ray_robust.results import RunFolder

ROBUSTNESS = ("id", "ood", "expected_ood", "er", "er_low", "er_high", "extrapolated")


def tables(table: Table, analyses: Sequence[Analysis]) -> dict[str, pd.DataFrame]:
    """File name -> table. Several tasks stand one after the other, told apart by a `task` column at the end."""
    several = len(analyses) > 1
    robustness = (*table.keys, *ROBUSTNESS)

    def joined(parts: list[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
        named = [p.assign(task=a.task) if several else p for p, a in zip(parts, analyses, strict=True)]
        kept = [p for p in named if len(p)] or named[:1]
        wanted = [*(c for c in columns if c != "task"), *(["task"] if several else [])]
        return pd.concat(kept, ignore_index=True).reindex(columns=wanted)

    return {
        "trends.csv": joined([a.trends for a in analyses], TRENDS),
        "robustness.csv": joined([a.points for a in analyses], robustness),
        "contrasts.csv": joined([a.contrasts for a in analyses], contrasts.COLUMNS),
        "groups.csv": joined([a.groups for a in analyses], GROUPS),
        "trend_line.csv": joined(
            [a.band for a in analyses],
            ("id", "expected_ood", "mean_low", "mean_high", "prediction_low", "prediction_high"),
        ),
        "progress.csv": joined([a.progress for a in analyses], ("group", "epoch", "er", "id", "ood", "points")),
    }


def write(target: str, table: Table, analyses: Sequence[Analysis], verdict: dict[str, Any]) -> str:
    """Write everything into the folder `target`; returns the address of the page."""
    from analysis import charts, report

    folder, files = RunFolder(target), tables(table, analyses)
    images = charts.exported(analyses[0])
    page = report.page(table, analyses, verdict, files)  # everything is made before anything is written
    for name, rows in files.items():
        folder.write(name, rows.to_csv(index=False))
    folder.write("verdict.json", json.dumps(verdict, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    for name, content in {**images, "index.html": page}.items():
        folder.write(name, content)
    return (folder.storage / "index.html").shown
