"""The whole command as a user runs it: a sweep, the same again, an edited one, a killed one, one with two workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from soak import soak

from ray_robust.run import results_schema

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPEC = """
# Question: Does the line hold from end to end?
task: {name: camera-traps, train_images: 400, id_val_images: 100, id_test_images: 200, ood_val_images: 100,
       ood_test_images: 200}
pretrain:
  sources: {species: 1.0}
  num_images: {grid: [500, 1000]}
  images_seen: 6400
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
seeds: 2
"""


class Home:
    """A folder with a spec, and caches of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.spec = folder, folder / "line.yaml"
        self.spec.write_text(SPEC)

    def sweep(self, *more: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "RAY_ROBUST_STORE": str(self.folder / "store"),
                       "RAY_ROBUST_CACHE": str(self.folder / "cache")}  # fmt: skip
        command = [sys.executable, "-m", "ray_robust.sweep", str(self.spec), "--out", str(self.folder / "run"), *more]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder, check=False)

    def results(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "run" / "results.csv")

    def trained(self) -> dict[str, int]:
        """Every trial's marker and when it was written."""
        return {path.parent.name: path.stat().st_mtime_ns for path in (self.folder / "run" / "trials").glob("*/done")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="module")
def first(home):
    return home.sweep()


def test_a_sweep_runs_from_its_yaml_to_its_report(home, first):
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    assert "0 of 6 trials are done, 6 to run" in first.stdout
    assert "\nto do 4 of 4 pre-trainings, 12 of 12 fine-tunings\n" in first.stdout
    assert "[6/6]" in first.stdout
    assert "Ray dashboard  http://127.0.0.1:" in first.stdout
    table = home.results()
    assert tuple(table.columns) == results_schema.names()
    assert len(table) == 6 * 2 * 2
    assert set(table["group"]) == {"scratch", "num_images=500", "num_images=1000"}
    run = home.folder / "run"
    for name in ("index.html", "trend.png", "trend.svg", "trend.pdf", "trends.csv", "robustness.csv", "contrasts.csv"):
        assert (run / "report" / name).stat().st_size > 0
    assert set(json.loads((run / "report" / "verdict.json").read_text())) >= {"scale", "baseline", "groups", "factors",
                                                                            "findings", "warnings"}  # fmt: skip
    page = (run / "report" / "index.html").read_text()
    assert "Does the line hold from end to end?" in page
    assert "http://" not in page.split("<body")[0].replace("http://www.w3.org", "")  # nothing is fetched


def test_run_again_nothing_trains(home, first):
    before = home.trained()
    again = home.sweep()
    assert again.returncode == 0
    assert "6 of 6 trials are done, 0 to run\n" in again.stdout
    assert "\nto do nothing\n" in home.sweep("--plan").stdout
    assert "dashboard" not in again.stdout  # Ray was not even started
    assert home.trained() == before


def test_an_edited_spec_trains_only_what_is_new(home, first):
    before, scores = home.trained(), home.results()
    home.spec.write_text(SPEC.replace("[500, 1000]", "[500, 2k]"))
    try:
        edited = home.sweep()
    finally:
        home.spec.write_text(SPEC)
    assert edited.returncode == 0, edited.stdout + edited.stderr
    assert "4 of 6 trials are done, 2 to run   about " in edited.stdout  # by the rates of the first
    assert "\nto do 2 of 4 pre-trainings, 4 of 12 fine-tunings\n" in edited.stdout
    assert "\n      2 trials need their pre-trainings and 2 fine-tunings each\n" in edited.stdout
    assert "\nbeside   2 finished trials of another plan in this folder, e.g. line-1000-s" in edited.stdout
    after = home.trained()
    assert {name: after[name] for name in before} == before
    assert sorted(name.rsplit("-", 1)[0] for name in set(after) - set(before)) == ["line-2000-s1", "line-2000-s2"]
    kept = home.results()
    assert set(kept["group"]) == {"scratch", "num_images=500", "num_images=2000"}
    shared = scores["group"] != "num_images=1000"
    assert kept[kept["group"] != "num_images=2000"]["ood"].tolist() == scores[shared]["ood"].tolist()


def test_another_learning_rate_trains_only_that_and_pre_trains_nothing(home, first):
    more = home.sweep("--set", "finetune.lr={grid: [1e-3, 3e-3, 1e-2]}", "--set", "seeds=1")
    assert more.returncode == 0, more.stdout + more.stderr
    assert "\nto do no pre-trainings, 3 of 9 fine-tunings\n" in more.stdout
    assert "\n      2 trials need one more fine-tuning; their pre-trainings are found\n" in more.stdout
    logs = {path.parent.name: path.read_text() for path in (home.folder / "run" / "trials").glob("*-s1-*/log.txt")}
    assert {name: log.count("pre-trains on") for name, log in logs.items()} == {
        n: int("scratch" not in n) for n in logs
    }
    assert {name.split("-")[1] for name, log in logs.items() if log.count("fine-tunes lr0.01-") == 1} == {
        "scratch",
        "500",
        "1000",
    }
    assert len(home.results()) == 3 * 3 * 2


def test_a_failing_trial_leaves_the_others_and_is_listed(home, first):
    failed = home.sweep("--set", "finetune.lr={grid: [1e-3, 1e9]}", "--set", "finetune.optimizer=sgd",
                        "--set", "seeds=1", "--set", "baseline={name: scratch, finetune: {lr: 1e-3}}")  # fmt: skip
    assert failed.returncode == 1
    assert "Traceback" not in failed.stdout + failed.stderr
    assert "1 trials done, 2 failed" in failed.stdout
    assert failed.stdout.count("the loss became nan by step") >= 2
    table = home.results()
    assert table.groupby("status")["trial"].nunique().to_dict() == {"done": 3, "failed": 2}  # the other rate of each
    assert table.loc[table["status"] == "done", "finetune_lr"].eq(1e-3).all()


def test_two_workers_run_the_same_trial(home, first):
    two = home.sweep("--set", "resources.workers=2", "--set", "seeds=[7]", "--set", "pretrain.num_images=500",
                     "--set", "baseline=none")  # fmt: skip
    assert two.returncode in (0, 1), two.stdout + two.stderr
    table = home.results()
    assert table["status"].tolist() == ["done"] * 4
    assert table["upstream_accuracy"].notna().all()


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_killed_sweep_ends_with_the_same_table(tmp_path, victim):
    (tmp_path / "line.yaml").write_text(SPEC)
    summary = soak(str(tmp_path / "line.yaml"), 1, victim, 3, ["seeds=1"])
    assert summary["same"], summary
    assert summary["kills"] == 1
