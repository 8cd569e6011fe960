"""The training loop that every method of pre-training and fine-tuning shares: `optimise`, and `fit` for labels.

A step depends on names and its own number alone (order, augmentation and dropout are seeded anew from them), so a
training resumed at step s goes on bit for bit as one that was never interrupted. One rank of several takes its part of
every batch; gradients are averaged by DistributedDataParallel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.spec import ModelSection, Training
from ray_robust.storage import Storage
from ray_robust.train.checkpoints import load_checkpoint, save_checkpoint
from ray_robust.train.context import Context, Progress, TrainingFailed
from ray_robust.train.images import ImageBank, augment, normalise
from ray_robust.train.models import input_scale

SAVE_AT_EPOCH = 2.0  # seconds that must have passed since the last checkpoint for the end of an epoch to write one
SAVE_WITHIN = 300.0  # seconds after which one is written in the middle of an epoch
# (the network, possibly wrapped; int64 positions of this rank's images, on the CPU) -> the loss, a scalar
Objective = Callable[[nn.Module, torch.Tensor], torch.Tensor]
LOOK_EVERY = 16  # steps between looks at the loss: each costs a GPU a wait


@dataclass(frozen=True)
class Length:
    """How long a training is. The last, smaller batch of a pass is left out: every pass draws another order."""

    images: int
    batch: int
    steps: int

    @classmethod
    def of(cls, images: int, batch_size: int, epochs: int | None, images_seen: int | None) -> Length:
        """From a number of epochs, or of images to see in all."""
        batch = min(batch_size, images)
        if epochs is not None:
            return cls(images, batch, epochs * max(1, images // batch))
        return cls(images, batch, max(1, round((images_seen or 0) / batch)))

    @property
    def per_epoch(self) -> int:
        """Steps in a pass."""
        return max(1, self.images // self.batch)


def learning_rate(settings: Training, step: int, steps: int) -> float:
    """Linear warm-up from zero, then half a cosine down to zero (Loshchilov, Hutter 2017)."""
    warm = settings.warmup * steps
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum 0.9; no weight decay on biases and normalisation, as is the custom with timm."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def fit(
    model: nn.Module,
    images: ImageBank,
    labels: torch.Tensor,
    settings: Training,
    section: ModelSection,
    length: Length,
    seed: int,
    context: Context,
    stage: str,
    checkpoints: Storage | None = None,
    at_epoch: Callable[[int, int], None] | None = None,
    kept: dict[str, torch.Tensor] | None = None,
) -> float:
    """Train `model` in place to tell the int64 `labels` of `images`; see `optimise`."""
    mean, std = input_scale(model)
    labels = labels.to(context.device)

    def objective(network: nn.Module, positions: torch.Tensor) -> torch.Tensor:
        batch = normalise(augment(images.take(positions), settings.augment), mean, std)
        with context.autocast(section.precision):
            scores = network(batch)
        wanted = labels[positions.to(labels.device)]
        return F.cross_entropy(scores.float(), wanted, label_smoothing=settings.label_smoothing)

    return optimise(model, objective, settings, section, length, seed, context, stage, checkpoints, at_epoch, kept)


def optimise(
    model: nn.Module,
    objective: Objective,
    settings: Training,
    section: ModelSection,
    length: Length,
    seed: int,
    context: Context,
    stage: str,
    checkpoints: Storage | None = None,
    at_epoch: Callable[[int, int], None] | None = None,
    kept: dict[str, torch.Tensor] | None = None,
) -> float:
    """Minimise `objective` over `model` in place; returns the seconds it took, earlier runs counted in.

    `checkpoints` is the folder where a state to resume from is kept, under `stage`; `at_epoch(epoch, step)` is called
    after every whole pass and at the end. `kept` travels with the checkpoints: what at_epoch puts there before an
    interruption is there again after it. Raises TrainingFailed when the loss is no finite number.
    """
    model.to(context.device).train()
    optimizer = make_optimizer(model, settings)
    facts = load_checkpoint(checkpoints, stage, model, optimizer, kept) if checkpoints else None
    facts = facts or {"step": 0, "seconds": 0.0}
    network = _distributed(model, context)
    if section.compile:
        network = torch.compile(network)
    begun = saved = told = time.monotonic()
    first, losses = facts["step"], []
    order = torch.empty(0, dtype=torch.int64)
    for step in range(first, length.steps):
        epoch, place = divmod(step, length.per_epoch)
        if place == 0 or step == first:
            order = torch.randperm(
                length.images, generator=torch.Generator().manual_seed(seed_of(seed, "order", epoch))
            )
        torch.manual_seed(seed_of(seed, "step", step, context.rank))
        positions = order[place * length.batch : (place + 1) * length.batch][context.rank :: context.world_size]
        rate = learning_rate(settings, step, length.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = objective(network, positions)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

        losses.append(loss.detach())
        last, whole = step + 1 == length.steps, (step + 1) % length.per_epoch == 0
        if last or whole or len(losses) >= LOOK_EVERY:
            if not torch.stack(losses).isfinite().all():
                raise TrainingFailed(f"{stage}: the loss became {loss.item():g} by step {step + 1} of {length.steps} "
                                     f"(learning rate {settings.lr:g})")  # fmt: skip
            losses.clear()
            now = time.monotonic()
            if now - told >= 1 or last:
                told = now
                done = (step + 1 - first) * length.batch / (now - begun)
                context.report(Progress(stage, (step + 1) / length.per_epoch, length.steps / length.per_epoch,
                                        (step + 1) * length.batch, done))  # fmt: skip
            due = now - saved > (SAVE_AT_EPOCH if whole else SAVE_WITHIN)
            if at_epoch and (whole or last):
                at_epoch(-(-(step + 1) // length.per_epoch), step + 1)
                model.train()
            if checkpoints and context.first and due and not last:
                saved = now
                state = {"step": step + 1, "seconds": facts["seconds"] + now - begun}
                save_checkpoint(checkpoints, stage, model, state, optimizer, kept)
    return facts["seconds"] + time.monotonic() - begun


def _distributed(model: nn.Module, context: Context) -> nn.Module:
    if context.world_size == 1:
        return model
    ids = [context.device] if context.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)
