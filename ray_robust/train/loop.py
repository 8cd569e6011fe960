"""The training loop that every method of pre-training and fine-tuning shares: `optimise`, and `fit` for labels.

A step depends on names and its own number alone (order, augmentation and dropout are seeded anew from them), so a
training resumed at step s goes on bit for bit as one that was never interrupted. One rank of several takes its part of
every batch; gradients are averaged by DistributedDataParallel. Both functions can also be taken a step at a time
(`optimise.steps(...)`), which is how several trainings share one process.
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
from ray_robust.files.storage import Storage
from ray_robust.spec.load import ModelSection, Training
from ray_robust.train.checkpoints import StateWriter, load_state
from ray_robust.train.compile import NetworkChoice
from ray_robust.train.context import Context, Progress
from ray_robust.train.exceptions import Preempted, TrainingFailed
from ray_robust.train.images import ImageBank, augment, normalise
from ray_robust.train.interleave import Pass, Steps, Stepwise
from ray_robust.train.models import input_scale
from ray_robust.train.objective import Objective

SAVE_AT_EPOCH = 0.05  # seconds that must have passed since the last checkpoint for the end of an epoch to write one
SAVE_SHARE = 0.05  # of the time that checkpoints may take: the costlier, the rarer
SAVE_WITHIN = 300.0  # seconds after which one is written in the middle of an epoch
LOOK_EVERY = 16  # steps between looks at the loss


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

    kin = (section.name, section.precision, settings.label_smoothing)
    objective = Objective(batch, loss, kin=kin, ahead=images.fetch)
    return (yield from optimise.steps(model, objective, settings, section, length, seed, context, stage, checkpoints,
                                      at_epoch, kept))  # fmt: skip


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
    interruption is there again after it. Raises TrainingFailed when the loss is no finite number, Preempted, with the
    state saved, once `context.preemption` says why, and Stopped when `context.on_step` does.
    """
    if context.grad_accum_steps > 1 and not objective.divisible:
        raise TrainingFailed(f"{stage}: a batch of {length.batch} does not fit into memory, and its loss compares the "
                             f"images of a batch, so that it cannot be divided; lower batch_size")  # fmt: skip
    model.to(context.device).train()
    optimizer = make_optimizer(model, settings)
    facts = load_state(checkpoints, stage, model, optimizer, kept) if checkpoints else None
    facts = facts or {"step": 0, "seconds": 0.0}
    choice = NetworkChoice(section, model, objective, context, length.steps, facts.get("run_as"))
    writer = StateWriter(checkpoints if context.first else None, stage, facts.get("number", 0))
    first, before, begun = facts["step"], facts["seconds"], time.monotonic()

    def now() -> float:  # seconds of this training: those of earlier processes in, those of others in this one out
        return before + time.monotonic() - begun

    def tell(step: int, pace: float) -> None:
        epochs = (step / length.per_epoch, length.steps / length.per_epoch)
        context.report(Progress(stage, *epochs, step * length.batch, pace))

    def positions_of(step: int, order: torch.Tensor) -> torch.Tensor:
        place = step % length.per_epoch
        return order[place * length.batch : (place + 1) * length.batch][context.rank :: context.world_size]

    tell(first, 0.0)
    saved, told, losses = now(), now(), Losses(context.device)
    order = torch.empty(0, dtype=torch.int64)
    with writer:
        for step in range(first, length.steps):
            if step % length.per_epoch == 0 or step == first:
                epoch = step // length.per_epoch
                order = torch.randperm(
                    length.images, generator=torch.Generator().manual_seed(seed_of(seed, "order", epoch))
                )
            last, whole = step + 1 == length.steps, (step + 1) % length.per_epoch == 0
            seed_device(seed_of(seed, "step", step, context.rank), context.device)
            inputs = objective.batch(positions_of(step, order))
            if objective.ahead and not whole and not last:
                objective.ahead(positions_of(step + 1, order))
            rate = learning_rate(settings, step, length.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            work = Pass(model, choice.network, objective.loss, inputs, context.grad_accum_steps, objective.kin)
            waits = time.monotonic()
            yield work
            begun += time.monotonic() - waits - work.seconds
            optimizer.step()
            losses.add(work.total)
            if context.on_step(stage, model, step + 1, length.steps):
                model.train()

            looking = last or whole or losses.unseen >= LOOK_EVERY
            if looking:
                broken = losses.broken(at_once=last or whole)
                if broken is not None:
                    raise TrainingFailed(f"{stage}: the loss became {broken:g} by step {step + 1} of {length.steps} "
                                         f"(learning rate {settings.lr:g})")  # fmt: skip
                if now() - told >= 1 or last:
                    told = now()
                    tell(step + 1, (step + 1 - first) * length.batch / (told - before))
                if at_epoch and (whole or last):
                    at_epoch(-(-(step + 1) // length.per_epoch), step + 1)
                    model.train()
                choice.look(inputs, step + 1)
            leaving = ""
            if looking or context.world_size == 1:  # a word to one rank is heard by all, at a step that all look at
                leaving = context.preemption()
                if context.any_rank(bool(leaving)):
                    leaving = leaving or "another worker was told to leave"
            due = looking and now() - saved > (max(SAVE_AT_EPOCH, writer.cost / SAVE_SHARE) if whole else SAVE_WITHIN)
            if (due or leaving) and not last:
                saved = now()
                writer.write(model, optimizer, {"step": step + 1, "seconds": saved, "run_as": choice.name}, kept)
            if leaving and not last:
                raise Preempted(f"{stage}: stops at step {step + 1} of {length.steps}: {leaving}")
    return now()


def seed_device(seed: int, device: torch.device) -> None:
    """What torch.manual_seed does, for the generators that a training draws from. It seeds every kind of device that
    there could be, and writes down who asked: a quarter of a millisecond, at every step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class Losses:
    """Whether the losses of a training are finite, asked of a GPU without letting it run dry: a look reads what the one
    before it asked for, unless it must know at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._new: list[torch.Tensor] = []
        self._asked: tuple[torch.Tensor, torch.cuda.Event] | None = None

    @property
    def unseen(self) -> int:
        """Losses that no look has been at."""
        return len(self._new)

    def add(self, loss: torch.Tensor) -> None:
        """The loss of a step, on the device."""
        self._new.append(loss)

    def broken(self, at_once: bool) -> float | None:
        """A loss that is no finite number; None where all are that have been looked at."""
        seen = torch.stack(self._new)
        self._new.clear()
        if self.device.type != "cuda":
            return _unfinite(seen)
        before, kept = self._asked, torch.empty(seen.shape, pin_memory=True)
        kept.copy_(seen, non_blocking=True)
        self._asked = (kept, torch.cuda.Event())
        self._asked[1].record()
        for asked in (before, self._asked if at_once else None):
            if asked is not None:
                asked[1].synchronize()
                if (found := _unfinite(asked[0])) is not None:
                    return found
        return None


def _unfinite(losses: torch.Tensor) -> float | None:
    finite = losses.isfinite()
    return None if bool(finite.all()) else float(losses[~finite][-1])
