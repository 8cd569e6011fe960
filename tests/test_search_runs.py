"""A search as a user runs it: to its end, the same again, further, and after its driver was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from deadlines import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPEC = """
# Question: Does a search hold from end to end?
task: {name: camera-traps, train_images: 120, id_val_images: 60, id_test_images: 60, ood_val_images: 60,
       ood_test_images: 60}
pretrain:
  sources: {simplex: [species, fractals]}
  num_images: {loguniform: [200, 1000]}
  num_classes: {loguniform: [5, 40]}
  images_seen: 640
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
search: {method: optuna, trials: 5, startup: 3, objective: ood_val, where: num_images >= 5 * num_classes}
"""


def command(folder: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "RAY_ROBUST_STORE": str(folder / "store"), "RAY_ROBUST_CACHE": str(folder / "cache")}
    (folder / "look.yaml").write_text(SPEC)
    place = [str(folder / "look.yaml"), "--out", str(folder / "run")]
    return [sys.executable, "-m", "ray_robust.sweep", *place, *more], environment


def sweep(folder: Path, *more: str) -> subprocess.CompletedProcess:
    said, environment = command(folder, *more)
    return subprocess.run(said, capture_output=True, text=True, env=environment, cwd=folder, check=False)


def done(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "run" / "trials").glob("*/done")}


def test_a_search_that_is_killed_goes_on_and_repeats_nothing(tmp_path):
    said, environment = command(tmp_path)
    driver = subprocess.Popen(said, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(done(tmp_path)) >= 3 or driver.poll() is not None, 0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    journal, kept = (tmp_path / "run" / "search.jsonl").read_text(), done(tmp_path)
    assert len(kept) >= 3
    begun = {path.name for path in (tmp_path / "run" / "trials").iterdir()}

    ended = sweep(tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "search   5 configurations: 5 done; all 5 configurations were drawn" in ended.stdout
    assert (tmp_path / "run" / "search.jsonl").read_text().startswith(journal.rpartition("\n")[0])
    found = pd.read_csv(tmp_path / "run" / "search.csv")
    assert len(found) == found["group"].nunique() == 5
    assert found["state"].eq("done").all()
    assert found["ood_val"].notna().all()
    assert begun <= done(tmp_path)  # what had begun was gone on with
    assert len(done(tmp_path)) == 1 + 5
    results = pd.read_csv(tmp_path / "run" / "results.csv")
    assert results["group"].nunique() == 1 + 5
    assert len(pd.read_csv(tmp_path / "run" / "plan.csv")) == 6

    again = sweep(tmp_path)
    assert again.returncode == 0
    assert "6 of 6 trials are done, 0 to run" in again.stdout
    assert "dashboard" not in again.stdout  # Ray was not even started


def test_a_random_search_stops_what_is_behind(tmp_path):
    ended = sweep(tmp_path, "--set", "search={method: random, trials: 6, objective: ood_val, "
                  "stop: {method: asha, milestones: [0.4], keep: 0.4}}")  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    states = pd.read_csv(tmp_path / "run" / "search.csv")["state"].value_counts()
    assert states.sum() == 6
    results = pd.read_csv(tmp_path / "run" / "results.csv")
    stopped = results[results["status"] == "stopped"]
    assert stopped["trial"].nunique() == states.get("stopped", 0)
    assert stopped["ood"].isna().all()
    assert len(list((tmp_path / "run" / "rungs").rglob("*.json"))) == 6


def test_a_search_that_its_baseline_cannot_steer_reports_what_was_trained(tmp_path):
    ended = sweep(tmp_path, "--set", "search={method: optuna, trials: 5}", "--set", "finetune={epochs: 1, lr: 1e-3}")
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "effective_robustness cannot steer: the baseline has 1 point, too few for a line" in ended.stderr
    assert "scratch" in set(pd.read_csv(tmp_path / "run" / "results.csv")["group"])
    assert (tmp_path / "run" / "report" / "index.html").exists()
