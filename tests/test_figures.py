"""Figures are drawn in a process of their own: one that fails costs that figure, and says so in one line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.report import charts, figures
from analysis.report.figures import NotDrawn, draw
from tests.fake_run import run_folder, sweep


def bar(name: str) -> dict:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": [{"name": name, "y": 1}]},
        "mark": "bar",
        "encoding": {"x": {"field": "name", "type": "nominal"}, "y": {"field": "y", "type": "quantitative"}},
    }


@pytest.fixture
def raw(monkeypatch):
    """Names reach the process as they are, as if nothing had cleaned them."""
    monkeypatch.setattr(figures, "printable_in", lambda spec: spec)


def test_a_name_with_an_escape_is_drawn_with_it_shown():
    files = draw(bar("a\x1b[31m\ufffe\ud800"))
    assert rb"a\x1b[31m\ufffe\ud800" in files["svg"]
    assert files["pdf"].startswith(b"%PDF")
    assert files["png"].startswith(b"\x89PNG")


def test_a_process_that_aborts_is_one_figure_and_the_next_is_drawn(raw):
    with pytest.raises(NotDrawn, match="the process that draws ended by SIGABRT") as caught:
        draw(bar("a\x1b[31m"))
    assert "\n" not in str(caught.value)
    assert not [*Path().glob("core*")]
    assert b"plain" in draw(bar("plain"))["svg"]


def test_an_error_of_the_library_is_one_line(raw):
    with pytest.raises(NotDrawn, match="ValueError: ") as caught:
        draw({"mark": 7})
    assert "\n" not in str(caught.value)


def test_a_process_that_somebody_killed_is_started_again():
    draw(bar("a"))
    assert figures._renderer is not None
    figures._renderer.process.kill()
    figures._renderer.process.wait()
    with pytest.raises(NotDrawn, match=f"ended by {signal.Signals(9).name}"):
        draw(bar("a"))
    assert draw(bar("a"))


def test_no_process_can_be_started(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "_renderer", None)
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))
    figures.warm_up()
    with pytest.raises(NotDrawn, match="no process to draw in: No such file"):
        draw(bar("a"))


@pytest.mark.slow
def test_a_report_lacks_one_figure_and_nothing_else(tmp_path, monkeypatch, capsys, raw):
    by_group = charts.by_group

    def broken(*told, **asked):
        return by_group(*told, **asked).properties(title="a\x1b[31m")

    monkeypatch.setattr(charts, "by_group", broken)
    run_folder(tmp_path / "run", sweep({"num_images=1000": 2.0}))
    assert main([str(tmp_path / "run")]) == 0
    report = tmp_path / "run/report"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "could not be drawn" in line]
    said = "the figure groups could not be drawn for export: the process that draws ended by SIGABRT"
    assert said in line
    page = (report / "index.html").read_text("utf-8")
    assert said in page
    assert not [*(report / "export").glob("groups.*g")]
    assert {"trend.svg", "trend.pdf", "trend.png", "contrasts.svg", "groups.tex"} <= set(os.listdir(report / "export"))
    assert len(pd.read_csv(report / "groups.csv")) == 2
    assert json.loads((report / "verdict.json").read_text())["groups"]
