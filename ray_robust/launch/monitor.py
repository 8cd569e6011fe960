"""What one sees while a sweep runs: a live table on a terminal, plain lines elsewhere, gauges for Ray's metrics.

Everything shown is read from the run folder, where the trials write their progress; nothing is asked of the workers.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ray_robust.plan import Plan
from ray_robust.results import RunFolder

POLL = 1.0  # seconds between two looks at the run folder
GAUGES = {
    "images_per_second": "training images per second",
    "epoch": "epochs of the present stage",
    "id": "latest score on id_test",
    "ood": "latest score on ood_test",
}


class Monitor:
    """Follows the trials of a plan. `done_before` trials were finished by earlier runs of the same command."""

    def __init__(
        self, plan: Plan, run: RunFolder, console: Console, done_before: int, title: str, metrics: bool
    ) -> None:
        self.run, self.console, self.title = run, console, title
        self.done_before, self.total = done_before, done_before + len(plan)
        self.cost = {trial.id: trial.cost for trial in plan}
        self.running: dict[str, dict[str, Any]] = {}
        self.finished: dict[str, str] = {}  # id -> done or failed
        self.begun = time.monotonic()
        self.when_ending: Callable[[], None] = lambda: None  # called once, when a slot stays empty: time to spare
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ending = False
        self._gauges = _gauges() if metrics else {}

    # --- told by the scheduler

    def started(self, trial: str) -> None:
        """A trial begins, or begins again after its worker died."""
        with self._lock:
            self.running.setdefault(trial, {})

    def ended(self, trial: str) -> None:
        """A trial is over; its folder says how."""
        folder = self.run.trial(trial)
        failure = folder.failure()  # beginning and finishing remove it: what is there is from this time
        progress = folder.storage.read_json("progress.json") or {}
        with self._lock:
            self.running.pop(trial, None)
            self.finished[trial] = "failed" if failure else "done"
            ending = len(self.finished) + len(self.running) == len(self.cost) and not self._ending
            self._ending = self._ending or ending
        if ending:
            self.when_ending()
        if not self.console.is_terminal:
            count = f"[{self.done_before + len(self.finished)}/{self.total}]"
            told = f"failed: {failure['reason']}" if failure else f"done  {_scores(progress)}"
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
            thread.join(timeout=10)

    def _watch(self) -> None:
        if not self.console.is_terminal:
            while not self._stop.wait(POLL):
                self._look()
            return
        with Live(self._view(), console=self.console, refresh_per_second=2, transient=True) as live:
            while not self._stop.wait(POLL):
                self._look()
                live.update(self._view())

    def _look(self) -> None:
        with self._lock:
            names = list(self.running)
        for name in names:
            try:
                progress = self.run.trial(name).storage.read_json("progress.json")
            except (OSError, ValueError):  # the storage is away for a moment: the next look will tell
                continue
            with self._lock:
                if name in self.running and progress is not None:
                    self.running[name] = progress
            for key in GAUGES if self._gauges and progress else ():
                if progress.get(key) is not None:
                    self._gauges[key].set(float(progress[key]), tags={"trial": name})
        if self._gauges:
            counts = {"running": len(names), **{s: list(self.finished.values()).count(s) for s in ("done", "failed")}}
            counts["waiting"] = self.total - self.done_before - sum(counts.values())
            for state, count in counts.items():
                self._gauges["trials"].set(count, tags={"state": state})

    # --- showing

    def left(self) -> float | None:
        """Seconds to go, from the share of the cost that is behind this run; None too early to say."""
        whole = sum(self.cost.values())
        behind = sum(self.cost[name] for name in self.finished)
        behind += sum(self.cost[name] * p.get("share", 0) for name, p in self.running.items())
        passed = time.monotonic() - self.begun
        return None if behind < 0.02 * whole or passed < 5 else passed * (whole - behind) / behind

    def _view(self) -> Group:
        with self._lock:
            running, finished = dict(self.running), dict(self.finished)
        failed = list(finished.values()).count("failed")
        done = self.done_before + len(finished) - failed
        left, speed = self.left(), sum(p.get("images_per_second", 0) for p in running.values())
        head = Text.assemble(
            (self.title, "bold"), "  ",
            f"{done} of {self.total} trials done, {len(running)} running",
            (f", {failed} failed" if failed else "", "red"),
            f"   {speed:,.0f} images/s   {_clock(time.monotonic() - self.begun)} so far",
            f", about {_clock(left)} left" if left is not None else "",
        )  # fmt: skip
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name, justify in (("trial", "left"), ("stage", "left"), ("epoch", "right"), ("images/s", "right"),
                              ("ID", "right"), ("OOD", "right"), ("", "left")):  # fmt: skip
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for name, progress in running.items():
            table.add_row(
                name,
                {"pretrain": "pre-training", "finetune": "fine-tuning"}.get(progress.get("stage", ""), "starting"),
                f"{progress['epoch']:.1f}/{progress['epochs']:.0f}" if progress else "",
                f"{progress['images_per_second']:,.0f}" if progress else "",
                _percent(progress.get("id")),
                _percent(progress.get("ood")),
                ProgressBar(total=1, completed=progress.get("share", 0), width=20),  # type: ignore[arg-type]
            )
        return Group(head, table)


def _gauges() -> dict[str, Any]:
    from ray.util.metrics import Gauge

    found = {key: Gauge(f"rr_{key}", description=text, tag_keys=("trial",)) for key, text in GAUGES.items()}
    found["trials"] = Gauge("rr_trials", description="trials of the sweep by state", tag_keys=("state",))
    return found


def _scores(progress: dict[str, Any]) -> str:
    return f"ID {_percent(progress.get('id'))}  OOD {_percent(progress.get('ood'))}" if progress else ""


def _percent(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.1f} %"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def console() -> Console:
    """Where a sweep speaks to: standard output, no colours or cursor games when it is no terminal."""
    wide = None if sys.stdout.isatty() else 140  # a log or a pipe has no width: tables keep all their columns
    return Console(file=sys.stdout, highlight=False, width=wide)
