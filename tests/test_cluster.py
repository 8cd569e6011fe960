"""The temporary folder of a local cluster: kept as long as its driver lives, removed by the next one after that."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ray_robust.launch import cluster


def test_only_the_folders_of_drivers_that_are_gone_are_removed(tmp_path):
    folders = {name: Path(tempfile.mkdtemp(prefix="rr-", dir=tmp_path)) for name in ("alive", "gone", "beginning")}
    alive, gone = cluster._own(folders["alive"]), cluster._own(folders["gone"])
    (folders["gone"] / "ray").mkdir()
    gone.close()  # as the end of its process does
    (tmp_path / "rr-of-another-program").mkdir()
    cluster._remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {folders["alive"].name, folders["beginning"].name, "rr-of-another-program"}
    alive.close()
    cluster._remove_leftovers(tmp_path)
    assert not folders["alive"].exists()
