"""The views that a reader may switch the figures to: other metrics, other scales of the axes, one `View` each.

The verdict is about one metric on one scale, fixed beforehand; the others show whether it depends on that choice,
and every one is the same analysis of other columns, `id_<metric>` and `ood_<metric>`. Owns `View`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.scales import SCALES
from analysis.stats.study_tables import PROGRESS
from analysis.study import Analysis, analyse
from ray_robust.metrics import METRICS
from ray_robust.run.analysis_settings import MEAN

SCORE = "score"  # what the metric of a table is called that does not name it
MOST_POINTS = 50_000  # of a table that is looked at in other views too
NEEDED = ("trial", "group", "task", "epoch", "id_images", "ood_images", "place")  # besides the scores: less is quicker


@dataclass(frozen=True, eq=False)
class View:
    """One metric on one scale, as far as figures need it.

    points    with x, y, id, ood, expected_ood, er, extrapolated, and `place`, the row among the analysis' own points
    band      as in `study.Analysis`; groups and progress likewise
    lines     both ends of each group's own line: group, x, y (transformed)
    r2        of the baseline's line, NaN without one; `refused` when it is under the floor
    chosen    whether the verdict is about this one
    """

    metric: str
    scale: str
    points: pd.DataFrame
    band: pd.DataFrame
    lines: pd.DataFrame
    groups: pd.DataFrame
    progress: pd.DataFrame
    r2: float
    refused: bool
    chosen: bool

    def ordered(self, names: Sequence[str]) -> View:
        """Return the same with its groups in this order."""
        place = {name: i for i, name in enumerate(names)}
        return replace(self, groups=self.groups.sort_values("group", key=lambda names: names.map(place)))


def views(analysis: Analysis) -> list[View]:
    """Return every metric on every scale, the chosen one first; of a huge table that one alone."""
    options, every = analysis.options, [own_view(analysis)]
    if len(analysis.points) > MOST_POINTS:
        return every
    points, order = every[0].points, list(analysis.groups["group"])
    for metric in metrics(analysis):
        scored = points if metric == metric_of(analysis) else _scored(points, metric)
        ids = ["id", *options.ids]
        scored = scored[[c for c in (*NEEDED, *dict.fromkeys(ids), "ood") if c in scored]]
        for scale in SCALES:
            if (metric, scale) == (metric_of(analysis), options.scale):
                continue
            chosen_already = replace(options, scale=scale, look=MEAN)  # these are the points of the look in use
            other = analyse(analysis.task, scored, chosen_already, checked=False)
            seen = _view(other, other.points, metric, chosen=False).ordered(order)
            every.append(seen if options.look == MEAN else replace(seen, progress=_no_progress()))  # lacks other looks
    return every


def own_view(analysis: Analysis) -> View:
    """Return the view that the verdict is about."""
    points = analysis.points.assign(place=np.arange(len(analysis.points)))
    return _view(analysis, points, metric_of(analysis), chosen=True)


def metric_of(analysis: Analysis) -> str:
    """Return the metric that the verdict is about."""
    names = analysis.points["metric"].dropna().unique() if "metric" in analysis.points else []
    return str(names[0]) if len(names) == 1 else SCORE


def metrics(analysis: Analysis) -> list[str]:
    """Return the metrics that every point has, the verdict's first; only that one for several ID sets."""
    own, points = metric_of(analysis), analysis.points
    if len(analysis.options.ids) > 1:
        return [own]
    others = [
        metric
        for metric in sorted(METRICS, key=lambda name: METRICS[name].needs_groups)  # those of images come first
        if metric != own
        and {f"id_{metric}", f"ood_{metric}"} <= set(points)
        and _scored(points, metric)["id"].notna().any()
    ]
    return [own, *others]


def _scored(points: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The points with another metric as their score, those that have it."""
    both = {side: pd.to_numeric(points[f"{side}_{metric}"], errors="coerce").astype(float) for side in ("id", "ood")}
    return points.assign(**both).dropna(subset=["id", "ood"]).reset_index(drop=True)


def _view(analysis: Analysis, points: pd.DataFrame, metric: str, chosen: bool) -> View:
    progress = analysis.progress if len(analysis.progress) and not analysis.refused else _no_progress()
    return View(
        metric, analysis.options.scale, points, analysis.band, _own_lines(analysis), analysis.groups, progress,
        analysis.baseline.line.r2 if analysis.baseline else np.nan, analysis.refused, chosen,
    )  # fmt: skip


def _no_progress() -> pd.DataFrame:
    return pd.DataFrame(columns=list(PROGRESS))


def _own_lines(analysis: Analysis) -> pd.DataFrame:
    """The baseline has its line in the band."""
    chosen = analysis.trends.loc[analysis.trends["scale"] == analysis.options.scale].set_index("group")
    ends: list[dict[str, object]] = []
    for name, own in analysis.points.groupby("group", sort=False):
        line = chosen.loc[name]
        if name != analysis.options.baseline and np.isfinite(line["slope"]):
            ends += [
                {"group": name, "x": x, "y": line["intercept"] + line["slope"] * x}
                for x in (own["x"].min(), own["x"].max())
            ]
    return pd.DataFrame(ends, columns=["group", "x", "y"])


def chosen(views: Sequence[View]) -> View:
    """Return the view that the verdict is about."""
    return next(view for view in views if view.chosen)
