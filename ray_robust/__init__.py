"""Which data should one pre-train on, so that the fine-tuned model survives a shift?

From a shell, `ray-robust sweep SPEC.yaml` or `python -m ray_robust.sweep SPEC.yaml`; from Python (docs/python.md):

    import ray_robust as rr
    run = rr.sweep("quickstart", set={"seeds": 2})   # or rr.Run("runs/quickstart")
    study = run.analyse()

Importing this package imports neither torch nor ray, and no pandas: each name is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_robust.errors import Outage, Unfinished, UserError
    from ray_robust.interface.run import Run
    from ray_robust.spec.load import Spec, load_spec
    from ray_robust.sweep import sweep

__version__ = "0.1.0"
__all__ = ["Outage", "Run", "Spec", "Unfinished", "UserError", "__version__", "load_spec", "sweep"]

_FROM = {
    "Outage": "ray_robust.errors",
    "Run": "ray_robust.interface.run",
    "Spec": "ray_robust.spec.load",
    "Unfinished": "ray_robust.errors",
    "UserError": "ray_robust.errors",
    "load_spec": "ray_robust.spec.load",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for. `sweep` is the command's module, which can be called."""
    if name == "sweep":
        return importlib.import_module("ray_robust.sweep")
    if name in _FROM:
        return getattr(importlib.import_module(_FROM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
