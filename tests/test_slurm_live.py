"""Slurm on this machine: jobs that share a node, and one that outlives its time limit; see slurm_cluster.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[1]


def test_jobs_share_a_node_and_continue_after_their_time_limit():
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    command = [sys.executable, str(ROOT / "tests/slurm_cluster.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    array = seen["array"]
    assert len(array["ports"]) == 2
    assert array["scores"][0] == array["scores"][1] == array["scores"][2] != []
    assert array["resources"] == [["1 CPUs, 1 GPUs"]] * 3
    assert ["no"] in array["pretrainings"], "the job that began last had the others' weights"
    limit = seen["limit"]
    assert [state for state in limit["states"] if state != "COMPLETING"] == ["RUNNING", "PENDING", "RUNNING"]
    assert len(limit["interrupted"]) == 2
    assert all("its node is drained" in reason for reason in limit["interrupted"])
    assert limit["report"]
    assert limit["images"]["limited"].keys() == limit["images"]["whole"].keys()
    assert all(limit["images"]["limited"][trial] <= count for trial, count in limit["images"]["whole"].items())
    assert limit["scores"]["limited"] == limit["scores"]["whole"] != []
    assert seen["left_over"] == []
