"""OOD scores of points whose OOD test has no labels: estimated from what the models of a run predicted.

Owns the reading, and what makes the predictions unfit for an estimate; the estimate is `analysis.stats.agreement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.input.run_predictions import predictions
from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats.agreement import Estimated, Test, estimate_ood
from ray_robust.run.results_schema import SCORE_SPLITS
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.shifts import named

ESTIMATED = "er_estimated"  # the column of points whose OOD score is an estimate
METRIC = "accuracy"
SAME = 1e-9  # by which a score may differ and be the same
Tests = tuple[dict[str, Test], str]  # by side, and why they are not known


def is_estimated(points: pd.DataFrame) -> bool:
    """Return whether the OOD test of these points, of one task, has no labels."""
    return bool(ESTIMATED in points and points[ESTIMATED].fillna(False).astype(bool).any())


def unlabelled_tests(runs: Sequence[RunFolder], points: pd.DataFrame) -> Tests | None:
    """Return what the points of one task predicted on both tests, to estimate OOD scores by; None where these have
    labels."""
    return read_tests(runs, points, SCORE_SPLITS) if is_estimated(points) else None


def with_estimates(
    points: pd.DataFrame, options: Options, tests: Tests | None
) -> tuple[pd.DataFrame, Estimated | None, pd.DataFrame]:
    """Return the points of one task with estimated OOD scores where its test has no labels, what these were estimated
    by (None where it has labels), and the rows that are left out since nothing can be estimated: then all are. `tests`
    as of `unlabelled_tests`."""
    nothing = pd.DataFrame(columns=["trial", "group", "task", "reason"])
    if tests is None:
        return points, None, nothing
    made = _estimated(points, options, tests)
    if not made.refused:
        return points.assign(ood=made.ood), made, nothing
    rows = points[["trial", "group", "task"]].drop_duplicates().assign(reason=f"no OOD score: {made.refused}")
    return points.iloc[:0], made, rows


def estimated(
    runs: Sequence[RunFolder], points: pd.DataFrame, options: Options, splits: Mapping[str, str] = SCORE_SPLITS
) -> Estimated:
    """Return the estimated OOD scores of the points of one task or shift, whose tests `splits` names by side.
    `points` as in `analysis.input.table.Table` of a run."""
    return _estimated(points, options, read_tests(runs, points, splits))


def _estimated(points: pd.DataFrame, options: Options, read: Tests) -> Estimated:
    nothing, (tests, why) = np.full(len(points), np.nan), read
    if other := sorted(set(points["metric"]) - {METRIC}):
        return Estimated(nothing, refused=f"agreement between models estimates accuracy, not {', '.join(other)}")
    if why:
        return Estimated(nothing, refused=why)
    id_test = tests["id"]
    if not np.allclose((id_test.predicted == id_test.labels).mean(1), points["id"], rtol=0, atol=SAME):
        return Estimated(nothing, refused="the predictions do not give the ID scores")
    trials, _ = pd.factorize(points["trial"].astype(str))
    groups = points["group"].to_numpy(object)
    return estimate_ood(tests, trials, groups, options.baseline, SCALES[options.scale], options.min_r2)


def read_tests(runs: Sequence[RunFolder], points: pd.DataFrame, splits: Mapping[str, str]) -> Tests:
    """Return what every point predicted on each side's test, or why that is not known."""
    names: dict[str, int] = {}
    made: dict[str, np.ndarray] = {}
    first: dict[str, pd.DataFrame] = {}
    lost = 0
    of_images = ("split", "image", "label", "group")
    for frame, own in predictions(runs, points, of_images, tuple(splits.values())):
        if frame is None:
            lost += len(own)
            continue
        for side, split in splits.items():
            rows = frame[frame["split"] == split].reset_index(drop=True)
            if side not in first:
                first[side] = rows[[name for name in of_images if name in rows]].astype(str)
                made[side] = np.full((len(points), len(rows)), -1, np.int32)
            if not rows["image"].astype(str).equals(first[side]["image"]):
                return {}, f"not all points were tested on the same images of {named(split)}"
            for row in own.itertuples():
                made[side][row.point] = _numbers(rows[row.column], names)
    if lost or not first:
        return {}, f"predictions of {lost} of {len(points)} points are missing or damaged (predictions/*.parquet)"
    empty = next((split for side, split in splits.items() if not made[side].shape[1]), "")
    if empty:
        return {}, f"{named(empty)} has no images"
    return {side: _test(first[side], made[side], names) for side in splits}, ""


def _test(images: pd.DataFrame, predicted: np.ndarray, names: dict[str, int]) -> Test:
    labels, keys = _numbers(images["label"].astype("category"), names), images["image"].to_numpy(object)
    if "group" not in images:
        return Test(predicted, labels, images=keys, classes=tuple(names))
    group, groups = pd.factorize(images["group"], sort=True)
    return Test(predicted, labels, group, tuple(map(str, groups)), keys, tuple(names))


def _numbers(values: pd.Series, names: dict[str, int]) -> np.ndarray:
    """Numbers of names, the same for every point and test, which `names` grows by."""
    category = values.astype("category").cat
    numbers = [names.setdefault(str(name), len(names)) for name in category.categories]
    return np.array([*numbers, -1], np.int32)[category.codes.to_numpy()]
