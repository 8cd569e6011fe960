"""The wheel: what is in it and what is not, and that it runs away from the checkout.

It is installed with all that it declares into an environment that has nothing: gigabytes, from pip's cache where they
lie there. That test takes minutes, the others seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.load import load_spec

pytest.importorskip("build")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
EXTRAS = {
    "diffusion": ["requirements-diffusion.txt"],
    "track": ["requirements-track.txt"],
    "completion": ["requirements-completion.txt"],
    "all": ["requirements-diffusion.txt", "requirements-track.txt", "requirements-completion.txt"],
}
ANALYSIS = {  # what lies directly in `analysis`: a name in everyone's environment, so that nothing slips in
    "__init__.py", "__main__.py", "advice", "decisions", "duplicates.py", "findings.py", "formatting.py", "input",
    "interface", "learned", "line", "notes.py", "options.py", "predict", "py.typed", "report", "scales.py", "scores",
    "shifts", "stats", "study.py", "subsets", "verdict.py", "verdict.schema.json", "verify", "views.py", "writing.py",
}  # fmt: skip


def listed() -> list[str]:
    """The files of the checkout that git knows or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of the source distribution, as a release is."""
    folder = tmp_path_factory.mktemp("build")
    for name in listed():
        copy = folder / "src" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "src")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (made,) = (folder / "dist").glob("*.whl")
    return made


def test_the_wheel_holds_the_packages_and_the_sweeps_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == {"ray_robust", "analysis"}
    own = {name for name in listed() if name.startswith(("ray_robust/", "analysis/"))}
    sweeps = {f"ray_robust/{name}" for name in listed() if re.fullmatch(r"sweeps/.*\.(yaml|csv)", name)}
    assert inside == own | sweeps
    assert {name.split("/")[1] for name in inside if name.startswith("analysis/")} == ANALYSIS


def test_the_wheel_declares_the_lists_of_requirements(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    declared = [
        Requirement(line) for line in HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
    ]

    def required(*files: str) -> set[str]:
        lines = (line.partition("#")[0].strip() for file in files for line in (ROOT / file).read_text().splitlines())
        return {without_extra(Requirement(line)) for line in lines if line}

    def without_extra(one: Requirement) -> str:
        return f"{one.name.lower()}{sorted(one.extras)}{one.specifier}"

    plain = {without_extra(one) for one in declared if one.marker is None}
    assert plain == required("requirements.txt")
    for extra, files in EXTRAS.items():
        own = {without_extra(one) for one in declared if one.marker and one.marker.evaluate({"extra": extra})}
        assert own == required(*files), extra


@pytest.fixture
def environment(tmp_path) -> Iterator[Path]:
    """An environment without a package, for the time of a test: what is installed into it has gigabytes."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


def planned(name: str) -> int:
    """Return how many trials a built-in sweep has, as the checkout plans it."""
    return len(open_sweep(load_spec(name)).plan)


def registry_is_there(folder: Path) -> bool:
    """Return whether pip can obtain a small package; where nothing can be, the packages of the wheel neither."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--dest", str(folder)]
    return subprocess.run([*command, "packaging"], capture_output=True).returncode == 0


@pytest.mark.ray
@pytest.mark.wheel
def test_the_wheel_runs_quickstart_in_an_empty_environment_from_another_folder(wheel, environment, tmp_path):
    if not registry_is_there(tmp_path / "probe"):
        pytest.skip("pip reaches no package registry: what the wheel needs cannot be installed")
    home = tmp_path / "elsewhere"
    home.mkdir()
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    log = []

    def command(program: str, *words: str) -> str:
        called = [str(environment / "bin" / program), *words]
        ended = subprocess.run(called, cwd=home, env=variables, capture_output=True, text=True)
        log.append(f"$ {' '.join([program, *words])}\n{ended.stdout}{ended.stderr}")
        (tmp_path / "transcript.txt").write_text("\n".join(log))
        assert ended.returncode == 0, log[-1]
        return ended.stdout

    # modules are compiled when they are imported: most never are
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--no-compile"]
    installed = subprocess.run([*pip, f"{wheel}[completion]"], cwd=home, env=variables, capture_output=True, text=True)
    log.append(f"$ pip install '{wheel.name}[completion]'\n{installed.stdout}")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    packages = command("python", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    places = command("python", "-c", "import ray_robust, analysis; print(ray_robust.__file__, analysis.__file__)")
    assert [Path(file).is_relative_to(packages) for file in places.split()] == [True, True]
    assert command("ray-robust", "--help").startswith("usage: ray-robust COMMAND")
    assert "_shtab_ray_robust" in command("ray-robust", "completion", "bash")
    assert f"\n{planned('quantity')} trials, " in command("ray-robust", "sweep", "quantity", "--plan")
    count = planned("quickstart")
    assert f"\n{count} trials done, 0 failed, " in command("ray-robust", "sweep", "quickstart")
    assert (home / "runs/quickstart/report/index.html").exists()
    assert f"{count} trials: {count} done" in command("ray-robust", "status", "runs/quickstart")
    command("ray-robust", "analyse", "runs/quickstart", "--out", "again")
    assert (home / "again/verdict.json").exists()
