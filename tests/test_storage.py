"""Files that are whole or absent, in a folder or behind a URI."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deadlines import wait_for

from ray_robust.errors import Outage, UserError
from ray_robust.files.retry import may_pass
from ray_robust.files.storage import Storage
from ray_robust.run import throughput
from ray_robust.run.checkpoint_paths import shared_weights


@pytest.fixture(params=["local", "file", "remote"])
def storage(request, tmp_path):
    if request.param == "local":
        return Storage(tmp_path / "a")
    if request.param == "file":
        return Storage((tmp_path / "a b").as_uri())
    return Remote(f"memory://{tmp_path}/a")


class Remote(Storage):
    """A storage that takes every remote way, over a filesystem of pyarrow's on this disk."""

    def __truediv__(self, name: str) -> Storage:
        return Remote(super().__truediv__(name).address)

    def _arrow(self):
        from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

        path = self.address.partition("://")[2].partition("?")[0]
        Path(path).mkdir(parents=True, exist_ok=True)  # as on an object store, where folders need no making
        for name in ("finetunings", "checkpoints/x"):
            Path(path, name).mkdir(parents=True, exist_ok=True)
        return SubTreeFileSystem(path, LocalFileSystem()), ""


def test_what_is_written_is_read(storage):
    assert storage.read("finetunings/a.json") is None
    assert storage.read_json("finetunings/a.json") is None
    assert not storage.exists("finetunings/a.json")
    storage.write_json("finetunings/a.json", {"x": [1, None]})
    assert storage.read_json("finetunings/a.json") == {"x": [1, None]}
    storage.write("finetunings/a.json", "täxt")
    assert storage.read("finetunings/a.json") == "täxt".encode()
    assert storage.exists("finetunings/a.json")
    assert storage.names("finetunings") == ["a.json"]
    assert (storage / "finetunings").read("a.json") == "täxt".encode()


def test_what_is_deleted_is_gone(storage):
    storage.write("checkpoints/x/weights", b"1")
    storage.write("b", b"1")
    for name in ("checkpoints", "b", "checkpoints", "never-there"):
        storage.delete(name)
    assert not storage.exists("b")
    assert storage.read("checkpoints/x/weights") is None
    assert storage.names("never-there") == []


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Storage(tmp_path).write_json("a", float("nan"))
    assert not Storage(tmp_path).exists("a")


def refuse(error: OSError, times: int = 10**9):
    """An os.fsync that fails so many times."""
    left, real = [times], os.fsync

    def fsync(file: int) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error
        real(file)

    return fsync


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    storage.write("a", "old")
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    monkeypatch.setattr(os, "fsync", refuse(OSError(28, "No space left on device")))
    with pytest.raises(Outage) as said:
        storage.write("a", "new")
    assert str(said.value) == (
        f"{storage.shown}/a: the disk is full; free some room, then run the same command again: what is done is kept"
    )
    assert storage.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_storage_that_is_away_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    storage, waits = Storage(tmp_path), []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(os, "fsync", refuse(OSError(errno.ESTALE, "Stale file handle"), times=4))
    storage.write("a", "new")
    assert storage.read("a") == b"new"
    assert len(waits) == 4
    assert all(0.5 * 0.2 * 2**i <= wait <= 0.2 * 2**i for i, wait in enumerate(waits))  # longer each time


def test_storage_that_stays_away_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    monkeypatch.setattr(os, "fsync", refuse(OSError(errno.ESTALE, "Stale file handle")))
    with pytest.raises(Outage, match=r"/a: cannot be reached for 0 s \(Stale file handle\); once it can, run the same"):
        Storage(tmp_path).write("a", "new")


def test_what_may_be_lost_is_not_tried_again(tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        Storage(tmp_path).write("a", "new", durable=False)
    assert waits == []


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(2, "No such file"), False),
        (OSError("When reading key 'x' in bucket 'b': AWS Error NETWORK_CONNECTION during GetObject"), True),
        (OSError("When initiating multipart upload: AWS Error SLOW_DOWN during CreateMultipartUpload"), True),
        (OSError("When getting information: AWS Error ACCESS_DENIED during HeadObject operation"), False),
        (Outage("waited for already"), False),
    ],
)
def test_what_may_pass(error, may):
    assert may_pass(error) is may


def test_sizes(storage):
    storage.write("finetunings/a.json", "12345")
    storage.write("b", "123")
    assert storage.size("b") == 3
    assert storage.size() == 8
    assert storage.size("never-there") == 0


def test_what_killed_writers_left_is_removed_once_it_is_old(tmp_path):
    storage = Storage(tmp_path)
    storage.write("x/a", "whole")
    for name, age in (("old", 7200), ("young", 0)):
        part = tmp_path / "x" / f".{name}.1-2.part"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    storage.tidy()
    assert sorted(os.listdir(tmp_path / "x")) == [".young.1-2.part", "a"]


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path):
    """Killed again and again in the middle of writing a large file; a reader never sees a part of one."""
    code = (
        "from ray_robust.files.storage import Storage; import sys\n"
        "while True:\n"
        "    for c in b'abc': Storage(sys.argv[1]).write('f', bytes([c]) * 3_000_000, durable=False)\n"
    )
    for reads in (10, 25, 5):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1])
        wait_for(lambda: Storage(tmp_path).exists("f"), 0.01)
        seen = Storage(tmp_path).read("f")
        wait_for(lambda seen=seen: Storage(tmp_path).read("f") != seen, 0.0)  # it is this one that writes
        for _ in range(reads):
            data = Storage(tmp_path).read("f")
            assert data is not None
            assert len(data) == 3_000_000
            assert len(set(data)) == 1
        writer.kill()
        writer.wait()
    assert len(Storage(tmp_path).read("f") or b"") == 3_000_000
    assert Storage(tmp_path).names() == ["f"]  # what a killed writer left is not counted


def test_addresses_are_shown_for_people(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Storage("runs/x").shown == "runs/x"
    assert Storage("s3://key:secret@bucket/runs?region=eu").shown == "s3://bucket/runs"
    assert (Storage("s3://bucket/runs?region=eu") / "trials/a").address == "s3://bucket/runs/trials/a?region=eu"
    assert Storage("s3://bucket/runs/x?region=eu").parent.address == "s3://bucket/runs?region=eu"
    assert Storage("runs/x").parent == Storage("runs")
    assert Storage("/").parent == Storage("/")
    assert Storage("~/x").address == str(Path.home() / "x")
    assert Storage("runs").local("a") == tmp_path / "runs/a"
    assert Storage("s3://bucket/x").local() is None


@pytest.mark.parametrize("settings", ["", "?endpoint_override=host:9000&scheme=http"])
def test_weights_lie_beside_the_run_however_its_address_ends(settings):
    for slash in ("", "/", "//"):
        run = Storage(f"s3://bucket/quantity{slash}{settings}")
        assert run.address == f"s3://bucket/quantity{settings}"
        assert shared_weights(run).address == f"s3://bucket/checkpoints{settings}"
    assert (Storage(f"hdfs:///runs{settings}").parent / "x").address == f"hdfs:///x{settings}"


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/", "gs://bucket/?scheme=http", "hdfs:///"])
def test_nothing_lies_above_a_bucket(address):
    """It was a folder `s3:` of the working directory."""
    bucket = Storage(address)
    assert bucket.parent == bucket
    assert (bucket.parent / "x").remote


def test_only_the_address_travels(tmp_path):
    storage = Storage(tmp_path.as_uri())
    assert pickle.loads(pickle.dumps(storage)) == storage
    remote = Storage("s3://bucket/x")
    remote._filesystem = (object(), "x")
    assert pickle.loads(pickle.dumps(remote))._filesystem is None


@pytest.mark.parametrize("address", ["ftp://host/x", "nonsense://x"])
def test_an_address_that_nobody_reads_is_the_users_mistake(address):
    with pytest.raises(UserError, match=f"{address}: cannot be opened: "):
        Storage(address).read("a")


def test_rates_are_kept_by_model_and_size(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path / "cache"))
    key = throughput.key_of("test_resnet", 32, 0)
    assert key == "test_resnet-32px-cpu"
    assert throughput.measured_rate(key) is None
    throughput.record_rate(key, 1234.56)
    throughput.record_rate(throughput.key_of("test_resnet", 32, 0.5), 99)
    assert (throughput.measured_rate(key), throughput.measured_rate("test_resnet-32px-gpu")) == (1234.6, 99)
    throughput.record_rate("slow", 0.0123)
    assert throughput.measured_rate("slow") == 0.0123
    monkeypatch.delenv("RAY_ROBUST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert throughput.cache_folder() == Path("/somewhere/ray_robust")
