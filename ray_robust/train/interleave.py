"""Trainings as generators of steps, so that several share one process: `Stepwise`, `run_interleaved`.

A training yields the `ForwardBackward` of every step and continues once its caller has run it. Called like a function
it runs its own steps to the end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import nn

from ray_robust.train.exceptions import Preempted

P = ParamSpec("P")
T = TypeVar("T")
LossFn = Callable[..., torch.Tensor]


@dataclass(eq=False)
class ForwardBackward:
    """The forward and backward pass of one step, to be run.

    model             itself; `network` is what runs it: distributed, compiled
    loss_fn           (network, tensors of a batch, of equal length) -> the mean over them, a scalar
    grad_accum_steps  the batch goes through the network in so many micro-batches: less memory, same gradient
    stack_key         equal for passes that differ in numbers alone, which can be run as one; None: cannot be stacked
    loss_scale        of the gradients: 1 unless ranks, over which they are averaged, have parts of unequal size
    loss, seconds     set by `run`: the detached loss, and the seconds that the pass took
    """

    model: nn.Module
    network: nn.Module
    loss_fn: LossFn
    inputs: tuple[torch.Tensor, ...]
    grad_accum_steps: int = 1
    stack_key: Hashable | None = None
    loss_scale: float = 1.0
    loss: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    seconds: float = 0.0

    def run(self) -> None:
        """Add this batch's gradients to the network's.

        The gradients of its micro-batches, weighted by their sizes, add up to that of the batch. What a model computes
        over a batch it computes over each micro-batch: running means of batch normalisation and dropout masks differ.
        """
        begun = time.monotonic()
        batches = list(zip(*(tensor.chunk(self.grad_accum_steps) for tensor in self.inputs), strict=True))
        losses = []
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else _no_sync(self.network):
                loss = self.loss_fn(self.network, *batch)
                if len(batches) > 1:
                    loss = loss * (len(batch[0]) / len(self.inputs[0]))
                (loss if self.loss_scale == 1 else loss * self.loss_scale).backward()
            losses.append(loss.detach())
        self.loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self.seconds = time.monotonic() - begun


def _no_sync(network: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay on this rank: they are averaged once, with those of a batch's last part."""
    no_sync = getattr(network, "no_sync", None)
    return no_sync() if no_sync else nullcontext()


Steps = Generator[ForwardBackward, None, T]  # yields the pass of every optimizer step


class Stepwise(Generic[P, T]):
    """A training as a generator, `steps`; called like a function it runs to the end."""

    def __init__(self, steps: Callable[P, Steps[T]]) -> None:
        self.steps = steps
        update_wrapper(self, steps)

    def __call__(self, *args: P.args, **options: P.kwargs) -> T:
        steps = self.steps(*args, **options)
        while True:
            try:
                next(steps).run()
            except StopIteration as end:
                return end.value


@dataclass(eq=False)
class ActiveTraining:
    """A training under way among others.

    number     its index in the list of trainings
    stream     its own on a GPU, else None
    work       its next pass; None once it has ended
    rng_state  of the random generator when that pass was ready
    """

    number: int
    steps: Steps[Any]
    stream: Any
    work: ForwardBackward | None = None
    rng_state: torch.Tensor | None = None

    def advance(self) -> None:
        """Bring it to its next pass. Raises StopIteration at its end."""
        self.work = None
        with self.on_stream():
            self.work = next(self.steps)
            device = None if self.stream is None else self.stream.device
            self.rng_state = torch.get_rng_state() if device is None else torch.cuda.get_rng_state(device)

    def run(self) -> None:
        """Run its pass by itself: dropout draws what it would without the others."""
        assert self.work is not None
        with self.on_stream():
            self.restore_rng()
            self.work.run()

    def restore_rng(self) -> None:
        """Set the random generator to where this training left it."""
        assert self.rng_state is not None
        if self.stream is None:
            torch.set_rng_state(self.rng_state)
        else:
            torch.cuda.set_rng_state(self.rng_state, self.stream.device)

    def on_stream(self) -> AbstractContextManager[Any]:
        """Return a context in which this training's stream is the current one."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


Runner = Callable[[Sequence[ActiveTraining]], None]  # runs the pass of each


def run_each(active: Sequence[ActiveTraining]) -> None:
    """Run the passes one after the other."""
    for training in active:
        training.run()


def run_interleaved(
    trainings: Sequence[Callable[[], Steps[T]]], at_once: int, device: torch.device, runner: Runner = run_each
) -> list[T]:
    """Return what each training returns; `at_once` of them are under way, a step of each after the other.

    On a GPU each has a stream of its own, so that kernels too small to fill it run side by side. Every step seeds what
    it draws, so that each training ends in the same bits as by itself.

    Once one raises Preempted no other is begun; those under way go on until they have noticed it too, and have saved
    their states. Any other error is raised at once: the others resume from their latest states.
    """
    waiting, active, results = deque(enumerate(trainings)), list[ActiveTraining](), dict[int, T]()
    preempted: Preempted | None = None
    while waiting or active:
        while waiting and len(active) < at_once:
            number, start = waiting.popleft()
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            if stream is not None:
                stream.wait_stream(torch.cuda.current_stream(device))  # the images are on the GPU by then
            active.append(ActiveTraining(number, start(), stream))
        for training in active:
            if preempted is not None and training.rng_state is None:  # it has not begun
                continue
            try:
                training.advance()
            except StopIteration as end:
                results[training.number] = end.value
            except Preempted as error:
                preempted = preempted or error
                waiting.clear()
        active = [training for training in active if training.work is not None]
        runner(active)
    if preempted is not None:
        raise preempted
    return [results[number] for number in range(len(trainings))]
