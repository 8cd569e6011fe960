"""What the page's script draws from: columns of points, the views they can be seen in, and every point's trial.

Owns the JSON between `report` and `template/report.js`. Columns are sent once, as levels and codes, and each view adds
its axes, so that two thousand points in a dozen views stay under a megabyte.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from analysis.findings import capital
from analysis.formatting import number
from analysis.input.table import Table
from analysis.report import chart_data
from analysis.study import Analysis
from analysis.views import View, chosen
from ray_robust.files.storage import Storage
from ray_robust.metrics import label_of

TOOLTIP = ("trial", "model", "seed", "finetune", "epoch")  # by a tooltip, where a table has them
MOST_TOOLTIP = 5
DETAILS = (
    "pretrain_method", "pretrain_epochs", "pretrain_images_seen", "upstream_accuracy", "seconds_pretrain",
    "finetune_method", "finetune_weight_decay", "finetune_images", "seconds_finetune", "id_val", "ood_val",
)  # fmt: skip


def tooltip_columns(analysis: Analysis, table: Table) -> dict[str, str]:
    """Return safe field name -> column, for the columns that a tooltip names: those that vary."""
    varied = [key for key in table.keys if key != "group" and len(analysis.points[key].astype(str).unique()) > 1]
    usual = [key for key in TOOLTIP if key in varied]
    names = usual if {"finetune", "epoch"} <= set(usual) else varied[:MOST_TOOLTIP]
    return {f"k{i}": name for i, name in enumerate(names)}


def figure_data(analysis: Analysis, views: Sequence[View], table: Table, page: Storage) -> dict[str, Any]:
    """Return what the page's script draws of one task. `page` is the folder that the page will lie in: logs are linked
    from there."""
    places = np.arange(len(analysis.points))[:: chart_data.thinning(len(analysis.points))]
    points = analysis.points.iloc[places]
    names = dict.fromkeys(["trial", "group", *table.keys, *(name for name in DETAILS if name in points)])
    columns = {name: _column(points[name]) for name in names if name in points}
    shown = {name: column for name, column in columns.items() if column["levels"] or name in ("trial", "group")}
    by_metric: dict[str, dict[str, Any]] = {view.metric: {} for view in views}
    scores: dict[str, dict[str, Any]] = {}
    for view in views:
        own = view.points.set_index("place").reindex(places)
        scores.setdefault(view.metric, {side: _numbers(own[side]) for side in ("id", "ood")})
        by_metric[view.metric][view.scale] = {
            **chart_data.frame(view),
            **{name: _numbers(own[name]) for name in ("x", "y", "er", "expected_ood")},
            "extrapolated": own["extrapolated"].eq(True).astype(int).tolist(),
            "note": _note(view, analysis),
        }
    main = chosen(views)
    return {
        "columns": shown,
        "keys": tooltip_columns(analysis, table),
        "metrics": scores,
        "views": by_metric,
        "chosen": {"metric": main.metric, "label": label_of(main.metric), "scale": main.scale},
        "logs": _logs(table, list(dict.fromkeys(points["trial"])), page),
    }


def _column(values: pd.Series) -> dict[str, list[Any]]:
    """Different values in the order of appearance, and which of them each point has."""
    codes, levels = pd.factorize(values.astype(object).where(values.notna(), None), use_na_sentinel=False)
    plain = [_value(level) for level in levels]
    return {"levels": plain if any(level not in (None, "") for level in plain) else [], "codes": codes.tolist()}


def _value(value: Any) -> Any:
    """JSON's own types; numbers to six digits."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool | int | str):
        return value
    return float(f"{value:.6g}") if isinstance(value, float) else str(value)


def _numbers(values: pd.Series) -> list[float | None]:
    return [round(v, 4) if math.isfinite(v) else None for v in values.astype(float)]


def _note(view: View, analysis: Analysis) -> str:
    """The sentence beside a figure of a view that is not the verdict's."""
    metric = label_of(view.metric)
    if not math.isfinite(view.r2):
        return f"{metric} on {view.scale} axes: no line can be fitted to the baseline."
    under = f", under the floor of {analysis.options.min_r2:g}: no ER is given" if view.refused else ""
    notes = "".join(f" {capital(note)}." for note in view.notes)
    return f"{metric} on {view.scale} axes: R² of the baseline line {number(view.r2)}{under}.{notes}"


def _logs(table: Table, trials: Sequence[str], page: Storage) -> dict[str, dict[str, str | None]]:
    """Where each trial's log is: the path to show, and a link where it can be followed from the page."""
    logs: dict[str, dict[str, str | None]] = {}
    for trial in trials:
        for run in table.runs:
            folder = run.trial(str(trial)).storage
            if not folder.exists("log.txt"):
                continue
            log, here = folder.local("log.txt"), page.local()
            link = None if log is None or here is None else quote(os.fsencode(os.path.relpath(log, here)))
            name = folder.address.rstrip("/").rpartition("/")[2]
            logs[str(trial)] = {"text": f"trials/{name}/log.txt", "href": link}
            break
    return logs
