"""The baseline comes first: the order of trials, the verdict on its line, and a sweep that ends where there is none."""

from __future__ import annotations

import threading
from dataclasses import replace

import fake_run
import numpy as np
import pytest

from ray_robust.errors import UserError
from ray_robust.launch.first_trials.baseline_first import BaselineFirst
from ray_robust.plan.plan import Plan
from ray_robust.prepare.baseline_line import BaselineLine, baseline_trials, judge_baseline
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.load import load_spec

SPEC = """
task: {name: camera-traps, train_images: 200, id_val_images: 50, id_test_images: 50, ood_val_images: 50,
       ood_test_images: 50}
pretrain: {sources: {species: 1.0}, num_images: {grid: [500, 1000]}, images_seen: 100000}
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}}
seeds: 3
"""
HOLDS, FAILS = BaselineLine(True, ("a line",)), BaselineLine(False, ("no line",), ("R^2 is low",))


def opened(tmp_path, *overrides):
    file = tmp_path / "small.yaml"
    file.write_text(SPEC)
    return open_sweep(load_spec(file, overrides))


def judged(tmp_path, points, **change):
    """The verdict on points of a simulated run, whose trials stand for those of a planned sweep."""
    run = fake_run.run_folder(tmp_path / "run", points)
    sweep = opened(tmp_path)
    by_group = {"scratch": "scratch", "num_images=500": "num_images=500", "num_images=1000": "num_images=1000"}
    trials, seen = list(sweep.plan), set()
    renamed = []
    for name, group in points[["trial", "group"]].drop_duplicates().itertuples(index=False):
        one = next(t for t in trials if t.group == by_group[group] and t.id not in seen)
        seen.add(one.id)
        renamed.append(replace(one, id=name))
    return judge_baseline(replace(sweep, plan=Plan(tuple(renamed)), **change), run)


def points(**more):
    return fake_run.sweep({"num_images=500": 1.0, "num_images=1000": 5.0}, **more)


def test_the_baseline_s_trials_come_first_and_the_others_in_their_order(tmp_path):
    sweep = opened(tmp_path)
    own = baseline_trials(sweep.plan, sweep.spec)
    assert len(own) == 3
    names = [trial.id for trial in sweep.plan]
    assert names[0] not in own  # the costliest first
    ordered = BaselineFirst(own, lambda: HOLDS, print, stop=False).order(names)
    assert set(ordered[:3]) == own
    assert ordered[3:] == [name for name in names if name not in own]


def test_a_group_of_the_sweep_may_be_the_baseline(tmp_path):
    sweep = opened(tmp_path, "baseline=num_images=500")
    own = baseline_trials(sweep.plan, sweep.spec)
    assert {trial.group for trial in sweep.plan if trial.id in own} == {"num_images=500"}
    assert baseline_trials(sweep.plan, opened(tmp_path, "baseline=none").spec) == frozenset()


def test_the_verdict_is_made_once_after_the_last_baseline_trial():
    shown, calls = [], []

    def judge():
        calls.append(threading.current_thread().name)
        return HOLDS

    first = BaselineFirst(frozenset("ab"), judge, shown.append, stop=True)
    assert first.may_go_on is None
    first.settled("x")
    first.settled("a")
    first.settled("a")
    assert first.verdict is None
    first.settled("b")
    first.conclude()
    assert (shown, len(calls), first.may_go_on) == (["a line"], 1, True)


def test_a_baseline_that_is_half_done_is_judged_after_its_other_half():
    shown = []
    first = BaselineFirst(frozenset("ab"), lambda: HOLDS, shown.append, stop=True, done={"a", "x"})
    assert first.may_go_on is None
    first.settled("b")
    first.wait()
    assert (shown, first.may_go_on) == (["a line"], True)


@pytest.mark.parametrize(("stop", "may_go_on"), [(True, False), (False, True)])
def test_only_stop_if_no_line_ends_a_sweep(stop, may_go_on):
    first = BaselineFirst(frozenset("a"), lambda: FAILS, lambda line: None, stop)
    first.settled("a")
    first.wait()
    assert first.may_go_on is may_go_on


def test_a_verdict_that_cannot_be_made_is_reported_and_stops_nothing():
    shown = []

    def judge():
        raise UserError("runs/x/plan.csv: is damaged")

    first = BaselineFirst(frozenset("a"), judge, shown.append, stop=True)
    first.conclude()
    assert shown == ["baseline  cannot be judged yet: runs/x/plan.csv: is damaged"]
    assert first.may_go_on


def test_a_line_is_described_with_what_the_design_can_find(tmp_path):
    verdict = judged(tmp_path, points())
    line, power = verdict.sentences
    assert verdict.holds
    assert verdict.refusals == ()
    assert line.startswith("baseline  a line: R² 0.9")
    assert "(floor 0.8) over 36 points, slope 0." in line
    assert "it gives ER at ID scores from " in line
    assert "bend" in line
    assert power.startswith("power     in four sweeps of five it would find a group against the baseline from ")
    assert " points between the 3 trials of the baseline. That is for these test groups alone (" in power
    assert power.endswith("; the report goes by the scatter of all groups")


@pytest.mark.slow
def test_too_few_baseline_trials_leave_the_published_spread(tmp_path):
    verdict = judged(tmp_path, points(trials=2))
    assert "Assumed: ER varies by 1.6 points between seeds" in verdict.sentences[1]


def test_the_verdict_is_that_of_the_report(tmp_path):
    """On the baseline's points alone; others change nothing of it, nor does a group that has not run."""
    from analysis.input.run_points import read_run
    from analysis.study import analyse_all

    made = points()
    own = made["group"] == "scratch"
    made.loc[own, "ood"] = np.random.default_rng(1).permutation(made.loc[own, "ood"])
    verdict = judged(tmp_path, made)
    assert not verdict.holds
    table, options = read_run(str(tmp_path / "run"))
    assert verdict.refusals == ("; ".join(analyse_all(table, options)[0].refusals),)
    start = "baseline  no line, so no effective robustness: R² of the baseline line is 0."
    assert verdict.sentences[0].startswith(start)
    assert "no verdict" not in verdict.sentences[0]


def test_failed_trials_of_the_baseline_are_counted(tmp_path):
    made = points()
    lost = made.loc[made["group"] == "scratch", "trial"].iloc[0]
    run = fake_run.run_folder(tmp_path / "run", made, failed={lost: "out of luck"})
    sweep = opened(tmp_path)
    trials = [t for t in sweep.plan if t.group == "scratch"]
    names = made.loc[made["group"] == "scratch", "trial"].unique()
    plan = Plan(tuple(replace(t, id=name) for t, name in zip(trials, names, strict=True)))
    verdict = judge_baseline(replace(sweep, plan=plan), run)
    assert verdict.holds
    assert verdict.sentences[0].startswith("baseline  1 of its 3 trials have no scores; a line: ")


def test_no_point_of_the_baseline_is_no_line(tmp_path):
    made = points()
    run = fake_run.run_folder(tmp_path / "run", made.loc[made["group"] != "scratch"])
    verdict = judge_baseline(opened(tmp_path), run)
    assert not verdict.holds
    assert "the baseline 'scratch' has 0 points, too few for a line" in verdict.sentences[0]


def test_one_task_with_a_line_is_enough(tmp_path):
    made = points()
    other = made.assign(task="other", finetune=made["finetune"] + "o")
    own = other["group"] == "scratch"
    other.loc[own, "ood"] = np.random.default_rng(1).permutation(other.loc[own, "ood"])
    import pandas as pd

    verdict = judged(tmp_path, pd.concat([made, other], ignore_index=True))
    assert verdict.holds
    assert len(verdict.refusals) == 1
    assert [s[:24] for s in verdict.sentences] == ["baseline  camera-traps: ", "power     camera-traps: ",
                                                   "baseline  other: no line"]  # fmt: skip


def test_no_baseline_cannot_be_waited_for(tmp_path):
    with pytest.raises(UserError, match=r"baseline.stop_if_no_line: name none leaves no line to wait for"):
        opened(tmp_path, "baseline={name: none, stop_if_no_line: true}")


def finish(run, trial, straight):
    """What a baseline trial leaves, its points on one line or anywhere."""
    random = np.random.default_rng(trial.seed)
    rows = [
        {"finetune": f.id, "task": f.task_label, "epoch": 1, "id_val": id_, "ood_val": id_ / 2, "id": id_,
         "ood": id_ / 2 if straight else random.uniform(0.1, 0.4), "metric": "macro_f1", "finetune_lr": f.settings.lr}
        for f, id_ in zip(trial.finetunings, random.uniform(0.2, 0.8, len(trial.finetunings)), strict=True)
    ]  # fmt: skip
    run.trial(trial.id).finish(rows, {})


class ClusterAsked(Exception):
    """The command would have started a cluster."""


@pytest.fixture
def done_baseline(tmp_path, monkeypatch):
    """Runs the command in a folder whose baseline is done; returns its exit code and what it printed."""

    def run(straight, *more, missing=0):
        from ray_robust import sweep
        from ray_robust.launch import run_sweep
        from ray_robust.run.run_folder import RunFolder

        folder = RunFolder(tmp_path / "run")
        for trial in [trial for trial in opened(tmp_path).plan if trial.group == "scratch"][missing:]:
            finish(folder, trial, straight)

        def ask(*args):
            raise ClusterAsked

        monkeypatch.setattr(run_sweep, "head_start", ask)
        monkeypatch.setattr(run_sweep, "report", lambda run, out: True)
        return sweep.main([str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run"), *more])

    return run


STOP = ("--set", "baseline={name: scratch, stop_if_no_line: true}")


def test_a_sweep_whose_baseline_makes_no_line_ends_at_once_again_and_again(done_baseline, capsys, tmp_path):
    for _ in range(2):
        assert done_baseline(False, *STOP) == 1
        printed = capsys.readouterr().out
        assert printed.count("baseline  no line, so no effective robustness: R² of the baseline line is 0.") == 1
        assert "stopped  after the baseline, which makes no line (R² of the baseline line is 0." in printed
        assert "): 6 trials were not begun. The report says what to change, --set baseline.spread" in printed
        assert "3 trials done, 0 failed, 6 not run" in printed
    assert (tmp_path / "run" / "results.csv").read_text().count("scratch") >= 6


def test_a_search_whose_baseline_makes_no_line_ends_with_1_too(done_baseline, capsys):
    """Every trial that it has is done, and no mixture was drawn."""
    search = ("--set", "pretrain.num_images={loguniform: [100, 1000]}", "--set", "search={method: random, trials: 3}")
    assert done_baseline(False, *STOP, *search) == 1
    assert "): no mixture was drawn. The report says what to change" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "possible"),
    [
        ((), True),
        (("baseline.finetune={epochs: 3, num_images: all}",), True),
        (("baseline.spread=auto",), False),
        (("baseline.finetune={num_images: {grid: [100, all]}}",), False),
        (("finetune.per_class=2",), False),
        (("baseline=num_images=500",), False),
    ],
)
def test_spread_is_advised_only_where_the_spec_would_accept_it(tmp_path, overrides, possible):
    from ray_robust.prepare.baseline_spread import can_be_spread

    assert can_be_spread(opened(tmp_path, *overrides).spec) is possible
    if "baseline.spread=auto" not in overrides:
        try:
            opened(tmp_path, *overrides, "baseline.spread=auto")
        except UserError:
            assert not possible
        else:
            assert possible


def test_a_command_that_goes_on_within_the_baseline_waits_for_what_is_missing_of_it(
    done_baseline, tmp_path, monkeypatch
):
    from ray_robust.launch import run_sweep
    from ray_robust.run.run_folder import RunFolder

    made = []
    monkeypatch.setattr(run_sweep, "BaselineFirst", lambda *args: made.append(BaselineFirst(*args)) or made[0])
    with pytest.raises(ClusterAsked):
        done_baseline(True, *STOP, missing=1)
    own = [trial for trial in opened(tmp_path).plan if trial.group == "scratch"]
    assert made[0].may_go_on is None
    finish(RunFolder(tmp_path / "run"), own[0], True)
    made[0].settled(own[0].id)
    made[0].wait()
    assert made[0].verdict is not None


def test_the_sweep_goes_on_where_there_is_a_line_or_the_key_is_taken_back(done_baseline, capsys):
    with pytest.raises(ClusterAsked):
        done_baseline(True, *STOP)
    assert "baseline  a line: R² 0.9" in capsys.readouterr().out
    with pytest.raises(ClusterAsked):
        done_baseline(False)
    printed = capsys.readouterr().out
    assert "baseline  no line" in printed
    assert "stopped" not in printed
