"""The training loop that every method of pre-training and fine-tuning shares: `optimise`, and `fit` for labels.

A step depends on names and its own number alone (order, augmentation and dropout are seeded anew from them), so a
training resumed at step s goes on bit for bit as one that was never interrupted. One rank of several takes its part of
every batch; gradients are averaged by DistributedDataParallel. Both functions can also be taken a step at a time
(`optimise.steps(...)`), which is how several trainings share one process.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from ray_robust.data.pool import seed_of
from ray_robust.spec import ModelSection, Training
from ray_robust.storage import Storage
from ray_robust.train.checkpoints import load_state, save_state
from ray_robust.train.context import Context, Leaving, Progress, TrainingFailed
from ray_robust.train.images import ImageBank, augment, normalise
from ray_robust.train.models import input_scale

SAVE_AT_EPOCH = 0.5  # seconds that must have passed since the last checkpoint for the end of an epoch to write one
SAVE_SHARE = 0.02  # of the time that checkpoints may take: the costlier, the rarer
SAVE_WITHIN = 300.0  # seconds after which one is written in the middle of an epoch
LOOK_EVERY = 16  # steps between looks at the loss: each costs a GPU a wait
P, T = ParamSpec("P"), TypeVar("T")
Steps = Generator[None, None, T]  # yields after every optimizer step


@dataclass(frozen=True)
class Objective:
    """What a training minimises.

    batch      int64 positions of this rank's images, on the CPU -> the tensors that `loss` wants, alike in length;
               whatever is random about them is drawn here, for the whole batch at once
    loss       (the network, possibly wrapped; those tensors, or a part of them) -> the mean over them, a scalar
    divisible  whether the loss of a batch is the mean over its images, and not a comparison among them
    """

    batch: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    loss: Callable[..., torch.Tensor]
    divisible: bool = True


class Stepwise(Generic[P, T]):
    """A training as a generator, `steps`; called like a function it goes on to the end."""

    def __init__(self, steps: Callable[P, Steps[T]]) -> None:
        self.steps = steps
        update_wrapper(self, steps)

    def __call__(self, *args: P.args, **options: P.kwargs) -> T:
        steps = self.steps(*args, **options)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value


def take_turns(trainings: Sequence[Callable[[], Steps[T]]], at_once: int, device: torch.device) -> list[T]:
    """What each training ends in; `at_once` of them are under way, a step of each in turn.

    On a GPU each has a stream of its own, so that kernels too small to fill it run side by side. Every step seeds what
    it draws, so that company changes no bit of it.
    """
    waiting, running, ended = deque(enumerate(trainings)), deque[tuple[int, Steps[T], Any]](), dict[int, T]()
    while waiting or running:
        while waiting and len(running) < at_once:
            number, start = waiting.popleft()
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            if stream is not None:
                stream.wait_stream(torch.cuda.current_stream(device))  # the images lie there by then
            running.append((number, start(), stream))
        number, steps, stream = running.popleft()
        try:
            with torch.cuda.stream(stream) if stream is not None else nullcontext():
                next(steps)
            running.append((number, steps, stream))
        except StopIteration as end:
            ended[number] = end.value
    return [ended[number] for number in range(len(trainings))]


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


@Stepwise
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
) -> Steps[float]:
    """Train `model` in place to tell the int64 `labels` of `images`; see `optimise`."""
    mean, std = input_scale(model)
    labels = labels.to(context.device)

    def batch(positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shown = normalise(augment(images.take(positions), settings.augment), mean, std)
        return shown, labels[positions.to(labels.device)]

    def loss(network: nn.Module, shown: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        with context.autocast(section.precision):
            scores = network(shown)
        return F.cross_entropy(scores.float(), wanted, label_smoothing=settings.label_smoothing)

    return (yield from optimise.steps(model, Objective(batch, loss), settings, section, length, seed, context, stage,
                                      checkpoints, at_epoch, kept))  # fmt: skip


@Stepwise
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
) -> Steps[float]:
    """Minimise `objective` over `model` in place; returns the seconds it took, earlier runs counted in.

    `checkpoints` is the folder where a state to resume from is kept, under `stage`; `at_epoch(epoch, step)` is called
    after every whole pass and at the end. `kept` travels with the checkpoints: what at_epoch puts there before an
    interruption is there again after it. Raises TrainingFailed when the loss is no finite number, Leaving, with the
    state saved, once `context.leaving` says why, and Stopped when `context.watch` does.
    """
    if context.parts > 1 and not objective.divisible:
        raise TrainingFailed(f"{stage}: a batch of {length.batch} does not fit into memory, and its loss compares the "
                             f"images of a batch, so that it cannot be divided; lower batch_size")  # fmt: skip
    model.to(context.device).train()
    optimizer = make_optimizer(model, settings)
    facts = load_state(checkpoints, stage, model, optimizer, kept) if checkpoints else None
    facts = facts or {"step": 0, "seconds": 0.0}
    network = _distributed(model, context)
    if section.compile:
        network = torch.compile(network)
    first, before, begun = facts["step"], facts["seconds"], time.monotonic()

    def now() -> float:  # seconds of this training: those of earlier processes in, those of others in this one out
        return before + time.monotonic() - begun

    def tell(step: int, pace: float) -> None:
        epochs = (step / length.per_epoch, length.steps / length.per_epoch)
        context.report(Progress(stage, *epochs, step * length.batch, pace))

    tell(first, 0.0)
    saved, told, cost, losses = now(), now(), 0.0, []
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
        losses.append(_step(network, objective, optimizer, positions, context.parts))
        if context.watch(stage, model, step + 1, length.steps):
            model.train()

        last, whole = step + 1 == length.steps, (step + 1) % length.per_epoch == 0
        looking = last or whole or len(losses) >= LOOK_EVERY
        if looking:
            if not torch.stack(losses).isfinite().all():
                raise TrainingFailed(f"{stage}: the loss became {losses[-1].item():g} by step {step + 1} of "
                                     f"{length.steps} (learning rate {settings.lr:g})")  # fmt: skip
            losses.clear()
            if now() - told >= 1 or last:
                told = now()
                tell(step + 1, (step + 1 - first) * length.batch / (told - before))
            if at_epoch and (whole or last):
                at_epoch(-(-(step + 1) // length.per_epoch), step + 1)
                model.train()
        leaving = ""
        if looking or context.world_size == 1:  # a word to one rank is heard by all, at a step that all look at
            leaving = context.leaving()
            if context.any_says(leaving):
                leaving = leaving or "another worker was told to leave"
        due = looking and now() - saved > (max(SAVE_AT_EPOCH, cost / SAVE_SHARE) if whole else SAVE_WITHIN)
        if checkpoints and context.first and (due or leaving) and not last:
            saved = now()
            with suppress(OSError):  # a full disk costs the work since the last one, not the training
                facts = save_state(checkpoints, stage, model, {**facts, "step": step + 1, "seconds": saved}, optimizer,
                                   kept)  # fmt: skip
            cost = now() - saved
        if leaving and not last:
            raise Leaving(f"{stage}: stops at step {step + 1} of {length.steps}: {leaving}")
        paused = time.monotonic()
        yield
        begun += time.monotonic() - paused
    return now()


def _step(
    network: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    positions: torch.Tensor,
    parts: int,
) -> torch.Tensor:
    """One optimizer step on a batch; returns its loss, detached.

    The gradients of its parts, weighted by their sizes, add up to that of the batch. What a model computes from a batch
    as such it computes from each part: running means of batch normalisation, and the draws of dropout, differ.
    """
    inputs = objective.batch(positions)
    optimizer.zero_grad(set_to_none=True)
    pieces = list(zip(*(tensor.chunk(parts) for tensor in inputs), strict=True))
    total = torch.zeros((), device=inputs[0].device)
    for number, piece in enumerate(pieces):
        with nullcontext() if number + 1 == len(pieces) else _unshared(network):
            loss = objective.loss(network, *piece)
            if len(pieces) > 1:
                loss = loss * (len(piece[0]) / len(inputs[0]))
            loss.backward()
        total += loss.detach()
    optimizer.step()
    return total


def _unshared(network: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay on this rank: they are averaged once, with those of a batch's last part."""
    no_sync = getattr(network, "no_sync", None)
    return no_sync() if no_sync else nullcontext()


def _distributed(model: nn.Module, context: Context) -> nn.Module:
    if context.world_size == 1:
        return model
    ids = [context.device] if context.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)
