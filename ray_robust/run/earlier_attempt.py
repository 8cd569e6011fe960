"""What is known of the attempt before, while a trial that had ended is run again: earlier.json in its folder.

A trial is run again where it failed, or where it was done and gets more fine-tunings. What of its fine-tunings ended
well counts meanwhile, and its progress.json says nothing yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_robust.files.storage import Storage
from ray_robust.run.checksums import seal

FILE = "earlier.json"


@dataclass(frozen=True)
class EarlierAttempt:
    """How it ended.

    reason       why it failed; "" where it did not
    finetunings  reasons of the fine-tunings that failed in it or before it, by id
    progress     the time in the progress.json that it left; None where it left none
    """

    reason: str = ""
    finetunings: Mapping[str, str] = field(default_factory=dict)
    progress: float | None = None

    @classmethod
    def read(cls, folder: Storage) -> EarlierAttempt | None:
        """Return that of a trial's folder; None where the trial is not run again. A damaged file says only that it
        is."""
        written = folder.recall_json(FILE)
        if written is None:
            return cls() if folder.exists(FILE) else None
        reason, progress = written.get("reason"), written.get("progress")
        return cls(
            reason if isinstance(reason, str) else "",
            reasons_of(written),
            progress if isinstance(progress, int | float) else None,
        )

    def write(self, folder: Storage) -> None:
        written = {"reason": self.reason, "finetunings": dict(self.finetunings), "progress": self.progress}
        folder.write(FILE, seal(written))


def reasons_of(failure: Mapping[str, Any]) -> dict[str, str]:
    """Return why fine-tunings failed, by id, of what failed.json or earlier.json says, {} where it does not."""
    reasons = failure.get("finetunings")
    return {name: str(reason) for name, reason in reasons.items()} if isinstance(reasons, dict) else {}
