"""Following a sweep while it runs: the live view on a terminal, plain lines elsewhere, Ray metrics, loggers.

Everything shown is read from the run folder, where trials write their progress; the workers are asked nothing. One
thread reads the folder and passes on what is new, so that a slow logger never holds the sweep.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from ray_robust.launch.monitor.interim_reports import InterimReports
from ray_robust.launch.monitor.live_view import PROBLEMS, Snapshot, render, scores
from ray_robust.launch.monitor.loggers import Loggers
from ray_robust.launch.monitor.metrics import SweepMetrics
from ray_robust.launch.monitor.time_left import TimeLeft
from ray_robust.plan.plan import Plan, Trial
from ray_robust.prepare.work import OpenWork, open_work
from ray_robust.run.lease import Lease
from ray_robust.run.run_folder import RunFolder, TrialFolder
from ray_robust.run.shifts import OWN
from ray_robust.run.sweep_progress import WRITE_EVERY, SweepProgress, forget_progress, write_progress
from ray_robust.status.progress import ErSoFar, er_so_far
from ray_robust.text.durations import duration

POLL = 1.0  # seconds between two looks at the run folder
ER_EVERY = 30.0  # seconds at least between two computations of ER, which read the rows of every finished trial
ER_SHARE = 0.02  # of the time at most goes into that
FIRST_LINE, LINE_EVERY = 30.0, 300.0  # seconds until a line about the whole is printed where there is no terminal
PATIENCE = 30.0  # seconds that loggers have to finish
ENDED = ("done", *PROBLEMS)


class Monitor:
    """Follows the trials of a plan. Tune's callbacks report starts and ends; a thread reads the progress between.

    plan          the trials that may run: with a pilot all of the baseline's, since its choice may ask any for more
    done_before   other trials of the sweep: earlier runs of the same command finished them
    metrics       whether to set Ray metrics
    time_left     the open work; None: all of the plan's
    reports       the report that is written while trials run, if any
    when_ending   called once, when a slot stays empty: there is time to spare
    in_parts      trials of which a pilot runs a part first: its end is not theirs
    finished      state by trial id, one of `ENDED`
    """

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        console: Console,
        done_before: int,
        title: str,
        metrics: bool,
        loggers: Loggers | None = None,
        time_left: TimeLeft | None = None,
    ) -> None:
        self.run, self.console, self.title, self.loggers = run, console, title, loggers
        self.done_before, self.total = done_before, done_before + len(plan)
        self._wanted = {trial.id: {f.id for f in trial.finetunings} for trial in plan}
        self.time_left = time_left or TimeLeft(open_work(plan, None))
        self.first_progress: float | None = None  # when the first trial reported any, on the monotonic clock
        self.running: dict[str, dict[str, Any]] = {}
        self.finished: dict[str, str] = {}
        self.begun = time.monotonic()
        self.when_ending: Callable[[], None] = lambda: None
        self.reports: InterimReports | None = None
        self.lease: Lease | None = None  # of the run folder: one that is lost is another driver's to write in
        self.in_parts: set[str] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ending = False
        self._began: dict[str, float] = {}
        self._old: dict[str, dict[str, Any]] = {}  # by trial: the progress that it had when it began, if that was whole
        self._line_at = time.monotonic() + FIRST_LINE
        self._publish_at = time.monotonic()
        self._metrics = SweepMetrics(title) if metrics else None
        self._new_starts: list[str] = []  # trials that the thread has yet to pass on
        self._new_ends: list[str] = []
        self._er_at, self._er_thread = time.monotonic() + ER_EVERY, threading.Thread()

    # --- called by the scheduler

    def expect(self, trial: Trial) -> None:
        """Add a trial that a search has drawn; `total` says how many there will be."""
        with self._lock:
            self.time_left.expect(trial)
            self._wanted[trial.id] = {f.id for f in trial.finetunings}
            self.total = max(self.total, self.done_before + len(self._wanted))
        if self.loggers is not None:
            self.loggers.expect(trial)

    def expect_more(self, work: Iterable[OpenWork], done: Collection[str]) -> None:
        """Take this for what its trials lack from now on, since a pilot is over; `done` are those that lack nothing."""
        work = list(work)
        with self._lock:
            self.total += len({one.trial.id for one in work} - self._wanted.keys())
            self._wanted |= {one.trial.id: {f.id for f in one.trial.finetunings} for one in work}
            self.time_left.expect_more(work, done)
            self._new_ends += sorted(self.in_parts & set(done))
            self.finished |= dict.fromkeys(done, "done")
            self.in_parts = set()

    def say(self, line: str) -> None:
        """Print a line, above the live view where there is one."""
        self.console.print(line, markup=False, soft_wrap=True)

    def started(self, trial: str) -> None:
        """Note that a trial begins, or begins again after its worker died."""
        with self._lock:
            self.running.setdefault(trial, {})
            self._began[trial] = time.monotonic()
            self._new_starts.append(trial)

    def ended(self, trial: str) -> None:
        """Note that a trial is over; its folder says how."""
        folder = self.run.trial(trial)
        state, failure = state_of(folder), folder.failure()
        progress, rows = folder.progress(), self._rows_of(trial, state)
        with self._lock:
            if self.running.pop(trial, None) is not None:
                self.time_left.on_end(trial, rows, time.monotonic() - self._began[trial])
            if of_pilot := state == "done" and trial in self.in_parts:
                self._old.pop(trial, None)
                self.time_left.part_ended(trial)
            else:
                self.finished[trial] = state
                self._new_ends.append(trial)
            ending = len(self.finished) + len(self.running) >= self.total - self.done_before and not self._ending
            self._ending = self._ending or ending
        if ending:
            self.when_ending()
        if not self.console.is_terminal:
            count = "pilot   " if of_pilot else f"[{self.done_before + len(self.finished)}/{self.total}]"
            last = scores(progress)
            outcome = f"{state}: {failure['reason']}" if failure else f"{state}{last and f'  last look: {last}'}"
            left = self.done_and_left()[1]
            after = "" if left is None or ending else f"   about {duration(left)} left"
            self.say(f"{count} {trial}  {outcome}{after}")
            self._line_at = time.monotonic() + LINE_EVERY

    # --- the thread

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Read and show in the background for the time of a with-block."""
        thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self.begun = time.monotonic()
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            try:
                thread.join(timeout=0 if self._lost else PATIENCE)
            finally:
                if self.reports is not None:
                    self.reports.close()
                if not self._lost:
                    forget_progress(self.run.storage)

    @property
    def _lost(self) -> bool:
        return self.lease is not None and self.lease.lost

    def _watch(self) -> None:
        live = Live(self._view(), console=self.console, refresh_per_second=2, transient=True)
        with live if self.console.is_terminal else contextlib.nullcontext():
            while not self._stop.wait(POLL):
                self._update()
                if self.console.is_terminal:
                    live.update(self._view())
        self._update()  # what ended since the last one
        if self.loggers is not None:
            self.loggers.close(self._er)

    def _update(self) -> None:
        """Read the progress of every running trial, and pass on what is new."""
        over = self._stop.is_set()  # nobody waits for what follows then, and the folder may be another driver's soon
        with self._lock:
            running, starts, ends = [] if over else list(self.running), self._new_starts, self._new_ends
            self._new_starts, self._new_ends = [], []
        if self._metrics is not None:
            for name in starts:
                self._metrics.started(name)
        for name in running:
            if self._stop.is_set():
                break
            progress = self._read_progress(name)
            with self._lock:
                if name in self.running and progress:
                    self.running[name] = progress
                    self._note_progress(name, progress)
            self._pass_on_progress(name, progress)
        for name in ends:
            self._pass_on_end(name)
        if not self.console.is_terminal and time.monotonic() > self._line_at:
            self._print_line()
        if time.monotonic() >= self._publish_at and not self._stop.is_set() and not self._lost:
            self._publish_at = time.monotonic() + WRITE_EVERY
            left = self.done_and_left()[1]
            write_progress(self.run.storage, SweepProgress(time.time(), self.total, left))
            if self.reports is not None:
                self.reports.update(len(self.finished), left)
        if self._metrics is not None:
            self._metrics.sweep(self.counts(), *self.done_and_left())
            if time.monotonic() > self._er_at and not self._er_thread.is_alive():
                self._er_thread = threading.Thread(target=self._update_er, name="monitor of ER", daemon=True)
                self._er_thread.start()

    def _note_progress(self, name: str, progress: dict[str, Any]) -> None:
        """Measure by the progress of a running trial, unless it is what an earlier run of it left."""
        if name not in self._old:
            of_before = progress["share"] >= 1.0 or self.run.trial(name).is_earlier(progress)
            self._old[name] = progress if of_before else {}
        if progress != self._old[name]:
            self.time_left.on_progress(name, progress)
            self.first_progress = self.first_progress or time.monotonic()

    def _read_progress(self, name: str) -> dict[str, Any]:
        """A trial's progress; {} before there is any, and while the storage is away."""
        try:
            return self.run.trial(name).progress()
        except OSError:
            return {}

    def _pass_on_progress(self, name: str, progress: dict[str, Any]) -> None:
        if progress and self._metrics is not None:
            self._metrics.progress(name, progress)
        if progress and self.loggers is not None:
            self.loggers.on_progress(name, progress)

    def _pass_on_end(self, name: str) -> None:
        state = self.finished[name]
        self._pass_on_progress(name, self._read_progress(name))
        if self.loggers is not None:
            self.loggers.on_end(name, state, self._rows_of(name, state))
        if self._metrics is not None:
            self._metrics.ended(name, state)

    def _update_er(self) -> None:
        """In a thread of its own: on remote storage it may take minutes."""
        begun = time.monotonic()
        er = self._er()
        if self._metrics is not None:
            self._metrics.er(er)
        now = time.monotonic()
        self._er_at = now + max(ER_EVERY, (now - begun) / ER_SHARE)

    def _er(self) -> ErSoFar:
        """The present ER, read through a folder of its own, so that no rows stay in memory."""
        try:
            return er_so_far(RunFolder(self.run.storage))
        except (OSError, ValueError):  # the storage is away for a moment
            return ErSoFar()

    # --- counting

    def counts(self) -> dict[str, int]:
        """Return how many trials of the sweep are in each state."""
        with self._lock:
            ended, running = list(self.finished.values()), len(self.running)
        counts = {"running": running, **{state: ended.count(state) for state in ENDED}}
        counts["done"] += self.done_before
        counts["waiting"] = max(0, self.total - sum(counts.values()))
        return counts

    def done_and_left(self) -> tuple[float, float | None]:
        """Return the share of this run's open work that is done, 0-1, and the seconds to go; None when it is too early
        to tell."""
        with self._lock:
            running, ended = self._fresh_progress(), set(self.finished)
            drawn = max(1, len(self._wanted))
            undrawn = max(1.0, (self.total - self.done_before) / drawn)  # trials that a search will draw
            return self.time_left.share_done(running, ended) / undrawn, self.time_left.left(running, ended, undrawn)

    def _fresh_progress(self) -> dict[str, dict[str, Any]]:
        """The progress of the running trials; {} for a trial that was finished before it lacked one more, until it
        reports anew: its old progress says that all is done."""
        return {name: {} if self._old.get(name) == p else p for name, p in self.running.items()}

    def work_done(self) -> str:
        """Return `2 of 4 pre-trainings, 5 of 12 fine-tunings`, of those that this run had to do."""
        with self._lock:
            done, whole = self.time_left.counts(self._fresh_progress(), set(self.finished))
        kinds = zip(("pre-trainings", "fine-tunings"), done, whole, strict=True)
        return ", ".join(f"{count} of {of} {name}" for name, count, of in kinds if of)

    def _rows_of(self, trial: str, state: str) -> list[dict[str, Any]]:
        """The rows that count of what was asked of a trial that is over; [] while the storage is away."""
        folder, wanted = self.run.trial(trial), self._wanted.get(trial, ())
        with contextlib.suppress(OSError, ValueError):
            rows = folder.rows() if state == "done" else folder.rows_so_far()
            return [row for row in rows if row.get("shift", OWN) == OWN and row["finetune"] in wanted]
        return []

    def _print_line(self) -> None:
        """A line about the whole, where there is no terminal: a log shows that it makes progress, and how long yet."""
        self._line_at = time.monotonic() + LINE_EVERY
        left = self.done_and_left()[1]
        if left is not None:
            passed = duration(time.monotonic() - self.begun)
            self.console.print(f"{passed} so far: {self.work_done()}; about {duration(left)} left", markup=False)

    def _view(self) -> Group:
        with self._lock:
            running = dict(self.running)
        left = self.done_and_left()[1]
        passed = time.monotonic() - self.begun
        now = Snapshot(self.title, self.total, self.counts(), running, passed, left, self.work_done())
        return render(now, self.console.width)


def state_of(folder: TrialFolder) -> str:
    """Return how a trial that is over has ended: one of `ENDED`."""
    if folder.stopped() is not None:
        return "stopped"
    failure = folder.failure()  # giving it out removes it: what is there is of this time
    if failure is not None:
        return "quarantined" if failure.get("quarantined") else "failed"
    return "done"
