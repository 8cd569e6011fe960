"""A trial that several workers train as a group: when it counts as hung, and where Ray keeps its books."""

from __future__ import annotations

import os
import pickle
from types import SimpleNamespace

import make_s3
import pyarrow.fs
import pytest
from deadlines import HANG
from ray.train.v2._internal.execution.storage import get_fs_and_path
from soak import Command, raylets

from ray_robust.launch import trainables
from ray_robust.launch.failures.failure_classes import Failure
from ray_robust.launch.failures.heartbeat import HeartbeatWatchdog
from ray_robust.launch.failures.recovery import Recovery
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.run_sections import Resources
from ray_robust.trial.paths import RunPaths


def test_a_group_is_watched_from_its_first_heartbeat_on(tmp_path):
    """The actor that drives it waits for workers, as long as other trials have the room."""
    recovery = Recovery({}, RunFolder(tmp_path))
    watchdog, ended = HeartbeatWatchdog(recovery, 60, groups=True), []
    folder = recovery.run.trial("t").storage
    for attempt in (1.0, 2.0):  # the second one finds what the first has written
        watchdog.started("t", lambda: ended.append("t"))
        watchdog.check(1e6)
        watchdog.check(2e6)
        assert "t" not in recovery.hung
        folder.write_json("progress.json", {"time": attempt, "share": 0.5})
        watchdog.check(3e6)
        watchdog.check(3e6 + 59)
        assert "t" not in recovery.hung
        watchdog.check(3e6 + 61)
        assert recovery.record_failure("t", Failure("died", "its worker died", True)).kind == "hung"
    assert ended == ["t", "t"]


S3 = "s3://bucket/runs/x/.ray?endpoint_override=127.0.0.1:1&region=eu"  # where nobody answers, and nobody is asked


@pytest.mark.parametrize("address", ["{}/.ray", "file://{}/.ray", S3])
def test_ray_train_keeps_its_books_where_tune_does(tmp_path, monkeypatch, address):
    """Tune's path alone has no scheme: of a bucket it was a folder, in no file system."""
    filesystem, path = get_fs_and_path(address.format(tmp_path))  # as of the whole of Tune's own storage
    tune_has, configs = SimpleNamespace(storage_filesystem=filesystem, storage_fs_path=path), []

    class Trainer:
        def __init__(self, function, run_config, **options):
            configs.append(pickle.loads(pickle.dumps(run_config)))  # it goes to an actor

        def fit(self):
            pass

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    monkeypatch.setattr("ray.tune.get_context", lambda: SimpleNamespace(get_storage=lambda: tune_has))
    monkeypatch.setattr("ray.tune.report", lambda row: None)
    ref = SimpleNamespace(trial=SimpleNamespace(key="k"))
    paths = RunPaths(str(tmp_path), str(tmp_path), str(tmp_path))
    trainables.train_group({"trial": ref}, paths, Resources(workers=2), [])
    (config,) = configs
    assert get_fs_and_path(config.storage_path, config.storage_filesystem) == (filesystem, path)
    assert isinstance(filesystem, pyarrow.fs.S3FileSystem) == (address == S3)


SPEC = """
# Question: Do groups of workers write into a bucket?
task: {name: camera-traps, train_images: 200, id_val_images: 60, id_test_images: 100, ood_val_images: 60,
       ood_test_images: 100}
pretrain: {sources: {species: 1.0}, num_images: 200, images_seen: 200}
finetune: {epochs: 1}
seeds: 1
resources: {workers: {min: 1, max: 2}, heartbeat: 3600}
"""


@pytest.mark.ray
@pytest.mark.slow
def test_groups_of_a_joined_cluster_write_into_a_bucket(tmp_path, monkeypatch):
    (tmp_path / "groups.yaml").write_text(SPEC)
    with make_s3.serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.make_bucket("bucket")
        with raylets(2) as cluster:
            sweep = Command(str(tmp_path / "groups.yaml"), tmp_path / "home", [], cluster.address)
            sweep.words[sweep.words.index("--out") + 1] = f"s3://bucket/runs/x/?endpoint_override={server.url}"
            code = sweep.start().wait(timeout=HANG)
        run = RunFolder("s3://bucket/runs/x")
        assert (code, set(run.states().values())) == (0, {"done"}), sweep.log()
        assert run.storage.parent.names() == ["checkpoints", "x"]  # beside each other, whatever stands behind the name
        assert run.trial(next(iter(run.states()))).attempts() == []
    assert not os.path.exists("s3:")
