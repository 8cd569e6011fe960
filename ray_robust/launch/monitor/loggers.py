"""Logs for other tools, named in the spec: `track: [csv, tensorboard, mlflow, wandb]`.

Owns what each is told of a trial: its columns of the results once, its progress as it comes, every point at its end,
and the ER by group when the sweep ends. All is read from the run folder by the driver's `monitor`, so that workers need
neither the packages nor any key; the record stays the run folder, and a log that fails costs the sweep only that log.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ray_robust import registry
from ray_robust.errors import Problem, UserError
from ray_robust.plan.plan import Plan, Trial
from ray_robust.redact import redact, redacted
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec
from ray_robust.status.progress import ErSoFar
from ray_robust.text.safe_csv import cells as safe

PACKAGES = {"csv": "csv", "tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}  # what each needs
FOLDER = "track"  # in the run folder
SERIES = ("images_per_second", "epoch", "share", "id", "ood", "gpu_memory")  # of progress.json, over training images
KEEP_EVERY = 60.0  # seconds between two copies of the growing CSV to a run folder that is remote
POINT = ("id", "ood", "id_val", "ood_val")  # of a point, over the steps of its fine-tuning
Facts = Mapping[str, Any]


class Log(Protocol):
    """One tool. Every call comes from one thread."""

    def progress(self, trial: str, said: Facts) -> None:
        """What a running trial's progress.json says, each time that it says something new."""

    def ended(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        """A trial is over, `done` with its rows of the results, or in another state without."""

    def close(self, er: Callable[[], ErSoFar]) -> None:
        """The sweep ends; `er` looks up where it stands."""


def check(names: Sequence[str], place: str, remote: bool) -> None:
    """Raise UserError, a line per tool, for those that cannot work here: not installed, or no place to write to."""
    problems = [
        Problem(place, f"track: {name} needs the package {PACKAGES[name]}; pip install -r requirements-track.txt")
        for name in names
        if importlib.util.find_spec(PACKAGES[name]) is None
    ]
    if remote and "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        problems.append(Problem(place, "track: mlflow needs MLFLOW_TRACKING_URI where the run folder is no local one"))
    if remote and "wandb" in names and _wandb_mode() == "offline":
        problems.append(Problem(place, "track: wandb needs WANDB_API_KEY where the run folder is no local one"))
    if problems:
        raise UserError(*problems)


def open_logs(spec: Spec, run: RunFolder, plan: Plan, scratch: Path, say: Callable[[str], None]) -> Logs:
    """The logs that a spec names, of the trials in `plan`. `scratch` takes their files where the run folder is remote;
    `say(line)` tells the user."""
    local = run.storage.local(FOLDER)
    folder = local or scratch / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    facts = {trial.id: _facts(trial) for trial in plan}
    kept = run if local is None else None
    return Logs({name: registry.find("log", name)(spec.name, folder, facts, kept) for name in spec.track}, say, facts)


def _facts(trial: Trial) -> Facts:
    return redacted({key: value for key, value in trial.columns().items() if value is not None})


class Logs:
    """Several logs as one. A log that raises is left out from then on, and the user is told so once."""

    def __init__(self, logs: dict[str, Log], say: Callable[[str], None], facts: dict[str, Facts]) -> None:
        self._logs, self._say, self._facts = logs, say, facts  # the facts are those that every log has
        self._told: dict[str, float] = {}  # by trial: the time of the progress that was passed on

    def expect(self, trial: Trial) -> None:
        """A trial of a search, which none knew before."""
        self._facts[trial.id] = _facts(trial)

    def progress(self, trial: str, said: Facts) -> None:
        if said.get("time", 0.0) > self._told.get(trial, -1.0):
            self._told[trial] = said.get("time", 0.0)
            self._each(lambda log: log.progress(trial, said))

    def ended(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        self._told.pop(trial, None)
        self._each(lambda log: log.ended(trial, state, points))

    def close(self, er: Callable[[], ErSoFar]) -> None:
        known = lru_cache(maxsize=1)(er)
        self._each(lambda log: log.close(known))

    def _each(self, tell: Callable[[Log], None]) -> None:
        for name, log in list(self._logs.items()):
            try:
                tell(log)
            except Exception as error:  # whatever a tool may raise, it is not the sweep's failure
                del self._logs[name]
                self._say(redact(f"track: {name} is left out from here on: {type(error).__name__}: {error}"))


class Csv:
    """track/progress.csv: a line per trial and look."""

    COLUMNS = ("time", "trial", "group", "stage", "images", *SERIES)

    def __init__(self, sweep: str, folder: Path, facts: Mapping[str, Facts], kept: RunFolder | None) -> None:
        self.file, self.facts, self.kept = folder / "progress.csv", facts, kept
        self.kept_at = time.monotonic()
        if kept is not None and (before := kept.read_bytes(f"{FOLDER}/progress.csv")) is not None:
            self.file.write_bytes(before)
        if not self.file.exists():
            self._append(self.COLUMNS)

    def progress(self, trial: str, said: Facts) -> None:
        row = {**said, "trial": trial, "group": self.facts.get(trial, {}).get("group", "")}
        self._append([row.get(column, "") for column in self.COLUMNS])

    def ended(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        if time.monotonic() > self.kept_at + KEEP_EVERY:
            self.kept_at = time.monotonic()
            _keep(self.kept, self.file, self.file.parent)

    def close(self, er: Callable[[], ErSoFar]) -> None:
        _keep(self.kept, self.file, self.file.parent)

    def _append(self, cells: Sequence[Any]) -> None:
        with open(self.file, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(safe(cells))


class TensorBoard:
    """track/tensorboard/<trial>: progress over training images, points over steps, the trial's columns as text."""

    def __init__(self, sweep: str, folder: Path, facts: Mapping[str, Facts], kept: RunFolder | None) -> None:
        from tensorboardX import SummaryWriter

        self._writer, self.folder, self.facts, self.kept = SummaryWriter, folder, facts, kept
        self.open: dict[str, Any] = {}

    def progress(self, trial: str, said: Facts) -> None:
        writer = self._of(trial)
        for key in SERIES:
            if said.get(key) is not None:
                writer.add_scalar(f"{said['stage']}/{key}", said[key], said["images"], said["time"])

    def ended(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        writer = self._of(trial)
        for point in points:
            for key in POINT:
                if point.get(key) is not None:
                    writer.add_scalar(f"{point['finetune']}/{key}", point[key], point["step"])
        writer.add_text("state", state)
        writer.close()
        del self.open[trial]
        for file in sorted((self.folder / "tensorboard" / trial).iterdir()):
            _keep(self.kept, file, self.folder)

    def close(self, er: Callable[[], ErSoFar]) -> None:
        for trial in list(self.open):
            self.ended(trial, "interrupted", ())

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

    def __init__(self, sweep: str, folder: Path, facts: Mapping[str, Facts], kept: RunFolder | None) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._param, self.facts = Metric, Param, facts
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}")
        known = self.client.get_experiment_by_name(sweep)
        artifacts = (folder / "mlflow").as_uri() if not os.environ.get("MLFLOW_TRACKING_URI") else None
        self.experiment = known.experiment_id if known else self.client.create_experiment(sweep, artifacts)
        self.open: dict[str, str] = {}

    def progress(self, trial: str, said: Facts) -> None:
        name, when = self._of(trial), round(1000 * said["time"])
        found = [self._metric(f"{said['stage']}/{key}", float(said[key]), when, int(said["images"]))
                 for key in SERIES if said.get(key) is not None]  # fmt: skip
        self.client.log_batch(name, metrics=found)

    def ended(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        name = self._of(trial)
        found = [self._metric(f"{point['finetune']}/{key}", float(point[key]), 0, int(point["step"]))
                 for point in points for key in POINT if point.get(key) is not None]  # fmt: skip
        for first in range(0, len(found), 1000):  # the most that one call takes
            self.client.log_batch(name, metrics=found[first : first + 1000])
        self.client.set_tag(name, "state", state)
        self.client.set_terminated(name, MLFLOW_STATUS.get(state, "FAILED"))
        del self.open[trial]

    def close(self, er: Callable[[], ErSoFar]) -> None:
        for trial in list(self.open):
            self.ended(trial, "interrupted", ())
        if means := er().means:
            name = self._of("sweep")
            found = [self._metric(_metric_name(f"er/{task}/{group}"), mean, 0, 0)
                     for (task, group), mean in means.items()]  # fmt: skip
            self.client.log_batch(name, metrics=found)
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

    def __init__(self, sweep: str, folder: Path, facts: Mapping[str, Facts], kept: RunFolder | None) -> None:
        import wandb

        self._wandb, self.sweep, self.folder, self.facts = wandb, sweep, folder, facts
        self.open: dict[str, Any] = {}

    def progress(self, trial: str, said: Facts) -> None:
        told = {f"{said['stage']}/{key}": said[key] for key in SERIES if said.get(key) is not None}
        self._of(trial).log({**told, "images": said["images"]})

    def ended(self, trial: str, state: str, points: Sequence[Facts]) -> None:
        run = self._of(trial)
        for point in points:
            told = {f"{point['finetune']}/{key}": point[key] for key in POINT if point.get(key) is not None}
            run.log({**told, "step": point["step"]})
        run.summary["state"] = state
        run.finish(exit_code=int(state in ("failed", "quarantined")))
        del self.open[trial]

    def close(self, er: Callable[[], ErSoFar]) -> None:
        for trial in list(self.open):
            self.ended(trial, "interrupted", ())
        if means := er().means:
            run = self._of("sweep")
            run.summary.update({f"er/{task}/{group}": mean for (task, group), mean in means.items()})
            run.finish()

    def _of(self, trial: str) -> Any:
        if trial not in self.open:
            config = dict(self.facts.get(trial, {}))
            self.open[trial] = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT") or self.sweep, name=trial, group=self.sweep, config=config,
                id=trial.rpartition("-")[2], resume="allow", dir=str(self.folder), mode=_wandb_mode(),
                reinit="create_new", settings=self._wandb.Settings(silent=True, console="off"),
            )  # fmt: skip
        return self.open[trial]


def _keep(run: RunFolder | None, file: Path, folder: Path) -> None:
    """Copy a file of the log to a run folder that is not on this machine."""
    if run is not None and file.is_file():
        run.write(f"{FOLDER}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def _metric_name(text: str) -> str:
    """MLflow takes letters, digits and _-./ and spaces in a name."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in text)


def _wandb_mode() -> Any:  # a str; W&B itself checks that it is a mode
    """As W&B's own variables say; offline where they hold no key."""
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
