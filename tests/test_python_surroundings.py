"""What a sweep meets that is called from Python: the caller's Ray, an environment inside a caller's repository."""

from __future__ import annotations

import subprocess

import pytest

from ray_robust.errors import UserError
from ray_robust.prepare import provenance


def test_a_notebook_s_own_ray_is_left_alone(monkeypatch):
    import ray

    from ray_robust.launch.cluster.connect import connect

    ended: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("shutdown"))
    with pytest.raises(UserError) as error, connect():
        ended.append("connected")
    assert str(error.value) == (
        "Ray is in use in this process; call ray.shutdown() first, or run the sweep in another process"
    )
    assert ended == []


def test_an_environment_inside_a_repository_is_not_of_its_commits(tmp_path, monkeypatch):
    installed = tmp_path / "theirs/.venv/lib/ray_robust/prepare/provenance.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", *words], cwd=tmp_path / "theirs", check=True)
    monkeypatch.setenv("RAY_ROBUST_COMMIT", "of-the-wheel")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.versions()["commit"] == "of-the-wheel"
