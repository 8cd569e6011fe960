"""Trainings that share a process, one after the other or stacked; how the fastest variant is measured and cached."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ray_robust.spec.sections import ModelSection
from ray_robust.spec.training import Training
from ray_robust.train import autotune, compile, stack
from ray_robust.train.callbacks import LossGuard
from ray_robust.train.context import Context, computes_in_bf16
from ray_robust.train.duration import Duration
from ray_robust.train.images import ImageBank
from ray_robust.train.interleave import run_interleaved
from ray_robust.train.loop import fit, seed_device
from ray_robust.train.models import build_model
from ray_robust.train.stack import Stack, StackedRunner
from ray_robust.train.state import Stage

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
        stage = Stage("t", own, section, Duration.of(160, 32, passes, None), seed, Context())
        arguments = (model, images, labels, stage)
        todo.append(lambda arguments=arguments: fit.steps(*arguments))
    return models, todo


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_vit"])
def test_a_stack_trains_as_each_alone_and_lets_go_who_is_done(name, cache, monkeypatch):
    section = ModelSection(name=name, image_size=32, precision="float32")
    monkeypatch.setattr(stack, "pick_fastest", lambda *_: "stacked")
    sizes, run = [], Stack.run
    monkeypatch.setattr(Stack, "run", lambda self, works: (sizes.append(len(works)), run(self, works))[1])
    alone, todo = trainings(section, (1, 2, 2), PLAIN)
    run_interleaved(todo, 1, CPU)
    together, todo = trainings(section, (1, 2, 2), PLAIN)
    ended = run_interleaved(todo, 3, CPU, StackedRunner(CPU))
    assert sizes == [3] * 5 + [2] * 5  # the first ends after one of two passes
    assert all(seconds > 0 for seconds in ended)
    for one, other in zip(alone, together, strict=True):
        # Where rounding decides a ReLU, few weights differ by more; a rate 10 % larger moves all by 7e-6 and more.
        assert (weights(one) - weights(other)).abs().mean() < 3e-6
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert a.stride() == b.stride()


@pytest.mark.slow
def test_where_stacking_is_not_faster_the_bits_are_those_of_each_alone(cache, monkeypatch):
    monkeypatch.setattr(autotune, "ROUND_SECONDS", 0.0)
    measure = autotune.measure
    slower = {"in turn": 1.0, "stacked": 2.0}
    monkeypatch.setattr(autotune, "measure", lambda *asked: measure(*asked) and slower)
    section = ModelSection()
    alone, todo = trainings(section, (2, 2))
    run_interleaved(todo, 1, CPU)
    together, todo = trainings(section, (2, 2))
    run_interleaved(todo, 2, CPU, StackedRunner(CPU))
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
        stages = [Stage("t", SETTINGS, section, Duration(160, 32, 3), seed, Context()) for seed in range(2)]
        todo = [lambda m=m, s=s: fit.steps(m, images, labels, s) for m, s in zip(models, stages, strict=True)]
        run_interleaved(todo, at_once, CPU)
        return [weights(model) for model in models]

    assert all(torch.equal(a, b) for a, b in zip(trained(1), trained(2), strict=True))


def test_the_fastest_candidate_is_measured_once_and_cached(cache, monkeypatch):
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
    assert autotune.pick_fastest("it", CPU, ways) == "fast"
    assert calls.count("slow") == 4 + 5 * 2  # of 0.3 s, five times in turn
    assert calls.count("fast") == 4 + 5 * 3
    calls.clear()
    assert autotune.pick_fastest("it", CPU, ways) == "fast"
    assert not calls
    assert autotune.pick_fastest("other", CPU, {"fast": ways["fast"], "slow": way("slow", 0.21)}) == "fast"
    assert calls.count("slow") == 4  # the first look was enough
    assert autotune.pick_fastest("nothing goes", CPU, {"plain": fails, "other": fails}) == "plain"
    assert len(json.loads(cache.read_text())) == 3
    cache.write_text("{}")
    monkeypatch.setattr(autotune, "measure", lambda *_: {"plain": 1.0, "other": 0.99})
    assert autotune.pick_fastest("hardly faster", CPU, {"plain": fails, "other": fails}) == "plain"


@pytest.mark.slow
def test_a_long_training_measures_variants_and_a_short_one_does_not(cache, monkeypatch):
    images, labels = bank()
    asked, lines = [], []

    def answer(what, device, ways):
        for way in ways.values():  # as it would be measured: nothing of the training is touched
            way()
        asked.append((what, list(ways)))
        return "compiled"

    monkeypatch.setattr(compile, "pick_fastest", answer)
    monkeypatch.setitem(compile.VARIANTS, "compiled", lambda model: model)
    section = ModelSection()

    def train(**more) -> torch.Tensor:
        model = build_model(section, 4, 1)
        own = section.model_copy(update=more)
        fit(
            model,
            images,
            labels,
            Stage("t", SETTINGS, own, Duration.of(160, 32, 8, None), 1, Context(log=lines.append)),
        )
        return weights(model)

    short = train()
    assert not asked
    monkeypatch.setattr(compile, "MIN_SECONDS_LEFT", 0.0)
    long = train()
    precision = "bf16" if computes_in_bf16(CPU) else "float32"
    assert asked == [(f"a pass of test_resnet (373076 weights), 32x3x32x32 x 32, {precision}", ["eager", "compiled"])]
    assert lines == ["runs compiled from step 10 on: faster for this shape on this device"]
    assert torch.equal(short, long)
    train(compile=False)
    assert len(asked) == 1


def test_compiled_code_is_kept_with_the_other_caches(cache, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "compile", lambda *_, **__: chosen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
    kept = str(cache.parent / "compiled")
    for before in ("", f"{tempfile.gettempdir()}/torchinductor_me", "/mine"):  # torch names its own when it is imported
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before)
        compile.build_variant("compiled", torch.nn.Identity())
    assert chosen == [kept, kept, "/mine"]


def test_what_an_interrupted_training_was_run_in_it_goes_on_with(tmp_path, monkeypatch):
    from ray_robust.files.storage import Storage
    from ray_robust.train.checkpoints import checkpoint_facts
    from ray_robust.train.exceptions import Preempted

    images, labels = bank()
    built = []
    monkeypatch.setitem(compile.VARIANTS, "compiled", lambda model: built.append("compiled") or model)
    section = ModelSection(compile=True)
    leaving = iter(["", "", "soon"])
    preempted = Context(preemption=lambda: next(leaving))
    stage = Stage("t", SETTINGS, section, Duration.of(160, 32, 4, None), 1, preempted, Storage(tmp_path))
    with pytest.raises(Preempted):
        fit(build_model(section, 4, 1), images, labels, stage)
    assert checkpoint_facts(Storage(tmp_path), "t.1")["run_as"] == "compiled"
    again = replace(stage, section=ModelSection(), context=Context())
    fit(build_model(section, 4, 1), images, labels, again)
    assert built == ["compiled", "compiled"]


def test_a_training_cut_off_before_the_choice_still_chooses(tmp_path, monkeypatch):
    from ray_robust.files.storage import Storage
    from ray_robust.train.checkpoints import state_facts
    from ray_robust.train.exceptions import Preempted

    images, labels = bank()
    lines, leaving = [], iter(["", "", "soon"])
    monkeypatch.setattr(compile, "pick_fastest", lambda *_: "compiled")
    monkeypatch.setattr(compile, "MIN_SECONDS_LEFT", 0.0)
    monkeypatch.setitem(compile.VARIANTS, "compiled", lambda model: model)
    preempted = Context(preemption=lambda: next(leaving))
    section = ModelSection()
    stage = Stage("t", SETTINGS, section, Duration.of(160, 32, 4, None), 1, preempted, Storage(tmp_path))
    with pytest.raises(Preempted):
        fit(build_model(section, 4, 1), images, labels, stage)
    assert state_facts(Storage(tmp_path), "t")["run_as"] is None
    fit(build_model(section, 4, 1), images, labels, replace(stage, context=Context(log=lines.append)))
    assert lines == ["runs compiled from step 10 on: faster for this shape on this device"]


@pytest.mark.parametrize(
    ("device", "more", "runs"),
    [
        ("cuda", {}, "graphs"),
        ("cuda", {"finetunings_at_once": 2}, "compiled"),
        ("cuda", {"grad_accum_steps": 2}, "compiled"),
        ("cpu", {}, "compiled"),
    ],
)
@pytest.mark.parametrize("resumed", [None, "graphs"])
def test_cuda_graphs_run_where_they_are_asked_for_and_can_be(device, more, runs, resumed, monkeypatch):
    built, lines = [], []
    for name in ("compiled", "graphs"):
        monkeypatch.setitem(compile.VARIANTS, name, lambda model, name=name: built.append(name) or model)
    context = Context(torch.device(device), log=lines.append, **more)
    section = ModelSection(compile="graphs" if resumed is None else "auto")
    stage = Stage("t", SETTINGS, section, Duration.of(160, 32, 1, None), 1, context)
    state = SimpleNamespace(stage=stage, model=torch.nn.Identity(), run_as=resumed)
    compile.NetworkChoice(SimpleNamespace(), state)
    assert (state.run_as, built) == (runs, [runs])
    assert [line.startswith("CUDA graphs need a GPU") for line in lines] == [True] * (runs == "compiled")


def test_a_step_is_seeded_as_torch_would():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    seed_device(7, CPU)
    assert torch.equal(torch.rand(3), wanted)


def test_a_loss_that_is_not_finite_is_noticed():
    guard = LossGuard(CPU)
    guard.pending += [torch.tensor(1.0), torch.tensor(2.0)]
    assert guard.non_finite(wait=False) is None
    assert not guard.pending
    guard.pending += [torch.tensor(float("inf")), torch.tensor(0.5)]
    assert guard.non_finite(wait=True) == float("inf")


@pytest.mark.slow
def test_every_batch_size_is_compiled_for_itself(cache):
    """So that a process that resumes at one size runs what one ran that had compiled another before."""
    compiled = []

    def backend(graph, inputs):
        compiled.append([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)][-1])
        assert not any(isinstance(value, torch.SymInt) for value in inputs)
        return graph.forward

    torch._dynamo.reset()
    run = compile._compiled(torch.nn.Linear(4, 2), backend=backend)
    for size in (4, 8, 12, 4):
        run(torch.zeros(size, 4))
    assert compiled == [(4, 4), (8, 4), (12, 4)]
