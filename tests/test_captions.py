"""Captions and legends state what is drawn, from the settings of the analysis; tables get words for tables."""

from __future__ import annotations

import html
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_run import run_folder, sweep
from jsonschema import Draft202012Validator

import analysis.__main__ as command
from analysis.__main__ import Request, report_on
from analysis.formatting import percent
from analysis.input.run_points import read_run
from analysis.report import score_charts
from analysis.report.captions import captions, trend_key
from analysis.report.export import begin_drawing, drawn_figures, figures
from analysis.report.palette import group_styles
from analysis.study import Analysis, analyse_all
from ray_robust.errors import UserError

OF_SWEEPS = r"(?i)\b(trials?|fine-?tun\w*|pre-?train\w*|checkpoints?|sweeps?|epochs?)\b"
HOSTILE = '</title><script>window.hurt = 1</script> & "R\u00b2" \x1b[31m'


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quantity"
    run_folder(folder, sweep({"num_images=1000": -1.0, "num_images=16000": 7.0}))
    return folder


@pytest.fixture(scope="module")
def analysed(run) -> Analysis:
    return analyse_all(*read_run(str(run)))[0]


@pytest.fixture
def table(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    groups = np.repeat(["plain", "more", "other"], [24, 12, 2])
    val = rng.uniform(50, 85, len(groups))
    shifted = 0.9 * val - 8 + rng.normal(0, 0.6, len(groups)) + 4 * (groups == "more")
    names = [f"net {i}" for i in range(len(groups))]
    frame = pd.DataFrame({"net": names, "kind": groups, "val": val, "shifted": shifted, "num_images": 1000})
    frame.to_csv(tmp_path / "scores.csv", index=False)
    return tmp_path / "scores.csv"


def report(table: Path, **asked) -> Path:
    out = table.parent / "out"
    report_on(Request((str(table),), str(out), id="val", ood="shifted", group="kind", baseline="plain", percent=True,
                      **asked))  # fmt: skip
    return out


def visible(page: str) -> str:
    text = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_captions_follow_from_the_settings(analysed):
    own = captions(analysed)
    baseline = analysed.baseline
    assert f"R² {baseline.line.r2:.3f}" in own["trend"]
    assert "Probit axes" in own["trend"]
    assert "were the study repeated with" in own["trend"]
    assert "3 other seeds, which all groups share" in own["trend"]
    assert "±2 points" in own["groups"]
    assert percent(baseline.low) in own["groups"]
    assert "with the highest id_val" in own["scores"]
    for caption in own.values():
        assert "{" not in caption
        assert caption.endswith(".")


def test_captions_without_a_line_claim_none(run):
    points, options = read_run(str(run))
    few = points.points.groupby("group", sort=False).head(1)
    from dataclasses import replace

    analysed = analyse_all(replace(points, points=few, counts=None), options)[0]
    assert analysed.baseline is None
    own = captions(analysed)
    assert "band" not in own["trend"]
    assert "Grey line" not in own["trend"]


@pytest.mark.slow
def test_the_exported_trend_explains_its_bands_dots_and_lines(analysed):
    with ThreadPoolExecutor(1) as drawer:
        drawn, lost = drawn_figures(begin_drawing(figures(analysed), drawer))
    assert not lost
    svg = drawn["trend"]["svg"].decode()
    shown = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    assert set(trend_key(analysed).values()) <= set(shown)
    assert {style.group for style in group_styles(analysed)} <= set(shown)
    width = float(re.search(r'<svg[^>]* width="([\d.]+)"', svg)[1])
    least = min(float(size) for size in re.findall(r'font-size="([\d.]+)px"', svg))
    assert least * 0.75 * (84 / 25.4 * 96) / width > 6, "points, on a column 84 mm wide"


def test_the_figure_of_scores_holds_the_scores(analysed):
    chart = score_charts.of_scores(analysed, group_styles(analysed), 400)["scores"].to_dict()
    rows = [row for values in chart["datasets"].values() for row in values if "group" in row]
    table = analysed.scores.groups.set_index(["group", "score"])
    for row in rows:
        score = table.loc[(row["group"], "ood" if row["ood"] else "id")]
        assert [row[c] for c in ("mean", "low", "high")] == pytest.approx(
            [score[c] / 100 for c in ("mean", "low", "high")], abs=1e-4
        )
    assert len({(row["group"], row["side"]) for row in rows}) == 6
    (dashed,) = (layer for layer in chart["layer"] if "strokeDash" in layer["mark"])
    marked = {round(row["mean"], 3) for row in chart["datasets"][dashed["data"]["name"]]}
    assert marked == {round(table.loc[("scratch", side), "mean"] / 100, 3) for side in ("id", "ood")}


@pytest.mark.slow
def test_a_table_without_a_sweep_has_no_words_of_sweeps(table, capsys):
    out = report(table)
    for text in (visible((out / "index.html").read_text("utf-8")), capsys.readouterr().out):
        assert re.findall(OF_SWEEPS, text) == []
    assert "One mark: one row of the table, 38 in all" in visible((out / "index.html").read_text("utf-8"))


@pytest.mark.slow
def test_a_title_stands_in_page_terminal_and_verdict_and_does_nothing(table, capsys):
    out = report(table, title=f"  {HOSTILE}\n two ")
    page = (out / "index.html").read_text("utf-8")
    shown = HOSTILE.replace("\x1b", r"\x1b") + " two"
    (title,) = re.findall(r"<title>(.*?)</title>", page)
    (heading,) = re.findall(r"<h1><bdi>(.*?)</bdi></h1>", page)
    assert html.unescape(title) == html.unescape(heading) == shown
    assert "<script>window.hurt" not in page
    assert capsys.readouterr().out.startswith(f"{shown}: 38 points, baseline plain")
    verdict = json.loads((out / "verdict.json").read_text("utf-8"))
    assert verdict["title"] == shown
    schema = json.loads((Path(command.__file__).parent / "verdict.schema.json").read_text("utf-8"))
    Draft202012Validator(schema).validate(verdict)
    assert "title" not in json.loads((report(table) / "verdict.json").read_text("utf-8"))


def test_a_title_of_blanks_is_an_error(table):
    with pytest.raises(UserError, match="--title is empty"):
        report(table, title=" \n")


@pytest.mark.slow
def test_a_run_takes_a_title_in_place_of_its_question(run, tmp_path):
    report_on(Request((str(run),), str(tmp_path), title="For the paper"), quiet=True)
    assert "<h1><bdi>For the paper</bdi></h1>" in (tmp_path / "index.html").read_text("utf-8")
