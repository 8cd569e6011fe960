"""What every method of pre-training is given and hands back; the methods themselves are in `methods`.

A method leaves a model whose body goes on to fine-tuning; whatever else it trained (a projection, a text tower) is
dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from ray_robust import registry
from ray_robust.files.storage import Storage
from ray_robust.spec.load import ModelSection, Pretrain
from ray_robust.train.context import Context
from ray_robust.train.evaluate import Split
from ray_robust.train.loop import Length


@dataclass(frozen=True)
class Pretrained:
    """What is known of a pre-trained model, beside its weights."""

    num_labels: int  # width of its head; 0 when it has none
    epochs: float
    images_seen: int
    upstream_accuracy: float | None  # None when nothing was held out, or the method says none
    seconds: float
    notes: tuple[str, ...] = ()  # for the log, a sentence each
    warnings: tuple[str, ...] = ()  # for the log and the report: what a reader of its scores must know


@dataclass(frozen=True, eq=False)
class Images:
    """What a mixture trains on: the drawn images, those held out, the names of their labels.

    captions: one text per training image, None for one that has none; empty when no image has any.
    """

    train: Split
    held_out: Split
    labels: tuple[str, ...]
    captions: Sequence[str | None] = ()


@dataclass(frozen=True, eq=False)
class Job:
    """One pre-training. Every random draw is named by `key`, the trial's meaning, and the first weights by `seed`."""

    model: ModelSection
    settings: Pretrain
    seed: int
    key: str
    context: Context
    checkpoints: Storage | None = None
    drawn: Images | None = None  # None for a method that trains on nothing

    @property
    def images(self) -> Images:
        """The images, of which a method that trains needs some."""
        assert self.drawn is not None
        return self.drawn

    @property
    def length(self) -> Length:
        """How long to train."""
        settings = self.settings
        return Length.of(len(self.images.train.labels), settings.batch_size, settings.epochs, settings.images_seen)

    @property
    def compared(self) -> Length:
        """The same for a loss that compares the images of a batch: with batches that the ranks can share out evenly."""
        ranks = self.context.world_size
        return replace(self.length, batch=max(1, self.length.batch // ranks) * ranks)

    def done(self, length: Length, num_labels: int, upstream_accuracy: float | None, seconds: float) -> Pretrained:
        """What is known after a training of that length."""
        seen = length.steps * length.batch
        return Pretrained(num_labels, seen / length.images, seen, upstream_accuracy, seconds)


def pretrain(job: Job) -> tuple[nn.Module, Pretrained]:
    """Pre-train by the method that the settings name.

    Raises TrainingFailed when the loss is no finite number, or ready-made weights cannot be had or do not fit.
    """
    return registry.find("method", job.settings.method)(job)
