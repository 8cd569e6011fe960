"""Corruptions of the ID test as shifts: what each kind does, the files they are kept in, their scores, and errors."""

from __future__ import annotations

import colorsys
import errno
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ray_robust.data.corruptions import files, kinds
from ray_robust.data.corruptions.kinds import KINDS, SEVERITIES, corrupt
from ray_robust.data.images.store import ImageStore
from ray_robust.data.opened import forget_pools
from ray_robust.data.pool import Task
from ray_robust.errors import UserError
from ray_robust.prepare.open_sweep import Sweep, open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.train.context import Context
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial
from tests.make_images import photo

SPEC = """
task: {{name: camera-traps, species: 4, cameras: 10, ood_val_cameras: 4, ood_test_cameras: 10, train_images: 60,
       id_val_images: 20, id_test_images: 60, ood_val_images: 20, ood_test_images: 60{corruptions}}}
model: {{image_size: 16}}
pretrain: none
finetune: {{epochs: 1, lr: 3e-3, batch_size: 32}}
"""


def image(size: int = 32, seed: int = 0) -> np.ndarray:
    return np.asarray(photo(size, size, seed))


@pytest.mark.parametrize("size", [8, 32, 48, 72])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_an_image_more_the_higher_the_severity(kind: str, size: int):
    apart = []
    for severity in SEVERITIES:
        made = [corrupt(image(size, seed), kind, severity, seed).astype(float) for seed in range(3)]
        assert all(one.shape == (size, size, 3) for one in made)
        apart.append(np.mean([np.abs(one - image(size, seed)).mean() for seed, one in enumerate(made)]))
    assert apart[-1] > apart[0] or kind == "saturate"  # severities 1 and 2 of which take colour away
    assert min(apart) > 0 or (kind, size) in {("gaussian_blur", 8), ("pixelate", 8)}


def test_a_corruption_depends_on_the_image_s_id_and_nothing_else():
    one = corrupt(image(), "gaussian_noise", 3, 7)
    assert (one == corrupt(image(), "gaussian_noise", 3, 7)).all()
    assert (one != corrupt(image(), "gaussian_noise", 3, 8)).any()


def test_noise_has_the_published_strength():
    grey = np.full((64, 64, 3), 128, np.uint8)
    for size, column in ((32, 1), (33, 2), (64, 2), (65, 3)):
        plane = np.full((size, size, 3), 128, np.uint8)
        for severity in (1, 3):
            made = corrupt(plane, "gaussian_noise", severity, 1).astype(float) / 255
            assert made.std() == pytest.approx(KINDS["gaussian_noise"][column][severity - 1], rel=0.06)
    salted = corrupt(grey, "impulse_noise", 5, 1)
    assert np.isin(salted, (0, 255)).mean() == pytest.approx(0.14, abs=0.01)


def test_brightness_and_saturation_are_those_of_hsv():
    picture = image(8)
    picture = np.concatenate([picture.reshape(-1, 3)[:60], [[0, 0, 0], [90, 90, 90], [255, 0, 0], [255, 255, 255]]])
    picture = picture.reshape(8, 8, 3).astype(np.uint8)
    for kind, change in (
        ("brightness", lambda h, s, v: (h, s, min(v + 0.3, 1))),
        ("saturate", lambda h, s, v: (h, min(s * 2.5 + 0.2, 1), v)),
    ):
        made = corrupt(picture, kind, 5, 0)
        for pixel, own in zip(made.reshape(-1, 3), picture.reshape(-1, 3) / 255, strict=True):
            wanted = 255 * np.array(colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*own))))
            assert pixel == pytest.approx(wanted, abs=0.51)


def test_jpeg_is_what_pillow_keeps_of_it():
    buffer = io.BytesIO()
    Image.fromarray(image()).save(buffer, "JPEG", quality=58)
    assert (corrupt(image(), "jpeg", 3, 0) == np.asarray(Image.open(buffer))).all()


def test_blurs_keep_the_mean_of_a_smooth_image():
    across = np.linspace(60, 200, 32)
    smooth = np.repeat((across[:, None] + across[None, :])[:, :, None] / 2, 3, 2).astype(np.uint8)
    for kind in ("gaussian_blur", "defocus_blur", "motion_blur", "pixelate"):
        assert corrupt(smooth, kind, 2, 0).mean() == pytest.approx(smooth.mean(), rel=0.06)


def sweep(folder: Path, corruptions: str = "") -> Sweep:
    forget_pools()
    file = folder / "small.yaml"
    file.write_text(SPEC.format(corruptions=f", corruptions: {corruptions}" if corruptions else ""))
    return open_sweep(load_spec(file))


def test_corrupted_images_are_made_once_and_again_where_they_were_altered(tmp_path: Path, monkeypatch):
    (task,) = sweep(tmp_path, "{kinds: [jpeg], images: 20}").tasks.values()
    assert isinstance(task, Task)
    store, rows = ImageStore.open(tmp_path / "store", task, 16), task.corrupted_rows()
    assert len(rows) == 20
    first = np.array(files.corrupted(store, rows, "jpeg", 3))
    own = store.take(rows)
    assert (first[4] == corrupt(own[4], "jpeg", 3, int(task.catalog.ids[rows[4]]))).all()
    (file,) = (tmp_path / "store/corruptions").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(files, "corrupt", lambda *_: pytest.fail("made again"))
        assert (files.corrupted(store, rows, "jpeg", 3) == first).all()
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    assert (files.corrupted(store, rows, "jpeg", 3) == first).all()
    file.write_bytes(bytes(data[:50]))
    assert (files.corrupted(store, rows, "jpeg", 3) == first).all()
    monkeypatch.setattr(files, "VERSION", kinds.VERSION + 1)
    files.corrupted(store, rows, "jpeg", 3)
    assert len(list((tmp_path / "store/corruptions").iterdir())) == 2


@pytest.mark.parametrize("fails", ["mkdir", "write_bytes"])
def test_a_disk_that_is_full_or_read_only_costs_the_file_alone(tmp_path: Path, monkeypatch, fails: str):
    """Neither making the folder, nor writing, nor removing what was written may end a trial."""
    (task,) = sweep(tmp_path, "{kinds: [jpeg], images: 20}").tasks.values()
    assert isinstance(task, Task)
    store, rows = ImageStore.open(tmp_path / "store", task, 16), task.corrupted_rows()
    first = np.array(files.corrupted(store, rows, "jpeg", 3))
    (file,) = (tmp_path / "store/corruptions").iterdir()
    file.write_bytes(b"altered")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in (fails, "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert (files.corrupted(store, rows, "jpeg", 3) == first).all()


def table(folder: Path, opened: Sweep) -> pd.DataFrame:
    torch.set_num_threads(1)
    paths = RunPaths(str(folder / "run"), str(folder / "checkpoints"), str(folder / "store"))
    for trial in opened.plan:
        run_trial(trial, paths, Context())
    run = RunFolder(paths.run)
    run.write_plan(opened.plan.rows())
    return run.results(every_shift=True)


@pytest.mark.slow
def test_corruptions_are_shifts_of_any_task_and_change_no_other_score(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    opened = sweep(tmp_path / "a", "{kinds: [jpeg, gaussian_noise], severities: [1, 5], images: 40}")
    (one,) = opened.plan.trials[0].finetunings
    rows = table(tmp_path / "a", opened)
    names = ["jpeg-1", "jpeg-5", "gaussian_noise-1", "gaussian_noise-5"]
    assert rows["shift"].tolist() == ["ood", *names]
    assert rows["ood_images"].tolist() == [60, 40, 40, 40, 40]
    assert (rows["id"] == rows["id"].iloc[0]).all()
    plain = sweep(tmp_path / "b")
    (other,) = plain.plan.trials[0].finetunings
    assert one.evaluated - other.evaluated == 4 * 40
    assert one.training == other.id != one.id
    scores = ["id_val", "ood_val", "id", "ood", "id_accuracy", "ood_macro_f1", "id_ece"]
    assert table(tmp_path / "b", plain)[scores].iloc[0].tolist() == rows[scores].iloc[0].tolist()
    predictions = pd.read_parquet(next((tmp_path / "a/run/trials").glob("*/predictions/*.parquet"))).astype(str)
    noisy = predictions[predictions["split"] == "shift:gaussian_noise-5"]
    assert set(noisy["image"]) < set(predictions["image"][predictions["split"] == "id_test"])
    assert (noisy["label"] == noisy["epoch_1"]).mean() == pytest.approx(rows["ood_accuracy"].iloc[-1])


@pytest.mark.parametrize(
    ("corruptions", "message"),
    [
        ("{kinds: [fog]}", "kinds: must be of gaussian_noise, shot_noise"),
        ("{kind: [jpeg]}", "kind: unknown key; did you mean kinds?"),
        ("{severities: [6]}", "severities: must be of 1, 2, 3, 4, 5, not 6"),
        ("{severities: [true]}", "severities: must be of 1, 2, 3, 4, 5, not true"),
        ("{severities: []}", "severities: must hold at least one"),
        ("{kinds: [jpeg, jpeg]}", "kinds: one is named twice"),
        ("{kinds: [[jpeg]]}", "kinds: must be of"),
        ("{images: 0}", "images: must be a whole number above 0, not 0"),
        ("{images: [1000, 500]}", "images: must be a whole number above 0, not a list"),
        ("jpeg", "must be a mapping"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, corruptions: str, message: str):
    with pytest.raises(UserError) as error:
        sweep(tmp_path, corruptions)
    assert f"task.corruptions: {message}" in str(error.value)


def test_a_metric_by_class_over_fewer_images_is_warned_of(tmp_path: Path):
    said = (
        "corruptions are of 20 of 60 images of id_test: macro_f1 on them has fewer images of each class than the ID "
        "score it is compared with; say `images: 60`"
    )
    (few,) = sweep(tmp_path, "{kinds: jpeg, images: 20}").tasks.values()
    assert said in few.warnings
    (every,) = sweep(tmp_path, "{kinds: jpeg}").tasks.values()
    assert not any("corruptions are of" in warning for warning in every.warnings)


def test_what_is_left_out_of_pretraining_does_not_depend_on_corruptions(tmp_path: Path):
    (plain,), (more,) = (sweep(tmp_path, text).tasks.values() for text in ("", "{kinds: jpeg}"))
    assert isinstance(plain, Task)
    assert isinstance(more, Task)
    assert more.of_images == plain.of_images == plain.meaning != more.meaning


def test_one_kind_and_all_kinds_may_be_written_short(tmp_path: Path):
    (one,) = sweep(tmp_path, "{kinds: jpeg, severities: 2, images: 1k}").tasks.values()
    assert list(one.corrupted) == ["jpeg-2"]
    (every,) = sweep(tmp_path, "{kinds: all, severities: [1, 3]}").tasks.values()
    assert len(every.corrupted) == 24
