"""Running a search in this command: a pilot that comes first, if any, then the baseline and what is drawn.

A search is named by what its baseline is, so that one whose baseline a pilot chooses begins once that is known.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ray_robust.errors import FAILED, UserError
from ray_robust.launch.run_sweep import PILOT_FAILED, SweepRun, report
from ray_robust.launch.search.sampler import sampler_of
from ray_robust.launch.search.search import Search
from ray_robust.prepare import provenance
from ray_robust.prepare.candidates import Candidates, Preview, expected_plan
from ray_robust.prepare.plan_text import print_failures
from ray_robust.prepare.provenance import write_plan
from ray_robust.prepare.search_text import print_best, write_search_table
from ray_robust.prepare.work import finished_trials, remaining_of, without


def run_search(baseline: SweepRun, first: Preview, limit: int | None) -> int:
    """Run a search, or continue it, after the trials of its baseline; return the exit code. `first` are the draws that
    it begins with, `limit` the largest number of trials. Raises UserError when it cannot be steered."""
    if baseline.pilot is not None and not _run_pilot(baseline):
        return FAILED
    sweep, run, out = baseline.sweep, baseline.run, baseline.out
    spec = sweep.spec
    search = Search(spec, Candidates(sweep), sweep.plan, run, sampler_of(spec, run), limit)
    begun = expected_plan(search.plan, first.plan, limit)
    try:
        code = replace(baseline, sweep=replace(sweep, plan=begun), search=search).execute()
    except UserError:  # what there is is written all the same
        run.write_plan(search.plan.rows())
        if (run.write_results()["status"] == "done").any():
            report(run, out)
        raise
    finally:  # also of one that was interrupted, whose plan.csv may be some seconds behind
        if baseline.lease is None or not baseline.lease.lost:  # another driver's search may be further
            run.write_plan(search.plan.rows())
            write_search_table(run, spec, search.outcomes)
    print_best(out, spec, search.ranked(), search.outcomes, search.over)
    return code


def _run_pilot(whole: SweepRun) -> bool:
    """Run what is missing of the pilot and choose the baseline's fine-tunings; return whether they are chosen: where a
    trial of it failed results are written."""
    assert whole.pilot is not None
    run, plan = whole.run, whole.pilot.plan
    done = finished_trials(run, plan)
    if len(todo := without(plan, done)):
        whole.warn(whole.pilot.sentence())
        part = replace(whole, sweep=replace(whole.pilot.bare, plan=plan, notes=()), written=whole.sweep, pilot=None)
        part.left, begun = remaining_of(run, plan, done), time.monotonic()
        seconds, ran = part.run_trials(todo)
        work = part.work_of_trials(trial for trial in todo if trial.id in ran)
        provenance.record_throughput(run, work, part.sweep.spec.resources)
        provenance.record_invocation(run, begun, seconds, len(ran))
        whole.cluster, whole.outside, whole.with_pilot = part.cluster, part.outside, True
    if whole.choose():
        return True
    write_plan(whole.sweep, run)
    run.write_results()
    report(run, whole.out)
    print_failures(whole.out, run, plan)
    whole.warn(PILOT_FAILED)
    return False
