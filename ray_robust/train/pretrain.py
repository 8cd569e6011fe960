"""Pre-training on a mixture, and its accuracy on the source images that no mixture trains on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.spec import ModelSection, Pretrain
from ray_robust.storage import Storage
from ray_robust.train.context import Context
from ray_robust.train.evaluate import Split, predict
from ray_robust.train.loop import Length, fit
from ray_robust.train.metrics import accuracy
from ray_robust.train.models import build_model


@dataclass(frozen=True)
class Pretrained:
    """What is known of a pre-trained model, beside its weights."""

    num_labels: int
    epochs: float
    images_seen: int
    upstream_accuracy: float | None  # None when nothing was held out
    seconds: float


def pretrain(
    section: ModelSection,
    settings: Pretrain,
    train: Split,
    held_out: Split,
    num_labels: int,
    seed: int,
    key: str,
    context: Context,
    checkpoints: Storage | None = None,
) -> tuple[nn.Module, Pretrained]:
    """Train a fresh model on `train`; every random draw is named by `key`, the trial's meaning.

    Raises TrainingFailed when the loss is no finite number.
    """
    model = build_model(section, num_labels, seed)
    length = Length.of(len(train.labels), settings.batch_size, settings.epochs, settings.images_seen)
    seconds = fit(model, train.images, torch.from_numpy(train.labels), settings, section, length,
                  seed_of("pretrain", key), context, "pretrain", checkpoints)  # fmt: skip
    upstream = None
    if len(held_out.labels):
        upstream = accuracy(held_out.tally(predict(model, held_out.images, section, context).classes))
    seen = length.steps * length.batch
    return model, Pretrained(num_labels, seen / length.images, seen, upstream, seconds)
