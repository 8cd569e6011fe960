"""The views that a reader may switch the figures to: other metrics, other scales of the axes, one `View` each.

The verdict is about one metric on one scale, fixed beforehand; the others show whether it depends on that choice,
and every one is the same analysis of other columns, `id_<metric>` and `ood_<metric>`, as far as figures show it. Owns
`View`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats.group_means import mean_er
from analysis.stats.refusals import refusals_of
from analysis.stats.resampled import Resampled
from analysis.stats.study_tables import PROGRESS, group_table, progress_table, trend_table
from analysis.stats.transform import transformed
from analysis.study import Analysis
from ray_robust.metrics import METRICS
from ray_robust.run.analysis_settings import MEAN

SCORE = "score"  # what the metric of a table is called that does not name it
MOST_POINTS = 50_000  # of a table that is looked at in other views too


@dataclass(frozen=True, eq=False)
class View:
    """One metric on one scale, as far as figures need it.

    points    with x, y, id, ood, expected_ood, er, extrapolated, and `place`, the row among the analysis' own points
    band      as in `study.Analysis`; groups and progress likewise
    lines     both ends of each group's own line: group, x, y (transformed)
    r2        of the baseline's line, NaN without one; `refused` when it is under the floor
    chosen    whether the verdict is about this one
    notes     what the intervals leave out, of this metric alone
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
    notes: tuple[str, ...] = ()

    def ordered(self, names: Sequence[str]) -> View:
        """Return the same with its groups in this order."""
        place = {name: i for i, name in enumerate(names)}
        return replace(self, groups=self.groups.sort_values("group", key=lambda names: names.map(place)))


def views(analysis: Analysis) -> list[View]:
    """Return every metric on every scale, the chosen one first; of a huge table that one alone."""
    options, every = analysis.options, [own_view(analysis)]
    if len(analysis.points) > MOST_POINTS:
        return every
    own, order = _placed(analysis), list(analysis.groups["group"])
    whole = analysis.looks.used == MEAN  # else these are points of a single look each
    for metric in metrics(analysis):
        resampled = own if metric == metric_of(analysis) else own.of_metric(metric)
        notes = tuple(note for note in resampled.notes if note not in own.notes)
        for scale in SCALES:
            if (metric, scale) == (metric_of(analysis), options.scale):
                continue
            seen = replace(_other_view(metric, resampled, replace(options, scale=scale)), notes=notes).ordered(order)
            every.append(seen if whole else replace(seen, progress=_no_progress()))
    return every


def _placed(analysis: Analysis) -> Resampled:
    """Return what the analysis is of, with the column `place`: the row among its points, which stand by group."""
    resampled = analysis.resampled
    assert resampled is not None
    points, names = resampled.task_points.points, resampled.task_points.names
    order = np.concatenate([np.flatnonzero(points["group"] == name) for name in names] or [np.arange(0)])
    task_points = replace(resampled.task_points, points=points.assign(place=np.argsort(order)))
    return replace(resampled, task_points=task_points)


def _other_view(metric: str, resampled: Resampled, options: Options) -> View:
    """As `study.analyse` has it, without the tables that no figure shows."""
    name, scale = options.scale, SCALES[options.scale]
    groups = resampled.groups[name]
    parts = [group.points for group in groups.values()]
    trends = trend_table(groups, scale)
    comparison = resampled.task_points.compare(scale, groups=groups, of_factors=False)
    if comparison is None:
        nothing = resampled.task_points.points
        points = pd.concat(parts, ignore_index=True) if parts else transformed(nothing, scale, options)
        points = points.assign(expected_ood=np.nan, er=np.nan, extrapolated=False)
        lines = _own_lines(points, trends, options)
        return View(metric, name, points, pd.DataFrame(), lines, group_table(groups, {}), _no_progress(),
                    np.nan, True, chosen=False)  # fmt: skip
    baseline, groups = comparison.baseline, comparison.groups
    refused = bool(refusals_of(comparison, options))
    means = {group: mean for group, own in groups.items()
             if not refused and (mean := mean_er(own, baseline, baseline.low, baseline.high)) is not None}  # fmt: skip
    points = pd.concat([group.points for group in groups.values()], ignore_index=True)
    progress = progress_table(groups, baseline, refused)
    return View(
        metric, name, points, baseline.band(groups[options.baseline]), _own_lines(points, trends, options),
        group_table(groups, means), progress if len(progress) and not refused else _no_progress(),
        baseline.line.r2, refused, chosen=False,
    )  # fmt: skip


def own_view(analysis: Analysis) -> View:
    """Return the view that the verdict is about."""
    points = analysis.points.assign(place=np.arange(len(analysis.points)))
    progress = analysis.progress if len(analysis.progress) and not analysis.refused else _no_progress()
    return View(
        metric_of(analysis), analysis.options.scale, points, analysis.band,
        _own_lines(points, analysis.trends, analysis.options), analysis.groups, progress,
        analysis.baseline.line.r2 if analysis.baseline else np.nan, analysis.refused, chosen=True,
    )  # fmt: skip


def metric_of(analysis: Analysis) -> str:
    """Return the metric that the verdict is about."""
    names = analysis.points["metric"].dropna().unique() if "metric" in analysis.points else []
    return str(names[0]) if len(names) == 1 else SCORE


def metrics(analysis: Analysis) -> list[str]:
    """Return the metrics that points have, the verdict's first; only that one for several ID sets or estimates."""
    own, points = metric_of(analysis), analysis.points
    if len(analysis.options.ids) > 1 or analysis.estimated is not None:
        return [own]
    others = [
        metric
        for metric in sorted(METRICS, key=lambda name: METRICS[name].needs_groups)  # those of images come first
        if metric != own
        and {f"id_{metric}", f"ood_{metric}"} <= set(points)
        and (points[f"id_{metric}"].notna() & points[f"ood_{metric}"].notna()).any()
    ]
    return [own, *others]


def _no_progress() -> pd.DataFrame:
    return pd.DataFrame(columns=list(PROGRESS))


def _own_lines(points: pd.DataFrame, trends: pd.DataFrame, options: Options) -> pd.DataFrame:
    """The baseline has its line in the band."""
    chosen = trends.loc[trends["scale"] == options.scale].set_index("group")
    ends: list[dict[str, object]] = []
    for name, own in points.groupby("group", sort=False):
        line = chosen.loc[name]
        if name != options.baseline and np.isfinite(line["slope"]):
            ends += [
                {"group": name, "x": x, "y": line["intercept"] + line["slope"] * x}
                for x in (own["x"].min(), own["x"].max())
            ]
    return pd.DataFrame(ends, columns=["group", "x", "y"])


def chosen(views: Sequence[View]) -> View:
    """Return the view that the verdict is about."""
    return next(view for view in views if view.chosen)
