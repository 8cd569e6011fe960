"""Several ranks of one training: every image of a batch counts the same, and batches that cannot be shared out; of one
trial: all divide batches alike."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torch.multiprocessing as processes
from torch import nn

from ray_robust.files.storage import Storage
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import ModelSection, Training
from ray_robust.train import precision
from ray_robust.train.callbacks import Callback
from ray_robust.train.context import Context
from ray_robust.train.duration import Duration
from ray_robust.train.exceptions import Preempted, TrainingFailed
from ray_robust.train.loop import optimise
from ray_robust.train.objective import Objective
from ray_robust.train.precision import keep_precision
from ray_robust.train.pretrain import pretrained
from ray_robust.train.state import Stage, TrainState
from ray_robust.trial import stages
from ray_robust.trial.run_trial import run_trial
from ray_robust.trial.trial_log import TrialLog
from tests.test_methods import job
from tests.test_trial import paths_in, plan_of, pretrained_of

SETTINGS = Training(lr=0.1, weight_decay=0.0, optimizer="sgd", batch_size=5, warmup=0.0)
IMAGES = 25


def regress(stage: Stage, callbacks: Sequence[Callback] = ()) -> torch.Tensor:
    """The weights of a regression that is trained in a stage."""
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(IMAGES, 3, generator=generator), torch.randn(IMAGES, 1, generator=generator)
    network = nn.Linear(3, 1)
    nn.init.zeros_(network.weight), nn.init.zeros_(network.bias)

    def batch(positions: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs[positions], targets[positions]

    objective = Objective(batch, lambda model, shown, wanted: (model(shown) - wanted).square().mean())
    optimise(network, objective, stage, callbacks)
    return torch.cat([network.weight.detach().flatten(), network.bias.detach()])


def trained(context: Context, batch_size: int = 5) -> torch.Tensor:
    """The weights of a regression after 3 epochs."""
    duration = Duration.of(IMAGES, batch_size, 3, None)
    return regress(Stage("t", SETTINGS, ModelSection(), duration, 1, context))


def _rank(rank: int, folder: Path) -> None:
    """Train as one of two ranks, only the first of which has a device that computes in bf16."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=(folder / "ranks").as_uri(), rank=rank, world_size=2)
    context = Context(rank=rank, world_size=2)
    weights = {parts: trained(replace(context, grad_accum_steps=parts)).tolist() for parts in (1, 2)}
    precision.computes_in_bf16 = lambda device: rank == 0
    chosen = [keep_precision(context, "auto", recorded)[0].auto_precision
              for recorded in (None, "bf16" if rank == 0 else "float32")]  # fmt: skip
    (folder / f"{rank}.json").write_text(json.dumps([weights, chosen]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_weigh_images_as_one_does_and_compute_in_one_precision(tmp_path):
    processes.spawn(_rank, args=(tmp_path,), nprocs=2)
    alone = trained(Context())
    for rank in (0, 1):
        weights, chosen = json.loads((tmp_path / f"{rank}.json").read_text())
        for own in weights.values():
            assert torch.allclose(torch.tensor(own), alone, atol=1e-6)
        assert chosen == ["float32", "bf16"]  # what both compute in; what the first one recorded


def test_a_batch_smaller_than_the_workers_is_refused():
    with pytest.raises(TrainingFailed) as refused:
        trained(Context(world_size=3), 2)
    assert str(refused.value) == (
        "t: a batch of 2 images is too small for 3 workers; raise batch_size and the number of images to 3 at least, "
        "or lower resources.workers"
    )
    with pytest.raises(TrainingFailed, match=r"^t: a batch of 1 image is too small for 2 workers; "):
        trained(Context(world_size=2), 1)


@pytest.mark.parametrize(
    ("workers", "asked", "batch", "length", "steps"),
    [
        (4, 7, 4, {"epochs": 10}, 320),
        (4, 7, 4, {"epochs": None, "images_seen": 9_940}, 2_485),
        (4, 7, 4, {"epochs": 1, "min_images_seen": 9_940}, 2_485),
        (2, 127, 126, {"epochs": 10}, 10),
        (1, 7, 7, {"epochs": 10}, 180),
        (4, 8, 8, {"epochs": 10}, 160),
        (2, 500, 128, {"epochs": 10}, 10),  # as many as there are images
        (3, 2, 2, {"epochs": 10}, 640),  # which the loop refuses
    ],
)
def test_a_batch_rounded_to_the_workers_keeps_images_seen(workers, asked, batch, length, steps):
    own = replace(job("simclr", batch_size=asked, **length), context=Context(world_size=workers))
    stage = own.stage(contrastive=True)
    assert (stage.duration.batch_size, stage.duration.steps) == (batch, steps)
    done = pretrained(stage, 0, None, 1.0)
    assert done.images_seen == batch * steps
    said = f"pre-trained on batches of {batch} images, not {asked}: {workers} workers have parts of equal size"
    assert done.warnings == ((said,) if batch not in (asked, 128) else ())


class Rates(Callback):
    """Keeps the learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_step_end(self, state: TrainState) -> None:
        self.rates.append(state.optimizer.param_groups[0]["lr"])


def test_batches_of_another_size_go_on_at_the_same_share_of_the_schedule(tmp_path):
    lines, curves, before, after, heard = [], [], Rates(), Rates(), iter([""] * 94)
    leaving = Context(preemption=lambda: next(heard, "the node is drained"))
    asked, folder = Duration.of(IMAGES, 5, None, 500), Storage(tmp_path)
    first = Stage("pretrain", SETTINGS, ModelSection(), asked, 1, leaving, folder)
    with pytest.raises(Preempted, match="stops at step 95 of 100"):
        regress(first, [before])
    later = replace(first, duration=Duration.of(IMAGES, 6, None, 500), processed={},
                    context=Context(log=lines.append, record=curves.append))  # fmt: skip
    regress(later, [after])
    assert lines == [
        "pretrain: goes on from step 78 of 83, in batches of 6 images: with other workers or images it was at "
        "step 95 of 100"
    ]
    assert len(after.rates) == 5
    assert before.rates[-1] == pytest.approx(after.rates[0], rel=0.02)
    assert later.processed == {5: 475, 6: 30}
    done = pretrained(later, 0, None, 1.0)
    assert (done.images_seen, done.epochs) == (505, 505 / IMAGES)
    assert done.warnings == (
        "pre-trained on batches of 5 and 6 images, in parts of one schedule: the number of workers changed",
    )
    assert [loss is None for loss in curves[0].loss] == [step <= 78 for step in curves[0].step]


class OneOfTwo(Context):
    """One of two ranks, by itself; `sent` is what the first one broadcasts."""

    sent: ClassVar[list[int]] = []
    waited: ClassVar[list[int]] = []

    def broadcast(self, number: int) -> int:
        if self.first:
            self.sent.append(number)
        return self.sent[-1]

    def wait_for_all(self) -> None:
        self.waited.append(self.rank)


@pytest.mark.parametrize(("before", "parts"), [(1, 2), (128, None)])
def test_after_a_kill_for_memory_all_ranks_divide_batches_as_the_first_one_says(tmp_path, monkeypatch, before, parts):
    trial, used, kills = pretrained_of(plan_of(tmp_path)), [], iter((3, 4))
    monkeypatch.setattr("ray_robust.trial.run_trial.oom_kills", lambda: next(kills))
    monkeypatch.setattr("ray_robust.trial.run_trial._attempt", lambda run: used.append(run.context.grad_accum_steps))
    paths = paths_in(tmp_path, "first")
    folder = RunFolder(paths.run).trial(trial.id)
    folder.set_grad_accum_steps(before, "memory was short")
    run_trial(trial, paths, OneOfTwo(world_size=2))
    folder.note_attempt({"time": 0.0, "host": "", "kind": "died", "reason": "x", "counts": True})
    run_trial(trial, paths, OneOfTwo(world_size=2))
    run_trial(trial, paths_in(tmp_path, "second"), OneOfTwo(rank=1, world_size=2))  # who has not seen what was written
    assert used == ([before, parts, parts] if parts else [before])
    assert OneOfTwo.waited[-3:] == [0, 0, 1]  # once each before anything else: a later first wait has no signs of life
    reason = (folder.failure() or {}).get("reason")
    single = "out of memory with a single image at a time: the kernel ended its worker for memory"
    assert reason == (None if parts else single)


def test_ranks_wait_for_one_whose_store_is_still_empty(tmp_path, monkeypatch):
    order: list[str] = []
    monkeypatch.setattr(stages, "draw_mixture", lambda *_: order.append("drawn") or SimpleNamespace(facts=dict))
    monkeypatch.setattr(Context, "wait_for_all", lambda context: order.append("waited"))
    monkeypatch.setattr(stages, "_pretrain", lambda *_: order.append("pre-trains") or 1 / 0)
    trial, second = pretrained_of(plan_of(tmp_path)), Context(rank=1)  # with no group, for what they decide together
    paths, folder = paths_in(tmp_path, "run"), RunFolder(tmp_path).trial("t")
    with pytest.raises(ZeroDivisionError):
        stages.run_stages(stages.TrialRun(trial, paths, second, folder, TrialLog(trial, folder, second)))
    assert order == ["drawn", "waited", "pre-trains"]
