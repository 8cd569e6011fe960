"""The documentation site: every page is in it, the gallery shows reports of what they claim to be, the built pages open
from the disk without a network, at any width."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
import yaml

from bench import browser

ROOT = Path(__file__).parents[1]
CHROMIUM = browser.find()


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    """docs/site/gallery.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs/site/gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["gallery"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(nav: list) -> list[str]:
    """The pages of a navigation, in order."""
    values = [value for entry in nav for value in entry.values()]
    return [page for value in values for page in ([value] if isinstance(value, str) else pages_of(value))]


def test_every_page_has_one_place_in_the_navigation():
    nav = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), yaml.BaseLoader)["nav"]
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages_of(nav)) == sorted([*pages, "manual.md", "gallery.md", "contributing.md", "changelog.md"])


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))],
                         ids=lambda page: page.name)  # fmt: skip
def test_addresses_of_other_sites_are_well_formed(page):
    for address in re.findall(r"\]\((https?:[^)]*)\)", page.read_text("utf-8")):
        parts = urlsplit(address)
        assert parts.scheme == "https", address
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), address
        assert not re.search(r"\s", address), address


# --- the gallery


def test_every_sweep_is_shown_with_its_question_its_result_and_its_command(gallery, tmp_path):
    sweeps = gallery.shown(ROOT, tmp_path)
    assert {sweep.file for sweep in sweeps} == {
        file.relative_to(ROOT).as_posix() for file in (ROOT / "sweeps").rglob("*.yaml")
    }
    assert len({sweep.slug for sweep in sweeps}) == len(sweeps)
    page = gallery.page(sweeps)
    for sweep in sweeps:
        assert sweep.question.endswith(("?", ")"))
        assert sweep.header["Result"]
        assert f"\npython -m ray_robust.sweep {sweep.file}" in page
        assert f"#{sweep.slug} data-toc-label" in page
    assert "Open the report" not in page


RUN = """# Question: Is it so?
# Run:      python -m ray_robust.sweep sweeps/one.yaml      (takes a while)
#           python -m analysis runs/one
# Result:   It is * so *,
#           and R^2 < 1.
task: {name: camera-traps, root: $DATA/traps}
pretrain: {sources: {species: 1}, num_images: {grid: [1000, 4k]}}
finetune: {lr: 3e-4}
seeds: 2
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with a sweep and a finished run of it."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/one.yaml").write_text(RUN)
    (tmp_path / "runs/one/report").mkdir(parents=True)
    (tmp_path / "runs/one/report/index.html").write_text("<p>the report")
    (tmp_path / "runs/one/report/trend.svg").write_text("<svg/>")
    said = {"scores": {"deployment": {"text": "a_b gains."}, "robustness": "And ER."}}
    (tmp_path / "runs/one/report/verdict.json").write_text(json.dumps(said))
    (tmp_path / "runs/one/run.json").write_text('{"invocations": [{"started": "2026-11-28T22:34:53+00:00"}]}')
    write_spec(tmp_path, "python -m ray_robust.sweep sweeps/one.yaml")
    return tmp_path


def write_spec(checkout: Path, command: str, grid: tuple[str, ...] = ("1k", "4000")) -> None:
    (checkout / "runs/one/spec.yaml").write_text(yaml.safe_dump({
        "task": {"name": "camera-traps", "shift": 1.0, "root": "/data/traps"},
        "seeds": [1, 2], "finetune": {"lr": "0.0003", "epochs": 3},
        "pretrain": {"sources": {"species": {"weight": 1.0}}, "num_images": {"grid": list(grid)}},
        "provenance": {"command": command, "commit": "abc1234"},
    }))  # fmt: skip


def test_a_finished_run_is_shown_with_its_report(gallery, checkout):
    (sweep,) = gallery.shown(checkout, checkout / "runs")
    assert sweep.report == checkout / "runs/one/report"
    text = gallery.entry(sweep)
    assert "[Open the report](gallery/one/index.html){ .md-button } run 2026-11-28, commit abc1234" in text
    assert "(gallery/one/trend.svg)" in text
    assert "a\\_b gains.\n\nAnd ER.\n" in text
    assert r"Recorded in the sweep's file: It is \* so \*, and R^2 &lt; 1." in text
    assert "```sh" not in text
    assert '    # Question: Is it so?\n' in text  # fmt: skip


def test_a_run_whose_trials_are_not_all_done_says_so(gallery, checkout):
    (checkout / "runs/one/plan.csv").write_text("trial,seed\na,1\nb,2\n")
    (checkout / "runs/one/trials/a").mkdir(parents=True)
    (checkout / "runs/one/trials/a/done").touch()
    (sweep,) = gallery.shown(checkout, checkout / "runs")
    assert sweep.made == "run 2026-11-28, commit abc1234, 1 of 2 trials done"


def test_a_run_is_looked_for_in_the_folder_that_the_sweep_lies_in_too(gallery, checkout):
    (checkout / "sweeps/photos").mkdir()
    (checkout / "sweeps/one.yaml").rename(checkout / "sweeps/photos/one.yaml")
    write_spec(checkout, "python -m ray_robust.sweep sweeps/photos/one.yaml --out runs/photos/one")
    (checkout / "runs/photos").mkdir()
    (checkout / "runs/one").rename(checkout / "runs/photos/one")
    (sweep,) = gallery.shown(checkout, checkout / "runs")
    assert (sweep.slug, sweep.report) == ("photos-one", checkout / "runs/photos/one/report")


def test_without_a_run_the_command_is_shown(gallery, checkout):
    shutil.rmtree(checkout / "runs")
    (sweep,) = gallery.shown(checkout, checkout / "runs")
    command = "python -m ray_robust.sweep sweeps/one.yaml    # takes a while\npython -m analysis runs/one\n"
    assert f"```sh\n{command}```" in gallery.entry(sweep)


@pytest.mark.parametrize(("command", "grid", "why"), [
    ("python -m ray_robust.sweep mine/one.yaml", ("1k", "4k"), ""),
    ("python -m ray_robust.sweep sweeps/paper/one.yaml", ("1k", "4k"), ""),
    ("python -m ray_robust.sweep sweeps/one.yaml --set task.shift=0", ("1k", "4k"), "it was run with --set"),
    ("python -m ray_robust.sweep sweeps/one.yaml --limit=9", ("1k", "4k"), "it was run with --limit"),
    ("python -m ray_robust.sweep sweeps/one.yaml", ("1k", "8k"), "it was run with another pretrain.num_images.grid"),
    ("python -m ray_robust.sweep sweeps/one.yaml", ("1k",), "it was run with another pretrain.num_images.grid"),
    ("", ("1k", "4k"), ""),
])  # fmt: skip
def test_a_run_of_something_else_is_not_shown(gallery, checkout, command, grid, why):
    write_spec(checkout, command, grid)
    (sweep,) = gallery.shown(checkout, checkout / "runs")
    assert (sweep.report, sweep.instead) == (None, why)
    assert (f"The run in `runs/` is not shown here: {why}.\n" in gallery.entry(sweep)) == bool(why)
    assert "```sh\npython -m ray_robust.sweep" in gallery.entry(sweep)


# --- the site


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one test run have in common."""
    own = factory.getbasetemp()
    return own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site as `make docs` builds it, with a report for sweeps/quickstart.yaml; once for all workers."""
    folder = shared_folder(tmp_path_factory)
    with (folder / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "site/index.html").exists():
            run = folder / "site-runs/quickstart"
            (run / "report/export").mkdir(parents=True, exist_ok=True)
            (run / "report/index.html").write_text("<!doctype html><title>a report</title>")
            (run / "report/export/trend.tex").write_text("%")
            spec = yaml.safe_load((ROOT / "sweeps/quickstart.yaml").read_text("utf-8"))
            spec["provenance"] = {"command": "python -m ray_robust.sweep sweeps/quickstart.yaml"}
            (run / "spec.yaml").write_text(yaml.safe_dump(spec))
            done = subprocess.run(["make", "docs", f"SITE={folder}/site", f"RUNS={folder}/site-runs"], cwd=ROOT,
                                  capture_output=True, text=True, check=False)  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert "WARNING" not in done.stderr.replace("WARNING: Location", "")  # pip's, of indexes that it lacks
    return folder / "site"


@pytest.mark.slow
def test_the_site_holds_every_page_the_reports_and_the_reference(site):
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages | {"manual", "gallery", "contributing", "changelog"} <= {page.stem for page in site.glob("*.html")}
    assert (site / "gallery/quickstart/index.html").read_text() == "<!doctype html><title>a report</title>"
    assert (site / "gallery/quickstart/export/trend.tex").is_file()
    gallery = (site / "gallery.html").read_text("utf-8")
    assert 'href="gallery/quickstart/index.html"' in gallery
    assert "python -m ray_robust.sweep sweeps/granularity.yaml" in re.sub("<[^>]+>", "", gallery)
    reference = (site / "api.html").read_text("utf-8")
    assert "<li><code>labels</code>: int32 [n], index into" in reference
    assert re.search(r'href="cluster.html"', (site / "manual.html").read_text("utf-8"))
    assert not [page.name for page in site.glob("*.html") if "|---|" in page.read_text("utf-8")], "tables are tables"


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.glob("*.html"):
        text = page.read_text("utf-8")
        assert not re.search(r'<(?:script|img|iframe|source)[^>]* src="?(?:https?:)?//', text), page.name
        assert not re.search(r'<link(?![^>]*rel="?(?:next|prev|canonical))[^>]* href="?(?:https?:)?//', text), page.name


@pytest.mark.slow
def test_a_link_that_leads_nowhere_ends_the_build(site, tmp_path):
    for name in ("docs", "ray_robust", "analysis", "sweeps"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for file in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml"]:
        shutil.copy(file, tmp_path)
    with (tmp_path / "docs/verdict.md").open("a") as file:
        file.write("\n[gone](keys.md#no-such-part), [also](no_such_page.md)\n")
    done = subprocess.run([ROOT / ".venv-docs/bin/mkdocs", "build", "--site-dir", tmp_path / "site"], cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode != 0
    assert "Aborted with 2 warnings in strict mode" in done.stderr + done.stdout
    assert "#no-such-part" in done.stderr
    assert "no_such_page.md" in done.stderr


SETTLED = """new Promise(done => {
    const look = () => document.readyState === "complete" && location.pathname.endsWith("/%s")
        ? done() : setTimeout(look, 20);
    look();
})"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_pages_open_from_the_disk_at_any_width_and_search_finds(site):
    with browser.browser(str(CHROMIUM)) as page:
        for width in (1280, 390):
            for file in sorted(set(site.glob("*.html")) - {site / "404.html"}):  # which a server alone shows
                page.look(width=width, dark=width == 390)
                page.call("Page.navigate", url=file.as_uri())
                page.ask(SETTLED % file.name)
                assert page.ask("document.documentElement.scrollWidth") <= width, f"{file.name} is wider than {width}"
                assert page.ask("document.body.dataset.mdColorScheme") == ("slate" if width == 390 else "default")
                loaded = page.ask("performance.getEntriesByType('resource').map(entry => entry.name)")
                assert [name for name in loaded if not name.startswith(("file:", "data:", "blob:"))] == []
        assert page.errors == []
        page.look()
        page.call("Page.navigate", url=f"{(site / 'index.html').as_uri()}?q=holm")
        titles = page.ask("""new Promise(done => {
            const look = () => {
                const found = [...document.querySelectorAll('.md-search-result__link')].map(link => link.href);
                found.length ? done(JSON.stringify(found)) : setTimeout(look, 50);
            };
            look();
        })""")
        assert any("statistics.html" in address or "verdict.html" in address for address in json.loads(titles))
