"""Experimental: several trainings of one model run as one, their passes in a single call over stacked weights.

Off unless `Context.stacked`: on a CPU it takes twice as long as one after the other, and it has not been measured on a
GPU. Fine-tunings of a grid differ in numbers and seeds alone; small models leave a GPU idle between kernels. The
weights of all are views of common tensors, so that optimizers, checkpoints and evaluations of each work as before. One
that ends leaves the stack. Alike trainings are stacked only where that was measured to be faster (`autotune`).
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Hashable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.func import functional_call, vmap

from ray_robust.train.autotune import pick_fastest
from ray_robust.train.interleave import ActiveTraining, ForwardBackward, LossFn, run_each


class StackedRunner:
    """Runs the passes of interleaved trainings, for `run_interleaved`: alike ones stacked, if that is faster here."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._weights: WeakKeyDictionary[nn.Module, Hashable] = WeakKeyDictionary()  # names and shapes, read once

    def __call__(self, active: Sequence[ActiveTraining]) -> None:
        """Run the pass of each."""
        if len(active) < 2:
            run_each(active)
            return
        groups: dict[Hashable, list[ActiveTraining]] = {}
        for training in active:
            groups.setdefault(self._stack_key(training), []).append(training)
        stacks: dict[tuple[int, ...], Stack] = {}
        for key, group in groups.items():
            works = [training.work for training in group if training.work is not None]
            if key is None or len(group) == 1 or not self._is_faster(works):
                run_each(group)
                continue
            members = tuple(id(work.model) for work in works)
            stacks[members] = self._stacks.get(members) or Stack([work.model for work in works])
            self._synchronised(group, partial(stacks[members].run, works))
        self._stacks = stacks  # those that a training has left are dropped

    def _stack_key(self, training: ActiveTraining) -> Hashable | None:
        """Equal for trainings whose passes can be stacked; None for one that cannot."""
        work = training.work
        if work is None or work.stack_key is None or work.grad_accum_steps > 1 or work.network is not work.model:
            return None
        if work.model not in self._weights:
            state = work.model.state_dict()
            self._weights[work.model] = tuple((name, tuple(value.shape)) for name, value in state.items())
        inputs = tuple((tuple(tensor.shape), tensor.dtype) for tensor in work.inputs)
        return work.stack_key, self._weights[work.model], inputs

    def _is_faster(self, works: list[ForwardBackward]) -> bool:
        """Whether stacking so many of these is faster than one after the other; tried on copies."""
        first = works[0]
        batch = " x ".join("x".join(map(str, tensor.shape)) for tensor in first.inputs)
        key = f"{len(works)} passes of {first.stack_key}, {batch}"
        if key not in _tried:
            copies = [copy.deepcopy(work.model) for work in works]
            twins = [ForwardBackward(twin, twin, work.loss_fn, work.inputs)
                     for twin, work in zip(copies, works, strict=True)]  # fmt: skip
            stack = Stack([copy.deepcopy(work.model) for work in works])

            def in_turn() -> None:
                for twin in twins:
                    twin.run()

            candidates = {"in turn": in_turn, "stacked": lambda: stack.run(twins)}
            with warnings.catch_warnings():  # of operations that vmap runs one by one: the measurement shows them
                warnings.filterwarnings("ignore", message="There is a performance drop")
                _tried[key] = pick_fastest(key, self.device, candidates)
        return _tried[key] == "stacked"

    def _synchronised(self, trainings: Sequence[ActiveTraining], run: partial[None]) -> None:
        """Run after the work queued on the streams of all trainings, and before what will be queued on them."""
        trainings[0].restore_rng()
        if self.device.type != "cuda":
            run()
            return
        here = torch.cuda.current_stream(self.device)
        for training in trainings:
            here.wait_stream(training.stream)
        run()
        for training in trainings:
            assert training.work is not None
            training.stream.wait_stream(here)
            training.work.loss.record_stream(training.stream)  # memory of one stream that the other still reads
            for tensor in training.work.inputs:
                tensor.record_stream(here)


_tried: dict[str, str] = {}  # the answers that this process has had already: reading them at every step costs too much


class Stack:
    """Alike models, whose parameters and buffers become views of common tensors [models, ...] when this is built."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models
        self.parameters: dict[str, torch.Tensor] = {}
        self.buffers: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for name, _ in models[0].named_parameters():
                own = [model.get_parameter(name) for model in models]
                common = _stacked(own)
                for parameter, view in zip(own, common, strict=True):
                    parameter.data = view
                self.parameters[name] = common.requires_grad_(own[0].requires_grad)
            for name, _ in models[0].named_buffers():
                common = _stacked([model.get_buffer(name) for model in models])
                for model, view in zip(models, common, strict=True):
                    owner, _, last = name.rpartition(".")
                    model.get_submodule(owner)._buffers[last] = view
                self.buffers[name] = common
        self._own = {name: [model.get_parameter(name) for model in models] for name in self.parameters}

    def run(self, works: Sequence[ForwardBackward]) -> None:
        """Run the passes of all models, in their order, as one; see `ForwardBackward.run`. Gradients must be unset."""
        begun = time.monotonic()
        inputs = [torch.stack(tensors) for tensors in zip(*(work.inputs for work in works), strict=True)]
        loss_of = partial(self._loss, works[0].loss_fn)
        losses = vmap(loss_of, randomness="different")(self.parameters, self.buffers, *inputs)
        losses.sum().backward()
        for name, common in self.parameters.items():
            if common.grad is not None:
                for parameter, gradient in zip(self._own[name], common.grad, strict=True):
                    parameter.grad = gradient
                common.grad = None
        for work, loss in zip(works, losses.detach(), strict=True):
            work.loss, work.seconds = loss, (time.monotonic() - begun) / len(works)

    def _loss(self, loss_fn: LossFn, parameters: dict, buffers: dict, *inputs: torch.Tensor) -> torch.Tensor:
        """The loss of one model, with these as its parameters and buffers."""

        def network(*shown: torch.Tensor) -> torch.Tensor:
            return functional_call(self.models[0], (parameters, buffers), shown)

        return loss_fn(network, *inputs)


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """[n, ...] with the memory layout of the tensors: a fused optimizer relies on its states having the same."""
    first = tensors[0]
    common = first.new_empty_strided((len(tensors), *first.shape), (first.numel(), *first.stride()))
    for part, tensor in zip(common, tensors, strict=True):
        part.copy_(tensor)
    return common
