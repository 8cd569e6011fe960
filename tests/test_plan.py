"""Plans: which trials there are, what they are called, what keeps its name when a spec is edited, and how fast."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from effort import calls

from ray_robust.plan.plan import Plan, PoolFacts, hash_of, make_plan
from ray_robust.spec.load import load_spec

GOOD = """\
task: {name: camera-traps}
pretrain:
  sources: {species: 1.0}
  num_images: {grid: [1000, 4000]}
  epochs: 2
finetune: {epochs: 5, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 2}
seeds: 2
"""
SPLITS = {"train": 100, "id_val": 10, "id_test": 20, "ood_val": 30, "ood_test": 40}


class Pools(dict):
    """Facts of any pool: what it is called means it."""

    def __missing__(self, key: str) -> PoolFacts:
        return PoolFacts(key, 50_000, SPLITS)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(text: str = GOOD, *overrides: str, name: str = "quantity", limit: int | None = None) -> Plan:
    Path(f"{name}.yaml").write_text(textwrap.dedent(text))
    return make_plan(load_spec(f"{name}.yaml", overrides), Pools(), Pools(), limit)


def keys(found: Plan) -> set[str]:
    return {trial.key for trial in found}


def test_one_network_in_several_forms_has_several_names_in_results():
    def models(text: str) -> dict[str, set[str]]:
        found = plan(f"{GOOD}model: {text}\n")
        return {name: {t.key for t in found if t.columns()["model"] == name} for name in sorted(
            {t.columns()["model"] for t in found})}  # fmt: skip

    plain = models("{image_size: 64}")
    assert list(plain) == ["test_resnet"]
    sizes = models("{image_size: {grid: [32, 64]}}")
    assert list(sizes) == ["test_resnet[image_size=32]", "test_resnet[image_size=64]"]
    assert sizes["test_resnet[image_size=64]"] == plain["test_resnet"], "ids are what they were"
    assert list(models("{name: {grid: [resnet18, resnet50]}}")) == ["resnet18", "resnet50"]
    both = models("{name: {grid: [resnet18, resnet50]}, store: {grid: [raw, compact]}}")
    assert list(both) == [f"{name}[store={form}]" for name in ("resnet18", "resnet50") for form in ("compact", "raw")]


def test_trials_are_mixtures_by_models_by_seeds_and_the_baseline():
    found = plan()
    assert [(t.group, t.seed) for t in found] == [
        ("num_images=4000", 1), ("num_images=4000", 2), ("num_images=1000", 1), ("num_images=1000", 2),
        ("scratch", 1), ("scratch", 2),
    ]  # fmt: skip
    assert found.pretrainings == 4
    assert all(len(trial.finetunings) == 2 for trial in found)
    assert [trial.pretrain_images for trial in found] == [8000, 8000, 2000, 2000, 0, 0]
    finetuning = found.trials[0].finetunings[0]
    assert (finetuning.images, finetuning.evaluated) == (500, 300)  # after epochs 2, 4 and 5
    assert found.trials[0].cost == 8000 + 2 * (500 + 0.35 * 300)


def test_ids_are_readable_short_and_safe():
    for trial in plan():
        assert re.fullmatch(r"quantity-(1000|4000|scratch)-s[12]-[0-9a-f]{10}", trial.id)
        assert trial.id.endswith(trial.key)
    odd = plan(GOOD, name="a sweep, ünsafe..").trials[0]
    assert re.fullmatch(r"[A-Za-z0-9._+-]+", odd.id)
    mix = ", ".join(f"s{i}: {{kind: species}}" for i in range(40))
    long = plan(GOOD.replace("{species: 1.0}", f"{{grid: [{{{mix}}}]}}"))
    assert max(len(trial.id) for trial in long) < 140


def test_models_and_tasks_that_vary_are_in_the_names():
    found = plan("""\
        task: {grid: [{name: camera-traps}, {name: camera-traps, shift: 0}]}
        model: {name: {grid: [test_resnet, test_vit]}}
        pretrain: {sources: {species: 1}, num_images: 100, epochs: 1}
        """)
    assert {trial.group for trial in found} == {"scratch", "model=test_resnet", "model=test_vit"}
    assert {trial.id.split("-")[1] for trial in found} == {"test_resnet", "test_vit"}
    tasks = {tuple(f.task_label for f in trial.finetunings) for trial in found}
    assert tasks == {("camera-traps", "camera-traps[shift=0]")}


@pytest.mark.parametrize(
    "overrides",
    [
        ["resources.workers=4"],
        ["analysis.margin=1"],
        ["model.compile=true"],
        ["question=other"],
        ["seeds=[2, 1]"],
        ["pretrain.sources={species: {kind: species, weight: 1}}"],
        ["pretrain.lr=3e-3"],  # the default, said aloud
        ["finetune.epochs=99"],  # a trial's identity is its pre-training: new fine-tunings join the same folder
    ],
)
def test_what_means_nothing_to_a_trial_leaves_its_name(overrides):
    assert keys(plan(GOOD, *overrides)) == keys(plan())


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.image_size=48"],
        ["model.name=test_vit"],
        ["seeds=[3, 4]"],
    ],
)
def test_what_means_something_changes_every_name(overrides):
    assert keys(plan(GOOD, *overrides)).isdisjoint(keys(plan()))


@pytest.mark.parametrize(
    "overrides",
    [
        ["pretrain.epochs=3"],
        ["pretrain.lr=1e-3"],
        ["pretrain.granularity=order"],
        ["pretrain.subset_seed=9"],
        ["pretrain.sources.species=2"],
        ["pretrain.sources={species: {seed: 1}}"],
        ["pretrain.holdout=0.1"],
    ],
)
def test_another_pre_training_is_another_trial_and_scratch_stays(overrides):
    before, after = plan(), plan(GOOD, *overrides)
    kept = {trial.key for trial in before if trial.pretrain is None}
    assert keys(before) & keys(after) == kept


def test_names_depend_neither_on_the_file_nor_on_its_other_levels():
    assert keys(plan(name="other")) == keys(plan())
    more = plan(GOOD.replace("[1000, 4000]", "[500, 4000, 1000, 2000]").replace("seeds: 2", "seeds: 4"))
    assert keys(plan()) < keys(more)
    point = plan(GOOD.replace("{grid: [1000, 4000]}", "1000\n  points: [{num_images: 4000}, {num_images: 1000}]"))
    assert keys(point) == keys(plan())


def test_fine_tunings_are_named_by_what_they_are():
    def names(*overrides: str) -> list[str]:
        return [f.id for f in plan(GOOD, *overrides).trials[0].finetunings]

    first, second = names()
    assert re.fullmatch(r"lr0\.001-e5-[0-9a-f]{8}", first)
    assert names("finetune.lr={grid: [3e-3, 1e-3, 7e-3]}")[:2] == [second, first]
    assert set(names("finetune.evaluate_every=1")).isdisjoint([first, second])
    assert set(names("task.shift=0")).isdisjoint([first, second])
    by_pool = {f.id.rpartition("-")[2] for trial in plan() for f in trial.finetunings}
    assert len(by_pool) == 2  # the same in every trial, scratch too


def test_what_means_the_same_is_one_trial():
    same = plan(GOOD.replace("{grid: [1000, 4000]}", "1000\n  points: [{lr: 3e-3}, {weight_decay: 0.05}]"))
    assert len([t for t in same if t.pretrain]) == 2  # both points say the defaults
    equal = plan(
        GOOD.replace("{epochs: 5, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 2}", "{grid: [{lr: 1e-3}, {epochs: 12}]}")
    )
    assert all(len(trial.finetunings) == 1 for trial in equal)  # both are the defaults


def test_the_baseline_may_have_more_seeds_and_its_own_fine_tunings():
    found = plan(GOOD + "baseline: {seeds: 4, finetune: {epochs: 9}}\n")
    scratch = [trial for trial in found if trial.pretrain is None]
    assert sorted(trial.seed for trial in scratch) == [1, 2, 3, 4]
    assert {f.settings.epochs for trial in scratch for f in trial.finetunings} == {9}
    fewer = plan(GOOD + "baseline: {seeds: 1}\n")
    assert [trial.seed for trial in fewer if trial.pretrain is None] == [1]
    assert not [trial for trial in plan(GOOD + "baseline: none\n") if trial.pretrain is None]


def test_subset_seeds_are_the_seeds_unless_they_are_fixed():
    assert all(trial.subset_seed == trial.seed for trial in plan())
    assert {trial.subset_seed for trial in plan(GOOD, "pretrain.subset_seed=5") if trial.pretrain} == {5}
    assert [t.columns()["subset_seed"] for t in plan() if t.pretrain is None] == [None, None]


def test_a_limit_keeps_the_first_in_the_files_order():
    assert [trial.group for trial in plan(limit=3)] == ["num_images=1000", "scratch", "scratch"]


def test_rows_say_what_each_trial_is():
    row = plan().rows()[0]
    assert row["trial"].startswith("quantity-4000-s1-")
    wanted = {
        "status": "planned",
        "num_images": 4000,
        "num_classes": None,
        "sources": '{"species": 1.0}',
        "pretrain_method": "supervised",
        "pretrain_epochs": 2,
    }
    assert {key: row[key] for key in wanted} == wanted


def test_hashes_know_no_order_of_keys():
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1})
    assert hash_of({"a": 1, "b": [2, 1]}) != hash_of({"a": 1, "b": [1, 2]})


def test_the_work_of_a_plan_grows_as_its_trials_do():
    def rows(levels: int) -> list[dict]:
        return plan(f"""\
            task: {{name: camera-traps}}
            pretrain:
              sources: {{species: 1.0}}
              num_images: {{grid: {[1000 + i for i in range(levels)]}}}
              lr: {{grid: [1e-3, 2e-3, 3e-3, 4e-3]}}
              epochs: 1
            finetune: {{lr: {{grid: [1e-3, 2e-3, 3e-3]}}}}
            seeds: 5
            """).rows()

    assert len(rows(20)) == len({row["trial"] for row in rows(20)}) == 20 * 20 + 5
    few, more, most = (calls(lambda levels=levels: rows(levels)) for levels in (10, 30, 50))
    assert most - more < 1.1 * (more - few)  # as many for each level that is added
