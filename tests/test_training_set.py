"""The size of the fine-tuning set: exact, nested, paired over mixtures, and as ever where it is not asked for."""

from __future__ import annotations

import numpy as np
import pytest
from make_pools import open_pool

from ray_robust.data.tasks.training_set import training_rows
from ray_robust.errors import UserError
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.load import load_spec
from ray_robust.spec.sections import Finetune

CATALOG = open_pool("task", "camera-traps", {}).catalog
TRAIN = CATALOG.rows("train")


def rows(seed: int = 1, usable: np.ndarray | None = None, **settings) -> np.ndarray:
    return training_rows(CATALOG, usable, Finetune(**settings), seed)


def per_class(drawn: np.ndarray) -> np.ndarray:
    return np.bincount(CATALOG.labels[drawn], minlength=len(CATALOG.classes))


def test_all_images_unless_asked():
    assert np.array_equal(rows(), TRAIN)
    assert np.array_equal(rows(num_images=4000), TRAIN)
    usable = np.ones(len(CATALOG), bool)
    usable[TRAIN[:5]] = False
    assert np.array_equal(rows(usable=usable), TRAIN[5:])


def test_totals_are_exact_keep_the_shares_and_nest():
    before, whole = np.empty(0, int), per_class(TRAIN)
    for size in (1, 7, 100, 101, 1000, 3999):
        drawn = rows(num_images=size)
        assert len(np.unique(drawn)) == size
        assert set(before) <= set(drawn) <= set(TRAIN)
        assert np.abs(per_class(drawn) - whole * size / len(TRAIN)).max() <= 1
        before = drawn


def test_so_many_of_every_class_and_all_of_a_rare_one():
    before, whole = np.empty(0, int), per_class(TRAIN)
    for shots in (1, 5, int(whole.min()) + 3, int(whole.max())):
        drawn = rows(per_class=shots)
        assert np.array_equal(per_class(drawn), np.minimum(whole, shots))
        assert set(before) <= set(drawn)
        before = drawn
    assert np.array_equal(before, TRAIN)


def test_every_seed_draws_its_own():
    assert not np.array_equal(rows(1, num_images=100), rows(2, num_images=100))
    assert np.array_equal(rows(1, num_images=100), rows(1, num_images=100, lr=0.1))


SPEC = """\
task: {name: camera-traps}
pretrain: {sources: {species: 1}, num_images: 1000, epochs: 1}
finetune: {epochs: 2, num_images: {grid: [100, 1000]}}
"""


def planned(folder, text: str, *overrides: str):
    file = folder / "x.yaml"
    file.write_text(text)
    return open_sweep(load_spec(file, overrides)).plan


def test_it_is_an_axis_that_the_plan_counts(tmp_path):
    trial = next(iter(planned(tmp_path, SPEC)))
    assert [f.images for f in trial.finetunings] == [200, 2000]
    shots = SPEC.replace("num_images: {grid: [100, 1000]}", "per_class: 10")
    (finetuning,) = next(iter(planned(tmp_path, shots))).finetunings
    assert finetuning.images == 2 * 10 * 16
    assert len({f.id for f in trial.finetunings} | {finetuning.id}) == 3


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("[100, 1000]", "[100, 9000]", "x.yaml:3: finetune.num_images: 9,000 images, but camera-traps has 4,000 to"),
        ("epochs: 2", "epochs: 2, per_class: 3", "x.yaml:3: finetune: give num_images or per_class, one of the two"),
    ],
)
def test_mistakes_are_said(old, new, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(UserError) as caught:
        open_sweep(load_spec("x.yaml"))
    assert str(caught.value).startswith(wanted)
    assert "\n" not in str(caught.value)


def test_another_metric_is_another_result_of_the_same_images(tmp_path):
    text = SPEC.replace("{grid: [100, 1000]}", "100")
    own, same, other = (
        next(iter(planned(tmp_path, text.replace("camera-traps", f"camera-traps{more}")))).finetunings[0]
        for more in ("", ", metric: macro_f1", ", metric: worst_group")
    )
    assert own.id == same.id != other.id


def test_the_built_in_task_has_the_names_it_always_had(tmp_path):
    assert CATALOG.fingerprint == "edd43ff3e096bbf4"
    text = SPEC.replace(", num_images: {grid: [100, 1000]}", "")
    trial = next(trial for trial in planned(tmp_path, text) if trial.pretrain)
    assert (trial.key, trial.finetunings[0].id) == ("063a4dc83e", "lr0.001-e2-bf36f81c")
