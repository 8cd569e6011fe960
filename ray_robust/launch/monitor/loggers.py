"""Loggers for other tools, named in the spec: `track: [csv, tensorboard, mlflow, wandb]`.

Each gets a trial's columns of the results once, its progress as it comes, every point at its end, and the ER by group
when the sweep ends. All is read from the run folder by the driver's `monitor`, so that workers need neither the
packages nor any key; the record stays the run folder, and a logger that fails costs the sweep that logger alone.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from ray_robust import registry
from ray_robust.errors import Problem, UserError, install_hint
from ray_robust.launch.monitor.logger_thread import LoggerThread
from ray_robust.launch.monitor.metrics import TRIAL
from ray_robust.plan.plan import Plan, Trial
from ray_robust.redact import redacted
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.trial_folder import key_of
from ray_robust.spec.load import Spec
from ray_robust.status.progress import ErSoFar
from ray_robust.text.safe_csv import cells as safe

PACKAGES = {"csv": "csv", "tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}  # what each needs
FOLDER = "track"  # in the run folder
SERIES = tuple(TRIAL)  # keys of progress.json, over training images
COPY_EVERY = 60.0  # seconds between two copies of the growing CSV to a run folder that is remote
PATIENCE = 25.0  # seconds that loggers have to finish, of those that `monitor` waits
POINT = ("id", "ood", "id_val", "ood_val")  # of a point, over the steps of its fine-tuning
Facts = Mapping[str, Any]


class Logger(Protocol):
    """One tool. It is opened and called in one thread."""

    def on_progress(self, trial: str, progress: Facts) -> None:
        """Log the content of a running trial's progress.json, each time that it is new."""

    def on_end(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        """Log that a trial is over, with its rows of the results: of one that failed those that count nevertheless."""

    def close(self, er: Callable[[], ErSoFar]) -> None:
        """Finish at the end of the sweep; `er` computes the present ER."""


def check_loggers(names: Sequence[str], location: str, remote: bool) -> None:
    """Raise UserError, a line per tool, for those that cannot work here: not installed, or nowhere to write to."""
    problems = [
        Problem(location, f"track: {name} needs the package {PACKAGES[name]}; {install_hint('track')}")
        for name in names
        if importlib.util.find_spec(PACKAGES[name]) is None
    ]
    if remote and "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        problems.append(
            Problem(location, "track: mlflow needs MLFLOW_TRACKING_URI where the run folder is no local one")
        )
    if remote and "wandb" in names and _wandb_mode() == "offline":
        problems.append(Problem(location, "track: wandb needs WANDB_API_KEY where the run folder is no local one"))
    if problems:
        raise UserError(*problems)


def open_loggers(spec: Spec, run: RunFolder, plan: Plan, scratch: Path, warn: Callable[[str], None]) -> Loggers:
    """Return the loggers that a spec names, for the trials in `plan`. `scratch` takes their files where the run folder
    is remote; `warn(line)` is called for one that fails."""
    local = run.storage.local(FOLDER)
    folder = local or scratch / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    facts = {trial.id: _facts(trial) for trial in plan}
    remote = run if local is None else None
    openers = {name: partial(_open, name, spec.name, folder, facts, remote) for name in spec.track}
    return Loggers(openers, warn, facts)


def _open(name: str, *settings: Any) -> Logger:
    return registry.find("log", name)(*settings)  # type: ignore[no-any-return]


def _facts(trial: Trial) -> Facts:
    return redacted({key: value for key, value in trial.columns().items() if value is not None})


class Loggers:
    """Several loggers as one, each in a thread of its own: one whose server is away holds neither the others nor the
    live view. One that raises, also when it is opened, is left out from then on, with one line to the user."""

    def __init__(
        self, openers: Mapping[str, Callable[[], Logger]], warn: Callable[[str], None], facts: dict[str, Facts]
    ) -> None:
        self._facts, self._warn = facts, warn  # every logger has these very facts
        self._latest: dict[str, float] = {}  # by trial: the time of the progress that was passed on
        self._threads = [LoggerThread(name, opener, warn) for name, opener in openers.items()]

    def expect(self, trial: Trial) -> None:
        """Add a trial that a search has drawn."""
        self._facts[trial.id] = _facts(trial)

    def on_progress(self, trial: str, progress: Facts) -> None:
        """Pass on a trial's progress where it is new."""
        if progress.get("time", 0.0) > self._latest.get(trial, -1.0):
            self._latest[trial] = progress.get("time", 0.0)
            for thread in self._threads:
                thread.call(lambda logger: logger.on_progress(trial, progress), may_drop=True)

    def on_end(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        """Pass on the end of a trial."""
        self._latest.pop(trial, None)
        for thread in self._threads:
            thread.call(lambda logger: logger.on_end(trial, state, points))

    def close(self, er: Callable[[], ErSoFar]) -> None:
        """Finish every logger; `er` is computed once at most. One that has not finished in `PATIENCE` seconds is left
        to itself, with one line to the user."""
        once = lru_cache(maxsize=1)(er)
        for thread in self._threads:
            thread.end(lambda logger: logger.close(once))
        until = time.monotonic() + PATIENCE
        for thread in self._threads:
            if not thread.finished(until - time.monotonic()):
                self._warn(f"track: {thread.name} has not finished after {PATIENCE:.0f} s: it lacks what came last; "
                           "all of it is in the run folder")  # fmt: skip


class Csv:
    """track/progress.csv: a line per trial and look."""

    COLUMNS = ("time", "trial", "group", "stage", "images", *SERIES)

    def __init__(self, sweep: str, folder: Path, facts: Mapping[str, Facts], remote: RunFolder | None) -> None:
        self.file, self.facts, self.remote = folder / "progress.csv", facts, remote
        self._copied_at = time.monotonic()
        if remote is not None and (before := remote.read_bytes(f"{FOLDER}/progress.csv")) is not None:
            self.file.write_bytes(before)
        if not self.file.exists():
            self._append(self.COLUMNS)

    def on_progress(self, trial: str, progress: Facts) -> None:
        row = {**progress, "trial": trial, "group": self.facts.get(trial, {}).get("group", "")}
        self._append([row.get(column, "") for column in self.COLUMNS])

    def on_end(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        if time.monotonic() > self._copied_at + COPY_EVERY:
            self._copied_at = time.monotonic()
            _copy(self.remote, self.file, self.file.parent)

    def close(self, er: Callable[[], ErSoFar]) -> None:
        _copy(self.remote, self.file, self.file.parent)

    def _append(self, cells: Sequence[Any]) -> None:
        with open(self.file, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(safe(cells))


class TensorBoard:
    """track/tensorboard/<trial>: progress over training images, points over steps, the trial's columns as text."""

    def __init__(self, sweep: str, folder: Path, facts: Mapping[str, Facts], remote: RunFolder | None) -> None:
        from tensorboardX import SummaryWriter

        self._writer, self.folder, self.facts, self.remote = SummaryWriter, folder, facts, remote
        self.open: dict[str, Any] = {}

    def on_progress(self, trial: str, progress: Facts) -> None:
        writer = self._of(trial)
        for key in SERIES:
            if progress.get(key) is not None:
                writer.add_scalar(f"{progress['stage']}/{key}", progress[key], progress["images"], progress["time"])

    def on_end(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        writer = self._of(trial)
        for point in points:
            for key in POINT:
                if point.get(key) is not None:
                    writer.add_scalar(f"{point['finetune']}/{key}", point[key], point["step"])
        writer.add_text("state", state)
        writer.close()
        del self.open[trial]
        for file in sorted((self.folder / "tensorboard" / trial).iterdir()):
            _copy(self.remote, file, self.folder)

    def close(self, er: Callable[[], ErSoFar]) -> None:
        for trial in list(self.open):
            self.on_end(trial, "interrupted", ())

    def _of(self, trial: str) -> Any:
        if trial not in self.open:
            self.open[trial] = self._writer(str(self.folder / "tensorboard" / trial))
            self.open[trial].add_text("trial", "\n".join(f"    {k}: {v}" for k, v in self.facts.get(trial, {}).items()))
        return self.open[trial]


MLFLOW_STATUS = {"done": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED"}


class Mlflow:
    """A run per trial in the experiment named as the sweep, and one for the sweep with its ER by group.

    Where: MLFLOW_TRACKING_URI, else track/mlflow.db. A trial that goes on finds its run by the tag `trial`.
    """

    def __init__(self, sweep: str, folder: Path, facts: Mapping[str, Facts], remote: RunFolder | None) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._param, self.facts = Metric, Param, facts
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}")
        existing = self.client.get_experiment_by_name(sweep)
        artifacts = (folder / "mlflow").as_uri() if not os.environ.get("MLFLOW_TRACKING_URI") else None
        self.experiment = existing.experiment_id if existing else self.client.create_experiment(sweep, artifacts)
        self.open: dict[str, str] = {}

    def on_progress(self, trial: str, progress: Facts) -> None:
        name, when = self._of(trial), round(1000 * progress["time"])
        metrics = [self._metric(f"{progress['stage']}/{key}", float(progress[key]), when, int(progress["images"]))
                 for key in SERIES if progress.get(key) is not None]  # fmt: skip
        self.client.log_batch(name, metrics=metrics)

    def on_end(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        name = self._of(trial)
        metrics = [self._metric(f"{point['finetune']}/{key}", float(point[key]), 0, int(point["step"]))
                 for point in points for key in POINT if point.get(key) is not None]  # fmt: skip
        for first in range(0, len(metrics), 1000):  # the most that one call takes
            self.client.log_batch(name, metrics=metrics[first : first + 1000])
        self.client.set_tag(name, "state", state)
        self.client.set_terminated(name, MLFLOW_STATUS.get(state, "FAILED"))
        del self.open[trial]

    def close(self, er: Callable[[], ErSoFar]) -> None:
        for trial in list(self.open):
            self.on_end(trial, "interrupted", ())
        if means := er().means:
            name = self._of("sweep")
            metrics = [self._metric(_metric_name(f"er/{task}/{group}"), mean, 0, 0)
                     for (task, group), mean in means.items()]  # fmt: skip
            self.client.log_batch(name, metrics=metrics)
            self.client.set_terminated(name)

    def _of(self, trial: str) -> str:
        if trial not in self.open:
            there = self.client.search_runs([self.experiment], f"tags.trial = '{trial}'", max_results=1)
            tags = {"trial": trial, "mlflow.runName": trial}
            self.open[trial] = (there[0] if there else self.client.create_run(self.experiment, tags=tags)).info.run_id
            params = [self._param(k, str(v)[:500]) for k, v in self.facts.get(trial, {}).items()]
            self.client.log_batch(self.open[trial], params=params)
        return self.open[trial]


class Wandb:
    """A run per trial in the project named as the sweep. Where: as W&B's own variables say (WANDB_API_KEY,
    WANDB_MODE); without a key offline, below track/wandb, for `wandb sync` later."""

    def __init__(self, sweep: str, folder: Path, facts: Mapping[str, Facts], remote: RunFolder | None) -> None:
        import wandb

        self._wandb, self.sweep, self.folder, self.facts = wandb, sweep, folder, facts
        self.open: dict[str, Any] = {}

    def on_progress(self, trial: str, progress: Facts) -> None:
        values = {f"{progress['stage']}/{key}": progress[key] for key in SERIES if progress.get(key) is not None}
        self._of(trial).log({**values, "images": progress["images"]})

    def on_end(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        run = self._of(trial)
        for point in points:
            values = {f"{point['finetune']}/{key}": point[key] for key in POINT if point.get(key) is not None}
            run.log({**values, "step": point["step"]})
        run.summary["state"] = state
        run.finish(exit_code=int(state in ("failed", "quarantined")))
        del self.open[trial]

    def close(self, er: Callable[[], ErSoFar]) -> None:
        for trial in list(self.open):
            self.on_end(trial, "interrupted", ())
        if means := er().means:
            run = self._of("sweep")
            run.summary.update({f"er/{task}/{group}": mean for (task, group), mean in means.items()})
            run.finish()

    def _of(self, trial: str) -> Any:
        if trial not in self.open:
            config = dict(self.facts.get(trial, {}))
            self.open[trial] = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT") or self.sweep, name=trial, group=self.sweep, config=config,
                id=key_of(trial), resume="allow", dir=str(self.folder), mode=_wandb_mode(),
                reinit="create_new", settings=self._wandb.Settings(silent=True, console="off"),
            )  # fmt: skip
        return self.open[trial]


def _copy(run: RunFolder | None, file: Path, folder: Path) -> None:
    """Copy a file of the log to a run folder that is not on this machine."""
    if run is not None and file.is_file():
        run.write(f"{FOLDER}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def _metric_name(text: str) -> str:
    """MLflow takes letters, digits and _-./ and spaces in a name."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in text)


def _wandb_mode() -> Any:  # a str; W&B itself checks that it is a mode
    """As W&B's own variables say; offline where they hold no key."""
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
