"""Trainings as generators of passes, so that several share one process: `Stepwise`, `take_turns`.

A training yields the forward and backward pass of every step and goes on once somebody has run it. Called like a
function it runs its own; of several that take turns, those that are alike may be run as one (`stack`).
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

P = ParamSpec("P")
T = TypeVar("T")
Loss = Callable[..., torch.Tensor]


@dataclass(eq=False)
class Pass:
    """The forward and backward pass of one step; afterwards `total` is its loss, detached, and the gradients are there.

    network  as it is run: distributed, compiled; `model` is itself
    loss     (network, tensors of a batch, alike in length) -> the mean over them, a scalar
    parts    the batch goes through the network in so many parts: less memory, same gradient
    kin      equal for passes that differ in numbers alone, so that they can be run as one; None: this one cannot
    """

    model: nn.Module
    network: nn.Module
    loss: Loss
    inputs: tuple[torch.Tensor, ...]
    parts: int = 1
    kin: Hashable | None = None
    total: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    seconds: float = 0.0  # that it took, of the process that ran it

    def run(self) -> None:
        """Add this batch's gradients to the network's.

        The gradients of its parts, weighted by their sizes, add up to that of the batch. What a model computes from a
        batch as such it computes from each part: running means of batch normalisation and draws of dropout differ.
        """
        begun = time.monotonic()
        pieces = list(zip(*(tensor.chunk(self.parts) for tensor in self.inputs), strict=True))
        losses = []
        for number, piece in enumerate(pieces):
            with nullcontext() if number + 1 == len(pieces) else _unshared(self.network):
                loss = self.loss(self.network, *piece)
                if len(pieces) > 1:
                    loss = loss * (len(piece[0]) / len(self.inputs[0]))
                loss.backward()
            losses.append(loss.detach())
        self.total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self.seconds = time.monotonic() - begun


def _unshared(network: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay on this rank: they are averaged once, with those of a batch's last part."""
    no_sync = getattr(network, "no_sync", None)
    return no_sync() if no_sync else nullcontext()


Steps = Generator[Pass, None, T]  # yields the pass of every optimizer step


class Stepwise(Generic[P, T]):
    """A training as a generator, `steps`; called like a function it goes on to the end."""

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
class Turn:
    """A training that is under way: its place in the list, its steps, its own stream on a GPU, its next pass, and where
    the random generator stood when that was ready."""

    number: int
    steps: Steps[Any]
    stream: Any
    work: Pass | None = None
    drawn: torch.Tensor | None = None

    def go_on(self) -> None:
        """Take it to its next pass. Raises StopIteration at its end."""
        self.work = None
        with self.here():
            self.work = next(self.steps)
            self.drawn = torch.get_rng_state() if self.stream is None else torch.cuda.get_rng_state(self.stream.device)

    def run(self) -> None:
        """Its pass, by itself: dropout draws what it would alone."""
        assert self.work is not None
        with self.here():
            self.draw_on()
            self.work.run()

    def draw_on(self) -> None:
        """Put the generator to where this training left it."""
        assert self.drawn is not None
        if self.stream is None:
            torch.set_rng_state(self.drawn)
        else:
            torch.cuda.set_rng_state(self.drawn, self.stream.device)

    def here(self) -> AbstractContextManager[Any]:
        """What is done inside belongs to this training's stream."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


def one_by_one(turns: Sequence[Turn]) -> None:
    """Run the pass of each."""
    for turn in turns:
        turn.run()


def take_turns(
    trainings: Sequence[Callable[[], Steps[T]]],
    at_once: int,
    device: torch.device,
    run: Callable[[Sequence[Turn]], None] = one_by_one,
) -> list[T]:
    """What each training ends in; `at_once` of them are under way, a step of each in turn, their passes run by `run`.

    On a GPU each has a stream of its own, so that kernels too small to fill it run side by side. Every step seeds what
    it draws, so that company changes no bit of it.
    """
    waiting, running, ended = deque(enumerate(trainings)), list[Turn](), dict[int, T]()
    while waiting or running:
        while waiting and len(running) < at_once:
            number, start = waiting.popleft()
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            if stream is not None:
                stream.wait_stream(torch.cuda.current_stream(device))  # the images lie there by then
            running.append(Turn(number, start(), stream))
        for turn in running:
            try:
                turn.go_on()
            except StopIteration as end:
                ended[turn.number] = end.value
        running = [turn for turn in running if turn.work is not None]
        run(running)
    return [ended[number] for number in range(len(trainings))]
