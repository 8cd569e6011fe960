"""Running a sweep or a search in this command: fill the stores, run what is missing, write the results, report.

Owns the order of these steps and what is printed of them. The command's arguments and its plan are `sweep`'s.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rich.console import Console

from ray_robust.data.images.store import ImageStore, default_root
from ray_robust.data.opened import usable
from ray_robust.errors import DONE, FAILED, Outage, UserError, unforeseen
from ray_robust.launch.cluster.connect import Cluster, connect
from ray_robust.launch.first_trials.baseline_first import NO_BASELINE, BaselineFirst
from ray_robust.launch.first_trials.pilot import Pilot
from ray_robust.launch.first_trials.planned_trials import Chosen, PilotTrials
from ray_robust.launch.ingest.ingest import head_start, ingest
from ray_robust.launch.monitor.image_progress import image_progress
from ray_robust.launch.monitor.interim_reports import InterimReports
from ray_robust.launch.monitor.loggers import open_loggers
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.launch.monitor.time_left import TimeLeft
from ray_robust.launch.search.search import Search
from ray_robust.plan.plan import Plan, Trial
from ray_robust.prepare import provenance, second_stage
from ray_robust.prepare.baseline_line import baseline_trials, judge_baseline
from ray_robust.prepare.baseline_spread import can_be_spread, pilot_work
from ray_robust.prepare.data_entries import write_data_entries
from ray_robust.prepare.estimate import decoding_seconds, estimate, prior_rate
from ray_robust.prepare.open_sweep import Sweep
from ray_robust.prepare.plan_text import print_composition, print_failures, print_missing, print_title
from ray_robust.prepare.provenance import plan_writer, write_plan
from ray_robust.prepare.subset_pictures import write_subset_pictures
from ray_robust.prepare.subsets import Subsets, decode_jobs, draw_all
from ray_robust.prepare.work import (
    OpenWork,
    PilotWork,
    finished_trials,
    lacked_by_either,
    open_work,
    remaining_of,
    stopped_trials,
    without,
    work_of,
)
from ray_robust.run import throughput
from ray_robust.run.checkpoint_paths import shared_weights
from ray_robust.run.lease import Lease
from ray_robust.run.missing import Remaining
from ray_robust.run.run_folder import RunFolder
from ray_robust.text.names import count_noun
from ray_robust.text.percent import percent
from ray_robust.trial.paths import RunPaths

REPORT = 8.0  # seconds that results and report take, for the time left
PILOT_FAILED = "stopped  after the pilot of baseline.spread: auto, which failed; the same command again runs the rest"


@dataclass
class SweepRun:
    """A run of a sweep, or of a search's part of it.

    subsets  the images of every trial, as far as they are drawn
    address  of a cluster to join, None for RAY_ADDRESS or this machine
    cluster  one that runs already
    search   gives the trials that the sweep's plan lacks
    written  the sweep that spec.yaml and plan.csv are of, where this is a part of it
    stack    keeps a cluster that is started here; None: it ends with these trials
    limit    of its trials; `lease` is the run folder's
    pilot    has yet to choose the baseline's fine-tunings: the plan's are those that it tries
    """

    sweep: Sweep
    subsets: Subsets
    run: RunFolder
    out: Console
    address: str | None
    cluster: Cluster | None = None
    search: Search | None = None
    baseline: BaselineFirst = NO_BASELINE
    written: Sweep | None = None
    stack: contextlib.ExitStack | None = None
    pilot: Pilot | None = None
    limit: int | None = None
    lease: Lease | None = None
    begun: float = field(default_factory=time.monotonic)  # when the command began
    left: Remaining | None = None  # what was missing then, and what the pilot has added
    done: frozenset[str] = frozenset()  # ids of the trials that lacked nothing, or that a search had stopped
    outside: float = 0.0  # seconds between beginning and end of the trials' own work, and those of decoding
    with_pilot: bool = False  # whether the pilot ran in this command
    _waits: bool = False  # whether a second stage is wanted and could not be planned

    def execute(self) -> int:
        """Run what is missing, write results and report; return the exit code. Raises UserError, and Outage once what
        is done is reported."""
        begun = time.monotonic()
        self.run.storage.tidy(deep=False)  # trials do so in their own folders
        if self.pilot is not None and not len(self.pilot.missing()):
            self.choose()
        done = self._print_state()
        if self.pilot is not None:  # it may choose more for any trial of the baseline: it counts as not done yet
            done -= {trial.id for trial in self.sweep.plan if trial.pretrain is None}
        first = self.sweep.plan
        todo = without(first, done)
        if len(todo) or (self.search is not None and self.sweep.spec.baseline.stop_if_no_line):
            self._begin_with_baseline(done)
        goes_on = (len(todo) > 0 or self.pilot is not None) and self.baseline.may_go_on is not False
        if self.search is not None:
            goes_on = not self.search.complete
        outage = self._train(todo, begun) if goes_on else None
        if outage is None and len(more := self._second_stage(first)):
            outage = self._train(more, time.monotonic())
        if self.search is not None:
            self.sweep = replace(self.sweep, plan=self.search.plan)
        write_plan(self.sweep, self.run)  # again: the results go by it, and it may have been removed or altered
        self.run.write_results()
        with contextlib.suppress(UserError, OSError):  # the report comes without pictures then
            write_subset_pictures(self.sweep, self.run, default_root())
        reported = report(self.run, self.out)
        self._print_stop()
        if self.pilot is not None and outage is None:
            self.warn(PILOT_FAILED)
        self._record_overhead(time.monotonic() - self.begun)
        complete = self._print_summary(time.monotonic() - self.begun)
        if reported:
            self.out.print(f"report   {self.run.storage.shown}/report/index.html", markup=False, soft_wrap=True)
        if outage is not None:
            raise outage
        # of a search every trial that there is may be done, and with a limit the pilot's may not be among the plan's
        stopped = self.baseline.may_go_on is False or self.pilot is not None
        return DONE if complete and not stopped and not self._waits and reported is not None else FAILED

    def _train(self, todo: Plan, begun: float) -> Outage | None:
        """Run these trials, of a search those that it gives, and record what they took; return what ended them."""
        try:
            seconds, ran = self.run_trials(todo)
            plan = self.sweep.plan if self.search is None else self.search.plan
            work = self.work_of_trials(trial for trial in plan if trial.id in ran)
            provenance.record_throughput(self.run, work, self.sweep.spec.resources)
            provenance.record_invocation(self.run, begun, seconds, len(ran))
        except Outage as error:
            return error
        return None

    def choose(self) -> bool:
        """Go on with the sweep that the pilot chose; return whether it has chosen: a trial may have failed."""
        assert self.pilot is not None
        if (chosen := self.pilot.choose()) is None:
            return False
        self.warn(self.pilot.sentence())
        self.sweep, self.pilot = chosen, None
        return True

    def pilot_trials(self, monitor: Monitor) -> PilotTrials | None:
        """The trials of the pilot that has yet to choose; None where there is none."""
        if self.pilot is None:
            return None
        trials = self.pilot.missing()
        monitor.in_parts = {trial.id for trial in trials}
        return PilotTrials(trials, lambda: self._choose_for(monitor))

    def _choose_for(self, monitor: Monitor) -> Chosen | None:
        """Do so while trials run; return the baseline's trials, None where the pilot has failed."""
        if not self.choose():
            return None
        write_plan(self.sweep, self.run)
        own = Plan(tuple(trial for trial in self.sweep.plan if trial.pretrain is None))
        left = remaining_of(self.run, own, done := finished_trials(self.run, own))
        self.left = left if self.left is None else lacked_by_either(self.left, left)
        monitor.expect_more(open_work(own, left), done)
        self.baseline.settled(*done)
        return Chosen(own, done)

    def _second_stage(self, first: Plan) -> Plan:
        """Plan the seeds that follow the first stage, print why so many, and return their trials that are not done.
        `first`: the plan that has been run, which has them where they were planned before."""
        sweep, run, none = self.sweep, self.run, Plan(())
        if not second_stage.wanted(sweep) or self.baseline.may_go_on is False or self.pilot is not None:
            return none
        if second_stage.recorded(sweep, run):
            return self._begin_stage({trial.id for trial in first})
        write_plan(sweep, run)  # the results go by it
        try:
            if lacking := second_stage.missing(sweep, run):
                raise UserError(f"{count_noun(lacking, 'trial')} of the first stage {'is' if lacking == 1 else 'are'} "
                                "not done; the same command again runs what is missing and plans it")  # fmt: skip
            planned = second_stage.decide(sweep, run)
        except UserError as error:
            self._waits = True
            for problem in error.problems:
                self.warn(f"seeds    the second stage is not planned: {problem}")
            return none
        for sentence in planned.sentences():
            self.warn(f"seeds    {sentence}")
        self.sweep = second_stage.with_plan(sweep, planned.seeds, self.limit)
        return self._begin_stage(set())

    def _begin_stage(self, over: set[str]) -> Plan:
        """Return what is to be run of the sweep's plan, as it is now, beside trials that are over."""
        done = finished_trials(self.run, self.sweep.plan) | over
        if len(todo := without(self.sweep.plan, done)):
            self.subsets, self.baseline = draw_all(self.sweep, {}), NO_BASELINE
            self.left = remaining_of(self.run, self.sweep.plan, done)
        return todo

    def _begin_with_baseline(self, done: set[str]) -> None:
        """Decide which trials come first. A baseline that is done already is judged at once, and may end the sweep
        before a cluster is started."""
        sweep, run = self.sweep, self.run
        trials = baseline_trials(sweep.plan, sweep.spec)
        others = self.search is not None or len(trials) < len(sweep.plan)
        stop = sweep.spec.baseline.stop_if_no_line
        if not others or not (trials or stop):
            return
        self.baseline = BaselineFirst(trials, lambda: judge_baseline(self.sweep, run), self.warn, stop, done)
        if self.search is not None:
            self.search.may_go_on = lambda: self.baseline.may_go_on
        if trials <= done:
            write_plan(sweep, run)  # the verdict goes by the settings and trials of this spec
            self.baseline.conclude()

    def _print_stop(self) -> None:
        """Print why the sweep ended after its baseline, where it did, and what to do next."""
        verdict = self.baseline.verdict
        if verdict is None or self.baseline.may_go_on is not False:
            return
        left = len(self.sweep.plan) - len(self.baseline.trials)
        begun = f"{left} trials were not begun" if self.search is None else "no mixture was drawn"
        spread = ", --set baseline.spread=auto spreads its ID scores" if can_be_spread(self.sweep.spec) else ""
        self.warn(
            f"stopped  after the baseline, which makes no line ({'; '.join(verdict.refusals)}): {begun}. The report "
            f"says what to change{spread}; then run the same command again. --set baseline.stop_if_no_line=false runs "
            "the rest as it is"
        )

    def _print_state(self) -> set[str]:
        """Mend what needs no training, print how far the sweep is, and return the ids of the trials that are done."""
        run, plan, out = self.run, self.sweep.plan, self.out
        done = finished_trials(run, plan)
        mended = [trial.id for trial in plan if trial.id not in done and run.trial(trial.id).mend()]
        done |= finished_trials(run, Plan(tuple(trial for trial in plan if trial.id in mended)))
        self.done = frozenset(done | (set() if self.search is None else stopped_trials(run, plan)))
        print_title(out, self.sweep.spec)
        self.left = remaining_of(run, plan, self.done)
        pilot = None if self.pilot is None else pilot_work(self.pilot.bare, run, self.limit)
        if self.search is None:
            whole = len(plan)
            cost = f"   {self._estimated(without(plan, done), pilot)}" if len(done) < whole else ""
        else:
            whole, cost = max(self.search.expected, len(plan)), ""
        out.print(f"{len(done)} of {whole} trials are done, {whole - len(done)} to run{cost}", soft_wrap=True)
        if self.left.missing:
            print_missing(out, self.left)
        if self.pilot is not None:
            self.warn(self.pilot.sentence())
        for name in mended:
            out.print(f"mended   {name}: rows.jsonl was not as it was left; made again from its fine-tunings",
                      markup=False)  # fmt: skip
        warnings = (*run.damaged(trial.id for trial in plan), *provenance.identified_by_size(run, self.sweep.pools()))
        for line in warnings:
            out.print(line, markup=False, soft_wrap=True)
        if self.search is None and (beside := run.finished_beside(trial.id for trial in plan)):
            what = f"{count_noun(len(beside), 'finished trial')} of another plan in this folder, e.g. {beside[0]}"
            out.print(f"beside   {what}: results and report leave them out", markup=False, soft_wrap=True)
        return done

    def work_of_trials(self, trials: Iterable[Trial]) -> list[OpenWork]:
        """What these trials lacked when the command began, or lack since the pilot has chosen; all of one that was not
        planned then. Of one that was done, and that a search asks for more, nothing: what it lacks is not known."""
        missing = self.left.missing if self.left is not None else {}
        lacking = (trial for trial in trials if trial.id in missing or trial.id not in self.done)
        return [work_of(trial, missing.get(trial.id)) for trial in lacking]

    def _estimated(self, todo: Plan, pilot: PilotWork | None) -> str:
        """How long the command takes."""
        work, resources = self.work_of_trials(todo), self.sweep.spec.resources
        decoding = decoding_seconds(decode_jobs(self.sweep, todo, self.subsets))
        how = "; the time left is shown once the first steps are timed"
        later = second_stage.later_work(self.sweep, self.run, self.limit)
        return estimate(work, resources, decoding, pilot, later).text(how)

    def _record_overhead(self, seconds: float) -> None:
        """Keep, for the next estimate, what this command took beside decoding and the work of its trials."""
        if self.outside and self.cluster is not None and self.cluster.local:
            name = throughput.WITH_PILOT if self.with_pilot else throughput.OVERHEAD
            throughput.record_rate(name, seconds - self.outside)

    def run_trials(self, todo: Plan) -> tuple[float, set[str]]:
        """Fill the stores, run the trials, of a search those that it gives; return the seconds that they took, and the
        ids of those that were given out."""
        import analysis.__main__ as analysis
        from ray_robust.launch.placement import slots_now
        from ray_robust.launch.tuner import run_plan

        sweep, run, out, search, root = self.sweep, self.run, self.out, self.search, default_root()
        pilot = () if self.pilot is None else self.pilot.missing()
        wanted = decode_jobs(sweep, Plan((*todo, *pilot)), self.subsets)
        jobs = [(pool, form, rows) for _, pool, form, rows in wanted]
        with contextlib.ExitStack() as own:
            if self.cluster is None:
                with head_start(jobs, root):
                    self.cluster = (self.stack or own).enter_context(connect(self.address))
            slots = slots_now(sweep.spec.resources)
            decoding = time.monotonic()
            with image_progress(out) as progress:
                stores = ingest(jobs, root, progress)
            decoding = time.monotonic() - decoding
            # A pool that is used at several sizes has a store of each, and any of them knows what is left out.
            by_pool = {key: store for (key, *_), store in zip(wanted, stores, strict=True)}
            repeats = any(trial.pretrain is not None and trial.pretrain.dedupe is not None for trial in todo)
            if repeats or any(usable(store) is not None for store in stores):  # only now is it known what is left out
                self.subsets = draw_all(sweep, by_pool)
            write_plan(self.written or sweep, run)
            self._print_data(self.cluster, list(by_pool.values()))
            loggers = open_loggers(sweep.spec, run, todo, self.cluster.scratch, self.warn)
            time_left = self.time_left(todo, slots)
            monitor = Monitor(todo, run, out, len(sweep.plan) - len(todo), sweep.spec.name, True, loggers, time_left)
            monitor.when_ending, monitor.lease = analysis.warm_up, self.lease
            monitor.reports = InterimReports(run.storage.address, self.warn)
            if search is not None:
                monitor.total = max(monitor.total, search.expected)
                search.on_plan = plan_writer(run)
            paths = RunPaths(run.storage.address, shared_weights(run.storage).address, str(root))
            begun, first = time.monotonic(), self.pilot_trials(monitor)
            with monitor.watching():
                ran = run_plan(todo, paths, sweep.spec.resources, self.cluster, monitor, search, self.baseline, first)
            ended = time.monotonic()
            if monitor.reports.written:
                count = count_noun(monitor.reports.written, "report")
                self.warn(f"interim  {count} while it ran, in {percent(monitor.reports.share)} of its time")
            if monitor.first_progress is not None:
                self.outside += decoding + ended - monitor.first_progress
            return ended - begun, ran

    def time_left(self, todo: Plan, slots: int) -> TimeLeft:
        """The open work of these trials, that of a pilot before what follows from it."""
        work, after, resources = self.work_of_trials(todo), list[OpenWork](), self.sweep.spec.resources
        if self.pilot is not None:
            work, after = self.pilot.expected(work, self.limit)
        return TimeLeft(work, prior_rate(resources), REPORT, resources.gpus_per_worker, slots, after)

    def warn(self, line: str) -> None:
        """Print a line as it is."""
        self.out.print(line, markup=False, soft_wrap=True)

    def _print_data(self, cluster: Cluster, stores: list[ImageStore]) -> None:
        """Write data.json; print what trials draw from, and the cluster that they run on."""
        from ray_robust.launch.placement import notes

        out = self.out
        for line in write_data_entries(self.sweep, self.run, stores, self.warn):
            out.print("[yellow]duplicates[/]  ", end="")
            out.print(line, markup=False, soft_wrap=True)
        print_composition(out, self.sweep, self.subsets)
        for note in filter(None, (cluster.note, *notes(self.sweep.spec.resources))):
            out.print(note, markup=False, soft_wrap=True)
        if cluster.dashboard:
            asks = "; it asks for the token that `ray get-auth-token` prints" if cluster.locked else ""
            out.print(f"Ray dashboard  http://{cluster.dashboard}{asks}", markup=False)

    def _print_summary(self, seconds: float) -> bool:
        """Print how the trials ended and where the results are; return whether none failed or was not run."""
        run, plan, states = self.run, self.sweep.plan, self.run.states()
        stopped = sum(states.get(trial.id) == "stopped" for trial in plan) if self.search is not None else 0
        ends = ("done", "stopped") if stopped else ("done",)
        others = [trial for trial in plan if states.get(trial.id) not in ends]
        failures = print_failures(self.out, run, others)
        counts = {"failed": failures, "stopped": stopped, "not run": len(others) - failures}
        if self.pilot is not None:  # with a limit its trials may not be among the plan's
            beside = [trial for trial in self.pilot.plan if trial.id not in states]
            counts["failed"] += print_failures(self.out, run, beside)
        listed = "".join(f", {count} {what}" for what, count in counts.items() if count or what == "failed")
        self.out.print(f"{len(plan) - len(others) - stopped} trials done{listed}, in {seconds:.0f} s", markup=False)
        self.out.print(f"results  {run.storage.shown}/results.csv", markup=False, soft_wrap=True)
        return not others


def report(run: RunFolder, out: Console) -> bool | None:
    """Analyse the run and print the result. Return False when there is nothing to analyse yet, None when the analysis
    broke down or its folder cannot be written: what was trained is complete all the same."""
    from analysis.__main__ import Request, report_on
    from analysis.writing import Unwritable

    try:
        report_on(Request((run.storage.address,)), out.quiet)
    except UserError as error:
        for problem in error.problems:
            out.print(f"no report: {problem}", markup=False, soft_wrap=True)
        return None if isinstance(error, Unwritable) else False
    except Exception as error:
        out.print(f"no report: {unforeseen(error)}", markup=False, soft_wrap=True)
        return None
    return True
