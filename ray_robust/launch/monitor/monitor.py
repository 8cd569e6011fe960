"""Following a sweep while it runs: the live view on a terminal, plain lines elsewhere, Ray metrics, loggers.

Everything shown is read from the run folder, where trials write their progress; the workers are asked nothing. One
thread reads the folder and passes on what is new, so that a slow logger never holds the sweep.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from ray_robust.launch.monitor.live_view import PROBLEMS, Snapshot, render, scores
from ray_robust.launch.monitor.loggers import Loggers
from ray_robust.launch.monitor.metrics import SweepMetrics
from ray_robust.plan.plan import Plan, Trial
from ray_robust.run.run_folder import RunFolder, TrialFolder
from ray_robust.status.progress import ErSoFar, er_so_far

POLL = 1.0  # seconds between two looks at the run folder
ER_EVERY = 30.0  # seconds at least between two computations of ER, which read the rows of every finished trial
ER_SHARE = 0.02  # of the time at most goes into that
PATIENCE = 30.0  # seconds that loggers have to finish
ENDED = ("done", *PROBLEMS)


class Monitor:
    """Follows the trials of a plan. Tune's callbacks report starts and ends; a thread reads the progress between.

    done_before   trials that earlier runs of the same command finished
    metrics       whether to set Ray metrics
    when_ending   called once, when a slot stays empty: there is time to spare
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
    ) -> None:
        self.run, self.console, self.title, self.loggers = run, console, title, loggers
        self.done_before, self.total = done_before, done_before + len(plan)
        self.cost = {trial.id: trial.cost for trial in plan}
        self.running: dict[str, dict[str, Any]] = {}
        self.finished: dict[str, str] = {}
        self.begun = time.monotonic()
        self.when_ending: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ending = False
        self._metrics = SweepMetrics(title) if metrics else None
        self._new_starts: list[str] = []  # trials that the thread has yet to pass on
        self._new_ends: list[str] = []
        self._er_at, self._er_thread = time.monotonic() + ER_EVERY, threading.Thread()

    # --- called by the scheduler

    def expect(self, trial: Trial) -> None:
        """Add a trial that a search has drawn; `total` says how many there will be."""
        with self._lock:
            self.cost.setdefault(trial.id, trial.cost)
            self.total = max(self.total, self.done_before + len(self.cost))
        if self.loggers is not None:
            self.loggers.expect(trial)

    def started(self, trial: str) -> None:
        """Note that a trial begins, or begins again after its worker died."""
        with self._lock:
            self.running.setdefault(trial, {})
            self._new_starts.append(trial)

    def ended(self, trial: str) -> None:
        """Note that a trial is over; its folder says how."""
        folder = self.run.trial(trial)
        state, failure = state_of(folder), folder.failure()
        progress = folder.progress()
        with self._lock:
            self.running.pop(trial, None)
            self.finished[trial] = state
            self._new_ends.append(trial)
            ending = len(self.finished) + len(self.running) >= self.total - self.done_before and not self._ending
            self._ending = self._ending or ending
        if ending:
            self.when_ending()
        if not self.console.is_terminal:
            count = f"[{self.done_before + len(self.finished)}/{self.total}]"
            outcome = f"{state}: {failure['reason']}" if failure else f"{state}  {scores(progress)}"
            self.console.print(f"{count} {trial}  {outcome}", markup=False, soft_wrap=True)

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
            thread.join(timeout=PATIENCE)

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
        with self._lock:
            running, starts, ends = list(self.running), self._new_starts, self._new_ends
            self._new_starts, self._new_ends = [], []
        if self._metrics is not None:
            for name in starts:
                self._metrics.started(name)
        for name in running:
            progress = self._read_progress(name)
            with self._lock:
                if name in self.running and progress:
                    self.running[name] = progress
            self._pass_on_progress(name, progress)
        for name in ends:
            self._pass_on_end(name)
        if self._metrics is not None:
            self._metrics.sweep(self.counts(), *self.done_and_left())
            if time.monotonic() > self._er_at and not self._er_thread.is_alive():
                self._er_thread = threading.Thread(target=self._update_er, name="monitor of ER", daemon=True)
                self._er_thread.start()

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
        state, rows = self.finished[name], []
        self._pass_on_progress(name, self._read_progress(name))
        with contextlib.suppress(OSError, ValueError):
            rows = self.run.trial(name).rows() if self.loggers is not None and state == "done" else []
        if self.loggers is not None:
            self.loggers.on_end(name, state, rows)
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
        """Return the share of this run's cost that is done, 0-1, and the seconds to go at this speed; None when it is
        too early to tell."""
        with self._lock:
            done = sum(self.cost[name] for name in self.finished)
            done += sum(self.cost[name] * p.get("share", 0) for name, p in self.running.items())
        undrawn = max(1.0, (self.total - self.done_before) / max(1, len(self.cost)))  # trials that a search will draw
        whole, passed = max(undrawn * sum(self.cost.values()), 1e-9), time.monotonic() - self.begun
        early = done < 0.02 * whole or passed < 5
        return done / whole, None if early else passed * (whole - done) / done

    def _view(self) -> Group:
        with self._lock:
            running = dict(self.running)
        left = self.done_and_left()[1]
        return render(Snapshot(self.title, self.total, self.counts(), running, time.monotonic() - self.begun, left))


def state_of(folder: TrialFolder) -> str:
    """Return how a trial that is over has ended: one of `ENDED`."""
    if folder.stopped() is not None:
        return "stopped"
    failure = folder.failure()  # beginning and finishing remove it: what is there is from this time
    if failure is not None:
        return "quarantined" if failure.get("quarantined") else "failed"
    return "done"
