"""How a model's passes are run: by one rank or several, as it is written, compiled, or compiled into CUDA graphs.

`model.compile: auto` looks at a training that is long enough to pay for a compiler, once per shape, and goes on with
what is faster; any other is run as it is written. What a training began with it goes on with after an interruption.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ray_robust.run.throughput import cache_folder
from ray_robust.spec.sections import ModelSection
from ray_robust.train.autotune import fastest
from ray_robust.train.context import Context
from ray_robust.train.interleave import Pass
from ray_robust.train.objective import Objective

LONG = 900.0  # seconds that a training has left, if it is to pay for a compiler that takes up to two minutes


def run_as(name: str, network: nn.Module) -> Any:
    """A callable that gives what `network` gives, in one of the `WAYS`."""
    return WAYS[name](network)


def _compiled(network: nn.Module, **options: Any) -> Any:
    where = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    if not where or where.startswith(f"{tempfile.gettempdir()}/torchinductor_"):  # torch's own choice: lost with /tmp
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "compiled")
    return torch.compile(network, **options)


def _graphs(network: nn.Module) -> Callable[..., Any]:
    compiled = _compiled(network, mode="reduce-overhead")

    def call(*inputs: torch.Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # what the step before gave may be written over
        return compiled(*inputs)

    return call


WAYS: dict[str, Callable[[nn.Module], Any]] = {"eager": lambda network: network, "compiled": _compiled,
                                               "graphs": _graphs}  # fmt: skip


def _distributed(model: nn.Module, context: Context) -> nn.Module:
    if context.world_size == 1:
        return model
    ids = [context.device] if context.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


class NetworkChoice:
    """Which way a training of so many steps runs its network, and `network`, which its passes call: distributed where
    there are several ranks. `before` is the way that an interrupted training was run in."""

    def __init__(
        self,
        section: ModelSection,
        model: nn.Module,
        objective: Objective,
        context: Context,
        steps: int,
        before: str | None,
    ) -> None:
        self.section, self.model, self.objective, self.context = section, model, objective, context
        self.steps, self._plain = steps, _distributed(model, context)
        self.name = before or ("compiled" if section.compile is True else "eager")
        self.network = run_as(self.name, self._plain)
        self._open = section.compile == "auto" and before is None
        self._since: tuple[int, float] | None = None  # steps and seconds at the first look: what comes before warms up

    def look(self, inputs: tuple[torch.Tensor, ...], step: int) -> None:
        """Called now and then with the latest batch, at the same steps by all ranks; decides the second time."""
        if not self._open:
            return
        now = time.monotonic()
        if self._since is None:
            self._since = step, now
            return
        self._open = False
        left = (self.steps - step) * (now - self._since[1]) / (step - self._since[0])
        names = list(WAYS)
        number = names.index(self._fastest(inputs) if self.context.first and left >= LONG else "eager")
        self.name = names[self.context.broadcast(number)]
        if self.name != "eager":
            self.network = run_as(self.name, self._plain)
            self.context.log(f"passes are run {self.name} from step {step} on: that is faster for this shape here")

    def _fastest(self, inputs: tuple[torch.Tensor, ...]) -> str:
        """Tried on copies of the model, so that nothing of the training is touched."""
        context, kinds = self.context, ["eager", "compiled"]
        alone = context.world_size == 1 and context.finetunings_at_once == 1 and context.grad_accum_steps == 1
        if context.device.type == "cuda" and alone:  # graphs own the memory of their gradients
            kinds.append("graphs")
        pieces = tuple(tensor.chunk(context.grad_accum_steps)[0] for tensor in inputs)
        shapes = " x ".join("x".join(map(str, tensor.shape)) for tensor in pieces)
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        what = f"a pass of {self.section.name} ({weights} weights), {shapes}, {self.section.precision}"

        def way(name: str) -> Callable[[], None]:
            built: list[Pass] = []

            def once() -> None:
                if not built:  # as late as it is wanted: a copy takes memory
                    twin = copy.deepcopy(self.model)
                    built.append(Pass(twin, run_as(name, twin), self.objective.loss, pieces))
                built[0].model.zero_grad(set_to_none=True)
                built[0].run()

            return once

        return fastest(what, context.device, {name: way(name) for name in kinds})
