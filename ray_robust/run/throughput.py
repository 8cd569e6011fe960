"""Training speed of this machine as measured by earlier runs, for a plan's time estimate.

One small JSON file per user, `rates.json` in the cache folder; images per second of one worker, by model and size.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_robust.errors import Damaged
from ray_robust.files.storage import Storage

OVERHEAD, USUAL_OVERHEAD = "overhead-seconds", 28.0
EVALUATION_COST = 0.35  # a forward pass costs about a third of a training step; only used to estimate


def cache_folder() -> Path:
    """Return where the project keeps what can be made again: RAY_ROBUST_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("RAY_ROBUST_CACHE") or f"{base}/ray_robust").expanduser()


def key_of(model: str, image_size: int, gpus: float) -> str:
    """Return the name under which a rate is kept."""
    return f"{model}-{image_size}px-{'gpu' if gpus else 'cpu'}"


def measured_rate(key: str) -> float | None:
    """Return images per second and worker that the last run measured, or None."""
    rate = _all().get(key)
    return rate if isinstance(rate, int | float) and rate > 0 else None


def stage_key(key: str, kind: str) -> str:
    """Return the name under which the rate of one kind of training (`finetune-full`) is kept, beside that of all."""
    return f"{key}/{kind}"


def measured_overhead() -> float:
    """Return the seconds of a command beside its trials (starting Ray and its workers, the report): as the last run
    here measured them, else a usual value."""
    return measured_rate(OVERHEAD) or USUAL_OVERHEAD


def record_rate(key: str, images_per_second: float) -> None:
    """Remember a measured rate, where the cache can be written: a run is complete without."""
    with suppress(OSError, Damaged):
        rates = {**_all(), key: round(images_per_second, 1)}
        Storage(cache_folder()).write_json("rates.json", rates, durable=False)


def _all() -> dict[str, Any]:
    try:
        return Storage(cache_folder()).recall_json("rates.json") or {}
    except OSError:  # the cache cannot be reached
        return {}
