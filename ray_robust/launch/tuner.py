"""Ray Tune schedules the trials of a plan; Ray Train runs those that have more than one worker.

One Tune trial is one trial of the plan with all its fine-tunings. With one worker it trains inside the Tune actor,
which is reused from trial to trial, so that torch and timm are imported once per core. Results travel through the run
folder, never through Ray's objects. What is already done is not in the plan that comes here. The driver itself imports
no torch: that is for the workers, and costs seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train import FailureConfig as GroupFailures
from ray.train import RunConfig as GroupRun
from ray.train import ScalingConfig

from ray_robust.errors import UserError
from ray_robust.launch.cluster import Cluster
from ray_robust.launch.monitor import Monitor
from ray_robust.launch.places import Places
from ray_robust.plan import Plan, Trial
from ray_robust.results import RunFolder
from ray_robust.spec import Resources

RETRIES = 3  # of a trial whose worker died; a trial that failed by itself is not tried again
SILENT = "the worker ended without a word"
DRIVER = {"CPU": 0, "node:__internal_head__": 0.001}  # a trial that only drives a group; Ray refuses an empty request


def run_plan(plan: Plan, places: Places, resources: Resources, cluster: Cluster, monitor: Monitor) -> None:
    """Run every trial of the plan. A trial that fails leaves its reason in its folder and the others alone.

    Raises UserError when the cluster cannot ever hold one trial.
    """
    slots = slots_of(resources, ray.cluster_resources())
    trials = {trial.id: trial for trial in plan}
    together = resources.workers > 1
    function = _drive_group if together else _train_here
    trainable = tune.with_parameters(function, trials=trials, places=places, resources=resources)
    needs = DRIVER if together else _worker_needs(resources)

    def give_up(name: str, reason: str) -> None:
        folder = RunFolder(places.run).trial(name)
        if not folder.has([f.id for f in trials[name].finetunings]) and folder.failure() is None:
            folder.fail(f"its worker died {RETRIES + 1} times: {reason}")

    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(needs)),
        param_space={"trial": tune.grid_search(list(trials))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=slots,
            reuse_actors=not together,
            trial_dirname_creator=lambda trial: trial.trial_id,
            trial_name_creator=lambda trial: trial.config["trial"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(cluster.scratch) if cluster.local else f"{places.run}/.ray",
            verbose=0,
            callbacks=[_Tell(monitor, give_up)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    tuner.fit()
    for name in trials:  # whatever else may have happened, no trial is left without a word
        give_up(name, SILENT)


def slots_of(resources: Resources, cluster: Mapping[str, float]) -> int:
    """How many trials a cluster with these resources holds at once. Raises UserError when it is none."""
    need = {key: value * resources.workers for key, value in _worker_needs(resources).items()}
    slots = min(int(cluster.get(key, 0) // value) for key, value in need.items())
    if slots < 1:
        have = ", ".join(f"{cluster.get(key, 0):g} {key}" for key in need)
        asked = ", ".join(f"{value:g} {key}" for key, value in need.items())
        raise UserError(f"resources: one trial needs {asked}, the cluster has {have}")
    return slots


def _worker_needs(resources: Resources) -> dict[str, float]:
    needs = {"CPU": float(resources.cpus_per_worker), "GPU": float(resources.gpus_per_worker)}
    return {key: value for key, value in needs.items() if value}


def _train_here(config: dict[str, Any], trials: dict[str, Trial], places: Places, resources: Resources) -> None:
    """A trial inside the Tune actor."""
    import torch

    from ray_robust.launch.trial import run_trial
    from ray_robust.train.context import Context

    _quiet_threads(torch, resources.cpus_per_worker)
    device = torch.device("cuda" if resources.gpus_per_worker else "cpu")
    run_trial(trials[config["trial"]], places, Context(device))
    _give_back_memory()
    tune.report({"ended": 1})


def _drive_group(config: dict[str, Any], trials: dict[str, Trial], places: Places, resources: Resources) -> None:
    """A trial as a Ray Train worker group, driven from here."""
    from ray.train.torch import TorchTrainer

    trial = trials[config["trial"]]
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"trial": trial, "places": places, "resources": resources},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_worker_needs(resources),
        ),
        run_config=GroupRun(
            name=trial.key,
            storage_path=tune.get_context().get_storage().storage_fs_path,
            failure_config=GroupFailures(max_failures=RETRIES),
        ),
    )
    try:
        trainer.fit()
    except Exception:
        if RunFolder(places.run).trial(trial.id).failure() is None:  # no reason left by the trial itself: Ray's own
            raise
    tune.report({"ended": 1})


def _train_rank(config: dict[str, Any]) -> None:
    """One rank of a trial's worker group."""
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    from ray_robust.launch.trial import run_trial
    from ray_robust.train.context import Context

    ranks = get_context()
    _quiet_threads(torch, config["resources"].cpus_per_worker)
    run_trial(config["trial"], config["places"],
              Context(get_device(), ranks.get_world_rank(), ranks.get_world_size()))  # fmt: skip


def _quiet_threads(torch: Any, threads: int) -> None:
    """As many threads as the trial asked for: scores on a CPU are the same bits only for the same number."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def _give_back_memory() -> None:
    """Return what a trial freed to the system: an actor that runs many would keep its largest one's share."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc has no malloc_trim
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Tell(tune.Callback):
    """Tells the monitor when a trial starts and ends, and `give_up` which one Ray will not try again, and why."""

    def __init__(self, monitor: Monitor, give_up: Callable[[str, str], None]) -> None:
        self.monitor, self.give_up = monitor, give_up

    def __getstate__(self) -> dict:  # Tune writes its callbacks to disk; nobody reads them from there
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.started(trial.config["trial"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.ended(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        try:
            said = Path(trial.error_file).read_text("utf-8").strip()  # Tune's own copy is uploaded later
        except (OSError, TypeError):
            said = ""
        self.give_up(trial.config["trial"], textwrap.shorten(said.rpartition("\n")[2], 300) or SILENT)
        self.monitor.ended(trial.config["trial"])
