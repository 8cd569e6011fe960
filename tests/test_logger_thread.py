"""A log whose server is away, while the others go on."""

from __future__ import annotations

import threading

from deadlines import HANG

from ray_robust.launch.monitor import logger_thread, loggers
from ray_robust.status.progress import ErSoFar


class Log:
    """Keeps what it is called with; `back` is set while its server is there."""

    def __init__(self, back: threading.Event) -> None:
        self.back, self.progress, self.ends, self.er = back, [], [], []

    def on_progress(self, trial, progress):
        self.back.wait()
        self.progress.append(trial)

    def on_end(self, trial, state, points):
        self.ends.append((trial, state))

    def close(self, er):
        self.er.append(er().means)


def test_a_log_whose_server_is_away_holds_up_nothing(monkeypatch):
    """Ends of trials wait for it, however many; progress is dropped where too much waits. Another log gets all."""
    monkeypatch.setattr(loggers, "PATIENCE", 0.0)
    monkeypatch.setattr(logger_thread, "MOST_WAITING", 2)
    here, away = threading.Event(), threading.Event()
    here.set()
    slow, fast, warnings = Log(away), Log(here), list[str]()
    logs = loggers.Loggers({"slow": lambda: slow, "fast": lambda: fast}, warnings.append, {})
    trials = [f"t{number}" for number in range(5)]
    for number, trial in enumerate(trials):
        logs.on_progress(trial, {"time": float(number)})
        logs.on_end(trial, "done", ())
    logs.close(lambda: ErSoFar({("task", "group"): 3.5}))
    line = "track: slow has not finished after 0 s: it lacks what came last; all of it is in the run folder"
    assert line in warnings
    of_slow, of_fast = logs._threads
    assert of_fast.finished(HANG)
    assert fast.ends == [(trial, "done") for trial in trials]
    assert slow.ends == []
    away.set()
    assert of_slow.finished(HANG)
    assert slow.ends == fast.ends
    assert slow.progress in (["t0"], ["t0", "t1"])  # by whether its thread had begun
    assert slow.er == fast.er == [{("task", "group"): 3.5}]


def test_a_log_that_cannot_be_opened_is_left_out_with_one_line(monkeypatch):
    def refuse():
        raise ConnectionError("no route to https://me:secretive@host/api\nsecond line")

    warnings: list[str] = []
    here = threading.Event()
    here.set()
    other = Log(here)
    logs = loggers.Loggers({"broken": refuse, "other": lambda: other}, warnings.append, {})
    logs.on_end("t0", "done", ())
    logs.close(lambda: ErSoFar({}))
    (line,) = warnings
    assert line.startswith("track: broken is left out from here on: ConnectionError: no route to https://")
    assert "secretive" not in line
    assert "\n" not in line
    assert other.ends == [("t0", "done")]
