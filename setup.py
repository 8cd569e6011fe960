"""What pyproject.toml cannot say: a wheel has `sweeps/` inside the package, where a checkout has it beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SWEEPS = Path("sweeps")


class WithSweeps(build_py):
    """Copies `sweeps/`, and the tables that sweeps name, to `ray_robust/sweeps/`."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the checkout itself is imported
            return
        for source, target in self._sweeps().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self._sweeps().values())]

    def _sweeps(self) -> dict[Path, Path]:
        files = sorted(file for file in SWEEPS.rglob("*") if file.suffix in (".yaml", ".csv"))
        return {file: Path(self.build_lib, "ray_robust", file) for file in files}


setup(cmdclass={"build_py": WithSweeps})
