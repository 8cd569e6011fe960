"""log.txt and progress.json of a trial, for people, the live view and the heartbeat watchdog.

Owns how far a trial is: the share of its work that is done; and what all of its attempts have used, repeated work
included: `worked`, training images, and `seconds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from ray_robust.plan.plan import Trial
from ray_robust.run.run_folder import TrialFolder
from ray_robust.text.names import printable
from ray_robust.train.context import Context, Progress, signs_of_life

HEARTBEAT_INTERVAL = 5.0  # seconds between two, while there is nothing else to report


class TrialLog:
    """Only the first rank writes; others give signs of life, for it to pass on while it waits. Storage that is full
    or unreachable for a moment costs lines, never the trial."""

    def __init__(self, trial: Trial, folder: TrialFolder, context: Context) -> None:
        self.folder, self.writes, self.device = folder, context.first, context.device
        earlier = folder.storage.recall("log.txt") if self.writes else None
        self.lines = (earlier or b"").decode(errors="replace").splitlines()
        self.total = trial.pretrain_images + sum(f.images for f in trial.finetunings)
        self.images: dict[str, int] = {}  # by stage: training images processed
        self.now: dict[str, Any] = {**asdict(Progress("starting", 0.0, 0.0, 0, 0.0))}
        self.written = 0.0
        before = folder.progress() if self.writes else {}
        self.worked, self._began = int(before.get("worked", 0)), time.monotonic() - before.get("seconds", 0.0)

    def write(self, line: str) -> None:
        """Add a line, with the time before it."""
        if self.writes:
            self.lines.append(printable(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}"))
            with suppress(OSError):
                self.folder.storage.write("log.txt", "\n".join(self.lines) + "\n", durable=False)

    def stage_done(self, stage: str, images: int) -> None:
        """Count a stage as finished, now or by an earlier attempt."""
        self.images[stage] = images

    def reporter(self, stage: str) -> Callable[[Progress], None]:
        """Return the function that a stage reports to. The first report is what an earlier attempt had done."""
        began = False

        def report(progress: Progress) -> None:
            nonlocal began
            self.worked += max(0, progress.images - self.images.get(stage, 0)) if began else 0
            began = True
            self.images[stage] = progress.images
            self.now |= {key: value for key, value in asdict(progress).items() if value is not None}
            self._write()

        return report

    def heartbeat(self) -> None:
        """Give a sign of life, if that was not done for some seconds: of the first rank it is progress.json."""
        if time.monotonic() - self.written > HEARTBEAT_INTERVAL:
            self._write()

    def _write(self) -> None:
        self.written = time.monotonic()
        if self.writes:
            share = min(1.0, sum(self.images.values()) / max(1, self.total))
            used = {"worked": self.worked, "seconds": round(self.written - self._began, 3)}
            now = {**self.now, "share": share, **used, "time": time.time()}
            if self.device.type == "cuda":
                now["gpu_memory"] = torch.cuda.max_memory_allocated(self.device)  # bytes
            with suppress(OSError):
                self.folder.storage.write_json("progress.json", now, durable=False)
        else:
            signs_of_life(more=1)
