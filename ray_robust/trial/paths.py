"""Where the files of a sweep are, for every process that runs a part of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunPaths:
    """Run folder and checkpoints (addresses that all nodes share), and the image store (a path local to each node)."""

    run: str
    checkpoints: str
    store: str
