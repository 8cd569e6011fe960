"""The report while a sweep runs: what it is marked with, how often it is written, and what a kill leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path

import fake_run
import pytest
from jsonschema import Draft202012Validator

from analysis.input import join_runs
from analysis.interface import interim as program
from analysis.report import output
from analysis.report.terminal import show
from analysis.study import analyse_all
from analysis.verdict import verdict
from ray_robust.files.storage import Storage
from ray_robust.launch.monitor import interim_reports
from ray_robust.launch.monitor.interim_reports import InterimReports
from ray_robust.run import lease, sweep_progress
from ray_robust.run.run_folder import RunFolder
from ray_robust.text.console import Screen
from tests.make_remote import Remote

GROUPS = {"num_images=1000": 0.0, "num_images=4000": 9.0}
SCHEMA = json.loads((Path(output.__file__).parents[1] / "verdict.schema.json").read_text())
LABEL = "Interim, 7 of 9 trials"


def simulated(path, unfinished=2):
    """A run of nine trials with an effect that is plain to see."""
    return fake_run.run_folder(path, fake_run.sweep(GROUPS, trial_sd=0.001, noise_sd=0.001), unfinished=unfinished)


def analysed(run):
    table, options = join_runs.read_runs((run.storage.address,))
    analyses = analyse_all(table, options)
    return table, analyses, verdict(analyses, table)


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    return analysed(simulated(tmp_path_factory.mktemp("partial") / "run"))


def kinds(made):
    every = (*made["findings"], *made["scores"]["findings"], made["scores"]["deployment"])
    return {one["kind"] for one in every}


@pytest.mark.slow
def test_no_claim_is_made_before_the_missing_trials_are_in(partial, tmp_path):
    table, (analysis,), made = partial
    whole = analysed(simulated(tmp_path / "run", unfinished=0))[2]
    assert "differs" in kinds(whole), "the same numbers are a finding of a run that is complete"
    assert "interim" not in whole
    assert kinds(made) <= {"fragile", "open"}
    claims = [one for one in made["findings"] if one["kind"] == "fragile"]
    assert claims
    assert all("missing trials" in one["not_robust_to"] for one in claims)
    assert all(one["text"].startswith(f"{LABEL}: ") for one in made["findings"])
    assert all("before the missing trials are in" in one["text"] for one in claims)
    assert made["scores"]["deployment"]["text"].startswith(f"{LABEL}: On the shifted test")
    assert made["scores"]["robustness"].startswith(f"{LABEL}: ")
    assert set(analysis.contrasts["not_robust_to"]) & {"missing trials"}
    assert made["advice"][0]["reason"] == "interim"
    assert "few_seeds" not in {one["reason"] for one in made["advice"]}
    assert table.interim.groups == {"num_images=4000": (1, 3)}


def test_the_verdict_says_what_is_missing(partial):
    made = partial[2]
    assert made["interim"] == {
        "written": partial[0].interim.date, "running": False, "trials_ended": 7, "trials": 9,
        "groups": {"num_images=4000": {"ended": 1, "planned": 3}},
        "missing": "7 of 9 trials have ended. Still to come: 6 of 27 fine-tunings. Groups that lack trials: "
                   "num_images=4000: 1 of 3.",
    }  # fmt: skip
    Draft202012Validator(SCHEMA).validate(made)


def test_the_terminal_says_it_first(partial):
    table, analyses, _ = partial
    out = Screen(record=True, file=open(os.devnull, "w"), width=120)  # noqa: SIM115
    show(table, analyses, "x/index.html", console=out)
    lines = out.export_text().splitlines()
    assert lines[0].startswith(LABEL)
    assert lines[1].strip().startswith("7 of 9 trials have ended. Still to come: ")
    assert lines[2].strip().startswith("The sweep was not running then; the same command continues it.")


def drive(run, pid=1):
    """A driver that runs in another process."""
    run.storage.write_json("lease.json", {"host": lease.platform.node(), "space": lease._space(), "pid": pid,
                                          "began": lease._began(pid), "id": "x", "time": 1.0})  # fmt: skip


def test_a_search_is_interim_while_its_driver_runs(tmp_path):
    run = simulated(tmp_path / "run", unfinished=0)
    assert join_runs.read_runs((run.storage.address,))[0].interim is None
    drive(run)
    sweep_progress.write_progress(run.storage, sweep_progress.SweepProgress(time.time(), 40, 60.0))
    running = join_runs.read_runs((run.storage.address,))[0].interim
    assert (running.label, running.running, running.work) == ("Interim, 9 of 40 trials", True, "")
    drive(run, os.getpid())  # the sweep's own last report
    assert join_runs.read_runs((run.storage.address,))[0].interim is None


@pytest.mark.slow
def test_joined_runs_say_which_is_not_complete(tmp_path):
    whole, partial = simulated(tmp_path / "whole", unfinished=0), simulated(tmp_path / "half", unfinished=2)
    table, _ = join_runs.read_runs((whole.storage.address, partial.storage.address))
    assert table.interim.label == "Interim, 7 of 9 trials of half"
    two, _ = join_runs.read_runs((partial.storage.address, simulated(tmp_path / "third", 8).storage.address))
    assert two.interim.label == "Interim, 8 of 18 trials of half and third"
    assert two.interim.groups["num_images=4000 (half)"] == (1, 3)


# --- the files


def page_of(run):
    return (run.storage.read("report/index.html") or b"").decode()


def files_of(page):
    """What a page links to beside itself."""
    return sorted(set(re.findall(r'href="(interim/[^"]*|[\w/]+\.(?:csv|json|svg|pdf|png|tex))"', page)))


@pytest.mark.slow
def test_the_page_says_it_on_top_and_offers_to_reload(tmp_path):
    run = simulated(tmp_path / "run")
    drive(run)
    program.main([run.storage.address])
    page = page_of(run)
    head = page[: page.index("<header>")]
    assert f"<title>{LABEL}: " in head
    assert f"<strong>{LABEL}.</strong> Written " in head
    assert '<a class="reload" href="">Reload</a>' in head
    assert "num_images=4000: 1 of 3" in head
    assert "Nothing here is a finding" in head
    assert page.count(f'"title":"{LABEL}') >= 4, "every chart, as it is shown and saved"
    assert f'aria-label="{LABEL}. ' in page, "every table"
    links = files_of(page)
    assert all(link.startswith("interim/") for link in links)
    assert all(run.storage.exists(f"report/{link}") for link in links)
    assert "interim" in json.loads(run.storage.read(f"report/{next(one for one in links if 'verdict' in one)}"))
    assert not run.storage.exists("report/verdict.json"), "the verdict of a sweep is that of its end"


@pytest.mark.slow
def test_the_exports_of_a_partial_run_are_marked_and_those_of_a_whole_one_are_not(tmp_path):
    for unfinished, marked in ((2, True), (0, False)):
        run = simulated(tmp_path / f"run{unfinished}", unfinished)
        table, analyses, made = analysed(run)
        output.write(f"{run.storage.address}/report", table, analyses, made)
        folder = tmp_path / f"run{unfinished}/report"
        texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".svg", ".tex")]
        assert texts
        assert all((LABEL in text) == marked for text in texts)
        page = page_of(run)
        assert ("This report is interim" in page) == marked
        assert "Reload" not in page, "nothing runs"
        assert ("interim" in json.loads((folder / "verdict.json").read_text())) == marked


@pytest.mark.slow
def test_a_report_that_comes_after_the_sweep_is_not_written(tmp_path, monkeypatch):
    run = simulated(tmp_path / "run")
    program.main([run.storage.address])
    assert not run.exists("report"), "no driver runs it"
    drive(run)
    monkeypatch.setattr(program, "verdict", lambda *given: (run.storage.delete("lease.json"), {"advice": [[]]})[1])
    monkeypatch.setattr("analysis.report.page.sections", lambda *given: None)
    monkeypatch.setattr("analysis.report.page.render", lambda *given, **more: "page")
    monkeypatch.setattr(output, "csv_tables", lambda *given: {})
    program.main([run.storage.address])
    assert not run.exists("report"), "it ended while the report was made"


class Killed(BaseException):
    """What ends a process at once."""


@pytest.mark.parametrize("storage", [Storage, Remote])
def test_a_kill_leaves_the_old_report_or_the_new_one_whole(tmp_path, monkeypatch, storage):
    """The page and every file that it links to are of one writing, whichever write or removal is the last one."""
    monkeypatch.setattr(output, "Storage", storage)
    monkeypatch.setattr(output, "csv_tables", lambda *given: {"a.csv": frame, "b.csv": frame})
    monkeypatch.setattr(output, "_part", lambda analysis, advice: analysis)
    frame = fake_run.sweep({}).head(1)
    (tmp_path / "run").mkdir()

    class Part:
        analysis = views = line = None

    def write(version):
        stamp = {"at": None}

        def render(table, parts, sections, beside, notes=(), within=""):
            stamp["at"] = within
            return f"{version} " + " ".join(f'<a href="{within}{name}">' for name in beside)

        monkeypatch.setattr("analysis.report.page.sections", lambda *given: None)
        monkeypatch.setattr("analysis.report.page.render", render)
        monkeypatch.setattr(output.os, "getpid", lambda: version)
        output.write_interim(str(tmp_path / "run"), None, [Part()], {"advice": [], "version": version})

    def check(versions):
        page = (tmp_path / "run/index.html").read_text()
        version = int(page.split()[0])
        assert version in versions
        links = files_of(page)
        assert len(links) == 3
        for link in links:
            text = (tmp_path / "run" / link).read_text()
            assert json.loads(text)["version"] == version if link.endswith(".json") else text
        return version

    write(1)
    assert check({1}) == 1
    seen = set()
    for last in range(1, 9):
        calls = [0]

        def counted(name, true, calls=calls, last=last):
            def call(self, *given, **more):
                calls[0] += 1
                if calls[0] > last:
                    raise Killed
                return true(self, *given, **more)

            return call

        with monkeypatch.context() as patch:
            for name in ("write", "delete"):
                patch.setattr(Storage, name, counted(name, getattr(Storage, name)))
            with contextlib.suppress(Killed):
                write(1 + last)
        seen.add(check(set(range(1, 2 + last))) == 1 + last)
    assert seen == {True, False}, "some kills come before the page is written, and some after"
    write(99)
    check({99})
    assert len(list((tmp_path / "run/interim").iterdir())) == 1, "nothing of the killed ones is left"


# --- how often


class Process:
    """A process that writes a report: ends when it is told to."""

    def __init__(self, started):
        self.started, self.code, self.killed, self.seconds = started, None, False, 0.0

    def poll(self):
        return self.code

    def stop(self):
        self.killed, self.code, self.seconds = True, -9, 1.0


class Driver:
    """The reports of a run, a clock, and the processes that were started."""

    def __init__(self, fails=""):
        self.now, self.made, self.lines, self.fails = 0.0, [], [], fails
        self.reports = InterimReports("run", self.lines.append, lambda: self.now, self.start)

    def start(self, address, complaints):
        complaints.write(self.fails.encode())
        self.made.append(Process(self.now))
        return self.made[-1]

    def passes(self, seconds, ended, takes=4.0, code=0, left=None, busy=1.0):
        """Look every second while the time passes; each report takes so many seconds of a processor, and on a busy
        machine more time."""
        for _ in range(int(seconds)):
            self.now += 1.0
            if self.made and self.now - self.made[-1].started >= takes * busy and self.made[-1].code is None:
                self.made[-1].code, self.made[-1].seconds = code, takes
            self.reports.update(ended() if callable(ended) else ended, left)


def test_reports_take_no_more_than_their_share_of_the_time():
    driver = Driver()
    shares = []
    for _ in range(40):
        driver.passes(100, ended=lambda: int(driver.now))
        shares.append(driver.reports.share)
    assert driver.reports.written > 10
    assert max(shares) <= interim_reports.SHARE
    assert driver.reports.spent == pytest.approx(4.0 * driver.reports.written)
    assert shares[-1] > 0.9 * interim_reports.SHARE, "as often as the share allows"


def test_a_slow_report_is_written_less_often():
    driver = Driver()
    driver.passes(20_000, ended=lambda: int(driver.now), takes=60.0)
    assert driver.reports.share <= interim_reports.SHARE
    assert 3 <= driver.reports.written <= 7


def test_a_busy_machine_makes_reports_late_and_not_dear():
    driver = Driver()
    driver.passes(4000, ended=lambda: int(driver.now), busy=40.0)
    assert driver.reports.written > 10
    assert driver.reports.share <= interim_reports.SHARE
    assert sum(process.code is None for process in driver.made) <= 1, "one at a time"


def test_nothing_is_written_again_unless_a_trial_has_ended():
    driver = Driver()
    driver.passes(1000, ended=0)
    assert driver.made == []
    driver.passes(1000, ended=3)
    driver.passes(1000, ended=3)
    assert len(driver.made) == 1
    driver.passes(10, ended=4)
    assert len(driver.made) == 2


def test_a_last_report_comes_soon_enough():
    driver = Driver()
    driver.passes(1000, ended=3, left=interim_reports.NEAR * interim_reports.FIRST - 1)
    assert driver.made == []


def test_a_report_that_fails_is_a_line_once_and_the_next_one_is_tried():
    driver = Driver(fails="trace\nruns/x/plan.csv: is damaged\n\n")
    driver.passes(3000, ended=lambda: int(driver.now), code=2)
    assert len(driver.made) > 3
    assert driver.lines == ["no report while it runs: runs/x/plan.csv: is damaged"]
    assert driver.reports.written == 0
    assert driver.reports.share <= interim_reports.SHARE, "what failed costs time too"
    driver.fails = ""
    driver.passes(1000, ended=lambda: int(driver.now), code=-11)
    assert driver.lines[1:] == ["no report while it runs: the process that writes it ended with code -11"]


def test_where_no_process_can_be_started_the_sweep_goes_on():
    lines = []

    def start(address, complaints):
        raise OSError(12, "Cannot allocate memory")

    clock = iter(range(0, 10_000, 500))
    reports = InterimReports("run", lines.append, lambda: next(clock), start)
    for ended in range(1, 5):
        reports.update(ended)
    assert lines == ["no report while it runs: Cannot allocate memory"]
    reports.close()


def test_a_full_temporary_folder_costs_the_report_alone(monkeypatch):
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(interim_reports.tempfile, "TemporaryFile", full)
    lines, clock = [], iter(range(0, 10_000, 500))
    reports = InterimReports("run", lines.append, lambda: next(clock))
    for ended in range(1, 5):
        reports.update(ended)
    assert lines == ["no report while it runs: No space left on device"]
    reports.close()


def test_a_report_that_is_being_written_ends_with_the_sweep():
    driver = Driver()
    driver.passes(450, ended=1, takes=1e9)
    driver.reports.close()
    assert driver.made[-1].killed
    assert driver.reports.spent > 0
    driver.reports.close()


@pytest.mark.slow
def test_the_process_writes_a_report(tmp_path):
    run = simulated(tmp_path / "run")
    drive(run)
    with open(tmp_path / "complaints", "w+b") as complaints:
        process = interim_reports.ReportProcess(run.storage.address, complaints)
        assert process.wait() == 0, (tmp_path / "complaints").read_text()
    assert process.seconds > 0
    assert LABEL in page_of(RunFolder(run.storage))
    with open(tmp_path / "complaints", "w+b") as complaints:
        assert interim_reports.ReportProcess(str(tmp_path / "none"), complaints).wait() == 2
    assert "no run folder" in (tmp_path / "complaints").read_text()
