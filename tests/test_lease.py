"""One driver per run folder: the second is refused by the name of the first, on one machine and on another."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deadlines import HANG, wait_for

from ray_robust.errors import Outage, UserError
from ray_robust.files.storage import Storage
from ray_robust.run import lease
from ray_robust.run.lease import hold_lease


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.04)
    monkeypatch.setattr(lease, "EXPIRY", 0.4)
    monkeypatch.setattr(lease, "SETTLE", 0.01)


def theirs(folder: Path, host: str, **more) -> None:
    said = {"host": host, "pid": 77, "began": "1", "id": "theirs", "time": 1.0, **more}
    Storage(folder).write_json("lease.json", said)


def renewed(folder: Path) -> None:
    """Another's lease, renewed as ours is: of two who write in one moment the last is seen."""
    wait_for(lambda: theirs(folder, "elsewhere"), 0.1)


def test_a_lease_is_there_while_it_is_held(tmp_path):
    with hold_lease(Storage(tmp_path / "run")):
        said = json.loads((tmp_path / "run/lease.json").read_text())
        assert (said["host"], said["pid"]) == (platform.node(), os.getpid())
    assert not (tmp_path / "run").exists()  # nothing else was written there


def test_a_second_driver_on_this_machine_is_refused_by_name(tmp_path):
    code = "import sys; from ray_robust.run.lease import hold_lease; from ray_robust.files.storage import Storage\n"
    code += "with hold_lease(Storage(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             cwd=Path(__file__).parents[1])  # fmt: skip
    try:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(UserError) as said, hold_lease(Storage(tmp_path)):
            pass
        assert f"process {first.pid} on {platform.node()} (last seen " in str(said.value)
        assert str(said.value).endswith(") is running in this folder; wait for it, or give another --out")
    finally:
        first.kill()
        first.wait()
    with hold_lease(Storage(tmp_path)):  # one that was killed leaves nothing to wait for
        pass


def test_a_second_driver_on_another_machine_is_refused_while_the_first_renews(tmp_path, monkeypatch):
    looks = []

    def look(_: float) -> None:
        looks.append(1)
        if len(looks) == 5:
            theirs(tmp_path, "elsewhere", time=6.0)

    monkeypatch.setattr(lease, "EXPIRY", HANG)
    monkeypatch.setattr(lease.time, "sleep", look)
    asked: list[str] = []
    theirs(tmp_path, "elsewhere")
    refused = pytest.raises(UserError, match=r"process 77 on elsewhere \(last seen 1970-.*\) is running in this")
    with refused, hold_lease(Storage(tmp_path), asked.append):
        pass
    assert len(asked) == 1
    assert asked[0].startswith("process 77 on elsewhere")
    assert len(looks) == 5


def test_a_lease_of_another_machine_that_is_not_renewed_is_taken_over(tmp_path):
    theirs(tmp_path, "elsewhere", time=time.time() + 3600)  # its clock does not matter
    with hold_lease(Storage(tmp_path)):
        assert Storage(tmp_path).read_json("lease.json")["host"] == platform.node()
    assert not (tmp_path / "lease.json").exists()


def test_a_machine_of_the_same_name_is_another_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(lease.time, "sleep", lambda _: theirs(tmp_path, platform.node(), space="other", time=2.0))
    theirs(tmp_path, platform.node(), space="other")  # a container of a cloned image: its processes are not ours
    with pytest.raises(UserError, match=rf"process 77 on {platform.node()}"), hold_lease(Storage(tmp_path)):
        pass


@pytest.mark.parametrize("ignored", [False, True])  # as in the background of a script
def test_who_loses_the_lease_ends(tmp_path, ignored):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        _loses(tmp_path, ignored)
    finally:
        signal.signal(signal.SIGINT, before)


def _loses(tmp_path: Path, ignored: bool) -> None:
    with hold_lease(Storage(tmp_path)) as mine:
        if ignored:
            signal.raise_signal(signal.SIGINT)  # Ctrl-C, meant for another
        with pytest.raises(KeyboardInterrupt):
            renewed(tmp_path)
        with pytest.raises(Outage, match=r"process 77 on elsewhere .* took over this folder while it could not be"):
            mine.check()
    assert Storage(tmp_path).read_json("lease.json")["id"] == "theirs"  # it is not ours to delete
    assert (signal.getsignal(signal.SIGINT) is signal.SIG_IGN) == ignored


@pytest.mark.parametrize("damage", ["", "{", '["other", 7]', "{}"])
def test_a_lease_that_is_damaged_while_it_is_held_is_written_anew(tmp_path, damage):
    file = tmp_path / "lease.json"
    with hold_lease(Storage(tmp_path)) as mine:
        file.write_text(damage)
        wait_for(lambda: "id" in file.read_text())
        mine.check()


def test_who_comes_second_in_the_same_moment_gives_way(tmp_path, monkeypatch):
    theirs(tmp_path, platform.node())  # a process that is gone
    monkeypatch.setattr(lease.time, "sleep", lambda _: theirs(tmp_path, "elsewhere"))
    with pytest.raises(UserError, match="process 77 on elsewhere"), hold_lease(Storage(tmp_path)):
        pass


def test_a_folder_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(UserError, match=r"--out .*/run: cannot be written: .*/file is a file, where a folder")
    with refused, hold_lease(Storage(tmp_path / "file" / "run")):
        pass
