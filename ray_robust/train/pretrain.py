"""What every method of pre-training takes and returns; the methods themselves are in `methods`.

A method returns a model whose body goes on to fine-tuning; whatever else it trained (a projection, a text tower) is
dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ray_robust import registry
from ray_robust.data.pool import seed_of
from ray_robust.files.storage import Storage
from ray_robust.spec.sections import ModelSection, Pretrain
from ray_robust.train.context import Context
from ray_robust.train.duration import Duration
from ray_robust.train.evaluate import Split
from ray_robust.train.state import Stage


@dataclass(frozen=True)
class Pretrained:
    """Facts of a pre-trained model, which are saved with its weights."""

    num_labels: int  # width of its head; 0 when it has none
    epochs: float
    images_seen: int
    upstream_accuracy: float | None  # None when no image is held out, or the method measures none
    seconds: float
    notes: tuple[str, ...] = ()  # for the log, a sentence each
    warnings: tuple[str, ...] = ()  # for the log and the report: what a reader of its scores must know
    curve: dict[str, Any] | None = None  # `LearningCurve.as_json`; None of ready-made weights, and in earlier versions
    # on what it was computed last, see `trial.computed_on`: None of ready-made weights, and in earlier versions
    made_on: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class MixtureImages:
    """What a mixture trains on: the drawn images, those held out, the names of their labels.

    captions  one text per training image, None for one that has none; empty when no image has any
    """

    train: Split
    held_out: Split
    labels: tuple[str, ...]
    captions: Sequence[str | None] = ()


@dataclass(frozen=True, eq=False)
class PretrainJob:
    """One pre-training.

    seed     of the first weights
    key      names every other random draw: the trial's meaning
    mixture  None for a method that trains on no images
    weights  the meaning of published weights when they were planned with; "" where that is not to be compared
    labels   of the training's states, see `Stage`
    """

    section: ModelSection
    settings: Pretrain
    seed: int
    key: str
    context: Context
    checkpoints: Storage | None = None
    mixture: MixtureImages | None = None
    weights: str = ""
    labels: str = ""

    @property
    def images(self) -> MixtureImages:
        """The images, for a method that trains on some."""
        assert self.mixture is not None
        return self.mixture

    def stage(self, contrastive: bool = False) -> Stage:
        """Return the training. With `contrastive`, for a loss that compares the images of a batch, all ranks have parts
        of equal size: a batch is smaller where they do not divide it, and there are more steps."""
        settings, ranks = self.settings, self.context.world_size
        images = len(self.images.train.labels)
        batch_size = min(settings.batch_size, images)
        if contrastive and batch_size >= ranks:  # smaller ones are refused by the loop
            batch_size -= batch_size % ranks
        duration = Duration.of(images, batch_size, settings.epochs, settings.images_seen, settings.min_images_seen)
        seed = seed_of("pretrain", self.key)
        return Stage("pretrain", settings, self.section, duration, seed, self.context, self.checkpoints, self.labels)


class Extended(nn.Module):
    """A model with what a method trains beside it (a projection, a text tower), which is dropped afterwards."""

    def model(self) -> nn.Module:
        """Return the model alone."""
        raise NotImplementedError


def pretrained(stage: Stage, num_labels: int, upstream_accuracy: float | None, seconds: float) -> Pretrained:
    """Return the facts of a model that was trained in `stage`."""
    duration, workers = stage.duration, stage.context.world_size
    batches = stage.processed or {duration.batch_size: duration.steps * duration.batch_size}
    seen, asked = sum(batches.values()), min(stage.settings.batch_size, duration.images)
    warnings: tuple[str, ...] = ()
    if len(batches) > 1:
        sizes = " and ".join(map(str, batches))
        warnings = (
            f"pre-trained on batches of {sizes} images, in parts of one schedule: the number of workers changed",
        )
    elif duration.batch_size != asked:
        whole = f"pre-trained on batches of {duration.batch_size} images, not {asked}"
        warnings = (f"{whole}: {workers} workers have parts of equal size",)
    return Pretrained(num_labels, seen / duration.images, seen, upstream_accuracy, seconds, warnings=warnings)


def pretrain(job: PretrainJob) -> tuple[nn.Module, Pretrained]:
    """Pre-train by the method that the settings name.

    Raises TrainingFailed when the loss is not finite, or ready-made weights cannot be read or do not fit.
    """
    return registry.find("method", job.settings.method)(job)
