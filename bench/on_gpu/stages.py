"""The stages of `bench.on_gpu`: what each measures, the limit it has, and what is run in its place in a dry run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bench.on_gpu.card import of_card
from bench.on_gpu.processes import Processes
from bench.step import Shape, Way, over, random_tensors, several, through_fit
from ray_robust.spec.sections import ModelSection
from ray_robust.spec.training import Training
from ray_robust.train import images
from ray_robust.train.context import Context
from ray_robust.train.images import ImageBank

TESTS = Path(__file__).parents[2] / "tests" / "test_gpu.py"
IN_SMALL = "come_ahead or cut_off or other_streams or stacked_trainings"  # of the tests, in a dry run
SMALL = {"resnet50@224:256": "test_resnet@32:8", "resnet50@224:512": "test_byobnet@32:8",
         "resnet18@64:128": "test_resnet@32:4", "vit_small_patch16_224@224:256": "test_vit@32:4"}  # fmt: skip
AT_ONCE, COUNTS = "resnet18@64:128", (1, 4, 16)
WANTED_STEP, WANTED_TIMM, WANTED_AT_ONCE = 0.97, 1.0, 3.0
EPOCH = 32  # steps
ROUNDS, SECONDS = 3, 1.5  # measurements of each way, of about so many seconds
BRIEFLY = (2, 0.7)  # the same where there are many ways


@dataclass(frozen=True)
class Row:
    """A result. `ratio` is what `wanted`, where there is one, is the least of."""

    subject: str
    way: str
    value: str
    ratio: float | None = None
    wanted: float | None = None


Rows = Iterable[Row]
Report = Callable[[Rows], None]  # may be called with a row again, once it is known better


@dataclass(frozen=True)
class Run:
    """What a stage is run on: the GPU, or in small on the CPU."""

    dry: bool

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return torch.device("cpu") if self.dry else torch.device("cuda", 0)

    @property
    def is_possible(self) -> bool:
        """Whether there is what it is to run on. After this question CUDA has begun, and nothing may be forked."""
        return self.dry or torch.cuda.is_available()

    def shape(self, text: str) -> Shape:
        """Return a shape, or what stands for it in a dry run."""
        return Shape.read(SMALL[text] if self.dry else text)

    def section(self, shape: Shape) -> ModelSection:
        """Return the model, compiled; on a CPU that would take minutes."""
        return shape.section if self.dry else shape.compiled

    def epoch(self, images: int, batch: int) -> np.ndarray:
        """Return so many images again and again, int64 [n]: at an epoch's end a training waits for the GPU, and what
        is measured has none before its own end."""
        return np.resize(np.arange(images), (4 if self.dry else EPOCH) * batch)

    def wanted(self, least: float) -> float | None:
        """Return what a ratio must be; in small none means anything."""
        return None if self.dry else least


@dataclass(frozen=True)
class Stage:
    """A stage, the seconds that it may take, and what it does; `work` returns whether it passed."""

    name: str
    limit: float
    work: Callable[[Run, Report], bool]


# --- the tests


def tests(run: Run, report: Report) -> bool:
    """Run the tests marked `gpu`; on a GPU none may be skipped."""
    import pytest

    class Recorder:
        def __init__(self) -> None:
            self.counts = {"passed": 0, "failed": 0, "skipped": 0}

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.outcome != "passed":
                self.counts[report.outcome] += 1
                if report.outcome == "failed":
                    tell([Row("test", report.nodeid.partition("::")[2], "failed")])
            tell([Row("tests", "marked gpu", ", ".join(f"{count} {name}" for name, count in self.counts.items()))])

    tell, recorder = report, Recorder()
    chosen = ["-k", IN_SMALL] if run.dry else []
    status = pytest.main([str(TESTS), "-p", "no:cacheprovider", "-v", "--durations=0", *chosen], plugins=[recorder])
    return status == 0 and (run.dry or recorder.counts["skipped"] == 0)


# --- one training


def training(text: str) -> Callable[[Run, Report], bool]:
    """Return the stage of one shape: from the stores, over the bare step and timm's benchmark; the card's shares."""

    def work(run: Run, report: Report) -> bool:
        shape, context = run.shape(text), Context(run.device)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            return _training(shape, context, compact(Path(folder), shape, run), run, report)

    return work


def _training(shape: Shape, context: Context, stored: Callable[[], ImageBank], run: Run, report: Report) -> bool:
    settings = Training(lr=3e-3, weight_decay=0.05, batch_size=shape.batch)
    strong = settings.model_copy(update={"augment": "strong"})  # of which crops are cut from what is stored
    sgd, section = settings.model_copy(update={"optimizer": "sgd"}), run.section(shape)
    pixels = np.random.default_rng(0).integers(0, 256, (4 * shape.batch, shape.px, shape.px, 3), np.uint8)
    raw = (pixels, run.epoch(len(pixels), shape.batch))
    build = (lambda model: model) if run.dry else partial(torch.compile, dynamic=False)
    fit = "raw store"  # in the GPU's memory
    ways = {
        fit: lambda: through_fit(shape, section, settings, ImageBank([raw], run.device), context),
        "raw store, from RAM": lambda: through_fit(shape, section, settings, in_ram(raw, run.device), context),
        "compact store, strong": lambda: through_fit(shape, section, strong, stored(), context),
        "bare step": lambda: random_tensors(shape, settings, context, build),
        "timm's benchmark": lambda: random_tensors(shape, sgd, context, lambda model: model),
    }

    def rows(rates: Mapping[str, Sequence[float]]) -> Rows:
        for way, of in rates.items():
            yield Row(str(shape), way, f"{median(of):,.0f} images/s")
        for other, least in (("bare step", WANTED_STEP), ("timm's benchmark", WANTED_TIMM)):
            for way in (way for way in rates if "store" in way and other in rates):
                yield Row(str(shape), f"{way} / {other}", "", over(rates[way], rates[other]), run.wanted(least))

    rates, failures = measure(ways, shape.batch, run, lambda rates: report(rows(rates)))
    report(Row(str(shape), way, f"failed: {why}") for way, why in failures.items())
    shares = of_card(shape, median(rates[fit]), context, run.dry) if fit in rates else {}
    report(Row(str(shape), what, value) for what, value in shares.items())
    return not failures


def compact(folder: Path, shape: Shape, run: Run) -> Callable[[], ImageBank]:
    """Make photographs and a compact store, before CUDA begins; return what opens it, each image several times."""
    from bench.loaders.data import Data, make_pictures
    from ray_robust.data.opened import images_of

    data = Data(make_pictures(folder / "pictures", 8 if run.dry else 512), folder, shape.px)
    store = data.store(compact=True)
    return lambda: ImageBank([images_of(store, run.epoch(store.n, shape.batch))], run.device)


def in_ram(part: tuple[np.ndarray, np.ndarray], device: torch.device) -> ImageBank:
    """Return images that come to the GPU a batch ahead, as those do that do not fit into its memory."""
    share, images.RESIDENT_SHARE = images.RESIDENT_SHARE, 0.0
    try:
        return ImageBank([part], device)
    finally:
        images.RESIDENT_SHARE = share


# --- several at once


def at_once(run: Run, report: Report) -> bool:
    """Measure several fine-tunings of one shape at once: in turn in one process, stacked, in processes of their own.

    What fails is a row: not everything can be stacked, and it is for this stage to show it.
    """
    shape, counts = run.shape(AT_ONCE), COUNTS[:2] if run.dry else COUNTS
    settings = Training(lr=3e-3, weight_decay=0.05, batch_size=shape.batch)
    workers = Processes(max(counts), shape, settings, run.device)  # before CUDA has begun here
    alone = "1 alone"
    ways = dict(several(shape, run.device, counts))
    variants = {"": False} if run.dry else {"": False, ", compiled": True, ", CUDA graphs": "graphs"}
    for name, variant in variants.items():
        ways |= {f"{count} processes{name}": workers.way(count, variant) for count in counts}
    if not run.dry:
        ways |= {f"{way}, compiled": build for way, build in several(shape, run.device, counts, True, stacked=False)}

    def rows(rates: Mapping[str, Sequence[float]]) -> Rows:
        for way, of in rates.items():
            yield Row(str(shape), way, f"{median(of):,.0f} images/s", over(of, rates[alone]))
        most = {way: over(of, rates[alone]) for way, of in rates.items() if way.startswith(f"{counts[-1]} ")}
        if most:
            best = max(most, key=most.__getitem__)
            yield Row(str(shape), f"best of {counts[-1]} at once", best, most[best], run.wanted(WANTED_AT_ONCE))

    try:
        rates, failures = measure(ways, shape.batch, run, lambda rates: report(rows(rates)), BRIEFLY)
    finally:
        workers.end()
    report(Row(str(shape), way, f"cannot be run: {why}") for way, why in failures.items())
    return alone in rates and len(rates) > len(counts)


# --- both


def measure(
    ways: Mapping[str, Callable[[], Way]],
    batch: int,
    run: Run,
    report: Callable[[Mapping[str, Sequence[float]]], None],
    how: tuple[int, float] = (ROUNDS, SECONDS),
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return images per second of every way in every round, and why others could not be run; reported as they come.

    The ways are built, and measured for the first time, one after the other.
    """
    rounds, seconds = (1, 0.0) if run.dry else how
    built: dict[str, tuple[Way, int]] = {}
    rates: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    for name, build in ways.items():
        begun = time.monotonic()
        try:
            way = build()
            way(2)  # kernels are chosen and compiled
            steps = max(2, round(seconds / (way(4) / 4))) if seconds else 2
            rates[name] = [steps * batch / way(steps)]
        except RuntimeError as error:  # what cannot be done here, such as an operation without a batching rule
            failures[name] = str(error).strip().splitlines()[0]
            print(f"{name}: {error}", flush=True)
            continue
        print(f"{name}: ready after {time.monotonic() - begun:.1f} s", flush=True)
        built[name] = way, steps
        report(rates)
    for _ in range(rounds - 1):
        turn = {name: steps * batch / way(steps) for name, (way, steps) in built.items()}
        for name, rate in turn.items():
            rates[name].append(rate)
        report(rates)
    return rates, failures


def compile_ahead(run: Run, report: Report) -> bool:
    """Compile what later stages need into the cache on the disk."""
    for text, variants in {text: (True, "graphs") if text == AT_ONCE else (True,) for text in SMALL}.items():
        shape = run.shape(text)
        settings = Training(lr=3e-3, weight_decay=0.05, batch_size=shape.batch)
        pixels = np.zeros((2 * shape.batch, shape.px, shape.px, 3), np.uint8)
        bank = ImageBank([(pixels, None)], run.device)
        for variant in variants:
            begun = time.monotonic()
            section = shape.section.model_copy(update={"compile": variant})
            through_fit(shape, section, settings, bank, Context(run.device))(2)
            torch.cuda.empty_cache()
            print(f"{shape}, compile {variant}: ahead, in {time.monotonic() - begun:.1f} s", flush=True)
    return True


BESIDE = Stage("compile ahead", 180.0, compile_ahead)  # runs beside the first stage
STAGES = (
    Stage("tests", 150.0, tests),
    Stage("resnet50-256", 75.0, training("resnet50@224:256")),
    Stage("resnet50-512", 75.0, training("resnet50@224:512")),
    Stage("at-once", 100.0, at_once),
    Stage("vit-s", 70.0, training("vit_small_patch16_224@224:256")),
)
