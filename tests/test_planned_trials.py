"""The trials of a plan one after the other: the baseline and its pilot first, what waits, and what is tried again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ray_robust.errors import Outage
from ray_robust.launch import tuner
from ray_robust.launch.callbacks import TrialCallbacks
from ray_robust.launch.first_trials.baseline_first import NO_BASELINE, BaselineFirst
from ray_robust.launch.first_trials.planned_trials import TRIES, Chosen, PilotTrials, PlannedTrials
from ray_robust.plan.plan import Plan
from ray_robust.prepare.baseline_line import BaselineLine

HOLDS, FAILS = BaselineLine(True, ()), BaselineLine(False, ("no line",), ("R^2 is low",))


class Ends:
    """What `Recovery` knows: trials are settled unless they are in `open`, and done unless they are in `lost` too."""

    def __init__(self):
        self.open, self.lost, self.failures, self.trials = set(), set(), {}, {}

    def settled(self, name):
        return name not in self.open

    def done(self, name):
        return name not in self.open | self.lost

    def counted(self, name):
        return sum(failure != "preempted" for failure in self.failures.get(name, ()))


def plan(*names):
    """Trials by their ids; those that begin with b or c are from scratch."""
    return Plan(tuple(SimpleNamespace(id=name, pretrain=None if name[0] in "bc" else 1) for name in names))


def first(*names, verdict=HOLDS, stop=False):
    return BaselineFirst(frozenset(names), lambda: verdict, lambda line: None, stop)


def given(trials, count=100):
    """The ids of the next trials, up to `count`."""
    return [one.id for _ in range(count) if (one := trials.next()) is not None]


def over(trials, *names):
    """What the driver does when trials end: Tune tells it first that they have, and then how."""
    for name in names:
        trials.ended(name)
        trials.settled(name)


def test_the_baseline_comes_first_and_then_the_rest_in_its_order():
    trials = PlannedTrials(plan("x", "b1", "y", "b2"), Ends(), first("b1", "b2"))
    assert given(trials) == ["b1", "b2", "x", "y"]
    assert trials.complete  # while they run: workers that get free can end
    assert trials.not_begun == set()


def test_what_failed_and_is_not_over_comes_again_and_not_for_ever():
    ends = Ends()
    trials = PlannedTrials(plan("x", "y"), ends)
    assert given(trials) == ["x", "y"]
    ends.open, ends.failures = {"x", "y"}, {"x": ["preempted"]}
    for time in range(1, TRIES):
        over(trials, "x")
        assert not trials.complete
        assert given(trials) == ["x"], time
    over(trials, "x", "y")  # y has no failure: its folder was removed
    assert trials.complete
    assert given(trials) == []


def test_where_the_baseline_may_end_the_sweep_nothing_else_begins_before_the_verdict():
    baseline = first("b1", "b2", stop=True)
    trials = PlannedTrials(plan("x", "b1", "b2", "y"), Ends(), baseline)
    assert given(trials) == ["b1", "b2"]
    assert not trials.complete
    over(trials, "b1")
    assert given(trials) == []
    over(trials, "b2")
    assert given(trials) == ["x", "y"]
    assert baseline.verdict is HOLDS


def test_where_it_makes_no_line_nothing_else_begins_at_all():
    trials = PlannedTrials(plan("x", "b1", "y"), Ends(), first("b1", verdict=FAILS, stop=True))
    assert given(trials) == ["b1"]
    over(trials, "b1")
    assert given(trials) == []
    assert trials.complete
    assert trials.not_begun == {"x", "y"}


def test_a_baseline_trial_that_left_nothing_does_not_hold_the_verdict():
    ends = Ends()
    trials = PlannedTrials(plan("x", "b1"), ends, first("b1", stop=True))
    assert given(trials) == ["b1"]
    ends.open = {"b1"}
    trials.ended("b1")  # and no word that it is settled
    assert given(trials) == ["x"]


def piloted(names, chosen, *baseline, ends=None, pilot=("b1",), done=(), **how):
    """Trials whose pilot chooses these, of which some are done; with how often it was asked."""
    asked = []

    def choose():
        asked.append(1)
        return None if chosen is None else Chosen(chosen, done)

    line = first(*baseline, **how) if baseline else NO_BASELINE
    return PlannedTrials(plan(*names), ends or Ends(), line, PilotTrials(plan(*pilot), choose)), asked


def test_the_baseline_waits_for_its_pilot_and_the_others_run_beside_it():
    trials, asked = piloted(["x", "b1", "b2", "y", "z"], plan("b1", "b2"), "b1", "b2")
    assert given(trials, 2) == ["b1", "x"]
    over(trials, "x")
    assert given(trials, 1) == ["y"]
    assert not trials.complete
    over(trials, "b1")
    assert trials.baseline.verdict is None
    assert given(trials) == ["b1", "b2", "z"]
    assert asked == [1]
    over(trials, "b1")
    trials.baseline.wait()
    assert trials.baseline.verdict is None  # the first b1 was the pilot
    over(trials, "b2")
    trials.baseline.wait()
    assert trials.baseline.verdict is HOLDS
    assert trials.complete


def test_nothing_runs_beside_the_pilot_where_the_baseline_may_end_the_sweep():
    trials, _ = piloted(["x", "b1", "b2"], plan("b1", "b2"), "b1", "b2", stop=True)
    assert given(trials) == ["b1"]
    over(trials, "b1")
    assert given(trials) == ["b1", "b2"]
    over(trials, "b1", "b2")
    assert given(trials) == ["x"]


def test_a_plan_of_the_baseline_alone_has_a_pilot_too():
    trials, _ = piloted(["b1", "b2"], plan("b2"))
    assert given(trials) == ["b1"]
    assert not trials.complete
    over(trials, "b1")
    assert given(trials) == ["b2"]
    assert trials.complete


@pytest.mark.parametrize("stop", [True, False])
def test_where_the_pilot_fails_nothing_more_begins_and_nothing_is_said_of_a_line(stop):
    ends = Ends()
    trials, asked = piloted(["x", "b1", "b2", "y"], plan("b1"), "b1", "b2", ends=ends, stop=stop, verdict=FAILS)
    assert given(trials, 2) == (["b1"] if stop else ["b1", "x"])
    ends.lost = {"b1"}
    over(trials, "b1")
    assert given(trials) == []
    assert trials.complete
    assert asked == []
    assert trials.not_begun == ({"x", "y", "b2"} if stop else {"y", "b2"})  # b1 has a reason of its own
    assert trials.baseline.verdict is None


def test_the_first_pilot_that_fails_ends_it_while_others_run():
    ends = Ends()
    trials, asked = piloted(["x", "b1", "c1", "y"], plan("b1"), "b1", "c1", ends=ends, pilot=("b1", "b2"))
    assert given(trials, 3) == ["b1", "b2", "x"]
    ends.lost, ends.open, ends.failures = {"b1"}, {"x"}, {"x": ["preempted"], "b1": ["it broke"]}
    over(trials, "x", "b1")
    assert given(trials) == []
    assert trials.complete
    over(trials, "b2")
    assert (given(trials), asked, trials.not_begun) == ([], [], {"c1", "x", "y"})  # x may go on, and has not failed


@pytest.mark.parametrize("failures", [["preempted"], ["preempted", "it broke"]])
@pytest.mark.parametrize("order", [("x", "b1"), ("b1", "x")])
def test_a_trial_that_was_to_be_tried_again_has_not_failed_with_the_pilot(order, failures):
    ends = Ends()
    trials, _ = piloted(["x", "b1", "y"], plan("b1"), "b1", ends=ends)
    assert given(trials, 2) == ["b1", "x"]
    ends.lost, ends.open, ends.failures = {"b1"}, {"x"}, {"x": failures}
    over(trials, *order)
    assert (given(trials), trials.complete, trials.not_begun) == ([], True, {"x", "y"})


def test_a_pilot_that_does_not_end_is_not_left_without_a_reason():
    ends = Ends()
    trials, _ = piloted(["x", "b1", "b2"], plan("b1"), "b1", "b2", ends=ends)
    ends.open, ends.failures = {"b1"}, {"b1": ["preempted"]}
    for _ in range(TRIES):
        assert given(trials, 1) == ["b1"]
        over(trials, "b1")
    assert (given(trials), trials.complete, trials.not_begun) == ([], True, {"b2", "x"})  # b1 is called failed


def test_scores_that_cannot_be_read_are_no_choice():
    trials, asked = piloted(["x", "b1", "y"], None, "b1")
    assert given(trials, 2) == ["b1", "x"]
    over(trials, "b1")
    assert given(trials) == []
    assert (trials.complete, asked, trials.not_begun) == (True, [1], {"y"})


def test_a_pilot_that_was_preempted_is_tried_again_before_all_else():
    ends = Ends()
    trials, asked = piloted(["x", "b1", "y"], plan("b1"), ends=ends)
    assert given(trials, 2) == ["b1", "x"]
    ends.open, ends.failures = {"b1"}, {"b1": ["preempted"]}
    over(trials, "b1")
    assert given(trials, 1) == ["b1"]
    ends.open = set()
    assert asked == []
    over(trials, "b1")
    assert given(trials) == ["b1", "y"]
    assert asked == [1]


def test_a_choice_that_adds_nothing_leaves_the_rest_and_says_what_is_wanted_of_all():
    ends, chosen = Ends(), plan("b1", "b2")
    trials, _ = piloted(["x", "b1", "b2"], chosen, ends=ends, done=["b1", "b2"])
    assert given(trials) == ["b1", "x"]
    over(trials, "b1")
    assert trials.complete
    assert given(trials) == []
    assert ends.trials == {trial.id: trial for trial in chosen}


def test_storage_that_fails_where_a_trial_begins_or_ends_ends_the_run_and_not_the_trial():
    """Tune takes an error of a callback for the trial's, and would run that again beside what follows it."""

    class Away:
        def __getattr__(self, name):
            raise Outage("the storage cannot be reached")

    for event in ("start", "complete", "recover", "error"):
        callbacks = TrialCallbacks(Away(), Away(), Away(), None, None)
        callbacks.on_step_begin(0, [])
        getattr(callbacks, f"on_trial_{event}")(0, [], SimpleNamespace(config={"trial": "a"}))
        with callbacks._keep_error():
            raise ValueError("what comes of it")
        with pytest.raises(Outage, match="cannot be reached"):
            callbacks.on_step_begin(1, [])


def test_the_folder_of_a_trial_is_made_again_where_it_is_gone_and_its_path_asked_for_once(tmp_path):
    """Tune, which makes up the path anew at every question, cannot write down a failure without the folder."""

    class OfTune:
        trial_id, over, asked = "a", False, 0

        def is_finished(self):
            return self.over

        @property
        def local_path(self):
            self.asked += 1
            return None if self.asked == 1 else str(tmp_path / "a")

    callbacks, trial = TrialCallbacks(None, None, None, None, None), OfTune()
    callbacks.on_step_begin(0, [trial])  # it has no folder yet
    for step in range(1, 4):
        callbacks.on_step_begin(step, [trial])
        (tmp_path / "a").rmdir()
    assert trial.asked == 2
    trial.over = True
    callbacks.on_step_begin(4, [trial])
    assert not (tmp_path / "a").exists()


def test_an_error_at_the_end_of_the_last_trial_is_raised_though_no_step_follows(monkeypatch):
    def end_badly(run, searcher):
        with run.callbacks._keep_error():
            raise Outage("the storage cannot be reached")

    monkeypatch.setattr(tuner, "slots_now", lambda resources: 1)
    monkeypatch.setattr(tuner._TuneRun, "_tune", end_badly)
    callbacks = TrialCallbacks(None, None, None, None, None)
    with pytest.raises(Outage, match="cannot be reached"):
        tuner._TuneRun(None, SimpleNamespace(together=False), None, callbacks, False).fit(PlannedTrials(plan(), Ends()))
