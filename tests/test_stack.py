"""Trainings that share a process: in turn, or stacked; and how the faster way is found and remembered."""

from __future__ import annotations

import json
import os
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ray_robust.spec.sections import ModelSection, Training
from ray_robust.train import autotune, compile, stack
from ray_robust.train.context import Context
from ray_robust.train.images import ImageBank
from ray_robust.train.interleave import take_turns
from ray_robust.train.loop import Length, Losses, fit, seed_device
from ray_robust.train.models import build_model
from ray_robust.train.stack import Stack, Together

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # which is what is looked for
SETTINGS = Training(lr=3e-3, weight_decay=0.05, batch_size=32)
PLAIN = SETTINGS.model_copy(update={"optimizer": "sgd"})  # AdamW makes steps of rounding where a gradient is nearly 0


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path))
    monkeypatch.setattr(stack, "_tried", {})
    return tmp_path / "fastest.json"


def bank() -> tuple[ImageBank, torch.Tensor]:
    labels = torch.arange(160) % 4
    images = (
        np.random.default_rng(0).integers(0, 120, (160, 32, 32, 3), np.uint8) + 40 * labels.numpy()[:, None, None, None]
    )
    return ImageBank([(images.astype(np.uint8), None)], CPU), labels


def trainings(section: ModelSection, epochs: tuple[int, ...], settings: Training = SETTINGS):
    """Models alike, and what trains each: other rates, other seeds, other lengths."""
    images, labels = bank()
    models = [build_model(section, 4, seed) for seed in range(len(epochs))]
    todo = []
    for seed, (model, passes) in enumerate(zip(models, epochs, strict=True)):
        own = settings.model_copy(update={"lr": 1e-3 * (seed + 1)})
        arguments = (model, images, labels, own, section, Length.of(160, 32, passes, None), seed, Context(), "t")
        todo.append(lambda arguments=arguments: fit.steps(*arguments))
    return models, todo


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_vit"])
def test_a_stack_trains_as_each_alone_and_lets_go_who_is_done(name, cache, monkeypatch):
    section = ModelSection(name=name, image_size=32, precision="float32")
    monkeypatch.setattr(stack, "fastest", lambda *_: "stacked")
    sizes, run = [], Stack.run
    monkeypatch.setattr(Stack, "run", lambda self, works: (sizes.append(len(works)), run(self, works))[1])
    alone, todo = trainings(section, (1, 2, 2), PLAIN)
    take_turns(todo, 1, CPU)
    together, todo = trainings(section, (1, 2, 2), PLAIN)
    ended = take_turns(todo, 3, CPU, Together(CPU))
    assert sizes == [3] * 5 + [2] * 5  # the first ends after one of two passes
    assert all(seconds > 0 for seconds in ended)
    for one, other in zip(alone, together, strict=True):
        assert (weights(one) - weights(other)).abs().max() < 1e-4
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert a.stride() == b.stride()


def test_where_stacking_does_not_win_the_bits_are_those_of_turns(cache, monkeypatch):
    monkeypatch.setattr(autotune, "ROUND", 0.0)
    measured = autotune.measured
    slower = {"in turn": 1.0, "stacked": 2.0}
    monkeypatch.setattr(autotune, "measured", lambda *asked: measured(*asked) and slower)
    section = ModelSection()
    alone, todo = trainings(section, (2, 2))
    take_turns(todo, 1, CPU)
    together, todo = trainings(section, (2, 2))
    take_turns(todo, 2, CPU, Together(CPU))
    ((what, answer),) = json.loads(cache.read_text()).items()
    assert what.startswith("2 passes of ('test_resnet', 'auto', 0.1), 32x3x32x32 x 32, x86_64")
    assert answer == "in turn"
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(alone, together, strict=True))


def test_dropout_draws_the_same_in_company(cache):
    section = ModelSection(name="test_efficientnet")
    images, labels = bank()

    def trained(at_once: int) -> list[torch.Tensor]:
        models = [build_model(section, 4, seed) for seed in range(2)]
        for model in models:
            model.drop_rate = 0.5
        todo = [lambda m=m, s=s: fit.steps(m, images, labels, SETTINGS, section, Length(160, 32, 3), s, Context(), "t")
                for s, m in enumerate(models)]  # fmt: skip
        take_turns(todo, at_once, CPU)
        return [weights(model) for model in models]

    assert all(torch.equal(a, b) for a, b in zip(trained(1), trained(2), strict=True))


def test_the_fastest_way_is_found_once_and_remembered(cache, monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr(autotune, "time", SimpleNamespace(perf_counter=lambda: clock[0]))  # one that only work moves

    def way(name: str, seconds: float):
        def work() -> None:
            calls.append(name)
            clock[0] += seconds

        return work

    def fails() -> None:
        raise RuntimeError("no kernel for it")

    ways = {"slow": way("slow", 0.19), "fast": way("fast", 0.1), "broken": fails}
    assert autotune.fastest("it", CPU, ways) == "fast"
    assert calls.count("slow") == 4 + 5 * 2  # of 0.3 s, five times in turn
    assert calls.count("fast") == 4 + 5 * 3
    calls.clear()
    assert autotune.fastest("it", CPU, ways) == "fast"
    assert not calls
    assert autotune.fastest("other", CPU, {"fast": ways["fast"], "slow": way("slow", 0.21)}) == "fast"
    assert calls.count("slow") == 4  # the first look was enough
    assert autotune.fastest("nothing goes", CPU, {"plain": fails, "other": fails}) == "plain"
    assert len(json.loads(cache.read_text())) == 3
    cache.write_text("{}")
    monkeypatch.setattr(autotune, "measured", lambda *_: {"plain": 1.0, "other": 0.99})
    assert autotune.fastest("hardly faster", CPU, {"plain": fails, "other": fails}) == "plain"


def test_a_long_training_looks_for_the_faster_way_and_a_short_one_does_not(cache, monkeypatch):
    images, labels = bank()
    asked, said = [], []

    def answer(what, device, ways):
        for way in ways.values():  # as it would be measured: nothing of the training is touched
            way()
        asked.append((what, list(ways)))
        return "compiled"

    monkeypatch.setattr(compile, "fastest", answer)
    monkeypatch.setitem(compile.WAYS, "compiled", lambda model: model)
    section = ModelSection()

    def train(**more) -> torch.Tensor:
        model = build_model(section, 4, 1)
        length = Length.of(160, 32, 8, None)
        fit(model, images, labels, SETTINGS, section.model_copy(update=more), length, 1, Context(log=said.append), "t")
        return weights(model)

    short = train()
    assert not asked
    monkeypatch.setattr(compile, "LONG", 0.0)
    long = train()
    assert asked == [("a pass of test_resnet (373076 weights), 32x3x32x32 x 32, auto", ["eager", "compiled"])]
    assert said == ["passes are run compiled from step 10 on: that is faster for this shape here"]
    assert torch.equal(short, long)
    train(compile=False)
    assert len(asked) == 1


def test_compiled_code_is_kept_with_the_other_caches(cache, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "compile", lambda model: chosen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
    kept = str(cache.parent / "compiled")
    for before in ("", f"{tempfile.gettempdir()}/torchinductor_me", "/mine"):  # torch names its own when it is imported
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before)
        compile.run_as("compiled", torch.nn.Identity())
    assert chosen == [kept, kept, "/mine"]


def test_what_an_interrupted_training_was_run_in_it_goes_on_with(tmp_path, monkeypatch):
    from ray_robust.files.storage import Storage
    from ray_robust.train.checkpoints import checkpoint_facts
    from ray_robust.train.exceptions import Preempted

    images, labels = bank()
    built = []
    monkeypatch.setitem(compile.WAYS, "compiled", lambda model: built.append("compiled") or model)
    section = ModelSection(compile=True)
    leaving = iter(["", "", "soon"])
    arguments = (images, labels, SETTINGS, section, Length.of(160, 32, 4, None), 1)
    with pytest.raises(Preempted):
        fit(build_model(section, 4, 1), *arguments, Context(preemption=lambda: next(leaving)), "t", Storage(tmp_path))
    assert checkpoint_facts(Storage(tmp_path), "t.1")["run_as"] == "compiled"
    fit(build_model(section, 4, 1), *arguments[:3], ModelSection(), *arguments[4:], Context(), "t", Storage(tmp_path))
    assert built == ["compiled", "compiled"]


def test_a_step_is_seeded_as_torch_would():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    seed_device(7, CPU)
    assert torch.equal(torch.rand(3), wanted)


def test_losses_that_break_are_told():
    losses = Losses(CPU)
    for value in (1.0, 2.0):
        losses.add(torch.tensor(value))
    assert losses.unseen == 2
    assert losses.broken(at_once=False) is None
    assert losses.unseen == 0
    losses.add(torch.tensor(float("inf")))
    losses.add(torch.tensor(0.5))
    assert losses.broken(at_once=True) == float("inf")
