"""What a trial asks for, and how many fit."""

import math
from types import SimpleNamespace

import pytest
import yaml

from ray_robust.errors import Outage, UserError
from ray_robust.launch import placement, tuner
from ray_robust.launch.cluster import growth as growing
from ray_robust.launch.cluster import private_apis
from ray_robust.launch.cluster.growth import Growth, NodeType, growth
from ray_robust.launch.placement import (
    DRIVER,
    HEAD,
    ConcurrencyLimit,
    check_room,
    idle_gpus,
    slots_of,
    trial_needs,
)
from ray_robust.spec.run_sections import Resources


@pytest.mark.parametrize(
    ("asked", "nodes", "slots"),
    [
        ({}, [{"CPU": 2}], 2),
        ({}, [{"CPU": 2}, {"CPU": 3}, {}], 5),
        ({"cpus_per_worker": 4}, [{"CPU": 10}], 2),
        ({"cpus_per_worker": 4}, [{"CPU": 6}, {"CPU": 6}], 2),  # not 3: no worker is of two nodes
        ({"cpus_per_worker": 8}, [{"CPU": 4}, {"CPU": 4}], 0),
        ({"gpus_per_worker": 1}, [{"CPU": 16, "GPU": 4}], 4),
        ({"gpus_per_worker": 1}, [{"CPU": 16}, {"GPU": 4}], 0),
        ({"gpus_per_worker": 0.25}, [{"CPU": 16, "GPU": 2}], 8),
        ({"gpus_per_worker": 0.1}, [{"CPU": 16, "GPU": 1}], 10),
        ({"gpus_per_worker": 0.4}, [{"CPU": 16, "GPU": 2}], 4),  # not 5: no part is of two GPUs
        ({"gpus_per_worker": 0.25}, [{"CPU": 3, "GPU": 2}], 3),
        ({"workers": 4, "gpus_per_worker": 1}, [{"CPU": 64, "GPU": 8}], 2),
        ({"workers": 2, "cpus_per_worker": 3}, [{"CPU": 4}, {"CPU": 4}], 1),
        ({"workers": 2, "cpus_per_worker": 3}, [{"CPU": 4}, {"CPU": 2}], 0),
        ({"workers": {"min": 2, "max": 4}}, [{"CPU": 8}], 2),  # the first one takes four, and so does the second
        ({"workers": {"min": 2, "max": 4}}, [{"CPU": 10}], 3),
        ({"workers": {"min": 2, "max": 4}}, [{"CPU": 3}], 1),
        ({"workers": {"min": 2, "max": 4}}, [{"CPU": 1}], 0),
    ],
)
def test_how_many_trials_fit(asked, nodes, slots):
    assert slots_of(Resources(**asked), nodes) == slots


@pytest.mark.parametrize(
    ("asked", "nodes", "line"),
    [
        ({"workers": 2, "gpus_per_worker": 1}, [{"CPU": 8, "GPU": 1}],
         "one trial needs 2 CPU, 2 GPU, the cluster has 8 CPU, 1 GPU"),
        ({"cpus_per_worker": 8}, [{"CPU": 4}, {"CPU": 4}, {"CPU": 6}],
         "a worker needs 8 CPU on one node, the nodes have 4 CPU (2 times); 6 CPU: none of them has room for it"),
        ({"workers": 2, "cpus_per_worker": 3}, [{"CPU": 4}, {"CPU": 2}],
         "a worker needs 3 CPU on one node, the nodes have 4 CPU; 2 CPU: room for 1 of the 2 workers of a trial"),
    ],
)  # fmt: skip
def test_what_never_fits_is_said_unless_nodes_can_come(monkeypatch, asked, nodes, line):
    """It waited for ever, without a word, where the sum of all nodes would do."""
    monkeypatch.setattr(placement, "growth", lambda: None)
    with pytest.raises(UserError) as refused:
        check_room(Resources(**asked), nodes)
    assert str(refused.value) == f"resources: {line}"
    monkeypatch.setattr(placement, "growth", Growth)
    assert check_room(Resources(**asked), nodes) == (
        f"resources: {line}; whether nodes come on which it fits cannot be told from here: where none does, the sweep "
        "waits for ever"
    )
    assert check_room(Resources(), nodes) == ""


def growth_of(*types: tuple[dict | None, float], most: float = 8) -> Growth:
    return Growth(most, tuple(NodeType(resources, count) for resources, count in types))


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (growth_of(({"CPU": 8, "GPU": 1}, 8)), ""),
        (growth_of(({"CPU": 8}, 8), ({"CPU": 4, "GPU": 1}, 1)), "; nodes that can be added have 8 CPU, 0 GPU; 4 CPU, "
         "1 GPU, 8 of them at most"),
        (growth_of(({"CPU": 8, "GPU": 1}, 8), most=1), "; nodes that can be added have 8 CPU, 1 GPU, 1 of them at "
         "most"),
        (growth_of(({"CPU": 8, "GPU": 1}, 8), most=0), ""),
    ],
)  # fmt: skip
def test_what_no_node_that_can_be_added_has_is_refused(monkeypatch, more, line):
    monkeypatch.setattr(placement, "growth", lambda: more)
    asked, nodes = Resources(workers=2, gpus_per_worker=1, cpus_per_worker=4), [{HEAD: 1.0}]
    if not line and more.most:
        assert check_room(asked, nodes) == ""
        return
    with pytest.raises(UserError) as refused:
        check_room(asked, nodes)
    assert str(refused.value) == f"resources: one trial needs 8 CPU, 2 GPU, the cluster has 0 CPU, 0 GPU{line}"


def test_a_trial_that_only_drives_a_group_takes_next_to_nothing():
    assert trial_needs(Resources(workers=2)) == DRIVER
    assert trial_needs(Resources(gpus_per_worker=0.5)) == {"CPU": 1.0, "GPU": 0.5}


@pytest.mark.parametrize(
    ("more", "asked", "wanted"),
    [
        (None, Resources(), [2, 6, 6, 1]),
        (Growth(most=2), Resources(), [6, 10, 6, 4]),  # the head and two nodes: none is to come
        (None, Resources(workers=2), [1, 3, 3, 1]),
        (Growth(most=2), Resources(workers=2), [2, 4, 3, 1]),
    ],
)
def test_the_limit_follows_the_cluster(monkeypatch, more, asked, wanted):
    """Nodes come and go while a sweep runs; where more can come, some trials wait: that is what an autoscaler sees."""
    nodes = []
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": cpus > 0, "Resources": {"CPU": abs(cpus)}} for cpus in nodes])
    monkeypatch.setattr(placement, "growth", lambda: more)
    monkeypatch.setattr(placement, "CHECK_EVERY", -1)

    class Searcher:
        max_concurrent = 0

    limit, seen = ConcurrencyLimit(Searcher, asked, print), []
    for now in ([2.0, -9.0], [2.0, 4.0], [2.0, 2.0, 2.0], []):
        nodes[:] = now
        limit.on_step_begin(0, [])
        seen.append(Searcher.max_concurrent)
    assert seen == wanted


def test_a_cluster_without_room_for_any_trial_says_so_once_each_time(monkeypatch):
    """Trials of a node that is gone wait: without a word that looks like a sweep that hangs."""
    nodes, clock, said = [4.0], [0.0], []
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": cpus}} for cpus in nodes])
    monkeypatch.setattr(placement, "growth", lambda: None)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    limit = ConcurrencyLimit(SimpleNamespace(), Resources(cpus_per_worker=2), said.append)

    def pass_time(until: float, *there: float) -> int:
        nodes[:] = there
        while clock[0] < until:
            clock[0] += 10
            limit.on_step_begin(0, [])
        return len(said)

    assert pass_time(100, 1.0) == 0  # a node may be replaced
    assert pass_time(110, 4.0) == 0
    assert pass_time(200, 1.0) == 0
    assert pass_time(400, 1.0, 1.0) == 1
    assert said[0] == ("waits    a worker needs 2 CPU on one node, the nodes have 1 CPU (2 times): none of them has "
                       "room for it; trials go on once nodes with room join, and what is done is kept")  # fmt: skip
    assert pass_time(500, 4.0) == 1
    assert pass_time(700, 1.0) == 2
    assert said[1].startswith("waits    one trial needs 2 CPU, the cluster has 1 CPU; ")


CONFIG = {
    "max_workers": 8,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 4, "GPU": 1}, "node_config": {}, "min_workers": 1, "max_workers": 8},
    },
}


@pytest.fixture
def head(tmp_path, monkeypatch):
    """The head of a cluster, with its processes as `monitor` makes them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    monkeypatch.setattr(private_apis, "node_groups", list)
    monkeypatch.setattr(growing, "PROCESSES", tmp_path / "proc")
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(CONFIG))

    def monitor(*words: str) -> None:
        (tmp_path / "proc/7/cmdline").write_bytes("\0".join(["python", "-u", "monitor.py", *words, ""]).encode())

    return monitor


def test_a_cluster_grows_where_its_monitor_has_a_configuration(head, tmp_path, monkeypatch):
    config, own = f"--autoscaling-config={tmp_path}/ray_bootstrap_config.yaml", "--gcs-address=10.0.0.1:6379"
    head(own)
    assert growth() is None, "a file that another cluster left, beside a monitor without one"
    head("--gcs-address=10.0.0.1:6380", config)
    assert growth() is None, "the monitor of another cluster"
    head(own, config)
    assert growth() == Growth(8, (NodeType({"CPU": 4.0, "GPU": 1.0}, 8),))
    for text in ("{", "[]", "max_workers: many"):
        (tmp_path / "ray_bootstrap_config.yaml").write_text(text)
        assert growth() == Growth(), text
    (tmp_path / "ray_bootstrap_config.yaml").unlink()
    assert growth() == Growth()
    monkeypatch.setattr(growing, "PROCESSES", tmp_path / "none")
    assert growth() is None
    (tmp_path / "ray_bootstrap_config.yaml").write_text("{}")
    assert growth() == Growth(), "whose monitor runs cannot be seen"


def test_what_machines_of_ones_own_have_is_not_known_before(head, tmp_path):
    types = {"local.cluster.node": {"resources": {}, "node_config": {}, "min_workers": 2, "max_workers": 2}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"max_workers": 2, "available_node_types": types}))
    head("--gcs-address=10.0.0.1:6379", f"--autoscaling-config={tmp_path}/own.yaml")
    assert growth() == Growth(2, (NodeType(None, 2),))
    assert not growth().told


def test_kuberay_and_reported_groups_grow(head, monkeypatch):
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head --block ")
    assert growth() is None
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head --block --no-monitor ")
    assert growth() == Growth()
    monkeypatch.setattr(private_apis, "node_groups", lambda: [({"CPU": 4.0}, 3), ({"CPU": 8.0}, -1)])
    assert growth() == Growth(math.inf, (NodeType({"CPU": 4.0}, 3), NodeType({"CPU": 8.0}, math.inf)))


def test_groups_that_an_autoscaler_reports_are_read(monkeypatch):
    from ray._private.state import state
    from ray.core.generated.autoscaler_pb2 import ClusterConfig

    config = ClusterConfig()
    config.node_group_configs.add(resources={"CPU": 4}, max_count=3, name="cpu")
    config.node_group_configs.add(resources={"CPU": 8}, max_count=0, name="none")
    monkeypatch.setattr(state, "get_cluster_config", lambda: config)
    assert private_apis.node_groups() == [({"CPU": 4}, 3)]
    monkeypatch.setattr(state, "get_cluster_config", lambda: None)
    assert private_apis.node_groups() == []


def test_a_cluster_that_goes_away_is_said_in_a_line():
    wanted = r"the Ray cluster went away \(no head\); start it, then run the same command again: what is done is kept"
    with pytest.raises(Outage, match=wanted), tuner._cluster_outage():
        raise ConnectionError("no\nhead")


def test_gpus_that_no_trial_takes_are_told():
    assert idle_gpus(Resources(), {"CPU": 8, "GPU": 4}) == (
        "the cluster has 4 GPUs, of which no trial takes any; --set resources.gpus_per_worker=1 gives each trial one"
    )
    assert idle_gpus(Resources(gpus_per_worker=0.5), {"CPU": 8, "GPU": 4}) == ""
    assert idle_gpus(Resources(), {"CPU": 8}) == ""
