"""Images on which better ID means worse OOD: they are found where they were planted, and claimed nowhere else."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fake_run
import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator

from analysis.input.run_points import read_run
from analysis.interface.study import Study
from analysis.stats.reversed_images import LEAST_TRIALS, Predicted, _half, _Search, find_reversed
from analysis.study import Analysis, analyse_all
from analysis.subsets import hidden
from bench.reversed import PROBIT, WORLDS, World, looked_at, simulate
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.subset_pictures import write_subset_pictures
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

PLANTED = World("planted", planted=0.1)
SCHEMA = json.loads((Path(hidden.__file__).parents[1] / "verdict.schema.json").read_text("utf-8"))


def test_planted_images_are_found_with_their_slope():
    predicted, planted = simulate(PLANTED, 1)
    one = find_reversed(predicted, PROBIT)
    assert one.found
    assert one.low < one.slope < one.high < 0
    assert one.p < 0.05
    assert (one.images & planted).sum() > 0.9 * planted.sum()
    assert one.often[one.images & planted].mean() > 0.6
    assert one.whole.value > 0.4


def test_images_on_which_nothing_changes_are_no_part_of_the_subset():
    """With half of the images level the slope over half of all falls as well: a mean of a few that fall."""
    predicted, planted = simulate(World("level beside", planted=0.15, level=0.5), 1)
    one = find_reversed(predicted, PROBIT)
    search, every = _Search(predicted, predicted.right.astype(np.float32), PROBIT), np.ones(len(predicted.x), bool)
    assert search.test(every, np.argsort(search.slopes(every))[:750]).high < 0
    assert one.found
    assert (one.images & planted).sum() > 0.8 * one.count
    assert one.better < one.worse


def test_nothing_is_claimed_where_nothing_is_planted():
    for world in (world for world in WORLDS if not world.planted):
        for seed in range(3):
            claimed, *_ = looked_at(world, seed)
            assert not claimed, (world.name, seed)


def test_the_same_predictions_give_the_same_images():
    predicted, _ = simulate(PLANTED, 2)
    first, second = find_reversed(predicted, PROBIT), find_reversed(predicted, PROBIT)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.slope == second.slope


def test_in_sample_the_lowest_slopes_would_be_claimed_of_a_clean_world():
    """What cross-fitting is for: chosen and tested by the same models, chance looks like a law."""
    predicted, _ = simulate(World("level", level=1.0), 0)
    search, every = _Search(predicted, predicted.right.astype(np.float32), PROBIT), np.ones(len(predicted.x), bool)
    lowest = np.argsort(search.slopes(every))[:75]
    assert search.test(every, lowest).high < 0
    assert not find_reversed(predicted, PROBIT).found


def test_slopes_are_those_of_least_squares_within_groups():
    predicted, _ = simulate(PLANTED, 3)
    search, every = _Search(predicted, predicted.right.astype(np.float32), PROBIT), np.ones(len(predicted.x), bool)
    dummies = (predicted.group[:, None] == np.unique(predicted.group)).astype(float)
    design = np.column_stack([predicted.x, dummies])
    wanted = np.linalg.lstsq(design, predicted.right.astype(float), rcond=None)[0][0]
    np.testing.assert_allclose(search.slopes(every), wanted, atol=1e-5)
    images = np.arange(0, 1500, 3)
    score = PROBIT.of(predicted.right[:, images].mean(1), len(images))
    value = np.linalg.lstsq(design, score, rcond=None)[0][0]
    assert search.test(every, images).value == pytest.approx(value, abs=1e-6)


def test_halves_are_of_whole_trainings_and_of_every_group():
    predicted, _ = simulate(World("w", seeds=False), 0)
    half = _half(predicted.unit, np.ones(len(predicted.x), bool), predicted.strata, np.random.default_rng(0))
    for trial in np.unique(predicted.trial):
        assert len(set(half[predicted.trial == trial])) == 1
    for group in np.unique(predicted.group):
        assert len(np.unique(predicted.trial[half & (predicted.group == group)])) == 2


def test_too_little_is_refused():
    predicted, _ = simulate(PLANTED, 0)
    few = predicted.trial < 3 * LEAST_TRIALS - 1
    kept = Predicted(*(each[few] for each in (predicted.right, predicted.x, predicted.group, predicted.trial,
                                              predicted.unit)), predicted.place)  # fmt: skip
    assert (
        find_reversed(kept, PROBIT).refused
        == "11 trainings are too few to divide: 12 are needed, of three seeds or more"
    )
    small = replace(predicted, right=predicted.right[:, :70], place=predicted.place[:70])
    assert find_reversed(small, PROBIT).refused == "70 images are too few: 80 are needed"
    two = replace(predicted, place=predicted.place % 2)
    assert find_reversed(two, PROBIT).refused == "the OOD test has fewer than four groups to divide"


# --- a run


def numbered(split: str) -> list[str]:
    return [f"{split}/{i:04d}" for i in range(1500)]


def run_of(path: Path, planted: float, names_of: Sequence[str] = ()) -> tuple[RunFolder, np.ndarray]:
    """A run whose models say the label, or something else, as in a simulated world; `names_of` its OOD images."""
    predicted, which = simulate(World("run", planted=planted), 1)
    random = np.random.default_rng(0)
    id_right = random.random((len(predicted.x), 1500)) < PROBIT.inverse(predicted.x)[:, None]
    names = np.array(["scratch", "num_images=1000", "num_images=4000"])[predicted.group]
    images = np.array([0, 1000, 4000])[predicted.group]
    trials = [f"{n}-s{t}-{fake_run.hash_of((n, t), 6)}" for n, t in zip(names, predicted.unit, strict=True)]
    points = pd.DataFrame({
        "trial": trials, "group": names, "status": "done", "model": "tiny", "seed": predicted.unit,
        "num_images": images, "sources": "{}", "finetune": [f"lr{i % 5}" for i in range(len(trials))],
        "task": "camera-traps", "epoch": 1, "step": 31, "metric": "accuracy", "id": id_right.mean(1),
        "ood": predicted.right.mean(1), "id_val": id_right.mean(1), "ood_val": predicted.right.mean(1),
        "id_images": 1500, "ood_images": 1500,
    })  # fmt: skip
    run = fake_run.run_folder(path, points)
    for row, (trial, finetune) in enumerate(zip(points["trial"], points["finetune"], strict=True)):
        frame = pd.concat([
            pd.DataFrame({"split": split, "image": named, "label": "fox",
                          "epoch_1": np.where(right[row], "fox", "owl"), "confidence_1": np.float16(0.5)})
            for split, right, named in (
                ("id_test", id_right, numbered("id_test")),
                ("ood_test", predicted.right, names_of or numbered("ood_test")),
            )
        ])  # fmt: skip
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        run.trial(trial).storage.write(f"predictions/{finetune}.parquet", buffer.getvalue())
    return run, which


def analysed(run: RunFolder) -> Analysis:
    (analysis,) = analyse_all(*read_run(run.storage.address))
    return analysis


@pytest.mark.slow
def test_a_run_with_such_images_names_and_shows_them(tmp_path: Path):
    run, planted = run_of(tmp_path / "run", 0.1)
    picture = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (8, 8)).save(picture, "PNG")
    analysis = analysed(run)
    names = analysis.hidden.images["image"].tolist()
    assert analysis.hidden.found
    assert sum(planted[int(name.partition("/")[2])] for name in names) > 0.9 * planted.sum()
    assert f"hidden by the mean: on {len(names)} of 1,500 OOD images" in analysis.warnings[-1]
    run.write("samples/reversed.png", picture.getvalue())
    tiles = {"columns": 8, "classes": ["fox"] * 8}
    data = {
        **run.data(),
        "reversed": {"camera-traps": {"file": "samples/reversed.png", "images": names[:8], "tiles": tiles}},
    }
    run.write("data.json", json.dumps(data))
    table, _ = read_run(run.storage.address)
    study = Study(table, [analysis], "")
    made = study.verdict
    Draft202012Validator(SCHEMA).validate(made)
    assert (made["hidden"]["found"], made["hidden"]["images"], made["hidden"]["of"]) == (True, len(names), 1500)
    study.write(str(tmp_path / "report"))
    page = (tmp_path / "report/index.html").read_text("utf-8")
    assert "Images that the mean hides" in page
    assert "OOD images on which a better ID score means a worse OOD score" in page
    assert names[0] in page
    assert pd.read_csv(tmp_path / "report/reversed_images.csv")["image"].tolist() == names
    run.write("data.json", json.dumps({**data, "reversed": {"camera-traps": {**data["reversed"]["camera-traps"],
                                                                             "images": ["other"]}}}))  # fmt: skip
    study.write(str(tmp_path / "again"))  # a sheet of other images is not shown
    assert 'alt="OOD images on which' not in (tmp_path / "again/index.html").read_text("utf-8")


@pytest.mark.slow
def test_a_clean_run_says_that_none_is_shown(tmp_path: Path):
    run, _ = run_of(tmp_path / "run", 0.0)
    analysis = analysed(run)
    assert not analysis.hidden.found
    assert analysis.hidden.images.empty
    assert not any("hidden by the mean" in warning for warning in analysis.warnings)
    assert analysis.hidden.sentence.startswith("no subset of the 1,500 OOD images is shown on which")


@pytest.mark.slow
def test_the_sweep_leaves_a_sheet_of_these_very_images(tmp_path: Path):
    file = tmp_path / "small.yaml"
    file.write_text(
        "task: {name: camera-traps}\nmodel: {image_size: 8}\npretrain: none\nfinetune: {epochs: 1, lr: 1e-3}\n"
    )
    sweep = open_sweep(load_spec(file))
    (task,) = sweep.tasks.values()
    keys = task.keys(task.catalog.rows("ood_test"))
    run, _ = run_of(tmp_path / "run", 0.1, keys)
    write_subset_pictures(sweep, run, tmp_path / "store")
    names = analysed(run).hidden.images["image"].tolist()
    sheet = run.data()["reversed"]["camera-traps"]
    assert sheet["images"] == names[:24]
    assert len(sheet["tiles"]["classes"]) == 24
    assert sheet["tiles"]["classes"][0] in names[0]  # keys of the world name the species
    assert run.storage.recall(sheet["file"]).startswith(b"\x89PNG")
    assert "pools" in run.data()
    clean, _ = run_of(tmp_path / "clean", 0.0, keys)
    write_subset_pictures(sweep, clean, tmp_path / "store")
    assert "reversed" not in clean.data()
