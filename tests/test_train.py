"""The training loop by itself: the same bits again, after an interruption too; a loss that breaks; scores."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from ray_robust.files.storage import Storage
from ray_robust.spec.load import Finetune, ModelSection, Training
from ray_robust.train import callbacks, loop
from ray_robust.train.callbacks import Callback
from ray_robust.train.checkpoints import (
    checkpoint_facts,
    drop_state,
    load_checkpoint,
    load_state,
    save_checkpoint,
    state_facts,
)
from ray_robust.train.context import Context
from ray_robust.train.duration import Duration
from ray_robust.train.evaluate import Split, predict
from ray_robust.train.exceptions import Preempted, TrainingFailed
from ray_robust.train.finetune import EvalPoint, FinetuneJob, finetune
from ray_robust.train.images import ImageBank, normalise
from ray_robust.train.interleave import run_interleaved
from ray_robust.train.loop import fit, learning_rate, optimise
from ray_robust.train.models import build_model, fresh_head
from ray_robust.train.objective import Objective
from ray_robust.train.points import counts, points
from ray_robust.train.state import Stage

MODEL = ModelSection()
CONTEXT = Context()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def make_images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright square whose corner tells the class: uint8 images and int64 labels of 4 classes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 120, (count, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 4, count)
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(int(label), 2)
        image[4 + 14 * y : 14 + 14 * y, 4 + 14 * x : 14 + 14 * x] += 120
    return images, labels


def bank(count: int, seed: int = 0) -> Split:
    images, labels = make_images(count, seed)
    return Split(ImageBank([(images, None)], torch.device("cpu")), labels)


def state_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def train_some(settings: Training, checkpoints: Storage | None = None, context=None, **more) -> list[torch.Tensor]:
    data = bank(200)
    model = build_model(MODEL, 4, 1)
    duration = Duration.of(200, settings.batch_size, 4, None)
    stage = Stage("t", settings, MODEL, duration, 7, context or CONTEXT, checkpoints)
    fit(model, data.images, torch.from_numpy(data.labels), stage, **more)
    return state_of(model)


def save_at_every_epoch(monkeypatch) -> None:
    monkeypatch.setattr(callbacks, "MIN_SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(callbacks, "MAX_SAVE_SHARE", 1e9)


SETTINGS = Training(lr=3e-3, weight_decay=0.05, batch_size=32)


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["none", "crop", "rotate90", "rotate90+strong+trivialaugment"])
def test_the_same_seed_gives_the_same_bits(augmentation):
    settings = SETTINGS.model_copy(update={"augment": augmentation})
    torch.manual_seed(1)
    first = train_some(settings)
    torch.manual_seed(2)  # the global generator decides nothing
    again = train_some(settings)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_that_was_cut_off_goes_on_bit_for_bit(tmp_path, monkeypatch, optimizer):
    settings = SETTINGS.model_copy(update={"optimizer": optimizer, "lr": 1e-3})
    whole = train_some(settings)
    save_at_every_epoch(monkeypatch)
    folder = Storage(tmp_path)

    class CutOffError(Exception):
        pass

    class CutOff(Callback):
        def on_epoch_end(self, state):
            state.extra_state[f"seen/{state.epoch}"] = torch.tensor(state.step)
            if state.epoch == 3:
                raise CutOffError

    with pytest.raises(CutOffError):
        train_some(settings, folder, callbacks=[CutOff()])
    assert checkpoint_facts(folder, "t.0")["step"] == 12  # two epochs of six steps
    assert checkpoint_facts(folder, "t.1")["step"] == 6  # and the one before
    restored: dict[str, torch.Tensor] = {}
    resumed = train_some(settings, folder, extra_state=restored)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    seen = {name: int(step) for name, step in restored.items() if name.startswith("seen/")}
    assert seen == {"seen/1": 6, "seen/2": 12}


@pytest.fixture(scope="module")
def whole() -> list[torch.Tensor]:
    """What an undisturbed training ends in."""
    torch.set_num_threads(1)
    return train_some(SETTINGS)


def test_of_a_damaged_state_the_one_before_it_is_used(tmp_path, monkeypatch, whole):
    save_at_every_epoch(monkeypatch)
    train_some(SETTINGS, Storage(tmp_path))
    newest = max(tmp_path.glob("t.*"), key=lambda file: checkpoint_facts(Storage(tmp_path), file.stem)["number"])
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    model = build_model(MODEL, 4, 1)
    for damaged in (b"", data[:-5], data):
        newest.write_bytes(damaged)
        assert (
            load_state(Storage(tmp_path), "t", model, loop.make_optimizer(model, SETTINGS))["step"] == 12
        )  # of 6, 12, 18
    resumed = train_some(SETTINGS, Storage(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    drop_state(Storage(tmp_path), "t")
    assert not list(tmp_path.glob("t.*"))


def test_a_checkpoint_cut_short_or_damaged_counts_as_none(tmp_path):
    folder, model = Storage(tmp_path), build_model(MODEL, 4, 1)
    save_checkpoint(folder, "final", model, {"step": 3})
    assert load_checkpoint(folder, "final", build_model(MODEL, 4, 2)) == {"step": 3}
    whole = (tmp_path / "final.safetensors").read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 1
    for data in (*(whole[:size] for size in (0, 7, 100, len(whole) - 1)), bytes(changed)):
        (tmp_path / "final.safetensors").write_bytes(data)
        untouched = build_model(MODEL, 4, 2)
        before = state_of(untouched)
        assert load_checkpoint(folder, "final", untouched) is None
        assert all(torch.equal(a, b) for a, b in zip(before, state_of(untouched), strict=True))


def test_a_state_that_cannot_be_written_stops_no_training(tmp_path, monkeypatch, whole):
    save_at_every_epoch(monkeypatch)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    trained = train_some(SETTINGS, Storage(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(trained, whole, strict=True))
    assert not list(tmp_path.iterdir())


def test_a_preempted_training_saves_its_state_at_once(tmp_path, whole):
    heard = []
    context = Context(preemption=lambda: heard.append(1) or ("the node is drained" if len(heard) == 9 else ""))
    with pytest.raises(Preempted, match="t: stops at step 9 of 24: the node is drained"):
        train_some(SETTINGS, Storage(tmp_path), context=context)
    assert max((checkpoint_facts(Storage(tmp_path), f"t.{i}") or {"step": 0})["step"] for i in (0, 1)) == 9
    resumed = train_some(SETTINGS, Storage(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_divided_batch_gives_the_same_but_for_rounding():
    """Without batch normalisation; with it each part has statistics of its own."""

    def trained(name: str, parts: int) -> torch.Tensor:
        section = ModelSection(name=name, image_size=64, precision="float32")
        images = torch.from_numpy(make_images(96)[0]).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()
        data, labels = ImageBank([(images, None)], torch.device("cpu")), torch.from_numpy(make_images(96)[1])
        model = build_model(section, 4, 1)
        context = Context(grad_accum_steps=parts)
        fit(model, data, labels, Stage("t", SETTINGS, section, Duration.of(96, 32, 1, None), 7, context))
        return torch.cat([value.flatten() for value in model.state_dict().values() if value.is_floating_point()])

    whole, thirds = trained("test_vit", 1), trained("test_vit", 3)
    assert not torch.equal(whole, thirds)
    assert (whole - thirds).abs().max() < 1e-4
    assert (trained("test_resnet", 1) - trained("test_resnet", 3)).abs().max() > 1e-3


def test_a_loss_that_compares_images_is_not_divided():
    def nothing(*_):
        raise AssertionError

    compares = Objective(nothing, nothing, divisible=False)
    with pytest.raises(TrainingFailed, match="t: a batch of 32 does not fit into memory, and its loss compares"):
        optimise(build_model(MODEL, 4, 1), compares,
                 Stage("t", SETTINGS, MODEL, Duration.of(64, 32, 1, None), 1, Context(grad_accum_steps=2)))  # fmt: skip


def test_interleaved_trainings_are_the_same_bit_for_bit():
    def fresh(seed: int):
        data, model = bank(200, seed), build_model(MODEL, 4, seed)
        stage = Stage("t", SETTINGS, MODEL, Duration.of(200, 32, 1, None), seed, CONTEXT)
        return model, (model, data.images, torch.from_numpy(data.labels), stage)

    alone, together = [fresh(seed) for seed in (1, 2, 3)], [fresh(seed) for seed in (1, 2, 3)]
    for _, arguments in alone:
        fit(*arguments)
    ended = run_interleaved([(lambda a=a: fit.steps(*a)) for _, a in together], 2, torch.device("cpu"))
    assert all(seconds > 0 for seconds in ended)
    for (one, _), (other, _) in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(state_of(one), state_of(other), strict=True))


@pytest.mark.slow
def test_interleaved_trainings_all_save_their_states_before_they_leave(tmp_path):
    heard, folders = [], [Storage(tmp_path / str(seed)) for seed in range(3)]
    leaving = Context(preemption=lambda: heard.append(1) or ("the node is drained" if len(heard) >= 4 else ""))

    def fresh(seed: int, context: Context = CONTEXT, folder: Storage | None = None):
        data, model = bank(200, seed), build_model(MODEL, 4, seed)
        stage = Stage("t", SETTINGS, MODEL, Duration.of(200, 32, 1, None), seed, context, folder)
        return model, lambda: fit.steps(model, data.images, torch.from_numpy(data.labels), stage)

    cut_off = [fresh(seed, leaving, folder)[1] for seed, folder in enumerate(folders)]
    with pytest.raises(Preempted, match="t: stops at step 2 of 6: the node is drained"):
        run_interleaved(cut_off, 2, torch.device("cpu"))
    states = [state_facts(folder, "t") for folder in folders]
    assert [facts and facts["step"] for facts in states] == [3, 2, None]  # the second notices first, the third waits
    alone, resumed = [fresh(seed) for seed in range(3)], [fresh(seed, CONTEXT, f) for seed, f in enumerate(folders)]
    run_interleaved([steps for _, steps in alone], 1, torch.device("cpu"))
    run_interleaved([steps for _, steps in resumed], 2, torch.device("cpu"))
    for (one, _), (other, _) in zip(alone, resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(state_of(one), state_of(other), strict=True))


def test_a_training_that_has_not_begun_does_not_begin_to_be_preempted():
    begun = []

    def training(number: int, steps: int, last: bool):
        begun.append(number)
        for _ in range(steps):
            yield SimpleNamespace(run=lambda: None)
        if last:
            raise Preempted(f"{number} stops")

    trainings = [partial(training, 0, 2, True), partial(training, 1, 1, False), partial(training, 2, 1, False)]
    with pytest.raises(Preempted, match="0 stops"):  # in the round in which the third would begin in the second's place
        run_interleaved(trainings, 2, torch.device("cpu"))
    assert begun == [0, 1]


def test_a_loss_that_breaks_says_so():
    with pytest.raises(TrainingFailed, match=r"t: the loss became nan by step \d+ of 24 \(learning rate 1e\+08\)"):
        train_some(Training(lr=1e8, weight_decay=0.0, optimizer="sgd", batch_size=32, warmup=0.0))


def test_a_model_without_finite_scores_predicts_nothing():
    model, images = build_model(MODEL, 5, 0), bank(40, 1)
    next(buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")).fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="what the model says of 40 of 40 images is no finite number"):
        predict(model, images.images, MODEL, CONTEXT)


@pytest.mark.slow
def test_fine_tuning_learns_and_its_points_agree_with_scikit_learn():
    splits = {"train": bank(400, 1)}
    for i, name in enumerate(("id_val", "id_test", "ood_val", "ood_test")):
        splits[name] = replace(bank(100, 10 + i), groups=np.arange(100) % 7)
    model = build_model(MODEL, 9, 1)
    settings = Finetune(epochs=5, evaluate_every=2, batch_size=32, lr=3e-3, augment="none")
    done = finetune(model, FinetuneJob(MODEL, settings, splits, 4, "some name", "macro_f1", CONTEXT))
    rows = points(done, splits, "macro_f1")
    assert [row["epoch"] for row in rows] == [2, 4, 5]  # the last one always
    assert [row["step"] for row in rows] == [24, 48, 60]
    assert rows[-1]["id"] > 0.8
    assert rows[-1]["id_groups"] == 7
    truth, predicted = splits["id_test"].labels, done.predictions[EvalPoint(5, 60)]["id_test"].classes
    assert rows[-1]["id"] == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12)
    assert rows[-1]["id_accuracy"] == accuracy_score(truth, predicted)
    assert rows[-1]["id_macro_f1"] == rows[-1]["id"]
    assert rows[-1]["id_class_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
    by_group = [accuracy_score(truth[g::7], predicted[g::7]) for g in range(7)]
    assert rows[-1]["id_worst_group"] == min(by_group)
    confidence = done.predictions[EvalPoint(5, 60)]["id_test"].confidence
    assert 0.25 <= confidence.min() <= confidence.max() <= 1
    counted = counts(done, splits)
    mine = counted[(counted["epoch"] == 5) & (counted["split"] == "id_test")]
    assert (mine["tp"] + mine["fn"]).sum() == 100
    per_group = mine.groupby("group")[["tp", "fn"]].sum()
    assert (per_group["tp"] / per_group.sum(axis=1)).tolist() == by_group
    assert [row["id_accuracy"] for row in points(done, splits, "worst_group")] == [row["id_accuracy"] for row in rows]


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(SETTINGS.model_copy(update={"warmup": 0.1}), step, 100) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert max(rates) == pytest.approx(3e-3)
    assert 0 < rates[0] < 1e-3
    assert rates[-1] < 1e-5


def test_durations():
    assert Duration.of(1000, 128, 3, None) == Duration(1000, 128, 21)  # seven whole batches a pass
    assert Duration.of(10, 128, 3, None) == Duration(10, 10, 3)
    assert Duration.of(1000, 128, None, 12800).steps == 100
    assert Duration.of(1000, 128, 3, None, 12800).steps == 100
    assert Duration.of(1000, 128, 30, None, 12800).steps == 210


def test_normalised_images_have_the_models_scale():
    x = normalise(torch.full((2, 4, 4, 3), 51, dtype=torch.uint8), [51.0, 0.0, 102.0], [51.0, 51.0, 51.0])
    assert x.shape == (2, 3, 4, 4)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x[0, :, 0, 0].tolist() == pytest.approx([0.0, 1.0, -1.0], abs=1e-6)


def test_a_bank_of_several_sources_is_one():
    a, b = make_images(30, 1)[0], make_images(20, 2)[0]
    rows = np.array([3, 5, 7])
    joined = ImageBank([(a, rows), (b, None)], torch.device("cpu"))
    assert len(joined) == 23
    positions = torch.tensor([0, 22, 3, 2, 4])
    wanted = np.concatenate([a[rows], b])[positions.numpy()]
    assert np.array_equal(joined.take(positions).numpy(), wanted)


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "resnet18"])
def test_gradients_on_maps_of_one_pixel_are_right_in_every_precision(name: str):
    """oneDNN leaves some of a strided convolution's as they were in memory, on processors with AMX in bfloat16."""
    section = ModelSection(name=name, image_size=16)
    model, images = build_model(section, 4, 1), torch.randn(32, 3, 16, 16)
    given = dict[torch.nn.Module, torch.Tensor]()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, _: given.update({module: inputs[0].detach()}))
    model(images)
    reached = {module: one for module, one in given.items() if one.shape[-1] == 1}
    assert any(module.kernel_size == (3, 3) for module in reached)
    for module, one in reached.items():
        gradients = []
        for dtype in (torch.float32, torch.bfloat16):
            [torch.full((1 << bits,), torch.nan) for bits in range(8, 22)]  # what is left in memory afterwards
            module.to(dtype)(one.to(dtype)).sum().backward()
            gradients.append(module.weight.grad.float())
            module.weight.grad = None
        exact, rounded = gradients
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))


def test_models_start_alike_from_the_same_seed_and_keep_the_global_state():
    before = torch.random.get_rng_state()
    assert all(torch.equal(a, b) for a, b in
               zip(state_of(build_model(MODEL, 4, 1)), state_of(build_model(MODEL, 4, 1)), strict=True))  # fmt: skip
    other = fresh_head(build_model(MODEL, 4, 1), 6, 3)
    assert torch.equal(before, torch.random.get_rng_state())
    seen = predict(other, bank(5).images, MODEL, CONTEXT)
    assert seen.classes.shape == seen.confidence.shape == (5,)
    vit = build_model(ModelSection(name="test_vit", image_size=64), 3, 1)  # a model that must be told its size
    assert vit(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
