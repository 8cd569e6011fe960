"""The status of a run, read from its folder alone: states, progress, failures, exit codes, and the user's mistakes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import fake_run
import numpy as np
import pytest
import yaml

from ray_robust.errors import DONE, FAILED, UserError
from ray_robust.files.storage import Storage
from ray_robust.interface.run import Run
from ray_robust.prepare import provenance
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run import lease, sweep_progress
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.status import __main__ as status
from ray_robust.status import progress, tables
from ray_robust.text.durations import duration
from tests.make_remote import Remote

SPEC = """\
# Question: How far are we?
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: {grid: [200, 400]}, images_seen: 400}
finetune: {epochs: 3}
seeds: 2
"""
SAID = {"stage": "finetune", "epoch": 1.5, "epochs": 3, "images": 6000, "images_per_second": 2500.0, "id": 0.25,
        "ood": 0.125, "share": 0.5}  # fmt: skip

NOW = 1_767_225_600.0  # when the command looks


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: NOW))


@pytest.fixture
def planned(tmp_path):
    """A run folder as the sweep leaves it before its first trial, and the plan."""
    file = tmp_path / "how.yaml"
    file.write_text(SPEC)
    spec = load_spec(file)
    sweep = open_sweep(spec)
    run = RunFolder(tmp_path / "runs" / "how")
    run.write("spec.yaml", spec.resolved)
    run.write_plan(sweep.plan.rows())
    return run, sweep.plan


def start(run, trial, **said):
    folder = run.trial(trial.id)
    folder.storage.write_json("trial.json", {"trial": trial.id})
    if said:
        folder.storage.write_json("progress.json", said)


def drive(run, **changed):
    """A driver: this process."""
    mine = {"host": lease.platform.node(), "space": lease._space(), "pid": os.getpid(),
            "began": lease._began(os.getpid()), "id": "x", "time": NOW}  # fmt: skip
    run.storage.write_json("lease.json", mine | changed)


def finish(run, trial):
    start(run, trial)
    run.trial(trial.id).finish([{"finetune": f.id, "epoch": 3} for f in trial.finetunings], {})


def test_a_finished_trial_that_lacks_a_fine_tuning_is_not_as_far_as_it_was(planned):
    run, plan = planned
    start(run, plan.trials[0], **SAID, time=NOW)
    finish(run, plan.trials[0])
    rows = run.plan()
    rows.loc[0, "finetunes"] = json.dumps({**json.loads(rows["finetunes"][0]), "one more": "x"})
    run.storage.write("plan.csv", rows.to_csv(index=False))
    assert read(run).states[plan.trials[0].id] == "started"
    assert read(run).progress[plan.trials[0].id] == {}
    first = Run(run.storage.address).status().iloc[0]
    assert (first["state"], first["stage"], first["done"]) == ("started", "starting", 0.0)
    start(run, plan.trials[0], **SAID, time=NOW + 60)  # it runs again
    assert read(run).progress[plan.trials[0].id]["time"] == NOW + 60
    assert Run(run.storage.address).status().iloc[0]["done"] == SAID["share"]


def read(run, now=1.0):
    return progress.read_status(run, now)


def priced(run):
    """The plan of a simulated run with the costs that a real one has."""
    run.storage.write("plan.csv", run.plan().assign(cost_images="1000").to_csv(index=False))


def quarantine(run, trial, reason):
    said = {"reason": reason, "log": (run.trial(trial.id).storage / "log.txt").shown, "quarantined": True}
    run.trial(trial.id).storage.write_json("failed.json", said)


def printed(run, capsys) -> tuple[int, str]:
    code = status.main([run.storage.address])
    return code, capsys.readouterr().out


def test_a_plan_of_which_nothing_ran(planned, capsys):
    run, plan = planned
    code, text = printed(run, capsys)
    assert code == DONE
    assert "How far are we?" in text
    assert f"{len(plan)} trials: 0 done, {len(plan)} planned; 0 % of the work is done\n" in text
    assert "no ER yet: 2 of 2 trials of the baseline are to come" in text
    assert "results.csv" not in text


def test_what_continues_a_sweep_is_named_while_something_is_to_run(planned, capsys):
    run, plan = planned
    assert "again  " not in printed(run, capsys)[1]  # of an earlier version, which kept no command
    secret = "--set=task.path=s3://me:hunter2@b"
    made = {"command": provenance.command(["how.yaml", "--out", "runs/a b", secret])}
    run.write("spec.yaml", (run.read_bytes("spec.yaml") or b"").decode() + yaml.safe_dump({"provenance": made}))
    again = f"again    {sys.orig_argv[0]} -m ray_robust.sweep how.yaml --out 'runs/a b' "
    said = printed(run, capsys)[1]
    assert again in said
    assert "hunter2" not in said
    for trial in plan:
        finish(run, trial)
    run.write_results()
    assert "again  " not in printed(run, capsys)[1]
    run.storage.write("results.csv", "trial\n")
    said = printed(run, capsys)[1]
    assert "results.csv: was altered since it was written; the same command again writes it anew\n" in said
    assert again in said


def test_every_state_is_counted_and_a_started_trial_shows_its_progress(planned, capsys):
    run, plan = planned
    first, second, third, fourth, fifth, *rest = plan
    finish(run, first)
    start(run, second, **SAID, time=NOW - 300)
    start(run, third)
    run.trial(fourth.id).fail("pretrain: the loss became nan by step 3 of 9")
    quarantine(run, fifth, "its worker died 4 times")
    run.write_results()
    code, text = printed(run, capsys)
    assert code == FAILED
    assert f"6 trials: 1 done, 2 started, 1 failed, 1 quarantined, {len(rest)} planned" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"{second.id} fine-tuning 1.5/3 2,500 25.0 % 12.5 % 50 % 5 min ago" in lines
    assert f"{third.id} starting" in lines
    log = (run.trial(fourth.id).storage / "log.txt").shown
    assert f"failed {fourth.id}: pretrain: the loss became nan by step 3 of 9 (log: {log})" in lines
    log = (run.trial(fifth.id).storage / "log.txt").shown
    assert f"quarantined {fifth.id}: its worker died 4 times (log: {log})" in lines
    assert f"results {run.storage.shown}/results.csv" in lines
    whole = sum(trial.cost for trial in plan)
    assert read(run).share_done == pytest.approx((first.cost + 0.5 * second.cost) / whole, rel=1e-4)


def test_the_time_left_is_the_drivers(planned, capsys):
    run, plan = planned
    start(run, plan.trials[0], **SAID, time=NOW)
    assert read(run).left is None
    drive(run)
    sweep_progress.write_progress(run.storage, sweep_progress.SweepProgress(NOW - 20, 9, 320.0))
    assert read(run, now=NOW).left == pytest.approx(300.0)
    assert read(run, now=NOW + sweep_progress.RECENT).left is None  # its driver says nothing any more
    said = printed(run, capsys)[1]
    assert re.search(
        r"6 of 9 trials: 0 done, 1 started, 5 planned; \d+ % of the work is done, about 5 min left\n", said
    )
    for trial in plan:
        finish(run, trial)
    assert read(run, now=NOW).left is None
    sweep_progress.forget_progress(run.storage)
    assert read(run, now=NOW).total == 6


@pytest.mark.parametrize(
    ("changed", "said_before", "sentence", "left"),
    [
        (None, 5.0, r"none runs", None),
        ({"pid": 1, "began": lease._began(1)}, 5.0, r"process 1 on \S+ \(last seen .*\) runs it", 295.0),
        ({"pid": 1, "began": "0"}, 5.0, r"process 1 on \S+ \(last seen .*\) is gone", None),
        ({"host": "elsewhere"}, 5.0, r"process \d+ on elsewhere \(last seen .*\) runs it", 295.0),
        (
            {"host": "elsewhere"}, 130.0,
            r"process \d+ on elsewhere \(last seen .*\) has written nothing for 2 min, and was probably stopped", None,
        ),
        ({}, 5.0, "", 295.0),  # this process
    ],
)  # fmt: skip
def test_whether_a_driver_runs_is_said(planned, capsys, changed, said_before, sentence, left):
    run, plan = planned
    if changed is not None:
        drive(run, **changed)
    sweep_progress.write_progress(run.storage, sweep_progress.SweepProgress(NOW - said_before, 6, 300.0))
    assert read(run, now=NOW).left == (left and pytest.approx(left))
    said = [line for line in printed(run, capsys)[1].splitlines() if line.startswith("driver")]
    assert len(said) == bool(sentence)
    if sentence:
        assert re.fullmatch(f"driver   {sentence}", said[0])
    for trial in plan:
        finish(run, trial)
    assert "driver  " not in printed(run, capsys)[1], "nothing is left to run"


def test_a_search_that_was_killed_is_not_done(planned, capsys):
    run, plan = planned
    drive(run, began="0")
    sweep_progress.write_progress(run.storage, sweep_progress.SweepProgress(NOW - 9000, 40, 300.0))
    for trial in plan:
        finish(run, trial)
    text = printed(run, capsys)[1]
    assert "6 of 40 trials: 6 done" in text
    assert re.search(r"driver   process \d+ on \S+ \(last seen .*\) is gone\n", text)
    assert " left" not in text


def test_an_interim_report_has_its_age(planned, capsys):
    run, _ = planned
    run.storage.write("report/index.html", "page")
    run.storage.write("report/interim/x/verdict.json", "{}")
    os.utime(run.storage.local("report/index.html"), (NOW - 7300, NOW - 7300))
    assert "report/index.html  (interim, written 2 h ago)\n" in printed(run, capsys)[1]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"time": 1.0, "total": "9", "left": 1}', '{"time": "x", "total": 9}']
)
def test_what_is_no_progress_is_none(tmp_path, text):
    Storage(tmp_path).write("progress.json", text)
    assert sweep_progress.read_progress(Storage(tmp_path), 1.0) is None


def test_er_is_told_as_soon_as_the_baseline_is_there(tmp_path, capsys):
    planted = {"num_images=1000": 4.0, "num_images=4000": 9.0}
    run = fake_run.run_folder(tmp_path / "run", fake_run.sweep(planted, trial_sd=0.0, noise_sd=0.0))
    priced(run)
    er = read(run).er
    assert er.why == ""
    for group, true in planted.items():
        assert er.of_group(group) == pytest.approx(true, abs=0.1)
    assert er.of_group("scratch") == pytest.approx(0.0, abs=0.1)
    lines = [" ".join(line.split()) for line in printed(run, capsys)[1].splitlines()]
    assert "group done ER" in lines
    assert f"num_images=4000 3 {er.of_group('num_images=4000'):+.1f} pp" in lines


def test_without_a_line_there_is_no_er_and_a_reason(tmp_path, capsys):
    points = fake_run.sweep({"num_images=1000": 4.0})
    random = np.random.default_rng(1)
    points.loc[points["group"] == "scratch", "ood"] = random.uniform(0.2, 0.4, (points["group"] == "scratch").sum())
    run = fake_run.run_folder(tmp_path / "run", points)
    priced(run)
    assert re.search(r"no ER on camera-traps: the baseline explains only R² = 0\.\d\d", printed(run, capsys)[1])


def test_a_trial_that_was_stopped_early_is_work_behind(planned, capsys):
    run, plan = planned
    run.trial(plan.trials[0].id).stop("behind at a milestone", {"milestone": 0.33})
    assert read(run).share_done == pytest.approx(plan.trials[0].cost / sum(t.cost for t in plan), rel=1e-4)
    assert "6 trials: 0 done, 1 stopped, 5 planned" in printed(run, capsys)[1]


def test_of_many_started_trials_the_latest_to_speak_are_shown(planned, capsys, monkeypatch):
    run, plan = planned
    for age, trial in enumerate(reversed(plan.trials)):
        start(run, trial, **SAID, time=NOW - 600 * age - 1)
    monkeypatch.setattr(tables, "SHOWN", 2)
    text = printed(run, capsys)[1]
    last, before, *others = reversed(plan.trials)
    assert text.index(last.id) < text.index(before.id)
    assert not any(trial.id in text for trial in others)
    assert "... and 4 more started" in text


def test_groups_are_counted_apart(planned, capsys):
    run, plan = planned
    for trial in plan:
        if trial.group == "num_images=400":
            finish(run, trial)
    lines = [" ".join(line.split()) for line in printed(run, capsys)[1].splitlines()]
    assert {"num_images=400 2", "num_images=200 2", "scratch 2"} <= set(lines)


def test_a_finished_run_is_all_done(planned, capsys):
    run, plan = planned
    for trial in plan:
        finish(run, trial)
    code, text = printed(run, capsys)
    assert code == DONE
    assert "6 trials: 6 done; 100 % of the work is done" in text


def test_a_trial_that_failed_and_then_finished_is_done(planned, capsys):
    run, plan = planned
    for trial in plan:
        run.trial(trial.id).fail("the disk was full")
        finish(run, trial)
    assert printed(run, capsys)[0] == DONE


def test_a_run_folder_may_be_a_uri(planned, capsys):
    run, _ = planned

    assert read(RunFolder(Remote(run.storage.address))).states == run.states()


def test_mistakes_are_said_in_a_line(planned, tmp_path, capsys):
    run, _ = planned
    with pytest.raises(UserError, match=r"no such run folder; did you mean .*runs/how\?"):
        status.main([str(tmp_path / "runs" / "hov")])
    with pytest.raises(UserError, match=r"no such run folder; did you mean .*runs/how\?"):  # without its folder
        status.main([str(tmp_path / "how")])
    RunFolder(tmp_path / "other").write("plan.csv", "a\n")
    with pytest.raises(UserError, match=r"no such run folder; did you mean .*runs/how\?"):  # which is like no other
        status.main([str(tmp_path / "how")])
    with pytest.raises(UserError, match=r"no such run folder$"):
        status.main([str(tmp_path / "nowhere" / "x")])
    with pytest.raises(UserError, match=r"holds no plan\.csv of a sweep"):
        status.main([str(tmp_path)])
    run.storage.write("plan.csv", "a,b\n1,2\n")
    with pytest.raises(UserError, match=r"plan\.csv: is damaged: it is not a plan any more; the same command again"):
        status.main([run.storage.address])


def test_neither_torch_nor_ray_is_needed(planned):
    code = "import sys; from ray_robust.status import __main__ as status; code = status.main(sys.argv[1:]); " \
           "sys.exit(code or bool({'torch', 'ray'} & set(sys.modules)))"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, planned[0].storage.address], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (119, "119 s"), (300, "5 min"), (7200, "2 h"), (9e5, "10 days")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_pilot_that_is_to_come_is_said(planned):
    run, _ = planned
    spec = yaml.safe_load((run.storage.local() / "spec.yaml").read_text())
    assert "pilot " not in "\n".join(tables.headline(progress.read_status(run, NOW), run))
    run.write("spec.yaml", yaml.safe_dump(spec | {"baseline": {"name": "scratch", "spread": "auto"}}))
    assert "pilot    fine-tunings of the baseline" in "\n".join(tables.headline(progress.read_status(run, NOW), run))
    run.write("baseline.json", "{}")
    assert "pilot " not in "\n".join(tables.headline(progress.read_status(run, NOW), run))
