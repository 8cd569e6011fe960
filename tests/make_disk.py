"""A file system of little room, of bytes or of inodes, to fill up in a test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, limits: str, more: str) -> Iterator[Callable[[], object]]:
    """A tmpfs with these limits at a folder, and a function that gives it `more`; skips where one may not mount."""
    mount = ["mount", "-t", "tmpfs", "-o", limits, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield lambda: subprocess.run(["mount", "-o", f"remount,{more}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
