"""The pilot of `baseline: {spread: auto}` as part of a sweep: what waits for it, how it ends, and how long it takes."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pandas as pd
import pytest
from make_spread import finish, opened, sizes
from rich.console import Console

from ray_robust import sweep as sweep_command
from ray_robust.errors import DONE, FAILED, INTERRUPTED, Outage
from ray_robust.launch.failures.recovery import Recovery
from ray_robust.launch.first_trials.planned_trials import PlannedTrials
from ray_robust.launch.monitor.monitor import Monitor
from ray_robust.launch.monitor.time_left import TimeLeft
from ray_robust.launch.run_sweep import SweepRun, write_plan
from ray_robust.prepare import baseline_spread, estimate, provenance
from ray_robust.prepare.baseline_spread import PILOT, Choice
from ray_robust.prepare.work import open_work, work_of
from ray_robust.run import throughput
from ray_robust.run.run_folder import RunFolder
from ray_robust.run.trial_folder import key_of
from ray_robust.text.durations import duration_range


class Rest(Exception):
    """What comes after the pilot has begun."""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the sweep's command with `train`, called with the run and a trial, in place of a cluster; one at a time."""

    def run(train, *overrides, arguments=()):
        def stand_in(self, todo):
            write_plan(self.sweep, self.run)
            before, left = len(self.sweep.plan) - len(todo), self.time_left(todo, 1)
            monitor = Monitor(todo, self.run, Console(quiet=True), before, "small", metrics=False, time_left=left)
            run.monitors.append(monitor)
            recovery = Recovery({trial.id: trial for trial in todo}, self.run)
            planned = PlannedTrials(todo, recovery, self.baseline, self.pilot_trials(monitor))
            shares = [0.0]
            while (trial := planned.next()) is not None:
                recovery.begin(trial)
                monitor.started(trial.id)
                train(self.run, trial)
                planned.ended(trial.id)
                monitor.ended(trial.id)
                planned.settled(trial.id)
                shares.append(monitor.done_and_left()[0])
            assert planned.complete
            assert shares == sorted(shares)  # it does not fall back at the choice
            recovery.quarantine_rest(planned.not_begun)
            run.shares.append(monitor.done_and_left()[0])
            return 0.0, recovery.begun

        monkeypatch.setattr(SweepRun, "run_trials", stand_in)
        monkeypatch.setattr(provenance, "record_throughput", lambda run_folder, work, resources: run.timed.append(work))
        opened(tmp_path)
        sets = [word for one in overrides for word in ("--set", one)]
        return sweep_command.main([str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run"), *sets, *arguments])

    run.monitors, run.shares, run.timed = [], [], []
    return run


@pytest.mark.slow
def test_nothing_more_begins_where_the_pilot_fails_or_is_interrupted(command, capsys, tmp_path):
    ran = []

    def fail(run, trial):
        ran.append(trial)
        run.trial(trial.id).fail("a model that cannot be made")

    for _ in range(2):  # the same command tries it again
        assert command(fail) == FAILED
        printed = capsys.readouterr().out
        assert "failed  small-scratch-s1-" in printed
        assert ": a model that cannot be made (log: " in printed
        assert "stopped  after the pilot of baseline.spread: auto, which failed; the same command again" in printed
        assert "0 trials done, 1 failed, 5 not run" in printed
    assert [len(trial.finetunings) for trial in ran] == [len(PILOT)] * 2

    def interrupt(run, trial):
        raise KeyboardInterrupt

    assert command(interrupt) == INTERRUPTED
    assert "Interrupted. 0 finished trials and all checkpoints are kept" in capsys.readouterr().out
    assert not (tmp_path / "run" / "baseline.json").exists()

    ran.clear()
    _finish_the_pilot(command, ran)
    printed = capsys.readouterr().out
    assert "pilot    a pilot of 4 fine-tunings per model comes first, " in printed
    assert "pilot    chosen by the pilot: " in printed
    assert (tmp_path / "run" / "baseline.json").exists()
    assert ran[0].id == ran[1].id  # the first seed needs the rungs that the pilot chose beyond its own
    assert {f.id for f in ran[1].finetunings} - {f.id for f in ran[0].finetunings}
    assert "chosen by the pilot: " in _plan(tmp_path, capsys)


@pytest.mark.slow
def test_the_whole_sweep_is_one_run_and_ends_with_what_was_chosen(command, tmp_path, monkeypatch):
    ran = []

    def train(run, trial):
        ran.append(trial)
        finish(run, trial)

    monkeypatch.setattr("ray_robust.launch.run_sweep.report", lambda run, out: True)
    assert command(train) == DONE
    run = RunFolder(tmp_path / "run")
    plan = run.plan()
    assert len(ran) == len(plan) + 1 == 7  # the pilot's trial twice
    assert [trial.pretrain is None for trial in ran] == [True] * 3 + [False] * 4
    bare = opened(tmp_path)
    chosen = baseline_spread.with_choice(bare, baseline_spread.recorded(bare, run), None)
    for trial in chosen.plan:
        assert run.has_rows(trial.id, [f.id for f in trial.finetunings])
        assert set(json.loads(plan.set_index("trial").loc[trial.id, "finetunes"])) == {f.id for f in trial.finetunings}
    assert sizes(ran[1:3]) == sizes([t for t in chosen.plan if t.pretrain is None])
    ran.clear()
    assert command(train) == DONE
    assert ran == []


TWO = "model={name: {grid: [test_byobnet, test_resnet]}}"


@pytest.fixture
def train(monkeypatch):
    """Finishes every trial with scores; keeps them; one whose id is in `bad` fails."""

    def finish_it(run, trial):
        finish_it.ran.append(trial)
        if trial.model.name in finish_it.bad:
            run.trial(trial.id).fail("a model that cannot be made")
        else:
            finish(run, trial)

    finish_it.ran, finish_it.bad = [], set()
    monkeypatch.setattr("ray_robust.launch.run_sweep.report", lambda run, out: True)
    return finish_it


def rows_of(run):
    """The fine-tunings in results.csv by trial."""
    table = pd.read_csv(run / "results.csv")
    return {name: set(of["finetune"]) for name, of in table.groupby("trial")}


def planned_rows(run):
    plan = RunFolder(run).plan()
    return {name: set(json.loads(text)) for name, text in zip(plan["trial"], plan["finetunes"], strict=True)}


@pytest.mark.slow
def test_a_sweep_that_goes_on_within_its_pilot_has_the_rows_of_all_that_was_chosen(command, train, tmp_path):
    """One model's pilot is done, the other's failed: what was read of the first is read again once it has more."""
    train.bad = {"test_resnet"}
    assert command(train, TWO) == FAILED
    assert not (tmp_path / "run" / "baseline.json").exists()
    train.bad, train.ran = set(), []
    assert command(train, TWO) == DONE
    assert [trial.model.name for trial in train.ran if len(trial.finetunings) == len(PILOT)] == ["test_resnet"]
    assert rows_of(tmp_path / "run") == planned_rows(tmp_path / "run")
    _all_are_counted(command, tmp_path, {trial.id for trial in train.ran})


@pytest.mark.slow
def test_a_choice_that_was_removed_is_made_again_without_training(command, train, tmp_path, capsys):
    assert command(train) == DONE
    chosen = (tmp_path / "run" / "baseline.json").read_text()
    (tmp_path / "run" / "baseline.json").unlink()
    train.ran = []
    capsys.readouterr()
    assert command(train) == DONE
    assert len({trial.id for trial in train.ran}) == 1  # to gather what the pilot's trial had; nothing is trained
    assert (tmp_path / "run" / "baseline.json").read_text() == chosen
    assert "pilot    chosen by the pilot: " in capsys.readouterr().out
    assert rows_of(tmp_path / "run") == planned_rows(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["invocations"][-1]["trials_run"] == 1


@pytest.mark.slow
def test_with_a_limit_a_pilot_beside_the_plan_counts_and_may_fail(command, train, tmp_path, capsys):
    train.bad = {"test_resnet"}
    for _ in range(2):
        assert command(train, TWO, arguments=("--limit", "1")) == FAILED
        printed = capsys.readouterr().out
        assert "a model that cannot be made" in printed
        assert "stopped  after the pilot of baseline.spread: auto, which failed" in printed
    train.bad = set()
    assert command(train, TWO, arguments=("--limit", "1")) == DONE
    counts = command.monitors[-1].counts()
    assert (counts["done"], counts["waiting"]) == (1, 0)
    assert rows_of(tmp_path / "run") == planned_rows(tmp_path / "run")
    assert len(planned_rows(tmp_path / "run")) == 1


@pytest.mark.slow
def test_a_choice_that_asks_trials_that_are_done_for_more_is_waited_for(command, train, tmp_path):
    """A model is added to a finished sweep: the pilot of both chooses rungs that the first one's trials lack."""
    assert command(train) == DONE
    before = planned_rows(tmp_path / "run")
    dropped = baseline_spread.recorded(opened(tmp_path), RunFolder(tmp_path / "run"))
    assert not set(PILOT) <= set(dropped.octaves)  # a rung that stands for the choice until it is made
    train.ran = []
    assert command(train, TWO) == DONE
    after = planned_rows(tmp_path / "run")
    assert rows_of(tmp_path / "run") == after
    assert len(after) == 12
    assert {key_of(name) for name in before} < {key_of(name) for name in after}
    _all_are_counted(command, tmp_path, {trial.id for trial in train.ran})


@pytest.mark.slow
def test_trials_that_lack_nothing_beside_the_pilot_of_another_model_are_no_work(command, train, tmp_path, monkeypatch):
    monkeypatch.setattr(baseline_spread, "choose", lambda *given: PILOT)
    assert command(train) == DONE
    train.ran = []
    assert command(train, TWO) == DONE
    assert {trial.model.name for trial in train.ran} == {"test_byobnet"}
    _all_are_counted(command, tmp_path, {trial.id for trial in train.ran})


def _all_are_counted(command, tmp_path, ran):
    """The last command has counted twelve trials, all done, and keeps the time of those that it ran alone."""
    monitor = command.monitors[-1]
    counts = monitor.counts()
    assert (monitor.total, counts["done"], counts["waiting"]) == (12, 12, 0)
    assert command.shares[-1] == pytest.approx(1.0)
    assert {one.trial.id for one in command.timed[-1]} == ran
    assert json.loads((tmp_path / "run" / "run.json").read_text())["invocations"][-1]["trials_run"] == len(ran)
    assert not list((tmp_path / "run").glob("trials/*/failed.json"))


def _finish_the_pilot(command, ran):
    """The command finishes its pilot and ends where the rest begins; `ran` gets what was run, that included."""

    def finish_it(run, trial):
        ran.append(trial)
        if len(ran) > 1:
            raise Rest
        finish(run, trial)

    with pytest.raises(Rest):
        command(finish_it)


def _plan(tmp_path, capsys):
    capsys.readouterr()
    assert sweep_command.main([str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run"), "--plan"]) == DONE
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_pilot_that_an_outage_ends_is_continued_by_the_same_command(command, tmp_path):
    ran = []

    def lose_the_store(run, trial):
        raise Outage("the store cannot be reached")

    with pytest.raises(Outage, match="cannot be reached"):
        command(lose_the_store)
    run = RunFolder(tmp_path / "run")
    assert not run.exists("baseline.json")

    def break_down(run, trial):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # a fault of the program is not taken for a trial's
        command(break_down)
    assert not run.exists("baseline.json")

    _finish_the_pilot(command, ran)  # the folder is not held by those before
    assert [trial.pretrain for trial in ran] == [None, None]
    assert run.exists("baseline.json")


def test_the_time_is_a_range_until_the_pilot_has_chosen(tmp_path, monkeypatch):
    """From the pilot's own rungs to the most that it can choose, the pilot before all else."""
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate, "slots_here", lambda resources: 2)
    bare, run = opened(tmp_path), RunFolder(tmp_path / "run")
    sweep = baseline_spread.with_choice(bare, baseline_spread.recorded(bare, run), None)
    model, resources = sweep.plan.trials[0].model, sweep.spec.resources
    throughput.record_rate(throughput.key_of(model.name, model.image_size, 0), 100.0)
    throughput.record_rate(throughput.OVERHEAD, 30.0)
    throughput.record_rate(throughput.WITH_PILOT, 40.0)
    work, pilot = open_work(sweep.plan, None), baseline_spread.pilot_work(bare, run, None)
    made = estimate.estimate(work, resources, 5.0, pilot)
    (first,) = baseline_spread.pilot_plan(bare).trials
    assert pilot.trainings == {(first.id, f.id) for f in first.finetunings}
    alone = sum(stage.cost for stage in work_of(first).stages) / 100 + estimate.PER_TRIAL

    def after(of_baseline):
        """Seconds of what the trials lack beside the pilot."""
        costs = [[s.cost for s in one.stages if (one.trial.id, s.name) not in pilot.trainings]
                 for one in work if (one.trial.pretrain is None) in of_baseline]  # fmt: skip
        assert all(costs)
        return [sum(each) / 100 + estimate.PER_TRIAL for each in costs]

    beside = estimate.makespan([alone, *after([False]), *after([True])], 2)
    chain = alone + estimate.makespan(after([True]), 2)
    assert made.seconds == pytest.approx(max(beside, chain) + 35.0)
    waiting = estimate.estimate(work, resources, 5.0, replace(pilot, alone=True))
    assert waiting.seconds == pytest.approx(alone + estimate.makespan(after([True, False]), 2) + 35.0)
    apart = estimate.estimate(work, resources, 5.0, replace(pilot, alone=True, apart=True))
    assert apart.seconds == pytest.approx(waiting.seconds + 10.0)
    low, high = baseline_spread.spread_sentence(bare, Choice(PILOT, False)).split("for every seed: ")[1].split(" to ")
    trained = [sum(s.images for one in each if one.trial.pretrain is None for s in one.stages)
               for each in (work, pilot.most)]  # fmt: skip
    assert [f"{trained[0]:,}", f"{trained[1]:,} images"] == [low, high.partition(" in all")[0]]
    assert made.most > made.seconds
    assert made.text() == f"about {duration_range(made.seconds, made.most)}, from the rate of earlier runs here"
    finish(run, first)
    assert baseline_spread.decide(bare, run).decided
    assert baseline_spread.pilot_work(bare, run, None) is None
    again = estimate.estimate(work, resources)
    assert again.most == again.seconds


@pytest.mark.parametrize("more", [True, False])
def test_the_end_of_a_pilot_is_not_the_end_of_its_trial(tmp_path, more):
    bare, run, out = opened(tmp_path), RunFolder(tmp_path / "run"), io.StringIO()
    (pilot,) = baseline_spread.pilot_plan(bare)
    whole = baseline_spread.with_choice(bare, Choice(PILOT, False), None).plan
    time_left = TimeLeft([work_of(pilot), *(work_of(trial) for trial in whole if trial.id != pilot.id)])
    monitor = Monitor(whole, run, Console(file=out, width=200), 0, "small", metrics=False, time_left=time_left)
    monitor.in_parts = {pilot.id}
    monitor.started(pilot.id)
    finish(run, pilot)
    monitor.ended(pilot.id)
    assert out.getvalue().startswith(f"pilot    {pilot.id}  done")
    assert monitor.counts() == {"running": 0, "done": 0, "failed": 0, "quarantined": 0, "stopped": 0, "waiting": 6}
    rest = [work_of(trial) for trial in whole if trial.pretrain is None and (more or trial.id != pilot.id)]
    monitor.expect_more(rest, () if more else [pilot.id])
    assert monitor.counts()["done"] == (not more)
    assert monitor.work_done().endswith(f", {len(PILOT)} of {monitor.time_left.counts({}, ())[1][1]} fine-tunings")
    if more:
        monitor.started(pilot.id)
        monitor.ended(pilot.id)
        assert out.getvalue().splitlines()[1].startswith(f"[1/6] {pilot.id}  done")
    assert monitor.finished == {pilot.id: "done"}


def test_a_pilot_that_fails_has_ended_its_trial(tmp_path):
    bare, run, out = opened(tmp_path), RunFolder(tmp_path / "run"), io.StringIO()
    (pilot,) = baseline_spread.pilot_plan(bare)
    monitor = Monitor(bare.plan, run, Console(file=out, width=200), 0, "small", metrics=False)
    monitor.in_parts = {pilot.id}
    monitor.started(pilot.id)
    run.trial(pilot.id).fail("a model that cannot be made")
    monitor.ended(pilot.id)
    assert monitor.finished == {pilot.id: "failed"}
    assert out.getvalue().startswith(f"[1/6] {pilot.id}  failed: a model that cannot be made")
