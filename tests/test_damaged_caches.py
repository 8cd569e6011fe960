"""The lease, the caches and the journal of a search, damaged in every way: they are made again, or cost one line."""

from __future__ import annotations

import json
import multiprocessing

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


NO_RATES = ["0", "-1", "NaN", "Infinity", "1e400", "9" * 400, "1e300", "true", "null", '"7"', "[7]"]


@pytest.mark.parametrize("value", NO_RATES)
def test_what_is_no_rate_is_no_rate_and_no_other_is_lost_by_it(tmp_path, monkeypatch, value):
    """A rate without end would promise a sweep that takes no time."""
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path))
    (tmp_path / "rates.json").write_text(f'{{"a": {value}, "b": 5}}')
    assert (throughput.measured_rate("a"), throughput.measured_rate("b")) == (None, 5)
    for none in (0.0, -1.0, float("nan"), float("inf")):
        throughput.record_rate("b", none)
    throughput.record_rate("c", 6.0)
    assert [throughput.measured_rate(key) for key in "abc"] == [None, 5, 6]


def test_two_processes_that_measure_at_once_keep_all_rates(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path))
    keys = [f"{process}-{i}" for process in range(2) for i in range(40)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.starmap(throughput.record_rate, [(key, 7.0) for key in keys], chunksize=len(keys) // 2)
    assert {throughput.measured_rate(key) for key in keys} == {7.0}


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
