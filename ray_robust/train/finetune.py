"""Fine-tuning with a fresh head, evaluated on all four test splits on the way: each evaluation is a point.

All weights (full), the head alone (linear), or first the head and then everything (lp-ft: Kumar et al., "Fine-Tuning
can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022): one function of `METHODS` each.
Returns predictions; `points` computes the rows of the results table from them, so that no score needs the model again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.files.storage import Storage
from ray_robust.metrics import METRICS
from ray_robust.run.learning_curve import LearningCurve
from ray_robust.run.results_schema import SCORE_SPLITS
from ray_robust.spec.sections import Finetune, ModelSection
from ray_robust.train.callbacks import Callback
from ray_robust.train.checkpoints import load_checkpoint, save_checkpoint
from ray_robust.train.context import Context, Progress
from ray_robust.train.curve import PREFIX
from ray_robust.train.device import send
from ray_robust.train.duration import Duration
from ray_robust.train.evaluate import ClassSets, Predictions, Split, predict_among, predict_from
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.features import FeatureCache
from ray_robust.train.images import ImageBank
from ray_robust.train.interleave import Steps, Stepwise
from ray_robust.train.loop import fit, optimise
from ray_robust.train.models import fresh_head
from ray_robust.train.objective import Objective
from ray_robust.train.state import Stage, TrainState


@dataclass(frozen=True)
class EvalPoint:
    """When a model was evaluated; `wise_alpha` is None except for weights between two others (see `_interpolated`)."""

    epoch: int
    step: int  # optimizer steps taken by then
    wise_alpha: float | None = None

    @property
    def name(self) -> str:
        """`12`, or `12_wise_0.5`: the end of column names."""
        return f"{self.epoch}" if self.wise_alpha is None else f"{self.epoch}_wise_{self.wise_alpha:g}"


SplitPredictions = dict[str, Predictions]  # by test split


@dataclass(frozen=True, eq=False)
class Finetuned:
    """The predictions of every evaluation, in order, for every test."""

    predictions: dict[EvalPoint, SplitPredictions]
    seconds: float


@dataclass(frozen=True, eq=False)
class FinetuneJob:
    """One fine-tuning.

    splits    `train`, the four test splits, and the tests of further shifts
    key       names every random draw
    metric    the score that progress reports give
    features  shared by fine-tunings that start from the same weights
    """

    section: ModelSection
    settings: Finetune
    splits: Mapping[str, Split]
    num_classes: int
    key: str
    metric: str
    context: Context
    checkpoints: Storage | None = None
    features: FeatureCache = field(default_factory=FeatureCache)

    @property
    def tests(self) -> list[str]:
        """The splits that are predicted: all but `train`."""
        return [name for name in self.splits if name != "train"]

    def seed(self, stage: str) -> int:
        """Return the seed of a stage."""
        return seed_of(stage, self.key)

    def stage(self, name: str, settings: Finetune, context: Context) -> Stage:
        """Return a training of `settings.epochs` on the `train` split."""
        images = len(self.splits["train"].labels)
        duration = Duration.of(images, settings.batch_size, settings.epochs, None)
        return Stage(name, settings, self.section, duration, self.seed(name), context, self.checkpoints)


@Stepwise
def finetune(model: nn.Module, job: FinetuneJob) -> Steps[Finetuned]:
    """Fine-tune `model` in place, predicting all tests every `evaluate_every` epochs and at the end.

    Raises TrainingFailed when the loss is not finite or the model has no linear head to probe, Preempted when
    `context.preemption` gives a reason.
    """
    fresh_head(model, job.num_classes, job.seed("finetune")).to(job.context.device)
    return (yield from METHODS[job.settings.method](model, job))


def _full(model: nn.Module, job: FinetuneJob) -> Steps[Finetuned]:
    evaluator = Evaluator(job, lambda images, among: predict_among(model, images, job.section, job.context, among))
    seconds = yield from _train_all(model, job, evaluator)
    return Finetuned(evaluator.predictions(), seconds)


def _linear(model: nn.Module, job: FinetuneJob) -> Steps[Finetuned]:
    def predict_images(images: ImageBank, among: ClassSets) -> list[Predictions]:
        features = job.features.of(model, images, job.section, job.context)
        return predict_from(_head(model), features, job.context, among)

    evaluator = Evaluator(job, predict_images)
    stage = job.stage("finetune", job.settings, _reporting_one_epoch(job.context, job.settings.epochs))
    seconds = yield from _train_head(model, job, stage, evaluator)
    return Finetuned(evaluator.predictions(), seconds)


def _lp_ft(model: nn.Module, job: FinetuneJob) -> Steps[Finetuned]:
    alphas = job.settings.wise_ft
    seconds = yield from _probe(model, job)
    start = {name: value.clone() for name, value in model.state_dict().items()} if alphas else {}
    evaluator = Evaluator(job, lambda images, among: predict_among(model, images, job.section, job.context, among))
    seconds += yield from _train_all(model, job, evaluator)
    predictions = evaluator.predictions()
    for alpha in alphas:
        end = max(predictions, key=lambda point: point.step)  # the first of its step: the one without interpolation
        point = replace(end, wise_alpha=alpha)
        if alpha == 1:  # the end itself, which has been evaluated
            predictions[point] = predictions[end]
            continue
        with _interpolated(model, start, alpha):
            predictions[point] = evaluator.predict_all()
    return Finetuned(predictions, seconds)


METHODS: dict[str, Callable[[nn.Module, FinetuneJob], Steps[Finetuned]]] = {
    "full": _full,
    "linear": _linear,
    "lp-ft": _lp_ft,
}


class Evaluator(Callback):
    """Predicts every test at each `evaluate_every` epochs and at the end, and reports the scores.

    The predictions are kept in `extra_state`, a tensor per evaluation, split and field, so that a resumed training has
    those that an earlier process made.
    """

    def __init__(self, job: FinetuneJob, predict_images: Callable[[ImageBank, ClassSets], list[Predictions]]) -> None:
        self.job, self.predict_images = job, predict_images
        self.extra_state: dict[str, torch.Tensor] = {}
        self._begun = time.monotonic()

    def on_epoch_end(self, state: TrainState) -> None:
        settings = self.job.settings
        if state.epoch % settings.evaluate_every and not state.is_last_step:
            return
        predictions = self.predict_all()
        for earlier in [key for key in self.extra_state if key.startswith(f"{state.epoch}/")]:
            del self.extra_state[earlier]  # of another number of steps, with which the epoch came to its end before
        for name, predicted in predictions.items():
            for part, values in vars(predicted).items():
                self.extra_state[f"{state.epoch}/{state.step}/{name}/{part}"] = torch.from_numpy(values)
        metric, splits = METRICS[self.job.metric], self.job.splits
        scores = [splits[name].score(metric, predictions[name].classes) for name in SCORE_SPLITS.values()]
        images = state.step * state.stage.duration.batch_size
        pace = images / (time.monotonic() - self._begun)
        state.stage.context.report(Progress("finetune", state.epoch, settings.epochs, images, pace, *scores))
        state.model.train()

    def predict_all(self) -> SplitPredictions:
        """Predict every test with the model as it is now; images that several tests share are seen once."""
        predictions: SplitPredictions = {}
        by_images: dict[int, dict[str, Split]] = {}
        for name in self.job.tests:
            split = self.job.splits[name]
            by_images.setdefault(id(split.images), {})[name] = split
        for tests in by_images.values():
            images = next(iter(tests.values())).images
            each = self.predict_images(images, [split.only for split in tests.values()])
            for (name, split), predicted in zip(tests.items(), each, strict=True):
                predictions[name] = predicted if split.of is None else predicted.take(split.of)
        return {name: predictions[name] for name in self.job.tests}

    def predictions(self) -> dict[EvalPoint, SplitPredictions]:
        """Return the predictions of all evaluations, those of earlier processes included, by epoch."""
        keys = {tuple(name.split("/")[:3]) for name in self.extra_state if not name.startswith(PREFIX)}
        predictions: dict[EvalPoint, SplitPredictions] = {}
        for epoch, step, split in sorted(keys, key=lambda key: int(key[0])):
            fields = {part: self.extra_state[f"{epoch}/{step}/{split}/{part}"].numpy()
                      for part in ("classes", "confidence")}  # fmt: skip
            predictions.setdefault(EvalPoint(int(epoch), int(step)), {})[split] = Predictions(**fields)
        return predictions


def _train_all(model: nn.Module, job: FinetuneJob, evaluator: Evaluator) -> Steps[float]:
    train, stage = job.splits["train"], job.stage("finetune", job.settings, job.context)
    labels = torch.from_numpy(train.labels)
    return (yield from fit.steps(model, train.images, labels, stage, [evaluator], evaluator.extra_state))


def _probe(model: nn.Module, job: FinetuneJob) -> Steps[float]:
    """Train the head before everything; the seconds it took. Its end is kept on disk, since WiSE starts from it, and
    its learning curve with it."""
    head, checkpoints, settings = _head(model), job.checkpoints, job.settings
    facts = load_checkpoint(checkpoints, "probed", head) if checkpoints else None
    if facts is not None:
        if (curve := LearningCurve.read(facts.get("curve"))) is not None:
            job.context.record(curve)
        return facts["seconds"]
    probe = settings.model_copy(update={"lr": settings.probe_lr, "epochs": settings.probe_epochs})
    curves: list[LearningCurve] = []
    context = replace(_reporting_one_epoch(job.context, settings.probe_epochs), record=curves.append)
    stage = job.stage("probe", probe, context)
    seconds = yield from _train_head(model, job, stage)
    if checkpoints and job.context.first:
        save_checkpoint(checkpoints, "probed", head, {"seconds": seconds, "curve": curves[0].as_json()})
    job.context.record(curves[0])
    return seconds


def _train_head(model: nn.Module, job: FinetuneJob, stage: Stage, evaluator: Evaluator | None = None) -> Steps[float]:
    """Train the head alone, on features of the images computed once: no augmentation, the body is not changed."""
    train, device = job.splits["train"], job.context.device
    features = job.features.of(model, train.images, job.section, job.context).to(device)
    head, labels = _head(model), torch.from_numpy(train.labels).to(device)

    def batch(positions: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = send(positions, device)
        return features[rows], labels[rows]

    def loss_fn(network: nn.Module, shown: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(shown), targets, label_smoothing=stage.settings.label_smoothing)

    callbacks, extra_state = ([evaluator], evaluator.extra_state) if evaluator else ([], None)
    return (yield from optimise.steps(head, Objective(batch, loss_fn), stage, callbacks, extra_state))


def _head(model: nn.Module) -> nn.Linear:
    classifier: Any = model.get_classifier  # a method of the models of timm
    head = classifier()
    if not isinstance(head, nn.Linear):
        raise TrainingFailed(f"finetune.method: {type(model).__name__} has no single linear head to probe; use full")
    return head


def _reporting_one_epoch(context: Context, epochs: int) -> Context:
    """Report the images of a probe as those of one epoch: it computes features once."""
    return replace(context, report=lambda progress: context.report(replace(progress, images=progress.images // epochs)))


@contextmanager
def _interpolated(model: nn.Module, start: Mapping[str, torch.Tensor], alpha: float) -> Iterator[None]:
    """Inside, the model's weights are (1 - alpha) x start + alpha x its own; afterwards its own again.

    Running averages are interpolated too. Source: Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models" (CVPR
    2022); instead of a zero-shot head, which only a model with a text tower has, the start has its linear probe.
    """
    end = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict({
        name: torch.lerp(start[name], value, alpha) if value.is_floating_point() else value
        for name, value in end.items()
    })  # fmt: skip
    yield
    model.load_state_dict(end)
