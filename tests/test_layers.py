"""Imports between the folders form no circle, and what must stay light imports neither torch nor ray.

A room is a folder of `ray_robust` or `analysis`, or one of the few files that lie beside these folders; the folders
themselves are read from the disk, so that a new one needs no entry here.
"""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ray_robust", "analysis")
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
}
# Rooms of the first kind may use the analysis; it may use of ray_robust those of the second, its command the third too.
ASK_THE_ANALYSIS = {f"ray_robust.{name}" for name in ("sweep", "interface", "status", "prepare", "launch")}
USED_BY_THE_ANALYSIS = {f"ray_robust.{name}" for name in ("errors", "metrics", "text", "files", "run")}
POWER = "ray_robust.prepare"  # `python -m analysis power` asks what a spec would run
POWER_OF = ("analysis.__main__", POWER)
FLAT = {"ray_robust": 10, "analysis": 12, "ray_robust/launch": 7}  # modules that may lie in these folders themselves


@cache
def imported(name: str, late: bool = True) -> tuple[str, ...]:
    """Return what `_imports` yields; a file is read once."""
    return tuple(_imports(name, late))


def _imports(name: str, late: bool) -> Iterator[str]:
    """The modules that a module imports; without `late` only those imported when the module is. Modules that are named
    in the values of a dictionary, to be imported when they are asked for, are among the late ones."""
    tree = ast.parse(FILES[name].read_text("utf-8"))
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
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute here"
            module = node.module or ""
            full = (f"{module}.{each.name}" for each in node.names)
            yield from (one if one in FILES else module for one in full)
        elif late and isinstance(node, ast.Dict):
            yield from (one.value for one in node.values if isinstance(one, ast.Constant) and one.value in FILES)


def room(module: str) -> str:
    """`ray_robust.launch.search.asha` is in the room `ray_robust.launch`, `analysis.study` in one of its own."""
    return ".".join(module.split(".")[:2])


def own(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def shown(module: str) -> str:
    return str(FILES[module].relative_to(ROOT))


def circle(edges: dict[str, set[str]]) -> list[str]:
    """One circle among these edges, its first member again at the end; [] where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def rooms() -> dict[str, set[str]]:
    """Which rooms each room imports from. A package's own `__init__` imports from all, and nobody from it.

    The registry is left out: it names classes of every folder as text and imports each when a spec asks for it. So is
    the command `power` of the analysis, which is one of `ray_robust.prepare`.
    """
    edges: dict[str, set[str]] = {}
    for module in FILES:
        if module in PACKAGES or module == "ray_robust.registry":
            continue
        edges.setdefault(room(module), set()).update(
            room(name)
            for name in imported(module)
            if own(name) and name not in PACKAGES and room(name) != room(module)
            and (module, room(name)) != POWER_OF
        )  # fmt: skip
    return edges


def test_rooms_form_no_circle():
    assert circle(rooms()) == []


def test_files_form_no_circle():
    edges = {
        module: {name for name in imported(module) if name in FILES and (module, room(name)) != POWER_OF}
        for module in FILES
        if module not in (*PACKAGES, "ray_robust.registry")
    }
    assert circle(edges) == []


def test_a_circle_would_be_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert room("ray_robust.launch.search.asha") in rooms()["ray_robust.interface"]


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("ray_robust.")], ids=shown)
def test_who_asks_the_analysis(module):
    asked = [name for name in imported(module) if name.split(".")[0] == "analysis"]
    assert not asked or room(module) in ASK_THE_ANALYSIS, f"{shown(module)} imports {', '.join(asked)}"


@pytest.mark.parametrize("module", [name for name in FILES if name.split(".")[0] == "analysis"], ids=shown)
def test_the_analysis_reads_tables_only(module):
    names = set(imported(module))
    assert not [name for name in names if name.split(".")[0] in ("torch", "ray", "timm", "torchvision")]
    allowed = USED_BY_THE_ANALYSIS | ({POWER} if module == "analysis.__main__" else set())
    assert {room(name) for name in names if name.startswith("ray_robust.")} <= allowed


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("ray_robust.")], ids=shown)
def test_ray_is_imported_by_launch_alone(module):
    if room(module) != "ray_robust.launch":
        late = module != "ray_robust.sweep"  # the command may ask a running cluster for its size, never before
        assert not [name for name in imported(module, late) if name == "ray" or name.startswith("ray.")]


@pytest.mark.parametrize(("folder", "most"), FLAT.items())
def test_few_modules_lie_flat(folder, most):
    assert len(list((ROOT / folder).glob("*.py"))) <= most


def test_no_module_does_work_when_imported():
    for module, file in FILES.items():
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                call = ast.unparse(node.value.func)
                assert call.startswith("_Loader.add_"), f"{shown(module)}:{node.lineno} calls {call} when imported"


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",  # of one process each: what may bring more comes after what may not
    [
        {
            "ray_robust": ("torch", "ray", "timm", "numpy", "pandas", "wilds"),
            "analysis": ("torch", "ray", "timm", "numpy", "pandas", "wilds"),
            "ray_robust.__main__": ("torch", "ray", "timm", "numpy", "pandas", "wilds"),
            "ray_robust.spec.load": ("torch", "ray", "timm", "pandas", "wilds"),
            "ray_robust.plan.plan": ("torch", "ray", "timm", "pandas", "wilds"),
            "ray_robust.run.run_folder": ("torch", "ray", "timm", "wilds"),
            "ray_robust.interface.run": ("torch", "ray", "timm", "wilds", "statsmodels"),
            "ray_robust.status.__main__": ("torch", "ray", "timm", "wilds"),
            "ray_robust.sweep": ("torch", "ray", "timm", "wilds", "statsmodels"),
            "analysis.interface.analyse": ("torch", "ray", "timm", "wilds"),
            "ray_robust.launch.tuner": ("torch", "timm", "wilds"),
        },
        {"analysis.__main__": ("torch", "ray", "timm", "pandas")},
        {"ray_robust.train.loop": ("ray", "wilds"), "ray_robust.trial.run_trial": ("ray", "wilds")},
    ],
    ids=("without torch", "without pandas", "without ray"),
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


def names_of(module: str) -> set[str]:
    """What a module defines or imports at any depth but in functions, and the modules of a package."""
    names = {other.rpartition(".")[2] for other in FILES if other.rpartition(".")[0] == module}
    todo: list[ast.AST] = [ast.parse(FILES[module].read_text("utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(one.asname or one.name).partition(".")[0] for one in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            todo += ast.iter_child_nodes(node)
    return names


@pytest.mark.parametrize("folder", ["ray_robust", "analysis", "bench", "tests"])
def test_every_name_that_is_imported_exists(folder):
    """In functions too, where an import fails only when it is reached."""
    defined = {module: names_of(module) for module in FILES}
    missing = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.module}.{one.name}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and own(node.module or "")
        for one in node.names
        if one.name not in defined.get(node.module or "", ())
    ]
    assert missing == []


DESIGN = (ROOT / "docs/design.md").read_text("utf-8")


def block_after(words: str) -> list[str]:
    """The lines of the fenced block of docs/design.md that follows these words."""
    return DESIGN.partition(words)[2].partition("```\n")[2].partition("```")[0].splitlines()


def test_the_tree_of_the_design_has_every_folder():
    tree = "\n".join(block_after("## The folders"))
    folders = {file.parent for file in FILES.values() if file.name == "__init__.py"}
    missing = [str(folder) for folder in folders if not re.search(rf"\b{folder.name}/", tree)]
    assert missing == []
    named = set(re.findall(r"(\w+)/", tree))
    assert named == {folder.name for folder in folders}


def test_the_arrows_of_the_design_are_imports():
    edges = rooms()

    def reached(start: str) -> set[str]:
        seen, todo = set[str](), [start]
        while todo:
            for name in edges.get(todo.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen

    for line in block_after("An arrow means"):
        names = [[name if "." in name else f"ray_robust.{name}" for name in part.split(", ")]
                 for part in line.split(" -> ")]  # fmt: skip
        for above, below in itertools.pairwise(names):
            for one, other in itertools.product(above, below):
                assert other in reached(one), f"{one} -> {other}"
                assert one not in reached(other), f"{other} -> {one}"
