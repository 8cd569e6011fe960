"""Every figure is Vega-Lite by its schema, which making a report does not check: that takes as long as the figure."""

from __future__ import annotations

import math

import altair as alt
import fake_run
import pytest
from test_learned import curve, write_run
from test_shift_report import analysed, on_shifts, points

from analysis.report import learned_charts, score_charts, shift_charts
from analysis.report.export import figures
from analysis.report.palette import group_styles
from analysis.study import Analysis


@pytest.fixture(scope="module")
def of_shifts(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    several = on_shifts(points(), v2=0.0, sketch=8.0)
    return analysed(fake_run.run_folder(tmp_path_factory.mktemp("shifts") / "run", several))


@pytest.fixture(scope="module")
def that_learned(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    falling = tuple(3 * math.exp(-step / 4) + 1 for step in range(100))
    return analysed(write_run(tmp_path_factory.mktemp("learned") / "run", curves=lambda row: curve(falling)))


@pytest.mark.slow
@pytest.mark.parametrize("of", ["of_shifts", "that_learned"])
def test_every_figure_is_valid_by_the_schema(of, request):
    analysis = request.getfixturevalue(of)
    drawn = figures(analysis)
    assert {"trend", "scores"} < set(drawn)
    assert ("shift_effects" in drawn) is (of == "of_shifts")
    assert ("learning" in drawn) is (of == "that_learned")
    for made in drawn.values():
        alt.Chart.from_dict(made)  # raises


@pytest.mark.slow
def test_figures_of_the_page_are_valid_too(of_shifts, that_learned):
    charts = {
        **shift_charts.of_shifts(of_shifts, group_styles(of_shifts), "container", page=True),
        **score_charts.of_scores(of_shifts, group_styles(of_shifts), "container"),
        **learned_charts.of_learned(that_learned, group_styles(that_learned), "container"),
    }
    for chart in charts.values():
        chart.to_dict(validate=True)
