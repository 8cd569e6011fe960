"""From a table of ID and OOD scores to a verdict: `python -m analysis RUN_DIR` or `python -m analysis TABLE.csv ...`.

`input` reads points, `stats` fits and tests, `line` checks the baseline, `study` puts these steps in order, `findings`
and `verdict` draw the conclusions, `report` writes them, `predict` plans the next sweep. Every step takes tables and
returns tables. Nothing here imports torch or ray; of `ray_robust` only `errors`, `text`, `files`, `metrics` and `run`
are imported.

From Python: `analysis.analyse(table, id=..., ood=..., group=..., baseline=...)` returns a `Study`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.interface.analyse import analyse
    from analysis.interface.study import Findings, Study

__all__ = ["Findings", "Study", "analyse"]

_FROM = {
    "Findings": "analysis.interface.study",
    "Study": "analysis.interface.study",
    "analyse": "analysis.interface.analyse",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: pandas and statsmodels take a second, which `--help` does without."""
    if name in _FROM:
        return getattr(importlib.import_module(_FROM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM})
