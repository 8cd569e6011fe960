"""Predictions of a model on a split, from which every score is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ray_robust.metrics import Metric, SplitCounts, tally
from ray_robust.spec.load import ModelSection
from ray_robust.train.context import Context
from ray_robust.train.device import send
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.images import ImageBank, normalise
from ray_robust.train.models import input_scale

BATCH = 512


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    labels  int64 [n], -1 of an image without one
    groups  int32 [n], None where the task has none
    rows    int64 [n], their rows in the task's catalog; None for a mixture
    aside   groups that are left out of `worst_group`
    only    int64 [classes], ascending: no other class is predicted; None: all are
    of      int64 [n], which of `images` these are, where they share them with another test; None: all
    """

    images: ImageBank
    labels: np.ndarray
    groups: np.ndarray | None = None
    rows: np.ndarray | None = None
    aside: tuple[int, ...] = ()
    only: np.ndarray | None = None
    of: np.ndarray | None = None

    def restricted(self, classes: np.ndarray) -> Split:
        """Return the images of these classes (int64, ascending), of which no other class is predicted."""
        of = np.flatnonzero(np.isin(self.labels, classes))
        groups, rows = (None if each is None else each[of] for each in (self.groups, self.rows))
        return Split(self.images, self.labels[of], groups, rows, self.aside, classes, of)

    @property
    def labelled(self) -> bool:
        """Whether there are images, and their labels are known: -1 is none."""
        return bool(len(self.labels) and (self.labels >= 0).all())

    def score(self, metric: Metric, classes: np.ndarray) -> float | None:
        """Return the score of the predicted `classes` [n]; None where it does not exist."""
        score = metric.score(self.tally(classes)) if self.labelled else math.nan
        return None if math.isnan(score) else score

    def tally(self, classes: np.ndarray) -> SplitCounts:
        """Return the counts from which every score of the predicted `classes` [n] is computed."""
        return tally(self.labels, classes, self.groups, self.aside)


@dataclass(frozen=True, eq=False)
class Predictions:
    """The most likely class of n images, int32 [n], and its softmax probability, float32 [n]."""

    classes: np.ndarray
    confidence: np.ndarray

    def take(self, positions: np.ndarray) -> Predictions:
        """Return those of some of the images, int64 [m]."""
        return Predictions(self.classes[positions], self.confidence[positions])


ClassSets = Sequence[np.ndarray | None]  # int64 [classes] each, ascending; None for all classes
EVERY_CLASS: ClassSets = (None,)


def predict(
    model: nn.Module, images: ImageBank, section: ModelSection, context: Context, only: torch.Tensor | None = None
) -> Predictions:
    """Return the most likely class of every image and its probability; `only` are int64 positions of those that are
    wanted. Leaves the model in evaluation mode. Raises TrainingFailed where its scores are not finite."""
    return predict_among(model, images, section, context, EVERY_CLASS, only)[0]


@torch.inference_mode()
def predict_among(
    model: nn.Module,
    images: ImageBank,
    section: ModelSection,
    context: Context,
    class_sets: ClassSets,
    only: torch.Tensor | None = None,
) -> list[Predictions]:
    """Return what `predict` does for each set of classes, among which the most likely one is chosen and probabilities
    sum to one; the model sees each image once."""
    model.eval()
    mean, std = input_scale(model)

    def scores_of(positions: torch.Tensor) -> torch.Tensor:
        return model(normalise(images.take(positions), mean, std))

    if only is None:
        images.decode()
    positions = torch.arange(len(images)) if only is None else only
    return _predict_batches(scores_of, positions, section.precision, context, class_sets)


@torch.inference_mode()
def predict_from(head: nn.Module, features: torch.Tensor, context: Context, class_sets: ClassSets) -> list[Predictions]:
    """Return the same from features of the images, float32 [n, width], by the model's linear head: in float32, in which
    it was trained on them. Raises TrainingFailed where its scores are not finite."""

    def scores_of(positions: torch.Tensor) -> torch.Tensor:
        return head(send(features[positions], context.device))

    return _predict_batches(scores_of, torch.arange(len(features)), "float32", context, class_sets)


def _predict_batches(
    scores_of: Callable[[torch.Tensor], torch.Tensor],
    every: torch.Tensor,
    precision: str,
    context: Context,
    class_sets: ClassSets,
) -> list[Predictions]:
    among = [None if classes is None else torch.from_numpy(classes).to(context.device) for classes in class_sets]
    parts: list[list[Batch]] = [[(torch.empty(0, dtype=torch.int32), torch.empty(0))] for _ in among]
    size = max(1, BATCH // context.grad_accum_steps)
    for positions in every.split(size):
        context.heartbeat()
        with context.autocast(precision):
            scores = scores_of(positions)
        for part, classes in zip(parts, among, strict=True):
            part.append(_most_likely(scores, classes))
    return [_joined(part) for part in parts]


Batch = tuple[torch.Tensor, torch.Tensor]  # the most likely class of each image, int32, and its probability


def _most_likely(scores: torch.Tensor, classes: torch.Tensor | None) -> Batch:
    scores = scores if classes is None else scores[:, classes]
    best = scores.argmax(1, keepdim=True)
    confidence = scores.float().softmax(1).gather(1, best)[:, 0]
    return (best[:, 0] if classes is None else classes[best[:, 0]]).to(torch.int32), confidence


def _joined(batches: list[Batch]) -> Predictions:
    device = batches[-1][0].device
    classes, confidence = (torch.cat([part.to(device) for part in parts]).cpu().numpy()
                           for parts in zip(*batches, strict=True))  # fmt: skip
    if lost := int((~np.isfinite(confidence)).sum()):  # the first class would count as what was predicted
        raise TrainingFailed(f"what the model says of {lost:,} of {len(classes):,} images is no finite number")
    return Predictions(classes, confidence)
