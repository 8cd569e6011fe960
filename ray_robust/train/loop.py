"""The training loop that every method of pre-training and fine-tuning shares: `optimise`, and `fit` for labels.

A step depends on names and its own number alone (order, augmentation and dropout are seeded from them at every step),
so a training resumed at step s continues bit for bit as one that was never interrupted, on an equal device. Each rank
takes its part of every batch; gradients are averaged by DistributedDataParallel, every image with the same weight.
`optimise.steps(...)` and `fit.steps(...)` are the same trainings as generators of steps, which is how several share one
process (`interleave`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.spec.training import Training
from ray_robust.train.augmentation import Views
from ray_robust.train.callbacks import Callback, Checkpointer, LossGuard, ProgressReporter
from ray_robust.train.checkpoints import load_state
from ray_robust.train.compile import NetworkChoice
from ray_robust.train.curve import CurveRecorder
from ray_robust.train.device import send
from ray_robust.train.duration import Duration
from ray_robust.train.exceptions import TrainingFailed
from ray_robust.train.images import ImageBank, normalise
from ray_robust.train.interleave import ForwardBackward, Steps, Stepwise
from ray_robust.train.models import input_scale
from ray_robust.train.objective import Objective
from ray_robust.train.state import Stage, TrainState


@Stepwise
def optimise(
    model: nn.Module,
    objective: Objective,
    stage: Stage,
    callbacks: Sequence[Callback] = (),
    extra_state: dict[str, torch.Tensor] | None = None,
) -> Steps[float]:
    """Minimise `objective` over `model` in place; return the seconds it took, those of earlier processes included.

    Resumes from the newest state in `stage.checkpoints`. `extra_state` is saved and restored with the model: what a
    callback puts there before an interruption is there again after it. `context.record` gets the learning curve at the
    end. Raises TrainingFailed when the loss is not finite, Preempted, with the state saved, once `context.preemption`
    gives a reason, and Stopped when `context.on_step` does.
    """
    context, duration = stage.context, stage.duration
    _check_batch(objective, stage)
    model.to(context.device).train()
    optimizer = make_optimizer(model, stage.settings)
    extra_state = {} if extra_state is None else extra_state
    resumed = load_state(stage.checkpoints, stage.name, model, optimizer, extra_state) if stage.checkpoints else None
    state = TrainState(stage, model, optimizer, extra_state, resumed)
    choice = NetworkChoice(objective, state)
    sampler = BatchSampler(duration, stage.seed, context.rank, context.world_size)
    curve = CurveRecorder(lambda step: learning_rate(stage.settings, step, duration.steps))
    callbacks = [LossGuard(context.device), ProgressReporter(), *callbacks, curve, choice, Checkpointer()]
    for callback in callbacks:
        callback.on_train_start(state)
    try:
        while state.step < duration.steps:
            seed_device(seed_of(stage.seed, "step", state.step, context.rank), context.device)
            positions, crops_seed = sampler.batch(state.step)
            inputs = objective.batch(positions, crops_seed)
            if objective.prefetch and not duration.ends_epoch(state.step + 1):
                objective.prefetch(*sampler.batch(state.step + 1))
            rate = learning_rate(stage.settings, state.step, duration.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            work = ForwardBackward(model, choice.network, objective.loss_fn, inputs, context.grad_accum_steps,
                                   objective.stack_key, sampler.loss_scale(positions))  # fmt: skip
            paused = time.monotonic()
            yield work
            state.exclude(time.monotonic() - paused - work.seconds)
            optimizer.step()
            state.advance(inputs, work.loss)
            if context.on_step(context, stage.name, model, state.step, duration.steps):
                model.train()
            for callback in callbacks:
                callback.on_step_end(state)
                if state.ends_epoch:
                    callback.on_epoch_end(state)
    finally:
        for callback in callbacks:
            callback.on_train_end()
    return state.seconds


@Stepwise
def fit(
    model: nn.Module,
    images: ImageBank,
    labels: torch.Tensor,
    stage: Stage,
    callbacks: Sequence[Callback] = (),
    extra_state: dict[str, torch.Tensor] | None = None,
) -> Steps[float]:
    """Train `model` in place to predict the int64 `labels` [n] of `images`; see `optimise`."""
    settings, section, context = stage.settings, stage.section, stage.context
    mean, std = input_scale(model)
    labels, views = labels.to(context.device), Views(images, settings.augment)

    def batch(positions: torch.Tensor, seed: int) -> tuple[torch.Tensor, ...]:
        shown = normalise(views.take(positions, seed), mean, std)
        return shown, labels[send(positions, labels.device)]

    def loss_fn(network: nn.Module, shown: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with context.autocast(section.precision):
            scores = network(shown)
        return F.cross_entropy(scores.float(), targets, label_smoothing=settings.label_smoothing)

    stack_key = (section.name, section.precision, settings.label_smoothing)
    objective = Objective(batch, loss_fn, stack_key=stack_key, prefetch=views.prefetch)
    return (yield from optimise.steps(model, objective, stage, callbacks, extra_state))


class BatchSampler:
    """Which images are in a batch: every epoch in an order of its own, drawn from the seed and the epoch's number."""

    def __init__(self, duration: Duration, seed: int, rank: int, world_size: int) -> None:
        self.duration, self.seed, self.rank, self.world_size = duration, seed, rank, world_size
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> tuple[torch.Tensor, int]:
        """Return the positions of a step, and the seed of their crops, which are drawn a step ahead."""
        return self.positions(step), seed_of(self.seed, "crops", step, self.rank)

    def positions(self, step: int) -> torch.Tensor:
        """Return the int64 positions of this rank's part of the batch of a step (counted from 0), on the CPU."""
        epoch, index = divmod(step, self.duration.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
            self._epoch, self._order = epoch, torch.randperm(self.duration.images, generator=generator)
        size = self.duration.batch_size
        return self._order[index * size : (index + 1) * size][self.rank :: self.world_size]

    def loss_scale(self, positions: torch.Tensor) -> float:
        """Return by what this rank's mean loss over its part of a batch counts in the mean over ranks, so that every
        image of the batch has the same weight."""
        return 1.0 if self.world_size == 1 else len(positions) * self.world_size / self.duration.batch_size


def learning_rate(settings: Training, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up from zero, then half a cosine to zero (Loshchilov, Hutter 2017)."""
    warm = settings.warmup * steps
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with momentum 0.9; no weight decay on biases and normalisation, as is usual with timm."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the generators that a training draws from. torch.manual_seed does the same for every kind of device that
    could exist, and records its caller: a quarter of a millisecond more at every step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _check_batch(objective: Objective, stage: Stage) -> None:
    """Raise TrainingFailed for a batch of which a rank would have no image, or that would have to be divided."""
    if (batch_size := stage.duration.batch_size) < (workers := stage.context.world_size):
        raise TrainingFailed(f"{stage.name}: a batch of {batch_size} image{'s' if batch_size > 1 else ''} is too small "
                             f"for {workers} workers; raise batch_size and the number of images to {workers} at least, "
                             f"or lower resources.workers")  # fmt: skip
    if stage.context.grad_accum_steps > 1 and not objective.divisible:
        raise TrainingFailed(f"{stage.name}: a batch of {stage.duration.batch_size} does not fit into memory, and its "
                             f"loss compares the images of a batch, so that it cannot be divided; lower "
                             f"batch_size")  # fmt: skip
