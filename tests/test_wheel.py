"""The wheel: what is in it and what is not, and that it runs away from the checkout.

The wheel is installed into an environment of its own, which sees the packages of this one: 6 GB are not installed
again. So this does not test that what the wheel declares can be installed; that it declares the requirements is tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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
    "__init__.py", "__main__.py", "advice", "duplicates.py", "findings.py", "formatting.py", "input", "interface",
    "learned", "line", "notes.py", "options.py", "predict", "py.typed", "report", "scales.py", "scores", "stats",
    "study.py", "verdict.py", "verdict.schema.json", "views.py", "writing.py",
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
    sweeps = {f"ray_robust/{name}" for name in listed() if name.startswith("sweeps/") and name.endswith(".yaml")}
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


@pytest.mark.ray
def test_the_wheel_runs_quickstart_in_an_environment_of_its_own_from_another_folder(wheel, tmp_path):
    home, environment = tmp_path / "elsewhere", tmp_path / "environment"
    home.mkdir()
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def command(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        called = [str(environment / "bin" / program), *words]
        return subprocess.run(called, cwd=home, env=variables, capture_output=True, text=True)

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    packages = Path(command("python", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").stdout.strip())
    # paths and no more: what an editable install of the project left in these folders is not followed
    shared = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")
    place = command("python", "-c", "import ray_robust, analysis; print(ray_robust.__file__, analysis.__file__)")
    assert [Path(file).is_relative_to(packages) for file in place.stdout.split()] == [True, True], place.stderr
    assert command("ray-robust", "--help").stdout.startswith("usage: ray-robust COMMAND")
    assert "15 trials" in command("ray-robust", "sweep", "quantity", "--plan").stdout
    swept = command("ray-robust", "sweep", "quickstart")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "6 trials done, 0 failed" in swept.stdout
    assert (home / "runs/quickstart/report/index.html").exists()
    assert "6 trials: 6 done" in command("ray-robust", "status", "runs/quickstart").stdout
    assert command("ray-robust", "analyse", "runs/quickstart", "--out", "again").returncode == 0
    assert (home / "again/verdict.json").exists()
