"""cluster.yaml holds what it promises, checked without a cloud: Ray's own schema, no open port, a token everywhere."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).parents[1] / "cluster.yaml"
pytest.importorskip("ray")


@pytest.fixture(scope="module")
def written() -> dict:
    return yaml.safe_load(FILE.read_text())


def starts(cluster: dict) -> list[str]:
    """The `ray start` commands of head and workers."""
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_ray_takes_it(written):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(written)
    validate_config(prepared)
    assert prepared["setup_commands"] == written["setup_commands"], "Ray's defaults must not creep in"
    assert prepared["available_node_types"]["gpu"]["max_workers"] <= prepared["max_workers"]


def test_a_misspelt_key_would_be_noticed(written):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError, match="idle_timeout"):
        validate_config(prepare_config({**written, "idle_timeout": 5}))


def test_token_authentication_is_on_and_every_node_has_the_token(written):
    head, worker = starts(written)
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in worker
    assert any("RAY_AUTH_MODE=token" in command and ".bashrc" in command for command in written["setup_commands"])
    assert written["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_nothing_but_ssh_is_open(written):
    assert "--dashboard-host=127.0.0.1" in shlex.split(starts(written)[0])
    assert "IpPermissions" not in written["provider"]["security_group"], "Ray's own rules: the group itself, and ssh"
    assert "0.0.0.0" not in FILE.read_text()


def test_it_scales_and_stops(written):
    workers = written["available_node_types"]["gpu"]
    assert 0 < workers["min_workers"] < workers["max_workers"]
    assert 0 < written["idle_timeout_minutes"] <= 15


def test_every_node_installs_the_project_that_is_here(written):
    mounts = {
        there: FILE.parent / here for there, here in written["file_mounts"].items() if there.startswith("~/project")
    }
    assert all(path.exists() for path in mounts.values()), "a mounted path is not in the checkout"
    install = shlex.split(next(command for command in written["setup_commands"] if "requirements.txt" in command))
    assert install[-4:] == ["-r", "~/project/requirements.txt", "-e", "~/project"]
    declared = tomllib.loads((FILE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = {name.rstrip("*") for name in declared["include"]} - {"bench"}
    assert {f"~/project/{name}" for name in (*packages, "pyproject.toml", "README.md")} <= set(mounts)
