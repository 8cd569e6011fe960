"""Several shifts of a run in its analysis: which points they are, shifts of OOD groups, joined runs, the report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import fake_run
import numpy as np
import pandas as pd
import pytest
import yaml
from jsonschema import Draft202012Validator

from analysis.formatting import interval
from analysis.input import run_shifts
from analysis.input.join_runs import read_runs
from analysis.input.run_points import read_run
from analysis.interface.study import Study
from analysis.options import Options
from analysis.shifts.sentences import _of_row, over_shifts, shift_findings
from analysis.stats.shift_results import shift_results
from analysis.study import Analysis, analyse_all
from analysis.verdict import verdict
from bench import shifts as worlds
from bench.simulated import counted
from ray_robust.errors import UserError
from ray_robust.metrics import METRICS, group_counts, tally
from ray_robust.run.run_folder import RunFolder

GROUPS = {"num_images=1000": 2.0, "num_images=4000": 9.0}
SCHEMA = json.loads((Path(run_shifts.__file__).parents[1] / "verdict.schema.json").read_text("utf-8"))


def points(seed: int = 0) -> pd.DataFrame:
    return fake_run.sweep(GROUPS, epochs=(6, 12), trial_sd=0.002, noise_sd=0.002, seed=seed)


def on_shifts(own: pd.DataFrame, **gains: float) -> pd.DataFrame:
    """These points on their own OOD test and on further shifts, where num_images=4000 gains so many more points."""
    parts = [own.assign(shift="ood")]
    for number, (name, gain) in enumerate(gains.items()):
        noise = 0.002 * np.random.default_rng(number).standard_normal(len(own))
        ood = own["ood"] - 0.03 + noise + np.where(own["group"] == "num_images=4000", gain / 100, 0.0)
        parts.append(own.assign(shift=name, ood=ood.clip(0.01, 0.99), ood_images=500 + number))
    return pd.concat(parts, ignore_index=True)


def analysed(run: RunFolder) -> Analysis:
    (analysis,) = analyse_all(*read_run(run.storage.address))
    return analysis


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """With a shift `part` that one trial was not tested on."""
    every = on_shifts(points(), v2=0.0, sketch=8.0, part=0.0)
    without = every["trial"].unique()[-1]
    every = every.loc[~((every["shift"] == "part") & (every["trial"] == without))]
    return fake_run.run_folder(tmp_path_factory.mktemp("several") / "run", every)


def test_points_of_a_shift_are_those_of_the_own_test_in_their_order(several: RunFolder):
    table, _ = read_run(several.storage.address)
    assert table.points["shift"].eq("ood").all()  # what every other part of an analysis sees
    v2, sketch, part = run_shifts.read(table.runs, table.points)
    every = several.results(every_shift=True)
    point = ["trial", "finetune", "epoch"]
    for one, name in ((v2, "v2"), (sketch, "sketch")):
        assert one.name == name
        assert one.points[point].equals(table.points[point])
        rows = every.loc[every["shift"] == name].set_index(point).loc[pd.MultiIndex.from_frame(one.points[point])]
        assert one.points["ood"].tolist() == rows["ood"].tolist()
        assert one.points["id"].tolist() == table.points["id"].tolist()
    assert len(part.points) < len(table.points)


def test_the_own_test_is_analysed_as_without_shifts(several: RunFolder, tmp_path: Path):
    alone = analysed(fake_run.run_folder(tmp_path / "run", points()))
    own = analysed(several)
    assert not alone.shifts.results
    for table in ("groups", "contrasts", "trends", "factor_table"):
        pd.testing.assert_frame_equal(getattr(alone, table), getattr(own, table))
    assert alone.warnings == own.warnings[: len(alone.warnings)]
    assert "shifts" not in verdict([alone])


def test_the_analysis_compares_the_shifts_that_every_trial_was_tested_on(several: RunFolder):
    analysis = analysed(several)
    shifts = analysis.shifts
    assert shifts.compared == ["ood", "v2", "sketch"]
    assert "part (not every trial was tested on it)" in over_shifts(analysis)
    own = shifts.groups.set_index(["shift", "group"])["er"]
    assert own["ood"].to_dict() == analysis.groups.set_index("group")["er"].to_dict()
    assert own["sketch", "num_images=4000"] - own["v2", "num_images=4000"] == pytest.approx(8, abs=1)
    texts = [str(finding) for finding in shift_findings(analysis)]
    assert any(text.startswith("num_images=4000 against scratch: the effect differs between shifts") for text in texts)
    assert any(text.startswith("Not established: that the effect of num_images=1000 against scratch") for text in texts)
    means = shifts.means.set_index(["a", "b"])
    row = means.loc[("num_images=4000", "scratch")]
    assert (row["shown"], row["shifts"], row["highest"]) == (3, 3, "sketch")
    assert row["low"] < row["delta_er"] < row["high"]


def test_verdict_json_has_the_shifts_and_keeps_its_schema(several: RunFolder):
    table, options = read_run(several.storage.address)
    made = json.loads(json.dumps(verdict(analyse_all(table, options), table), allow_nan=False))
    Draft202012Validator(SCHEMA).validate(made)
    assert list(made["shifts"]["by_shift"]) == ["ood", "v2", "sketch", "part"]
    assert made["shifts"]["compared"] == ["ood", "v2", "sketch"]
    assert made["shifts"]["by_shift"]["v2"]["ood_images"] == 500


def test_an_interim_run_claims_nothing_of_its_shifts(tmp_path: Path):
    run = fake_run.run_folder(tmp_path / "run", on_shifts(points(), v2=0.0, sketch=8.0), unfinished=1)
    findings = shift_findings(analysed(run))
    assert findings
    assert {finding.kind for finding in findings} <= {"open", "fragile"}
    assert all(finding.text.startswith("Interim") for finding in findings)


def test_joined_runs_have_each_shift_once_and_no_two_of_one_name(tmp_path: Path):
    own = points()
    half = own["group"] != "num_images=4000"
    runs = [fake_run.run_folder(tmp_path / name, on_shifts(own.loc[rows].reset_index(drop=True), v2=0.0, sketch=0.0))
            for name, rows in (("a", half), ("b", ~half | (own["group"] == "scratch")))]  # fmt: skip
    whole = analysed(fake_run.run_folder(tmp_path / "whole", on_shifts(own, v2=0.0, sketch=0.0)))
    (joined,) = analyse_all(*read_runs([run.storage.address for run in runs]))
    assert joined.shifts.compared == ["ood", "v2", "sketch"]
    assert len(joined.shifts.results[1].points) == len(whole.shifts.results[1].points)
    for run, identity in zip(runs, ("x", "y"), strict=True):
        data = run.data()
        data["pools"][1]["shifts"] = {"v2": identity}
        run.write("data.json", json.dumps(data))
    with pytest.raises(UserError, match="its shift camera-traps: v2 is of other images"):
        read_runs([run.storage.address for run in runs])


def with_shifts(path: Path, own: pd.DataFrame, **gains: float) -> RunFolder:
    """A run of these trainings whose fine-tunings are called otherwise, as those of a task with further tests are."""
    more = on_shifts(own, **gains)
    more["finetune"] += f"-{'-'.join(gains)}"
    return fake_run.run_folder(path, more)


def planned(run: RunFolder) -> None:
    """Let its plan say which fine-tunings they are without further tests."""
    plan = run.plan()
    names = [json.loads(cell) for cell in plan["finetunes"]]
    trainings = [json.dumps({name: name.split("-")[0] for name in own}) for own in names]
    run.write_plan(plan.assign(trainings=trainings).to_dict("records"))


def test_a_training_with_further_tests_is_that_without(tmp_path: Path):
    """A sweep that was run again with `task.shifts` has fine-tunings of other ids, which are the same models."""
    own = points()
    own["finetune"] = own["finetune"].str.replace("-", "")
    bare = fake_run.run_folder(tmp_path / "bare", own)
    more, other = with_shifts(tmp_path / "more", own, v2=0.0, sketch=3.0), with_shifts(tmp_path / "other", own, art=0.0)
    addresses = {run.storage.address.rpartition("/")[2]: run.storage.address for run in (bare, more, other)}
    with pytest.raises(UserError) as error:
        read_runs([addresses["bare"], addresses["more"]])
    assert str(error.value) == (
        f"{addresses['more']}: its plan does not say which fine-tunings are those of another run without further "
        "tests: no join; its sweep's command again, with the same spec, writes that and trains nothing"
    )
    planned(more)
    planned(other)
    table, _ = read_runs([addresses["bare"], addresses["more"]])
    assert len(table.points) == len(own)
    assert f"{len(own)} points are in more than one run and count once" in table.warnings
    assert [one.name for one in run_shifts.read(table.runs, table.points)] == ["v2", "sketch"]
    assert all(len(one.points) == len(own) for one in run_shifts.read(table.runs, table.points))
    table, _ = read_runs([addresses["other"], addresses["more"]])
    assert [one.name for one in run_shifts.read(table.runs, table.points)] == ["v2", "sketch"]
    said = "what other and more both have is of more, and not tested on art, which other alone has"
    assert said in table.warnings


def test_other_corruptions_are_other_shifts(tmp_path: Path):
    own = points()
    first, second = (fake_run.run_folder(tmp_path / name, on_shifts(own, **{"jpeg-3": 0.0})) for name in "ab")
    for run, images in ((first, 1000), (second, 500)):
        spec, data = run.spec(), run.data()
        spec["task"]["corruptions"] = {"kinds": ["jpeg"], "images": images}
        run.write("spec.yaml", yaml.safe_dump(spec))
        data["pools"][1]["shifts"] = {"jpeg-3": f"corruption-1-{images}"}
        run.write("data.json", json.dumps(data))
    with pytest.raises(UserError, match="its shift camera-traps: jpeg-3 is of other images, or read otherwise"):
        read_runs([run.storage.address for run in (first, second)])
    data["pools"][1]["shifts"] = {"jpeg-3": "corruption-1-1000", "jpeg-5": "corruption-1-1000"}
    second.write("data.json", json.dumps(data))
    table, _ = read_runs([run.storage.address for run in (first, second)])
    assert len(table.points) == len(own)


def test_images_of_a_shift_that_are_elsewhere_too_are_warned_of(several: RunFolder):
    data = several.data()
    entry = {"name": "task camera-traps", "pool": {"name": "camera-traps", "fingerprint": "f"},
             "among": {"name": "camera-traps", "fingerprint": "f"}, "affected": {"shift:v2": 3}, "line": "",
             "images": {"shift:v2": 500}, "counts": [], "rule": "r", "note": ""}  # fmt: skip
    several.write("data.json", json.dumps({**data, "duplicates": [entry]}))
    try:
        assert any("3 of 500 images of shift v2 are also in train" in text for text in analysed(several).warnings)
    finally:
        several.write("data.json", json.dumps(data))


def domains(path: Path) -> tuple[RunFolder, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A run of `pacs` with three OOD domains, and by domain what each point took its images for, and their labels."""
    random, own = np.random.default_rng(0), points()
    sizes, classes = {"art": 300, "cartoon": 200, "sketch": 500}, 7
    label = random.integers(0, classes, sum(sizes.values()))
    domain = np.repeat(np.arange(3), list(sizes.values()))
    hard = np.array([0.0, 0.1, -0.1])[domain]
    right = random.random((len(own), len(label))) < own["ood"].to_numpy()[:, None] + hard
    guess = np.where(right, label, (label + 1 + random.integers(0, classes - 1, right.shape)) % classes)
    truth, photo = np.arange(400) % classes, np.zeros(400, int)
    seen = random.random((len(own), 400)) < own["id"].to_numpy()[:, None]
    first = np.where(seen, truth, (truth + 1) % classes)
    tests = {"id": ("id_test", ["photo"], photo, truth, first), "ood": ("ood_test", list(sizes), domain, label, guess)}
    scores = {
        f"{side}_{name}": [METRICS[name].score(tally(labels, own_guess, groups)) for own_guess in guesses]
        for side, (_, _, groups, labels, guesses) in tests.items()
        for name in METRICS
    }
    own = own.assign(task="pacs", metric="accuracy", id=scores["id_accuracy"], ood=scores["ood_accuracy"], id_groups=1,
                     ood_groups=3, id_images=400, ood_images=len(label), **scores)  # fmt: skip
    run = fake_run.run_folder(path, own)
    run.write("spec.yaml", yaml.safe_dump({**run.spec(), "task": {"name": "pacs", "kind": "pacs"}}))
    for (trial, finetune), rows in own.groupby(["trial", "finetune"]):
        parts = [
            pd.DataFrame(group_counts(labels, guesses[at], groups)).assign(
                epoch=own.loc[at, "epoch"],
                split=split,
                group=lambda own, names=names: np.array(names)[own["group"]],
            )
            for split, names, groups, labels, guesses in tests.values()
            for at in rows.index
        ]
        target = Path(run.trial(str(trial)).storage.address) / "groups"
        target.mkdir(exist_ok=True)
        pd.concat(parts).astype({"class": str}).to_parquet(target / f"{finetune}.parquet")
    return run, {name: (guess[:, domain == i], label[domain == i]) for i, name in enumerate(sizes)}


def test_every_ood_domain_is_a_shift_by_its_counts_alone(tmp_path: Path):
    run, images = domains(tmp_path / "run")
    table, options = read_run(run.storage.address)
    found = run_shifts.read(table.runs, table.points)
    assert [one.name for one in found] == ["art", "cartoon", "sketch"]
    by_point = points().reset_index().set_index(["trial", "finetune", "epoch"])["index"]
    for one in found:
        guess, label = images[one.name]
        rows = by_point.loc[pd.MultiIndex.from_frame(one.points[["trial", "finetune", "epoch"]])]
        assert one.points["ood_images"].eq(len(label)).all()
        for name in ("accuracy", "macro_f1", "class_accuracy"):
            scores = [METRICS[name].score(tally(label, guess[row])) for row in rows]
            assert one.points[f"ood_{name}"].to_numpy(float) == pytest.approx(scores)
        assert one.points["id"].equals(table.points["id"])
    (analysis,) = analyse_all(table, options)
    assert analysis.shifts.compared == ["art", "cartoon", "sketch"]
    assert {one.name: one.aside for one in analysis.shifts.results}["ood"] == "its parts are compared"
    run.write("spec.yaml", yaml.safe_dump({**run.spec(), "task": {"name": "pacs", "kind": "folder"}}))
    other, _ = read_run(run.storage.address)
    assert not run_shifts.read(other.runs, other.points)  # groups of other tasks are no shifts


def test_counts_of_one_group_are_those_of_its_images():
    random = np.random.default_rng(0)
    camera, label = random.integers(0, 3, 200), random.integers(0, 5, 200)
    guess = random.integers(0, 5, (4, 200))
    whole = counted("ood", camera, label, guess, 5)
    for number in range(3):
        own = run_shifts._group_alone(whole, number)
        there = camera == number
        for point in range(4):
            hits, guessed = own.of_point(point)
            counts = tally(label[there], guess[point][there])
            present = counts.truth > 0
            assert own.truth[0].tolist() == counts.truth[present].tolist()
            assert hits[0].tolist() == counts.hits[present].tolist()
            assert guessed[0].tolist() == counts.guessed[present].tolist()


@pytest.mark.slow
def test_the_report_has_a_section_figures_and_files(several: RunFolder, tmp_path: Path):
    table, options = read_run(several.storage.address)
    study = Study(table, analyse_all(table, options), str(tmp_path))
    study.write()
    page = (tmp_path / "index.html").read_text("utf-8")
    assert 'id="shifts-0"' in page
    assert all(f'id="shift_small_{i}-0"' in page for i in range(4))
    assert {"shift_effects", "shift_small"} <= set(study.charts())
    assert (tmp_path / "export/shift_small.svg").stat().st_size
    written = pd.read_csv(tmp_path / "shift_robustness.csv")
    assert written.groupby("shift", sort=False).size().tolist() == [54, 54, 54, 48]
    for name in ("shifts", "shift_groups", "shift_contrasts", "shift_means"):
        assert len(pd.read_csv(tmp_path / f"{name}.csv")), name
    assert "shift_means" in study.tables


def test_a_plain_table_has_one_shift():
    from analysis.study import analyse

    assert not analyse("t", points(), Options("scratch")).shifts.results


def test_no_effect_on_average_shows_the_interval_that_it_rests_on(monkeypatch):
    monkeypatch.setattr(worlds, "EFFECT", 0.0)
    options = Options("scratch", margin=2.0)
    shifts, _ = worlds.simulate(worlds.World("no effect", 3, 8, 0.3, 0.1, 0.0), 1)
    (row, *_) = shift_results(shifts, options).means.to_dict("records")
    assert row["equivalent"]
    (finding, *_) = _of_row(SimpleNamespace(options=options, interim=None), 0, row)
    assert f"on average over 3 shifts (90 %: {interval(row['low90'], row['high90'])})." in finding.text
