"""The report's panel "Is this line real?": its sentences, figures, tables and data files."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from analysis.__main__ import Request, main, report_on
from analysis.line.checks import check_line
from analysis.options import Options
from analysis.report import line_charts, line_tables
from analysis.report.palette import group_styles
from analysis.study import analyse
from bench.line_checks import SCENARIOS, Truth, simulate
from tests.fake_run import run_folder, sweep
from tests.test_report import HOSTILE, Page

pytestmark = pytest.mark.slow  # of one report or trial that takes seconds to make


def made(points: pd.DataFrame, **chosen):
    options = Options("scratch", **chosen)
    analysis = analyse("simulated", points, options)
    checks = check_line(analysis.points, options)
    assert checks is not None
    return analysis, checks


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The report of a plain table whose baseline bends, coarse in ID, with the groups in a gap."""
    folder = tmp_path_factory.mktemp("table")
    truth = Truth(height=SCENARIOS["curved"].height, trials=12, empty=(-0.35, 0.2))
    simulate(truth, 0).assign(id_images=150).to_csv(folder / "scores.csv", index=False)
    given = ["--id", "id", "--ood", "ood", "--group", "group", "--baseline", "scratch", "--cluster", "trial"]
    assert main([str(folder / "scores.csv"), *given, "--out", str(folder / "report")]) == 0
    return folder / "report"


def test_the_panel_says_which_check_fails(table):
    text = " ".join(" ".join(Page((table / "index.html").read_text("utf-8")).text).split())
    assert "Is this line real?" in text
    assert "Is it straight? fails The baseline bends (square of ID: p < 0.001" in text
    assert "Is ID measured well?" in text
    assert "Are there points all along? fails The baseline has no point between ID" in text
    assert (
        "where points of low (18 of 18 points) and high (18 of 18 points) lie: there the line is an assumption." in text
    )
    assert "Does it rise? passes Its slope is 0." in text


def test_every_figure_of_the_panel_has_its_data_beside_it(table):
    page = Page((table / "index.html").read_text("utf-8"))
    charts = {name.rpartition("-")[0] for name in json.loads(page.scripts["data"])["charts"]}
    assert set(line_charts.NAMES) <= charts
    for name, columns in line_tables.FILES.items():
        rows = pd.read_csv(table / f"{name}.csv")
        assert list(rows) == list(columns)
        assert len(rows)
        assert f"{name}.csv" in page.linked
    for name in line_charts.NAMES:
        assert (table / f"export/{name}.svg").read_bytes().startswith(b"<svg")
    for name in ("line_checks", "line_schedule", "line_reliability", "line_gaps"):
        assert (table / f"export/{name}.tex").exists()


def test_the_slope_of_the_checks_is_that_of_the_lines(table):
    """One slope, one interval, wherever it is read."""
    tests = pd.read_csv(table / "line_checks.csv").set_index("test").loc["slope"]
    trends = pd.read_csv(table / "trends.csv").set_index(["group", "scale"]).loc[("scratch", "probit")]
    assert tests[["value", "low", "high"]].tolist() == trends[["slope", "slope_low", "slope_high"]].tolist()


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        (simulate(Truth(), 0), {}),
        (simulate(Truth(trials=1), 0), {}),
        (simulate(Truth(), 0).drop(columns=["epoch", "finetune_lr", "id_images"]), {"scale": "linear"}),
        (simulate(Truth(), 0).assign(id_1=lambda p: p["id"], id_2=lambda p: p["id"] ** 1.1 + 0.01 * (p.index % 3),
                                     id_1_images=500, id_2_images=500), {"id_names": ("a", "b"), "scale": "logit"}),
    ],
)  # fmt: skip
def test_the_charts_are_valid_vega_lite(points, chosen):
    analysis, checks = made(points, **chosen)
    drawn = line_charts.of_line(checks, analysis.points, group_styles(analysis), analysis.options.scale, 400)
    assert {"scatter", "gaps"} <= set(drawn) <= set(line_charts.NAMES)
    assert ("reliability" in drawn) == ("id_images" in points)
    assert ("epochs" in drawn) == ("rates" in drawn) == ("epoch" in points)
    for chart in drawn.values():
        chart.to_dict(validate=True)


def test_the_curve_is_labelled_in_per_cent_on_the_verdicts_scale():
    analysis, checks = made(simulate(Truth(), 0), scale="logit")
    spec = line_charts.of_line(checks, analysis.points, group_styles(analysis), "logit", 400)["curve"].to_dict()
    axis = spec["layer"][0]["encoding"]["x"]["axis"]
    assert "'logit' == 'logit'" in axis["labelExpr"].replace('"', "'")
    low, high = spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert all(low <= tick <= high for tick in axis["values"])
    assert len(axis["values"]) >= 4


def test_thousands_of_points_are_thinned():
    points = pd.concat([simulate(Truth(trials=30), seed) for seed in range(20)], ignore_index=True)
    analysis, checks = made(points)
    for chart in line_charts.of_line(checks, analysis.points, group_styles(analysis), "probit", 400).values():
        assert len(json.dumps(chart.to_dict(validate=False))) < 400_000


def test_without_a_line_there_is_no_panel(tmp_path):
    points = sweep({"num_images=1000": 1.0}, trials=1, epochs=(3,))
    run_folder(tmp_path / "run", points.assign(id=0.5))
    report_on(Request((str(tmp_path / "run"),)), quiet=True)
    page = Page((tmp_path / "run/report/index.html").read_text("utf-8"))
    assert "line-0" not in page.ids
    assert not list((tmp_path / "run/report").glob("line_*.csv"))


@pytest.mark.slow
def test_two_tasks_have_two_panels(tmp_path):
    points = sweep({"num_images=1000": 1.0})
    points = pd.concat([points.assign(task=task, finetune=points["finetune"] + task) for task in ("a", "b")])
    run_folder(tmp_path / "run", points.reset_index(drop=True))
    report_on(Request((str(tmp_path / "run"),)), quiet=True)
    page = Page((tmp_path / "run/report/index.html").read_text("utf-8"))
    assert {"line-0", "line-1", "curve-0", "curve-1"} <= set(page.ids)
    assert set(pd.read_csv(tmp_path / "run/report/line_checks.csv")["task"]) == {"a", "b"}


def test_names_of_groups_are_text():
    points = simulate(SCENARIOS["a gap with the groups inside"], 0)
    points["group"] = points["group"].replace({"low": HOSTILE[0], "high": HOSTILE[1]})
    _, checks = made(points)
    said = next(one.text for one in checks.verdicts if one.check == "gaps")
    assert HOSTILE[0] in said  # the page escapes it as all others
    assert line_tables.of_line(checks)["line_gaps"].rows[1][0] in HOSTILE
