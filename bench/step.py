"""How close training on a CPU runs to its bare step: `python -m bench.step [--models NAME@PX:BATCH ...]`.

The same model, px, batch and precision in turn, several rounds on one core, each ratio the median over the rounds:
through `train.loop.fit` over images of the store, as a trial trains; the bare step, a plain loop over the same images
already in memory with the same augmentation, without reports, checks or seeds; and timm's own recipe (ImageFolder of
photographs, `create_loader` with the augmentation of its train.py); those named in `--compiled` through `fit` once
more, with torch.compile. Decoding into the store is not in it: `bench.ingest` measures that, and a sweep pays it once.

`--together` trains several models at once, one after the other and stacked, and compares their images per second with
one alone. `bench.on_gpu` is the same for a GPU. Needs no Ray.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from bench import command_of, print_table, show, write_table
from ray_robust.spec.sections import ModelSection
from ray_robust.spec.training import Training
from ray_robust.train.augmentation import augment
from ray_robust.train.context import Context
from ray_robust.train.duration import Duration
from ray_robust.train.images import ImageBank, normalise
from ray_robust.train.interleave import ForwardBackward, Runner, run_each, run_interleaved
from ray_robust.train.loop import fit, make_optimizer
from ray_robust.train.models import build_model, input_scale
from ray_robust.train.stack import StackedRunner
from ray_robust.train.state import Stage

CPU = torch.device("cpu")
SHAPES = ["test_byobnet@32:128", "test_resnet@32:128", "test_resnet@64:128", "resnet18@64:64", "resnet18@224:16"]
OTHERS = {"bare step": "store_over_memory", "timm's recipe": "store_over_timm",
          "store, compiled": "store_over_compiled"}  # fmt: skip
TOGETHER = "test_byobnet@32:128"
CLASSES = 10
Way = Callable[[int], float]  # number of steps -> seconds


@dataclass(frozen=True)
class Shape:
    """What is trained."""

    model: str
    px: int
    batch: int

    @classmethod
    def read(cls, text: str) -> Shape:
        """From `resnet18@64:128`."""
        name, _, numbers = text.rpartition("@")
        px, _, batch = numbers.partition(":")
        return cls(name, int(px), int(batch))

    def __str__(self) -> str:
        return f"{self.model}@{self.px}:{self.batch}"

    @property
    def section(self) -> ModelSection:
        """The model's section of a spec, not compiled."""
        return ModelSection(name=self.model, image_size=self.px, compile=False)

    @property
    def compiled(self) -> ModelSection:
        """The same, compiled."""
        return self.section.model_copy(update={"compile": True})


def main(argv: list[str]) -> None:
    """Measure every shape and print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.step", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", metavar="NAME@PX:BATCH", default=SHAPES)
    parser.add_argument("--images", type=int, default=1024, help="photographs in memory and on disk")
    parser.add_argument("--seconds", type=float, default=3.0, help="one measurement, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", nargs="*", metavar="NAME@PX:BATCH", default=[],
                        help="these with torch.compile too, which takes up to two minutes each")  # fmt: skip
    parser.add_argument("--together", nargs="*", type=int, metavar="K", help="models trained at once, default 1 4 16")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # loaders' processes too: one core for everyone
    torch.set_num_threads(1)
    summary: dict[str, Any] = {"device": f"one core of {platform.machine()}", "torch": torch.__version__,
                               "timm": timm.__version__}  # fmt: skip
    rows = steps([Shape.read(name) for name in args.models], args, summary)
    beside = []
    if args.together is not None:
        beside = together(args.together or [1, 4, 16], args.seconds, args.rounds, summary)
    header, header_beside = ("model @ px : batch", "way", "images/s", "store over it"), (
        "model @ px : batch", "models", "images/s of all", "over one alone")  # fmt: skip
    if args.write:
        command = command_of("bench.step", argv)
        if rows:
            write_table(args.write, "step on a cpu", [header, *rows], command)
        if beside:
            write_table(args.write, "together on a cpu", [header_beside, *beside], command)
    if beside:
        print_table(header_beside, beside)
    show(header, rows, summary)


def steps(shapes: list[Shape], args: argparse.Namespace, summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for every way of every shape; add the ratios to `summary`."""
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for shape in shapes:
            ways = dict(_ways(shape, Path(folder), args.images, str(shape) in args.compiled))
            rates = measured(ways, shape.batch, args.seconds, args.rounds)
            for way, of in rates.items():
                ratio = over(rates["store"], of)
                rows.append((str(shape), way, f"{median(of):,.0f}", "" if way == "store" else f"{ratio:.3f}"))
                if way in OTHERS:
                    summary.setdefault(OTHERS[way], {})[str(shape)] = ratio
    return rows


def together(counts: list[int], seconds: float, rounds: int, summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for so many models at once, in turn and stacked; add what each gains over one alone to `summary`."""
    shape = Shape.read(TOGETHER)
    ways = {name: build() for name, build in several(shape, CPU, counts)}
    rates = measured(ways, shape.batch, seconds, rounds)
    alone = rates.pop("1 alone")
    gains = {way: over(of, alone) for way, of in rates.items()}
    summary["together_over_alone"] = {TOGETHER: gains}
    return [(TOGETHER, way, f"{median(of):,.0f}", f"{gains[way]:.3f}") for way, of in rates.items()]


def measured(ways: dict[str, Way], batch: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Return images per second of every way in every round; how many steps one takes is estimated before."""
    steps = {}
    for name, way in ways.items():
        try:
            way(2)  # kernels are chosen, workers started
        except RuntimeError as error:  # what cannot be done here, such as an operation without a batching rule
            print(f"{name}: cannot be run: {str(error).splitlines()[0]}", flush=True)
            continue
        steps[name] = max(2, round(seconds / (way(4) / 4)))
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, count in steps.items():
            rates[name].append(count * batch / ways[name](count))
    return rates


def over(ours: list[float], other: list[float]) -> float:
    """Return the median of the rounds' ratios: within a round all ways meet the same load of the machine."""
    return round(median(a / b for a, b in zip(ours, other, strict=True)), 3)


def _ways(shape: Shape, folder: Path, images: int, compiled: bool) -> Iterator[tuple[str, Way]]:
    from ray_robust.data.opened import images_of

    settings = Training(lr=3e-3, weight_decay=0.05, batch_size=shape.batch)
    context, (tree, store) = Context(CPU), _store(folder, shape.px, images)
    bank = ImageBank([images_of(store, np.arange(store.n))], CPU)
    yield "store", through_fit(shape, shape.section, settings, bank, context)
    if compiled:
        yield "store, compiled", through_fit(shape, shape.compiled, settings, bank, context)
    yield "bare step", plain_loop(shape, settings, torch.from_numpy(store.take(np.arange(store.n))), context)
    yield "timm's recipe", _timm_recipe(shape, settings, tree, context)


def _store(folder: Path, px: int, images: int) -> tuple[Path, Any]:
    """A tree of photographs (short side 500 px), and its store at `px`, filled."""
    from bench.ingest import make_pictures
    from ray_robust.data.images.store import ImageStore
    from ray_robust.data.sources.folder import FolderSource

    tree = folder / "pictures"
    if not tree.exists():
        make_pictures(tree, images)
    store = ImageStore.open(folder / "store", FolderSource("pictures", FolderSource.Options(path=str(tree))), px)
    store.fill(store.missing())
    return tree, store


# --- the ways


def through_fit(shape: Shape, section: ModelSection, settings: Training, bank: ImageBank, context: Context) -> Way:
    """Return the way that trials train: seconds of so many steps of `fit`."""
    model = build_model(section, CLASSES, seed=0)
    labels = torch.arange(len(bank)) % CLASSES

    def run(steps: int) -> float:
        stage = Stage("bench", settings, section, Duration(len(bank), shape.batch, steps), 0, context)
        wait(context.device)
        begun = time.perf_counter()
        fit(model, bank, labels, stage)
        wait(context.device)
        return time.perf_counter() - begun

    return run


def noise(shape: Shape, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images for an epoch of 64 steps as a part of an ImageBank: 8 batches, again and again."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8 * shape.batch, shape.px, shape.px, 3), np.uint8)
    return pixels, np.resize(np.arange(len(pixels)), 64 * shape.batch)


def several(
    shape: Shape, device: torch.device, counts: Sequence[int], compiled: bool = False, stacked: bool = True
) -> Iterator[tuple[str, Callable[[], Way]]]:
    """Yield what builds one training, and several at once: a step of each in turn, or all stacked; seconds for a batch
    of any of them."""
    settings, context = Training(lr=3e-3, weight_decay=0.05, batch_size=shape.batch), Context(device)
    section = shape.compiled if compiled else shape.section

    def way(count: int, runner: Runner) -> Way:
        bank = ImageBank([noise(shape, 0)], device)
        labels = torch.arange(len(bank)) % CLASSES
        models = [build_model(section, CLASSES, seed) for seed in range(count)]

        def work(steps: int) -> float:
            duration = Duration(len(bank), shape.batch, steps)
            stages = [Stage("bench", settings, section, duration, seed, context) for seed in range(count)]
            todo = [partial(fit.steps, model, bank, labels, stage) for model, stage in zip(models, stages, strict=True)]
            wait(device)
            begun = time.perf_counter()
            run_interleaved(todo, count, device, runner)
            wait(device)
            return (time.perf_counter() - begun) / count

        return work

    yield "1 alone", lambda: way(1, run_each)
    for count in counts:
        if count > 1:
            yield f"{count} in turn", partial(way, count, run_each)
        if stacked:
            yield f"{count} stacked", partial(way, count, Stacked(device))


class Stacked(StackedRunner):
    """Stacks whether that is faster or not: it is what is measured."""

    def _is_faster(self, works: list[ForwardBackward]) -> bool:
        return True


def plain_loop(shape: Shape, settings: Training, images: torch.Tensor, context: Context) -> Way:
    model = build_model(shape.section, CLASSES, seed=0)
    mean, std = input_scale(model)
    labels = torch.arange(len(images)) % CLASSES

    def run(steps: int) -> float:
        optimizer = make_optimizer(model, settings)
        begun = time.perf_counter()
        order = torch.randint(len(images), (steps, shape.batch))
        for picked in order:
            batch = normalise(augment(images[picked], settings.augment), mean, std)
            _step(model, batch, labels[picked], optimizer, shape, settings, context)
        return time.perf_counter() - begun

    return run


def _timm_recipe(shape: Shape, settings: Training, tree: Path, context: Context) -> Way:
    """One worker process, on the same core; what it prefetches before the clock starts is little."""
    from timm.data import create_dataset, create_loader

    model = build_model(shape.section, CLASSES, seed=0)
    loader = create_loader(
        create_dataset("", root=str(tree), is_training=True), input_size=(3, shape.px, shape.px),
        batch_size=shape.batch, is_training=True, num_workers=1, use_prefetcher=False, device=context.device,
        persistent_workers=False,
    )  # fmt: skip

    def run(steps: int) -> float:
        optimizer = make_optimizer(model, settings)
        begun, done = time.perf_counter(), 0
        while done < steps:
            for images, labels in loader:
                batch = images.to(memory_format=torch.channels_last)
                _step(model, batch, labels, optimizer, shape, settings, context)
                done += 1
                if done == steps:
                    break
        return time.perf_counter() - begun

    return run


def random_tensors(shape: Shape, settings: Training, context: Context, run_as: Callable[[nn.Module], Any]) -> Way:
    model = build_model(shape.section, CLASSES, seed=0).to(context.device)
    """Return the bare step on a GPU: on random tensors in its memory, by `run_as(model)`."""
    network = run_as(model)
    batch = torch.randn(shape.batch, 3, shape.px, shape.px, device=context.device)
    batch = batch.to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (shape.batch,), device=context.device)

    def run(steps: int) -> float:
        optimizer = make_optimizer(model, settings)
        wait(context.device)
        begun = time.perf_counter()
        for _ in range(steps):
            _step(network, batch, labels, optimizer, shape, settings, context)
        wait(context.device)
        return time.perf_counter() - begun

    return run


def _step(
    network: Any,
    batch: torch.Tensor,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    shape: Shape,
    settings: Training,
    context: Context,
) -> None:
    with context.autocast(shape.section.precision):
        scores = network(batch)
    loss = F.cross_entropy(scores.float(), labels, label_smoothing=settings.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def wait(device: torch.device) -> None:
    """Return once a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(sys.argv[1:])
