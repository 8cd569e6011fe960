"""The report of a run: every file of the contract, one page that needs nothing else, and names shown as text."""

from __future__ import annotations

import html
import io
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from analysis import views
from analysis.__main__ import Request, main, report_on
from analysis.input.run_points import read_run
from analysis.report import charts, latex, page_data, terminal
from analysis.report.export import slug
from analysis.report.tables import report_table
from analysis.stats.check_words import holds
from analysis.study import analyse_all
from ray_robust.errors import UserError
from ray_robust.run import interim
from ray_robust.run.run_folder import RunFolder
from tests.fake_run import run_folder, sweep

pytestmark = pytest.mark.slow  # of one report or trial that takes seconds to make

TRENDS = "group,scale,n,slope,slope_low,slope_high,intercept,intercept_low,intercept_high,r2,id_min,id_max,clipped"
CONTRASTS = (
    "a,b,delta_er,low,high,p,p_adjusted,margin,equivalent,smallest_detectable,id_low,id_high,survived,not_robust_to"
)
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
    points["id_accuracy"], points["ood_accuracy"] = points["id"] + 0.02, points["ood"] + 0.03
    lost = points.loc[points["group"] == "num_images=4000", "trial"].iloc[-1]
    made = run_folder(run, points, failed={lost: "the loss became NaN at step 310"}, unfinished=1)
    made.trial(points["trial"].iloc[0]).storage.write("log.txt", "a line")
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
        "Does more pre-training data raise effective robustness?", "Pre-training images: +",
        "95 % interval of that line", "95 % prediction band", "the loss became NaN at step 310",
        "1 of 12 trials have not finished yet",
        "rendered by this project, Apache-2.0", "4f1c99d02ab7", "ood_test , 2,000 images", "1a2b3c4d",
        "trials_run", "pretrain.num_images.grid", "leave one trial out", "Other metrics and scales",
        "What the intervals are made of", "Do they lie on one line?", "±2 points",
    ):  # fmt: skip
        assert said in text, said
    assert {"main", "nav", "h1", "figure", "figcaption", "table", "button", "details"} <= set(page.elements)


def test_every_chart_has_a_place(report):
    page = Page((report / "index.html").read_text("utf-8"))
    specs = {name: chart["spec"] for name, chart in json.loads(page.scripts["data"])["charts"].items()}
    of_line = {"curve-0", "epochs-0", "rates-0", "scatter-0", "gaps-0"}  # no reliability: macro-F1 has no counts here
    assert set(specs) == {"scores-0", "trend-0", "groups-0", "along-0", "contrasts-0", "factors-0"} | of_line
    assert set(specs) <= set(page.ids)
    assert all("http" not in json.dumps({k: v for k, v in s.items() if k != "$schema"}) for s in specs.values())


def test_every_figure_is_there_for_a_paper(report):
    for name in ("trend", "groups", "along", "contrasts", "factors"):
        starts = {"svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG"}
        assert all((report / f"export/{name}.{e}").read_bytes().startswith(start) for e, start in starts.items())
    text = (report / "export/contrasts.tex").read_text("utf-8")
    assert r"num\_images=16000 $-$ 4000 & " in text
    assert text.count(r" \\") == 1 + len(pd.read_csv(report / "contrasts.csv"))
    assert {r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:contrasts}"} <= set(text.splitlines())


def test_every_finding_points_to_its_row(report):
    text = (report / "index.html").read_text("utf-8")
    page, verdict = Page(text), json.loads((report / "verdict.json").read_text())
    scores = verdict["scores"]
    rest = [*scores["findings"], *verdict["findings"]]
    stated = [
        scores["deployment"],
        verdict["findings"][0],
        *rest,
    ]  # as they follow
    linked = [one for one in stated if {*one["row"]} != {"b", "score", "family"}]  # that is about several rows
    links = re.findall(r'class="source" href="#([^"]+)">([^<]+)</a>', text)
    assert len(links) == len(linked)
    survived = [holds(one["survived"], "trial") for one in (stated[0], *rest) if one["survived"]]
    assert survived
    assert [html.unescape(one) for one in re.findall(r"<small>(Stays true [^<]+)</small>", text)] == survived
    for (place, said), evidence in zip(links, linked, strict=True):
        assert place in page.ids
        name, row = said.split(", row ")
        rows = pd.read_csv(report / f"{name}.csv")
        assert evidence["table"] == f"{name}.csv"
        assert {key: rows[key].iloc[int(row) - 1] for key in evidence["row"]} == evidence["row"]


def test_what_the_script_draws_from(report):
    found, options = read_run(str(report.parent))
    analysis = analyse_all(found, options)[0]
    page = page_data.figure_data(analysis, views.views(analysis), found, RunFolder(report).storage)
    assert page["chosen"] == {"metric": "macro_f1", "label": "macro-F1", "scale": "probit"}
    assert {metric: list(scales) for metric, scales in page["views"].items()} == {
        metric: ["probit", "logit", "linear"] for metric in ("macro_f1", "accuracy")
    }
    assert set(page["keys"].values()) == {"trial", "seed", "finetune", "epoch"}
    columns = page["columns"]
    for i in (0, 50, len(found.points) - 1):
        row, view = analysis.points.iloc[i], page["views"]["macro_f1"]["probit"]
        assert columns["trial"]["levels"][columns["trial"]["codes"][i]] == row["trial"]
        assert page["metrics"]["macro_f1"]["ood"][i] == pytest.approx(row["ood"], abs=1e-4)
        assert (view["x"][i], view["er"][i]) == pytest.approx((row["x"], row["er"]), abs=1e-4)
    linear = page["views"]["macro_f1"]["linear"]
    assert linear["x"] == page["metrics"]["macro_f1"]["id"]
    assert linear["note"].startswith("macro-F1 on linear axes: R² of the baseline line 0.")
    name = columns["trial"]["levels"][0]
    assert page["logs"] == {name: {"text": f"trials/{name}/log.txt", "href": f"../trials/{name}/log.txt"}}


def test_other_metrics_are_views(report):
    rows = pd.read_csv(report / "views.csv").query("group == 'num_images=4000'")
    assert len(rows) == 6
    assert rows.loc[rows["chosen"], ["metric", "scale"]].to_numpy().tolist() == [["macro_f1", "probit"]]
    assert rows["er"].between(1, 6).all()


def test_the_charts_are_valid_vega_lite(report):
    found, options = read_run(str(report.parent))
    analysis = analyse_all(found, options)[0]
    keys = page_data.tooltip_columns(analysis, found)
    drawn = charts.of_task(analysis, views.views(analysis), keys, "container", legend=False)
    assert list(drawn) == ["trend", "groups", "along", "contrasts", "factors"]
    for chart in drawn.values():
        chart.to_dict(validate=True)


@pytest.mark.slow
def test_hostile_names_are_text(tmp_path):
    points = sweep(dict.fromkeys(HOSTILE, 1.0))
    lost = points.loc[points["group"] == HOSTILE[0], "trial"].iloc[0]
    run = run_folder(tmp_path / "run", points, failed={lost: "<img src=x onerror=alert(2)>"})
    spec = run.spec() | {"question": "Is <b>bold</b> </title>?", "baseline": "scratch"}
    run.write("spec.yaml", json.dumps(spec))
    report_on(Request((str(tmp_path / "run"),)), quiet=True)
    text = (tmp_path / "run/report/index.html").read_text("utf-8")
    page = Page(text)
    assert page.elements.count("script") == 3
    assert "b" not in page.elements
    assert page.elements.count("img") == 6  # the sample sheets
    assert "Is <b>bold</b> </title>?" in page.text
    for name in HOSTILE[:5]:
        assert name in page.text
    assert "<img src=x onerror=alert(2)>" in page.text
    data = json.loads(page.scripts["data"])
    assert set(HOSTILE) < set(data["tasks"][0]["columns"]["group"]["levels"])
    assert "<" not in page.scripts["data"]
    for name in (tmp_path / "run/report/export").iterdir():
        assert re.fullmatch(r"[a-z_]+\.(svg|pdf|png|tex)", name.name)


def test_latex_shows_hostile_names_as_they_stand():
    assert latex.escape("a_b & 50% of $x^2 #1 {y} ~ \\z") == (
        r"a\_b \& 50\% of \$x\textasciicircum{}2 \#1 \{y\} \textasciitilde{} \textbackslash{}z"
    )
    assert latex.escape('<a> "b"…') == r"\textless{}a\textgreater{} ''b''\ldots{}"
    assert latex.escape("line\nbreak\x00 -- −3 [x]") == r"line break\textbackslash{}x00 {-}{-} $-$3 {[}x{]}"
    text = latex.table(report_table("t", "50 % of _it_", [{"a & b": "x_1", "n": "+3"}], note="#"), "t")
    assert text.splitlines()[3:9] == [
        r"\caption{50 \% of \_it\_}", r"\label{tab:t}", latex.FIT + r"\begin{tabular}{lr}", r"\toprule",
        r"a \& b & n \\", r"\midrule",
    ]  # fmt: skip
    assert [slug(name) for name in ("Camera Traps/2", "שלום", "x" * 300)] == ["camera-traps-2", "", "x" * 40]


def test_a_run_with_nothing_in_it_yet(tmp_path):
    run = run_folder(tmp_path / "run", sweep({"num_images=1000": 0.0}), unfinished=6)
    for name in ("data.json", "run.json"):
        run.storage.delete(name)
    report_on(Request((str(tmp_path / "run"),)), quiet=True)
    verdict = json.loads((tmp_path / "run/report/verdict.json").read_text())
    (finding,) = verdict["findings"]
    without = "Not established: effective robustness, because no baseline line can be fitted."
    assert finding["text"] == f"Interim, 0 of 6 trials: {without}"
    assert "6 of 6 trials have not finished yet: this is a partial run" in verdict["warnings"]
    assert "There is no point to draw yet." in (tmp_path / "run/report/index.html").read_text()


@pytest.mark.slow
def test_only_the_baseline_has_run(tmp_path):
    points = sweep({"num_images=1000": 0.0})
    run_folder(tmp_path / "run", points, unfinished=3)
    report_on(Request((str(tmp_path / "run"),)), quiet=True)
    verdict = json.loads((tmp_path / "run/report/verdict.json").read_text())
    assert list(verdict["groups"]) == ["scratch"]
    assert len((tmp_path / "run/report/contrasts.csv").read_text().splitlines()) == 1


@pytest.mark.slow
def test_several_tasks_in_one_page(tmp_path):
    points = sweep({"num_images=1000": 1.0})
    other = points.assign(task=HOSTILE[1], finetune="second-" + points["finetune"])
    run_folder(tmp_path / "run", pd.concat([points, other], ignore_index=True))
    report_on(Request((str(tmp_path / "run"),)), quiet=True)
    trends = pd.read_csv(tmp_path / "run/report/trends.csv")
    assert list(trends)[-1] == "task"
    assert set(trends["task"]) == {"camera-traps", HOSTILE[1]}
    made = {name.name for name in (tmp_path / "run/report/export").iterdir()}
    assert {"trend-1-camera-traps.pdf", "trend-2-script-b.svg", "contrasts-2-script-b.tex"} <= made
    assert {"trend-0", "trend-1"} <= set(Page((tmp_path / "run/report/index.html").read_text("utf-8")).ids)


@pytest.mark.slow
def test_the_same_run_at_the_same_time_gives_the_same_page(report, monkeypatch):
    """One trial is missing, so that the page says when it was written."""
    clock = SimpleNamespace(time=lambda: 1.8e9, strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr(interim, "time", clock)

    def contents() -> dict[str, bytes]:  # Altair and Vega number views and clips through the life of a process
        paths = [path for path in report.rglob("*.*") if path.suffix not in (".pdf", ".svg")]
        files = {path.relative_to(report).as_posix(): path.read_bytes() for path in paths}
        provenance = json.loads(files.pop("provenance.json"))  # with checksums of the files as they were written
        assert set(provenance["files"]) > set(files)
        return files | {"index.html": re.sub(rb'"view_\d+"', b'"view"', files["index.html"])}

    report_on(Request((str(report.parent),)), quiet=True)
    before = contents()
    report_on(Request((str(report.parent),)), quiet=True)
    after = contents()
    assert [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)] == []


def test_the_terminal_summary(report):
    found, options = read_run(str(report.parent))
    console = Console(file=io.StringIO(), width=110, highlight=False)
    terminal.show(found, analyse_all(found, options), "report/index.html", console=console)
    text = console.file.getvalue()
    assert "scratch           probit *" in text
    assert "by construction" in text
    assert "Pre-training images: +" in text
    assert text.splitlines()[-1] == "report: report/index.html"


@pytest.mark.slow
def test_flags_of_the_command_change_the_scale_and_say_so(report, tmp_path):
    report_on(Request((str(report.parent),), scale="logit", margin=1.0, out=str(tmp_path / "out")), quiet=True)
    verdict = json.loads((tmp_path / "out/verdict.json").read_text())
    assert (verdict["scale"], verdict["margin"]) == ("logit", 1.0)
    (changed,) = [text for text in verdict["warnings"] if text.startswith("scale is logit")]
    assert changed == (
        "scale is logit: probit was in the spec (when it was set is not recorded), and changed by an option of this "
        "analysis; margin is 1: 2 was in the spec (when it was set is not recorded), and changed by an option of this "
        "analysis"
    )
    assert RunFolder(report.parent).exists("report/index.html")
    data = json.loads(Page((tmp_path / "out/index.html").read_text("utf-8")).scripts["data"])
    (link,) = data["tasks"][0]["logs"].values()  # the log is found from there too
    assert (tmp_path / "out" / link["href"]).resolve() == report.parent.resolve() / link["text"]


@pytest.mark.slow
def test_runs_are_joined(tmp_path):
    points = sweep({"num_images=1000": 1.0, "num_images=4000": 3.0})
    for name, other in (("a", "num_images=4000"), ("b", "num_images=1000")):
        run_folder(tmp_path / name, points[points["group"] != other])
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "joint")]) == 0
    verdict = json.loads((tmp_path / "joint/verdict.json").read_text())
    assert list(verdict["groups"]) == ["scratch", "num_images=1000", "num_images=4000"]
    assert verdict["groups"]["scratch"]["n_trials"] == 3  # the same trials, counted once
    text = " ".join(Page((tmp_path / "joint/index.html").read_text("utf-8")).text)
    assert "a: Versions" in text
    assert "b: Versions" in text


def test_a_table_takes_the_same_way(tmp_path):
    points = sweep({"other": 3.0})[["id", "ood", "group", "trial"]].assign(name=lambda p: "m" + p.index.astype(str))
    points.to_csv(tmp_path / "scores.csv", index=False)
    asked = ["--id", "id", "--ood", "ood", "--group", "group", "--baseline", "scratch", "--cluster", "trial"]
    assert main([str(tmp_path / "scores.csv"), *asked, "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/index.html").read_text("utf-8")
    assert json.loads(Page(text).scripts["data"])["tasks"][0]["keys"] == {"k0": "trial", "k1": "name"}
    assert not (tmp_path / "out/selection.csv").exists()
    assert pd.read_csv(tmp_path / "out/contrasts.csv")["a"].tolist() == ["other"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "{run}"], "several runs are joined: say with --out where their report goes"),
        (["{run}", "t.csv", "--id", "x"], "t.csv: a table is analysed alone; only run folders are joined"),
        (["{run}", "--percent"], "{run}: --percent is for tables; a run folder says it itself"),
        (["{run}", "--scale", "log"], "--scale: 'log' is no scale; did you mean logit?"),
        (["{run}/none"], "{run}/none: no such run folder or table"),
        (["{run}s"], "{run}s: no such run folder or table; did you mean {run}?"),
        (["/dev/null"], "/dev/null: is a device, not a file; wanted: a run folder or a table"),
        ([], "the following arguments are required: RUN_DIR|TABLE.csv; --help shows what there is"),
    ],
)
def test_mistakes_are_said(report, arguments, said):
    run = str(report.parent)
    with pytest.raises(UserError) as told:
        main([argument.format(run=run) for argument in arguments])
    assert said.format(run=run) in str(told.value)


def test_a_run_without_a_trial_says_everything_once(tmp_path, capsys):
    run_folder(tmp_path / "run", sweep({"num_images=1000": 0.0}), unfinished=6)
    assert main([str(tmp_path / "run")]) == 0
    assert "ID range" not in capsys.readouterr().out  # the header of a table without rows
    page = (tmp_path / "run/report/index.html").read_text("utf-8")
    assert page.count("Run the same command again: it runs what is missing.") == 1
    assert "#advice-0" not in page
    assert "Data: ." not in page
