"""The report's page as a reader has it: drawn, narrow and dark, by mouse and by keyboard. Skips without a Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.__main__ import Request, report_on
from bench import browser
from tests.fake_run import run_folder, sweep
from tests.test_report import HOSTILE

PROGRAM = browser.find()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quantity"
    points = sweep({"num_images=1000": -1.0, "num_images=4000": 3.0, "num_images=16000": 7.0})
    points["id_accuracy"], points["ood_accuracy"] = points["id"] * 0.9, points["ood"] * 0.9
    run_folder(folder, points)
    report_on(Request((str(folder),)), quiet=True)
    return folder


@pytest.fixture(scope="module")
def tab():
    with browser.browser(str(PROGRAM)) as page:
        yield page


@pytest.fixture
def page(tab, run):
    tab.errors.clear()
    tab.look()
    tab.open(run / "report/index.html")
    yield tab
    assert tab.errors == []


def test_every_chart_is_drawn_in_colours_of_the_page(page, run):
    count = "document.querySelectorAll('.chart svg.marks').length"
    assert page.ask(count) == 11
    label = "getComputedStyle(document.querySelector('.chart .role-axis-label text')).fill"
    light = page.ask(label)
    page.look(dark=True)
    page.open(run / "report/index.html")
    assert page.ask(count) == 11
    assert page.ask(label) != light


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_sticks_out_of_the_window(page, run, width):
    page.look(width=width, height=844)
    page.open(run / "report/index.html")
    assert page.ask("document.documentElement.scrollWidth") <= width
    ends = page.ask("[...document.querySelectorAll('.chart svg')].map((e) => e.getBoundingClientRect().right)")
    assert max(ends) <= width


def test_a_press_on_a_point_tells_its_trial(page):
    place = page.ask("""(() => {
        const chart = document.getElementById("trend-0");
        chart.scrollIntoView({block: "center", behavior: "instant"});
        const points = [...chart.querySelectorAll(".mark-symbol path")];
        const point = points.find((path) => path.getAttribute("opacity") !== "0" && !path.closest(".role-legend")
            && path.getBoundingClientRect().width > 0);
        const box = point.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    })()""")
    lines = "document.querySelectorAll('#trend-0 .mark-line path').length"
    before = page.ask(lines)
    page.click(*place)
    page.ask("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.ask(lines) == before + 3  # its way along each fine-tuning
    panel = "document.querySelector('.detail').innerText"
    picked = page.ask("document.querySelector('select[data-set=picked]').value")
    assert picked
    assert picked in page.ask(panel)
    assert len(page.ask("[...document.querySelectorAll('.detail tbody tr')].map((row) => row.innerText)")) == 12
    page.press("Escape")
    assert page.ask("document.querySelector('.detail').hidden") is True


def test_the_keyboard_reaches_everything(page):
    reached = set()
    for _ in range(80):
        page.press("Tab")
        reached.add(
            page.ask("""(() => {
            const at = document.activeElement;
            return at.dataset.set || at.dataset.save || (at.dataset.group && "chip") || (at.closest("th") && "sort")
                || (at.className === "scroll" && "table") || at.tagName;
        })()""")
        )
    assert {"A", "chip", "scale", "metric", "picked", "svg", "png", "table", "sort"} <= reached


def test_tables_are_sorted_by_the_keyboard(page):
    rows = "[...document.querySelector('#levels-0 table').querySelectorAll('tbody tr')]"
    column = f"{rows}.map((row) => row.cells[1].innerText)"
    page.ask("document.querySelectorAll('#levels-0 thead button')[1].focus()")
    page.press("Enter")
    rising = [float(text.replace("−", "-")) for text in page.ask(column)]
    assert rising == sorted(rising)
    assert page.ask("document.querySelectorAll('#levels-0 thead th')[1].getAttribute('aria-sort')") == "ascending"
    page.press("Enter")
    assert [float(text.replace("−", "-")) for text in page.ask(column)] == rising[::-1]


def test_another_metric_on_another_scale(page, run):
    switch = """(async () => {
        delete document.documentElement.dataset.drawn;
        const choice = document.querySelector("select[data-set=%s]");
        choice.value = "%s";
        choice.dispatchEvent(new Event("change", {bubbles: true}));
        while (!document.documentElement.dataset.drawn) await new Promise((done) => setTimeout(done, 20));
        return [document.querySelector(".other").innerText,
          [...document.querySelectorAll("#trend-0 .role-axis-label text")].map((e) => e.textContent)];
    })()"""
    told, labels = page.ask(switch % ("metric", "accuracy"))
    assert told.startswith("accuracy on probit axes: R² of the baseline line ")
    assert told.endswith("To compare only: the verdict is about macro-F1 on probit axes, as set beforehand.")
    assert all(label.endswith(" %") for label in labels)
    told, _ = page.ask(switch % ("scale", "linear"))
    assert told.startswith("accuracy on linear axes")
    page.ask(switch % ("scale", "probit"))
    assert page.ask(switch % ("metric", "macro_f1"))[0] == ""


def test_a_group_is_switched_off_in_every_figure(page):
    page.ask("""document.querySelector(".chips button[data-group='num_images=4000']").click()""")
    page.ask("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seen = page.ask("""[...document.querySelectorAll("#trend-0 .mark-symbol path")].map((e) => Number(
        getComputedStyle(e).opacity) * Number(e.getAttribute("opacity") ?? 1))""")
    assert sum(opacity == 0 for opacity in seen) == 36
    assert page.ask("document.querySelectorAll('.chips button')[2].getAttribute('aria-pressed')") == "false"


def test_a_figure_saves_itself(page, tmp_path):
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for kind, start in (("svg", b"<svg"), ("png", b"\x89PNG")):
        page.ask(f"document.querySelector('.save[data-chart=\"groups-0\"] [data-save={kind}]').click()")
        file = tmp_path / f"groups-0.{kind}"
        for _ in range(500):
            if file.is_file():
                break
            page.ask("new Promise((done) => setTimeout(done, 50))")
        assert file.read_bytes().startswith(start)


def test_a_finding_leads_to_its_row(page):
    links = page.ask("document.querySelectorAll('.findings a').length")
    led = []
    for i in range(links):
        page.ask(f"document.querySelectorAll('.findings a')[{i}].click()")
        text = page.ask(f"document.querySelectorAll('.findings a')[{i}].closest('li').innerText")
        row = page.ask("document.querySelector('tr:target').innerText")
        of, *_ = row.split("\t")[0].split(" − ")
        assert of.lower() in text.lower()
        led.append(of)
    assert {"num_images=16000", "pre-training images"} <= set(led)


def test_hostile_names_do_nothing(tab, tmp_path):
    points = sweep(dict.fromkeys(HOSTILE, 2.0), trials=2)
    run_folder(tmp_path / "run", points)
    report_on(Request((str(tmp_path / "run"),)), quiet=True)
    tab.errors.clear()
    tab.look(width=390)
    tab.call("Page.addScriptToEvaluateOnNewDocument", source="window.alert = () => { window.hurt = true; };")
    tab.open(tmp_path / "run/report/index.html")
    assert tab.ask("window.hurt") is None
    assert tab.ask("document.documentElement.scrollWidth") <= 390
    assert tab.ask("document.querySelectorAll('.chart svg.marks, .chart canvas').length") >= 3
    shown = tab.ask("[...document.querySelectorAll('.chips bdi')].map((e) => e.textContent)")
    assert set(shown) == {"scratch", *HOSTILE}
    tab.ask("""(() => {
        const choice = document.querySelector("select[data-set=picked]");
        choice.selectedIndex = 4;
        choice.dispatchEvent(new Event("change", {bubbles: true}));
    })()""")
    assert json.dumps(tab.ask("document.querySelector('.detail').innerText"))
    assert tab.ask("document.querySelectorAll('.detail script, .detail b').length") == 0
    assert tab.errors == []


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_what_to_do_is_on_the_first_screen_of_a_refusal(tab, tmp_path, width, height):
    points = sweep({"num_images=1000": -1.0, "num_images=4000": 3.0}, noise_sd=0.15, trial_sd=0.1)
    run_folder(tmp_path / "poor", points)
    report_on(Request((str(tmp_path / "poor"),)), quiet=True)
    tab.look(width=width, height=height)
    tab.open(tmp_path / "poor/report/index.html")
    advice = "document.querySelector('.answer .next .cost').getBoundingClientRect().bottom"  # the action and its cost
    assert 0 < tab.ask(advice) < height
    assert tab.ask("document.querySelector('.advice pre').innerText").startswith("baseline:")
    assert tab.ask("document.documentElement.scrollWidth") <= width
