"""The page of a sweep that was killed: nothing writes it again, so that it has to tell its age by itself."""

from __future__ import annotations

import re
import time

import pytest
from test_interim import drive, simulated

from analysis.interface import interim as program
from bench import browser
from ray_robust.run import interim as interim_file
from ray_robust.run import sweep_progress


@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine")
def test_the_page_of_a_killed_sweep_tells_how_old_it_is(tmp_path, monkeypatch):
    """The clock of the reader is all that moves on: nothing writes the page again."""
    run = simulated(tmp_path / "run [x]")
    drive(run)
    monkeypatch.setattr("time.process_time", lambda: 6.0)  # of a process that did nothing before
    program.main([run.storage.address])
    shown = """(() => {
        const note = document.querySelector(".interim");
        return [note.innerText.includes("probably stopped"), note.innerText, note.dataset.due];
    })()"""
    seen = {}
    with browser.browser(str(browser.find())) as page:
        for hours in (-1.0, 0.25, 3.0):
            clock = f"(() => {{ const now = Date.now; Date.now = () => now() + {hours * 3_600_000}; }})()"
            made = page.call("Page.addScriptToEvaluateOnNewDocument", source=clock)["identifier"]
            page.open(tmp_path / "run [x]/report/index.html")
            seen[hours] = page.ask(shown)
            page.call("Page.removeScriptToEvaluateOnNewDocument", identifier=made)
        assert page.errors == []
    due = float(seen[3.0][2])
    assert due == interim_file.LEAST_DUE
    assert [overdue for overdue, _, _ in seen.values()] == [False, False, True]
    ask = f"python -m ray_robust.status '{run.storage.shown}'"
    assert all("The sweep was running then; " + ask in text for _, text, _ in seen.values())
    assert "UTC. Reload" in seen[-1.0][1], "the reader's clock is behind: no age is shown"
    assert re.search(r"UTC, (1[5-9]|2\d) min ago\. Reload", seen[0.25][1]), "15 min, and what opening it took"
    assert "UTC, 3 h ago. Reload" in seen[3.0][1]
    assert f"It was probably stopped: {ask} tells, and the same command continues it." in seen[3.0][1]


@pytest.mark.parametrize(
    ("left", "spent", "due"),
    [(None, 6.0, 1800.0), (60.0, 6.0, 1800.0), (36_000.0, 6.0, 3 * 18_000.0), (60.0, 60.0, 3 * 3000.0)],
)
def test_a_page_is_overdue_once_trials_and_the_share_of_reports_would_have_had_it_written(tmp_path, left, spent, due):
    run = simulated(tmp_path / "run", unfinished=2)
    drive(run)
    sweep_progress.write_progress(run.storage, sweep_progress.SweepProgress(time.time(), 9, left))
    missing = interim_file.interim_of(run, run.states())
    assert missing.due(spent) == pytest.approx(due)
