"""A search without Ray: what it runs next, what it learns, how it goes on after a crash, and when it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_robust.errors import UserError
from ray_robust.launch.search.objective import Objective, lines_of
from ray_robust.launch.search.sampler import sampler_of
from ray_robust.launch.search.search import Search
from ray_robust.plan.plan import Configuration, Plan, PoolFacts, Trial, make_plan
from ray_robust.prepare.candidates import expected_plan
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import Spec, load_spec

SPEC = """
task: {name: camera-traps}
pretrain:
  sources: {simplex: [species, fractals]}
  num_images: {loguniform: [1000, 16k]}
  num_classes: {loguniform: [10, 200]}
  images_seen: 6400
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
search: {method: optuna, trials: 12, startup: 4, where: num_images >= 20 * num_classes}
"""


class Pools(dict):
    """Facts of any pool: what it is called means it."""

    def __missing__(self, key: str) -> PoolFacts:
        return PoolFacts(key, 50_000, {"train": 100, "id_val": 10, "id_test": 20, "ood_val": 30, "ood_test": 40})


class Drawn:
    """Candidates without data."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.asked = spec, 0

    def draw(self, number):
        return self.spec.space.draw(number)

    def configure(self, values):
        self.asked += 1
        plan = make_plan(replace(self.spec.at(values), baseline_finetunes=()), Pools(), Pools())
        return Configuration(dict(values), plan.trials)


def make(folder: Path, *overrides: str, clock=None) -> Search:
    """A search in `folder`, from its spec."""
    file = folder / "look.yaml"
    file.write_text(SPEC)
    spec = load_spec(file, overrides)
    baseline = make_plan(replace(spec, pretrains=()), Pools(), Pools())
    run = RunFolder(folder / "run")
    more = {} if clock is None else {"clock": clock}
    return Search(spec, Drawn(spec), baseline, run, sampler_of(spec, run), **more)


def finish(search: Search, trial: Trial) -> None:
    """What a trial leaves: the baseline on a line, a mixture above it by its share of species and its total."""
    rows = []
    for i, finetuning in enumerate(trial.finetunings):
        for epoch in (1, 2):
            id_val = 0.3 + 0.1 * i + 0.05 * epoch
            lift = 0.0
            if trial.pretrain is not None:
                sources = trial.pretrain.sources
                whole = sum(section.weight for section in sources.values())
                share = sources["species"].weight / whole if "species" in sources else 0.0
                lift = 0.2 * share + 1e-6 * trial.pretrain.num_images
            rows.append({"finetune": finetuning.id, "task": "camera-traps", "epoch": epoch, "id_val": id_val,
                         "ood_val": id_val - 0.1 + lift, "id": 0.9, "ood": 0.9, "seconds_pretrain": 360.0,
                         "seconds_finetune": 18.0, "upstream_accuracy": 0.5, "wise_alpha": None})  # fmt: skip
    search.run.trial(trial.id).finish(rows, {})


def drain(search: Search, most: int = 10_000) -> list[Trial]:
    """Run a search one trial at a time."""
    found = []
    while len(found) < most and (trial := search.next()) is not None:
        finish(search, trial)
        search.ended(trial.id)
        found.append(trial)
    return found


def mixtures(trials: list[Trial]) -> list[str]:
    return [trial.key for trial in trials if trial.pretrain is not None]


def test_the_baseline_comes_first_and_no_configuration_twice(tmp_path):
    search = make(tmp_path)
    found = drain(search)
    assert found[0].pretrain is None
    assert len(mixtures(found)) == len(set(mixtures(found))) == 12
    assert search.over == "all 12 configurations were drawn"
    assert all(trial.pretrain.num_images >= 20 * trial.pretrain.num_classes for trial in found[1:])
    assert search.next() is None


def test_a_study_keeps_its_name(tmp_path):
    """It names journals and decisions on disk: under another one a search would forget what it learned."""
    assert make(tmp_path)._study_name() == "98774be19d"
    for other in ("search.seed=1", "task.shift=0.5", "pretrain.images_seen=12800", "finetune.epochs=4", "seeds=2",
                  "model.name=resnet18", "search.stop=asha", "analysis.scale=linear"):  # fmt: skip
        assert make(tmp_path, other)._study_name() != "98774be19d", other
    stopping = [
        make(tmp_path, "search.stop=asha", f"search.stop={{keep: {keep}}}")._study_name() for keep in (0.3, 0.5)
    ]
    assert len(set(stopping)) == 2
    dimensions = make(tmp_path).spec.space.dimensions
    assert [set(one.meaning()) - set(vars(one)) for one in dimensions] == [{"way"}] * len(dimensions)


def test_the_first_configurations_are_the_prior_s_first_draws(tmp_path):
    search = make(tmp_path)
    drain(search)
    space = search.spec.space
    allowed = (space.draw(number) for number in range(100))
    wanted = [v for v in allowed if v["pretrain.num_images"] >= 20 * v["pretrain.num_classes"]][:4]
    assert [outcome.configuration.values for outcome in search.outcomes[:4]] == wanted


@pytest.mark.slow
def test_what_is_learned_beats_the_prior(tmp_path):
    search = make(tmp_path, "search.trials=40")
    drain(search)
    values = [outcome.value for outcome in search.outcomes]
    assert max(values[4:]) > max(values[:4])
    assert sum(values[-10:]) / 10 > sum(values[:4]) / 4 + 2
    best = search.ranked()[0].configuration.values
    assert best["pretrain.sources"]["species"] > 0.85


@pytest.mark.parametrize("method", ["optuna", "random"])
def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path, method):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    asked = [f"search.method={method}"] if method == "optuna" else [
        "search={method: random, trials: 12, where: num_images >= 20 * num_classes}"]  # fmt: skip
    whole = mixtures(drain(make(tmp_path / "whole", *asked)))
    first = make(tmp_path / "cut", *asked)
    cut = mixtures(drain(first, 7))
    begun = first.next()  # killed with this one running
    second = make(tmp_path / "cut", *asked)
    cut += mixtures(drain(second))
    assert begun.key in cut
    assert cut == whole
    assert make(tmp_path / "cut", *asked).complete


def test_a_journal_that_was_cut_short_is_read_up_to_there(tmp_path):
    search = make(tmp_path)
    drain(search, 6)
    file = tmp_path / "run" / "search.jsonl"
    file.write_bytes(file.read_bytes()[:-25])
    found = mixtures(drain(make(tmp_path)))
    known = {trial.key for trial in search.trials.values()}
    assert not known & set(found)


def test_another_space_begins_with_what_was_found_before(tmp_path):
    drain(make(tmp_path))
    wider = make(tmp_path, "pretrain.num_images={loguniform: [1000, 30k]}")
    found = drain(wider)
    assert len(wider.outcomes) == 12
    assert len(found) == 0  # all twelve were there already
    assert make(tmp_path, "pretrain.num_images={loguniform: [1000, 30k]}", "search.trials=15").next() is not None


def test_more_trials_go_on_from_those_that_are_there(tmp_path):
    drain(make(tmp_path))
    assert len(drain(make(tmp_path, "search.trials=15"))) == 3


def test_seeds_of_a_configuration_are_pooled(tmp_path):
    search = make(tmp_path, "seeds=3", "search.trials=5")
    found = drain(search)
    assert len(mixtures(found)) == 15
    assert len(search.outcomes) == 5
    assert all(len(outcome.configuration.trials) == 3 for outcome in search.outcomes)


def test_a_trial_that_ended_without_a_word_comes_again(tmp_path):
    search = make(tmp_path)
    trial = search.next()
    search.ended(trial.id)
    assert search.next() == trial


def test_nothing_begins_beyond_the_budget_in_images(tmp_path):
    each = 6400 + 2 * 2 * 100
    search = make(tmp_path, f"search.budget={{images: {400 + 3 * each + 100}}}")
    found = drain(search)
    assert len(mixtures(found)) == 3
    assert search.over.startswith("the budget of 20,900 images is spent")
    assert make(tmp_path, f"search.budget={{images: {400 + 3 * each + 100}}}").complete


def test_a_budget_in_device_hours_counts_what_trials_took(tmp_path):
    search = make(tmp_path, "search.budget={device_hours: 0.3}", "resources.workers=2")
    found = drain(search)
    # two workers for 360 s and one for 36 s: 0.21 hours a mixture; the baseline's rows say as much
    assert len(mixtures(found)) == 1
    assert "device-hours is spent" in search.over


@pytest.mark.parametrize(
    ("resources", "devices"), [("workers=1", 396), ("workers=2", 756), ("gpus_per_worker=0.25", 99)]
)
def test_device_hours_are_those_of_gpus_where_workers_have_some(tmp_path, resources, devices):
    search = make(tmp_path, f"resources.{resources}", "search.trials=1")
    drain(search)
    assert search.spent()[1] == pytest.approx(2 * devices / 3600)


def test_fine_tunings_may_be_drawn_and_a_pre_training_is_counted_once(tmp_path):
    only = ["pretrain={sources: {species: 1}, num_images: 1000, images_seen: 6400}",
            "finetune={epochs: 2, lr: {loguniform: [1e-4, 1e-2]}, evaluate_every: 1}", "baseline.finetune={lr: 1e-3}",
            "search={method: random, trials: 12, objective: ood_val}"]  # fmt: skip
    search = make(tmp_path, *only)
    baseline = search.next()
    finish(search, baseline)
    search.ended(baseline.id)
    first = search.next()
    assert search.next() is None  # the second shares its pre-training, and waits for it
    finish(search, first)
    search.ended(first.id)
    drain(search)
    assert len({outcome.configuration.values["finetune.lr"] for outcome in search.outcomes}) == 12
    assert [outcome.state for outcome in search.outcomes] == ["done"] * 12
    (trial,) = {trial.id: trial for trial in search.plan if trial.pretrain is not None}.values()
    assert len(trial.finetunings) == 12
    assert search.spent()[0] == 200 + 6400 + 12 * 200
    again = make(tmp_path, *only)
    assert again.complete
    assert len(again.outcomes) == 12


def test_a_limit_holds_where_configurations_have_several_seeds(tmp_path):
    search = make(tmp_path, "seeds=3")
    search.limit = 8
    assert len(drain(search)) == 6  # the baseline's three, and one configuration's: a second has no room
    assert search.over == "--limit 8"


def test_a_baseline_without_a_line_is_said(tmp_path):
    search = make(tmp_path, "search.startup=1", "analysis.min_r2=0.99")
    trial = search.next()
    rows = [{"finetune": f.id, "task": "camera-traps", "epoch": e, "id_val": 0.2 + 0.1 * i + 0.05 * e,
             "ood_val": (0.1, 0.5, 0.2, 0.3)[2 * i + e], "wise_alpha": None}
            for i, f in enumerate(trial.finetunings) for e in (0, 1)]  # fmt: skip
    search.run.trial(trial.id).finish(rows, {})
    with pytest.raises(UserError, match=r"search.objective: effective_robustness cannot steer: .* explains R² 0\.\d\d"):
        search.ended(trial.id)


def test_rows_without_a_score_have_no_value():
    objective = Objective("effective_robustness", lines_of(
        [{"task": "t", "id_val": x, "ood_val": x / 2} for x in (0.2, 0.3, 0.4, 0.5)], "linear", 0.8))  # fmt: skip
    rows = [{"task": "t", "id_val": 0.3, "ood_val": None}, {"task": "t", "id_val": None, "ood_val": 0.2}]
    assert objective.value([rows]) is None


def test_er_is_that_of_the_validation_splits_within_the_baseline_s_range():
    base = [{"task": "t", "id_val": x, "ood_val": x / 2} for x in (0.2, 0.3, 0.4, 0.5)]
    lines = lines_of(base, "linear", 0.8)
    objective = Objective("effective_robustness", lines)
    rows = [{"task": "t", "id_val": 0.3, "ood_val": 0.25, "ood": 0.9}, {"task": "t", "id_val": 0.4, "ood_val": 0.26},
            {"task": "t", "id_val": 0.9, "ood_val": 0.9}]  # fmt: skip
    assert objective.value([rows]) == pytest.approx((10 + 6) / 2)
    assert objective.value([rows[2:]]) is None
    assert objective.probe("t", 0.1, 0.1) == pytest.approx(5)
    assert Objective("ood_val", {}).value([rows[:2]]) == pytest.approx(0.255)


def test_a_configuration_is_stopped_as_a_whole(tmp_path):
    stop = ["seeds=2", "search.trials=3", "search.stop=asha"]
    search = make(tmp_path, *stop)
    baseline = [search.next(), search.next()]
    assert search.next() is None  # the probes need the baseline's line
    assert search.asha is None
    for trial in baseline:
        finish(search, trial)
        search.ended(trial.id)
    weak = search.next()
    assert search.asha.objective.lines
    search.run.trial(weak.id).stop("behind", {"milestone": 1, "value": -3.0, "images_seen": 700, "seconds": 36.0})
    search.ended(weak.id)
    others = drain(search)
    assert len(others) == 4
    assert weak.group not in {trial.group for trial in others}
    assert [outcome.state for outcome in search.outcomes] == ["stopped", "done", "done"]
    sibling = next(t for t in search.outcomes[0].configuration.trials if t.id != weak.id)
    assert search.run.trial(sibling.id).stopped()["reason"].startswith(f"not begun, since {weak.id} ")
    again = make(tmp_path, *stop)
    assert again.complete
    assert [outcome.state for outcome in again.outcomes] == ["stopped", "done", "done"]
    assert again.spent()[0] == pytest.approx(700 + 4 * 6800 + 2 * 400)


def test_nothing_is_drawn_before_the_verdict_on_the_baseline_and_nothing_where_there_is_no_line(tmp_path):
    search = make(tmp_path)
    search.may_go_on = lambda: None
    trial = search.next()
    assert search.next() is None
    finish(search, trial)
    search.ended(trial.id)
    assert search.next() is None
    assert (search.over, search.objective, search.complete) == ("", None, False)
    search.may_go_on = lambda: False
    assert search.complete
    assert search.over == "the baseline makes no line, and baseline.stop_if_no_line ends the sweep there"
    again = make(tmp_path)
    assert not again.complete
    assert again.next().pretrain is not None  # the key was taken back


def test_what_a_killed_search_had_begun_waits_for_the_verdict_too(tmp_path):
    first = make(tmp_path)
    drain(first, 3)
    begun = first.next()
    second = make(tmp_path)
    second.may_go_on = lambda: None
    assert second.next() is None
    second.may_go_on = lambda: True
    assert second.next().key == begun.key


@pytest.mark.slow
def test_a_space_that_is_used_up_ends_the_search(tmp_path):
    search = make(tmp_path, "pretrain.num_images=4000", "pretrain.num_classes={choice: [20, 40, 80]}",
                  "pretrain.sources={species: 1}")  # fmt: skip
    assert len(mixtures(drain(search))) == 3
    assert search.over.endswith("the space holds no more")


@pytest.mark.parametrize(("limit", "count"), [(None, 13), (2, 2), (1, 1), (40, 13)])
def test_a_limit_counts_in_what_is_expected_from_the_beginning(limit, count, tmp_path):
    """What is shown, decoded and timed when a search begins is no more than it will run."""
    search = make(tmp_path)
    spec = load_spec(tmp_path / "look.yaml", ["search.where=num_images >= num_classes"])
    drawn = [trial for n in range(12) for trial in Drawn(spec).configure(spec.space.draw(n)).trials]
    plan = expected_plan(Plan(search.plan.trials[:1]), Plan(tuple(drawn)), limit)
    assert len(plan) == count
    again = expected_plan(plan, Plan(tuple(drawn)), limit)
    assert again.trials == plan.trials  # what was given out is not counted twice, and stays whatever the limit
    assert expected_plan(plan, Plan(tuple(drawn)), 1).trials == plan.trials
