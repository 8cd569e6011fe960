"""Reading images while storage is away, and what Ray does with the tasks that read them."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from make_pools import open_pool

from ray_robust.data.images.decode import decode
from ray_robust.data.images.files import Folder
from ray_robust.data.images.store import ImageStore
from ray_robust.data.readers import shards as readers
from ray_robust.data.sources.shards import ParquetShards
from ray_robust.errors import Outage, Refused, UserError
from ray_robust.files.retry import is_of_storage
from ray_robust.launch.ingest import ingest as launch
from tests import make_images as make
from tests import make_sources

AWS = "When reading information for key 'a': AWS Error SLOW_DOWN (HTTP status 503) during GetObject operation: slow"


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("ray_robust.files.retry.FIRST_WAIT", 0.001)


def away(monkeypatch, error: OSError, times: int) -> list[str]:
    """Have the file cat/001.jpg give this error so many times; its reads."""
    real, reads = Folder.read_steady, []

    def read_steady(self, key):
        if key == "cat/001.jpg":
            reads.append(key)
            if len(reads) <= times:
                raise error
        return real(self, key)

    monkeypatch.setattr(Folder, "read_steady", read_steady)
    return reads


def filled(tmp_path, broken: str) -> ImageStore:
    root = make.tree(tmp_path / "a", {"cat": 3, "dog": 3})
    pool = open_pool("source", "folder", {"path": str(root), "broken": broken})
    (store,) = launch.ingest([(pool, 8, None)], tmp_path / "store")
    return store


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale"), OSError(AWS)]
)
def test_storage_that_is_away_for_a_moment_breaks_no_image(tmp_path, monkeypatch, error):
    reads = away(monkeypatch, error, times=2)
    store = filled(tmp_path, "drop")
    assert len(reads) == 3
    assert store.broken == {}
    assert not len(store.missing())


@pytest.mark.parametrize("broken", ["drop", "fail"])
def test_storage_that_stays_away_leaves_no_image_out(tmp_path, monkeypatch, broken):
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0.01")
    away(monkeypatch, OSError(errno.EIO, "Input/output error"), times=10**6)
    with pytest.raises(Outage) as caught:
        filled(tmp_path, broken)
    assert str(caught.value) == (
        f"{tmp_path}/a/cat/001.jpg: cannot be read for 0 s: Input/output error; what was read is kept: run the same "
        "command again"
    )
    monkeypatch.undo()
    monkeypatch.setenv("RAY_ROBUST_STORE", str(tmp_path / "store"))
    pool = open_pool("source", "folder", {"path": str(tmp_path / "a"), "broken": broken})
    (store,) = launch.ingest([(pool, 8, None)], tmp_path / "store")
    assert store.broken == {}
    assert not len(store.missing())


def test_a_file_that_may_not_be_read_is_broken(tmp_path, monkeypatch):
    reads = away(monkeypatch, PermissionError(errno.EACCES, "Permission denied"), times=10**6)
    assert [*filled(tmp_path, "drop").broken] == [1]
    assert len(reads) <= 2


def test_damage_inside_a_file_is_not_the_storages():
    assert not is_of_storage(OSError("Invalid data stream"))  # of bz2
    assert not is_of_storage(OSError("Corrupt snappy compressed data."))
    assert is_of_storage(OSError(AWS))


def test_a_refusal_of_the_storage_breaks_no_image(tmp_path, monkeypatch):
    expired = "AWS Error EXPIRED_TOKEN (HTTP status 400) during GetObject operation: The provided token has expired"
    away(monkeypatch, OSError(expired), times=10**6)
    with pytest.raises(Refused, match="access is refused"):
        filled(tmp_path, "drop")


def test_a_shard_that_is_read_again_gives_its_own_images(tmp_path, monkeypatch):
    """The images of the shard before it are in memory when the storage goes away for a moment."""
    path = make_sources.parquet_shards(tmp_path / "a")
    pool = ParquetShards("parquet", ParquetShards.Options.model_validate({"path": str(path)}))
    assert len(pool.catalog) == 18
    real, opened = readers.parquet.ParquetFile, []

    def parquet_file(file):
        opened.append(file)
        if len(opened) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return real(file)

    monkeypatch.setattr(readers.parquet, "ParquetFile", parquet_file)
    rows = np.array([4, 5, 10, 11])  # the last rows of two shards
    images = pool.read(rows, 20).images
    assert len(opened) == 3
    for row, image in zip(rows, images, strict=True):
        assert np.array_equal(image, decode(make.encoded(make.picture(seed=row)), 20, "crop"))


def test_a_shard_that_cannot_be_opened_is_waited_for(tmp_path, monkeypatch):
    pool = ParquetShards("parquet", ParquetShards.Options.model_validate(
        {"path": str(make_sources.parquet_shards(tmp_path / "a"))}))  # fmt: skip
    assert len(pool.catalog) == 18
    checks = []

    def check_shard(*_):
        checks.append(1)
        if len(checks) < 3:
            raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(readers, "check_shard", check_shard)
    assert pool.read(np.arange(2), 8).images.shape == (2, 8, 8, 3)
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0.001")
    monkeypatch.setattr(readers, "check_shard", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output")))
    with pytest.raises(Outage, match="cannot be read for 0 s: Input/output; what was read is kept"):
        pool.read(np.arange(6, 8), 8)


# --- tasks


def test_a_node_that_joins_gets_what_this_one_has_had(tmp_path, monkeypatch):
    """Each node has a store of its own; the driver's is full."""
    pool = open_pool("source", "folder", {"path": str(make.tree(tmp_path / "a", {"cat": 3, "dog": 3}))})
    stores = {node: ImageStore.open(tmp_path / node, pool, 8) for node in ("here", "there")}
    stores["here"].fill(np.arange(6))
    ran = []

    def remote(function, node, cpus=1):
        def run(refs, *rest):
            ran.append((node, function.__name__, cpus))
            monkeypatch.setattr(launch, "_open", lambda _: stores[node])
            return function(refs, *rest)

        return run

    monkeypatch.setattr(launch, "_remote", remote)
    nodes = [{"NodeID": node, "Alive": True, "Resources": {"CPU": 2.0}} for node in stores]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(ray, "put", lambda one: one)
    monkeypatch.setattr(ray, "get", lambda one: one)
    monkeypatch.setattr(ray, "wait", lambda refs: (refs[:1], refs[1:]))
    launch.ingest([(pool, 8, None)], tmp_path / "here")
    assert ran == [("there", "_missing", 0), ("there", "_fill", 1)]
    assert not len(stores["there"].missing())
    ran.clear()
    launch.ingest([(pool, 8, None)], tmp_path / "here")
    assert ran == [("there", "_missing", 0)]


class Cluster(SimpleNamespace):
    """A Ray on which the first task that is waited for ends; the most that were out at once."""

    exceptions = ray.exceptions

    def __init__(self, fails=None):
        super().__init__(fails=fails or {}, most=0, cancelled=[])

    def wait(self, refs):
        self.most = max(self.most, len(refs))
        return refs[:1], refs[1:]

    def get(self, ref):
        if ref in self.fails:
            raise self.fails[ref]
        return 1

    def cancel(self, ref):
        self.cancelled.append(ref)


def run(cluster, blocks, at_once=8):
    ended = []
    launch._run_all(cluster, lambda number: number, ((i,) for i in range(blocks)), at_once, ended.append)
    return ended


def test_so_many_blocks_are_out_at_once_and_all_are_run():
    cluster = Cluster()
    assert len(run(cluster, 1000)) == 1000
    assert cluster.most == 8
    assert run(Cluster(), 0) == []


def test_one_that_fails_gives_out_no_other():
    cause = UserError("a.tar: the shard is gone")
    cluster = Cluster({3: ray.exceptions.RayTaskError("fill", "...", cause)})
    with pytest.raises(UserError, match=r"a.tar: the shard is gone"):
        run(cluster, 1000)
    assert cluster.cancelled == list(range(4, 11))


@pytest.mark.parametrize("error", [ray.exceptions.WorkerCrashedError(), ray.exceptions.OutOfMemoryError("short")])
def test_a_process_that_is_killed_again_and_again_is_one_line(error):
    with pytest.raises(Outage) as caught:
        run(Cluster({0: error}), 5)
    assert str(caught.value) == (
        "images: the process that decodes them was killed again and again, as is done where memory is short; what is "
        "decoded is kept, and the same command goes on"
    )


def test_every_image_is_given_out_once(tmp_path):
    pool = open_pool("source", "folder", {"path": str(make.tree(tmp_path / "a", {"cat": 3, "dog": 3}))})
    blocks = launch.divide(pool, np.arange(6), 2)
    assert np.concatenate(blocks).tolist() == list(range(6))
