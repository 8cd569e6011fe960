"""What happens around the steps of a training: a check of the loss, progress reports, states to resume from.

`loop.optimise` calls every `Callback` in four places; evaluation (`finetune`) and the choice of a compiled network
(`compile`) are callbacks too.
"""

from __future__ import annotations

import torch

from ray_robust.train.checkpoints import StateWriter
from ray_robust.train.context import Progress
from ray_robust.train.exceptions import Preempted, TrainingFailed
from ray_robust.train.state import TrainState

MIN_SAVE_INTERVAL = 0.05  # seconds since the last checkpoint before the end of an epoch writes one
MAX_SAVE_SHARE = 0.05  # of the time that checkpoints may take: the slower they are, the rarer
MAX_SAVE_INTERVAL = 300.0  # seconds after which one is written in the middle of an epoch
REPORT_INTERVAL = 1.0  # seconds between progress reports


class Callback:
    """Override what is needed. All ranks call all callbacks, one after the other, at the same steps.

    One that uses `state.model` leaves it in training mode.
    """

    def on_train_start(self, state: TrainState) -> None:
        """Run before the first step, with the state that was resumed."""

    def on_step_end(self, state: TrainState) -> None:
        """Run after every optimizer step."""

    def on_epoch_end(self, state: TrainState) -> None:
        """Run after `on_step_end` at the end of every epoch and of the training."""

    def on_train_end(self) -> None:
        """Run however the training ends, by an error too."""


class LossGuard(Callback):
    """Raises TrainingFailed once the loss is not finite.

    A GPU is not made to wait: a check reads the losses that the one before it began to copy, except at ends of epochs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pending: list[torch.Tensor] = []  # losses since the last check, scalars on the device
        self._copying: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def on_step_end(self, state: TrainState) -> None:
        self.pending.append(state.loss)
        if not state.is_check_step:
            return
        loss = self.non_finite(wait=state.ends_epoch)
        if loss is not None:
            stage = state.stage
            raise TrainingFailed(f"{stage.name}: the loss became {loss:g} by step {state.step} of "
                                 f"{stage.duration.steps} (learning rate {stage.settings.lr:g})")  # fmt: skip

    def non_finite(self, wait: bool) -> float | None:
        """Return a loss that is not finite, None if there is none; on a GPU the pending ones count only if `wait`."""
        losses = torch.stack(self.pending)
        self.pending.clear()
        if self.device.type != "cuda":
            return _non_finite(losses)
        previous, copy = self._copying, torch.empty(losses.shape, pin_memory=True)
        copy.copy_(losses, non_blocking=True)
        self._copying = (copy, torch.cuda.Event())
        self._copying[1].record()
        for copying in (previous, self._copying if wait else None):
            if copying is not None:
                copying[1].synchronize()
                if (loss := _non_finite(copying[0])) is not None:
                    return loss
        return None


def _non_finite(losses: torch.Tensor) -> float | None:
    finite = losses.isfinite()
    return None if bool(finite.all()) else float(losses[~finite][-1])


class ProgressReporter(Callback):
    """Reports to `context.report`: at the start, about once a second, and at the end."""

    def on_train_start(self, state: TrainState) -> None:
        self._first_step, self._first_seconds = state.step, state.seconds
        self._report(state, 0.0)
        self._reported = state.seconds

    def on_step_end(self, state: TrainState) -> None:
        if not state.is_check_step:
            return
        now = state.seconds
        if now - self._reported >= REPORT_INTERVAL or state.is_last_step:
            self._reported = now
            images = (state.step - self._first_step) * state.stage.duration.batch_size
            self._report(state, images / (now - self._first_seconds))

    def _report(self, state: TrainState, images_per_second: float) -> None:
        stage, duration = state.stage, state.stage.duration
        epoch, epochs = state.step / duration.steps_per_epoch, duration.steps / duration.steps_per_epoch
        images = state.step * duration.batch_size
        stage.context.report(Progress(stage.name, epoch, epochs, images, images_per_second))


class Checkpointer(Callback):
    """Writes states to resume from: at ends of epochs, now and then in a long one, and before it raises Preempted.

    It comes after the callbacks whose `extra_state` it saves.
    """

    def on_train_start(self, state: TrainState) -> None:
        stage = state.stage
        folder = stage.checkpoints if stage.context.first else None
        self._writer = StateWriter(folder, stage.name, state.checkpoint_number)
        self._saved = state.seconds

    def on_step_end(self, state: TrainState) -> None:
        if state.is_last_step:
            return
        reason = _preemption(state)
        if reason or self._is_due(state):
            self._save(state)
        if reason:
            stage = state.stage
            raise Preempted(f"{stage.name}: stops at step {state.step} of {stage.duration.steps}: {reason}")

    def on_train_end(self) -> None:
        self._writer.wait()  # however the training ends, a state that was begun is complete

    def _is_due(self, state: TrainState) -> bool:
        if not state.is_check_step:
            return False
        interval = MAX_SAVE_INTERVAL
        if state.ends_epoch:
            interval = max(MIN_SAVE_INTERVAL, self._writer.cost / MAX_SAVE_SHARE)
        return state.seconds - self._saved > interval

    def _save(self, state: TrainState) -> None:
        self._saved = state.seconds
        stage = state.stage
        facts = {**state.facts, "seconds": self._saved, "run_as": state.run_as,
                 "precision": stage.context.precision(stage.section.precision)}  # fmt: skip
        self._writer.write(state.model, state.optimizer, facts, state.extra_state)


def _preemption(state: TrainState) -> str:
    """Why this training must stop now, "" if it need not. Several ranks agree on it at check steps."""
    context = state.stage.context
    if context.world_size > 1 and not state.is_check_step:
        return ""
    reason = context.preemption()
    if context.any_rank(bool(reason)):
        return reason or "another worker is preempted"
    return ""
