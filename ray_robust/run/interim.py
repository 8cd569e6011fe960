"""Whether what a run holds is all that it will hold, and what is missing otherwise: an interim result is marked as one.

A result is interim where a planned trial has not ended, or another process runs the sweep: a search draws more trials
than are planned yet.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_robust.files.storage import Storage
from ray_robust.run.lease import Driver, driver_of
from ray_robust.run.missing import planned_work, remaining
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.sweep_progress import read_progress

NOT_ENDED = ("planned", "started")  # states of trials that are missing; one that failed or is damaged is listed as such
SHARE = 0.02  # of the time of a sweep goes into writing reports while it runs
LEAST_DUE = 1800.0  # seconds that a report is given to be written again
DUE_TIMES = 3.0  # as long as it should take


@dataclass(frozen=True)
class Interim:
    """What is missing of a run.

    written  when it was looked at, in seconds since the epoch
    running  whether a driver ran the sweep then
    ended    trials that have ended, however
    total    trials that there will be; of a search that runs more than are drawn yet
    groups   by group that lacks trials: how many have ended, and how many are planned
    work     pre-trainings and fine-tunings that are missing, in words
    run      the name of the run, where several are joined
    folder   where it lies, for people
    between  seconds between the ends of two trials, by the driver's estimate; 0 where it has none
    """

    written: float
    running: bool
    ended: int
    total: int
    groups: Mapping[str, tuple[int, int]]
    work: str = ""
    run: str = ""
    folder: str = ""
    between: float = 0.0

    @property
    def label(self) -> str:
        """What everything made of it is marked with: `Interim, 9 of 16 trials`."""
        return f"Interim, {self.ended} of {self.total} trials{f' of {self.run}' if self.run else ''}"

    @property
    def date(self) -> str:
        """When it was written, for people."""
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.written))

    @property
    def missing(self) -> str:
        """What is missing, in a sentence."""
        listed = "; ".join(f"{name}: {ended} of {planned}" for name, (ended, planned) in self.groups.items())
        parts = [
            f"{self.ended} of {self.total} trials have ended",
            *([f"still to come: {self.work}"] if self.work else ()),
            *([f"groups that lack trials: {listed}"] if listed else ()),
        ]
        return f"{'. '.join(part[:1].upper() + part[1:] for part in parts)}."

    @property
    def meaning(self) -> str:
        """What follows for whoever reads it, in sentences that stay true however much later that is."""
        how = (
            f"The sweep was running then; `{self.ask}` says whether it still does"
            if self.running
            else "The sweep was not running then; the same command continues it"
        )
        return (
            f"{how}. Nothing here is a finding: whoever looks several times while scores come in will see differences "
            "that are none. Claims are made once every trial has ended."
        )

    @property
    def ask(self) -> str:
        """The command that says how far the run is now."""
        return f"python -m ray_robust.status {shlex.quote(self.folder)}"

    def due(self, spent: float) -> float:
        """Return the seconds in which a sweep that runs would have had its report written again, where that costs
        `spent` seconds of a processor: it waits for a trial to end, and for its share of the time."""
        return max(LEAST_DUE, DUE_TIMES * self.between, DUE_TIMES * spent / SHARE)

    def plain(self) -> dict[str, Any]:
        """Return it for verdict.json."""
        groups = {name: {"ended": ended, "planned": planned} for name, (ended, planned) in self.groups.items()}
        return {"written": self.date, "running": self.running, "trials_ended": self.ended, "trials": self.total,
                "groups": groups, "missing": self.missing}  # fmt: skip


def interim_of(run: RunFolder, states: Mapping[str, str]) -> Interim | None:
    """Return what is missing of a run whose trials have these states; None where nothing is, and it does not run but
    in this very process."""
    now, plan = time.time(), run.plan()
    progress, running = read_progress(run.storage, now), runs_elsewhere(run.storage, now)
    missing = [name for name, state in states.items() if state in NOT_ENDED]
    if not missing and not running:
        return None
    groups = dict(zip(plan.get("trial", ()), plan.get("group", ()), strict=True))
    planned = Counter(str(groups[name]) for name in states)
    lacking = Counter(str(groups[name]) for name in missing)
    work = remaining(run, planned_work(plan), [name for name in states if name not in set(missing)])
    ended, total, left = len(states) - len(missing), len(states), 0.0
    if running and progress is not None:
        total, left = max(total, progress.total), progress.left or 0.0
    return Interim(
        written=now,
        running=running,
        ended=ended,
        total=total,
        groups={name: (planned[name] - count, planned[name]) for name, count in lacking.items()},
        work=work.counts() if missing else "",
        folder=run.storage.shown,
        between=left / max(1, total - ended),
    )


def runs_elsewhere(folder: Storage, now: float) -> bool:
    """Return whether a driver in another process runs the sweep of a folder."""
    driver = driver_of(folder)
    return driver is not None and not driver.own and runs(driver, folder, now)


def runs(driver: Driver, folder: Storage, now: float) -> bool:
    """Return whether a driver runs. Where one look at its lease does not tell, it does if it has said so of late
    (`sweep_progress`)."""
    return driver.alive if driver.alive is not None else read_progress(folder, now) is not None


def of_several(parts: Sequence[tuple[str, Interim | None]]) -> Interim | None:
    """Return what is missing of joined runs (name, what it lacks): None where nothing is."""
    named = [replace(one, run=name) for name, one in parts if one is not None]
    if len(named) < 2:
        return named[0] if named else None
    return Interim(
        written=max(one.written for one in named),
        running=any(one.running for one in named),
        ended=sum(one.ended for one in named),
        total=sum(one.total for one in named),
        groups={f"{group} ({one.run})": counts for one in named for group, counts in one.groups.items()},
        work="; ".join(f"{one.run}: {one.work}" for one in named if one.work),
        run=" and ".join(one.run for one in named),
        folder=next((one.folder for one in named if one.running), named[0].folder),
        between=max(one.between for one in named),
    )
