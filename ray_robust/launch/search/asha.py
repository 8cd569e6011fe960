"""ASHA: stopping weak pre-trainings early, by a linear probe at milestones.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020), by the
rule of Tune's `AsyncHyperBandScheduler`, with its state in the run folder: every trial writes its probe's value to a
file of its own, and continues if that is among the best share of those written so far. So the decision outlives the
driver, is taken once, and is the same code with one worker and with several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_robust.data.opened import open_pool
from ray_robust.data.pool import Task
from ray_robust.files.storage import Storage
from ray_robust.launch.search.objective import Objective
from ray_robust.metrics import METRICS
from ray_robust.plan.plan import Trial
from ray_robust.spec.search_section import Stop
from ray_robust.text.percent import percent
from ray_robust.train.exceptions import Stopped
from ray_robust.trial.paths import RunPaths

if TYPE_CHECKING:
    from torch import nn

    from ray_robust.train.context import Context

FOLDER = "rungs"
PROBED = ("id_val", "ood_val")


@dataclass(frozen=True)
class Asha:
    """The rule of one search: when trials are probed (`settings`), by what value they are compared (`objective`), and
    the `study` under which the decisions are kept."""

    settings: Stop
    objective: Objective
    study: str

    def milestone(self, step: int, steps: int) -> int:
        """Return the latest milestone (1, 2, ...) that is behind at `step` of `steps`; 0 for none. Not whether it is
        reached by this very step: a training that resumes with another number of steps may begin beyond one."""
        return sum(step >= max(1, round(share * steps)) for share in self.settings.milestones)

    def decision(self, run: Storage, milestone: int, key: str) -> dict[str, Any] | None:
        """Return the decision about a trial: {"value", "cutoff" (None for the first), "goes_on"}; None before."""
        return _read_decision(run, f"{self._rung(milestone)}/{key}.json")

    def decide(self, run: Storage, milestone: int, key: str, value: float) -> dict[str, Any]:
        """Compare a trial with those that reached the milestone before it; write the decision and return it.

        The trial continues unless its value lies below the quantile 1 - keep of the others' values.
        """
        rung = self._rung(milestone)
        others = [_read_decision(run, f"{rung}/{name}") for name in run.names(rung) if name != f"{key}.json"]
        values = [other["value"] for other in others if other is not None]
        cutoff = float(np.percentile(values, 100 * (1 - self.settings.keep))) if values else None
        decision = {"value": value, "cutoff": cutoff, "goes_on": cutoff is None or value >= cutoff}
        run.write_json(f"{rung}/{key}.json", decision)
        return decision

    def _rung(self, milestone: int) -> str:
        return f"{FOLDER}/{self.study}/{milestone}"


def _read_decision(run: Storage, name: str) -> dict[str, Any] | None:
    """A decision; None where there is none that can be read, so that it is taken again."""
    decision = run.recall_json(name) or {}
    complete = (
        isinstance(decision.get("value"), int | float)
        and isinstance(decision.get("goes_on"), bool)
        and "cutoff" in decision
    )
    return decision if complete else None


def stop_callback(asha: Asha, trial: Trial, paths: RunPaths) -> Callable[..., bool]:
    """Return what a training calls after every step, see `Context.on_step`: it probes the network at milestones, and
    raises Stopped for a trial that is behind."""
    run, begun, passed = Storage(paths.run), time.monotonic(), 0

    def on_step(context: Context, stage: str, network: nn.Module, step: int, steps: int) -> bool:
        nonlocal passed
        milestone = asha.milestone(step, steps) if stage == "pretrain" else 0
        if milestone <= passed:
            return False
        passed = milestone
        if context.first and asha.decision(run, milestone, trial.key) is None:
            value = _probe(asha, trial, paths, context, network)
            if value is not None:
                asha.decide(run, milestone, trial.key, value)
        context.wait_for_all()
        decision = asha.decision(run, milestone, trial.key)
        if decision is not None and not decision["goes_on"]:
            share = asha.settings.milestones[milestone - 1]
            assert trial.pretrain is not None
            facts = {"milestone": milestone, **decision, "images_seen": round(trial.pretrain_images * step / steps),
                     "seconds": round(time.monotonic() - begun, 3)}  # fmt: skip
            best = f"the best {percent(asha.settings.keep, 0)} begin at {decision['cutoff']:.2f}"
            probe = f"a probe scored {decision['value']:.2f}"
            raise Stopped(f"stopped at {percent(share, 0)} of its pre-training: {probe}, {best}", facts)
        return True

    return on_step


def _probe(asha: Asha, trial: Trial, paths: RunPaths, context: Context, network: nn.Module) -> float | None:
    """The mean over the trial's tasks of the objective's value of a linear probe on their validation splits."""
    from ray_robust.train.probe import body_of, linear_probe
    from ray_robust.trial.datasets import Shown, task_split

    values = []
    for finetuning in {f.task_label: f for f in trial.finetunings}.values():
        task = open_pool("task", finetuning.task.name, finetuning.task)
        assert isinstance(task, Task)
        parts = {name: task_split(task, name, Path(paths.store), Shown.to(trial.model), context)
                 for name in ("train", *PROBED)}  # fmt: skip
        tests = {name: parts[name] for name in PROBED}
        predicted = linear_probe(
            body_of(network), parts["train"], tests, len(task.catalog.classes), trial.model, context
        )
        scores = [METRICS[task.metric].score(tests[name].tally(predicted[name])) for name in PROBED]
        values.append(asha.objective.probe(finetuning.task_label, *scores))
    comparable = [value for value in values if value is not None]
    return sum(comparable) / len(comparable) if comparable else None
