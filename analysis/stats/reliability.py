"""How well ID scores are measured: the known sampling variance of each score, and the reliability of the ID axis.

A score on n images is known to within p(1 - p)/n only. Such errors in ID flatten the baseline line (Fuller 1987,
Measurement Error Models, section 1.1): least squares finds reliability x slope, so that a model of no ER seems to lie
above the line at high ID scores and below it at low ones. Owns `variance_of` (from counts), `variances` (from the
columns of the points) and the table of reliabilities. All variances take the images as drawn independently for every
model; models tested on the same images share a part of the error, which flattens nothing: reliabilities are lower
bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.scales import Scale
from analysis.stats.group_jackknife import Counts

LEAST = 0.95  # reliability under which the line is visibly too flat
COLUMNS = ("id_set", "source", "images", "noise_sd", "spread_sd", "reliability", "given_others")
# what a score is when nobody says: the share of images that are right
SHARES = ("accuracy", "")


def variance_of(counts: Counts, metric: str) -> np.ndarray | None:
    """The sampling variance of every point's score over other images of the same kind, float [points] (of a fraction);
    None for a metric that counts do not give.

    Delta method: the sum over images of the squared influence of one image on the score, given its class.
    """
    if metric not in METRICS:
        return None
    return np.array([METRICS[metric](counts, *counts.of(point)) for point in range(len(counts))])


def _of_accuracy(counts: Counts, hits: np.ndarray, guessed: np.ndarray) -> float:
    right, images = hits.sum(), counts.images.sum()
    return float(right / images * (1 - right / images) / images)


def _of_class_accuracy(counts: Counts, hits: np.ndarray, guessed: np.ndarray) -> float:
    truth = counts.truth.sum(0)
    right = hits.sum(0) / truth
    return float((right * (1 - right) / truth).sum() / len(truth) ** 2)


def _of_macro_f1(counts: Counts, hits: np.ndarray, guessed: np.ndarray) -> float:
    """An image of class t counts (2 - 2 F_t)/(T_t + G_t) when it is right, and -F_t/(T_t + G_t) - F_g/(T_g + G_g) when
    it is taken for g (T true, G guessed images of a class, F = 2 tp/(T + G)). Which t is taken for which g is not in
    the counts: they are taken to be independent."""
    truth, tp, said = counts.truth.sum(0), hits.sum(0), guessed.sum(0)
    both = truth + said
    f1 = 2 * tp / both
    right, wrong = (2 - 2 * f1) / both, f1 / both
    missed, false = truth - tp, said - tp
    together = (wrong @ missed) * (wrong @ false) / max(missed.sum(), 1)
    squares = (right**2) @ tp + (wrong**2) @ (missed + false) + 2 * together
    return float(squares) / len(truth) ** 2


def _of_worst_group(counts: Counts, hits: np.ndarray, guessed: np.ndarray) -> float:
    there = counts.images > 0
    share = hits.sum(1)[there] / counts.images[there]
    worst = int(share.argmin())
    return float(share[worst] * (1 - share[worst]) / counts.images[there][worst])


METRICS: Mapping[str, Callable[[Counts, np.ndarray, np.ndarray], float]] = {
    "accuracy": _of_accuracy,
    "class_accuracy": _of_class_accuracy,
    "macro_f1": _of_macro_f1,
    "worst_group": _of_worst_group,
}


def variances(points: pd.DataFrame, name: str = "id") -> tuple[np.ndarray | None, str]:
    """The sampling variance of column `name` of `points` (fractions), float [points], and where it is from; None and
    why where it is not known.

    A column `<name>_variance` (see `variance_of`) is taken as it is. Else the score is a share of right images out of
    `<name>_images`, which is wrong for other metrics: of those nothing is known without counts.
    """
    if f"{name}_variance" in points:
        known = pd.to_numeric(points[f"{name}_variance"], errors="coerce").to_numpy(float)
        if np.isfinite(known).all():
            return known, "counts per class"
    metrics = set(points["metric"].fillna("").astype(str)) if "metric" in points else {""}
    if not metrics <= set(SHARES):
        return None, f"{' and '.join(sorted(metrics - set(SHARES)))} without counts per class"
    if f"{name}_images" not in points:
        return None, f"no column {name}_images says how many images were tested"
    images = pd.to_numeric(points[f"{name}_images"], errors="coerce").to_numpy(float)
    if not (images > 0).all():
        return None, f"{name}_images is empty or 0 for some points"
    score = points[name].to_numpy(float)
    inside = np.clip(score, 0.5 / images, 1 - 0.5 / images)  # nobody is right for certain: see `scales.clip`
    return inside * (1 - inside) / images, "share of right images, p(1 - p)/n"


def on_axis(points: pd.DataFrame, name: str, axis: str, scale: Scale) -> tuple[np.ndarray | None, str]:
    """The same on the transformed axis, whose column is `axis`: by the delta method, over the square of `rate`."""
    variance, source = variances(points, name)
    return None if variance is None else variance / scale.rate(points[axis].to_numpy(float)) ** 2, source


def reliabilities(points: pd.DataFrame, ids: Sequence[str], axes: Sequence[str], scale: Scale) -> pd.DataFrame:
    """Columns `COLUMNS`, a row per ID set of the baseline's `points`: the standard deviations of the error and of what
    is seen, on the axis, and reliability = 1 - variance of the error / variance seen, at least 0.

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
