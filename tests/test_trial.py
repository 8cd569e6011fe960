"""A trial without Ray: run, resumed, failed, and by two ranks instead of one."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.multiprocessing as processes
from make_disk import mounted

from ray_robust.errors import Outage
from ray_robust.plan.plan import Plan, Trial
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run import results_schema
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.train import callbacks, loop
from ray_robust.train.context import Context
from ray_robust.train.interleave import ForwardBackward
from ray_robust.train.stack import StackedRunner
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import _after_earlier_attempts, run_trial
from ray_robust.trial.trial_log import TrialLog

SPEC = """
# Question: Does a trial run?
task: {name: camera-traps, train_images: 400, id_val_images: 100, id_test_images: 200, ood_val_images: 100,
       ood_test_images: 200}
pretrain:
  sources: {species: 1.0}
  num_images: 800
  num_classes: 40
  images_seen: 6400
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
"""


def plan_of(folder: Path, *overrides: str) -> Plan:
    file = folder / "small.yaml"
    file.write_text(SPEC)
    return open_sweep(load_spec(file, overrides)).plan


def paths_in(folder: Path, name: str) -> RunPaths:
    return RunPaths(str(folder / name / "run"), str(folder / name / "checkpoints"), str(folder / "store"))


def pretrained_of(plan: Plan) -> Trial:
    return next(trial for trial in plan if trial.pretrain is not None)


def results(plan: Plan, paths: RunPaths) -> pd.DataFrame:
    run = RunFolder(paths.run)
    run.write_plan(plan.rows())
    return run.write_results()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A plan of two trials, both run once."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trial")
    plan, paths = plan_of(folder), paths_in(folder, "first")
    for trial in plan:
        run_trial(trial, paths, Context())
    return folder, plan, paths


def test_a_trial_leaves_what_the_contract_says(shared):
    _, plan, paths = shared
    table = results(plan, paths)
    assert tuple(table.columns) == results_schema.names()
    assert list(table["group"].unique()) == ["scratch", "pretrained"]
    assert len(table) == 2 * 2 * 2  # trials, learning rates, evaluated epochs
    assert table["status"].eq("done").all()
    assert table[["id", "ood", "id_val", "ood_val"]].notna().all(axis=None)
    trial = pretrained_of(plan)
    mine = table[table["trial"] == trial.id]
    assert set(mine["num_images"]) == {800}
    assert set(mine["num_classes"]) == {40}
    assert set(mine["pretrain_epochs"]) == {8.0}
    assert mine["upstream_accuracy"].between(0, 1).all()
    assert json.loads(mine["sources"].iloc[0]) == {"species": 1.0}
    folder = Path(paths.run, "trials", trial.id)
    assert {"trial.json", "subset.parquet", "rows.jsonl", "predictions", "log.txt", "done"} <= set(os.listdir(folder))
    subset = pd.read_parquet(folder / "subset.parquet")
    assert list(subset.columns) == ["source", "image", "label"]
    assert len(subset) == subset["image"].nunique() == 800
    assert not (folder / "checkpoints").exists()
    predicted = pd.read_parquet(folder / "predictions" / f"{trial.finetunings[0].id}.parquet")
    test = predicted[predicted["split"] == "id_test"]
    right = (test["epoch_2"].astype(str) == test["label"].astype(str)).mean()
    row = mine[(mine["finetune"] == trial.finetunings[0].id) & (mine["epoch"] == 2)].iloc[0]
    assert right == pytest.approx(row["id_accuracy"])
    assert row[["id_worst_group", "ood_class_accuracy", "ood_ece"]].between(0, 1).all()
    assert predicted["confidence_2"].dtype == np.float16
    counted = pd.read_parquet(folder / "groups" / f"{trial.finetunings[0].id}.parquet")
    assert list(counted.columns) == ["epoch", "split", "group", "class", "tp", "fp", "fn"]
    of = counted[(counted["split"] == "id_test") & (counted["epoch"] == 2)][["tp", "fp", "fn", "class"]]
    totals = of.groupby("class", observed=True).sum()
    f1 = 2 * totals["tp"] / (2 * totals["tp"] + totals["fp"] + totals["fn"])
    assert f1[totals["tp"] + totals["fn"] > 0].mean() == pytest.approx(row["id"])


def test_a_damaged_trial_is_run_again_with_what_is_whole_of_it(shared, tmp_path):
    folder, plan, paths = shared
    shutil.copytree(folder / "first", tmp_path / "again")
    again, trial = replace(paths_in(tmp_path, "again"), store=paths.store), pretrained_of(plan)
    own = Path(again.run, "trials", trial.id)
    first, second = (f.id for f in trial.finetunings)
    before = (own / "log.txt").read_text()
    (own / "rows.jsonl").write_bytes(b"")
    predictions = own / "predictions" / f"{second}.parquet"
    predictions.write_bytes(predictions.read_bytes()[:-100])
    run_trial(trial, again, Context())
    log = (own / "log.txt").read_text().removeprefix(before)
    assert f"is run again, with what is whole of it: rows.jsonl is empty, predictions/{second}.parquet has " in log
    assert "finds its pre-trained weights" in log
    assert f"fine-tunes {second}" in log
    assert f"fine-tunes {first}" not in log
    assert RunFolder(again.run).trial(trial.id).damage() == ""
    one, other = (results(plan, each).drop(columns=["seconds_finetune"]) for each in (paths, again))
    pd.testing.assert_frame_equal(one, other)


def test_running_again_does_nothing(shared):
    _, plan, paths = shared
    before = {path: path.stat().st_mtime_ns for path in Path(paths.run, "trials").rglob("*") if path.is_file()}
    for trial in plan:
        run_trial(trial, paths, Context())
    assert before == {path: path.stat().st_mtime_ns for path in Path(paths.run, "trials").rglob("*") if path.is_file()}


@pytest.mark.slow
def test_another_run_finds_the_pre_trained_weights(shared):
    folder, plan, paths = shared
    other = RunPaths(str(folder / "other" / "run"), paths.checkpoints, paths.store)
    trial = pretrained_of(plan)
    run_trial(trial, other, Context())
    log = Path(other.run, "trials", trial.id, "log.txt").read_text()
    assert "finds its pre-trained weights" in log
    assert scores_of(other, trial) == scores_of(paths, trial)


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A trial that takes a second, run once: a folder, the trial and where it lies."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("brief")
    trial = pretrained_of(plan_of(folder, "pretrain.images_seen=1280", "finetune.epochs=1", "baseline=none"))
    paths = paths_in(folder, "first")
    run_trial(trial, paths, Context())
    return folder, trial, paths


def scores_of(paths: RunPaths, trial: Trial) -> list[tuple]:
    rows = RunFolder(paths.run).trial(trial.id).rows()
    return [(row["finetune"], row["epoch"], row["upstream_accuracy"], row["id"], row["ood"]) for row in rows]


class CutOffError(BaseException):
    """Ends a trial as a kill would: nothing catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("steps", [7, 55])
def test_a_trial_cut_off_at_any_step_ends_with_the_same_scores(shared, monkeypatch, steps):
    folder, plan, paths = shared
    trial, other = pretrained_of(plan), paths_in(folder, f"cut{steps}")
    monkeypatch.setattr(callbacks, "MIN_SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(callbacks, "MAX_SAVE_SHARE", 1e9)
    taken, step = 0, loop.learning_rate

    def counted(*args):
        nonlocal taken
        taken += 1
        if taken == steps:
            raise CutOffError
        return step(*args)

    monkeypatch.setattr(loop, "learning_rate", counted)
    with pytest.raises(CutOffError):
        run_trial(trial, other, Context())
    assert not Path(other.run, "trials", trial.id, "done").exists()
    monkeypatch.setattr(loop, "learning_rate", step)
    run_trial(trial, other, Context())
    assert scores_of(other, trial) == scores_of(paths, trial)


@pytest.mark.slow
def test_a_training_that_breaks_fails_its_trial_with_the_reason(shared):
    folder, _, _ = shared
    plan = plan_of(folder, "finetune.lr=1e9", "finetune.optimizer=sgd", "baseline=none")
    paths, trial = paths_in(folder, "broken"), pretrained_of(plan)
    run_trial(trial, paths, Context())
    failure = RunFolder(paths.run).trial(trial.id).failure()
    assert failure["reason"].startswith("finetune: the loss became nan by step")
    assert "Traceback" in Path(failure["log"]).read_text()
    table = results(plan, paths)
    assert list(table["status"]) == ["failed"]
    assert table["id"].isna().all()
    assert set(table["num_images"]) == {800}


@pytest.mark.slow
def test_too_little_memory_is_answered_by_smaller_parts_of_a_batch(brief, monkeypatch):
    folder, trial, _ = brief
    paths, sizes = paths_in(folder, "short"), []
    run = ForwardBackward.run

    def short(work):
        whole = work.loss_fn

        def loss(network, *inputs):
            sizes.append(len(inputs[0]))
            if len(inputs[0]) > 40:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return whole(network, *inputs)

        work.loss_fn = loss
        run(work)

    monkeypatch.setattr(ForwardBackward, "run", short)
    run_trial(trial, paths, Context())
    assert sizes[:3] == [128, 64, 32]
    done = RunFolder(paths.run).trial(trial.id)
    assert done.grad_accum_steps() == 4
    facts = done.storage.read_json("trial.json")
    assert (facts["batch_parts"], facts["micro_batch"]) == (4, 32)
    assert "out of memory: batches go through the model in 4 parts from now on" in (
        done.storage.read("log.txt").decode()
    )
    assert len(done.rows()) == 2
    monkeypatch.setattr(
        ForwardBackward, "run", lambda work: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    )
    single = paths_in(folder, "single")
    run_trial(trial, single, Context())
    reason = RunFolder(single.run).trial(trial.id).failure()["reason"]
    assert reason == "out of memory with a single image at a time: CUDA out of memory"


@pytest.mark.slow
def test_what_may_go_better_the_next_time_is_raised_and_goes_on(brief, monkeypatch):
    folder, trial, paths = brief
    other = paths_in(folder, "away")
    step, taken = loop.learning_rate, []

    def away(*args):
        taken.append(1)
        if len(taken) == 8:
            raise OSError(5, "Input/output error")
        return step(*args)

    monkeypatch.setattr(loop, "learning_rate", away)
    with pytest.raises(OSError, match="Input/output"):
        run_trial(trial, other, Context())
    assert RunFolder(other.run).trial(trial.id).failure() is None  # whether it is one is for the launcher to say
    run_trial(trial, other, Context())
    assert scores_of(other, trial) == scores_of(paths, trial)


@pytest.mark.slow
def test_damaged_weights_are_made_again(brief):
    folder, trial, paths = brief
    other = paths_in(folder, "damaged")
    weights = Path(other.checkpoints, trial.key, "final.safetensors")
    weights.parent.mkdir(parents=True)
    whole = bytearray(Path(paths.checkpoints, trial.key, "final.safetensors").read_bytes())
    whole[-10] ^= 1
    weights.write_bytes(whole)
    run_trial(trial, other, Context())
    assert (
        "its pre-trained weights are damaged: they are made again"
        in Path(other.run, "trials", trial.id, "log.txt").read_text()
    )
    assert scores_of(other, trial) == scores_of(paths, trial)
    assert json.loads((weights.parent / "used.json").read_text())["trial"] == trial.id


@pytest.mark.parametrize("stacked", [False, True])
def test_fine_tunings_are_stacked_on_request_alone(brief, monkeypatch, stacked):
    folder, trial, paths = brief
    runners = []

    def see(trainings, at_once, device, runner):
        runners.append(runner)
        raise CutOffError

    monkeypatch.setattr("ray_robust.trial.stages.run_interleaved", see)
    other = RunPaths(str(folder / f"stacked {stacked}"), paths.checkpoints, paths.store)
    with pytest.raises(CutOffError):
        run_trial(trial, other, Context(finetunings_at_once=2, **({"stacked": True} if stacked else {})))
    assert [isinstance(runner, StackedRunner) for runner in runners] == [stacked]


@pytest.mark.slow
def test_interleaved_fine_tunings_come_out_the_same(shared):
    folder, plan, paths = shared
    trial = pretrained_of(plan)
    other = RunPaths(str(folder / "turns" / "run"), paths.checkpoints, paths.store)
    run_trial(trial, other, Context(finetunings_at_once=2))
    assert scores_of(other, trial) == scores_of(paths, trial)


@pytest.mark.slow
def test_work_done_twice_is_counted(brief, monkeypatch):
    folder, trial, _ = brief
    other = paths_in(folder, "twice")
    step, taken = loop.learning_rate, []

    def cut(*args):
        taken.append(1)
        if len(taken) == 9:
            raise CutOffError
        return step(*args)

    monkeypatch.setattr(loop, "learning_rate", cut)
    monkeypatch.setattr(callbacks, "MIN_SAVE_INTERVAL", 1e9)  # no state is kept: all of it is done again
    with pytest.raises(CutOffError):
        run_trial(trial, other, Context())
    done_before = RunFolder(other.run).trial(trial.id).storage.read_json("progress.json")["images"]
    monkeypatch.setattr(loop, "learning_rate", step)
    run_trial(trial, other, Context())
    needed = 10 * 128 + 2 * 3 * 128  # pre-training, then two fine-tunings of an epoch of three batches
    assert RunFolder(other.run).trial(trial.id).storage.read_json("progress.json")["worked"] == needed + done_before


def test_a_worker_that_the_kernel_ended_for_memory_comes_back_with_smaller_parts(tmp_path, monkeypatch):
    plan = plan_of(tmp_path)
    trial = pretrained_of(plan)
    folder = RunFolder(tmp_path).trial(trial.id)
    log = TrialLog(trial, folder, Context())
    for kills, reason, wanted in ((3, None, 1), (3, "died", 1), (4, "node", 1), (5, "died", 2)):
        if reason:
            folder.note_attempt({"time": 0.0, "host": "", "kind": reason, "reason": "x", "counts": True})
        monkeypatch.setattr("ray_robust.trial.run_trial.oom_kills", lambda kills=kills: kills)
        _after_earlier_attempts(trial, folder, log)
        assert folder.grad_accum_steps() == wanted


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB and a function that makes it larger; skipped where one may not mount."""
    with mounted(tmp_path, "size=300k", "size=50m") as more:
        yield tmp_path, more


@pytest.mark.slow
def test_a_trial_on_a_disk_that_is_full_goes_on_once_there_is_room(brief, small_disk, monkeypatch):
    _, trial, paths = brief
    disk, enlarge = small_disk
    other = RunPaths(str(disk / "run"), str(disk / "checkpoints"), paths.store)
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    with pytest.raises(Outage, match=r"final.safetensors: the disk is full; free some room, then run the same command"):
        run_trial(trial, other, Context())
    assert not [file for file in disk.rglob("*") if file.name.endswith((".part", ".safetensors"))]
    enlarge()
    run_trial(trial, other, Context())
    assert scores_of(other, trial) == scores_of(paths, trial)


def _rank(rank: int, trial: Trial, paths: RunPaths, address: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    run_trial(trial, paths, Context(rank=rank, world_size=2))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_agree_with_one_within_seed_noise(shared):
    folder, plan, paths = shared
    trial = pretrained_of(plan)
    two = paths_in(folder, "two")
    processes.spawn(_rank, args=(trial, two, (folder / "ranks").as_uri()), nprocs=2)
    noise = []
    for seed in (2, 3, 4):  # what another seed would have made of it
        other = replace(pretrained_of(plan_of(folder, f"seeds=[{seed}]")))
        run_trial(other, paths_in(folder, f"seed{seed}"), Context())
        noise.append(list(pd.DataFrame(RunFolder(paths_in(folder, f"seed{seed}").run).trial(other.id).rows())["id"]))
    alone = np.array([row[3] for row in scores_of(paths, trial)])
    together = np.array([row[3] for row in scores_of(two, trial)])
    spread = np.std([*noise, alone], axis=0, ddof=1).max()
    assert [row[:2] for row in scores_of(two, trial)] == [row[:2] for row in scores_of(paths, trial)]
    assert np.abs(alone - together).mean() < 3 * spread
    assert not np.array_equal(alone, together)  # another order of sums: the same bits would mean one rank did it all
