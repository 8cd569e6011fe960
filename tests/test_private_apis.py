"""Private parts of Ray: those that are used are there, in one module, and nothing private of Optuna is."""

from __future__ import annotations

import ast
import importlib
import ipaddress
from operator import attrgetter
from pathlib import Path

import pytest

from ray_robust.launch.cluster import private_apis

ROOT = Path(__file__).parents[1]
FOREIGN = ("ray", "optuna")


@pytest.mark.parametrize(
    ("module", "member"), [(module, member) for module, members in private_apis.MEMBERS.items() for member in members]
)
def test_what_is_used_is_there(module, member):
    assert attrgetter(member)(importlib.import_module(module)) is not None


def test_the_loopback_setting_still_decides_which_address_ray_takes():
    from ray._private import ray_constants, services

    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == private_apis.SINGLE_NODE
    with private_apis.on_loopback():
        assert ipaddress.ip_address(services.resolve_ip_for_localhost("localhost")).is_loopback


def private_names(file: Path) -> list[str]:
    """What a module imports or reads of another package's names that begin with an underscore."""
    names = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names.append(ast.unparse(node))
    return [
        name
        for name in names
        if name.split(".")[0] in FOREIGN and any(p.startswith("_") and not p.startswith("__") for p in name.split("."))
    ]


def test_ray_data_is_not_used():
    """What it leaves running when an iteration ends early calls Ray while that is shut down: Ray (2.60) then ends
    the caller's process, a notebook's too, a minute later."""
    files = [file for file in (ROOT / "ray_robust").rglob("*.py") if imports_ray_data(file)]
    assert files == []


def imports_ray_data(file: Path) -> bool:
    text = file.read_text("utf-8")
    imported = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom))
    return "ray.data" in text or any(
        node.module == "ray" and "data" in (alias.name for alias in node.names) for node in imported
    )


def test_other_modules_use_what_is_public():
    own = ROOT / "ray_robust/launch/cluster/private_apis.py"
    assert private_names(own)
    files = [file for package in ("ray_robust", "analysis") for file in (ROOT / package).rglob("*.py") if file != own]
    assert {str(file): names for file in files if (names := private_names(file))} == {}
    assert [file for file in files if "_ot_" in file.read_text("utf-8")] == []
