"""`bench.on_gpu`: every stage in small on the CPU, without Ray; a stage that hangs or fails costs no other."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from deadlines import HANG

from bench.on_gpu import __main__ as on_gpu
from bench.on_gpu.stages import STAGES, Row, Run, Stage
from ray_robust.spec.run_sections import Resources
from ray_robust.spec.sections import ModelSection
from ray_robust.train.context import Context

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_dry_run_passes_every_stage_without_ray(tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('no Ray on this machine')")
    out, paths = tmp_path / "out", [str(tmp_path), str(ROOT)]
    run = subprocess.run(
        [sys.executable, "-m", "bench.on_gpu", "--dry-run", "--out", str(out)], cwd=ROOT, timeout=HANG,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr + (out / "log.txt").read_text()
    assert json.loads(run.stdout.splitlines()[-1]) == {"passed": True, "missed": []}
    lines = on_gpu.read(out / "results.jsonl")
    assert {line["stage"]: line["ended"] for line in lines if "ended" in line} == {s.name: "passed" for s in STAGES}
    ways = {line.get("way") for line in lines if line.get("stage") == "at-once"}
    assert {"1 alone", "4 in turn", "4 stacked", "4 processes", "best of 4 at once"} <= ways
    passed = next(line["value"] for line in lines if line.get("subject") == "tests")
    assert re.fullmatch(r"[1-9] passed, 0 failed, 1 skipped", passed)  # a compiled training needs a real one


def test_everything_fits_into_eight_minutes():
    assert sum(stage.limit for stage in STAGES) < 8 * 60


def hangs(run, report):
    report([Row("model", "one way", "1 image/s", 0.5, 0.9)])
    report([Row("model", "one way", "2 images/s", 0.6, 0.9)])
    signal.pause()


def breaks(run, report):
    raise ValueError("no such model\nand more")


@pytest.fixture
def stages():
    return [
        Stage("hangs", 1 / on_gpu.SLOWER, hangs),
        Stage("breaks", 60.0, breaks),
        Stage("works", 60.0, lambda *_: True),
    ]


def test_a_stage_that_hangs_or_fails_leaves_what_it_had_and_the_others(stages, tmp_path):
    on_gpu.run_all(stages, True, tmp_path, 5.0, "bench.on_gpu --dry-run")
    lines = on_gpu.read(tmp_path / "results.jsonl")
    assert lines[0]["command"] == "bench.on_gpu --dry-run"
    assert [row[:4] for row in on_gpu.rows_of(lines) if row[1] != "stage"] == [
        ("hangs", "model", "one way", "2 images/s"),
        ("breaks", "error", "ValueError: no such model", ""),
    ]
    assert [row[2] for row in on_gpu.rows_of(lines) if row[1] == "stage"] == ["cut off", "failed", "passed"]
    assert on_gpu.missing(lines) == ["hangs: cut off", "breaks: failed", "hangs: model, one way: 0.6, wanted 0.9"]
    assert "no such model\nand more" in (tmp_path / "log.txt").read_text()


def test_what_no_time_is_left_for_is_said(stages, tmp_path):
    on_gpu.run_all(stages, True, tmp_path, 0.0, "bench.on_gpu")
    assert on_gpu.missing(on_gpu.read(tmp_path / "results.jsonl")) == [
        f"{stage.name}: no time was left" for stage in stages
    ]


@pytest.mark.skipif(Run(False).is_possible, reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(SystemExit, match="no GPU that can be used; --dry-run runs every stage in small on the CPU"):
        on_gpu.main(["--out", str(tmp_path)])


def test_what_was_measured_elsewhere_is_written_here(tmp_path, capsys):
    on_gpu.write(tmp_path, {"command": "bench.on_gpu", "where": "2026-12-01: a card"})
    on_gpu.write(tmp_path, {"stage": "vit-s", "subject": "vit", "way": "raw store", "value": "9", "ratio": 0.98,
                            "wanted": 0.97})  # fmt: skip
    page = tmp_path / "page.md"
    page.write_text("<!-- on a gpu -->\n<!-- /on a gpu -->\n")
    assert on_gpu.main(["--read", "--out", str(tmp_path), "--write", str(page)]) == 0
    assert "| vit-s | vit | raw store | 9 | 0.980 | 0.97 |\n\n`python -m bench.on_gpu`, 2026-12-01: a card\n" in (
        page.read_text()
    )


def test_what_no_gpu_has_shown_to_win_is_off_and_called_experimental():
    assert (Context().stacked, Resources().finetunings_at_once, ModelSection().compile) == (False, 1, "auto")
    page = (ROOT / "docs" / "keys.md").read_text("utf-8")
    for key in ("finetunings_at_once", "compile"):
        line = next(line for line in page.splitlines() if line.startswith(f"| `{key}` |"))
        assert "experimental" in line
