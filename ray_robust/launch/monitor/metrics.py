"""The Ray metrics of a sweep, hence those of Prometheus and Grafana: every metric, its unit and its labels.

Owns the names (Ray puts `ray_` before them, and `_total` behind a counter). All are set by the driver, which lives as
long as the sweep: the gauges of a worker vanish with it. Their values are read from the run folder by `monitor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_robust.status.progress import ErSoFar

TRIAL = {  # gauges per trial, by the key of progress.json that they show
    "images_per_second": "training images per second",
    "epoch": "epochs of the present stage",
    "share": "share of the trial's work that is done, 0-1",
    "id": "latest score on id_test, 0-1",
    "ood": "latest score on ood_test, 0-1",
    "gpu_memory": "most memory that torch has held on the trial's GPU, bytes",
}
STAGES = {"starting": 0, "pretrain": 1, "finetune": 2}  # the values of rr_stage; what is over is ENDED
ENDED = 3
GAUGES = {  # name: what it is, and its labels beside `sweep`
    **{f"rr_{key}": (what, ("trial",)) for key, what in TRIAL.items()},
    "rr_stage": ("0 starting, 1 pre-training, 2 fine-tuning, 3 over", ("trial",)),
    "rr_trials": ("trials of the sweep by state", ("state",)),
    "rr_done": ("share of the sweep's work that is done, 0-1", ()),
    "rr_seconds_left": ("seconds to go at the present speed", ()),
    "rr_er": ("mean effective robustness so far, percentage points", ("group", "task")),
}
COUNTERS = {
    "rr_images": ("training images processed while this driver watched", ()),
    "rr_ended": ("trials that ended while this driver watched, by how", ("state",)),
    "rr_starts": ("times that a trial began, or began again after its worker died", ()),
}
MOST_TRIALS = 500  # that have gauges of their own: a series stays in memory for as long as the driver lives


class SweepMetrics:
    """The metrics of one sweep, in the driver's process. Needs a running Ray."""

    def __init__(self, sweep: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._metrics: dict[str, Any] = {  # a Counter or a Gauge, as the name says
            name: kind(name, description=what, tag_keys=(*labels, "sweep"))
            for kind, described in ((Gauge, GAUGES), (Counter, COUNTERS))
            for name, (what, labels) in described.items()
        }
        for metric in self._metrics.values():
            metric.set_default_tags({"sweep": sweep})
        self._images: dict[str, int] = {}  # by running trial: the images that were counted
        self._shown: set[str] = set()
        self._set: dict[str, set[str]] = {}  # by running trial: the gauges that it has set

    def started(self, trial: str) -> None:
        """Count that a trial begins, or begins again."""
        self._metrics["rr_starts"].inc()
        self._stage(trial, STAGES["starting"])

    def progress(self, trial: str, progress: Mapping[str, Any]) -> None:
        """Set the gauges of a running trial from its progress.json."""
        worked = int(progress.get("worked", progress.get("images", 0)))
        before = self._images.setdefault(trial, worked)
        self._images[trial] = max(before, worked)
        if worked > before:
            self._metrics["rr_images"].inc(worked - before)
        if not self._has(trial):
            return
        self._stage(trial, STAGES.get(progress.get("stage", ""), STAGES["starting"]))
        for key in TRIAL:
            if progress.get(key) is not None:
                self._set.setdefault(trial, set()).add(key)
                self._metrics[f"rr_{key}"].set(float(progress[key]), tags={"trial": trial})

    def ended(self, trial: str, state: str) -> None:
        """Count the end of a trial; its last scores stay on show, its speed does not."""
        self._metrics["rr_ended"].inc(tags={"state": state})
        self._images.pop(trial, None)
        if self._has(trial):
            self._stage(trial, ENDED)
            for key in {"images_per_second", "gpu_memory"} & self._set.pop(trial, set()):
                self._metrics[f"rr_{key}"].set(0.0, tags={"trial": trial})

    def sweep(self, states: Mapping[str, int], done: float, left: float | None) -> None:
        """Set the metrics of the whole sweep: trials by state, the share of work done (0-1), seconds to go."""
        for state, count in states.items():
            self._metrics["rr_trials"].set(count, tags={"state": state})
        self._metrics["rr_done"].set(done)
        if left is not None:
            self._metrics["rr_seconds_left"].set(left)

    def er(self, er: ErSoFar) -> None:
        """Set the mean ER by task and group, in percentage points."""
        for (task, group), mean in er.means.items():
            self._metrics["rr_er"].set(mean, tags={"task": task, "group": group})

    def _has(self, trial: str) -> bool:
        """Whether a trial has gauges of its own."""
        if trial not in self._shown and len(self._shown) < MOST_TRIALS:
            self._shown.add(trial)
        return trial in self._shown

    def _stage(self, trial: str, stage: int) -> None:
        if self._has(trial):
            self._metrics["rr_stage"].set(stage, tags={"trial": trial})
