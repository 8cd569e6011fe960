"""How a model's forward and backward passes are run: eager, compiled, or as CUDA graphs; on one rank or several.

With `model.compile: auto` a training that is long enough to pay for the compiler measures whether that is faster, once
per shape, and continues with the faster one; any other runs eagerly. CUDA graphs are experimental: nobody has measured
them, so that they run only where `compile: graphs` asks for them. A resumed training keeps the variant that it began
with.
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
from ray_robust.train.autotune import pick_fastest
from ray_robust.train.callbacks import Callback
from ray_robust.train.context import Context
from ray_robust.train.interleave import ForwardBackward
from ray_robust.train.objective import Objective
from ray_robust.train.state import TrainState

MIN_SECONDS_LEFT = 900.0  # that a training must have, to pay for a compiler that takes up to two minutes


def build_variant(name: str, network: nn.Module) -> Any:
    """Return a callable that computes what `network` does, in one of the `VARIANTS`."""
    return VARIANTS[name](network)


def _compiled(network: nn.Module, **options: Any) -> Any:
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    if not folder or folder.startswith(f"{tempfile.gettempdir()}/torchinductor_"):  # torch's default is lost with /tmp
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "compiled")
    # by default a second batch size is compiled for any: slower, and other bits than in a process that begins with it
    return torch.compile(network, dynamic=False, **options)


def _graphs(network: nn.Module) -> Callable[..., Any]:
    compiled = _compiled(network, mode="reduce-overhead")

    def call(*inputs: torch.Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # outputs of the step before may be overwritten
        return compiled(*inputs)

    return call


VARIANTS: dict[str, Callable[[nn.Module], Any]] = {"eager": lambda network: network, "compiled": _compiled,
                                                   "graphs": _graphs}  # fmt: skip
ASKED_FOR = {True: "compiled", "graphs": "graphs"}  # by `model.compile`; others begin eagerly


def _distributed(model: nn.Module, context: Context) -> nn.Module:
    if context.world_size == 1:
        return model
    ids = [context.device] if context.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


class NetworkChoice(Callback):
    """Holds `network`, which a training's passes call: distributed where there are several ranks, and one of the
    `VARIANTS`, whose name is `state.run_as` once it is chosen; eager until then."""

    def __init__(self, objective: Objective, state: TrainState) -> None:
        """A resumed `state` names its variant already."""
        stage = state.stage
        self.objective, self.stage, self.model = objective, stage, state.model
        self._plain = _distributed(state.model, stage.context)
        self._open = stage.section.compile == "auto" and state.run_as is None
        name = self._possible(state.run_as or ASKED_FOR.get(stage.section.compile, "eager"))
        state.run_as = None if self._open else name  # a state that is saved before the choice leaves it open
        self.network = build_variant(name, self._plain)
        self._first_check: tuple[int, float] | None = None  # its step and time: the steps before it warm up

    def _possible(self, name: str) -> str:
        """The variant itself, or the next best one where it would compute nonsense."""
        context = self.stage.context
        # a graph owns the memory of its gradients, which neither another training nor a sum of parts may use
        alone = context.world_size == 1 and context.finetunings_at_once == 1 and context.grad_accum_steps == 1
        if name != "graphs" or (context.device.type == "cuda" and alone):
            return name
        context.log("CUDA graphs need a GPU, one worker, one fine-tuning at once and undivided batches: runs compiled, "
                    "without them")  # fmt: skip
        return "compiled"

    def on_step_end(self, state: TrainState) -> None:
        """Choose a variant at the second check step, by the time that the training has left."""
        if not self._open or not state.is_check_step:
            return
        now = time.monotonic()
        if self._first_check is None:
            self._first_check = state.step, now
            return
        self._open = False
        step, since = self._first_check
        seconds_left = (self.stage.duration.steps - state.step) * (now - since) / (state.step - step)
        context, names = self.stage.context, list(VARIANTS)
        name = self._measure(state.inputs) if context.first and seconds_left >= MIN_SECONDS_LEFT else "eager"
        state.run_as = names[context.broadcast(names.index(name))]
        if state.run_as != "eager":
            self.network = build_variant(state.run_as, self._plain)
            context.log(f"runs {state.run_as} from step {state.step} on: faster for this shape on this device")

    def _measure(self, inputs: tuple[torch.Tensor, ...]) -> str:
        """The fastest variant, measured on copies of the model: the training itself is unchanged."""
        context, section, names = self.stage.context, self.stage.section, ["eager", "compiled"]
        batch = tuple(tensor.chunk(context.grad_accum_steps)[0] for tensor in inputs)
        shapes = " x ".join("x".join(map(str, tensor.shape)) for tensor in batch)
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        key = f"a pass of {section.name} ({weights} weights), {shapes}, {context.precision(section.precision)}"

        def candidate(name: str) -> Callable[[], None]:
            built: list[ForwardBackward] = []

            def run() -> None:
                if not built:  # as late as possible: a copy takes memory
                    twin = copy.deepcopy(self.model)
                    built.append(ForwardBackward(twin, build_variant(name, twin), self.objective.loss_fn, batch))
                built[0].model.zero_grad(set_to_none=True)
                built[0].run()

            return run

        return pick_fastest(key, context.device, {name: candidate(name) for name in names})
