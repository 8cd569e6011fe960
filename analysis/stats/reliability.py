"""How well ID scores are measured: the known sampling variance of each score, and the reliability of the ID axis.

A score on n images is known to within p(1 - p)/n only. Such errors in ID flatten the baseline line (Fuller 1987,
Measurement Error Models, section 1.1): least squares finds reliability x slope, so that a model of no ER seems to lie
above the line at high ID scores and below it at low ones. Owns `variance_of` (from counts), `variances` (from the
columns of the points) and the table of reliabilities. All variances take the images as drawn independently for every
model; models tested on the same images share a part of the error, which flattens nothing: reliabilities are lower
bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.scales import Scale
from analysis.stats.group_jackknife import Counts, reweighted
from ray_robust.metrics import METRICS

LEAST = 0.95  # reliability under which the line is visibly too flat
COLUMNS = ("id_set", "source", "images", "noise_sd", "spread_sd", "reliability", "given_others")


def variance_of(counts: Counts, metric: str) -> np.ndarray | None:
    """Return the sampling variance of every point's score over other images of the same kind, float [points] (of a
    fraction); None for a metric of which it is not known (see `Metric.variance`)."""
    variance = METRICS[metric].variance if metric in METRICS else None
    if variance is None:
        return None
    return np.array([variance(point) for point in reweighted(counts, np.ones(len(counts.groups)))])


def variances(points: pd.DataFrame, name: str = "id") -> tuple[np.ndarray | None, str]:
    """Return the sampling variance of column `name` of `points` (fractions), float [points], and where it is from; None
    and why where it is not known.

    A column `<name>_variance` (see `variance_of`) is taken as it is. Else the score is a share of right images out of
    `<name>_images`, which is wrong for other metrics: of those nothing is known without counts.
    """
    if f"{name}_variance" in points:
        given = pd.to_numeric(points[f"{name}_variance"], errors="coerce").to_numpy(float)
        if np.isfinite(given).all():
            return given, "counts per class"
    metrics = set(points["metric"].fillna("").astype(str)) if "metric" in points else {""}
    shares = {metric for metric, entry in METRICS.items() if entry.share_of_images} | {""}  # not named: taken as one
    if not metrics <= shares:
        return None, f"{' and '.join(sorted(metrics - shares))} without counts per class"
    if f"{name}_images" not in points:
        return None, f"no column {name}_images says how many images were tested"
    images = pd.to_numeric(points[f"{name}_images"], errors="coerce").to_numpy(float)
    if not (images > 0).all():
        return None, f"{name}_images is empty or 0 for some points"
    score = points[name].to_numpy(float)
    inside = np.clip(score, 0.5 / images, 1 - 0.5 / images)  # nobody is right for certain: see `scales.clip`
    return inside * (1 - inside) / images, "share of right images, p(1 - p)/n"


def on_axis(points: pd.DataFrame, name: str, axis: str, scale: Scale) -> tuple[np.ndarray | None, str]:
    """Return the sampling variance on the transformed axis, whose column is `axis`: by the delta method, over the
    square of `rate`."""
    variance, source = variances(points, name)
    return None if variance is None else variance / scale.rate(points[axis].to_numpy(float)) ** 2, source


def reliabilities(points: pd.DataFrame, ids: Sequence[str], axes: Sequence[str], scale: Scale) -> pd.DataFrame:
    """Return columns `COLUMNS`, a row per ID set of the baseline's `points`: the standard deviations of the error and
    of what is seen, on the axis, and reliability = 1 - variance of the error / variance seen, at least 0.

    `given_others` is the same with the variance that the other ID sets leave: of sets that go together little is left,
    and their coefficients are the flatter. NaN where the variance is not known; `source` says why.
    """
    x = points[list(axes)].to_numpy(float)
    rows = []
    for i, (name, axis) in enumerate(zip(ids, axes, strict=True)):
        noise, source = on_axis(points, name, axis, scale)
        spread = float(x[:, i].var(ddof=1))
        others = np.column_stack([np.ones(len(x)), np.delete(x, i, axis=1)])
        left = x[:, i] - others @ np.linalg.lstsq(others, x[:, i], rcond=None)[0]
        alone = float(left @ left) / max(len(x) - others.shape[1], 1)
        error = float(noise.mean()) if noise is not None else np.nan
        size = f"{name}_images"
        images = pd.to_numeric(points[size], errors="coerce").astype(float).median() if size in points else np.nan
        rows.append((name, source, images, error**0.5, spread**0.5, _share(error, spread), _share(error, alone)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _share(error: float, spread: float) -> float:
    return max(1 - error / spread, 0.0) if spread > 0 else np.nan
