"""Percentages look alike wherever they are printed: in text, in tables, on the axes of figures."""

from __future__ import annotations

import re
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest

from analysis.formatting import percent
from analysis.report.charts import specification

ROOT = Path(__file__).parents[1]
HOME = ROOT / "ray_robust/text/percent.py"
BY_HAND = re.compile(r":[,.\d]*%\}|:[,.\d]*f\} ?%")


def test_a_fraction_as_a_percentage():
    assert [percent(0.4704), percent(0.28, 0), percent(np.float64(1))] == ["47.0 %", "28 %", "100.0 %"]
    assert [percent(None), percent(float("nan")), percent("x", missing="")] == ["–", "–", ""]


def test_no_other_place_formats_one():
    files = [file for package in ("analysis", "ray_robust") for file in (ROOT / package).rglob("*.py") if file != HOME]
    lines = [f"{file.name}: {line}" for file in files for line in file.read_text("utf-8").splitlines()
             if BY_HAND.search(line)]  # fmt: skip
    assert len(files) > 100
    assert lines == []
    assert BY_HAND.search('f"{share:.0%}"')
    assert BY_HAND.search('f"{100 * share:.1f} %"')


@pytest.mark.slow
def test_an_axis_shows_them_as_text_does():
    import vl_convert

    axis = alt.Axis(format=".0%", values=[0.25, 0.5])
    chart = alt.Chart(pd.DataFrame({"share": [0.25, 0.5]})).mark_point().encode(alt.X("share:Q", axis=axis))
    svg = vl_convert.vegalite_to_svg(specification(chart))
    assert re.findall(r">(\d+[^<]*)<", svg) == [percent(0.25, 0), percent(0.5, 0)]
