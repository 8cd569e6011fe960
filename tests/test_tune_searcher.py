"""How trials reach Tune: how many at once, how each travels, and how a mistake ends it."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from types import SimpleNamespace

from ray import cloudpickle
from ray.tune.search import Searcher
from test_search import make

from ray_robust.errors import UserError
from ray_robust.launch.search.asha import Asha
from ray_robust.launch.search.objective import Objective
from ray_robust.launch.tune_searcher import TrialRef, TuneSearcher
from ray_robust.spec.search_section import Stop


class Given:
    """A search of so many trials; `mistaken` is raised once they are out."""

    def __init__(self, count: int, mistaken: Exception | None = None) -> None:
        self.left = [SimpleNamespace(id=f"t{i}", pretrain=None) for i in range(count)]
        self.ends: list[str] = []
        self.mistaken, self.asha, self.count = mistaken, None, count

    def next(self):
        if self.left:
            return self.left.pop(0)
        if self.mistaken:
            raise self.mistaken
        return None

    @property
    def complete(self) -> bool:
        return len(self.ends) == self.count

    def ended(self, name: str) -> None:
        self.ends.append(name)


def test_one_more_trial_is_out_than_runs_and_the_end_waits_for_all():
    begun: list = []
    search = Given(4)
    searcher = TuneSearcher(search, 2, begun.append)
    given = [searcher.suggest(f"tune{i}") for i in range(4)]
    assert [one and str(one["trial"]) for one in given] == ["t0", "t1", "t2", None]
    searcher.on_trial_complete("tune1")
    assert search.ends == []  # not before its folder says how
    assert str(searcher.suggest("tune4")["trial"]) == "t3"
    assert search.ends == ["t1"]
    assert [trial.id for trial in begun] == ["t0", "t1", "t2", "t3"]
    searcher.on_trial_complete("tune0", error=True)
    assert searcher.suggest("tune5") is None  # nothing more comes, but two are out
    for name in ("tune2", "tune4"):
        searcher.on_trial_complete(name)
    assert searcher.suggest("tune6") == Searcher.FINISHED


def test_a_mistake_ends_the_search_when_what_runs_has_ended():
    mistake = UserError("cannot steer")
    searcher = TuneSearcher(Given(1, mistake), 2, lambda trial: None)
    searcher.suggest("a")
    assert searcher.suggest("b") == Searcher.FINISHED
    assert searcher.error is mistake


def test_a_fault_of_the_program_is_raised_too_and_not_left_in_tune_s_log():
    searcher = TuneSearcher(Given(1, ZeroDivisionError()), 2, lambda trial: None)
    searcher.suggest("a")
    assert searcher.suggest("b") == Searcher.FINISHED
    assert isinstance(searcher.error, ZeroDivisionError)
    assert searcher.suggest("c") == Searcher.FINISHED


def test_a_trial_that_tune_runs_again_ends_once():
    given = Given(2)
    searcher = TuneSearcher(given, 2, lambda trial: None)
    searcher.suggest("a")
    for _ in range(2):
        searcher.on_trial_complete("a")
    searcher.pass_on_ends()
    assert given.ends == ["t0"]
    assert searcher.error is None


def test_where_each_trial_has_workers_of_its_own_none_waits_for_one():
    searcher = TuneSearcher(Given(3), 2, lambda trial: None, ahead=0)
    assert [searcher.suggest(name) is None for name in "abc"] == [False, False, True]


def test_tune_can_write_a_searcher_whatever_its_search_holds(tmp_path):
    """Tune pickles it when a run begins; a search may hold the console, locks and threads."""
    search = Given(1)
    with open(tmp_path / "log.txt", "w") as log:
        search.may_go_on = lambda: log.write("") == 0
        assert cloudpickle.dumps(TuneSearcher(search, 2, lambda trial: print(trial, file=log)))


def test_a_trial_travels_as_a_text_that_knows_it():
    asha = Asha(Stop(), Objective("ood_val", {}), "study")
    ref = TrialRef(SimpleNamespace(id="a-s1-0f", pretrain=1), asha)
    assert ref == "a-s1-0f"
    assert copy.deepcopy({"trial": ref})["trial"] is ref
    back = pickle.loads(pickle.dumps(ref))
    assert (back, back.trial.pretrain, back.asha) == ("a-s1-0f", 1, asha)


def test_a_trial_whose_worker_always_dies_is_not_tried_for_ever(tmp_path):
    """Tune tells its searcher first that a trial has ended, and then the callbacks, which write down why."""
    search = make(tmp_path, "search.objective=ood_val")
    given: list = []
    searcher = TuneSearcher(search, 1, given.append, 0)
    for number in range(50):
        if isinstance(searcher.suggest(str(number)), dict):
            searcher.on_trial_complete(str(number), error=True)
            search.run.trial(given[-1].id).fail("its worker died", quarantined=True)
    assert searcher.error is None
    assert max(Counter(trial.id for trial in given).values()) == 1
