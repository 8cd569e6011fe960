"""How far a sweep is, read from its folder alone: states, share of the work done, time left, and ER so far.

Owns `Status` and `read_status`, which the status command prints, `StatusReader`, which follows a run, and `er_so_far`,
which the metrics show too. How long the rest takes the sweep's driver estimates, and leaves in the folder. Needs no
cluster and imports neither torch nor Ray; the analysis is loaded only where there is a baseline to compare with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_robust.errors import UserError
from ray_robust.files.storage import Stamp
from ray_robust.run.analysis_settings import settings_of
from ray_robust.run.interim import runs
from ray_robust.run.lease import Driver, driver_of
from ray_robust.run.missing import Missing, Remaining, in_all, planned_work, remaining
from ray_robust.run.run_folder import SPREAD, Marks, RunFolder, suggestion
from ray_robust.run.sweep_progress import RECENT, last_progress
from ray_robust.text.durations import duration

STATES = ("done", "started", "failed", "quarantined", "damaged", "stopped", "planned")
OPEN = ("started", "planned", "damaged")  # what the same command would run
OVER = ("done", "stopped")  # trials that lack nothing
NEEDED = {"trial", "group", "finetunes", "cost_images"}  # columns of plan.csv that are read here
STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning"}  # of a trial: the name of each for people
ER_EVERY = 30.0  # seconds at least between two computations of ER by who looks again and again


@dataclass(frozen=True)
class ErSoFar:
    """Mean ER in percentage points by (task, group), of the points in the baseline's range of ID scores.

    Empty with the reason in `why` (one line, "" where no baseline is asked for).
    """

    means: Mapping[tuple[str, str], float] = field(default_factory=dict)
    why: str = ""

    def of_group(self, group: str) -> float | None:
        """Return the mean over the tasks that have one, in percentage points; None where none has."""
        means = [mean for (_, name), mean in self.means.items() if name == group]
        return sum(means) / len(means) if means else None


@dataclass(frozen=True)
class Status:
    """A run at one moment. Every mapping is by trial id, in the plan's order.

    states      one of `STATES`
    groups      the group of every trial
    progress    of the started ones: the content of their progress.json, {} before there is one, and before one that was
                finished has begun with a fine-tuning that it now lacks
    failures    of the failed and quarantined ones: {"reason", "log"}
    damage      of the damaged ones: what is not as the trial left it
    altered     a line for each of the run's own files that is not as it was written
    remaining   what is missing, in pre-trainings and fine-tunings; trials that a search stopped lack nothing
    share_done  share of the sweep's work that is done, 0-1, by the cost in the plan
    left        seconds to go, as the sweep's driver estimates it; None when none runs, or it cannot tell yet
    total       how many trials there will be: of a search that runs more than are drawn yet
    driver      whether a driver runs the sweep, in a sentence; "" where nothing is left to run, or it is this process
    pilot       whether `baseline.spread: auto` has yet to choose the baseline's fine-tunings
    """

    question: str
    states: dict[str, str]
    groups: dict[str, str]
    progress: dict[str, dict[str, Any]]
    failures: dict[str, dict[str, Any]]
    damage: dict[str, str]
    altered: list[str]
    remaining: Remaining
    share_done: float
    left: float | None
    er: ErSoFar
    command: str = ""  # that continues it, "" where an earlier version ran it
    total: int = 0
    driver: str = ""
    pilot: bool = False


def read_status(run: RunFolder, now: float) -> Status:
    """Return the status of a run folder at the time `now` (seconds since the epoch). Raises UserError when it is none,
    or nothing was planned there yet."""
    return replace(StatusReader(run).read(now), altered=run.altered())


@dataclass(frozen=True)
class _Trial:
    """What one look saw of a trial: its fine-tunings and marks then, and the fields of `Status` that are about it."""

    key: tuple[str, Marks]
    state: str
    progress: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)
    damage: str = ""
    missing: Missing | None = None


class StatusReader:
    """Reads the status of one run again and again: what did not change since the last time is not read again, only
    looked at (`RunFolder.marks`). ER, which needs the rows of new trials, is computed at most every `ER_EVERY` seconds.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._trials: dict[str, _Trial] = {}
        self._files: dict[str, tuple[Stamp | None, Any]] = {}  # by name: the stamp with which it was read, its contents
        self._er: tuple[float, int, ErSoFar] | None = None  # when, from how many trials that are over, and what

    def read(self, now: float) -> Status:
        """Return the status at the time `now`, without `altered`. Raises UserError as `read_status` does."""
        run, shown = self.run, self.run.storage.shown
        if not run.exists(""):
            raise UserError(f"{shown}: no such run folder{suggestion(run)}")
        run.look_again()
        plan = self._file("plan.csv", run.plan)
        if not set(plan.columns) >= NEEDED:
            raise UserError(
                f"{shown}: holds no plan.csv of a sweep; a run folder has one from the moment its trials start"
            )
        driver, latest = driver_of(run.storage), last_progress(run.storage)  # first: a driver goes last
        trials = self._look(plan)
        states = {name: one.state for name, one in trials.items()}
        left = in_all(planned_work(plan), {name: one.missing for name, one in trials.items() if one.missing})
        started = {name: one.progress for name, one in trials.items() if one.state == "started"}
        failures = {name: one.failure for name, one in trials.items() if one.state in ("failed", "quarantined")}
        spec = self._file("spec.yaml", run.spec)
        is_running = driver is not None and runs(driver, run.storage, now)
        holds = latest is not None and is_running and latest.is_recent(now)
        total = max(len(states), latest.total if latest is not None else 0)
        is_open = bool(set(states.values()) & set(OPEN))
        return Status(
            question=str(spec.get("question") or ""),
            states=states,
            groups=dict(zip(plan["trial"], plan["group"], strict=True)),
            progress=started,
            failures=failures,
            damage={name: one.damage for name, one in trials.items() if one.state == "damaged"},
            altered=[],
            remaining=left,
            share_done=self._share_done(plan, left, trials),
            left=latest.left_at(now) if latest is not None and is_open and holds else None,
            er=self._er_at(now, states),
            command=_command(spec),
            total=total,
            driver=_of_driver(driver, is_running) if is_open or total > len(states) else "",
            pilot=is_open and _has_pilot(spec) and not run.exists(SPREAD),
        )

    def _look(self, plan: Any) -> dict[str, _Trial]:
        """Return every planned trial, read again where its marks are others than before."""
        run, finetunings = self.run, dict(zip(plan["trial"], plan["finetunes"], strict=True))
        keys = {name: (text, run.marks(name)) for name, text in finetunings.items()}  # before what they are marks of
        changed = [name for name, key in keys.items() if name not in self._trials or self._trials[name].key != key]
        states = {name: run.state_of(name, list(json.loads(finetunings[name]))) for name in changed}
        works = [one for one in planned_work(plan) if one.trial in states]
        missing = remaining(run, works, [name for name, state in states.items() if state in OVER]).missing
        for name, state in states.items():
            self._trials[name] = self._read(name, state, keys[name], missing.get(name))
        return {name: self._trials[name] for name in keys}

    def _read(self, name: str, state: str, key: tuple[str, Marks], missing: Missing | None) -> _Trial:
        folder = self.run.trial(name)
        failure = (folder.failure() or {}) if state == "failed" else {}
        return _Trial(
            key,
            "quarantined" if failure.get("quarantined") else state,
            folder.progress_now() if state == "started" else {},
            failure,
            folder.damage() if state == "damaged" else "",
            missing,
        )

    def _share_done(self, plan: Any, left: Remaining, trials: Mapping[str, _Trial]) -> float:
        cost = dict(zip(plan["trial"], plan["cost_images"].astype(float), strict=True))
        shares, undone = _missing_shares(plan, left), 0.0
        for name, one in trials.items():
            if one.state in ("failed", "quarantined"):
                undone += cost[name] * shares.get(name, 1.0)
            elif one.state in OPEN and name in shares:
                undone += cost[name] * min(shares[name], 1.0 - one.progress.get("share", 0.0))
        return 1.0 - undone / max(sum(cost.values()), 1.0)

    def _file(self, name: str, read: Callable[[], Any]) -> Any:
        stamp = self.run.storage.stamp(name)
        if name not in self._files or self._files[name][0] != stamp:
            self._files[name] = stamp, read()
        return self._files[name][1]

    def _er_at(self, now: float, states: Mapping[str, str]) -> ErSoFar:
        over = sum(state not in OPEN for state in states.values())
        if self._er is None or (over != self._er[1] and now - self._er[0] >= ER_EVERY):
            self._er = now, over, er_so_far(self.run)
        return self._er[2]


def _missing_shares(plan: Any, left: Remaining) -> dict[str, float]:
    """Return by trial the share of its cost (0-1) that what it lacks makes up; its fine-tunings count alike."""
    import pandas as pd

    costs = plan["cost_images"].astype(float).clip(lower=1.0)
    seen = pd.to_numeric(plan.get("pretrain_images_seen", 0.0 * costs), errors="coerce").fillna(0.0)
    shares = {}
    for name, cost, images, finetunes in zip(plan["trial"], costs, seen, plan["finetunes"], strict=True):
        if (one := left.missing.get(name)) is not None:
            each = max(0.0, cost - images) / max(1, len(json.loads(finetunes)))
            shares[name] = min(1.0, (images * one.pretraining + each * len(one.finetunings)) / cost)
    return shares


def _of_driver(driver: Driver | None, is_running: bool) -> str:
    """Return whether a driver runs the sweep, in a sentence; "" where it is this process."""
    if driver is None:
        return "none runs"
    if driver.own:
        return ""
    if is_running:
        return f"{driver.name} runs it"
    if driver.alive is None:
        return f"{driver.name} has written nothing for {duration(RECENT)}, and was probably stopped"
    return f"{driver.name} is gone"


def _has_pilot(spec: Mapping[str, Any]) -> bool:
    baseline = spec.get("baseline")
    return isinstance(baseline, dict) and baseline.get("spread") == "auto"


def _command(spec: Mapping[str, Any]) -> str:
    made = spec.get("provenance")
    return str(made.get("command") or "") if isinstance(made, dict) else ""


def er_so_far(run: RunFolder) -> ErSoFar:
    """Return the ER of every group against the line of the baseline, once every trial of the baseline has ended.

    A preview while a sweep runs: means without intervals, over the points whose ID score is in the baseline's range.
    The report has the intervals. `why` says what is missing: points for a line, or the R^2 that the spec asks for."""
    settings = settings_of(run.spec())
    baseline = settings.baseline
    groups, states = run.plan().get("group", ()), list(run.states().values())
    awaited = [state for group, state in zip(groups, states, strict=True) if group == baseline]
    if not awaited:
        return ErSoFar()
    if coming := sum(state in OPEN for state in awaited):
        return ErSoFar(why=f"no ER yet: {coming} of {len(awaited)} trials of the baseline are to come")
    points = run.results()
    if points["er_estimated"].fillna(False).any():
        return ErSoFar(why="no ER yet: the OOD test has no labels, and the report estimates its scores")
    points = points.loc[points["id"].notna() & points["ood"].notna()]
    import pandas as pd  # late: most calls have no line to fit

    from analysis.scales import SCALES
    from analysis.stats.looks import rows_at
    from analysis.stats.robustness import effective_robustness
    from analysis.stats.trend import fit

    scale = SCALES[settings.scale]
    means: dict[tuple[str, str], float] = {}
    why = ""
    for task, rows in points.groupby(points["task"].fillna("task").astype(str), sort=False):
        rows = rows.iloc[rows_at(rows.reset_index(drop=True), baseline, settings.look)[0]]
        x, y = (scale.of(rows[score].to_numpy(float), _examples(rows[f"{score}_images"])) for score in ("id", "ood"))
        own = (rows["group"] == baseline).to_numpy()
        line = fit(x[own], y[own])
        if line is None or line.r2 < settings.min_r2:
            poor = "has too few points for a line" if line is None else f"explains only R² = {line.r2:.2f}"
            why = f"no ER on {task}: the baseline {poor}"
            continue
        ids = rows["id"]
        inside = ids.between(ids[own].min(), ids[own].max())
        er = pd.Series(effective_robustness(rows["ood"], line.at(x), scale), rows.index)
        for group, mean in er[inside].groupby(rows["group"], sort=False).mean().items():
            means[str(task), str(group)] = float(mean)
    return ErSoFar(means, why)


def _examples(sizes: Any) -> int | None:
    """How many images a split holds, by its column in the results; None where that is empty."""
    largest = sizes.max()
    return int(largest) if largest == largest and largest else None
