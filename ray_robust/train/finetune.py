"""Fine-tuning with a fresh head, looked at on all four test splits as it goes: each look is a point.

All weights (full), the head alone (linear), or first the head and then everything (lp-ft: Kumar et al., "Fine-Tuning
can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022). Hands on predictions; `points` makes
the rows of the results table from them, so that nothing about a score needs the model again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.files.storage import Storage
from ray_robust.metrics import METRICS
from ray_robust.plan.plan import TEST_SPLITS
from ray_robust.spec.load import Finetune, ModelSection
from ray_robust.train.checkpoints import load_checkpoint, save_checkpoint
from ray_robust.train.context import Context, Progress
from ray_robust.train.evaluate import Predicted, Split, predict, predict_from
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.features import Frozen
from ray_robust.train.images import ImageBank
from ray_robust.train.interleave import Steps, Stepwise
from ray_robust.train.loop import Length, fit, optimise
from ray_robust.train.models import fresh_head
from ray_robust.train.objective import Objective

TESTS = ("id_test", "ood_test")


@dataclass(frozen=True)
class Look:
    """When a model was looked at; `wise_alpha` is None but for a model between two others (see `_between`)."""

    epoch: int
    step: int  # optimizer steps taken by then
    wise_alpha: float | None = None

    @property
    def name(self) -> str:
        """`12`, or `12_wise_0.5`: what names of columns end in."""
        return f"{self.epoch}" if self.wise_alpha is None else f"{self.epoch}_wise_{self.wise_alpha:g}"


@dataclass(frozen=True, eq=False)
class Finetuned:
    """`predictions[look]` for the four test splits, in order."""

    predictions: dict[Look, dict[str, Predicted]]
    seconds: float


@Stepwise
def finetune(
    model: nn.Module,
    section: ModelSection,
    settings: Finetune,
    splits: Mapping[str, Split],
    num_classes: int,
    key: str,
    metric: str,
    context: Context,
    checkpoints: Storage | None = None,
    frozen: Frozen | None = None,
) -> Steps[Finetuned]:
    """Fine-tune `model` in place on `splits["train"]`, predicting all test splits every `evaluate_every` epochs.

    Every random draw is named by `key`; `metric` scores what is reported on the way. `frozen` is shared by fine-tunings
    that start from the same weights, whose heads are trained on the same features. Raises TrainingFailed when the loss
    is no finite number, Preempted when `context.preemption` says why it must stop.
    """
    frozen = frozen or Frozen()
    train, seed = splits["train"], seed_of("finetune", key)
    fresh_head(model, num_classes, seed).to(context.device)
    length = Length.of(len(train.labels), settings.batch_size, settings.epochs, None)
    kept: dict[str, torch.Tensor] = {}
    begun = time.monotonic()
    told = _one_pass(context, settings.epochs) if settings.method == "linear" else context

    def seen(images: ImageBank) -> Predicted:
        if settings.method != "linear":
            return predict(model, images, section, context)
        return predict_from(_head(model), frozen.of(model, images, section, context), section, context)

    def look(epoch: int, step: int) -> None:
        if epoch % settings.evaluate_every == 0 or step == length.steps:
            found = {name: seen(splits[name].images) for name in TEST_SPLITS}
            for name, predicted in found.items():
                for part, values in vars(predicted).items():
                    kept[f"{epoch}/{step}/{name}/{part}"] = torch.from_numpy(values)
            scores = [METRICS[metric].score(splits[name].tally(found[name].classes)) for name in TESTS]
            pace = step * length.batch / (time.monotonic() - begun)
            told.report(Progress("finetune", epoch, settings.epochs, step * length.batch, pace, *scores))

    between: dict[Look, dict[str, Predicted]] = {}
    if settings.method == "linear":
        stages = (told, "finetune", checkpoints, look, kept)
        features = frozen.of(model, train.images, section, context)
        seconds = yield from _train_head(model, features, train.labels, settings, section, length, seed, *stages)
    else:
        seconds = yield from _probe(model, train, settings, section, key, context, checkpoints, frozen)
        start = {name: value.clone() for name, value in model.state_dict().items()} if settings.wise_ft else {}
        seconds += yield from fit.steps(model, train.images, torch.from_numpy(train.labels), settings, section, length,
                                        seed, context, "finetune", checkpoints, look, kept)  # fmt: skip
        for alpha in settings.wise_ft:
            if alpha == 1:  # the end itself, which has been looked at
                between[Look(settings.epochs, length.steps, alpha)] = list(_looks(kept).values())[-1]
                continue
            with _between(model, start, alpha):
                between[Look(settings.epochs, length.steps, alpha)] = {
                    name: predict(model, splits[name].images, section, context) for name in TEST_SPLITS
                }
    return Finetuned({**_looks(kept), **between}, seconds)


def _looks(kept: Mapping[str, torch.Tensor]) -> dict[Look, dict[str, Predicted]]:
    """The predictions that travelled with the checkpoints, by epoch."""
    found: dict[Look, dict[str, Predicted]] = {}
    for look_at in sorted({name.rpartition("/")[0] for name in kept}, key=lambda name: int(name.partition("/")[0])):
        epoch, step, split = look_at.split("/")
        parts = {part: kept[f"{look_at}/{part}"].numpy() for part in ("classes", "confidence")}
        found.setdefault(Look(int(epoch), int(step)), {})[split] = Predicted(**parts)
    return found


def _probe(
    model: nn.Module,
    train: Split,
    settings: Finetune,
    section: ModelSection,
    key: str,
    context: Context,
    checkpoints: Storage | None,
    frozen: Frozen,
) -> Steps[float]:
    """With lp-ft train the head before everything; the seconds it took. Its end is kept, since WiSE starts from it."""
    if settings.method != "lp-ft":
        return 0.0
    head = _head(model)
    done = load_checkpoint(checkpoints, "probed", head) if checkpoints else None
    if done is not None:
        return done["seconds"]
    length = Length.of(len(train.labels), settings.batch_size, settings.probe_epochs, None)
    at_its_rate = settings.model_copy(update={"lr": settings.probe_lr})
    told = _one_pass(context, settings.probe_epochs)
    stages = (told, "probe", checkpoints)
    features, seed = frozen.of(model, train.images, section, context), seed_of("probe", key)
    seconds = yield from _train_head(model, features, train.labels, at_its_rate, section, length, seed, *stages)
    if checkpoints and context.first:
        save_checkpoint(checkpoints, "probed", head, {"seconds": seconds})
    return seconds


def _train_head(
    model: nn.Module,
    features: torch.Tensor,
    classes: np.ndarray,
    settings: Finetune,
    section: ModelSection,
    length: Length,
    seed: int,
    context: Context,
    *stages,
) -> Steps[float]:
    """Train the head alone, on features computed once of the images as they are: no augmentation, the body as it was.

    `stages` is the rest of what `optimise` takes.
    """
    head, labels = _head(model), torch.from_numpy(classes).to(context.device)
    features = features.to(context.device)

    def batch(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = positions.to(context.device)
        return features[wanted], labels[wanted]

    def loss(network: nn.Module, shown: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(shown), wanted, label_smoothing=settings.label_smoothing)

    return (yield from optimise.steps(head, Objective(batch, loss), settings, section, length, seed, context, *stages))


def _head(model: nn.Module) -> nn.Linear:
    classifier: Any = model.get_classifier  # a method of the models of timm
    head = classifier()
    if not isinstance(head, nn.Linear):
        raise TrainingFailed(f"finetune.method: {type(model).__name__} has no single linear head to probe; use full")
    return head


def _one_pass(context: Context, epochs: int) -> Context:
    """Tell of a probe as of one pass: that is what its images cost."""
    return replace(context, report=lambda told: context.report(replace(told, images=told.images // epochs)))


@contextmanager
def _between(model: nn.Module, start: Mapping[str, torch.Tensor], alpha: float) -> Iterator[None]:
    """Inside, the model's weights are (1 - alpha) x start + alpha x its own; afterwards its own again.

    Running averages are mixed likewise. Source: Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models" (CVPR 2022);
    in the place of a zero-shot head, which only a model with a text tower has, the start has its linear probe.
    """
    end = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict({
        name: torch.lerp(start[name], value, alpha) if value.is_floating_point() else value
        for name, value in end.items()
    })  # fmt: skip
    yield
    model.load_state_dict(end)
