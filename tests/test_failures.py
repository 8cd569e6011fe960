"""Failures of a trial: how each is recognised, which count, the backoff, quarantine, heartbeats and preemption."""

import pickle
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deadlines import HANG
from ray import cloudpickle
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, RayTaskError
from ray.train import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.preemption import PreemptionInfo

from ray_robust.errors import Outage
from ray_robust.files.storage import Storage
from ray_robust.launch.failures import failure_classes
from ray_robust.launch.failures.failure_classes import Failure, FailureClass, classify, latest_failure
from ray_robust.launch.failures.heartbeat import HeartbeatWatchdog
from ray_robust.launch.failures.preemption import Preemption
from ray_robust.launch.failures.recovery import Recovery
from ray_robust.run.run_folder import RunFolder
from ray_robust.train.exceptions import Preempted
from ray_robust.trial import oom
from ray_robust.trial.failure import backoff, last_line_of, one_line, recurs

OOM_KILLED = "Task was killed due to the node running low on memory."
SIGTERM = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "exits with an exit code 1. The process receives a SIGTERM."
)
WORKER_DIED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file."
)
NODE_DIED = (
    "The actor died because its node has died. Node Id: 5ba52b\n\tthe actor's node was terminated unexpectedly: health "
    "check failed due to missing too many heartbeats"
)


def actor_died(message: str) -> ActorDiedError:
    """What Ray raises for a task of an actor that is gone."""
    error = ActorDiedError()
    error.error_msg = f"{error.error_msg}\n\tclass_name: ImplicitFunc\n{message}"
    return error


def of_task(cause: Exception) -> Exception:
    """A task's error as it comes out of `ray.get`, and so into Tune's files."""
    text = "".join(traceback.format_exception(cause))
    return RayTaskError("train", text, cause, "ray::ImplicitFunc.train()", 1, "127.0.0.1").as_instanceof_cause()


def of_ranks(*causes: Exception) -> Exception:
    """The error of a worker group, raised by the Tune trial that drives it."""
    return of_task(WorkerGroupError("[Rank 0]: ...", dict(enumerate(causes))))


CLOSED = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
PREEMPTED = Preempted("pretrain: stops at step 9 of 24: its node is drained")
DISK_FULL = Outage("runs/x/trials/t/rows.jsonl: the disk is full; free some room, then run it again")
LOST = "its node was lost or cut off"
CLASSIFIED = {
    "worker died": (actor_died(WORKER_DIED), "died", True, "its worker died: The actor is dead because its worker pro"),
    "node died": (actor_died(NODE_DIED), "node", False, LOST),
    "node error": (of_task(NodeDiedError("gone")), "node", False, LOST),
    "actor cut off": (ActorUnavailableError("RpcError: Socket closed", b"0123456789abcdef"), "node", False, LOST),
    "told to end": (actor_died(SIGTERM), "left", False, "its worker was told to end (SIGTERM)"),
    "preempted": (of_task(PREEMPTED), "left", False, "pretrain: stops at step 9 of 24: its node is drained"),
    "preempted group": (of_ranks(CLOSED, PREEMPTED), "left", False, "pretrain: stops at step 9 of 24"),
    "drained group": (of_task(PreemptionError(PreemptionInfo({}, {}))), "left", False, "its node is drained"),
    "storage": (of_task(DISK_FULL), "outage", True, "runs/x/trials/t/rows.jsonl: the disk is full; free some room"),
    "memory of a rank": (of_ranks(CLOSED, MemoryError("CUDA out of memory")), "memory", False,
                         "out of memory: MemoryError: CUDA out of memory"),
    "rank killed": (of_ranks(CLOSED, WorkerHealthCheckFailedError("1", actor_died(NODE_DIED))), "node", False, LOST),
    "controller": (of_task(ControllerError(actor_died(WORKER_DIED))), "died", True, "its worker died: The actor is "),
    "error": (of_task(OSError(5, "Input/output error")), "error", True, "OSError: [Errno 5] Input/output error"),
    "error that speaks of others": (of_task(OSError("context.Preempted: worker died, out of memory")), "error", True,
                                    "OSError: context.Preempted: worker died, out of memory"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIED)
def test_a_failure_is_known_by_its_class(name):
    error, kind, counts, reason = CLASSIFIED[name]
    failure = classify(pickle.loads(cloudpickle.dumps(error)))
    assert (failure.kind, failure.counts) == (kind, counts)
    assert failure.reason.startswith(reason)
    assert len(failure.reason) <= 300
    assert not failure.split_batch


@pytest.mark.parametrize(
    ("text", "kind", "counts", "reason"),
    [
        (OOM_KILLED, "memory", False, f"out of memory: {OOM_KILLED}"),
        ("The worker died unexpectedly.", "died", True, "its worker died: The worker died unexpectedly."),
        ("first\n  TuneError: last\n", "error", True, "TuneError: last"),
        ("", "died", True, "its worker died: the worker ended without an error message"),
    ],
)
def test_what_tune_keeps_as_text_alone_is_read(text, kind, counts, reason):
    failure = classify(None, text)
    assert (failure.kind, failure.counts, failure.reason) == (kind, counts, reason)
    assert failure.split_batch == (text == OOM_KILLED)


def test_the_latest_failure_of_a_tune_trial_is_the_one_that_counts(tmp_path):
    trial = SimpleNamespace(pickled_error_file=str(tmp_path / "error.pkl"), error_file=str(tmp_path / "error.txt"))
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(of_task(PREEMPTED)))
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at noon)\nlong text\n")
    assert latest_failure(trial).kind == "left"
    with open(tmp_path / "error.txt", "a") as file:  # of a class that Tune does not pickle
        file.write(f"Failure # 2 (occurred at one)\n{OOM_KILLED}\n")
    assert latest_failure(trial).reason == f"out of memory: {OOM_KILLED}"
    (tmp_path / "error.pkl").write_bytes(b"no pickle")
    assert latest_failure(trial).kind == "memory"
    assert latest_failure(SimpleNamespace(pickled_error_file=None, error_file=None)).kind == "died"


class DeviceLost(Exception):
    """A failure that nobody has thought of."""


def test_a_new_kind_of_failure_is_one_entry(recovery, monkeypatch):
    entry = FailureClass("device", (DeviceLost,), counts=False, reason="its GPU fell off the bus: {message}")
    monkeypatch.setattr(failure_classes, "FAILURE_CLASSES", (*failure_classes.FAILURE_CLASSES, entry))
    for error in (of_task(DeviceLost("GPU 3")), of_ranks(CLOSED, DeviceLost("GPU 3"))):
        recovery.record_failure("t", classify(error))
    attempts = recovery.run.trial("t").attempts()
    assert [attempt["kind"] for attempt in attempts] == ["device", "device"]
    assert {attempt["reason"] for attempt in attempts} == {"its GPU fell off the bus: GPU 3"}
    assert recovery.counted("t") == 0


def test_every_kind_is_described():
    documented = (Path(__file__).parents[1] / "docs/operations.md").read_text()
    for entry in (*failure_classes.FAILURE_CLASSES, failure_classes.ERROR, failure_classes.HUNG):
        assert f"`{entry.kind}`" in documented


SHAPES = RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x16 and 32x8)")
DEVICE = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


class Odd(Exception):
    """An error of a kind that nobody has thought of."""


@pytest.mark.parametrize(
    ("error", "at_once", "the_second_time"),
    [
        (ValueError("Expected more than 1 value per channel when training"), True, True),
        (KeyError("head.weight"), True, True),
        (TypeError("forward() takes 2 arguments"), True, True),
        (FileNotFoundError(2, "No such file or directory", "w.pth"), True, True),
        (PermissionError(13, "Permission denied", "w.pth"), True, True),
        (SHAPES, True, True),
        (ImportError("No module named 'x'"), False, True),  # another node may have it
        (Odd("what is this"), False, True),
        (OSError(5, "Input/output error"), False, False),
        (ConnectionResetError(104, "Connection reset by peer"), False, False),
        (TimeoutError("timed out"), False, False),
        (CLOSED, False, False),
        (DEVICE, False, False),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_must_fail_again_is_told_from_what_comes_by_chance(error, at_once, the_second_time):
    failure = classify(of_task(error))
    assert failure.reason == last_line_of(error)
    before = {"kind": failure.kind, "reason": failure.reason}
    assert recurs(error, []) is at_once
    assert recurs(error, [before]) is the_second_time
    assert recurs(error, [{**before, "kind": "a class of its own"}]) is the_second_time
    assert recurs(error, [before, {"kind": "died", "reason": "its worker died"}]) is at_once
    assert recurs(error, [{**before, "reason": "another"}]) is at_once


def test_an_error_is_a_line():
    assert one_line(ValueError("first\n  second")) == "ValueError: first second"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x " * 1000))) < 330
    told = one_line(ValueError("Expected more than 1 value per channel when training, got input size [1, 64, 1, 1]"))
    assert told.endswith("; give batch_size at least 2, or a model without batch normalisation")


def test_the_backoff_doubles_each_time():
    def after(count: int, passed: float) -> float:
        return backoff([{"time": 1000.0 + i, "counts": True} for i in range(count)], 1000.0 + count - 1 + passed)

    assert after(0, 0) == 0
    assert [after(count, 0) for count in (1, 2, 3, 4, 20)] == [1, 2, 4, 8, 60]
    assert after(3, 1.5) == 2.5
    assert after(3, 3600) == 0  # a command the next day does not wait
    assert backoff([{"time": 1000.0, "counts": False}], 1000.0) == 0  # a machine that went away is no reason to
    assert backoff([{"time": 9e9, "counts": True}], 1000.0) == 1  # another machine's clock


DIED, NODE, LEFT = classify(actor_died(WORKER_DIED)), classify(actor_died(NODE_DIED)), classify(of_task(PREEMPTED))
ERROR, OUTAGE = classify(of_task(OSError(5, "Input/output error"))), classify(of_task(DISK_FULL))
MEMORY = classify(None, OOM_KILLED)


@pytest.fixture
def recovery(tmp_path):
    finetuning = SimpleNamespace(id="lr1", settings=SimpleNamespace(batch_size=64))
    trial = SimpleNamespace(id="t", pretrain=None, finetunings=(finetuning,))
    return Recovery({"t": trial}, RunFolder(tmp_path), retries=2)


def test_a_trial_that_fails_too_often_is_quarantined_with_every_reason(recovery):
    for failure in (DIED, ERROR):
        assert recovery.record_failure("t", failure).counts
    recovery.record_failure("t", NODE)
    recovery.record_failure("t", LEFT)
    assert recovery.counted("t") == 2  # neither a lost node nor one that is left speaks against it
    assert not recovery.settled("t")
    recovery.record_failure("t", DIED)
    failure = recovery.run.trial("t").failure()
    assert failure["quarantined"]
    assert failure["reason"].startswith("failed 3 times; quarantined until the next run: its worker died")
    assert "(2 times); OSError: [Errno 5] Input/output error" in failure["reason"]
    attempts = recovery.run.trial("t").attempts()
    assert [attempt["kind"] for attempt in attempts] == ["died", "error", "node", "left", "died"]
    recovery.run.trial("t").begin()
    assert recovery.run.trial("t").failure() is None  # the next command tries it again


def test_a_trial_that_makes_progress_between_failures_is_not_quarantined(recovery):
    folder = recovery.run.trial("t").storage
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        folder.write_json("progress.json", {"share": share})
        recovery.record_failure("t", DIED)
        assert recovery.counted("t") == 1
    for _ in range(2):
        recovery.record_failure("t", DIED)
    assert recovery.run.trial("t").failure()["quarantined"]


def test_a_trial_that_loses_its_nodes_for_ever_is_quarantined_too(recovery):
    for _ in range(20):
        recovery.record_failure("t", NODE)
    assert not recovery.settled("t")
    recovery.record_failure("t", NODE)
    reason = recovery.run.trial("t").failure()["reason"]
    assert reason.startswith("failed 21 times")
    assert reason.endswith("its node was lost or cut off (21 times)")


def test_memory_that_was_short_is_answered_by_more_parts(recovery):
    folder = recovery.run.trial("t")
    for parts in (2, 4, 8, 16, 32, 64):  # the batch is 64
        recovery.record_failure("t", MEMORY)
        assert folder.grad_accum_steps() == parts
    recovery.record_failure("t", classify(of_ranks(MemoryError("x"))))  # a rank, which has split its batches itself
    assert (folder.grad_accum_steps(), recovery.counted("t")) == (64, 0)
    for _ in range(3):
        recovery.record_failure("t", MEMORY)
    assert folder.grad_accum_steps() == 64
    assert folder.failure()["quarantined"]


def test_the_reason_that_a_trial_wrote_itself_is_kept(recovery):
    recovery.run.trial("t").fail("the loss became nan")
    for _ in range(4):
        recovery.record_failure("t", DIED)
    recovery.quarantine("t")
    assert recovery.run.trial("t").failure() == {"reason": "the loss became nan", "quarantined": False,
                                                  "log": recovery.run.trial("t").failure()["log"]}  # fmt: skip


def test_a_full_disk_does_not_stop_the_count(recovery, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for _ in range(4):
        recovery.record_failure("t", DIED)
    assert recovery.counted("t") == 4
    assert recovery.run.trial("t").failure() is None


def test_storage_that_stays_away_ends_the_sweep(recovery):
    for _ in range(2):
        recovery.record_failure("t", OUTAGE)
    with pytest.raises(Outage, match="the disk is full; free some room"):
        recovery.record_failure("t", OUTAGE)


def test_a_trial_without_a_heartbeat_is_ended_and_counted(recovery):
    watchdog, ended = HeartbeatWatchdog(recovery, 60), []
    folder = recovery.run.trial("t").storage
    watchdog.started("t", lambda: ended.append("t"))
    folder.write_json("progress.json", {"time": 5.0, "share": 0.5})
    watchdog.check(1000.0)
    watchdog.check(1059.0)
    folder.write_json("progress.json", {"time": 4.0, "share": 0.5})  # a clock may go back
    watchdog.check(1061.0)
    watchdog.check(1120.0)
    assert ended == []
    watchdog.check(1122.0)
    watchdog.check(9999.0)
    assert ended == ["t"]
    failure = recovery.record_failure("t", DIED)
    assert failure == Failure("hung", "no heartbeat for 60 s; its worker was ended", True)
    assert recovery.record_failure("t", DIED).kind == "died"
    watchdog.started("t", lambda: ended.append("again"))
    watchdog.ended("t")
    watchdog.check(1e9)
    assert ended == ["t"]


def test_storage_that_is_away_is_no_missing_heartbeat(recovery, monkeypatch):
    watchdog, ended = HeartbeatWatchdog(recovery, 60), []
    recovery.run.trial("t").storage.write_json("progress.json", {"time": 5.0})
    watchdog.started("t", lambda: ended.append("t"))
    watchdog.check(1000.0)
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "read_json", lambda self, *_: (_ for _ in ()).throw(OSError("away")))
        watchdog.check(1030.0)
        watchdog.check(1500.0)
    watchdog.check(1510.0)  # it is back, and the trial has not written yet
    assert ended == []
    watchdog.check(1561.0)
    assert ended == ["t"]


def test_a_node_that_is_drained_is_left():
    drained = {"other": 0}
    preemption = Preemption("mine", lambda: drained)
    preemption.check()
    assert preemption() == ""
    drained["mine"] = 0
    preemption.check()
    assert preemption() == "its node is drained"


def test_a_head_that_does_not_answer_is_no_reason_to_leave():
    def away():
        raise ConnectionError

    preemption = Preemption("mine", away)
    preemption.check()
    assert preemption() == ""


def test_a_process_told_to_end_waits_for_its_training_to_save(monkeypatch):
    monkeypatch.setattr("ray_robust.launch.failures.preemption.GRACE", HANG)
    preemption, saved = Preemption("mine", dict), []

    def train() -> None:
        with preemption.training():
            begun.set()
            while not preemption():
                pass
            saved.append(preemption())

    begun = threading.Event()
    thread = threading.Thread(target=train)
    thread.start()
    assert begun.wait(HANG)
    preemption.end()
    assert saved == ["the process was told to end"]
    thread.join()
    Preemption("mine", dict).end()  # nothing runs: nothing is waited for


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (OSError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, short):
    assert oom.is_out_of_memory(error) is short


def test_kills_by_the_kernel_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(oom, "CGROUP", tmp_path / "memory.events")
    monkeypatch.setattr(oom, "KERNEL", tmp_path / "vmstat")
    assert oom.oom_kills() == 0
    (tmp_path / "vmstat").write_text("pgfault 7\noom_kill 3\n")
    assert oom.oom_kills() == 3
    (tmp_path / "memory.events").write_text("low 0\noom 5\noom_kill 4\n")
    assert oom.oom_kills() == 4
