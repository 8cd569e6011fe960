"""Opens a source or task from plain options, afresh every time, as a spec that says them would."""

from __future__ import annotations

from typing import Any

from ray_robust import registry
from ray_robust.data.pool import Pool


def open_pool(kind: str, name: str, options: dict[str, Any]) -> Pool:
    """The source or task (`kind`) of that name. Raises what its Options or its constructor raise."""
    cls = registry.find(kind, name)
    return cls(name, cls.Options(**options))
