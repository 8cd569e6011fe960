"""What one sees while a sweep runs: a live table on a terminal, plain lines elsewhere, Ray's metrics, logs for others.

Everything shown is read from the run folder, where the trials write their progress; nothing is asked of the workers.
Owns when to look; `gauges` and `track` are told what was seen, by one thread, so that a slow one never holds the sweep.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ray_robust.launch.monitor.loggers import Logs
from ray_robust.launch.monitor.metrics import Gauges
from ray_robust.plan.plan import Plan, Trial
from ray_robust.run.run_folder import RunFolder, TrialFolder
from ray_robust.status.progress import ErSoFar, er_so_far
from ray_robust.text.names import printable

POLL = 1.0  # seconds between two looks at the run folder
ER_EVERY = 30.0  # seconds at least between two looks at ER, which reads the rows of every finished trial
ER_SHARE = 0.02  # of the time at most goes into that
PATIENCE = 30.0  # seconds that logs have for their last words
ENDED = ("done", "failed", "quarantined", "stopped")


class Monitor:
    """Follows the trials of a plan. `done_before` trials were finished by earlier runs of the same command; `logs` are
    kept for other tools."""

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        console: Console,
        done_before: int,
        title: str,
        metrics: bool,
        logs: Logs | None = None,
    ) -> None:
        self.run, self.console, self.title, self.logs = run, console, title, logs
        self.done_before, self.total = done_before, done_before + len(plan)
        self.cost = {trial.id: trial.cost for trial in plan}
        self.running: dict[str, dict[str, Any]] = {}
        self.finished: dict[str, str] = {}  # id -> one of ENDED
        self.begun = time.monotonic()
        self.when_ending: Callable[[], None] = lambda: None  # called once, when a slot stays empty: time to spare
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ending = False
        self._gauges = Gauges(title) if metrics else None
        self._began: list[str] = []  # what the thread that watches has yet to pass on
        self._over: list[str] = []
        self._er_at, self._er_thread = time.monotonic() + ER_EVERY, threading.Thread()

    # --- told by the scheduler

    def expect(self, trial: Trial) -> None:
        """A trial of a search, which none knew before; `total` says how many there will be."""
        with self._lock:
            self.cost.setdefault(trial.id, trial.cost)
            self.total = max(self.total, self.done_before + len(self.cost))
        if self.logs is not None:
            self.logs.expect(trial)

    def started(self, trial: str) -> None:
        """A trial begins, or begins again after its worker died."""
        with self._lock:
            self.running.setdefault(trial, {})
            self._began.append(trial)

    def ended(self, trial: str) -> None:
        """A trial is over; its folder says how."""
        folder = self.run.trial(trial)
        state, failure = state_of(folder), folder.failure()
        progress = folder.progress()
        with self._lock:
            self.running.pop(trial, None)
            self.finished[trial] = state
            self._over.append(trial)
            ending = len(self.finished) + len(self.running) >= self.total - self.done_before and not self._ending
            self._ending = self._ending or ending
        if ending:
            self.when_ending()
        if not self.console.is_terminal:
            count = f"[{self.done_before + len(self.finished)}/{self.total}]"
            told = f"{state}: {failure['reason']}" if failure else f"{state}  {_scores(progress)}"
            self.console.print(f"{count} {trial}  {told}", markup=False, soft_wrap=True)

    # --- watching

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look and show in the background for the time of a with-block."""
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
                self._look()
                if self.console.is_terminal:
                    live.update(self._view())
        self._look()  # what ended since the last look
        if self.logs is not None:
            self.logs.close(self._er)

    def _look(self) -> None:
        with self._lock:
            names, began, over = list(self.running), self._began, self._over
            self._began, self._over = [], []
        if self._gauges is not None:
            for name in began:
                self._gauges.started(name)
        for name in names:
            progress = self._read(name)
            with self._lock:
                if name in self.running and progress:
                    self.running[name] = progress
            self._tell_progress(name, progress)
        for name in over:
            self._tell_end(name)
        if self._gauges is not None:
            self._gauges.sweep(self.counts(), *self.done_and_left())
            if time.monotonic() > self._er_at and not self._er_thread.is_alive():
                self._er_thread = threading.Thread(target=self._tell_er, name="monitor of ER", daemon=True)
                self._er_thread.start()

    def _read(self, name: str) -> dict[str, Any]:
        """A trial's progress; {} before its first word, and while the storage is away: the next look will tell."""
        try:
            return self.run.trial(name).progress()
        except OSError:
            return {}

    def _tell_progress(self, name: str, progress: dict[str, Any]) -> None:
        if progress and self._gauges is not None:
            self._gauges.progress(name, progress)
        if progress and self.logs is not None:
            self.logs.progress(name, progress)

    def _tell_end(self, name: str) -> None:
        state, rows = self.finished[name], []
        self._tell_progress(name, self._read(name))
        with contextlib.suppress(OSError, ValueError):
            rows = self.run.trial(name).rows() if self.logs is not None and state == "done" else []
        if self.logs is not None:
            self.logs.ended(name, state, rows)
        if self._gauges is not None:
            self._gauges.ended(name, state)

    def _tell_er(self) -> None:
        """In a thread of its own: on remote storage it may take minutes."""
        begun = time.monotonic()
        er = self._er()
        if self._gauges is not None:
            self._gauges.er(er)
        now = time.monotonic()
        self._er_at = now + max(ER_EVERY, (now - begun) / ER_SHARE)

    def _er(self) -> ErSoFar:
        """ER as it stands, read through a folder of its own, so that no rows stay in memory."""
        try:
            return er_so_far(RunFolder(self.run.storage))
        except (OSError, ValueError):  # the storage is away for a moment
            return ErSoFar()

    # --- counting

    def counts(self) -> dict[str, int]:
        """The trials of the sweep by state."""
        with self._lock:
            ended, running = list(self.finished.values()), len(self.running)
        counts = {"running": running, **{state: ended.count(state) for state in ENDED}}
        counts["done"] += self.done_before
        counts["waiting"] = max(0, self.total - sum(counts.values()))
        return counts

    def done_and_left(self) -> tuple[float, float | None]:
        """The share of this run's cost that is behind it, 0-1, and so the seconds to go; None when it is too early."""
        with self._lock:
            behind = sum(self.cost[name] for name in self.finished)
            behind += sum(self.cost[name] * p.get("share", 0) for name, p in self.running.items())
        unknown = max(1.0, (self.total - self.done_before) / max(1, len(self.cost)))  # trials that a search will draw
        whole, passed = max(unknown * sum(self.cost.values()), 1e-9), time.monotonic() - self.begun
        early = behind < 0.02 * whole or passed < 5
        return behind / whole, None if early else passed * (whole - behind) / behind

    # --- showing

    def _view(self) -> Group:
        with self._lock:
            running = dict(self.running)
        counts, (_, left) = self.counts(), self.done_and_left()
        speed = sum(p.get("images_per_second", 0) for p in running.values())
        bad = "".join(f", {counts[state]} {state}" for state in ENDED[1:] if counts[state])
        head = Text.assemble(
            (printable(self.title), "bold"), "  ",
            f"{counts['done']} of {self.total} trials done, {len(running)} running",
            (bad, "red"),
            f"   {speed:,.0f} images/s   {_clock(time.monotonic() - self.begun)} so far",
            f", about {_clock(left)} left" if left is not None else "",
        )  # fmt: skip
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name, justify in (("trial", "left"), ("stage", "left"), ("epoch", "right"), ("images/s", "right"),
                              ("ID", "right"), ("OOD", "right"), ("", "left")):  # fmt: skip
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for name, progress in running.items():
            table.add_row(
                escape(name),
                {"pretrain": "pre-training", "finetune": "fine-tuning"}.get(progress.get("stage", ""), "starting"),
                f"{progress['epoch']:.1f}/{progress['epochs']:.0f}" if progress else "",
                f"{progress['images_per_second']:,.0f}" if progress else "",
                _percent(progress.get("id")),
                _percent(progress.get("ood")),
                ProgressBar(total=1, completed=progress.get("share", 0), width=20),
            )
        return Group(head, table)


def state_of(folder: TrialFolder) -> str:
    """How a trial that is over has ended: one of `ENDED`."""
    if folder.stopped() is not None:
        return "stopped"
    failure = folder.failure()  # beginning and finishing remove it: what is there is from this time
    if failure is not None:
        return "quarantined" if failure.get("quarantined") else "failed"
    return "done"


def _scores(progress: dict[str, Any]) -> str:
    return f"ID {_percent(progress.get('id'))}  OOD {_percent(progress.get('ood'))}" if progress else ""


def _percent(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.1f} %"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
