"""What runs in Ray's workers: a trial inside a reused Tune actor, or as a Ray Train worker group driven by one.

Torch is imported here and not in the driver, where it costs seconds.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig

from ray_robust.data.opened import adopt
from ray_robust.launch.failures.preemption import preemption
from ray_robust.launch.placement import use_device, worker_needs
from ray_robust.launch.search.asha import stop_callback
from ray_robust.launch.tune_searcher import TrialRef
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Resources
from ray_robust.train.allocator import return_freed_memory
from ray_robust.trial.paths import RunPaths

if TYPE_CHECKING:
    from ray_robust.train.context import Context

_adopted: set[str] = set()


def train_here(config: dict[str, Any], paths: RunPaths, resources: Resources, pools: list) -> None:
    """Run a trial inside the Tune actor. `pools` holds a reference to the driver's pools of files."""
    _adopt(pools)
    from ray_robust.train.context import Context

    context = Context(use_device(resources), preemption=preemption(), finetunings_at_once=resources.finetunings_at_once)
    _run(config["trial"], paths, context)
    return_freed_memory()
    tune.report({"ended": 1})


def train_group(config: dict[str, Any], paths: RunPaths, resources: Resources, pools: list) -> None:
    """Run a trial as a Ray Train worker group, driven from this Tune actor."""
    from ray.train.torch import TorchTrainer

    ref: TrialRef = config["trial"]
    storage = tune.get_context().get_storage()  # Tune's own, wherever that is
    # Ray's annotation lacks the pair (fewest, most)
    workers: Any = (resources.fewest_workers, resources.workers) if resources.elastic else resources.workers
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"trial": ref, "paths": paths, "resources": resources, "pools": pools},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=worker_needs(resources),
        ),
        run_config=RunConfig(
            name=f"{ref.trial.key}-{time.time_ns()}",  # under a name that was there, Train resumes its own state
            storage_path=storage.storage_fs_path,
            storage_filesystem=storage.storage_filesystem,  # the path alone is one on this machine's disk
            failure_config=FailureConfig(max_failures=0),  # Tune begins it again, so that one place counts
        ),
    )
    try:
        trainer.fit()
    except Exception:
        if RunFolder(paths.run).trial(ref).failure() is None:  # the trial has left no reason itself
            raise
    tune.report({"ended": 1})


def _train_rank(config: dict[str, Any]) -> None:
    """Run one rank of a trial's worker group."""
    _adopt(config["pools"])
    from ray.train import get_context
    from ray.train.torch import get_device

    from ray_robust.train.context import Context

    ranks, resources = get_context(), config["resources"]
    use_device(resources)
    context = Context(get_device(), ranks.get_world_rank(), ranks.get_world_size(), preemption=preemption(),
                      finetunings_at_once=resources.finetunings_at_once)  # fmt: skip
    _run(config["trial"], config["paths"], context)


def _run(ref: TrialRef, paths: RunPaths, context: Context) -> None:
    from ray_robust.trial.run_trial import run_trial

    if ref.asha is not None:
        context = replace(context, on_step=stop_callback(ref.asha, ref.trial, paths))
    with preemption().training():
        run_trial(ref.trial, paths, context)


def _adopt(pools: list) -> None:
    """Take the driver's pools of files, once per process."""
    if pools[0].hex() not in _adopted:
        adopt(ray.get(pools[0]))
        _adopted.add(pools[0].hex())
