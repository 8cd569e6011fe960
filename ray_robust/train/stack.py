"""Several trainings of one model as one: their passes in a single call over stacked weights, where that is faster.

Fine-tunings of a grid differ in numbers and seeds alone; small models leave a GPU idle between kernels. The weights of
all lie in common tensors, of which those of each model are views, so that optimizers, checkpoints and evaluations of
each go on as before. One that ends leaves the stack. Owns when to stack: measured once per shape, see `fastest`.
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

from ray_robust.train.autotune import fastest
from ray_robust.train.interleave import Loss, Pass, Turn, one_by_one


class Together:
    """Runs the passes of trainings that take turns, for `take_turns`: those that are kin stacked, if that wins here."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._weights: WeakKeyDictionary[nn.Module, Hashable] = WeakKeyDictionary()  # names and shapes, asked once

    def __call__(self, turns: Sequence[Turn]) -> None:
        if len(turns) < 2:
            one_by_one(turns)
            return
        kin: dict[Hashable, list[Turn]] = {}
        for turn in turns:
            kin.setdefault(self._shape(turn), []).append(turn)
        wanted: dict[tuple[int, ...], Stack] = {}
        for shape, group in kin.items():
            works = [turn.work for turn in group if turn.work is not None]
            if shape is None or len(group) == 1 or not self._wins(works):
                one_by_one(group)
                continue
            members = tuple(id(work.model) for work in works)
            wanted[members] = self._stacks.get(members) or Stack([work.model for work in works])
            self._in_order(group, partial(wanted[members].run, works))
        self._stacks = wanted  # a stack that somebody left is let go

    def _shape(self, turn: Turn) -> Hashable | None:
        """Equal for turns whose passes can be stacked; None for one that cannot."""
        work = turn.work
        if work is None or work.kin is None or work.parts > 1 or work.network is not work.model:
            return None
        if work.model not in self._weights:
            state = work.model.state_dict()
            self._weights[work.model] = tuple((name, tuple(value.shape)) for name, value in state.items())
        inputs = tuple((tuple(tensor.shape), tensor.dtype) for tensor in work.inputs)
        return work.kin, self._weights[work.model], inputs

    def _wins(self, works: list[Pass]) -> bool:
        """Whether stacking so many of these is faster than one after the other; tried on copies."""
        first = works[0]
        batch = " x ".join("x".join(map(str, tensor.shape)) for tensor in first.inputs)
        what = f"{len(works)} passes of {first.kin}, {batch}"
        if what not in _tried:
            copies = [copy.deepcopy(work.model) for work in works]
            twins = [Pass(twin, twin, work.loss, work.inputs) for twin, work in zip(copies, works, strict=True)]
            stack = Stack([copy.deepcopy(work.model) for work in works])

            def in_turn() -> None:
                for twin in twins:
                    twin.run()

            ways = {"in turn": in_turn, "stacked": lambda: stack.run(twins)}
            with warnings.catch_warnings():  # of operations that vmap runs one by one: they cost time, and that is seen
                warnings.filterwarnings("ignore", message="There is a performance drop")
                _tried[what] = fastest(what, self.device, ways)
        return _tried[what] == "stacked"

    def _in_order(self, turns: Sequence[Turn], run: partial[None]) -> None:
        """Run after what the streams of all were given, and before what they will be."""
        turns[0].draw_on()
        if self.device.type != "cuda":
            run()
            return
        here = torch.cuda.current_stream(self.device)
        for turn in turns:
            here.wait_stream(turn.stream)
        run()
        for turn in turns:
            assert turn.work is not None
            turn.stream.wait_stream(here)
            turn.work.total.record_stream(turn.stream)  # memory of one stream that the other still reads
            for tensor in turn.work.inputs:
                tensor.record_stream(here)


_tried: dict[str, str] = {}  # what this process has asked already: once a step would be too often


class Stack:
    """Models alike, whose parameters and buffers become views of common tensors [models, ...] when this is made."""

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

    def run(self, works: Sequence[Pass]) -> None:
        """The passes of all models, in their order, as one; see `Pass.run`. Gradients must be unset before."""
        begun = time.monotonic()
        inputs = [torch.stack(tensors) for tensors in zip(*(work.inputs for work in works), strict=True)]
        one = partial(self._loss, works[0].loss)
        losses = vmap(one, randomness="different")(self.parameters, self.buffers, *inputs)
        losses.sum().backward()
        for name, common in self.parameters.items():
            if common.grad is not None:
                for parameter, gradient in zip(self._own[name], common.grad, strict=True):
                    parameter.grad = gradient
                common.grad = None
        for work, loss in zip(works, losses.detach(), strict=True):
            work.total, work.seconds = loss, (time.monotonic() - begun) / len(works)

    def _loss(self, loss: Loss, parameters: dict, buffers: dict, *inputs: torch.Tensor) -> torch.Tensor:
        """The loss of one model, with these as its parameters and buffers."""

        def network(*shown: torch.Tensor) -> torch.Tensor:
            return functional_call(self.models[0], (parameters, buffers), shown)

        return loss(network, *inputs)


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """[n, ...] whose parts lie in memory as the tensors did: a fused optimizer trusts that its states lie like them."""
    first = tensors[0]
    common = first.new_empty_strided((len(tensors), *first.shape), (first.numel(), *first.stride()))
    for part, tensor in zip(common, tensors, strict=True):
        part.copy_(tensor)
    return common
