"""One module knows where checkpoints lie."""

from __future__ import annotations

import ast
from pathlib import Path

from ray_robust.files.storage import Storage
from ray_robust.run import checkpoint_paths

ROOT = Path(__file__).parents[1]


def test_weights_lie_beside_the_runs(tmp_path):
    shared = checkpoint_paths.shared_weights(Storage(tmp_path / "runs" / "x"))
    assert shared.local() == tmp_path / "runs" / "checkpoints"
    weights = checkpoint_paths.weights_of(shared.address, "a1b2")
    assert weights.local() == tmp_path / "runs" / "checkpoints" / "a1b2"
    assert not checkpoint_paths.is_finished(weights)
    weights.write("final.safetensors", b"")
    assert checkpoint_paths.is_finished(weights)
    assert checkpoint_paths.finetuning_state("lr1") == "checkpoints/lr1"


def test_no_other_module_writes_their_paths_out():
    parts = ("checkpoints", "final", "final.safetensors", "used.json")
    names = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "ray_robust").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.strip("/") in parts
    }
    assert names == {"ray_robust/run/checkpoint_paths.py"}
