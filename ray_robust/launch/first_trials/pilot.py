"""The pilot of `baseline.spread: auto`: fine-tunings of the baseline's first seed, by which the others are chosen."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from ray_robust.launch.run_sweep import SweepRun, report, without
from ray_robust.prepare import provenance
from ray_robust.prepare.baseline_spread import PILOT, Choice, decide, pilot_plan, pilot_work, spread_sentence
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.plan_text import print_failures
from ray_robust.prepare.provenance import write_plan
from ray_robust.prepare.work import OpenWork, finished_trials, remaining_of
from ray_robust.run.run_folder import RunFolder


def run_pilot(bare: Sweep, whole: SweepRun, stack: contextlib.ExitStack, limit: int | None) -> Choice | None:
    """Run the pilot of `baseline.spread: auto`, or what is missing of it, choose the baseline's fine-tunings and keep
    them in the run folder; None, with results written, where a trial of it failed.

    bare   the sweep without them
    whole  the run of the sweep as far as it is known: its plan is written meanwhile
    stack  keeps the cluster, for the rest of the sweep
    limit  of the trials of the sweep
    """
    run, plan = whole.run, pilot_plan(bare)
    done = finished_trials(run, plan)
    todo = without(plan, done)
    if len(todo):
        whole.out.print(f"pilot    {spread_sentence(bare, Choice(PILOT, False))}", markup=False, soft_wrap=True)
        then: list[OpenWork] = []
        if not bare.spec.space.dimensions:  # of a search it is not known which trials there will be
            before = finished_trials(run, whole.sweep.plan)
            rest = without(whole.sweep.plan, before)
            whole.left = remaining_of(run, whole.sweep.plan, before)
            then = [work for work in whole.work_of_trials(rest) if work.trial.id not in {trial.id for trial in todo}]
            takes = whole.estimated(rest, pilot_work(bare, run, limit))
            whole.out.print(f"time     {takes}", markup=False, soft_wrap=True)
        pilot = replace(whole, sweep=replace(bare, plan=plan, notes=()), written=whole.sweep, stack=stack, then=then)
        pilot.left = remaining_of(run, plan, done)
        pilot.run_trials(todo)
        provenance.record_throughput(run, pilot.work_of_trials(todo), bare.spec.resources)
        whole.cluster, whole.outside, whole.with_pilot = pilot.cluster, pilot.outside, True
    choice = decide(bare, RunFolder(run.storage))
    if choice is None:
        write_plan(whole.sweep, run)
        run.write_results()
        report(run, whole.out)
        print_failures(whole.out, run, plan)
        whole.warn(
            "stopped  after the pilot of baseline.spread: auto, which failed; the same command again runs the rest"
        )
    return choice
