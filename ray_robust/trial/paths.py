"""Where the files of a sweep lie, for everyone who runs a part of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Places:
    """Run folder and checkpoints (addresses that all nodes share), and the image store (a path of each node's own)."""

    run: str
    checkpoints: str
    store: str
