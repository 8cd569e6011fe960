"""How far a sweep is, read from its folder alone: states, share of the work done, time left, and ER so far.

Owns `Status` and `read_status`, which the status command prints, and `er_so_far`, which the metrics show too. Needs no
cluster and imports neither torch nor Ray; the analysis is loaded only where there is a baseline to compare with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_robust.errors import UserError
from ray_robust.run.analysis_settings import settings_of
from ray_robust.run.missing import Remaining, planned_work, remaining
from ray_robust.run.run_folder import RunFolder, suggestion

STATES = ("done", "started", "failed", "quarantined", "damaged", "stopped", "planned")
OPEN = ("started", "planned", "damaged")  # what the same command would run
OVER = ("done", "stopped")  # trials that lack nothing
NEEDED = {"trial", "group", "finetunes", "cost_images"}  # columns of plan.csv that are read here
STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning"}  # of a trial: the name of each for people
RECENT = 120.0  # seconds since its last progress within which a started trial counts as running


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
    progress    of the started ones: the content of their progress.json, {} before there is one
    failures    of the failed and quarantined ones: {"reason", "log"}
    damage      of the damaged ones: what is not as the trial left it
    altered     a line for each of the run's own files that is not as it was written
    remaining   what is missing, in pre-trainings and fine-tunings; trials that a search stopped lack nothing
    share_done  share of the sweep's work that is done, 0-1, by the cost in the plan
    left        seconds to go at the present speed of the trials that run; None when none does
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


def read_status(run: RunFolder, now: float) -> Status:
    """Return the status of a run folder at the time `now` (seconds since the epoch). Raises UserError when it is none,
    or nothing was planned there yet."""
    shown = run.storage.shown
    if not run.exists(""):
        raise UserError(f"{shown}: no such run folder{suggestion(run)}")
    plan = run.plan()
    if not set(plan.columns) >= NEEDED:
        raise UserError(f"{shown}: holds no plan.csv of a sweep; a run folder has one from the moment its trials start")
    states = run.states()
    failures = {name: run.trial(name).failure() or {} for name, state in states.items() if state == "failed"}
    states |= {name: "quarantined" for name, failure in failures.items() if failure.get("quarantined")}
    progress = {name: run.trial(name).progress() for name, state in states.items() if state == "started"}
    cost = dict(zip(plan["trial"], plan["cost_images"].astype(float), strict=True))
    left = remaining(run, planned_work(plan), [name for name, state in states.items() if state in OVER])
    shares = _missing_shares(plan, left)
    for name, latest in progress.items():  # that of a trial which was finished before it lacked one more is an old one
        if run.trial(name).finished() is None:
            shares[name] = min(shares[name], 1.0 - latest.get("share", 0.0))
    open_work = {name: cost[name] * share for name, share in shares.items() if states[name] in OPEN}
    whole = max(sum(cost.values()), 1.0)
    return Status(
        question=str(run.spec().get("question") or ""),
        states=states,
        groups=dict(zip(plan["trial"], plan["group"], strict=True)),
        progress=progress,
        failures=failures,
        damage={name: run.trial(name).damage() for name, state in states.items() if state == "damaged"},
        altered=run.altered(),
        remaining=left,
        share_done=1.0 - (sum(open_work.values()) + sum(cost[name] for name in failures)) / whole,
        left=time_left(open_work, progress, now),
        er=er_so_far(run),
        command=_command(run.spec()),
    )


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


def _command(spec: Mapping[str, Any]) -> str:
    made = spec.get("provenance")
    return str(made.get("command") or "") if isinstance(made, dict) else ""


def time_left(open_work: Mapping[str, float], progress: Mapping[str, Mapping[str, Any]], now: float) -> float | None:
    """Return the seconds until the images in `open_work` (by trial) are processed, at the speeds of the trials with
    recent progress: all of them together, and no less than the slowest needs for its own. None when no trial runs."""
    speeds = {
        name: float(latest["images_per_second"])
        for name, latest in progress.items()
        if latest.get("images_per_second") and now - latest.get("time", 0.0) < RECENT
    }
    if not speeds:
        return None
    together = sum(open_work.values()) / sum(speeds.values())
    return max([together, *(open_work.get(name, 0.0) / speed for name, speed in speeds.items())])


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
    points = points.loc[points["id"].notna() & points["ood"].notna()]
    import pandas as pd  # late: most calls have no line to fit

    from analysis.scales import SCALES
    from analysis.stats.robustness import effective_robustness
    from analysis.stats.trend import fit

    scale = SCALES[settings.scale]
    means: dict[tuple[str, str], float] = {}
    why = ""
    for task, rows in points.groupby(points["task"].fillna("task").astype(str), sort=False):
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
