"""The temporary folder of a local cluster: kept as long as its driver lives, removed by the next one after that."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from ray_robust.errors import Outage
from ray_robust.launch.cluster import connect, temporary_folder


def test_only_the_folders_of_drivers_that_are_gone_are_removed(tmp_path):
    folders = {name: Path(tempfile.mkdtemp(prefix="rr-", dir=tmp_path)) for name in ("alive", "gone", "beginning")}
    alive, gone = temporary_folder.own(folders["alive"]), temporary_folder.own(folders["gone"])
    (folders["gone"] / "ray").mkdir()
    gone.close()  # as the end of its process does
    (tmp_path / "rr-of-another-program").mkdir()
    temporary_folder.remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {folders["alive"].name, folders["beginning"].name, "rr-of-another-program"}
    alive.close()
    temporary_folder.remove_leftovers(tmp_path)
    assert not folders["alive"].exists()


def strange(folder: Path) -> None:
    """A folder without the mark of ours, by what is in it."""
    folder.mkdir(mode=0o700)
    (folder / "kept").write_text("of another program")


@pytest.mark.parametrize(
    "kind", ["fifo", "unmarked", "a link to a marked one", "of all", "a linked folder", "a folder"]
)
def test_no_folder_is_removed_but_one_that_this_program_made_for_this_account(tmp_path, kind):
    made = Path(tempfile.mkdtemp(prefix="rr-", dir=tmp_path))
    temporary_folder.own(made).close()
    base, folder = tmp_path / "base", tmp_path / "base/rr-x"
    base.mkdir()
    if kind == "a linked folder":
        folder.symlink_to(made)
    else:
        strange(folder)
    if kind == "fifo":
        os.mkfifo(folder / "driver")  # opening it would wait for a writer
    elif kind == "unmarked":
        (folder / "driver").write_text("")
    elif kind == "a link to a marked one":
        (folder / "driver").symlink_to(made / "driver")
    elif kind == "a folder":
        (folder / "driver").mkdir()
    elif kind == "of all":
        temporary_folder.own(folder).close()
        folder.chmod(0o777)
    temporary_folder.remove_leftovers(base)
    assert folder.exists()
    assert (made / "driver").exists()
    if kind != "a linked folder":
        assert (folder / "kept").read_text() == "of another program"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_folder_of_another_account_is_left_to_it(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="rr-", dir=tmp_path))
    temporary_folder.own(folder).close()
    os.chown(folder, 65534, 65534)
    temporary_folder.remove_leftovers(tmp_path)
    assert folder.exists()


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
    monkeypatch.setattr(connect, "others", lambda: "")
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as folder:  # its path is short enough for sockets
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield SimpleNamespace(asked=asked, fails=fails, folder=Path(folder))


def test_without_a_dashboard_that_does_not_start_a_cluster_is_there(starts):
    starts.fails.add(True)
    with connect.connect() as there:
        assert starts.asked == [True, False]
        assert there.note.startswith("Ray's dashboard does not start, and is left out: ... ")
        assert there.note.endswith("TimeoutError: no answer in 60 s")


def test_a_cluster_that_does_not_start_says_why_at_the_end_of_its_line(starts):
    starts.fails |= {True, False}
    with pytest.raises(
        Outage, match=r"^Ray does not start on this machine: \.\.\. .*TimeoutError: no answer in 60 s; where"
    ):
        connect.connect().__enter__()
    assert starts.asked == [True, False]
    assert list(starts.folder.iterdir()) == []


def test_nobody_starts_a_dashboard_that_is_not_asked_for(starts):
    with connect.connect(dashboard=False) as there:
        assert (starts.asked, there.note) == ([False], "")
