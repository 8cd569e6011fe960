"""Fine-tuning with a fresh head, looked at on all four test splits as it goes: each look is a point.

Hands on predictions; `points` makes the rows of the results table from them, so that nothing about a score needs the
model again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.plan import TEST_SPLITS
from ray_robust.spec import Finetune, ModelSection
from ray_robust.storage import Storage
from ray_robust.train.context import Context, Progress
from ray_robust.train.evaluate import Predicted, Split, predict
from ray_robust.train.loop import Length, fit
from ray_robust.train.metrics import METRICS
from ray_robust.train.models import fresh_head

TESTS = ("id_test", "ood_test")


@dataclass(frozen=True, eq=False)
class Finetuned:
    """`predictions[epoch][split]` for the four test splits; `steps[epoch]` the optimizer steps taken by then."""

    predictions: dict[int, dict[str, Predicted]]
    steps: dict[int, int]
    seconds: float


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
) -> Finetuned:
    """Fine-tune `model` in place on `splits["train"]`, predicting all test splits every `evaluate_every` epochs.

    Every random draw is named by `key`; `metric` scores what is reported on the way. Raises
    TrainingFailed when the loss is no finite number.
    """
    train = splits["train"]
    fresh_head(model, num_classes, seed_of("finetune", key))
    length = Length.of(len(train.labels), settings.batch_size, settings.epochs, None)
    kept: dict[str, torch.Tensor] = {}
    begun = time.monotonic()

    def look(epoch: int, step: int) -> None:
        if epoch % settings.evaluate_every == 0 or step == length.steps:
            found = {name: predict(model, splits[name].images, section, context) for name in TEST_SPLITS}
            for name, predicted in found.items():
                for part, values in vars(predicted).items():
                    kept[f"{epoch}/{step}/{name}/{part}"] = torch.from_numpy(values)
            scores = [METRICS[metric](splits[name].tally(found[name].classes)) for name in TESTS]
            pace = step * length.batch / (time.monotonic() - begun)
            context.report(Progress("finetune", epoch, settings.epochs, step * length.batch, pace, *scores))

    seconds = fit(model, train.images, torch.from_numpy(train.labels), settings, section, length,
                  seed_of("finetune", key), context, "finetune", checkpoints, look, kept)  # fmt: skip
    predictions: dict[int, dict[str, Predicted]] = {}
    steps: dict[int, int] = {}
    for look_at in sorted({name.rpartition("/")[0] for name in kept}):
        epoch, step, split = look_at.split("/")
        parts = {part: kept[f"{look_at}/{part}"].numpy() for part in ("classes", "confidence")}
        predictions.setdefault(int(epoch), {})[split] = Predicted(**parts)
        steps[int(epoch)] = int(step)
    return Finetuned(dict(sorted(predictions.items())), steps, seconds)
