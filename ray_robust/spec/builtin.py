"""The sweeps that come with the program, by name: `quantity` is the file `quantity.yaml` among them.

A wheel has them inside the package (setup.py puts them there), a checkout beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "sweeps", PACKAGE.parent / "sweeps")
NAME = re.compile(r"\w[\w-]*(?:/\w[\w-]*)?")  # no suffix: what has one is a file of the user's


def builtin_sweeps() -> dict[str, Path]:
    """Return name -> file of every built-in sweep; those of a folder are named with it, e.g. `paper/NAME`."""
    for folder in FOLDERS:
        if files := sorted(folder.rglob("*.yaml")):
            return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    return {}


def builtin_file(path: str) -> Path | None:
    """Return the file that a built-in sweep names by its place in a checkout (`sweeps/paper/superclasses.csv`), where
    it lies here; None for any other path."""
    if not path.startswith("sweeps/"):
        return None
    return next((file for folder in FOLDERS if (file := folder.parent / path).is_file()), None)


def is_name(text: str) -> bool:
    """Return whether a text can be a built-in sweep's name and is no file here."""
    return NAME.fullmatch(text) is not None and not Path(text).exists()
