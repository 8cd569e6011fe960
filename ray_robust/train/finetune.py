"""Fine-tuning with a fresh head, looked at on all four test splits as it goes: each look is a point.

Hands on predictions; the rows of the results table are made from them by `points`, so that nothing about a score needs
the model again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.plan import TEST_SPLITS
from ray_robust.spec import Finetune, ModelSection
from ray_robust.storage import Storage
from ray_robust.train.context import Context, Progress
from ray_robust.train.evaluate import Split, predict
from ray_robust.train.loop import Length, fit
from ray_robust.train.metrics import METRICS, accuracy
from ray_robust.train.models import fresh_head

TESTS = ("id_test", "ood_test")


@dataclass(frozen=True, eq=False)
class Finetuned:
    """`predictions[epoch][split]` is int32 [n]; `steps[epoch]` the optimizer steps taken by then."""

    predictions: dict[int, dict[str, np.ndarray]]
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
            for name in TEST_SPLITS:
                kept[f"{epoch}/{step}/{name}"] = predict(model, splits[name].images, section, context)
            scores = [METRICS[metric](splits[name].labels, kept[f"{epoch}/{step}/{name}"].numpy()) for name in TESTS]
            pace = step * length.batch / (time.monotonic() - begun)
            context.report(Progress("finetune", epoch, settings.epochs, step * length.batch, pace, *scores))

    seconds = fit(model, train.images, torch.from_numpy(train.labels), settings, section, length,
                  seed_of("finetune", key), context, "finetune", checkpoints, look, kept)  # fmt: skip
    predictions: dict[int, dict[str, np.ndarray]] = {}
    steps: dict[int, int] = {}
    for name, predicted in kept.items():
        epoch, step, split = name.split("/")
        predictions.setdefault(int(epoch), {})[split] = predicted.numpy()
        steps[int(epoch)] = int(step)
    return Finetuned(dict(sorted(predictions.items())), steps, seconds)


def points(done: Finetuned, splits: Mapping[str, Split], metric: str) -> list[dict[str, Any]]:
    """One dict per evaluation, in order: the contract's point columns."""
    score = METRICS[metric]

    def groups(split: str) -> int | None:
        known = splits[split].groups
        return None if known is None else len(np.unique(known))

    rows = []
    for epoch, predicted in done.predictions.items():
        truth = {name: splits[name].labels for name in TEST_SPLITS}
        scores = {name: score(truth[name], predicted[name]) for name in TEST_SPLITS}
        rows.append(
            {
                "epoch": epoch,
                "step": done.steps[epoch],
                "metric": metric,
                "id_val": scores["id_val"],
                "ood_val": scores["ood_val"],
                "id": scores["id_test"],
                "ood": scores["ood_test"],
                "id_accuracy": accuracy(truth["id_test"], predicted["id_test"]),
                "ood_accuracy": accuracy(truth["ood_test"], predicted["ood_test"]),
                "id_groups": groups("id_test"),
                "ood_groups": groups("ood_test"),
                "id_images": len(truth["id_test"]),
                "ood_images": len(truth["ood_test"]),
            }
        )
    return rows
