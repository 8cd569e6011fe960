"""Following a run from its folder: what a log and a terminal show while it grows, and how it ends. No test waits: what
passes the time lets the run go on."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import fake_run
import pytest

from ray_robust.errors import DONE, FAILED, INTERRUPTED, UserError
from ray_robust.files.storage import Storage
from ray_robust.run import lease, sweep_progress
from ray_robust.run.run_folder import RunFolder
from ray_robust.status import __main__ as status
from ray_robust.status import follow as following
from ray_robust.status.progress import StatusReader
from ray_robust.text.console import Screen
from tests.make_remote import Remote

NOW = 1_767_225_600.0
PROGRESS = {"stage": "finetune", "epoch": 1.5, "epochs": 3, "images": 6000, "images_per_second": 2500.0, "id": 0.25,
            "ood": 0.125, "share": 0.5, "time": NOW}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run of six trials, of which two have ended."""
    folder = fake_run.run_folder(tmp_path / "run", fake_run.sweep({"num_images=[1k]": 4.0}), unfinished=4)
    folder.storage.write("plan.csv", folder.plan().assign(cost_images="1000").to_csv(index=False))
    return folder


def own_lease(run, **changed):
    """A driver that runs: this process."""
    mine = {"host": lease.platform.node(), "space": lease._space(), "pid": os.getpid(),
            "began": lease._began(os.getpid()), "id": "x", "time": NOW}  # fmt: skip
    run.storage.write_json("lease.json", mine | changed)


def names(run, state):
    return [name for name, its in RunFolder(run.storage).states().items() if its == state]


def finish(run, name):
    run.trial(name).finish([{"finetune": f"lr{rate:g}", "epoch": 3} for rate in fake_run.RATES], {})


def watched(run, steps, terminal=False):
    """What following prints while the steps happen, one after each look and 10 s apart, and how it ended."""
    text, todo = io.StringIO(), list(steps)
    out = Screen(file=text, highlight=False, width=120, force_terminal=terminal, height=40)
    passed = [0.0]

    def wait(seconds):
        passed[0] += 10.0
        todo.pop(0)()

    ending = following.follow(run, out, wait=wait, clock=lambda: passed[0], wall=lambda: NOW)
    assert not todo
    return text.getvalue(), ending


def test_a_log_has_a_line_for_each_trial_that_ends(run):
    own_lease(run)
    sweep_progress.write_progress(run.storage, sweep_progress.SweepProgress(NOW, 6, 300.0))
    first, second, third, fourth = names(run, "planned")
    text, ending = watched(run, [
        lambda: run.trial(first).storage.write_json("trial.json", {}),
        lambda: (finish(run, first), run.trial(second).fail("the loss became nan")),
        lambda: (finish(run, third), finish(run, fourth), run.storage.delete("lease.json")),
    ])  # fmt: skip
    lines = text.splitlines()
    assert lines[0] == "2 of 6 trials have ended, 0 are started; 33 % of the work is done   about 5 min left"
    assert lines[1:] == [
        f"[3/6] {first}  done   about 5 min left", f"[4/6] {second}  failed: the loss became nan   about 5 min left",
        f"[5/6] {third}  done", f"[6/6] {fourth}  done"]  # fmt: skip
    assert ending == following.Ending(True, "the run is done: 5 done, 1 failed")


def test_a_terminal_shows_the_table_anew(run):
    own_lease(run)
    first, *_ = names(run, "planned")
    folder = run.trial(first).storage
    text, _ = watched(run, [
        lambda: (folder.write_json("trial.json", {}), folder.write_json("progress.json", PROGRESS)),
        lambda: (folder.write_json("progress.json", {**PROGRESS, "epoch": 2.5}), run.storage.delete("lease.json")),
    ], terminal=True)  # fmt: skip
    assert "num_images=[1k]" in text, "brackets in names are no markup"
    assert "1.5/3" in text
    assert "2.5/3" in text


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        ({"began": "0"}, r"its driver, process \d+ on .*, is gone: 4 trials have yet to run"),
        ({"host": "elsewhere"}, r"on elsewhere \(.*\), is gone: it has not renewed its lease for 25 s: 4 trials"),
    ],
)
def test_it_ends_where_the_driver_is_gone(run, changed, gone):
    own_lease(run, **changed)
    waits = [] if "began" in changed else [lambda: None] * 3
    _, ending = watched(run, waits)
    assert not ending.done
    assert re.search(gone, ending.text)


def test_a_driver_elsewhere_runs_as_long_as_it_renews(run):
    own_lease(run, host="elsewhere")
    renewals = [lambda t=t: own_lease(run, host="elsewhere", time=NOW + t) for t in range(9)]
    _, ending = watched(run, [*renewals, lambda: run.storage.delete("lease.json")])
    assert "has ended: 4 trials have yet to run; the same command again continues it" in ending.text


def test_a_search_is_done_when_its_last_trial_is(run):
    for name in names(run, "planned"):
        finish(run, name)
    sweep_progress.write_progress(run.storage, sweep_progress.SweepProgress(NOW, 8, None))
    assert watched(run, [])[1].text.startswith("no driver runs it: 2 trials have yet to run")
    sweep_progress.forget_progress(run.storage)
    assert watched(run, [])[1] == following.Ending(True, "the run is done: 6 done")


def test_a_look_reads_only_what_is_new(run, monkeypatch):
    reader, read = StatusReader(run), []
    reader.read(NOW)
    true = Storage._read
    monkeypatch.setattr(
        Storage, "_read", lambda self, name: (read.append(f"{self.address}/{name}"), true(self, name))[1]
    )
    reader.read(NOW + 1)
    assert [name.rpartition("/")[2] for name in read] == ["lease.json", "progress.json"], "the driver's alone"
    first = names(run, "planned")[0]
    run.trial(first).storage.write_json("progress.json", PROGRESS)
    run.trial(first).storage.write_json("trial.json", {})
    read.clear()
    seen = reader.read(NOW + 2)
    assert seen.states[first] == "started"
    assert {name for name in read if "/trials/" in name and first not in name} == set()
    finish(run, first)
    assert reader.read(NOW + 3).states[first] == "done"


def test_an_object_store_is_followed_too(run):
    own_lease(run)
    first, *others = names(run, "planned")
    remote = RunFolder(Remote(run.storage.address))
    text, ending = watched(remote, [
        lambda: finish(run, first),
        lambda: ([finish(run, name) for name in others], run.storage.delete("lease.json")),
    ])  # fmt: skip
    assert f"[3/6] {first}  done\n" in text
    assert ending.done


def test_the_command_says_how_it_ended(run, capsys):
    code = status.main([run.storage.address, "--follow"])
    text = capsys.readouterr().out
    assert code == FAILED
    assert (
        text.splitlines()[-1]
        == "ended    no driver runs it: 4 trials have yet to run; the same command again continues it"
    )
    assert "6 trials: 2 done, 4 planned" in text
    for name in names(run, "planned"):
        finish(run, name)
    assert status.main([run.storage.address, "--follow", "--interval", "0.5"]) == DONE


def test_mistakes_of_following(run, tmp_path):
    with pytest.raises(UserError, match=r"--interval is for --follow"):
        status.main([run.storage.address, "--interval", "2"])
    for given in ("0", "-1", "nan", "inf"):
        with pytest.raises(UserError, match=r"--interval: must be at least 0\.1 s, not "):
            status.main([run.storage.address, "--follow", f"--interval={given}"])
    with pytest.raises(UserError, match=r"no such run folder"):
        status.main([str(tmp_path / "x"), "--follow"])


@pytest.mark.slow
def test_an_interrupt_ends_the_view_with_its_usual_code(run):
    own_lease(run)
    code = """
import _thread, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a script
from ray_robust.errors import command
from ray_robust.status import __main__ as status, follow as following
status.follow = lambda *given: following.follow(*given, wait=lambda seconds: _thread.interrupt_main())
command(status.main)"""
    ended = subprocess.run(
        [sys.executable, "-c", code, run.storage.address, "--follow"], capture_output=True, text=True
    )
    assert ended.returncode == INTERRUPTED
    assert ended.stderr == "Interrupted.\n"
