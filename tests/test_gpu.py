"""What only a GPU runs: resident images, prefetch, bf16, CUDA graphs, streams, stacked trainings, short memory.

`python -m pytest -m gpu`. Where there is none, one is emulated in RAM, so that the same lines run, and what only a real
one can show is skipped. Needs no Ray.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ray_robust.data.images.form import Form
from ray_robust.data.images.store import ImageStore
from ray_robust.data.opened import images_of
from ray_robust.data.sources.folder import FolderSource
from ray_robust.files.storage import Storage
from ray_robust.spec.augmentation import AUGMENTATIONS
from ray_robust.spec.sections import ModelSection
from ray_robust.spec.training import Training
from ray_robust.train import autotune, callbacks, compile, images, stack
from ray_robust.train.augmentation import augment
from ray_robust.train.callbacks import Callback
from ray_robust.train.context import Context
from ray_robust.train.crops import RandomCrops
from ray_robust.train.duration import Duration
from ray_robust.train.images import ImageBank
from ray_robust.train.interleave import run_interleaved
from ray_robust.train.loop import fit, seed_device
from ray_robust.train.models import build_model
from ray_robust.train.stack import Stack, StackedRunner
from ray_robust.train.state import Stage
from tests.emulated_gpu import emulated

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:There is a performance drop")]
REAL = torch.cuda.is_available()
real = pytest.mark.skipif(not REAL, reason="no GPU")  # one that is emulated would show nothing
GPU = torch.device("cuda", 0)
SECTION = ModelSection(name="resnet18" if REAL else "test_resnet", image_size=32, compile=False)
MAPPED = "convnext_atto" if REAL else "test_convnext"  # no statistics of a batch
SETTINGS = Training(lr=1e-3, weight_decay=0.05, batch_size=64 if REAL else 16)
IMAGES = 8 * SETTINGS.batch_size
PLAIN = SETTINGS.model_copy(update={"optimizer": "sgd"})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stack, "_tried", {})


@pytest.fixture(autouse=True)
def _gpu():
    """The same kernels every time (cuDNN may otherwise sum in another order), or one that is emulated."""
    if not REAL:
        torch.set_num_threads(1)
        with emulated():
            yield
        return
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = False


def pixels(count: int = IMAGES) -> tuple[np.ndarray, torch.Tensor]:
    """uint8 noise [n, 32, 32, 3], brighter by class, and the labels."""
    labels = torch.arange(count) % 4
    noise = np.random.default_rng(0).integers(0, 120, (count, 32, 32, 3))
    return (noise + 40 * labels.numpy()[:, None, None, None]).astype(np.uint8), labels


def trained(section=SECTION, settings=SETTINGS, steps=16, checkpoints=None, context=None, callbacks=(), seed=1):
    data, labels = pixels()
    model = build_model(section, 4, seed)
    bank = ImageBank([(data, None)], GPU)
    duration = Duration(len(bank), settings.batch_size, steps)
    fit(
        model,
        bank,
        labels,
        Stage("t", settings, section, duration, seed, context or Context(GPU), checkpoints),
        callbacks,
    )
    return model


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """Relative: norm of the difference over norm of the change is too strict for bf16, so over the norm itself."""
    return float((weights(one) - weights(other)).norm() / weights(one).norm())


def lies_in_ram(images: torch.Tensor) -> bool:
    """Whether images are not on the GPU; an emulated one is in RAM too."""
    return REAL and not images.is_cuda


def test_a_gpu_may_be_named_without_its_number():
    data, _ = pixels()
    bank = ImageBank([(data, None)], torch.device("cuda"))
    assert bank.device == GPU
    assert not lies_in_ram(bank._resident.pixels)
    assert not lies_in_ram(bank.take(torch.arange(3)))


def test_what_cannot_be_stacked_is_run_in_turn(monkeypatch):
    alone, together = several(2, 1), several(2, 2, StackedRunner(GPU))
    assert max(distance(a, b) for a, b in zip(alone, together, strict=True)) < 1e-3


def test_crops_of_a_compact_store_come_ahead_as_they_would_on_a_cpu(tmp_path):
    for i in range(20):
        folder = tmp_path / "images" / f"class {i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (60 + i, 90 - i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.jpg")
    source = FolderSource("pictures", FolderSource.Options(path=str(tmp_path / "images")))
    store = ImageStore.open(tmp_path / "store", source, Form(32, 40))
    store.fill(store.missing())
    here, there = (ImageBank([images_of(store, np.arange(store.n))], device) for device in (torch.device("cpu"), GPU))
    for seed in range(6):
        positions, crops = torch.randperm(store.n)[:8], RandomCrops(seed, 2)
        there.prefetch(positions, crops)
        assert torch.equal(there.take(positions, crops).cpu(), here.take(positions, crops))
    there.decode()
    assert there._resident is not None
    assert not lies_in_ram(there._resident.pixels)
    assert torch.equal(there.take(positions).cpu(), here.take(positions))


def test_images_lie_on_the_gpu_where_they_fit_and_come_ahead_where_not(monkeypatch):
    data, _ = pixels(512)
    resident = ImageBank([(data[:200], None), (data[200:], None)], GPU)
    assert not lies_in_ram(resident._resident.pixels)
    monkeypatch.setattr(images, "RESIDENT_SHARE", 0.0)
    fetched = ImageBank([(data[:200], None), (data[200:], None)], GPU)
    assert fetched._resident is None
    for _ in range(20):
        positions = torch.randperm(len(data))[:100]
        fetched.prefetch(positions)
        assert len(fetched._prefetched) == 1
        if REAL:
            torch.randn(2000, 2000, device=GPU).matmul(torch.randn(2000, 2000, device=GPU))  # the stream is busy
        got = fetched.take(positions)
        assert not lies_in_ram(got)
        assert torch.equal(got, resident.take(positions))
        assert torch.equal(got.cpu(), torch.from_numpy(data[positions.numpy()]))
    fetched.prefetch(positions)
    other = torch.randperm(len(data))[:100]
    assert torch.equal(fetched.take(other).cpu(), torch.from_numpy(data[other.numpy()]))  # asked for something else


def test_where_the_images_lie_changes_no_bit(monkeypatch):
    resident = trained()
    monkeypatch.setattr(images, "RESIDENT_SHARE", 0.0)
    assert torch.equal(weights(resident), weights(trained()))


@pytest.mark.parametrize("name", [*AUGMENTATIONS, "rotate90+strong+trivialaugment"])
def test_augmentations_stay_on_the_gpu_and_follow_the_seed(name):
    batch = torch.from_numpy(pixels(64)[0]).to(GPU)
    seed_device(1, GPU)
    first = augment(batch, name)
    assert (first.device, first.shape) == (batch.device, batch.shape)
    seed_device(1, GPU)
    assert torch.equal(augment(batch, name), first)
    assert torch.equal(augment(batch, name), first) == (name == "none")


@real
def test_bf16_is_used_and_learns():
    context = Context(GPU)
    with context.autocast("auto"):
        assert (torch.ones(8, 8, device=GPU) @ torch.ones(8, 8, device=GPU)).dtype == torch.bfloat16
    with context.autocast("float32"):
        assert (torch.ones(8, 8, device=GPU) @ torch.ones(8, 8, device=GPU)).dtype == torch.float32
    model = trained(steps=60).eval()
    data, labels = pixels()
    from ray_robust.train.images import normalise
    from ray_robust.train.models import input_scale

    with torch.no_grad():
        scores = model(normalise(torch.from_numpy(data).to(GPU), *input_scale(model)))
    assert (scores.argmax(1).cpu() == labels).float().mean() > 0.9


@real
@pytest.mark.parametrize("way", ["compiled", "graphs"])
def test_compiled_and_graphed_steps_train_alike(way, monkeypatch):
    section = SECTION.model_copy(update={"precision": "float32"})
    eager = trained(section, PLAIN, steps=12)
    monkeypatch.setitem(compile.VARIANTS, "compiled", compile.VARIANTS[way])
    other = trained(section.model_copy(update={"compile": True}), PLAIN, steps=12)
    assert distance(eager, other) < 1e-3


@pytest.mark.parametrize("compile_", [False, pytest.param(True, marks=real)])
def test_a_training_that_was_cut_off_goes_on_bit_for_bit(tmp_path, monkeypatch, compile_):
    section = SECTION.model_copy(update={"compile": compile_})
    whole = trained(section, steps=24)
    monkeypatch.setattr(callbacks, "MIN_SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(callbacks, "MAX_SAVE_SHARE", 1e9)

    class CutOffError(Exception):
        pass

    class CutOff(Callback):
        def on_epoch_end(self, state):
            if state.epoch == 2:
                raise CutOffError

    folder = Storage(tmp_path / "states")
    with pytest.raises(CutOffError):
        trained(section, steps=24, checkpoints=folder, callbacks=[CutOff()])
    resumed = trained(section, steps=24, checkpoints=folder)
    assert torch.equal(weights(whole), weights(resumed))


def several(count: int, at_once: int, run=None, settings=PLAIN, name=SECTION.name):
    data, labels = pixels()
    bank = ImageBank([(data, None)], GPU)
    section = SECTION.model_copy(update={"precision": "float32", "name": name})
    models = [build_model(section, 4, seed) for seed in range(count)]
    duration = Duration(len(bank), settings.batch_size, 10)

    def steps(seed: int):
        return lambda: fit.steps(
            models[seed], bank, labels, Stage("t", settings, section, duration, seed, Context(GPU))
        )

    run_interleaved([steps(seed) for seed in range(count)], at_once, GPU, *([run] if run else []))
    return models


def test_company_on_other_streams_changes_no_bit():
    alone, together = several(4, 1, settings=SETTINGS), several(4, 4, settings=SETTINGS)
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(alone, together, strict=True))


def test_stacked_trainings_train_alike(monkeypatch):
    monkeypatch.setattr(stack, "pick_fastest", lambda *_: "stacked")
    sizes, run = [], Stack.run
    monkeypatch.setattr(Stack, "run", lambda self, works: (sizes.append(len(works)), run(self, works))[1])
    # batch normalisation over channels_last cannot be mapped over models on a GPU
    alone, together = several(4, 1, name=MAPPED), several(4, 4, StackedRunner(GPU), name=MAPPED)
    assert sizes == [4] * 10
    assert max(distance(a, b) for a, b in zip(alone, together, strict=True)) < 1e-3


@real
def test_a_batch_in_parts_takes_less_memory_and_trains_alike():
    section = SECTION.model_copy(update={"precision": "float32", "name": MAPPED})

    def run(parts: int):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        context = Context(GPU, grad_accum_steps=parts)
        model = trained(section, PLAIN.model_copy(update={"batch_size": 512}), steps=4, context=context)
        return model, torch.cuda.max_memory_allocated() - before

    (whole, much), (parts, less) = run(1), run(8)
    assert distance(whole, parts) < 1e-3
    assert less < 0.7 * much


@real
def test_memory_that_is_short_is_recognised_and_given_back():
    from ray_robust.trial.oom import is_out_of_memory, release_memory

    fraction = (torch.cuda.memory_reserved() + 2**30) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(fraction)
    try:
        with pytest.raises(torch.OutOfMemoryError) as error:
            trained(ModelSection(name="resnet50", image_size=32, compile=False), SETTINGS, context=None, steps=2,
                    seed=hog()[0])  # fmt: skip
        assert is_out_of_memory(error.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    release_memory()
    trained(steps=2)


def hog() -> tuple[int, torch.Tensor]:
    """More memory than the process is allowed."""
    return 0, torch.empty(2**31, dtype=torch.uint8, device=GPU)


@real
def test_the_fastest_way_is_measured_on_the_gpu():
    a = torch.randn(4096, 4096, device=GPU)
    ways = {"plain": lambda: [a @ a for _ in range(4)], "one": lambda: a @ a}
    assert autotune.pick_fastest("four products or one", GPU, ways) == "one"
    assert autotune.remembered("four products or one", GPU) == "one"
