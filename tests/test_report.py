"""The report of a run: every file of the contract, one page that needs nothing else, and names shown as text."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from analysis import charts, summary
from analysis.__main__ import main, report_on
from analysis.study import analyse_all
from analysis.table import read_run
from ray_robust.results import RunFolder
from tests.fake_run import run_folder, sweep

TRENDS = "group,scale,n,slope,slope_low,slope_high,intercept,intercept_low,intercept_high,r2,id_min,id_max,clipped"
CONTRASTS = "a,b,delta_er,low,high,p,p_adjusted,margin,equivalent,smallest_detectable,id_low,id_high"
HOSTILE = ["<script>alert(1)</script>", "</script><b>", "\"quoted\" & 'so'", "x" * 300, "שלום עולם", "a.b[c]\\d\ne"]


class Page(HTMLParser):
    """What a browser would see: elements, text, and what is loaded from where."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self.loaded, self.linked, self.text, self.ids, self._inside = [], [], [], [], [], ""
        self.scripts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.elements.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        self.loaded += [known[k] for k in ("src",) if k in known] + ([known["href"]] if tag == "link" else [])
        self.linked += [known["href"]] if tag == "a" else []
        self._inside = (known.get("id") or tag) if tag in ("script", "style") else ""

    def handle_data(self, data):
        if self._inside:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data
        else:
            self.text.append(data)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = ""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "quantity"
    points = sweep({"num_images=1000": -1.0, "num_images=4000": 3.0, "num_images=16000": 7.0})
    lost = points.loc[points["group"] == "num_images=4000", "trial"].iloc[-1]
    run_folder(run, points, failed={lost: "the loss became NaN at step 310"}, unfinished=1)
    assert main([str(run)]) == 0
    return run / "report"


def test_every_file_of_the_contract(report):
    assert (report / "trends.csv").read_text().splitlines()[0] == TRENDS
    assert (report / "contrasts.csv").read_text().splitlines()[0] == CONTRASTS
    robustness = pd.read_csv(report / "robustness.csv")
    assert list(robustness)[:2] == ["trial", "group"]
    assert list(robustness)[-7:] == ["id", "ood", "expected_ood", "er", "er_low", "er_high", "extrapolated"]
    assert (report / "trend.png").read_bytes()[:4] == b"\x89PNG"
    assert (report / "trend.pdf").read_bytes()[:4] == b"%PDF"
    assert b"<svg" in (report / "trend.svg").read_bytes()[:400]


def test_the_verdict(report):
    verdict = json.loads((report / "verdict.json").read_text())
    assert set(verdict) >= {"scale", "baseline", "groups", "factors", "findings", "warnings"}
    assert set(verdict["groups"]["scratch"]) >= {"n_points", "n_trials", "er", "er_low", "er_high"}
    assert set(verdict["factors"]["num_images"]) >= {"partial_r2", "slope", "low", "high", "p"}
    assert verdict["baseline"]["r2"] > 0.9
    assert any("have not finished yet" in warning for warning in verdict["warnings"])


def test_the_page_needs_nothing_else(report):
    text = (report / "index.html").read_text("utf-8")
    page = Page(text)
    assert page.loaded
    assert all(address.startswith("data:") for address in page.loaded)
    assert "vegaEmbed" in text
    files = [link for link in page.linked if not link.startswith("#")]
    assert all((report / link).is_file() for link in files)
    assert all(link[1:] in page.ids for link in page.linked if link.startswith("#"))
    assert len(page.ids) == len(set(page.ids))
    assert len(text) < 5_000_000


def test_the_page_tells_the_whole_run(report):
    page = Page((report / "index.html").read_text("utf-8"))
    text = re.sub(r"\s+", " ", " ".join(page.text))
    for said in (
        "Does more pre-training data raise effective robustness?", "Pre-training images: +", "mean band, 95 %",
        "prediction band, 95 %", "the loss became NaN at step 310", "1 of 12 trials have not finished yet",
        "rendered by this project, Apache-2.0", "4f1c99d02ab7", "ood_test , 2000 images", "1a2b3c4d",
        "trials_run", "pretrain.num_images.grid", "leave one trial out",
    ):  # fmt: skip
        assert said in text, said
    assert {"main", "nav", "h1", "figure", "figcaption", "table", "button", "details"} <= set(page.elements)


def test_every_chart_has_a_place(report):
    page = Page((report / "index.html").read_text("utf-8"))
    specs = json.loads(page.scripts["charts"])
    assert set(specs) == {"trend-0", "groups-0", "along-0"}
    assert set(specs) <= set(page.ids)
    assert all("http" not in json.dumps({k: v for k, v in s.items() if k != "$schema"}) for s in specs.values())


def test_the_charts_are_valid_vega_lite(report):
    found, options = read_run(str(report.parent))
    analysis = analyse_all(found, options)[0]
    for chart in (charts.trend(analysis, found.keys), charts.by_group(analysis), charts.along(analysis)):
        chart.to_dict(validate=True)


def test_hostile_names_are_text(tmp_path):
    points = sweep(dict.fromkeys(HOSTILE, 1.0))
    lost = points.loc[points["group"] == HOSTILE[0], "trial"].iloc[0]
    run = run_folder(tmp_path / "run", points, failed={lost: "<img src=x onerror=alert(2)>"})
    spec = run.spec() | {"question": "Is <b>bold</b> </title>?", "baseline": "scratch"}
    run.write("spec.yaml", json.dumps(spec))
    report_on(str(tmp_path / "run"), quiet=True)
    text = (tmp_path / "run/report/index.html").read_text("utf-8")
    page = Page(text)
    assert page.elements.count("script") == 3
    assert "b" not in page.elements
    assert page.elements.count("img") == 6  # the sample sheets
    assert "Is <b>bold</b> </title>?" in page.text
    for name in HOSTILE[:5]:
        assert name in page.text
    assert "<img src=x onerror=alert(2)>" in page.text
    assert HOSTILE[0] in json.dumps(json.loads(page.scripts["charts"]), ensure_ascii=False)


def test_a_run_with_nothing_in_it_yet(tmp_path):
    run = run_folder(tmp_path / "run", sweep({"num_images=1000": 0.0}), unfinished=6)
    for name in ("data.json", "run.json"):
        run.storage.delete(name)
    report_on(str(tmp_path / "run"), quiet=True)
    verdict = json.loads((tmp_path / "run/report/verdict.json").read_text())
    assert verdict["findings"] == ["Not established: effective robustness, because no baseline line can be fitted."]
    assert "6 of 6 trials have not finished yet: this is a partial run" in verdict["warnings"]
    assert "There is no point to draw yet." in (tmp_path / "run/report/index.html").read_text()


def test_only_the_baseline_has_run(tmp_path):
    points = sweep({"num_images=1000": 0.0})
    run_folder(tmp_path / "run", points, unfinished=3)
    report_on(str(tmp_path / "run"), quiet=True)
    verdict = json.loads((tmp_path / "run/report/verdict.json").read_text())
    assert list(verdict["groups"]) == ["scratch"]
    assert len((tmp_path / "run/report/contrasts.csv").read_text().splitlines()) == 1


def test_several_tasks_in_one_page(tmp_path):
    points = sweep({"num_images=1000": 1.0})
    other = points.assign(task="second", finetune="second-" + points["finetune"])
    run_folder(tmp_path / "run", pd.concat([points, other], ignore_index=True))
    report_on(str(tmp_path / "run"), quiet=True)
    trends = pd.read_csv(tmp_path / "run/report/trends.csv")
    assert list(trends)[-1] == "task"
    assert set(trends["task"]) == {"camera-traps", "second"}
    assert {"trend-0", "trend-1"} <= set(Page((tmp_path / "run/report/index.html").read_text("utf-8")).ids)


def test_the_same_run_gives_the_same_page(report):
    def contents() -> dict[str, bytes]:  # Altair and Vega number views and clips through the life of a process
        files = {path.name: path.read_bytes() for path in report.iterdir() if path.suffix not in (".pdf", ".svg")}
        return files | {"index.html": re.sub(rb'"view_\d+"', b'"view"', files["index.html"])}

    before = contents()
    report_on(str(report.parent), quiet=True)
    assert contents() == before


def test_the_terminal_summary(report):
    found, options = read_run(str(report.parent))
    console = Console(file=io.StringIO(), width=110, highlight=False)
    summary.show(found, analyse_all(found, options), "report/index.html", console)
    text = console.file.getvalue()
    assert "scratch           probit *" in text
    assert "by construction" in text
    assert "Pre-training images: +" in text
    assert text.splitlines()[-1] == "report: report/index.html"


def test_flags_of_the_command_change_the_scale_and_say_so(report, tmp_path):
    report_on(str(report.parent), scale="logit", margin=1.0, out=str(tmp_path / "out"), quiet=True)
    verdict = json.loads((tmp_path / "out/verdict.json").read_text())
    assert (verdict["scale"], verdict["margin"]) == ("logit", 1.0)
    assert "scale is logit, asked for on the command line; the spec had set probit" in verdict["warnings"]
    assert RunFolder(report.parent).exists("report/index.html")
