"""Imports go one way, and the pure part imports neither torch nor ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# a module may import from the rows above its own, and from its own
LAYERS = (
    ("credentials",),
    ("redact", "reading", "room", "streams"),
    ("errors", "names", "registry", "storage", "rates", "yaml_lines", "choices", "sections", "conditions", "mixes"),
    ("proof", "trial_folder"),
    ("explain", "searching", "lease", "screen", "csv_text"),
    ("space", "axes"),
    ("reader", "drawing"),
    ("spec",),
    ("plan", "results"),
    ("standing",),
    ("data",),
    ("train",),
    ("launch",),
    ("preparation",),
    ("candidates",),
    ("plan_text", "provenance", "search_text"),
    ("sweep", "ingest", "status"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted((ROOT / "ray_robust").rglob("*.py")) + sorted((ROOT / "analysis").rglob("*.py"))


def imported(file: Path, late: bool = True) -> Iterator[str]:
    """The dotted names that a file imports; without `late` only those imported when the module is."""
    tree = ast.parse(file.read_text("utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not late and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            module = node.module or ""
            yield from (f"{module}.{name.name}" for name in node.names)


def part(name: str) -> str:
    """`ray_robust.data.pool.Pool` is in the part `data`."""
    return name.split(".")[1] if name.count(".") else ""


def shown(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_every_module_has_its_layer():
    parts = {
        file.relative_to(ROOT / "ray_robust").parts[0].removesuffix(".py")
        for file in MODULES
        if "analysis" not in file.parts
    }
    assert parts - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("file", [f for f in MODULES if "analysis" not in f.relative_to(ROOT).parts], ids=shown)
def test_imports_go_one_way(file):
    own = file.relative_to(ROOT / "ray_robust").parts[0].removesuffix(".py")
    names = {part(name) for name in imported(file) if name.startswith("ray_robust.")} & set(LEVEL)
    upwards = sorted(name for name in names if LEVEL[name] > LEVEL.get(own, 0))
    assert not upwards, f"{shown(file)} imports from {', '.join(upwards)}, which are above it"


@pytest.mark.parametrize("file", MODULES, ids=shown)
def test_ray_is_imported_by_launch_alone(file):
    inside = file.relative_to(ROOT).parts
    if inside[1] != "launch" and inside[-1] != "sweep.py":
        assert not [name for name in imported(file) if name == "ray" or name.startswith("ray.")]
    if inside[-1] == "sweep.py":  # it may ask a running cluster for its size, never before
        assert not [name for name in imported(file, late=False) if name == "ray" or name.startswith("ray.")]


@pytest.mark.parametrize("file", [f for f in MODULES if f.relative_to(ROOT).parts[0] == "analysis"], ids=shown)
def test_analysis_reads_tables_only(file):
    names = set(imported(file))
    assert not [name for name in names if name.split(".")[0] in ("torch", "ray", "timm", "torchvision")]
    allowed = {"results", "trial_folder", "errors", "names", "reading", "storage", "screen", "csv_text"}
    if file.name == "planning.py":  # a command: it asks what a spec would run
        allowed |= {"spec", "preparation"}
    if file.name == "__main__.py":  # the command: which run was meant by one that is not there
        allowed |= {"standing"}
    assert {part(name) for name in names if name.startswith("ray_robust")} <= allowed


def test_no_module_does_work_when_imported():
    for file in MODULES:
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                call = ast.unparse(node.value.func)
                assert call.startswith("_Loader.add_"), f"{shown(file)}:{node.lineno} calls {call} when imported"


@pytest.mark.parametrize(
    "steps",  # of one process each: what may bring more comes after what may not
    [
        {
            "ray_robust": ("torch", "ray", "timm", "numpy", "pandas", "wilds"),
            "ray_robust.spec.load.load": ("torch", "ray", "timm", "pandas", "wilds"),
            "ray_robust.plan.plan.plan": ("torch", "ray", "timm", "pandas", "wilds"),
            "ray_robust.run.run_folder": ("torch", "ray", "timm", "wilds"),
            "ray_robust.status": ("torch", "ray", "timm", "wilds"),
            "ray_robust.sweep": ("torch", "ray", "timm", "wilds", "statsmodels"),
            "analysis": ("torch", "ray", "timm"),
            "analysis.__main__": ("torch", "ray", "timm"),
            "ray_robust.launch.tuner": ("torch", "timm", "wilds"),
        },
        {"ray_robust.train.loop": ("ray", "wilds")},
    ],
    ids=("without torch", "without ray"),
)
def test_what_an_import_brings_along(steps):
    code = f"""
import importlib, sys
for module, heavy in {steps!r}.items():
    importlib.import_module(module)
    print(module, *sorted(set(heavy) & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.splitlines() == list(steps)
