"""Placement: what a trial needs, how many a cluster holds at once, and the device that a worker trains on.

Nothing is pinned to a machine: a trial asks for amounts, and Ray finds them. How many run at once follows the cluster
as nodes come and go.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from ray_robust.errors import UserError
from ray_robust.launch.cluster.growth import Growth, growth
from ray_robust.spec.run_sections import Resources
from ray_robust.text.names import count_noun
from ray_robust.train.allocator import keep_freed_memory

if TYPE_CHECKING:
    import torch

HEAD = "node:__internal_head__"  # a resource that the head alone has
DRIVER = {"CPU": 0, HEAD: 0.001}  # a trial that only drives a group; Ray refuses an empty request
CHECK_EVERY = 5.0  # seconds between two looks at the size of the cluster
ROOM_WITHIN = 120.0  # seconds without room for any trial until it is said: a node is replaced in less, or started
AHEAD = 4  # trials that wait for room where nodes can be added: what waits is what an autoscaler sees
GROUPS_AHEAD = 1  # of worker groups, each of which asks for all of its workers


def worker_needs(resources: Resources) -> dict[str, float]:
    """Return the resources of one worker."""
    needs = {"CPU": float(resources.cpus_per_worker), "GPU": float(resources.gpus_per_worker)}
    return {key: value for key, value in needs.items() if value}


def trial_needs(resources: Resources) -> dict[str, float]:
    """Return the resources of the Tune trial itself: its worker's, or next to none where it drives a worker group."""
    return dict(DRIVER) if resources.together else worker_needs(resources)


def workers_on(resources: Resources, node: Mapping[str, float]) -> int:
    """Return how many workers a node with these resources holds. Part of a GPU is always of one: two parts of 0.4 fit
    on each, and not five on two."""
    counts = []
    for key, value in worker_needs(resources).items():
        there, parts = node.get(key, 0.0), int(1 / value + 1e-9)
        counts.append(int(there) * parts if key == "GPU" and value < 1 else int(there / value + 1e-9))
    return min(counts)


def slots_of(resources: Resources, nodes: Iterable[Mapping[str, float]]) -> int:
    """Return how many trials nodes with these resources hold at once; 0 where they hold none.

    Of worker groups that may have more or fewer workers, the first ones take as many as they may: so many trials are
    counted that the last still finds the fewest.
    """
    room = sum(workers_on(resources, node) for node in nodes) - resources.fewest_workers
    return 0 if room < 0 else 1 + room // resources.workers


def living_nodes() -> list[Mapping[str, float]]:
    """Return the resources of every node of the cluster that this process is connected to, as it is now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def slots_now(resources: Resources) -> int:
    """Return how many trials the cluster holds as it is now; at least 1. Raises UserError where it never holds one."""
    nodes = living_nodes()
    check_room(resources, nodes)
    return max(1, slots_of(resources, nodes))


def check_room(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> str:
    """Return a line where no trial fits on these nodes, the cluster's, and it cannot be told whether one ever will;
    else "". Raises UserError where none ever will."""
    if slots_of(resources, nodes):
        return ""
    more = growth()
    if more is None or not _can_grow(more, nodes):
        raise UserError(f"resources: {_lack(resources, nodes)}")
    if not more.told:
        return (f"resources: {_lack(resources, nodes)}; whether nodes come on which it fits cannot be told from here: "
                "where none does, the sweep waits for ever")  # fmt: skip
    if _largest(resources, nodes, more) < resources.fewest_workers:
        kinds = [kind.resources for kind in more.types or () if kind.resources is not None]
        what = f"{_lack(resources, nodes)}; nodes that can be added have {_listed(resources, kinds)}"
        raise UserError(f"resources: {what}, {more.most:g} of them at most")
    return ""


def _can_grow(more: Growth, nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether there may be more nodes than there are; one of them is the head."""
    return len(nodes) - 1 < more.most


def _largest(resources: Resources, nodes: Iterable[Mapping[str, float]], more: Growth) -> float:
    """How many workers the cluster holds that has the head and as many nodes of the best types as there may be."""
    workers, left = float(sum(workers_on(resources, node) for node in nodes if HEAD in node)), more.most
    each = ((workers_on(resources, kind.resources or {}), kind.most) for kind in more.types or ())
    for count, most in sorted(each, reverse=True):
        taken = min(most, left)
        workers, left = workers + (count * taken if count else 0), left - taken
        if not left or not count:
            break
    return workers


def _lack(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> str:
    """`one trial needs 8 CPU, the cluster has 4 CPU`, or that no single node has what a worker needs."""
    each, count = worker_needs(resources), resources.fewest_workers
    need = {key: value * count for key, value in each.items()}
    have = {key: sum(node.get(key, 0) for node in nodes) for key in need}
    if any(have[key] + 1e-9 < value for key, value in need.items()):
        return f"one trial needs {_amounts(need)}, the cluster has {_amounts(have)}"
    room = sum(workers_on(resources, node) for node in nodes)
    what = f"room for {room} of the {count} workers of a trial" if room else "none of them has room for it"
    return f"a worker needs {_amounts(each)} on one node, the nodes have {_listed(resources, nodes)}: {what}"


def _listed(resources: Resources, nodes: Iterable[Mapping[str, float]]) -> str:
    """`4 CPU, 1 GPU (3 times); 8 CPU, 0 GPU`: what nodes have of the resources that are asked for."""
    counts = Counter(_amounts({key: node.get(key, 0) for key in worker_needs(resources)}) for node in nodes)
    return "; ".join(what if count == 1 else f"{what} ({count} times)" for what, count in counts.items())


def _amounts(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g} {key}" for key, value in amounts.items())


def notes(resources: Resources) -> tuple[str, ...]:
    """Return lines for the user about the cluster that this process is connected to. Raises as `check_room`."""
    return idle_gpus(resources, ray.cluster_resources()), check_room(resources, living_nodes())


def idle_gpus(resources: Resources, cluster: Mapping[str, float]) -> str:
    """Return a line for a cluster with GPUs of which trials take none; "" where they do, or it has none."""
    there = int(cluster.get("GPU", 0))
    if not there or resources.gpus_per_worker:
        return ""
    what = count_noun(there, "GPU")
    return (
        f"the cluster has {what}, of which no trial takes any; --set resources.gpus_per_worker=1 gives each trial one"
    )


class ConcurrencyLimit(tune.Callback):
    """Keeps the number of trials that run at once at what the cluster holds: sets `searcher.max_concurrent` as it
    changes, and lets a few more wait as long as the cluster may grow by itself.

    A cluster that has lost the nodes that held trials lets the others wait: `say` is told, once for every time.
    """

    def __init__(self, searcher: Any, resources: Resources, say: Callable[[str], None]) -> None:
        self.searcher, self.resources, self.say = searcher, resources, say
        self._growth = growth()
        self._checked = 0.0
        self._had_room = time.monotonic()  # when a trial fitted last; infinite once it was said that none does
        self.update()

    def __getstate__(self) -> dict:  # Tune writes its callbacks to disk; nobody reads them from there
        return {}

    def update(self) -> None:
        """Set the limit to the cluster as it is now: at least 1, since nodes that went away may come back."""
        nodes, ahead = living_nodes(), 0
        if self._growth is not None and _can_grow(self._growth, nodes):
            ahead = GROUPS_AHEAD if self.resources.together else AHEAD
        slots = slots_of(self.resources, nodes)
        self.searcher.max_concurrent = max(1, slots + ahead)
        if slots:
            self._had_room = time.monotonic()
        elif time.monotonic() - self._had_room > ROOM_WITHIN:
            self._had_room = math.inf
            self.say(f"waits    {_lack(self.resources, nodes)}; trials go on once nodes with room join, and what is "
                     "done is kept")  # fmt: skip

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
