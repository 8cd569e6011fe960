"""What a command leaves to the next one, and what it does not write once it is over or its folder is another's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from ray_robust import sweep
from ray_robust.errors import INTERRUPTED
from ray_robust.launch import run_sweep
from ray_robust.launch.failures.failure_classes import Failure
from ray_robust.launch.failures.heartbeat import HeartbeatWatchdog
from ray_robust.launch.failures.recovery import Recovery
from ray_robust.launch.monitor.interim_reports import InterimReports
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.launch.run_sweep import SweepRun
from ray_robust.plan.plan import Plan
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.lease import Lease
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec

SPEC = """\
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: 400, images_seen: 400}
finetune: {epochs: 2}
baseline: none
"""
TWO_STAGES = """\
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: {grid: [400, 800]}, images_seen: 400}
finetune: {epochs: 2}
seeds: {first: 3, until: 4.0, most: 4}
"""
DIED = Failure("died", "its worker died", True)


@pytest.fixture
def planned(tmp_path) -> tuple[RunFolder, Plan]:
    file = tmp_path / "how.yaml"
    file.write_text(SPEC)
    return RunFolder(tmp_path / "run"), open_sweep(load_spec(file)).plan


def test_a_worker_that_dies_before_it_begins_does_not_leave_the_reason_of_an_earlier_command(planned):
    run, plan = planned
    (trial,) = plan
    run.trial(trial.id).fail("the loss became nan")
    recovery = Recovery({}, run)
    recovery.begin(trial)
    assert not recovery.settled(trial.id), "it is tried again, also where its worker dies at once"
    for _ in range(4):
        assert not recovery.settled(trial.id)
        recovery.record_failure(trial.id, DIED)
    failure = run.trial(trial.id).failure()
    assert failure["reason"] == "failed 4 times; quarantined until the next run: its worker died (4 times)"
    assert failure["quarantined"]


def test_a_reason_of_this_command_stays_when_other_trials_begin(planned):
    run, plan = planned
    (trial,) = plan
    recovery = Recovery({}, run)
    recovery.begin(trial)
    run.trial(trial.id).fail("the loss became nan")
    recovery.quarantine_rest(set())
    assert run.trial(trial.id).failure()["reason"] == "the loss became nan"


def test_a_watchdog_that_storage_held_up_ends_no_worker_once_the_sweep_is_over(planned):
    run, plan = planned
    (trial,) = plan
    watchdog, ended = HeartbeatWatchdog(Recovery({}, run), 60), []
    watchdog.started(trial.id, lambda: ended.append(trial.id))
    with watchdog.watching():
        watchdog.check(1e9)
        assert ended == [trial.id]
        watchdog.started(trial.id, lambda: ended.append("later"))
    watchdog.check(2e9)
    assert ended == [trial.id]


@pytest.mark.parametrize("lost", [True, False])
def test_the_progress_of_another_driver_is_left(planned, lost):
    run, plan = planned
    monitor = Monitor(plan, run, Console(quiet=True), 0, "how", metrics=False)
    monitor.lease = SimpleNamespace(lost=lost)
    with monitor.watching():
        run.storage.write_json("progress.json", {"time": 1.0, "total": 4, "left": None})
        monitor._publish_at = float("inf")
    assert (run.storage.recall_json("progress.json") is not None) == lost


def test_what_is_looked_at_after_the_end_writes_nothing(planned):
    run, plan = planned
    (trial,) = plan
    monitor, read = Monitor(plan, run, Console(quiet=True), 0, "how", metrics=False), []
    monitor.started(trial.id)
    monitor._read_progress = lambda name: read.append(name) or {}
    monitor._stop.set()
    monitor._update()
    assert read == []
    assert run.storage.recall_json("progress.json") is None


def test_no_report_is_begun_once_they_are_closed():
    begun = []
    reports = InterimReports("run", print, iter(range(0, 10**6, 10**4)).__next__, lambda *_: begun.append(1))
    reports.close()
    for ended in range(1, 9):
        reports.update(ended)
    assert begun == []


def test_after_an_interrupt_workers_end_before_results_are_written_and_the_lease_is_released(tmp_path, monkeypatch):
    file, events = tmp_path / "how.yaml", []
    file.write_text(TWO_STAGES)

    def execute(self: SweepRun) -> int:
        assert self.stack is not None
        self.stack.callback(events.append, "workers end")
        self.run.write_plan(self.sweep.plan.rows())
        raise KeyboardInterrupt

    real = Lease.release
    monkeypatch.setattr(SweepRun, "execute", execute)
    monkeypatch.setattr(RunFolder, "states", lambda self: {"a": "done"})
    monkeypatch.setattr(RunFolder, "write_results", lambda self: events.append("results"))
    monkeypatch.setattr(run_sweep, "report", lambda *_: events.append("report"))
    monkeypatch.setattr(Lease, "release", lambda self: (events.append("lease"), real(self)))
    assert sweep.main([str(file), "--out", str(tmp_path / "run")]) == INTERRUPTED
    assert events == ["workers end", "results", "report", "lease"]
