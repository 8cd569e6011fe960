"""progress.json of a run folder: what its driver says of the whole sweep while it runs, for whoever looks from outside.

The driver alone knows how many trials a search will have and how long the rest takes (`launch.monitor.time_left`):
`status` and interim reports show its numbers in place of estimates of their own.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TypeGuard

from ray_robust.errors import Damaged
from ray_robust.files.storage import Storage

FILE = "progress.json"
WRITE_EVERY = 5.0  # seconds between two writings
RECENT = 120.0  # seconds for which what it says holds


@dataclass(frozen=True)
class SweepProgress:
    """What the driver says.

    time   when, in seconds since the epoch
    total  how many trials the sweep will have; of a search more than are drawn yet
    left   seconds to go then; None when it is too early to tell
    """

    time: float
    total: int
    left: float | None

    def is_recent(self, now: float) -> bool:
        """Return whether it still holds."""
        return abs(now - self.time) < RECENT

    def left_at(self, now: float) -> float | None:
        """Return the seconds to go at a later time, 0 at least."""
        return None if self.left is None else max(0.0, self.left - max(0.0, now - self.time))


def write_progress(folder: Storage, progress: SweepProgress) -> None:
    """Write what a driver says; a file that cannot be written is missing, and the sweep does without."""
    with suppress(OSError, Damaged):
        folder.write_json(FILE, asdict(progress), durable=False)


def forget_progress(folder: Storage) -> None:
    """Remove it: nothing runs any more."""
    with suppress(OSError):
        folder.delete(FILE)


def last_progress(folder: Storage) -> SweepProgress | None:
    """Return what the driver of a run folder last said, however long ago: one that was killed has left it."""
    kept = folder.recall_json(FILE) or {}
    time, total, left = kept.get("time"), kept.get("total"), kept.get("left")
    if not _is_number(time) or not isinstance(total, int) or not (left is None or _is_number(left)):
        return None
    return SweepProgress(time, total, left)


def read_progress(folder: Storage, now: float) -> SweepProgress | None:
    """Return the same, None where it was not within `RECENT` before `now`."""
    last = last_progress(folder)
    return last if last is not None and last.is_recent(now) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
