"""The formula of effective robustness and what follows from it: its derivative, its errors, what the page shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.options import Options
from analysis.report import page_data
from analysis.scales import SCALES
from analysis.stats.robustness import effective_robustness, er_gradient
from analysis.study import analyse
from analysis.views import views
from tests.fake_run import sweep


@pytest.mark.parametrize("on_axis", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_the_gradient_is_the_derivative_of_er(scale, on_axis):
    """The line's error enters ER through the gradient: one that was left behind when ER changed would be an interval of
    the wrong width."""
    points = sweep({"num_images=1000": 3.0})
    fitted = analyse("task", points, Options("scratch", scale=scale))
    baseline, own = replace(fitted.baseline, on_axis=on_axis), fitted.points
    step, scores = 1e-6, (own["ood"].to_numpy(), own["y"].to_numpy())
    shifted = [
        [baseline.er(*scores, replace(baseline, coefficients=baseline.coefficients + sign * step * unit).height(own))
         for unit in np.eye(len(baseline.coefficients))]
        for sign in (1, -1)
    ]  # fmt: skip
    numeric = (np.array(shifted[0]) - np.array(shifted[1])).T / (2 * step)
    assert er_gradient(baseline.gradient(own)) == pytest.approx(numeric, rel=1e-4, abs=1e-4)
    error, _ = baseline.errors_of(own)
    covariance = baseline.errors.effects.T @ baseline.errors.effects
    assert error**2 == pytest.approx(np.einsum("ij,jk,ik->i", numeric, covariance, numeric), rel=1e-3)


def test_a_point_on_the_line_has_none_and_one_above_has_its_distance():
    height = SCALES["probit"].h(np.array([0.2, 0.5]))
    assert effective_robustness([0.2, 0.6], height, SCALES["probit"]) == pytest.approx([0.0, 10.0])


def test_er_outside_the_baseline_s_id_range_is_extrapolation():
    points = sweep({"num_images=1000": 3.0})
    highest = points.loc[points["group"] == "scratch", "id"].max()
    beyond = points["group"].eq("num_images=1000") & (points["id"] > points["id"].median())
    points.loc[beyond, "id"] = np.minimum(highest + 0.01, 0.999)
    analysis = analyse("task", points, Options("scratch"))
    marked = analysis.points.set_index("group").loc["num_images=1000", "extrapolated"]
    assert int(marked.sum()) == int(beyond.sum()) > 0
    row = analysis.groups.set_index("group").loc["num_images=1000"]
    assert (row["n_used"], row["extrapolated"]) == (len(marked) - beyond.sum(), beyond.sum())


def test_the_page_shows_the_expectation_that_er_is_measured_from(tmp_path):
    from analysis.input.table import Table
    from ray_robust.files.storage import Storage

    points = sweep({"num_images=1000": 3.0})
    analysis = analyse("task", points, Options("scratch"))
    table = Table("t", points, ("trial", "group"), points.iloc[:0])
    page = page_data.figure_data(analysis, views(analysis), table, Storage(tmp_path))
    (by_scale,) = page["views"].values()
    assert by_scale["probit"]["expected_ood"] == pytest.approx(analysis.points["expected_ood"].tolist(), abs=1e-4)
