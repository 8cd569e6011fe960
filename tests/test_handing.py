"""How a search's trials reach Tune: how many are out at once, what travels, and how a mistake ends it."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

from ray.tune.search import Searcher

from ray_robust.errors import UserError
from ray_robust.launch.search.asha import Halving
from ray_robust.launch.search.objective import Objective
from ray_robust.launch.search.tune_searcher import Handing, Sent
from ray_robust.spec.search_section import Stop


class Given:
    """A search of so many trials; `mistaken` is raised once they are out."""

    def __init__(self, count: int, mistaken: UserError | None = None) -> None:
        self.left = [SimpleNamespace(id=f"t{i}", pretrain=None) for i in range(count)]
        self.ends: list[str] = []
        self.mistaken, self.halving, self.over = mistaken, None, ""

    def next(self):
        if self.left:
            return self.left.pop(0)
        if self.mistaken:
            raise self.mistaken
        self.over = "all were drawn"
        return None

    def ended(self, name: str) -> None:
        self.ends.append(name)


def test_one_more_trial_is_out_than_runs_and_the_end_waits_for_all():
    begun: list = []
    search = Given(4)
    handing = Handing(search, 2, begun.append)
    given = [handing.suggest(f"tune{i}") for i in range(4)]
    assert [one and str(one["trial"]) for one in given] == ["t0", "t1", "t2", None]
    handing.on_trial_complete("tune1")
    assert search.ends == ["t1"]
    assert str(handing.suggest("tune4")["trial"]) == "t3"
    assert [trial.id for trial in begun] == ["t0", "t1", "t2", "t3"]
    handing.on_trial_complete("tune0", error=True)
    assert handing.suggest("tune5") is None  # nothing more comes, but two are out
    for name in ("tune2", "tune4"):
        handing.on_trial_complete(name)
    assert handing.suggest("tune6") == Searcher.FINISHED


def test_a_mistake_ends_the_search_when_what_runs_has_ended():
    mistake = UserError("cannot steer")
    handing = Handing(Given(1, mistake), 2, lambda trial: None)
    handing.suggest("a")
    assert handing.suggest("b") == Searcher.FINISHED
    assert handing.mistake is mistake


def test_a_trial_travels_as_a_text_that_knows_it():
    halving = Halving(Stop(), Objective("ood_val", {}), "study")
    sent = Sent(SimpleNamespace(id="a-s1-0f", pretrain=1), halving)
    assert sent == "a-s1-0f"
    assert copy.deepcopy({"trial": sent})["trial"] is sent
    back = pickle.loads(pickle.dumps(sent))
    assert (back, back.trial.pretrain, back.halving) == ("a-s1-0f", 1, halving)
