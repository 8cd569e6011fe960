"""How far a cluster may grow by itself, as well as it can be told from here.

Ray does not say it in public. On the head of a cluster that `ray up` made, Ray's monitor runs with the configuration,
which has all of it; a file of that name alone may be left from another cluster. On Kubernetes the operator starts the
head without a monitor where an autoscaler runs beside it, and only Kubernetes knows how many pods there may be. Of a
cluster where neither is to be seen it is taken that it stays as it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ray_robust.launch.cluster import private_apis

CONFIG, ADDRESS = "--autoscaling-config=", "--gcs-address="  # arguments of Ray's monitor
KUBERAY = "KUBERAY_GEN_RAY_START_CMD"  # how the operator has the head start Ray
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # where `ray up` puts the configuration on the head
PROCESSES = Path("/proc")


@dataclass(frozen=True)
class NodeType:
    """A kind of node that can be added: what each has (None: not known), and how many there may be."""

    resources: Mapping[str, float] | None
    most: float


@dataclass(frozen=True)
class Growth:
    """What a cluster may come to: `most` nodes beside its head, of these types; None where they are not known."""

    most: float = math.inf
    types: tuple[NodeType, ...] | None = None

    @property
    def told(self) -> bool:
        """Whether it is known what the nodes have that can be added."""
        return self.types is not None and all(kind.resources is not None for kind in self.types)


def growth() -> Growth | None:
    """Return how the cluster that this process is connected to may grow; None where no autoscaler is to be seen."""
    if groups := private_apis.node_groups():
        types = tuple(NodeType(dict(resources), math.inf if most < 0 else most) for resources, most in groups)
        return Growth(sum(kind.most for kind in types), types)
    if (config := _monitor_config()) is not None:
        return read_config(config)
    if "--no-monitor" in os.environ.get(KUBERAY, ""):
        return Growth()
    if not PROCESSES.is_dir() and Path(BOOTSTRAP).expanduser().exists():  # macOS: whose monitor runs is not to be seen
        return Growth()
    return None


def read_config(file: Path) -> Growth:
    """Return what the configuration of a monitor says; where it cannot be read, that it is not known."""
    try:
        config = yaml.safe_load(file.read_text("utf-8"))
        kinds = tuple(map(_node_type, config["available_node_types"].values()))
        return Growth(float(config["max_workers"]), tuple(kind for kind in kinds if kind.most))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return Growth()


def _node_type(written: Mapping[str, Any]) -> NodeType:
    resources = written.get("resources") or None  # {}: Ray finds out on the node itself
    return NodeType(resources and {name: float(amount) for name, amount in resources.items()},
                    float(written.get("max_workers", 0)))  # fmt: skip


def _monitor_config() -> Path | None:
    """The configuration of the monitor of this process's cluster, where that runs on this machine: the port of the head
    is the same."""
    import ray

    port = ray.get_runtime_context().gcs_address.rpartition(":")[2]
    for words in _command_lines():
        given = {key: word.removeprefix(key) for key in (CONFIG, ADDRESS) for word in words if word.startswith(key)}
        if CONFIG in given and given.get(ADDRESS, "").rpartition(":")[2] == port:
            return Path(given[CONFIG]).expanduser()
    return None


def _command_lines() -> Iterator[list[str]]:
    """The words of every process's command line, of those that can be seen."""
    entries: Iterable[Path] = PROCESSES.glob("[0-9]*/cmdline")
    for file in entries:
        try:
            yield file.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended
            continue
