"""The temporary folder of a local cluster: kept as long as its driver lives, removed by the next one after that."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from ray_robust.errors import Outage
from ray_robust.launch import cluster


def test_only_the_folders_of_drivers_that_are_gone_are_removed(tmp_path):
    folders = {name: Path(tempfile.mkdtemp(prefix="rr-", dir=tmp_path)) for name in ("alive", "gone", "beginning")}
    alive, gone = cluster._own(folders["alive"]), cluster._own(folders["gone"])
    (folders["gone"] / "ray").mkdir()
    gone.close()  # as the end of its process does
    (tmp_path / "rr-of-another-program").mkdir()
    cluster._remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {folders["alive"].name, folders["beginning"].name, "rr-of-another-program"}
    alive.close()
    cluster._remove_leftovers(tmp_path)
    assert not folders["alive"].exists()


LOG = "The last 20 lines of dashboard.log: " + "buf = self._recv(4) " * 40 + "TimeoutError: no answer in 60 s"


@pytest.fixture
def starts(monkeypatch):
    """Every start of Ray that is asked for, `fails` for those that end in an error; nothing is started."""
    asked: list[bool] = []
    fails: set[bool] = set()

    def init(**options):
        asked.append(options["include_dashboard"])
        if options["include_dashboard"] in fails:
            raise RuntimeError(LOG)
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as folder:  # its path is short enough for sockets
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield SimpleNamespace(asked=asked, fails=fails, folder=Path(folder))


def test_without_a_dashboard_that_does_not_start_a_cluster_is_there(starts):
    starts.fails.add(True)
    with cluster.connect() as there:
        assert starts.asked == [True, False]
        assert there.note.startswith("Ray's dashboard does not start, and is left out: ... ")
        assert there.note.endswith("TimeoutError: no answer in 60 s")


def test_a_cluster_that_does_not_start_says_why_at_the_end_of_its_line(starts):
    starts.fails |= {True, False}
    with pytest.raises(Outage, match=r"^Ray does not start on this machine: \.\.\. .*TimeoutError: no answer in 60 s$"):
        cluster.connect().__enter__()
    assert starts.asked == [True, False]
    assert list(starts.folder.iterdir()) == []


def test_nobody_starts_a_dashboard_that_is_not_asked_for(starts):
    with cluster.connect(dashboard=False) as there:
        assert (starts.asked, there.note) == ([False], "")
