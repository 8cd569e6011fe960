"""Every private part of Ray that this package uses, each with the reason; the rest goes through Ray's public interface.

`tests/test_private_apis.py` fails where a release of Ray lacks one of `MEMBERS`, and where another module uses one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

MEMBERS = {  # module -> what is used of it
    "ray._private.services": (
        "canonicalize_bootstrap_address",
        "find_gcs_addresses.cache_clear",
        "get_node_to_connect_for_driver",
    ),
    "ray._private.state": ("state.actor_table", "state.get_draining_nodes", "state.get_cluster_config"),
    "ray._private.ray_constants": ("ENABLE_RAY_CLUSTER",),
    "ray._raylet": ("GcsClient", "Config.initialize"),
}
SINGLE_NODE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # the variable from which Ray sets ENABLE_RAY_CLUSTER


def resolve_address(address: str) -> str:
    """Return the "host:port" that Ray would connect to: of `auto` the cluster of this machine, of `localhost` the IP of
    this node. No public function tells what `auto` is. Raises ConnectionError, ValueError or OSError."""
    from ray._private import services

    services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]  # Ray's annotation hides the cache
    return str(services.canonicalize_bootstrap_address(address))


def runs_node_here(head: str, timeout: int) -> bool:
    """Return whether a node of the cluster whose head is at "host:port" runs on this machine, asking for `timeout`
    seconds. True also where that cannot be found out. A driver needs a node; the public `ray.init` waits a minute for
    one."""
    from ray._private import services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled; its stub lacks it

    try:
        services.get_node_to_connect_for_driver(GcsClient(address=head), timeout_seconds=timeout)
    except Exception as error:
        return "No node info found" not in str(error)
    return True


def reread_environment() -> None:
    """Have Ray take its settings from the environment as it is now. It reads them once, when it is imported, and no
    public function does so again."""
    from ray._raylet import Config  # type: ignore[attr-defined]  # compiled; its stub lacks it

    Config.initialize("")


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Have Ray's processes that are started in a with-block find and serve each other on 127.0.0.1, as on macOS and
    Windows. On Linux they listen on every interface, the dashboard apart, and no public setting says otherwise. The
    variable is for these processes, the constant for this one, which may have imported Ray already."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[SINGLE_NODE] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[SINGLE_NODE]


def draining_nodes() -> dict[str, int]:
    """Return the ids of the nodes that are being drained, with their deadlines (ms since the epoch, 0 for none). No
    public function lists them; Ray Train reads them here too."""
    from ray._private.state import state

    return state.get_draining_nodes()


def drain_node(address: str, node: str, reason: str, deadline: float) -> None:
    """Drain a node of the cluster at "host:port", as before a preemption, with a deadline in seconds since the epoch.
    The command `ray drain-node` is hidden and takes a second for each."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled; its stub lacks it
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]  # generated

    preempted = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    GcsClient(address=address).drain_node(node, preempted, reason, int(1000 * deadline))


def living_actors() -> int:
    """Return how many actors run in the cluster that this process is connected to. The public list is the dashboard's,
    which a cluster need not have."""
    from ray._private.state import state

    return len(state.actor_table(None, actor_state_name="ALIVE"))


def node_groups() -> list[tuple[Mapping[str, float], int]]:
    """Return the groups of nodes that an autoscaler has told the cluster of which this process is connected to: what a
    node has, and how many there may be (-1: any number). Its configuration is public in no other form."""
    from ray._private.state import state

    try:
        groups = state.get_cluster_config().node_group_configs
    except Exception:  # a cluster without an autoscaler has none
        return []
    return [(dict(group.resources), group.max_count) for group in groups if group.max_count]
