"""What a run declared before its scores were seen, and what the report says of settings that were changed since."""

import io
import json
from pathlib import Path

import jsonschema
import pytest
from fake_run import run_folder, sweep
from rich.console import Console
from test_trial import SPEC

from analysis.decisions import declared
from analysis.input.join_runs import read_runs
from analysis.interface.request import Request, read, report_on
from analysis.interface.study import Study
from analysis.report import terminal
from analysis.study import analyse_all
from ray_robust.launch import run_sweep
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.analysis_settings import AnalysisSettings
from ray_robust.run.declared import declare, read_record
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

SCHEMA = json.loads((Path(__file__).parents[1] / "analysis/verdict.schema.json").read_text("utf-8"))
NOON = 1_764_417_600.0  # 2025-11-29 12:00:00 UTC
POINTS = sweep({"num_images=1000": 0.0, "num_images=64000": 2.5}, epochs=(6, 12))

pytestmark = pytest.mark.slow  # an analysis each, and two where something was changed


def spec_with(run: RunFolder, **analysis) -> dict:
    spec = run.spec()
    return {**spec, "analysis": {**spec["analysis"], **analysis}}


def edit(run: RunFolder, now: float = NOON + 3600, **analysis) -> None:
    """What a command does whose spec has another section."""
    import yaml

    spec = spec_with(run, **analysis)
    declare(run, spec, now)
    run.write("spec.yaml", yaml.safe_dump(spec, sort_keys=False))


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run that is done, whose settings were recorded before its first trial."""
    begun = run_folder(tmp_path / "begun", POINTS, unfinished=9)
    declare(begun, begun.spec(), NOON)
    record = begun.storage.read("declared.json")
    finished = run_folder(tmp_path / "run", POINTS)
    finished.write("declared.json", record)
    return finished


def study(*runs: RunFolder, **settings) -> Study:
    table, options, _ = read(Request(tuple(run.storage.address for run in runs), "", **settings))
    return Study(table, analyse_all(table, options), "")


def test_a_sweep_records_its_settings_with_its_plan(tmp_path):
    """By the function that every command calls before its first trial."""
    (tmp_path / "small.yaml").write_text(SPEC)
    run = RunFolder(tmp_path / "run")
    for overrides in ((), (), ("analysis.margin=1",)):
        run_sweep.write_plan(open_sweep(load_spec(tmp_path / "small.yaml", overrides)), run)
    record = read_record(run)
    assert [one.settings.margin for one in record.entries] == [2.0, 1.0]
    assert record.standing == record.entries[1:]  # before any trial was done a decision may change
    assert record.entries[0].settings == AnalysisSettings()


def test_settings_that_were_never_changed(run):
    made = study(run)
    jsonschema.validate(made.verdict, SCHEMA)
    assert made.verdict["declared"] == {
        "when": "before any trial was done, 2025-11-29 12:00:00 UTC",
        "runs": [{"run": "run", "recorded": True, "entries": [
            {"written": "2025-11-29 12:00:00 UTC", "trials_done": 0,
             "settings": {"baseline": "scratch", "scale": "probit", "margin": 2.0, "min_r2": 0.8, "look": "mean"}}]}],
        "earlier": [],
    }  # fmt: skip
    assert "declared" not in made.tables
    assert not any("declared" in note or "margin" in note for note in made.notes)


def test_a_margin_that_was_changed_after_nine_trials(run):
    edit(run, margin=6.0)
    edit(run, margin=6.0)  # the same again is no other decision
    assert [one.done for one in read_record(run).entries] == [0, 9]
    made = study(run)
    (earlier,) = made.verdict["declared"]["earlier"]
    sentence = (
        "margin is 6: 2 was declared before any trial was done, and changed when 9 trials were done, 2025-11-29 "
        "13:00:00 UTC"
    )
    assert earlier["change"] == sentence
    assert sentence in made.verdict["warnings"]
    assert earlier["settings"]["margin"] == 2.0
    jsonschema.validate(made.verdict, SCHEMA)

    before = run_folder(Path(run.storage.address).parent / "unchanged", POINTS)  # what the earlier setting gives
    unchanged = study(before)
    key = ["a", "b", "delta_er", "low", "high"]
    contrasts = unchanged.contrasts.set_index(["a", "b"])
    rows = [row for row in earlier["effects"] if row["effect"] == declared.CONTRAST]
    assert {(row["a"], row["b"]) for row in rows} == set(contrasts.index)
    for row in rows:
        own = contrasts.loc[row["a"], row["b"]]
        assert [row[f"earlier{end}"] for end in ("", "_low", "_high")] == pytest.approx(own[key[2:]].tolist())
    assert set(earlier["findings"]) <= {one.text for one in declared._statements(unchanged.analyses[0])}
    assert earlier["shows_otherwise"] == sum(
        row["used_shows"] != row["earlier_shows"] for row in earlier["effects"] if row["effect"] != declared.MEAN
    )
    assert earlier["shows_otherwise"] > 0  # a wide margin proves "no effect" where the declared one does not
    assert "declared" in made.tables


def test_page_and_terminal_say_so(run, tmp_path, capsys):
    edit(run, margin=6.0)
    report_on(Request((run.storage.address,), out=str(tmp_path / "out")), quiet=True)
    page = (tmp_path / "out/index.html").read_text("utf-8")
    assert "Changed once there were scores" in page
    assert "before any trial was done, 2025-11-29 12:00:00 UTC; changed since, 1 time" in page
    assert (tmp_path / "out/declared.csv").exists()
    console = Console(file=io.StringIO(), width=110, highlight=False)
    table, options = read_runs([run.storage.address])
    terminal.show(table, analyse_all(table, options), "x", console=console)
    lines = console.file.getvalue().splitlines()
    (changed,) = [line for line in lines if line.startswith("  changed margin is 6: 2 was declared")]
    assert "effects show something else" in changed
    assert lines[lines.index(changed) + 1].startswith("   ")


def test_an_option_of_the_analysis_is_a_change_too(run):
    made = study(run, scale="logit")
    assert [one["change"] for one in made.verdict["declared"]["earlier"]] == [
        "scale is logit: probit was declared before any trial was done, and changed by an option of this analysis"
    ]
    edit(run, margin=1.0)
    back = study(run, margin=2.0)  # what was declared, whatever spec.yaml says now
    (earlier,) = back.verdict["declared"]["earlier"]
    assert earlier["change"] == (
        "margin is 2: 1 was set when 9 trials were done, 2025-11-29 13:00:00 UTC, and changed by an option of this "
        "analysis"
    )


def test_another_baseline(run):
    edit(run, NOON)
    import yaml

    spec = {**run.spec(), "baseline": "num_images=1000"}
    declare(run, spec, NOON)
    run.write("spec.yaml", yaml.safe_dump(spec))
    made = study(run)
    (earlier,) = made.verdict["declared"]["earlier"]
    assert earlier["change"].startswith("baseline is num_images=1000: scratch was declared before any trial was done")
    (row,) = [row for row in earlier["effects"] if row["effect"] == declared.CONTRAST and "scratch" in row.values()
              and "num_images=1000" in row.values()]  # fmt: skip
    assert (row["a"], row["b"]) == ("scratch", "num_images=1000")
    assert row["used"] * row["earlier"] > 0  # the same two groups, in the same order


def test_spec_yaml_by_hand(run):
    text = run.storage.read("spec.yaml").decode()
    Path(run.storage.address, "spec.yaml").write_text(text.replace("margin: 2.0", "margin: 1.0"))
    made = study(run)
    assert made.verdict["declared"]["earlier"][0]["change"].endswith(
        "and changed in spec.yaml, not by the sweep's command"
    )


def test_a_run_of_an_earlier_version(tmp_path):
    run = run_folder(tmp_path / "run", POINTS)
    quiet = study(run)
    assert quiet.verdict["declared"]["when"] == "not recorded"
    assert not any("declared" in note or "recorded" in note for note in quiet.notes)
    edit(run, margin=1.0)  # it is continued, with another margin
    entries = read_record(run).entries
    assert [(one.settings.margin, one.done) for one in entries] == [(2.0, 9), (1.0, 9)]
    made = study(run)
    assert made.verdict["declared"]["when"] == (
        "recorded when 9 trials were done, 2025-11-29 13:00:00 UTC; before that not recorded; changed since, 1 time"
    )
    assert made.verdict["declared"]["earlier"][0]["change"].startswith("margin is 1: 2 was recorded when 9 trials")


def test_a_record_that_was_altered_or_removed(run):
    path = Path(run.storage.address, "declared.json")
    path.write_text(path.read_text().replace("2.0", "1.0"))
    made = study(run)
    assert made.verdict["declared"]["when"] == "not known: declared.json was altered since it was written"
    assert any("declared.json: was altered since it was written; what was declared" in note for note in made.notes)
    edit(run)  # a new record says that there were trials
    assert [one.done for one in read_record(run).entries] == [9]
    path.unlink()
    made = study(run)
    assert made.verdict["declared"]["when"] == "not known: declared.json is missing"


def test_joined_runs(run, tmp_path):
    other = run_folder(tmp_path / "other", sweep({"num_images=4000": 1.0}, seed=3))
    strict = run_folder(tmp_path / "strict", sweep({"num_images=4000": 1.0}, seed=3))
    edit(strict, margin=1.0)
    made = study(run, other)
    assert made.verdict["declared"]["earlier"] == []
    assert made.verdict["declared"]["when"] == (
        "run: before any trial was done, 2025-11-29 12:00:00 UTC; other: not recorded"
    )
    made = study(run, strict)  # the strictest margin of two that stood is no change; its own change is one
    (earlier,) = made.verdict["declared"]["earlier"]
    assert earlier["change"] == (
        "margin is 1: 2 was recorded when 6 trials were done, 2025-11-29 13:00:00 UTC, and changed when 6 trials were "
        "done, 2025-11-29 13:00:00 UTC in strict"
    )
    jsonschema.validate(made.verdict, SCHEMA)


def test_an_interim_report_has_no_claim_under_either(run):
    edit(run, margin=6.0)
    table, options = read_runs([run.storage.address])
    from ray_robust.run.interim import Interim

    (analysis,) = analyse_all(table, options)
    from analysis.study import so_far

    held = so_far(analysis, Interim(NOON, True, 6, 9, {}))
    kinds = {finding.kind for one in declared.before(held) for finding in one.findings}
    assert kinds <= {"fragile", "open"}


def test_a_plain_table_has_declared_nothing(tmp_path):
    POINTS.to_csv(tmp_path / "t.csv", index=False)
    table, options, _ = read(Request((str(tmp_path / "t.csv"),), id="id", ood="ood", group="group",
                                     baseline="scratch", cluster="trial", margin=1.0))  # fmt: skip
    made = Study(table, analyse_all(table, options), "")
    assert "declared" not in made.verdict
    jsonschema.validate(made.verdict, SCHEMA)
