"""A trial that had ended and is given out again: what it scored counts throughout, and its new attempts count alone."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_robust.launch.failures.failure_classes import Failure
from ray_robust.launch.failures.heartbeat import HeartbeatWatchdog
from ray_robust.launch.failures.recovery import Recovery
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.run.run_folder import RunFolder, TrialFolder
from ray_robust.trial import stages

DIED = Failure("died", "its worker died", True)


def asked(*names: str) -> SimpleNamespace:
    """A trial of these fine-tunings."""
    return SimpleNamespace(id="x", finetunings=[SimpleNamespace(id=name) for name in names])


def row(name: str) -> dict:
    return {"finetune": name, "task": "t", "epoch": 1, "id": 0.5, "ood": 0.4}


def report(folder: TrialFolder, share: float, time: float) -> None:
    progress = {"share": share, "time": time, "stage": "finetune", "worked": 10, "seconds": 1.0}
    folder.storage.write_json("progress.json", progress)


def finish(folder: TrialFolder, *names: str) -> None:
    for name in names:
        folder.keep_finetuning(name, [row(name)])
    folder.finish([row(name) for name in names], {})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of one trial, which is done with one fine-tuning."""
    run = RunFolder(tmp_path / "run")
    folder = run.trial("x")
    report(folder, 1.0, 1.0)
    folder.storage.write_json("trial.json", {})
    finish(folder, "a")
    return run


def statuses(run: RunFolder, *names: str) -> list:
    finetunes = json.dumps(dict.fromkeys(names, "t"))
    run.write_plan([{"trial": "x", "group": "g", "model": "m", "finetunes": finetunes}])
    table = RunFolder(run.storage).results()
    names = ("" if name != name else name for name in table["finetune"].astype(object))  # nan, of a whole trial
    return sorted(zip(names, table["status"], strict=True))


def test_what_it_scored_counts_before_and_while_it_runs_again_and_once_it_was_stopped(run):
    """Else which scores the report holds would depend on whether a worker has begun."""
    folder = run.trial("x")
    assert statuses(run, "a") == [("a", "done")]
    assert statuses(run, "a", "b") == [("a", "done")]
    folder.begin()
    assert statuses(run, "a", "b") == [("a", "done")]
    folder.stop("stopped at 25 %", {})
    assert statuses(run, "a", "b") == [("a", "done"), ("b", "stopped")]
    assert statuses(run, "b") == [("", "stopped")]


def test_a_trial_that_is_stopped_where_it_lies_finished_keeps_its_scores(run):
    """Of a configuration that shares its pre-training: the folder is the same, the trial was not begun."""
    run.trial("x").stop("not begun", {})
    assert statuses(run, "a", "b") == [("a", "done"), ("b", "stopped")]
    assert statuses(run, "a") == [("a", "done")]


def test_a_trial_that_was_never_over_has_no_scores_once_it_is_stopped(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.trial("x").begin()
    run.trial("x").keep_finetuning("a", [row("a")])
    assert statuses(run, "a", "b") == []
    run.trial("x").stop("stopped at 25 %", {})
    assert statuses(run, "a", "b") == [("", "stopped")]


@pytest.mark.parametrize("damaged", [False, True])
def test_progress_is_measured_from_where_the_new_attempt_is(run, damaged):
    """Also where its first worker dies before it begins, or reports: the old 100 % is nothing to be further than."""
    folder = run.trial("x")
    if damaged:
        folder.storage.write("rows.jsonl", "{")
    recovery = Recovery({}, run)
    recovery.begin(asked("a", "b"))
    if damaged:
        folder.begin()
        assert not folder.progress_now()
    recovery.record_failure("x", DIED)
    for time, share in enumerate((0.2, 0.4, 0.6, 0.8, 0.9), 2):
        folder.begin()
        report(folder, share, time)
        recovery.record_failure("x", DIED)
        assert recovery.counted("x") == 1
    assert folder.failure() is None


def test_failures_of_what_was_asked_before_do_not_count(run):
    """A pilot's part of a trial, and the rest; configurations of a search that share a pre-training."""
    folder, recovery = run.trial("x"), Recovery({}, run)
    recovery.begin(asked("a", "b"))
    for time in (2.0, 3.0, 4.0):
        folder.begin()
        report(folder, 0.9, time)
        recovery.record_failure("x", DIED)
    recovery.begin(asked("a", "b"))
    assert recovery.counted("x") == 3
    finish(folder, "a", "b")
    recovery.begin(asked("a", "b", "c"))
    assert recovery.counted("x") == 0


def test_loggers_are_told_of_what_was_asked(run):
    """MLflow and W&B have the points that the report has."""
    folder = run.trial("x")
    folder.begin()
    folder.keep_finetuning("new", [row("new")])
    folder.fail("1 of 2 fine-tunings failed", finetunings={"other": "the loss became nan"})
    monitor = SimpleNamespace(run=run, _wanted={"x": {"new", "other"}})
    assert [one["finetune"] for one in Monitor._rows_of(monitor, "x", "failed")] == ["new"]


def test_a_group_whose_storage_was_away_when_it_was_given_out_may_wait_for_room(run, monkeypatch):
    """What its attempt before reported is no sign of life of this one."""
    watchdog, ended = HeartbeatWatchdog(Recovery({}, run), 1800.0, groups=True), []
    with monkeypatch.context() as away:
        away.setattr(watchdog, "_heartbeat", lambda name: (_ for _ in ()).throw(OSError("away")))
        watchdog.started("x", lambda: ended.append("x"))
    for now in (0.0, 1801.0, 1e6):
        watchdog.check(now)
    assert not ended
    report(run.trial("x"), 0.1, 2.0)
    watchdog.check(1e6 + 1)
    watchdog.check(1e6 + 1802)
    assert ended == ["x"]


@pytest.mark.parametrize(("facts", "dropped"), [
    (None, 0), ({"labels": "one order"}, 0), ({"labels": "another"}, 1), ({"number": 3}, 1)])  # fmt: skip
def test_a_state_that_does_not_say_its_order_of_labels_is_not_gone_on_with(facts, dropped, monkeypatch):
    states = []
    monkeypatch.setattr(stages, "state_facts", lambda *_: facts)
    monkeypatch.setattr(stages, "drop_state", lambda *_: states.append("dropped"))
    context = SimpleNamespace(first=True, wait_for_all=lambda: None)
    stages._drop_state_of_other_labels(
        SimpleNamespace(context=context, log=SimpleNamespace(write=str)), None, "one order"
    )
    assert len(states) == dropped
