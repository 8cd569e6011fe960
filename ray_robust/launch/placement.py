"""Placement: what a trial needs, how many a cluster holds at once, and the device that a worker trains on.

Nothing is pinned to a machine: a trial asks for amounts, and Ray finds them. How many run at once follows the cluster
as nodes come and go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from ray_robust.errors import UserError
from ray_robust.launch.cluster import private_apis
from ray_robust.spec.run_sections import Resources
from ray_robust.text.names import count_noun
from ray_robust.train.allocator import keep_freed_memory

if TYPE_CHECKING:
    import torch

DRIVER = {"CPU": 0, "node:__internal_head__": 0.001}  # a trial that only drives a group; Ray refuses an empty request
CHECK_EVERY = 5.0  # seconds between two looks at the size of the cluster
AHEAD = 4  # trials that wait for room where nodes can be added: what waits is what an autoscaler sees


def worker_needs(resources: Resources) -> dict[str, float]:
    """Return the resources of one worker."""
    needs = {"CPU": float(resources.cpus_per_worker), "GPU": float(resources.gpus_per_worker)}
    return {key: value for key, value in needs.items() if value}


def trial_needs(resources: Resources) -> dict[str, float]:
    """Return the resources of the Tune trial itself: its worker's, or next to none where it drives a worker group."""
    return dict(DRIVER) if resources.together else worker_needs(resources)


def slots_of(resources: Resources, cluster: Mapping[str, float], grows: bool = False) -> int:
    """Return how many trials a cluster with these resources holds at once.

    Raises UserError when it is none, unless the cluster `grows` by itself.
    """
    need = {key: value * resources.fewest_workers for key, value in worker_needs(resources).items()}
    slots = min(int(cluster.get(key, 0) / value + 1e-9) for key, value in need.items())
    if slots < 1 and not grows:
        have = ", ".join(f"{cluster.get(key, 0):g} {key}" for key in need)
        asked = ", ".join(f"{value:g} {key}" for key, value in need.items())
        raise UserError(f"resources: one trial needs {asked}, the cluster has {have}")
    return max(slots, 0)


def slots_now(resources: Resources) -> int:
    """Return the same of the cluster that this process is connected to, as it is now; at least 1. Raises UserError."""
    return max(1, slots_of(resources, ray.cluster_resources(), grows()))


def idle_gpus(resources: Resources, cluster: Mapping[str, float]) -> str:
    """Return a line for a cluster with GPUs of which trials take none; "" where they do, or it has none."""
    there = int(cluster.get("GPU", 0))
    if not there or resources.gpus_per_worker:
        return ""
    what = count_noun(there, "GPU")
    return (
        f"the cluster has {what}, of which no trial takes any; --set resources.gpus_per_worker=1 gives each trial one"
    )


def grows() -> bool:
    """Return whether the cluster adds nodes by itself when trials wait for room."""
    if Path("~/ray_bootstrap_config.yaml").expanduser().exists():  # on the head of a cluster that `ray up` made
        return True
    return private_apis.autoscales()


class ConcurrencyLimit(tune.Callback):
    """Keeps the number of trials that run at once at what the cluster holds: sets `searcher.max_concurrent` as it
    changes, and lets a few more wait where the cluster grows by itself."""

    def __init__(self, searcher: Any, resources: Resources) -> None:
        self.searcher, self.resources = searcher, resources
        self._ahead = AHEAD if grows() else 0
        self._checked = 0.0
        self.update()

    def __getstate__(self) -> dict:  # Tune writes its callbacks to disk; nobody reads them from there
        return {}

    def update(self) -> None:
        """Set the limit to the cluster as it is now: at least 1, since nodes that went away may come back."""
        slots = slots_of(self.resources, ray.cluster_resources(), grows=True)
        self.searcher.max_concurrent = max(1, slots + self._ahead)

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if time.monotonic() - self._checked > CHECK_EVERY:
            self._checked = time.monotonic()
            self.update()


def use_device(resources: Resources) -> torch.device:
    """Return the device of this worker, limited to its share: its threads, and its fraction of a GPU's memory.

    Scores on a CPU are the same bits only for the same number of threads.
    """
    import torch

    keep_freed_memory()
    os.environ["OMP_NUM_THREADS"] = str(resources.cpus_per_worker)
    torch.set_num_threads(resources.cpus_per_worker)
    if not resources.gpus_per_worker:
        return torch.device("cpu")
    device = torch.device("cuda", torch.cuda.current_device())
    if resources.gpus_per_worker < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus_per_worker, device)
    return device
