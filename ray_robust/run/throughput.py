"""Training speed of this machine as measured by earlier runs, for a plan's time estimate.

One small JSON file per user, `rates.json` in the cache folder; images per second of one worker, by model and size.
Several sweeps and plans may write it at once: each takes `rates.lock` beside it in turn.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

from ray_robust.errors import Damaged, check_local
from ray_robust.files.storage import Storage

OVERHEAD, USUAL_OVERHEAD = "overhead-seconds", 28.0
WITH_PILOT = "overhead-seconds/pilot"  # of a search whose trials begin twice: after the pilot of its baseline again
USUAL_SECOND_START = 6.0
MOST = 1e9  # images per second, or seconds: what is beyond it was never measured
EVALUATION_COST = 0.35  # a forward pass costs about a third of a training step; only used to estimate


def cache_folder() -> Path:
    """Return where the project keeps what can be made again: RAY_ROBUST_CACHE, else the user's cache folder. Raises
    UserError for an address."""
    check_local("RAY_ROBUST_CACHE", os.environ.get("RAY_ROBUST_CACHE"))
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("RAY_ROBUST_CACHE") or f"{base}/ray_robust").expanduser()


def key_of(model: str, image_size: int, gpus: float, stored: int | None = None) -> str:
    """Return the name under which a rate is kept; `stored`: the side of JPEGs that each image is cut from."""
    store = "" if stored is None else f"-jpeg{stored}"
    return f"{model}-{image_size}px{store}-{'gpu' if gpus else 'cpu'}"


def measured_rate(key: str) -> float | None:
    """Return images per second and worker that the last run measured, or None."""
    return measured_rates().get(key)


def group_key(key: str, workers: int) -> str:
    """Return the name of the rate of one of several workers that train a trial together."""
    return key if workers == 1 else f"{key}/of several"


def stage_key(key: str, kind: str) -> str:
    """Return the name under which the rate of one kind of training (`finetune-full`) is kept, beside that of all."""
    return f"{key}/{kind}"


def measured_overhead(pilot: bool = False) -> float:
    """Return the seconds of a command beside its trials (planning, starting Ray and its workers, the report), with the
    pilot of a baseline or without: as the last such run here measured them, else a usual value."""
    if not pilot:
        return measured_rate(OVERHEAD) or USUAL_OVERHEAD
    return measured_rate(WITH_PILOT) or measured_overhead() + USUAL_SECOND_START


def record_rate(key: str, images_per_second: float) -> None:
    """Remember a measured rate, where it is one and the cache can be written: a run is complete without."""
    if not _is_rate(images_per_second):
        return
    with suppress(OSError, Damaged):
        folder = Storage(cache_folder())
        Path(folder.address).mkdir(parents=True, exist_ok=True)
        with open(Path(folder.address, "rates.lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a crash
            folder.write_json("rates.json", {**measured_rates(), key: float(f"{images_per_second:.5g}")}, durable=False)


def measured_rates() -> dict[str, float]:
    """Return every rate that is kept, by its name."""
    try:
        kept = Storage(cache_folder()).recall_json("rates.json") or {}
    except OSError:  # the cache cannot be reached
        return {}
    return {key: rate for key, rate in kept.items() if _is_rate(rate)}


def _is_rate(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST
