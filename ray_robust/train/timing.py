"""How fast this machine trains a model: a few steps of the real training on random images, in processes of their own.

As many processes as trials would run at once take their steps at the same time: two trainings on two cores share caches
and memory bandwidth, and one alone would promise more than both keep.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray_robust.spec.sections import Finetune, ModelSection, Pretrain
from ray_robust.train.allocator import keep_freed_memory

LIMIT = 90.0  # seconds for everything, starts of the processes included
WARM_STEPS, MOST_STEPS = 3, 40
SECONDS_EACH = 1.5  # for the steps of one training, and again for evaluating
SLOW_STEP = 4.0  # seconds that a step may take; a larger batch is timed by a part of it
CLASSES, IMAGES = 20, 512  # of the random images
DRAWN = 32  # images of a compact store: pictures, since noise takes a JPEG's decoder far longer than any photograph


@dataclass(frozen=True)
class TimedTraining:
    """One kind of training to time: that of `pretrain`, or of `finetune` where it is None."""

    model: ModelSection
    pretrain: Pretrain | None
    finetune: Finetune | None


@dataclass(frozen=True)
class Speed:
    """Images per second of one worker, in training and in evaluation."""

    trained: float
    evaluated: float


class _EnoughSteps(Exception):
    """Ends a training that has been timed."""


def time_trainings(
    trainings: Sequence[TimedTraining], processes: int, threads: int, gpu: bool, limit: float = LIMIT
) -> list[Speed | None]:
    """Return the speed of each training with `processes` of them at once, `threads` threads each.

    None where one cannot be timed: it fails, there is no GPU, or the time `limit` (seconds) is over before its turn.
    """
    context: Any = multiprocessing.get_context("spawn")  # what this process has imported and locked stays out
    barrier = context.Barrier(processes)
    ends = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        context.Process(target=_time_all, args=(tuple(trainings), threads, gpu, barrier, sender), daemon=True)
        for _, sender in ends
    ]
    over = time.monotonic() + limit
    speeds: list[list[Speed | None]] = [[] for _ in trainings]
    try:
        for worker in workers:
            worker.start()
        for _, sender in ends:
            sender.close()
        for receiver, _ in ends:
            for of_one in speeds:
                with suppress(EOFError, OSError):
                    if receiver.poll(max(0.0, over - time.monotonic())):
                        of_one.append(receiver.recv())
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.kill()
                worker.join()
    return [_mean(of_one) if len(of_one) == processes else None for of_one in speeds]


def _mean(speeds: Sequence[Speed | None]) -> Speed | None:
    timed = [speed for speed in speeds if speed is not None]
    if len(timed) < len(speeds):
        return None
    return Speed(*(sum(values) / len(timed) for values in zip(*((s.trained, s.evaluated) for s in timed), strict=True)))


def _time_all(trainings: Sequence[TimedTraining], threads: int, gpu: bool, barrier: Any, sender: Any) -> None:
    """Time every training at the same time as the other processes, and send its `Speed`, or None, as it is known."""
    import torch

    keep_freed_memory()  # as the worker of a trial does
    torch.set_num_threads(threads)
    ready = not gpu or torch.cuda.is_available()
    device = torch.device("cuda" if gpu and ready else "cpu")
    for training in trainings:
        barrier.wait()
        speed = None
        if ready:
            with suppress(Exception):  # whatever a model or a method raises, the run reports it where it matters
                speed = time_training(training, device)
        sender.send(speed)


def time_training(training: TimedTraining, device: Any) -> Speed:
    """Return the speed of one training in this process. Raises what the training raises."""
    # compiling takes longer than timing; the few trainings that gain by it are corrected for as the sweep runs
    training = replace(training, model=training.model.model_copy(update={"compile": False}))
    batch = _batch_size(training)
    clock = _StepClock(batch)
    with suppress(_EnoughSteps):
        _train(training, batch, device, clock)
    return Speed(clock.rate(), _evaluation_rate(training.model, device))


def _batch_size(training: TimedTraining) -> int:
    """The batch of the training, or as much of it as a step can take in `SLOW_STEP` by the time of one image."""
    import torch

    from ray_robust.train.models import build_model

    section = training.model
    settings = training.pretrain or training.finetune
    assert settings is not None
    model = build_model(section, CLASSES, 0).eval()
    images = torch.zeros(2, 3, section.image_size, section.image_size)
    begun = time.perf_counter()
    with torch.no_grad():
        model(images)
    each = 3 * (time.perf_counter() - begun) / len(images)  # forward and backward
    return max(2, min(settings.batch_size, int(SLOW_STEP / max(each, 1e-6))))


class _StepClock:
    """`Context.on_step` of a training: ends it once enough steps are timed."""

    def __init__(self, batch: int) -> None:
        self.batch, self.times = batch, [time.perf_counter()]

    def __call__(self, context: Any, stage: str, network: Any, step: int, steps: int) -> bool:
        _wait_for_device(network)
        self.times.append(time.perf_counter())
        timed = self.times[-1] - self.times[min(WARM_STEPS, len(self.times) - 1)]
        if timed > SECONDS_EACH or len(self.times) > MOST_STEPS or self.times[-1] - self.times[0] > 4 * SECONDS_EACH:
            raise _EnoughSteps
        return False

    def rate(self) -> float:
        """Images per second after the steps that warm up; where there were only such, the latest step's."""
        first = min(WARM_STEPS, len(self.times) - 2)
        return self.batch * (len(self.times) - 1 - first) / (self.times[-1] - self.times[first])


def _wait_for_device(network: Any) -> None:
    import torch

    if next(network.parameters()).device.type == "cuda":
        torch.cuda.synchronize()


def _train(training: TimedTraining, batch: int, device: Any, clock: _StepClock) -> None:
    """Run the training on random images until `clock` ends it."""
    from ray_robust import registry
    from ray_robust.train.context import Context
    from ray_robust.train.finetune import FinetuneJob, finetune
    from ray_robust.train.models import build_model
    from ray_robust.train.pretrain import MixtureImages, PretrainJob

    context = Context(device, on_step=clock)
    images = _stored_images(training.model, max(IMAGES, 2 * batch), device)
    lasting = {"batch_size": batch, "epochs": 10**6}
    if training.pretrain is not None:
        settings = training.pretrain.model_copy(update={**lasting, "images_seen": None})
        labels = tuple(f"class {i}" for i in range(CLASSES))
        mixture = MixtureImages(images, _random_images(training.model, 2, device), labels)
        job = PretrainJob(training.model, settings, 0, "timing", context, None, mixture)
        registry.find("method", settings.method)(job)
        return
    assert training.finetune is not None
    update = {**lasting, "method": "full", "evaluate_every": 10**6, "wise_ft": ()}
    splits = dict.fromkeys(("train", "id_val", "id_test", "ood_val", "ood_test"), images)
    own = training.finetune.model_copy(update=update)
    model = build_model(training.model, CLASSES, 0)
    finetune(model, FinetuneJob(training.model, own, splits, CLASSES, "timing", "accuracy", context))


def _stored_images(section: ModelSection, count: int, device: Any) -> Any:
    """Images as the store has them: decoded at random, or of a compact one JPEGs of drawn pictures."""
    import numpy as np

    from ray_robust import registry
    from ray_robust.data.images.form import form_of
    from ray_robust.data.images.store import ImageStore
    from ray_robust.data.images.stored_jpegs import StoredJpegs
    from ray_robust.train.evaluate import Split
    from ray_robust.train.images import ImageBank
    from ray_robust.train.models import eval_view

    if section.stored_side is None:
        return _random_images(section, count, device)
    species = registry.find("source", "species")
    with tempfile.TemporaryDirectory(prefix="ray_robust-") as folder:
        store = ImageStore.open(Path(folder), species("timing", species.Options()), form_of(section))
        store.fill(np.arange(DRAWN))
        drawn = StoredJpegs(store, np.arange(DRAWN), eval_view(section))  # stays when the folder goes
    bank = ImageBank([drawn] * -(-count // DRAWN), device)
    return Split(bank, np.arange(len(bank), dtype=np.int64) % CLASSES)


def _random_images(section: ModelSection, count: int, device: Any) -> Any:
    import numpy as np

    from ray_robust.train.evaluate import Split
    from ray_robust.train.images import ImageBank

    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, section.image_size, section.image_size, 3), dtype=np.uint8)
    return Split(ImageBank([(pixels, None)], device), np.arange(count, dtype=np.int64) % CLASSES)


def _evaluation_rate(section: ModelSection, device: Any) -> float:
    from ray_robust.train.context import Context
    from ray_robust.train.evaluate import predict
    from ray_robust.train.models import build_model

    model = build_model(section, CLASSES, 0).to(device)
    images, timed, begun = 0, 0.0, 0.0
    few = 2
    while timed < SECONDS_EACH / 2:  # more images each time: the first call also warms up
        bank = _random_images(section, few, device).images
        begun = time.perf_counter()
        predict(model, bank, section, Context(device))
        timed, images, few = time.perf_counter() - begun, few, few * (8 if timed < SECONDS_EACH / 20 else 2)
        if images >= 16384:
            break
    return images / max(timed, 1e-6)
