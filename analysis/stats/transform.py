"""The points of a task where they lie on a scale: groups in order, scores moved off 0 and 1, the axis of ID scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from analysis.options import Options
from analysis.scales import Scale, clip
from analysis.stats import group_jackknife
from analysis.stats.factor_coding import FACTORS
from analysis.stats.trend import shares


def ordered_groups(points: pd.DataFrame, baseline: str) -> list[str]:
    """Return the groups in the report's order: the baseline first; then by the numbers that the sweep varies, where
    every group has one; else as they come."""
    names = [name for name in dict.fromkeys(points["group"]) if name != baseline]
    levels = {
        name: [pd.to_numeric(rows[f], errors="coerce").min() for f in FACTORS if f in rows]
        for name, rows in points.groupby("group", sort=False)
    }
    width = len(levels[names[0]]) if names else 0
    varied = [i for i in range(width) if len({levels[n][i] for n in names}) > 1]
    usable = [i for i in varied if all(np.isfinite(float(levels[n][i])) for n in names)]
    if usable:
        names.sort(key=lambda name: [levels[name][i] for i in usable])
    return ([baseline] if baseline in levels else []) + names


def transformed(points: pd.DataFrame, scale: Scale, options: Options) -> pd.DataFrame:
    """Return `points` with x = h(ID), y = h(OOD) and whether clipping moved the point.

    Several ID sets are transformed to the columns `options.axes`; x is then their axis (see `trend.shares`), made of
    the baseline's plane, and `id` the score that it stands for. Without such a plane they count alike.
    """
    moved = {name: clipped(points, name, scale) for name in (*options.ids, "ood")}
    touched = np.zeros(len(points), bool)
    for name, values in moved.items():
        touched |= values != points[name].to_numpy(float)
    axes = {axis: scale.h(moved[name]) for axis, name in zip(options.axes, options.ids, strict=True)}
    placed = points.assign(**axes, y=scale.h(moved["ood"]), clipped=touched)
    if len(options.ids) == 1:
        return placed
    share = shares_of(placed.loc[placed["group"] == options.baseline], options)
    alike = np.full(len(options.axes), 1 / len(options.axes))
    x = placed[list(options.axes)].to_numpy() @ (alike if share is None else share)
    return placed.assign(x=x, id=scale.inverse(x))


def shares_of(reference: pd.DataFrame, options: Options) -> np.ndarray | None:
    """Return the shares of the ID sets in the axis, from the baseline's transformed points (see `trend.shares`)."""
    return shares(reference[list(options.axes)].to_numpy(float), reference["y"].to_numpy(float))


def clipped(points: pd.DataFrame, column: str, scale: Scale) -> np.ndarray:
    """Return scores moved off 0 and 1 by half an example of their split (columns id_images, ood_images), where h needs
    it."""
    values = points[column].to_numpy(float)
    return clip(values, _examples(points, column)) if scale.bounded else values


def clips(points: pd.DataFrame, scale: Scale) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the same for the jackknife's scores, per side."""
    if not scale.bounded:
        return dict.fromkeys(group_jackknife.SIDES, np.asarray)
    return {side: partial(_clip_rows, examples=_examples(points, side)) for side in group_jackknife.SIDES}


def _clip_rows(scores: np.ndarray, examples: np.ndarray | None) -> np.ndarray:
    """Return scores [points, ...] moved off 0 and 1, of which those of a point are of so many images [points]."""
    rows = None if examples is None else examples.reshape(-1, *(1,) * (scores.ndim - 1))
    return clip(scores, rows)


def _examples(points: pd.DataFrame, column: str) -> np.ndarray | None:
    """How many images each score is of, float [n]: where that is not given, as many as the largest; None: it is for
    none."""
    if f"{column}_images" not in points:
        return None
    sizes = pd.to_numeric(points[f"{column}_images"], errors="coerce").astype("float64")
    sizes = sizes.where(np.isfinite(sizes) & (sizes > 0))
    return None if sizes.isna().all() else sizes.fillna(sizes.max()).to_numpy()
