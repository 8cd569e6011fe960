"""What is installed, and by whom it is checked: the lock goes with the bounds, the workflow runs what everyone runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LISTS = ["requirements.txt", "requirements-diffusion.txt", "requirements-track.txt", "requirements-completion.txt",
         "requirements-dev.txt", "requirements-docs.txt"]  # fmt: skip


def wanted(name: str) -> list[Requirement]:
    """The requirements of a file, its comments aside."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """What the lock pins, by name, each with its hashes."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    pins = {}
    for line in text.splitlines():
        pin = Requirement(line.partition(" --hash=")[0])
        pins[canonicalize_name(pin.name)] = pin, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line)
    return pins


def test_the_lock_has_a_release_within_the_bounds_of_every_requirement():
    pins = locked()
    for requirement in wanted("requirements.txt"):
        pin, _hashes = pins[canonicalize_name(requirement.name)]
        (exact,) = pin.specifier
        assert requirement.specifier.contains(exact.version), f"{pin} is not {requirement}: make lock"


def test_every_pin_of_the_lock_is_exact_and_has_hashes():
    pins = locked()
    assert len(pins) > 100
    for pin, hashes in pins.values():
        assert [part.operator for part in pin.specifier] == ["=="]
        assert hashes, pin.name
        assert pin.url is None


@pytest.mark.parametrize("name", [*LISTS, "requirements.lock"])
def test_no_list_names_an_index(name):
    assert not re.search(r"://|index-url|find-links|trusted-host", (ROOT / name).read_text())


ABOVE = {"ray": "2.56", "torch": "2.10", "pillow": "12.2", "jinja2": "3.1.6", "pyarrow": "23.0.1", "mlflow": "3.11",
         "transformers": "5.3"}  # fmt: skip


@pytest.mark.parametrize("name", ABOVE)
def test_bounds_are_at_or_above_the_release_that_mends_what_is_known(name):
    (requirement,) = (one for file in LISTS for one in wanted(file) if one.name == name)
    (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
    assert Version(bound) >= Version(ABOVE[name])


@pytest.mark.parametrize(("given", "there"), [((), False), (("LOCKED=1",), True)])
def test_make_installs_by_the_lock_where_asked_to(given, there, tmp_path):
    said = subprocess.run(["make", "-n", f"VENV={tmp_path}/venv", *given, "sweep"], capture_output=True, text=True,
                          check=True, cwd=ROOT).stdout  # fmt: skip
    (chosen,) = re.findall(r'if \[ -n "(.*?)" \]; then .*--require-hashes -r requirements.lock', said)
    assert bool(chosen) is there


def test_a_release_asks_for_the_audit(tmp_path):
    for given, there in (((), False), (("RELEASE=1",), True)):
        said = subprocess.run(["make", "-n", f"VENV={tmp_path}/venv", *given, "audit"], capture_output=True, text=True,
                              check=True, cwd=ROOT).stdout  # fmt: skip
        assert (".ci/audit.py --release" in said) is there


def test_the_workflow_runs_what_everyone_runs_and_may_write_nothing():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": "bash .ci/run"}
    assert "secrets." not in (ROOT / ".github/workflows/ci.yml").read_text()
