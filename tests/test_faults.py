"""What is made of a trial that breaks off: Ray's words, the count, the rest before the next try, watch and notice."""

import threading
import traceback
from types import SimpleNamespace

import pytest
import torch
from deadlines import HANG

from ray_robust.errors import Outage
from ray_robust.files.storage import Storage
from ray_robust.launch.failures.preemption import Notice
from ray_robust.launch.failures.recovery import Recovery, Watch
from ray_robust.run.run_folder import RunFolder
from ray_robust.trial import oom
from ray_robust.trial.failure import Fault, fault_of, line_of, recurs, rest

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: ImplicitFunc
\tactor_id: 5ba52bbfd7bbd96cb0a4d6d701000000
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file."""
NODE = """The actor died unexpectedly before finishing this task.
\tclass_name: ImplicitFunc
The actor died because its node has died. Node Id: 5ba52b
\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"""
CUT_OFF = "The actor f89a is unavailable: The actor is temporarily unavailable: RpcError: RPC error: Socket closed"
TERM = DIED.replace("Worker unexpectedly", "Worker exits with an exit code 1. The process receives a SIGTERM. Worker")
LEFT = """ray::ImplicitFunc.train() (pid=1, ip=127.0.0.1)
ray_robust.train.exceptions.Preempted: pretrain: stops at step 9 of 24: its node is drained"""
OUTAGE = """ray::ImplicitFunc.train() (pid=1, ip=127.0.0.1)
ray_robust.errors.Outage: runs/x/trials/t/rows.jsonl: the disk is full; free some room, then run it again"""
MEMORY = "Task was killed due to the node running low on memory."
ERROR = """ray::ImplicitFunc.train() (pid=1, ip=127.0.0.1)
  File "x.py", line 3, in y
OSError: [Errno 5] Input/output error"""


@pytest.mark.parametrize(
    ("said", "kind", "counts", "reason"),
    [
        (DIED, "died", True, "its worker died: The actor is dead because its worker process has died."),
        (NODE, "node", False, "its node was lost or cut off"),
        (CUT_OFF, "node", False, "its node was lost or cut off"),
        (TERM, "left", False, "its worker was told to end (SIGTERM)"),
        (LEFT, "left", False, "pretrain: stops at step 9 of 24: its node is drained"),
        (MEMORY, "memory", False, "out of memory: Task was killed due to the node running low on memory."),
        (ERROR, "error", True, "OSError: [Errno 5] Input/output error"),
        (OUTAGE, "outage", True, "runs/x/trials/t/rows.jsonl: the disk is full; free some room"),
        ("", "died", True, "its worker died: the worker ended without a word"),
    ],
)
def test_what_ray_says_is_read(said, kind, counts, reason):
    fault = fault_of(said)
    assert (fault.kind, fault.counts) == (kind, counts)
    assert fault.reason.startswith(reason)
    assert len(fault.reason) <= 300


SHAPES = RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x16 and 32x8)")
PEER = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
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
        (PEER, False, False),
        (DEVICE, False, False),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_must_fail_again_is_told_from_what_comes_by_chance(error, at_once, the_second_time):
    said = fault_of("".join(traceback.format_exception(error)))
    before = {"kind": said.kind, "reason": said.reason}
    assert recurs(error, []) is at_once
    assert recurs(error, [before]) is the_second_time
    assert recurs(error, [before, {"kind": "died", "reason": "its worker died"}]) is at_once
    assert recurs(error, [{**before, "reason": "another"}]) is at_once


def test_an_error_is_a_line():
    assert line_of(ValueError("first\n  second")) == "ValueError: first second"
    assert line_of(ValueError()) == "ValueError"
    assert len(line_of(ValueError("x " * 1000))) < 330
    told = line_of(ValueError("Expected more than 1 value per channel when training, got input size [1, 64, 1, 1]"))
    assert told.endswith("; give batch_size at least 2, or a model without batch normalisation")


def test_a_trial_rests_longer_each_time():
    def after(count: int, passed: float) -> float:
        return rest([{"time": 1000.0 + i, "counts": True} for i in range(count)], 1000.0 + count - 1 + passed)

    assert after(0, 0) == 0
    assert [after(count, 0) for count in (1, 2, 3, 4, 20)] == [1, 2, 4, 8, 60]
    assert after(3, 1.5) == 2.5
    assert after(3, 3600) == 0  # a command the next day does not wait
    assert rest([{"time": 1000.0, "counts": False}], 1000.0) == 0  # a machine that went away is no reason to
    assert rest([{"time": 9e9, "counts": True}], 1000.0) == 1  # another machine's clock


@pytest.fixture
def recovery(tmp_path):
    finetuning = SimpleNamespace(id="lr1", settings=SimpleNamespace(batch_size=64))
    trial = SimpleNamespace(id="t", pretrain=None, finetunings=(finetuning,))
    return Recovery({"t": trial}, RunFolder(tmp_path), retries=2)


def test_a_trial_that_breaks_off_too_often_is_left_alone_with_every_reason(recovery):
    for said in (DIED, ERROR):
        assert recovery.broke_off("t", said).counts
    recovery.broke_off("t", NODE)
    recovery.broke_off("t", LEFT)
    assert recovery.counted("t") == 2  # neither a lost node nor one that is left speaks against it
    assert not recovery.settled("t")
    recovery.broke_off("t", DIED)
    failure = recovery.run.trial("t").failure()
    assert failure["quarantined"]
    assert failure["reason"].startswith(
        "broke off 3 times and is left alone until the command is run again: its worker"
    )
    assert "(2 times); OSError: [Errno 5] Input/output error" in failure["reason"]
    attempts = recovery.run.trial("t").attempts()
    assert [attempt["kind"] for attempt in attempts] == ["died", "error", "node", "left", "died"]
    recovery.run.trial("t").begin()
    assert recovery.run.trial("t").failure() is None  # the next command tries it again


def test_a_trial_that_gets_on_between_two_deaths_is_not_left_alone(recovery):
    folder = recovery.run.trial("t").storage
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        folder.write_json("progress.json", {"share": share})
        recovery.broke_off("t", DIED)
        assert recovery.counted("t") == 1
    for _ in range(2):
        recovery.broke_off("t", DIED)
    assert recovery.run.trial("t").failure()["quarantined"]


def test_a_trial_that_loses_its_nodes_for_ever_is_left_alone_too(recovery):
    for _ in range(20):
        recovery.broke_off("t", NODE)
    assert not recovery.settled("t")
    recovery.broke_off("t", NODE)
    reason = recovery.run.trial("t").failure()["reason"]
    assert reason.startswith("broke off 21 times")
    assert reason.endswith("its node was lost or cut off (21 times)")


def test_memory_that_was_short_is_answered_by_more_parts(recovery):
    folder = recovery.run.trial("t")
    for parts in (2, 4, 8, 16, 32, 64):  # the batch is 64
        recovery.broke_off("t", MEMORY)
        assert folder.parts() == parts
    recovery.broke_off("t", "MemoryError: CUDA out of memory")  # a rank of a group, which has answered it itself
    assert (folder.parts(), recovery.counted("t")) == (64, 0)
    for _ in range(3):
        recovery.broke_off("t", MEMORY)
    assert folder.parts() == 64
    assert folder.failure()["quarantined"]


def test_what_a_trial_said_itself_is_kept(recovery):
    recovery.run.trial("t").fail("the loss became nan")
    for _ in range(4):
        recovery.broke_off("t", DIED)
    recovery.give_up("t")
    assert recovery.run.trial("t").failure() == {"reason": "the loss became nan", "quarantined": False,
                                                  "log": recovery.run.trial("t").failure()["log"]}  # fmt: skip


def test_a_full_disk_does_not_stop_the_count(recovery, monkeypatch):
    monkeypatch.setenv("RAY_ROBUST_PATIENCE", "0")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for _ in range(4):
        recovery.broke_off("t", DIED)
    assert recovery.counted("t") == 4
    assert recovery.run.trial("t").failure() is None


def test_storage_that_stays_away_ends_the_sweep(recovery):
    for _ in range(2):
        recovery.broke_off("t", OUTAGE)
    with pytest.raises(Outage, match="the disk is full; free some room"):
        recovery.broke_off("t", OUTAGE)


def test_a_trial_that_gives_no_sign_of_life_is_ended_and_counted(recovery):
    watch, ended = Watch(recovery, 60), []
    folder = recovery.run.trial("t").storage
    watch.started("t", lambda: ended.append("t"))
    folder.write_json("progress.json", {"time": 5.0, "share": 0.5})
    watch.look(1000.0)
    watch.look(1059.0)
    folder.write_json("progress.json", {"time": 4.0, "share": 0.5})  # a clock may go back: it is a sign
    watch.look(1061.0)
    watch.look(1120.0)
    assert ended == []
    watch.look(1122.0)
    watch.look(9999.0)
    assert ended == ["t"]
    fault = recovery.broke_off("t", DIED)
    assert fault == Fault("hung", "gave no sign of life for 60 s and was ended", True)
    assert recovery.broke_off("t", DIED).kind == "died"
    watch.started("t", lambda: ended.append("again"))
    watch.ended("t")
    watch.look(1e9)
    assert ended == ["t"]


def test_storage_that_is_away_is_no_silence_of_a_trial(recovery, monkeypatch):
    watch, ended = Watch(recovery, 60), []
    recovery.run.trial("t").storage.write_json("progress.json", {"time": 5.0})
    watch.started("t", lambda: ended.append("t"))
    watch.look(1000.0)
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "read_json", lambda self, *_: (_ for _ in ()).throw(OSError("away")))
        watch.look(1030.0)
        watch.look(1500.0)
    watch.look(1510.0)  # it is back, and the trial has not written yet
    assert ended == []
    watch.look(1561.0)
    assert ended == ["t"]


def test_a_node_that_is_drained_is_left():
    drained = {"other": 0}
    notice = Notice("mine", lambda: drained)
    notice.look()
    assert notice() == ""
    drained["mine"] = 0
    notice.look()
    assert notice() == "its node is drained"


def test_a_head_that_does_not_answer_is_no_reason_to_leave():
    def away():
        raise ConnectionError

    notice = Notice("mine", away)
    notice.look()
    assert notice() == ""


def test_a_process_told_to_end_waits_for_its_training_to_save(monkeypatch):
    monkeypatch.setattr("ray_robust.launch.failures.preemption.GRACE", HANG)
    notice, saved = Notice("mine", dict), []

    def train() -> None:
        with notice.training():
            begun.set()
            while not notice():
                pass
            saved.append(notice())

    begun = threading.Event()
    thread = threading.Thread(target=train)
    thread.start()
    assert begun.wait(HANG)
    notice.end()
    assert saved == ["the process was told to end"]
    thread.join()
    Notice("mine", dict).end()  # nothing runs: nothing is waited for


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
    assert oom.kills() == 0
    (tmp_path / "vmstat").write_text("pgfault 7\noom_kill 3\n")
    assert oom.kills() == 3
    (tmp_path / "memory.events").write_text("low 0\noom 5\noom_kill 4\n")
    assert oom.kills() == 4
