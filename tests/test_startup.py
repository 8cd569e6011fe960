"""What the command imports before it can answer: modules, not seconds, since these depend on the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING = {"torch", "torchvision", "timm", "ray", "lightly", "open_clip", "wilds"}
REPORTING = {"altair", "vl_convert", "jinja2", "statsmodels", "matplotlib", "sklearn"}
READING = {"numpy", "pandas", "scipy", "pyarrow", "pydantic", "rich", "PIL", "simplejpeg"}


def loaded_by(arguments: list[str], cache: Path) -> set[str]:
    """The modules that `python -m ray_robust.sweep` with these arguments has loaded when it ends."""
    code = f"""
import atexit, json, runpy, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules))))
sys.argv[1:] = {arguments!r}
runpy.run_module("ray_robust.sweep", run_name="__main__", alter_sys=True)
"""
    # steps are timed, which takes torch, only where no rate is kept yet; ids need no data
    environment = {**os.environ, "RAY_ROBUST_TIMING": "0", "RAY_ROBUST_CACHE": str(cache)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
                           env=environment)  # fmt: skip
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_help_loads_the_arguments_alone(tmp_path):
    loaded = loaded_by(["--help"], tmp_path)
    assert "ray_robust.errors" in loaded
    assert not loaded & (TRAINING | REPORTING | READING)
    ours = {name.split(".")[1] for name in loaded if name.startswith("ray_robust.")}
    assert ours <= {"errors", "redact", "credentials", "text", "sweep"}, ours


@pytest.mark.slow
def test_a_plan_loads_neither_what_trains_nor_what_reports(tmp_path):
    loaded = loaded_by(["sweeps/quantity.yaml", "--plan"], tmp_path)
    assert "ray_robust.prepare.plan_text" in loaded
    assert not loaded & (TRAINING | REPORTING)
    unused = ("ray_robust.train.loop", "ray_robust.trial.", "ray_robust.launch.tuner", "analysis.report")
    assert not {name for name in loaded if name.startswith(unused)}
