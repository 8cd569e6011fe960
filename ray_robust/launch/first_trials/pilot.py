"""The pilot of `baseline.spread: auto`: fine-tunings of the baseline's first seed, by which the others are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ray_robust.plan.plan import Plan
from ray_robust.prepare.baseline_spread import decide, pilot_plan, pilot_work, recorded, spread_sentence
from ray_robust.prepare.estimate import dearest
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.work import OpenWork, finished_trials, open_work, remaining_of, without
from ray_robust.run.run_folder import RunFolder


@dataclass(frozen=True)
class Pilot:
    """A pilot that has yet to choose.

    bare    the sweep without a choice
    run     where its scores are, and its choice is kept
    chosen  returns the sweep with what the run folder says was chosen
    """

    bare: Sweep
    run: RunFolder
    chosen: Callable[[], Sweep]

    @cached_property
    def plan(self) -> Plan:
        """All of its trials."""
        return pilot_plan(self.bare)

    def missing(self) -> Plan:
        """Those that are not done."""
        return without(self.plan, finished_trials(self.run, self.plan))

    def expected(self, work: Sequence[OpenWork], limit: int | None) -> tuple[list[OpenWork], list[OpenWork]]:
        """Return of the work of a whole sweep of at most `limit` trials, with the most that can be chosen, (what the
        pilot lacks and can be done beside it, what of its own trials comes after it)."""
        if (pilot := pilot_work(self.bare, self.run, limit)) is not None:
            work = dearest(work, pilot)
        lacking = open_work(self.plan, remaining_of(self.run, self.plan, finished_trials(self.run, self.plan)))
        own = {trial.id: {finetuning.id for finetuning in trial.finetunings} for trial in self.plan}
        after = [replace(one, stages=tuple(stage for stage in one.stages if stage.name not in own[one.trial.id]))
                 for one in work if one.trial.id in own]  # fmt: skip
        return [*lacking, *(one for one in work if one.trial.id not in own)], after

    def choose(self) -> Sweep | None:
        """Choose the baseline's fine-tunings by its scores, and keep them in the run folder; None where a trial of it
        is not done."""
        return None if decide(self.bare, RunFolder(self.run.storage)) is None else self.chosen()

    def sentence(self) -> str:
        """Return a line on what it is to do, or has chosen."""
        return f"pilot    {spread_sentence(self.bare, recorded(self.bare, self.run))}"
