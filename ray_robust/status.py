"""The command `python -m ray_robust.status RUN_DIR`: how far a sweep is, read from its folder alone.

Needs no cluster and starts nothing, so it can look at a run from any machine that sees the folder. Owns what is
printed; the states themselves are those of `results.RunFolder`.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from ray_robust.errors import DONE, FAILED, UserError, command, did_you_mean
from ray_robust.results import RunFolder

STATES = ("done", "started", "failed", "planned")
SHOWN = 40  # started trials, one line each; after many interruptions there may be thousands
STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning"}
NEEDED = {"trial", "group", "finetunes", "cost_images"}  # columns of plan.csv that are read here


@dataclass(frozen=True)
class Status:
    """A run at one moment. Every mapping is by trial id, in the plan's order.

    states    "done", "started", "failed" or "planned"
    groups    the group of every trial
    progress  of the started ones: what their progress.json says, {} before its first word
    failures  of the failed ones: {"reason", "log"}
    behind    share of the sweep's work that is done, 0-1, by the cost in the plan
    """

    question: str
    states: dict[str, str]
    groups: dict[str, str]
    progress: dict[str, dict[str, Any]]
    failures: dict[str, dict[str, Any]]
    behind: float


def main(argv: list[str]) -> int:
    """Print the status. Exit code 1 when a trial failed, else 0, be the sweep finished or not. Raises UserError."""
    parser = argparse.ArgumentParser(
        "python -m ray_robust.status", description="How far a sweep is, from its folder alone."
    )
    parser.add_argument("run", metavar="RUN_DIR", help="a run folder, a path or a URI")
    run = RunFolder(parser.parse_args(argv).run)
    status = read_status(run)
    from ray_robust.launch.monitor import console

    show(status, run, console(), time.time())
    return FAILED if status.failures else DONE


def read_status(run: RunFolder) -> Status:
    """Look at a run folder. Raises UserError when it is none, or nothing was planned there yet."""
    shown = run.storage.shown
    if not run.exists(""):
        raise UserError(f"{shown}: no such run folder{_near(run)}")
    plan = run.plan()
    if not set(plan.columns) >= NEEDED:
        raise UserError(f"{shown}: holds no plan.csv of a sweep; a run folder has one from the moment its trials start")
    states = run.states()
    progress = {
        name: run.trial(name).storage.read_json("progress.json") or {}
        for name, state in states.items()
        if state == "started"
    }
    cost = dict(zip(plan["trial"], plan["cost_images"].astype(float), strict=True))
    behind = sum(
        cost[name] * (1.0 if state == "done" else progress.get(name, {}).get("share", 0.0))
        for name, state in states.items()
    )
    return Status(
        question=str(run.spec().get("question") or ""),
        states=states,
        groups=dict(zip(plan["trial"], plan["group"], strict=True)),
        progress=progress,
        failures={name: run.trial(name).failure() or {} for name, state in states.items() if state == "failed"},
        behind=behind / max(sum(cost.values()), 1.0),
    )


def show(status: Status, run: RunFolder, out: Console, now: float) -> None:
    """Print a status as seen at the time `now`, in seconds since the epoch."""
    shown = run.storage.shown
    out.print(f"{shown}  {status.question}".rstrip(), markup=False, soft_wrap=True)
    counts = Counter(status.states.values())
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state] or state == "done")
    out.print(f"{len(status.states)} trials: {told}; {status.behind:.0%} of the work is done", markup=False)
    out.print(_groups(status))
    if status.progress:
        out.print(_started(status, now))
        if len(status.progress) > SHOWN:
            out.print(f"... and {len(status.progress) - SHOWN:,} more started", markup=False)
    for name, failure in status.failures.items():
        out.print(f"failed  {name}: {failure.get('reason', '')} (log: {failure.get('log', '')})", markup=False,
                  soft_wrap=True)  # fmt: skip
    for title, file in (("results", "results.csv"), ("report", "report/index.html")):
        if run.exists(file):
            out.print(f"{title:<8} {shown}/{file}", markup=False, soft_wrap=True)


def _groups(status: Status) -> Table:
    """One line per group of the sweep, trials by state."""
    table = _table(("group",), STATES)
    counts = {group: Counter[str]() for group in status.groups.values()}
    for name, state in status.states.items():
        counts[status.groups[name]][state] += 1
    for group, states in counts.items():
        table.add_row(group, *(str(states[state] or "") for state in STATES))
    return table


def _started(status: Status, now: float) -> Table:
    """One line per started trial, the latest to speak first: how long ago that was tells a running trial from one that
    was interrupted."""
    table = _table(("started", "stage"), ("epoch", "images/s", "ID", "OOD", "done", "last word"))
    for name, said in sorted(status.progress.items(), key=lambda item: -item[1].get("time", 0.0))[:SHOWN]:
        if not said:
            table.add_row(name, "starting")
            continue
        table.add_row(name, STAGES.get(said["stage"], said["stage"]), f"{said['epoch']:.1f}/{said['epochs']:.0f}",
                      f"{said['images_per_second']:,.0f}", _percent(said.get("id")), _percent(said.get("ood")),
                      f"{said['share']:.0%}", f"{_duration(now - said['time'])} ago")  # fmt: skip
    return table


def _table(left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _percent(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.1f} %"


def _duration(seconds: float) -> str:
    """`5 s`, `12 min`, `3 h`, `2 days`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _near(run: RunFolder) -> str:
    """The run beside it that was probably meant."""
    path = run.storage.local()
    if path is None or not path.parent.is_dir():
        return ""
    return did_you_mean(path.name, [found.name for found in path.parent.iterdir() if found.is_dir()])


if __name__ == "__main__":
    command(main)
