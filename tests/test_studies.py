"""docs/studies.md has a place for every study, and what is written there comes from run folders and plans alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_run import run_folder, sweep

import analysis.__main__ as analysis_command
from bench import studies
from ray_robust.errors import UserError
from tests.test_sweeps import STUDIES

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/studies.md").read_text("utf-8")


def test_the_document_has_a_place_for_every_study_and_for_the_costs():
    pieces = {name: f"what {name} came to" for name in (*STUDIES, "costs")}
    text = studies.filled(DOCUMENT, pieces)
    assert all(piece in text for piece in pieces.values())
    assert studies.filled(text, pieces) == text, "writing again changes nothing"
    with pytest.raises(UserError, match="no place for other"):
        studies.filled(DOCUMENT, {"other": "x"})


@pytest.mark.slow
def test_a_run_is_told_by_its_own_report(tmp_path, capsys):
    run = run_folder(tmp_path / "quantity", sweep({"num_images=1000": 0.0, "num_images=16000": 6.0}))
    with pytest.raises(UserError, match="has no report"):
        list(studies.measured(run, "quantity"))
    assert analysis_command.main([run.storage.address]) == 0
    lines = list(studies.measured(run, "quantity"))
    assert lines[0].startswith("`sweeps/quantity.yaml`: 9 trials, 108 points")
    rows = [line.split(" | ") for line in lines if line.startswith("| num_images=16000")]
    assert len(rows) == 1
    assert rows[0][1:3] == ["3", "36"]
    assert float(rows[0][-1].split()[0]) == pytest.approx(6, abs=2)
    findings = [one["text"] for one in json.loads(run.read_bytes("report/verdict.json"))["findings"]]
    assert findings
    assert [line[2:] for line in lines if line.startswith("- ")][: len(findings)] == findings


def test_costs_are_the_plans_images_over_the_measured_rate(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(studies, "rate_of", lambda section: 1000.0)
    monkeypatch.setattr(studies, "device_name", lambda: "abacus")
    header, _, row, _, told = studies.costs([ROOT / "sweeps/paper/diversity.yaml"])
    assert header.count("|") == row.count("|")
    assert "| 12 | 49 M | 252 M | 47 M | 3.7 days |" in row
    assert "An estimate, in days of one abacus" in told
    assert "resnet50 at 224 px 1000.0" in told
