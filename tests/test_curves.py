"""Learning curves: what is recorded, that a resumed training continues its own, and that they change no score."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_robust.files.storage import Storage
from ray_robust.run.learning_curve import MOST_POINTS, LearningCurve, interval
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.sections import ModelSection, Training
from ray_robust.train import callbacks, curve, loop
from ray_robust.train.callbacks import Callback
from ray_robust.train.context import Context
from ray_robust.train.duration import Duration
from ray_robust.train.evaluate import Split
from ray_robust.train.exceptions import Preempted
from ray_robust.train.images import ImageBank
from ray_robust.train.models import build_model
from ray_robust.train.state import Stage
from ray_robust.trial.run_trial import run_trial
from tests.test_trial import paths_in, plan_of, pretrained_of

SECTION = ModelSection(name="test_resnet", image_size=32)
SETTINGS = Training(lr=1e-3, weight_decay=0.05, batch_size=16)
CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(80, dtype=np.int64) % 4


class EveryLoss(Callback):
    """The loss of every step, step -> loss."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_step_end(self, state):
        self.losses[state.step] = float(state.loss)


def train(epochs: int, folder: Path | None = None, stop_at: int | None = None, held_out: Split | None = None):
    """Train a small model; return its curves, the loss of every step, and its weights."""
    curves, every, steps_done = [], EveryLoss(), []
    context = Context(record=curves.append, preemption=lambda: "stop" if every.losses.get(stop_at or 0) else "")
    bank, model = ImageBank([(IMAGES, None)], CPU), build_model(SECTION, 4, 0)
    duration = Duration.of(80, 16, epochs, None)
    stage = Stage("pretrain", SETTINGS, SECTION, duration, 7, context, Storage(folder) if folder else None)
    own = [every, *([curve.HeldOutAccuracy(held_out)] if held_out else [])]
    try:
        loop.fit(model, bank, torch.from_numpy(LABELS), stage, own)
    except Preempted:
        steps_done.append(max(every.losses))
    return curves, every.losses, model.state_dict()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_a_curve_is_the_mean_loss_between_points_and_the_rate_of_the_step(monkeypatch):
    curves, losses, _ = train(2)
    assert len(curves) == 1
    own = curves[0]
    assert (own.stage, own.steps, own.batch_size, own.images) == ("pretrain", 10, 16, 80)
    assert own.step == tuple(range(1, 11))
    assert own.loss == pytest.approx([losses[step] for step in own.step], rel=1e-6)
    assert own.lr == tuple(loop.learning_rate(SETTINGS, step - 1, 10) for step in own.step)
    monkeypatch.setattr("ray_robust.run.learning_curve.MOST_POINTS", 3)
    thin = train(2)[0][0]
    assert thin.step == (4, 8, 10)
    means = [np.mean([losses[s] for s in steps]) for steps in ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10))]
    assert thin.loss == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 199, 200, 201, 1_000, 123_457])
def test_a_curve_has_at_most_so_many_points(steps):
    assert -(-steps // interval(steps)) <= MOST_POINTS
    assert interval(min(steps, MOST_POINTS)) == 1


@pytest.mark.parametrize("stop_at", [3, 5, 8])
def test_a_resumed_training_continues_its_curve(tmp_path, monkeypatch, stop_at):
    """Neither a point twice nor one lost, wherever between two points it stopped."""
    monkeypatch.setattr("ray_robust.run.learning_curve.MOST_POINTS", 4)
    monkeypatch.setattr(curve, "HELD_OUT_SHARE", 1.0)
    held_out = Split(ImageBank([(IMAGES, None)], CPU), LABELS)
    whole, _, weights = train(2, held_out=held_out)
    assert train(2, tmp_path, stop_at, held_out)[0] == []
    resumed, losses, again = train(2, tmp_path, held_out=held_out)
    assert min(losses) == stop_at + 1
    assert resumed == whole
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert None not in whole[0].loss
    assert None not in whole[0].held_out_accuracy


def test_a_state_of_an_earlier_version_leaves_the_first_part_out(tmp_path, monkeypatch):
    monkeypatch.setattr("ray_robust.run.learning_curve.MOST_POINTS", 5)
    monkeypatch.setattr(curve.CurveRecorder, "on_train_start", lambda *_: None)
    monkeypatch.setattr(curve.CurveRecorder, "on_step_end", lambda *_: None)
    train(2, tmp_path, 3)
    monkeypatch.undo()
    monkeypatch.setattr("ray_robust.run.learning_curve.MOST_POINTS", 5)
    own = train(2, tmp_path)[0][0]
    assert own.step == (2, 4, 6, 8, 10)
    assert [loss is None for loss in own.loss] == [True, True, False, False, False]
    assert LearningCurve.read(json.loads(json.dumps(own.as_json()))) is not None


def test_recording_changes_no_weight_and_no_loss(monkeypatch):
    monkeypatch.setattr(curve, "HELD_OUT_SHARE", 1.0)
    held_out = Split(ImageBank([(IMAGES, None)], CPU), LABELS)
    curves, losses, weights = train(3, held_out=held_out)
    assert len(curves[0].held_out_accuracy) > 1
    monkeypatch.setattr(curve.CurveRecorder, "on_train_start", lambda *_: None)
    monkeypatch.setattr(curve.CurveRecorder, "on_step_end", lambda *_: None)
    _, bare_losses, bare = train(3)
    assert losses == bare_losses
    assert all(torch.equal(weights[name], bare[name]) for name in weights)


def test_no_loss_is_read_before_the_end(monkeypatch):
    """Of the recorder's own: a GPU would have to be waited for."""
    read = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(callbacks.LossGuard, "on_step_end", lambda *_: None)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda own: read.append(own.shape) or tolist(own))
    monkeypatch.setattr(torch.Tensor, "item", lambda own: read.append(own.shape))
    monkeypatch.setattr(EveryLoss, "on_step_end", lambda *_: None)
    train(2)
    assert read == [(10,)]


def test_held_out_accuracy_costs_at_most_its_share():
    for images in (1, 40, 512):
        for steps in (1, 7, 100, 10_000):
            duration = Duration(6400, 64, steps)
            at = curve.evaluation_steps(duration, images)
            assert len(at) * images <= curve.HELD_OUT_SHARE * steps * 64
            assert not at or (at[-1] == steps and len(set(at)) == len(at))
    assert curve.evaluation_steps(Duration(6400, 64, 10_000), 512) == [1250 * (i + 1) for i in range(8)]
    assert curve.evaluation_steps(Duration(6400, 64, 10_000), 0) == []


def test_what_is_no_curve_is_none():
    good = replace(train(1)[0][0]).as_json()
    assert LearningCurve.read(good) is not None
    for key, value in {"step": None, "loss": good["loss"][:-1], "steps": "ten", "lr": [math.inf] * 5}.items():
        assert LearningCurve.read({**good, key: value}) is None
    last = good["steps"]
    damaged = {"loss": 1e308, "lr": -1e300, "step": last + 1, "held_out_step": last + 1}
    for key, value in damaged.items():  # numbers of which sums, products or axes have no end
        own = {**good, key: [*good[key][:-1], value]}
        own |= {"held_out_accuracy": [0.5] * len(own["held_out_step"])}
        assert LearningCurve.read(own) is None, key
    for key in ("steps", "batch_size", "images"):
        assert LearningCurve.read({**good, key: 10**30}) is None
    assert LearningCurve.read({**good, "step": good["step"][::-1]}) is None
    assert LearningCurve.read({**good, "loss": [3e38, *good["loss"][1:]]}) is not None  # of a training that diverges
    for broken in (None, [], {}, {**good, "loss": ["x"] * len(good["loss"])}):
        assert LearningCurve.read(broken) is None


@pytest.mark.slow
def test_a_trial_keeps_the_curves_of_all_its_trainings(tmp_path):
    plan, paths = plan_of(tmp_path, "finetune.method=lp-ft"), paths_in(tmp_path, "a")
    trial = pretrained_of(plan)
    run_trial(trial, paths, Context())
    folder = RunFolder(paths.run).trial(trial.id)
    pretraining = folder.curves("pretrain")
    assert pretraining is not None
    assert [own.stage for own in pretraining] == ["pretrain"]
    assert pretraining[0].steps * pretraining[0].batch_size == 6400
    assert pretraining[0].loss[0] > pretraining[0].loss[-1]
    for finetuning in trial.finetunings:
        assert [own.stage for own in folder.curves(finetuning.id)] == ["probe", "finetune"]
    held_out = json.loads((Path(paths.run) / f"trials/{trial.id}/trial.json").read_text())["held_out"]
    assert held_out["images"] >= held_out["most_per_label"] > 0
    # what is altered is not taken for what was recorded, and the fine-tuning that it belongs to is run again
    own = Path(paths.run, "trials", trial.id, "curves", f"{trial.finetunings[0].id}.json")
    text = own.read_text()
    own.write_text(text.replace("finetune", "finetuns"))
    assert RunFolder(paths.run).trial(trial.id).damage() == f"curves/{own.name} was altered: its checksum is another"
    run_trial(trial, paths, Context())
    assert own.read_text() == text
    # a trial that shares the weights finds their curve beside them
    other = replace(paths, run=str(tmp_path / "b" / "run"))
    run_trial(trial, other, Context())
    assert RunFolder(other.run).trial(trial.id).curves("pretrain") == pretraining
