"""A view in another metric or on another scale is what the analysis of that metric, on that scale, would show."""

import numpy as np
import pandas as pd
import pytest
from fake_run import sweep

from analysis.options import Options
from analysis.scales import SCALES
from analysis.study import analyse
from analysis.views import own_view, views

SHOWN = ["group", "x", "y", "id", "ood", "expected_ood", "er", "extrapolated"]


def with_line() -> pd.DataFrame:
    return sweep({"num_images=1000": 3.0, "num_images=64000": 0.0})


def with_a_falling_line() -> pd.DataFrame:
    points = with_line()
    return points.assign(ood=points["ood"].where(points["group"] != "scratch", 0.9 - points["ood"]))


def without_a_line() -> pd.DataFrame:
    points = with_line()
    return points[points["group"] != "scratch"].reset_index(drop=True)


@pytest.mark.parametrize(
    ("made", "look", "refused"),
    [(with_line, "mean", False), (with_line, "last", False), (with_a_falling_line, "mean", True),
     (without_a_line, "mean", True)],
)  # fmt: skip
def test_every_view_is_the_analysis_of_its_metric_on_its_scale(made, look, refused):
    points = made()
    squared = {"id_accuracy": np.sqrt(points["id"]), "ood_accuracy": points["ood"] ** 1.5}
    points = points.assign(metric="macro_f1", **squared, place=range(len(points)))
    seen = views(analyse("task", points, Options("scratch", look=look), checked=False))
    assert {(view.metric, view.scale) for view in seen} == {(m, s) for m in ("macro_f1", "accuracy") for s in SCALES}
    for view in seen:
        scores = {side: points[f"{side}_accuracy" if view.metric == "accuracy" else side] for side in ("id", "ood")}
        options = Options("scratch", scale=view.scale, look=look)
        alone = own_view(analyse("task", points.assign(**scores), options, checked=False))
        assert view.refused is alone.refused is refused
        np.testing.assert_equal(view.r2, alone.r2)
        pd.testing.assert_frame_equal(view.points[SHOWN], alone.points[SHOWN])
        for table in ("band", "lines", "groups"):
            pd.testing.assert_frame_equal(getattr(view, table), getattr(alone, table), obj=table)
        if look == "mean" or view.chosen:  # another look's points have no others, along which ER would be followed
            pd.testing.assert_frame_equal(view.progress, alone.progress)
