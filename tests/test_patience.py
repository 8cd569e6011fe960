"""RAY_ROBUST_PATIENCE: checked before a command begins, and the same in every worker of a cluster that is joined."""

from __future__ import annotations

import json
import os

import pytest
from soak import raylets

import analysis.__main__ as analysis
from ray_robust import ingest, sweep
from ray_robust.errors import UserError
from ray_robust.files.retry import patience, patiently
from ray_robust.launch.cluster import connect
from ray_robust.status import __main__ as status

NAME = "RAY_ROBUST_PATIENCE"
COMMANDS = {
    "sweep": (sweep.main, ["quickstart", "--out", "runs/x"]),
    "plan": (sweep.main, ["quickstart", "--plan"]),
    "ingest": (ingest.main, ["species"]),
    "status": (status.main, ["runs/x"]),
    "report": (analysis.main, ["runs/x"]),
    "verify": (analysis.main, ["verify", "runs/x"]),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("written", ["10m", "-1", "nan"])
def test_a_command_says_at_once_that_it_is_no_number(tmp_path, monkeypatch, command, written):
    """It was read where storage had just failed, and ended in a traceback there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(NAME, written)
    main, words = COMMANDS[command]
    with pytest.raises(UserError) as refused:
        main(words)
    assert str(refused.value) == f"{NAME}={written}: must be seconds, as a number of at least 0, e.g. {NAME}=600"
    assert list(tmp_path.iterdir()) == []


def test_it_is_read_before_anything_fails(monkeypatch):
    monkeypatch.setenv(NAME, "10m")
    tries = []
    with pytest.raises(UserError, match=NAME):
        patiently(lambda: tries.append(1), lambda: "x", lambda error, passed: "")
    assert tries == []


@pytest.mark.parametrize(("written", "seconds"), [("", 60.0), (" 600 ", 600.0), ("0", 0.0), ("1e3", 1000.0)])
def test_what_it_may_be(monkeypatch, written, seconds):
    monkeypatch.setenv(NAME, written)
    assert patience() == seconds


def test_a_joined_cluster_is_told_unless_the_job_has_told_it(monkeypatch):
    monkeypatch.delenv(NAME, raising=False)
    assert connect._passed_on() is None
    monkeypatch.setenv(NAME, "600")
    for job in ({"runtime_env": {}}, {"runtime_env": {"env_vars": {"OTHER": "1"}}, "metadata": {}}):
        monkeypatch.setenv(connect.JOB, json.dumps(job))
        assert connect._passed_on() == {"env_vars": {NAME: "600"}}
    monkeypatch.setenv(connect.JOB, json.dumps({"runtime_env": {"env_vars": {NAME: "600"}}}))
    assert connect._passed_on() is None


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_a_joined_cluster_have_it(monkeypatch):
    import ray

    monkeypatch.delenv(NAME, raising=False)
    with raylets(1) as cluster:  # whose nodes have an environment without it
        monkeypatch.setenv(NAME, "7")
        with connect.connect(cluster.address):
            asked = ray.remote(lambda: os.environ.get(NAME)).remote()
            assert ray.get(asked) == "7"
