"""What the charts of scores draw of one view, as JSON's own types: data sets, axes and ticks.

The charts themselves hold none: `charts.filled` puts in that of an exported figure, the page's own script that of the
report.
"""

from __future__ import annotations

import threading
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from altair.utils.schemapi import debug_mode

from analysis.scales import SCALES, Scale
from analysis.views import View

_UNCHECKED = threading.Lock()  # `debug_mode` keeps what it found: of two at once the last could leave it off for good

TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
MOST_POINTS = 2_000  # drawn; more would be neither seen nor quick


def frame(view: View) -> dict[str, Any]:
    """Return what a chart of scores needs of one view: `datasets` (band, lines, diagonal, groups, progress; the points
    come from `marks`) and `params` (the axes)."""
    scale, points = SCALES[view.scale], view.points
    x, y = limits(points["x"]), limits(points["y"])
    band = view.band.iloc[::2]
    drawn = pd.DataFrame({"x": scale.h(band["id"].to_numpy())} | {
        c: scale.h(band[c].to_numpy()) for c in band.columns if c != "id"}) if len(band) else band  # fmt: skip
    low, high = max(x[0], y[0]), min(x[1], y[1])
    diagonal = pd.DataFrame({"x": [low, high], "y": [low, high]} if low < high else {"x": [], "y": []})
    return {
        "datasets": {
            "band": records(drawn.replace([np.inf, -np.inf], np.nan).dropna()),
            "lines": records(view.lines),
            "diagonal": records(diagonal),
            "groups": records(view.groups),
            "progress": records(view.progress),
        },
        "params": {
            "x_low": round(x[0], 4), "x_high": round(x[1], 4), "y_low": round(y[0], 4), "y_high": round(y[1], 4),
            "x_ticks": ticks(scale, x), "y_ticks": ticks(scale, y), "axes": view.scale,
        },
    }  # fmt: skip


def marks(points: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the points as a chart reads them, at most `MOST_POINTS`."""
    columns = ["trial", "group", "x", "y", "id", "ood", "expected_ood", "er", "extrapolated"]
    return records(points.iloc[:: thinning(len(points))][columns])


def thinning(points: int) -> int:
    """Return the step between points that are drawn, so that at most `MOST_POINTS` are."""
    return -(-points // MOST_POINTS) or 1


def limits(values: pd.Series) -> tuple[float, float]:
    """Return the ends of an axis that holds these values with some room."""
    if values.empty:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = max(0.05 * (high - low), 0.02)
    return low - room, high + room


def ticks(scale: Scale, limits: tuple[float, float]) -> list[float]:
    """Return round percentages that lie within the limits, on the axis; finer ones where the axis spans little."""
    low, high = (float(v) for v in scale.inverse(np.array(limits)))
    ticks: Any = [t for t in TICKS if low <= t <= high]
    if len(ticks) < 4:
        step = next((s for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1) if (high - low) / s <= 8), 0.1)
        ticks = [t for t in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step if 0 < t < 1]
    return [round(float(t), 5) for t in scale.h(np.array(ticks))] if len(ticks) else []


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON's own types, numbers to five digits after the point, NaN as None."""
    columns: dict[str, list[Any]] = {}
    for name, column in rows.items():
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            column = column.astype(float).round(5)
        columns[str(name)] = column.astype(object).where(column.notna(), None).tolist()
    return [{name: values[i] for name, values in columns.items()} for i in range(len(rows))]


def inline(rows: pd.DataFrame) -> alt.InlineData:
    """Return rows as the data of a chart; unchecked, since Altair would hold every number against a schema."""
    with _UNCHECKED, debug_mode(False):
        return alt.InlineData(records(rows))
