"""The lease, the caches and the journal of a search, damaged in every way: they are made again, or cost one line."""

from __future__ import annotations

import json

import pytest
from make_damage import DAMAGES, make_damage

from ray_robust.errors import UserError
from ray_robust.files.storage import Storage
from ray_robust.launch.failures.checkpoint_gc import _last_used
from ray_robust.launch.search.journal import FILE, Journal
from ray_robust.run import lease, throughput


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_lease_keeps_nobody_out(tmp_path, monkeypatch, how):
    monkeypatch.setattr(lease, "EXPIRY", 0.01)
    monkeypatch.setattr(lease, "SETTLE", 0.0)
    theirs = {"host": "elsewhere", "pid": 77, "began": "1", "id": "theirs", "time": 1.0}
    Storage(tmp_path).write_json("lease.json", theirs)
    make_damage(tmp_path / "lease.json", how)
    with lease.hold_lease(Storage(tmp_path)):
        assert json.loads((tmp_path / "lease.json").read_text())["id"] != "theirs"


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_caches_are_made_again(tmp_path, monkeypatch, how):
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path))
    throughput.record_rate("a", 12.0)
    make_damage(tmp_path / "rates.json", how)
    assert throughput.measured_rate("a") is None or how == "flipped"
    throughput.record_rate("b", 13.0)
    assert throughput.measured_rate("b") == 13.0
    Storage(tmp_path).write_json("k/used.json", {"time": 5.0})
    make_damage(tmp_path / "k/used.json", how)
    assert _last_used(Storage(tmp_path), "k") >= 0.0


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_journal_of_a_search_is_a_line(tmp_path, how):
    Journal(Storage(tmp_path)).append_logs([{"op": 1, "n": n} for n in range(4)])
    make_damage(tmp_path / FILE, how)
    line = ""
    try:
        assert all("op" in log for log in Journal(Storage(tmp_path)).read_logs(0))
    except UserError as error:
        line = str(error)
    assert line == "" or ("search.jsonl: " in line and "\n" not in line)
