"""Trainings in processes of their own that share a GPU, as trials do that have a part of it each."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from bench.step import Shape, Way, noise, through_fit
from ray_robust.spec.training import Training
from ray_robust.train.context import Context
from ray_robust.train.images import ImageBank

START = 60.0  # seconds until the first steps of all, compiled code from the cache included


class Processes:
    """As many as there may be at once, forked before CUDA has begun; each trains when it is told."""

    def __init__(self, count: int, shape: Shape, settings: Training, device: torch.device) -> None:
        context = multiprocessing.get_context("fork")
        sys.stdout.flush()
        ends = [context.Pipe() for _ in range(count)]
        self.pipes = [here for here, _ in ends]
        self.processes = [
            context.Process(target=_serve, args=(there, seed, shape, settings, device), daemon=True)
            for seed, (_, there) in enumerate(ends)
        ]
        for process in self.processes:
            process.start()
        for _, there in ends:
            there.close()

    def way(self, count: int, variant: bool | str) -> Callable[[], Way]:
        """Return the way that so many train at once: seconds for a batch of any of them, as `several` counts."""

        def run(steps: int) -> float:
            begun = time.perf_counter()
            for pipe in self.pipes[:count]:
                pipe.send((variant, steps))
            replies = [self._reply(pipe) for pipe in self.pipes[:count]]
            if errors := [reply for reply in replies if reply]:
                raise RuntimeError(errors[0])
            return (time.perf_counter() - begun) / count

        return lambda: run

    @staticmethod
    def _reply(pipe: Connection) -> str:
        if not pipe.poll(START):
            raise RuntimeError(f"a process did not answer within {START:.0f} s")
        try:
            return pipe.recv()
        except EOFError:
            raise RuntimeError("a process has ended") from None

    def end(self) -> None:
        """End them."""
        for process in self.processes:
            process.kill()
            process.join()


def _serve(pipe: Connection, seed: int, shape: Shape, settings: Training, device: torch.device) -> None:
    ways: dict[Any, Way] = {}
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # what is compiled is in the cache; each would start many
    with suppress(EOFError):
        while True:
            variant, steps = pipe.recv()
            try:
                if variant not in ways:
                    section = shape.section.model_copy(update={"compile": variant})
                    bank = ImageBank([noise(shape, seed)], device)
                    ways[variant] = through_fit(shape, section, settings, bank, Context(device))
                ways[variant](steps)
                pipe.send("")
            except Exception as error:  # of a compiler, of the memory, of the model: the way is reported as failed
                pipe.send(f"{type(error).__name__}: {error}"[:500])
