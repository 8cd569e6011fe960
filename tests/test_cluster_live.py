"""A cluster over ssh on this machine, from `ray up` to `ray down`, with a job and Prometheus; see on_prem.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import on_prem
import pytest

from ray_robust.launch.monitor import metrics

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
LATE = {"ray_rr_er", "ray_rr_gpu_memory"}  # when the baseline is done; with a GPU


def test_a_cluster_over_ssh_runs_a_job_shows_metrics_and_leaves_nothing():
    if reason := on_prem.missing():
        pytest.skip(reason)
    done = subprocess.run([sys.executable, str(ROOT / "tests/on_prem.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["without_token"] == 401
    assert re.search(r"(\d+) trials: \1 done; 100 % of the work is done", seen["status"])
    assert seen["report"]
    assert seen["left_over"] == []
    if shutil.which("prometheus"):
        names = {f"ray_{name}" for name in metrics.GAUGES} | {f"ray_{name}_total" for name in metrics.COUNTERS}
        assert names - LATE <= set(seen["metrics"])
