"""Every YAML under `sweeps/` is a sweep: it plans, and its header says what it asks, how it runs and what came out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ray_robust import sweep
from ray_robust.spec import load_spec

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
names = [str(file.relative_to(ROOT)) for file in SWEEPS]


def files_needed(file: Path) -> list[Path]:
    """The places on this disk that a sweep reads from."""
    spec = load_spec(file)
    sections = [level.section for level in spec.tasks]
    sections += [source for level in spec.pretrains for source in level.section.sources.values()]
    options = [section.options for section in sections]
    return [Path(place) for o in options for place in (getattr(o, "path", None), getattr(o, "root", None)) if place]


def test_there_are_sweeps():
    assert SWEEPS


@pytest.mark.parametrize("file", SWEEPS, ids=names)
def test_a_sweep_plans(file, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    if absent := [str(place) for place in files_needed(file) if not place.exists()]:
        pytest.skip(f"needs {', '.join(absent)}")
    assert sweep.main([str(file), "--plan"]) == 0
    said = capsys.readouterr().out
    trials = re.search(r"^(\d+) trials, (\d+) unique pre-trainings$", said, re.MULTILINE)
    assert trials is not None
    assert int(trials[1]) > int(trials[2]) > 0
    for word in ("images to process:", "time ", "disk ", "mixture"):
        assert word in said


@pytest.mark.parametrize("file", SWEEPS, ids=names)
def test_a_sweep_says_what_it_asks_and_how_it_runs(file):
    text = file.read_text("utf-8")
    name = file.relative_to(ROOT)
    assert "?" in load_spec(file).question
    assert f"python -m ray_robust.sweep {name}" in text
    for word in ("# Question:", "# Run:", "# Cost:", "# Result:"):
        assert word in text, f"{name}: its header has no line {word}"
