"""The whole way of a duplicate: from files through a sweep's first line and its run folder to the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests import make_images as make
from tests.test_duplicates import photo, task_tree

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPEC = """
task: {name: folder, path: t, metric: accuracy}
model: {name: test_resnet, image_size: 32}
pretrain: {sources: {web: {kind: folder, path: web}}, num_images: 12, images_seen: 64}
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
seeds: 2
"""


def test_a_leak_is_told_before_the_first_trial_and_er_is_given_without_it(tmp_path):
    root = task_tree(tmp_path / "t", per_class=5)
    for i in range(16):
        make.write(tmp_path / f"web/{'xy'[i % 2]}/{i}.png", make.encoded(photo(1000 + i), "PNG"))
    shutil.copy(root / "ood_test/dog/1.png", tmp_path / "web/x/leak.png")
    shutil.copy(root / "train/cat/2.png", root / "id_test/cat/leak.png")
    (tmp_path / "leak.yaml").write_text(SPEC)
    environment = {
        **os.environ,
        "RAY_ROBUST_STORE": str(tmp_path / "store"),
        "RAY_ROBUST_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "ray_robust.sweep", "leak.yaml", "--out", "run"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    told = [line for line in lines if line.startswith("duplicates")]
    assert told == [
        "duplicates  task folder: 1 of 11 id_test images is also in train (1 identical); e.g. id_test/cat/leak.png "
        "(cat) equals train/cat/2.png (cat); listed in data.json, and ER is also given without them",
        "duplicates  task folder in source web: 1 of 10 ood_test images is also in source web (1 identical); e.g. "
        "ood_test/dog/1.png (dog) equals x/leak.png (x); listed in data.json, and ER is also given without them",
    ]
    assert lines.index(told[0]) < next(i for i, line in enumerate(lines) if line.startswith("[1/"))
    report = tmp_path / "run/report"
    verdict = json.loads((report / "verdict.json").read_text())
    assert verdict["duplicates"]["affected"] == {"id_test": 1, "ood_test": 1}
    assert verdict["duplicates"]["images"] == {"id_test": 11, "ood_test": 10}
    assert verdict["duplicates"]["note"] == ""  # the predictions gave the very scores
    assert pd.read_csv(report / "duplicates.csv")["group"].tolist() == list(verdict["groups"])
    assert "Images that occur more than once" in (report / "index.html").read_text("utf-8")
