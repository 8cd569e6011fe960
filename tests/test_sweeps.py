"""Every YAML under `sweeps/` is a sweep: it plans, and its header says what it asks, how it runs and what came out."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from bench.studies.document import study_of
from ray_robust import sweep
from ray_robust.spec.load import load_spec

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
names = [str(file.relative_to(ROOT)) for file in SWEEPS]


STUDIES = {"quantity", "granularity", "semantics", "classes_vs_images", "diversity", "domain_mix", "algorithm",
           "baseline"}  # fmt: skip


PHOTOS = STUDIES | {"weights", "quantity_64px", "quantity_tiny_imagenet", "domain_mix_tiny_imagenet"}


def test_every_study_is_there_on_photographs_rendered_and_at_the_papers_size():
    folders = ("sweeps", "sweeps/paper", "sweeps/photos")
    here, paper, photos = ({file.stem for file in (ROOT / folder).glob("*.yaml")} for folder in folders)
    assert here == STUDIES | {"quickstart", "mixture_search", "search"}
    assert paper == STUDIES
    assert photos == PHOTOS


def test_studies_on_photographs_share_their_task_and_baseline():
    """Their groups are compared with one line; 64 px and published weights have their own. Of the domain mix, whose
    sources differ most, models are fine-tuned on fewer images as well, so that their ID scores overlap."""
    specs = {name: load_spec(ROOT / f"sweeps/photos/{name}.yaml") for name in STUDIES - {"baseline"}}
    for part in ("tasks", "baseline_finetunes"):
        assert len({repr(getattr(spec, part)) for spec in specs.values()}) == 1, part
    mixed = {repr(one.section) for one in specs.pop("domain_mix").finetunes}
    same = {repr([one.section for one in spec.finetunes]) for spec in specs.values()}
    assert len(same) == 1
    assert {repr(one.section) for one in next(iter(specs.values())).finetunes} < mixed


def test_sweeps_on_the_built_in_world_share_their_baseline():
    shared = [load_spec(ROOT / f"sweeps/{name}.yaml") for name in STUDIES - {"quantity"}]
    for part in ("tasks", "finetunes", "baseline_finetunes", "seeds"):
        assert len({repr(getattr(spec, part)) for spec in shared}) == 1, part


@pytest.mark.slow
@pytest.mark.parametrize("file", SWEEPS, ids=names)
def test_a_sweep_plans(file, monkeypatch, capsys):
    if file.parent.name == "photos" and not Path(os.environ.get("DATA", ""), "tiny-imagenet-200").is_dir():
        pytest.skip("the folder DATA has no photographs: a subpopulation cannot be planned from published counts")
    monkeypatch.chdir(ROOT)
    assert sweep.main([str(file), "--plan"]) == 0
    said = capsys.readouterr().out
    trials = re.search(r"^(\d+) trials, (\d+) unique pre-trainings$", said, re.MULTILINE)
    assert trials is not None
    planned, pretrained = int(trials[1]), int(trials[2])
    assert planned > pretrained
    assert (pretrained > 0) == (file.stem != "baseline"), "published weights count as one each"
    for word in ("images to process:", "time ", "disk "):
        assert word in said


@pytest.mark.parametrize("file", SWEEPS, ids=names)
def test_a_sweep_says_what_it_asks_and_how_it_runs(file):
    text = file.read_text("utf-8")
    name = file.relative_to(ROOT)
    assert "?" in load_spec(file).question
    assert f"python -m ray_robust.sweep {name}" in text
    for word in ("# Question:", "# Run:", "# Cost:", "# Result:"):
        assert word in text, f"{name}: its header has no line {word}"


INTERVAL = re.compile(r"[(]([-\u2212]?\d+[.]\d to [-\u2212]?\d+[.]\d)\b")  # of points of ER: one decimal


def intervals(text: str) -> set[str]:
    return {one.replace("\u2212", "-") for one in INTERVAL.findall(re.sub(r"\n#\s+", " ", text))}


REPORTED = [
    str(file.relative_to(ROOT / "sweeps").with_suffix(""))
    for folder in ("sweeps", "sweeps/photos")
    for file in sorted((ROOT / folder).glob("*.yaml"))
    if study_of(file.stem) is not None
]


@pytest.mark.parametrize("name", REPORTED)
def test_what_a_header_reports_stands_in_the_section_that_a_command_wrote(name):
    """Both say what came out of the same sweep: when an analysis changes, neither is left behind."""
    header = (ROOT / f"sweeps/{name}.yaml").read_text("utf-8").partition("# Result:")[2]
    study, studies = study_of(name).name, (ROOT / "docs/studies.md").read_text("utf-8")
    section = studies.partition(f"<!-- {study} -->")[2].partition(f"<!-- /{study} -->")[0]
    reported = intervals(header)
    assert reported or study == "baseline" or header.strip().startswith("not run yet")  # no groups to compare
    assert reported <= intervals(section)


TREND = re.compile(r"[|] (-?\d+(?:[.]\d)?) [(](-?\d+[.]\d to -?\d+[.]\d)[)] [|]")  # of the table of trends


def test_the_readme_reports_what_came_out():
    """Every trend per tenfold that README states with its interval is that of a run of quantity."""
    entries = json.loads((ROOT / "docs/studies.json").read_text("utf-8"))
    measured = {
        f"{row['low']:.1f} to {row['high']:.1f}": row["slope"]
        for name, entry in entries.items()
        for row in entry["factors"]
        if row["factor"] == "num_images" and name.removeprefix("photos/").startswith("quantity")
    }
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split()).replace("\u2212", "-")
    stated = TREND.findall(readme)
    assert len(stated) == 4
    for slope, interval in stated:
        assert interval in measured
        digits = len(slope.partition(".")[2])
        assert float(slope) == round(measured[interval], digits)
