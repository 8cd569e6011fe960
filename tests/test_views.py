"""A view in another metric or on another scale is what the analysis of that metric, on that scale, would show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_run import sweep

from analysis.options import FirstStage, Options
from analysis.scales import SCALES
from analysis.study import Analysis, analyse
from analysis.views import own_view, views
from bench.simulated import Truth, simulate

SHOWN = ["group", "x", "y", "id", "ood", "expected_ood", "er", "extrapolated"]
OPTIONS = Options("scratch")
FIRST = FirstStage("scratch", seeds=2, baseline_seeds=2)


def with_line(trials: int = 3) -> pd.DataFrame:
    """Some scores are so near to 0 and 1 that the numbers of test images say how far they are moved."""
    points = sweep({"num_images=1000": 3.0, "num_images=64000": 0.0}, trials)
    ends = {len(points) - 3: 0.0, len(points) - 20: 1.0}
    return points.assign(id=[ends.get(i, score) for i, score in enumerate(points["id"])], id_images=500, ood_images=700)


def with_a_falling_line() -> pd.DataFrame:
    points = with_line()
    return points.assign(ood=points["ood"].where(points["group"] != "scratch", 0.9 - points["ood"]))


def without_a_line() -> pd.DataFrame:
    points = with_line()
    return points[points["group"] != "scratch"].reset_index(drop=True)


def without_a_line_in_accuracy() -> pd.DataFrame:
    points = with_line()
    return points.assign(
        id_accuracy=np.where(points["group"] == "scratch", 0.5, points["id"]), ood_accuracy=points["ood"]
    )


def analysed(points: pd.DataFrame, options: Options, counts=None) -> Analysis:
    return analyse("task", points, options, counts=counts, checked=False)


def shows_what_its_own_analysis_does(view, points: pd.DataFrame, options: Options, counts=None) -> bool:
    """Compare; return whether ER is refused."""
    alone = own_view(analysed(points, replace(options, scale=view.scale), counts))
    assert view.refused is alone.refused
    np.testing.assert_equal(view.r2, alone.r2)
    pd.testing.assert_frame_equal(view.points[SHOWN], alone.points[SHOWN])
    for table in ("band", "lines", "groups"):
        pd.testing.assert_frame_equal(getattr(view, table), getattr(alone, table), obj=table)
    if options.look == "mean" or view.chosen:  # another look's points have no others, along which ER would be followed
        pd.testing.assert_frame_equal(view.progress, alone.progress)
    return view.refused


@pytest.mark.parametrize(
    ("made", "options", "refused"),
    [
        (with_line, OPTIONS, {False}),
        (with_line, replace(OPTIONS, look="last"), {False}),
        (lambda: with_line(trials=6), replace(OPTIONS, first_stage=FIRST), {False}),
        (with_a_falling_line, OPTIONS, {True}),
        (without_a_line, OPTIONS, {True}),
        (without_a_line_in_accuracy, OPTIONS, {False, True}),
    ],
)
def test_every_view_is_the_analysis_of_its_metric_on_its_scale(made, options, refused):
    points = made()
    if "id_accuracy" not in points:
        points = points.assign(id_accuracy=np.sqrt(points["id"]), ood_accuracy=points["ood"] ** 1.5)
    points = points.assign(metric="macro_f1")
    seen = views(analysed(points, options))
    assert {(view.metric, view.scale) for view in seen} == {(m, s) for m in ("macro_f1", "accuracy") for s in SCALES}
    accurate = points.assign(id=points["id_accuracy"], ood=points["ood_accuracy"], metric="accuracy")
    assert refused == {
        shows_what_its_own_analysis_does(view, points if view.metric == "macro_f1" else accurate, options)
        for view in seen
    }
    for view in seen:
        at = seen[0].points.set_index("place").loc[view.points["place"]]
        assert at["trial"].tolist() == view.points["trial"].tolist()


def test_the_errors_over_test_groups_are_in_every_view():
    """Its intervals stand beside those of the verdict's scale, and would be half as wide without."""
    world = simulate(Truth(er=(0.0, 3.0, 6.0), trials=3, cameras=16), seed=1)
    seen = views(analysed(world.points, OPTIONS, world.counts))
    assert len(seen) == len(SCALES)
    for view in seen:
        shows_what_its_own_analysis_does(view, world.points, OPTIONS, world.counts)


def test_a_look_that_cannot_be_used_leaves_every_view_the_mean_of_all():
    points = with_line().drop(columns="id_val")
    for view in views(analysed(points, replace(OPTIONS, look="id_val"))):
        assert len(view.progress)
