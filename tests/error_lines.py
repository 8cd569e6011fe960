"""A good spec, and the lines that a sweep prints about a bad one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ray_robust import sweep
from ray_robust.errors import UserError, command

GOOD = """\
task: {name: camera-traps}
model: {name: test_resnet, image_size: 32}
pretrain:
  sources: {species: 1.0}
  num_images: 1000
  images_seen: 2000
finetune: {epochs: 2}
"""
WHOLE = "must be a whole number above 0 or all, not"


def error_lines(*arguments: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines on standard error of a command that must end with exit code 2 and leave no run folder."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command(lambda _: sweep.main(list(arguments)))
    assert ended.value.code == 2
    assert not Path("out").exists()
    assert not Path("runs").exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()


def problems(call: Callable[[], object]) -> list[str]:
    """Return the lines of the UserError that a call from Python must raise."""
    with pytest.raises(UserError) as error:
        call()
    return [str(problem) for problem in error.value.problems]
