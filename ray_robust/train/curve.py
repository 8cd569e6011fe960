"""Learning curves of trainings: callbacks that record the loss of every step, and held-out accuracy now and then.

Owns when points are taken. `CurveRecorder` does not wait for a GPU before the end of the training: a step adds its loss
to a sum on the device, and a point is a division there. What has been recorded is part of the state that a training
resumes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ray_robust.data.pool import seed_of
from ray_robust.metrics import METRICS
from ray_robust.run.learning_curve import LearningCurve, interval
from ray_robust.train.callbacks import Callback
from ray_robust.train.duration import Duration
from ray_robust.train.evaluate import Split, predict
from ray_robust.train.state import TrainState

PREFIX = "curve/"  # what the names of the recorded tensors begin with
LOSS, SUM, STEPS, ACCURACY, IMAGES = (f"{PREFIX}{name}" for name in ("loss", "sum", "steps", "accuracy", "images"))
HELD_OUT_IMAGES = 512  # that accuracy along the way is measured on, at most
HELD_OUT_SHARE = 0.02  # of the training images seen, at most: forward alone is a third of a step, so under 1 % of it
EVALUATIONS = (8, 4, 2)  # along a training, the most that the share allows


class CurveRecorder(Callback):
    """Records the mean loss of at most `MOST_POINTS` parts of the training, and passes the curve to `context.record` at
    its end. `rate` gives the learning rate of a step, counted from 0."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.rate = rate

    def on_train_start(self, state: TrainState) -> None:
        steps, device = state.stage.duration.steps, state.stage.context.device
        self.every = interval(steps)
        points = -(-steps // self.every)
        losses, total = state.extra_state.get(LOSS), state.extra_state.get(SUM)
        # none yet, the state of an earlier version, or points of parts of another number of steps
        if losses is None or total is None or losses.shape != (points,) or state.rescaled:
            losses = torch.full((points,), math.nan)
            total = torch.tensor(math.nan if state.step % self.every else 0.0)
        self.losses, self.total = losses.to(device), total.to(device)
        state.extra_state |= {LOSS: self.losses, SUM: self.total}

    def on_step_end(self, state: TrainState) -> None:
        self.total += state.loss
        if state.step % self.every and not state.is_last_step:
            return
        index = (state.step - 1) // self.every
        torch.div(self.total, state.step - index * self.every, out=self.losses[index])
        self.total.zero_()
        if state.is_last_step:
            state.stage.context.record(self._curve(state))

    def _curve(self, state: TrainState) -> LearningCurve:
        stage, duration, extra = state.stage, state.stage.duration, state.extra_state
        steps = [min((i + 1) * self.every, duration.steps) for i in range(len(self.losses))]
        at, accuracy = (extra[name].tolist() if name in extra else [] for name in (STEPS, ACCURACY))
        return LearningCurve(
            stage.name, duration.steps, duration.batch_size, duration.images, tuple(steps),
            tuple(map(_finite, self.losses.tolist())), tuple(self.rate(step - 1) for step in steps),
            tuple(at), tuple(map(_finite, accuracy)), int(extra[IMAGES]) if at else 0,
        )  # fmt: skip


class HeldOutAccuracy(Callback):
    """Measures a classifier's accuracy on the same few held-out images at evenly spaced steps, the last one among them;
    never, where that would cost more than `HELD_OUT_SHARE`. Draws nothing from torch's generators."""

    def __init__(self, held_out: Split) -> None:
        count = len(held_out.labels)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of("held out along", count)))
        self.held_out, self.only = held_out, order[:HELD_OUT_IMAGES].sort().values

    def on_train_start(self, state: TrainState) -> None:
        steps = torch.tensor(evaluation_steps(state.stage.duration, len(self.only)), dtype=torch.int64)
        earlier = state.extra_state.get(ACCURACY)
        if earlier is None or not torch.equal(state.extra_state.get(STEPS, steps), steps):
            earlier = torch.full((len(steps),), math.nan, dtype=torch.float64)
        state.extra_state |= {STEPS: steps, ACCURACY: earlier, IMAGES: torch.tensor(len(self.only))}
        self.places = {step: place for place, step in enumerate(steps.tolist())}

    def on_step_end(self, state: TrainState) -> None:
        context = state.stage.context
        if state.step not in self.places or not context.first:
            return
        predicted = predict(state.model, self.held_out.images, state.stage.section, context, self.only)
        score = METRICS["accuracy"].score(Split(self.held_out.images, self.held_out.labels[self.only.numpy()])
                                          .tally(predicted.classes))  # fmt: skip
        state.extra_state[ACCURACY][self.places[state.step]] = score
        state.model.train()


def evaluation_steps(duration: Duration, images: int) -> list[int]:
    """Return the steps after which held-out accuracy is measured on so many images, [] where it would cost too much."""
    budget = HELD_OUT_SHARE * duration.steps * duration.batch_size
    count = next((n for n in EVALUATIONS if images and n <= duration.steps and n * images <= budget), 0)
    return [round(duration.steps * (i + 1) / count) for i in range(count)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
