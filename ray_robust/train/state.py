"""What a training is, and how far it is: `Stage` and `TrainState`, shared by the loop and its callbacks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ray_robust.files.storage import Storage
from ray_robust.spec.sections import ModelSection
from ray_robust.spec.training import Training
from ray_robust.train.context import Context
from ray_robust.train.duration import Duration

CHECK_EVERY = 16  # steps after which a check step follows, at the latest


@dataclass(frozen=True, eq=False)
class Stage:
    """One training within a trial.

    name         `pretrain`, `probe` or `finetune`: the name of its states on disk and of its reports
    settings     optimizer, learning rate, batch size, augmentation
    section      the model as the spec names it, with its precision and compilation
    seed         every random draw depends on it and on the step alone
    checkpoints  the folder of states to resume from; None: none are written
    labels       a hash of the labels in the order of their numbers, where that may differ; states are of one order
    processed    set by the training: images that it has processed, in earlier processes too, by the size of the batch,
                 in the order in which it had these sizes
    """

    name: str
    settings: Training
    section: ModelSection
    duration: Duration
    seed: int
    context: Context
    checkpoints: Storage | None = None
    labels: str = ""
    processed: dict[int, int] = field(default_factory=dict)


class TrainState:
    """A training under way, as its callbacks see it.

    step           optimizer steps taken, those of earlier processes included; where these had batches of another size,
                   as with another number of workers, and so another number of steps in all, the same share of these
    rescaled       whether that was so
    inputs, loss   the latest batch, and its loss as a detached scalar on the device
    run_as         the variant of the network that is run, see `compile`; None before one was chosen
    extra_state    tensors that are saved and restored with the model
    is_check_step  whether this is a step at which the device may be waited for and ranks may talk: at least every
                   `CHECK_EVERY` steps and at ends of epochs, the same steps on all ranks
    """

    def __init__(
        self,
        stage: Stage,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        extra_state: dict[str, torch.Tensor],
        resumed: dict[str, Any] | None,
    ) -> None:
        """`resumed` are the facts of the checkpoint that has been loaded."""
        facts = resumed or {"step": 0, "seconds": 0.0}
        self.stage, self.model, self.optimizer, self.extra_state = stage, model, optimizer, extra_state
        self.step: int = facts["step"]
        self._count_earlier(facts)
        self.run_as: str | None = facts.get("run_as")
        self.checkpoint_number: int = facts.get("number", 0)
        self.inputs: tuple[torch.Tensor, ...] = ()
        self.loss = torch.zeros(())
        self.is_check_step = False
        self._unchecked = 0
        self._started = time.monotonic() - facts["seconds"]

    def _count_earlier(self, facts: dict[str, Any]) -> None:
        """Go on from what earlier processes have done, at the same share of the schedule: rounded down, so that a step
        is left, as it was then. Of states of earlier versions the batch is taken to be the same."""
        duration, processed = self.stage.duration, self.stage.processed
        steps = facts.get("steps", duration.steps)
        self.rescaled = steps != duration.steps
        if self.rescaled:
            self.step = self.step * duration.steps // steps
            self.stage.context.log(
                f"{self.stage.name}: goes on from step {self.step} of {duration.steps}, in batches of "
                f"{duration.batch_size} images: with other workers or images it was at "
                f"step {facts['step']} of {steps}"
            )
        processed.clear()
        processed.update(facts.get("processed") or [(duration.batch_size, facts["step"] * duration.batch_size)])

    @property
    def facts(self) -> dict[str, Any]:
        """What a state on disk says of how far the training is."""
        stage = self.stage
        done = {"step": self.step, "steps": stage.duration.steps, "processed": list(stage.processed.items())}
        return {**done, "labels": stage.labels} if stage.labels else done

    @property
    def seconds(self) -> float:
        """Seconds of this training: those of earlier processes included, those of others in this process not."""
        return time.monotonic() - self._started

    @property
    def epoch(self) -> int:
        """The epoch of the latest step, counted from 1."""
        return -(-self.step // self.stage.duration.steps_per_epoch)

    @property
    def is_last_step(self) -> bool:
        """Whether the training is over."""
        return self.step == self.stage.duration.steps

    @property
    def ends_epoch(self) -> bool:
        """Whether the latest step was the last of its epoch, or of the training."""
        return self.stage.duration.ends_epoch(self.step)

    def exclude(self, seconds: float) -> None:
        """Take time that was not spent on this training out of its `seconds`."""
        self._started += seconds

    def advance(self, inputs: tuple[torch.Tensor, ...], loss: torch.Tensor) -> None:
        """Count a step that has been taken."""
        self.step += 1
        batch_size, processed = self.stage.duration.batch_size, self.stage.processed
        processed[batch_size] = processed.get(batch_size, 0) + batch_size
        self.inputs, self.loss = inputs, loss
        self._unchecked += 1
        self.is_check_step = self.ends_epoch or self._unchecked >= CHECK_EVERY
        if self.is_check_step:
            self._unchecked = 0
