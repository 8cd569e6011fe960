"""What breaks under a trial, provoked on real raylets: a node killed, a node drained, SIGTERM, a hang, a full object
store; and SIGTERM to the command."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from deadlines import HANG, wait_for
from ray.core.generated import autoscaler_pb2
from rich.console import Console
from soak import SHORT, raylets
from soak_measures import share_done

from ray_robust.launch import tuner
from ray_robust.launch.cluster.connect import SETTINGS, Cluster
from ray_robust.launch.failures.heartbeat import HeartbeatWatchdog
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.plan.plan import PoolFacts, make_plan, pool_key
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.spec.run_sections import Resources
from ray_robust.train.exceptions import Preempted
from ray_robust.trial.paths import RunPaths

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPEC = """
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: {grid: [500, 600, 700, 800, 900]}, images_seen: 1000}
baseline: none
"""
WHAT = ("killed node", "drained node", "SIGTERM", "hang", "nothing")


def plan_of(file: Path):
    file.write_text(SPEC)
    spec = load_spec(file)
    level, task = spec.pretrains[0].section, spec.tasks[0].section
    return make_plan(spec, {pool_key("species", level.sources["species"]): PoolFacts("s", 10_000)},
                     {pool_key(task.name, task): PoolFacts("t", 100, {"train": 50})})  # fmt: skip


@pytest.fixture
def cluster(monkeypatch):
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    with raylets(3) as found:
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR", configure_logging=True)
        try:
            yield found
        finally:
            ray.shutdown()


def victim(does: dict[str, str], began: Path):
    """A trainable in the place of the real one: its first attempt of a trial waits for what that trial is to suffer."""

    def run(config, paths, resources, pools):
        from ray import tune

        from ray_robust.launch.failures.preemption import preemption

        trial, here = config["trial"].trial, ray.get_runtime_context().get_node_id()
        what, folder, mark = does[trial.id], RunFolder(paths.run).trial(trial.id), began / trial.id
        if not mark.exists() and what != "nothing":
            why = preemption()
            with why.training():
                mark.write_text(json.dumps({"node": here, "pid": os.getpid()}))
                if what == "hang":
                    os.kill(os.getpid(), signal.SIGSTOP)
                while not why():
                    folder.storage.write_json("progress.json", {"share": 0.0, "time": time.time()}, durable=False)
                    time.sleep(0.05)
                Path(f"{mark}.why").write_text(why())
                raise Preempted(why())
        folder.finish([{"finetune": f.id} for f in trial.finetunings], {})
        tune.report({"ended": 1})

    return run


def provoke(cluster, does: dict[str, str], began: Path) -> None:
    """Do to every trial what it is to suffer, once it has begun."""
    for name, what in does.items():
        if what == "nothing":
            continue
        place = json.loads(wait_for(lambda name=name: (began / name).exists() and (began / name).read_text()))
        if what == "killed node":
            lost = next(node for node in cluster.worker_nodes if node.node_id == place["node"])
            cluster.remove_node(lost, allow_graceful=False)
        elif what == "drained node":
            reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
            deadline = int(1000 * (time.time() + HANG))
            ray._raylet.GcsClient(address=cluster.address).drain_node(place["node"], reason, "spot", deadline)
        elif what == "SIGTERM":
            os.kill(place["pid"], signal.SIGTERM)


def test_what_breaks_under_a_trial_is_survived(tmp_path, monkeypatch, cluster):
    plan = plan_of(tmp_path / "failures.yaml")
    does = dict(zip((trial.id for trial in plan), WHAT, strict=True))
    paths = RunPaths(str(tmp_path / "run"), str(tmp_path / "checkpoints"), str(tmp_path / "store"))
    began = tmp_path / "began"
    began.mkdir()
    hangs = next(name for name, what in does.items() if what == "hang")

    def kinds(name: str) -> list[str]:
        return [attempt["kind"] for attempt in RunFolder(paths.run).trial(name).attempts()]

    class WatchdogOfTheHang(HeartbeatWatchdog):
        """Watches the one that hangs alone: how long a worker takes to start is the machine's affair."""

        def started(self, name, kill):
            if name == hangs:
                super().started(name, kill)

        def check(self, now):
            if (began / hangs).exists() and "hung" not in kinds(hangs):
                super().check(now)

    monkeypatch.setattr(tuner, "train_here", victim(does, began))
    monkeypatch.setattr(tuner, "HeartbeatWatchdog", WatchdogOfTheHang)
    kept = [ray.put(np.zeros(40 << 20, np.uint8)) for _ in range(12)]  # more than the head's object store holds
    monitor = Monitor(plan, RunFolder(paths.run), Console(quiet=True), 0, "failures", metrics=False)
    thread = threading.Thread(target=provoke, args=(cluster, does, began), daemon=True)
    thread.start()
    tuner.run_plan(plan, paths, Resources(heartbeat=15), Cluster("", tmp_path / "scratch", False), monitor)
    thread.join()
    assert len(kept) == 12
    assert set(monitor.finished.values()) == {"done"}
    seen = {what: kinds(name) for name, what in does.items()}
    for what, kind in {"killed node": "node", "drained node": "left", "hang": "hung", "SIGTERM": "left"}.items():
        assert kind in seen[what], seen
    why = {what: (began / f"{name}.why").read_text() for name, what in does.items() if what in WHAT[1:3]}
    assert why == {"drained node": "its node is drained", "SIGTERM": "the process was told to end"}


def test_a_command_told_to_end_keeps_what_is_done(tmp_path):
    (tmp_path / "short.yaml").write_text(SHORT.format(seeds=1))
    caches = {"RAY_ROBUST_STORE": str(tmp_path / "store"), "RAY_ROBUST_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "ray_robust.sweep", str(tmp_path / "short.yaml"), "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, **caches}) as driver:  # fmt: skip
        wait_for(lambda: driver.poll() is not None or list((tmp_path / "run").glob("trials/*/done")))
        assert share_done(tmp_path / "run") > 0
        driver.terminate()
        told = driver.communicate()[0]
    assert driver.returncode == 130, told
    assert "Interrupted. " in told
    assert "finished trials and all checkpoints are kept in" in told
    assert f"\n  {shlex.join(command)}\n" in told
    assert RunFolder(tmp_path / "run").spec()["provenance"]["command"] == shlex.join(command)
    assert "Traceback" not in told
    assert (tmp_path / "run" / "report" / "index.html").exists() or "no report: " in told
    assert not (tmp_path / "run" / "lease.json").exists()
