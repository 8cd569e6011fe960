"""What the scheduler does: a worker that dies every time, the baseline and its pilot first."""

import os
from dataclasses import replace

import pytest
from rich.console import Console

from ray_robust.launch import tuner
from ray_robust.launch.cluster.connect import connect
from ray_robust.launch.first_trials.baseline_first import BaselineFirst
from ray_robust.launch.first_trials.planned_trials import Chosen, PilotTrials
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.plan.plan import Plan, PoolFacts, make_plan, pool_key
from ray_robust.prepare.baseline_line import BaselineLine
from ray_robust.prepare.work import work_of
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.trial.paths import RunPaths

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPEC = """
task: {name: camera-traps}
pretrain: {sources: {species: 1.0}, num_images: {grid: [500, 1000]}, images_seen: 1000}
baseline: none
"""
HOLDS = BaselineLine(True, ())


def planned(tmp_path, text):
    """A spec of this text, its plan for pools that are not there, and where it runs."""
    (tmp_path / "small.yaml").write_text(text)
    spec = load_spec(tmp_path / "small.yaml")
    level, task = spec.pretrains[0].section, spec.tasks[0].section
    plan = make_plan(spec, {pool_key("species", level.sources["species"]): PoolFacts("s", 10_000)},
                     {pool_key(task.name, task): PoolFacts("t", 100, {"train": 50})})  # fmt: skip
    return spec, plan, RunPaths(str(tmp_path / "run"), str(tmp_path / "checkpoints"), str(tmp_path / "store"))


def finishing():
    """What a worker runs where every trial is done at once; made here, so that workers need not import this file."""

    def run(config, paths, resources, pools):
        from ray import tune

        trial = config["trial"].trial
        RunFolder(paths.run).trial(trial.id).finish([{"finetune": f.id} for f in trial.finetunings], {})
        tune.report({"ended": 1})

    return run


def watching(order):
    """A monitor that adds each trial to `order` as it begins."""

    class Watching(Monitor):
        def started(self, trial):
            order.append(trial)
            super().started(trial)

    return Watching


def test_a_trial_whose_worker_keeps_dying_is_quarantined_with_its_own_reason(tmp_path, monkeypatch):
    spec, plan, paths = planned(tmp_path, SPEC)
    doomed, fine = (trial.id for trial in plan)

    def run(config, paths, resources, pools):
        from ray import tune

        trial = config["trial"].trial
        if trial.id == doomed:
            os._exit(3)
        RunFolder(paths.run).trial(trial.id).finish([{"finetune": f.id} for f in trial.finetunings], {})
        tune.report({"ended": 1})

    RunFolder(paths.run).trial(doomed).finish([{"finetune": "of an earlier run"}], {})  # done before, with less
    monkeypatch.setattr(tuner, "train_here", run)
    monkeypatch.setattr(tuner, "RETRIES", 1)
    monitor = Monitor(plan, RunFolder(paths.run), Console(quiet=True), 0, "dying", metrics=False)
    with connect(dashboard=False) as cluster:
        assert tuner.run_plan(plan, paths, spec.resources, cluster, monitor) == {trial.id for trial in plan}
    assert monitor.finished == {doomed: "quarantined", fine: "done"}
    reason = RunFolder(paths.run).trial(doomed).failure()["reason"]
    assert reason.startswith("failed 2 times; quarantined until the next run: its worker died"), reason
    assert reason.endswith("(2 times)")
    assert "worker process has died" in reason
    assert len(reason) < 400
    assert RunFolder(paths.run).trial(fine).failure() is None


def test_what_must_fail_again_is_tried_once_and_is_one_line(tmp_path, capfd):
    """A batch of one before batch normalisation, which a plan would refuse: torch's own error."""
    more = "model: {name: test_byobnet}\nfinetune: {batch_size: 1, epochs: 1}\n"
    spec, plan, paths = planned(tmp_path, SPEC + more)
    plan = Plan(plan.trials[:1])
    (trial,) = plan
    monitor = Monitor(plan, RunFolder(paths.run), Console(quiet=True), 0, "one", metrics=False)
    with connect(dashboard=False) as cluster:
        assert tuner.run_plan(plan, paths, spec.resources, cluster, monitor) == {trial.id for trial in plan}
    folder = RunFolder(paths.run).trial(trial.id)
    assert monitor.finished == {trial.id: "failed"}
    assert folder.attempts() == []
    failure = folder.failure()
    assert not failure["quarantined"]
    assert failure["reason"].startswith("ValueError: Expected more than 1 value per channel when training")
    log = folder.storage.read("log.txt").decode()
    assert log.count("Traceback (most recent call last)") == 1  # kept there, and shown nowhere else
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("stop", [True, False])
def test_the_baseline_comes_first_and_where_it_may_end_the_sweep_alone(tmp_path, monkeypatch, stop):
    spec, plan, paths = planned(tmp_path, SPEC.replace("none", "scratch"))
    run_folder, order = RunFolder(paths.run), []
    own = frozenset(trial.id for trial in plan if trial.pretrain is None)
    assert plan.trials[0].id not in own

    monkeypatch.setattr(tuner, "train_here", finishing())
    verdict = BaselineLine(False, ("no line",), ("R^2 is low",))
    shown = []
    first = BaselineFirst(own, lambda: verdict, shown.append, stop)
    with connect(dashboard=False) as cluster:
        monitor = watching(order)(plan, run_folder, Console(quiet=True), 0, "first", metrics=False)
        begun = tuner.run_plan(plan, paths, spec.resources, cluster, monitor, baseline=first)
    assert begun == set(order)
    assert shown == ["no line"]
    assert len(order) == (1 if stop else 3)
    assert own & set(order[: 1 if stop else 2])  # where nothing waits two are given out at once: either may start first
    assert [run_folder.trial(trial.id).failure() for trial in plan] == [None] * 3


def test_trials_run_beside_the_pilot_and_its_own_trial_goes_on_with_what_it_chose(tmp_path, monkeypatch):
    """One run of Tune: the first trial of the baseline is given out twice, and its first end is not the baseline's."""
    spec, plan, paths = planned(tmp_path, SPEC.replace("none", "scratch") + "finetune: {lr: {grid: [1e-3, 3e-3]}}\n")
    folder, order, runs = RunFolder(paths.run), [], []
    (scratch,) = (trial for trial in plan if trial.pretrain is None)
    pilot = replace(scratch, finetunings=scratch.finetunings[:1])

    def choose():
        assert folder.trial(pilot.id).is_done([f.id for f in pilot.finetunings])
        monitor.expect_more([work_of(scratch)], ())
        return Chosen(Plan((scratch,)), ())

    fit = tuner._TuneRun.fit
    monkeypatch.setattr(tuner._TuneRun, "fit", lambda self, trials: (runs.append(1), fit(self, trials)))
    monkeypatch.setattr(tuner, "train_here", finishing())
    verdicts = []
    first = BaselineFirst(frozenset([scratch.id]), lambda: verdicts.append(folder.states()) or HOLDS, print, False)
    folder.write_plan(plan.rows())
    with connect(dashboard=False) as cluster:
        monitor = watching(order)(plan, folder, Console(quiet=True), 0, "first", metrics=False)
        monitor.in_parts = {pilot.id}
        tuner.run_plan(plan, paths, spec.resources, cluster, monitor, baseline=first,
                       pilot=PilotTrials(Plan((pilot,)), choose))  # fmt: skip
    assert runs == [1]
    assert order.count(scratch.id) == 2
    assert len(order) == len(plan) + 1
    assert scratch.id in order[:2]
    assert [states[scratch.id] for states in verdicts] == ["done"]  # with all of its fine-tunings
    assert monitor.finished == dict.fromkeys((trial.id for trial in plan), "done")
    assert monitor.counts()["waiting"] == 0
