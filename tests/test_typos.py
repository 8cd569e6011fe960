"""A typo anywhere in a spec is an error that names it, at its line: in every nested list and mapping as at the top.

The specs below hold every way of writing a sweep; each key, each word and each number in them is misspelt in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_robust import sweep
from ray_robust.errors import UserError
from ray_robust.spec.load import load_spec

RANDOM = {"method": "random", "trials": 3}


class Whole(dict):
    """A section that takes the place of the usual one, instead of adding to it."""


def spec(**sections: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "task": {"name": "camera-traps"},
        "model": {"name": "test_resnet"},
        "finetune": {"epochs": 2},
        "pretrain": {"sources": {"species": 1.0}, "num_images": 1000, "epochs": 1},
    }
    for key, value in sections.items():
        adds = isinstance(value, dict) and not isinstance(value, Whole) and key in tree
        tree[key] = {**tree[key], **value} if adds else dict(value) if isinstance(value, dict) else value
    return tree


SPECS = {
    "grid": spec(
        pretrain={
            "balance": {"grid": ["natural", "uniform"]},
            "label_space": {"grid": ["separate", "shared"]},
            "method": {"grid": ["supervised", "simclr"]},
        }
    ),
    "choice": spec(
        pretrain={
            "balance": {"choice": ["natural", "uniform"]},
            "augment": {"choice": ["crop", "strong"]},
            "method": {"choice": ["supervised", "simclr"]},
        },
        search=RANDOM,
    ),
    "choice fin": spec(
        finetune={"method": {"choice": ["full", "linear"]}, "optimizer": {"choice": ["adamw", "sgd"]}},
        baseline={"finetune": {"method": "full", "optimizer": "sgd"}},
        search=RANDOM,
    ),
    "uniform": spec(
        pretrain={"num_images": {"uniform": [1000, 2000]}, "lr": {"loguniform": [1e-4, 1e-2]}}, search=RANDOM
    ),
    "simplex search": spec(
        pretrain={
            "sources": {
                "simplex": ["species", "fractals"],
                "concentration": 1,
                "options": {"species": {"seed": 1}, "fractals": {"classes": 20}},
            }
        },
        search=RANDOM,
    ),
    "source weight": spec(
        pretrain={
            "sources": {
                "species": {"weight": {"uniform": [0.1, 1]}},
                "fractals": {"weight": {"choice": [0.5, 1]}, "seed": 3},
            }
        },
        search=RANDOM,
    ),
    "choice sources": spec(
        pretrain={"sources": {"choice": [{"species": 1}, {"species": 0.5, "fractals": 0.5}]}}, search=RANDOM
    ),
    "choice sources opt": spec(
        pretrain={
            "sources": {
                "choice": [
                    {"species": {"weight": 1, "seed": 2}},
                    {"species": 0.5, "fractals": {"weight": 1, "classes": 30}},
                ]
            }
        },
        search=RANDOM,
    ),
    "grid sources": spec(
        pretrain={
            "sources": {
                "grid": [{"species": 1}, {"species": {"weight": 0.5, "seed": 2}, "fractals": 0.5}],
                "options": {"species": {"species": 50}},
            }
        }
    ),
    "lattice": spec(
        pretrain={"sources": {"lattice": ["species", "fractals"], "steps": 2, "options": {"fractals": {"seed": 1}}}}
    ),
    "simplex": spec(
        pretrain={
            "sources": {
                "simplex": ["species", "fractals"],
                "draws": 2,
                "seed": 1,
                "concentration": 2,
                "options": {"species": {"seed": 4}},
            }
        }
    ),
    "kinds": spec(
        pretrain={"sources": {"mine": {"kind": "species", "seed": 1}, "yours": {"kind": "fractals", "weight": 2}}}
    ),
    "points": spec(
        pretrain={
            "points": [
                {"num_classes": 20, "granularity": "family"},
                {"num_classes": 30, "balance": "uniform", "classes": {"nearest": 40, "to": "a"}},
                {"sources": {"fractals": {"weight": 1, "seed": 2}}, "method": "simclr"},
            ]
        }
    ),
    "classes": spec(pretrain={"classes": {"grid": [{"under": "a"}, {"nearest": 5, "to": ["b"]}, ["c", "d"]]}}),
    "classes choice": spec(
        pretrain={"classes": {"choice": [{"under": "a"}, {"nearest": 5, "to": ["b"]}, ["c", "d"]]}}, search=RANDOM
    ),
    "whole grid": spec(
        model=Whole(grid=[{"name": "test_resnet", "image_size": 32}, {"name": "test_vit", "precision": "float32"}]),
        finetune=Whole(grid=[{"epochs": 2, "method": "linear"}, {"epochs": 3, "augment": "none"}]),
    ),
    "task grid": spec(task={"shift": {"grid": [0, 1]}, "metric": {"grid": ["accuracy", "macro_f1"]}}),
    "tasks": spec(
        task=Whole(grid=[{"name": "camera-traps", "shift": 0}, {"name": "camera-traps", "metric": "accuracy"}])
    ),
    "seeds etc": spec(
        seeds=[1, 2],
        track=["csv", "tensorboard"],
        analysis={"scale": "probit", "margin": 1},
        resources={"workers": {"min": 1, "max": 2}, "disk": "20G"},
        baseline={"seeds": 2, "finetune": {"epochs": 3, "optimizer": "sgd"}},
    ),
    "search": spec(
        pretrain={"num_images": {"uniform": [1000, 2000]}},
        search={
            "method": "optuna",
            "trials": 3,
            "objective": "id_val",
            "mode": "max",
            "where": ["num_images <= 2k", "sources.species > 0.1"],
            "budget": {"images": 1000000, "device_hours": 1},
            "stop": {"method": "asha", "milestones": [0.1, 0.3], "keep": 0.5},
        },
    ),
    "clip": spec(pretrain={"method": "clip", "templates": ["a {}", "b {}"]}),
    "wise": spec(finetune={"method": "lp-ft", "wise_ft": [0.2, 0.5]}),
    "wise grid": spec(finetune={"method": "lp-ft", "wise_ft": {"grid": [[0.2], [0.5]]}}),
    "diffusion": spec(
        pretrain={
            "sources": {
                "diffusion": {
                    "root": "/tmp/x",
                    "model": "a/b",
                    "classes": {"source": "species", "seed": 1},
                    "format": "webp",
                }
            }
        }
    ),
    "pretrain whole grid": spec(
        pretrain=Whole(
            grid=[
                {"sources": {"species": 1}, "epochs": 1, "num_images": 100},
                {
                    "sources": {"fractals": {"weight": 1, "seed": 1}},
                    "epochs": 1,
                    "num_images": 100,
                    "balance": "uniform",
                },
            ]
        )
    ),
}


ELSEWHERE = ("species", "fractals")  # a source is named again in a condition or among options: either line will do


def positions(tree: Any, path: tuple = ()) -> Iterator[tuple[str, tuple, Any]]:
    """(what it is, path, the word) of everything in a spec that can be misspelt."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield "key", (*path, key), key
            yield from positions(value, (*path, key))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from positions(value, (*path, i))
    else:
        yield ("word" if isinstance(tree, str) else "number"), path, tree


def misspelt(tree: Any, kind: str, path: tuple, word: Any) -> Any:
    tree = copy.deepcopy(tree)
    at = tree
    for part in path[:-1]:
        at = at[part]
    if kind == "key":
        items = [(f"{key}q" if key == word else key, value) for key, value in at.items()]
        at.clear()
        at.update(items)
    else:
        at[path[-1]] = f"{word}q"
    return tree


def free(kind: str, path: tuple) -> bool:
    """Whether any word is right there: a name of one's own, a caption, a path, or what only the data can judge."""
    if kind == "key":
        return path[-1] in ("mine", "yours")
    judged = {"classes", "granularity", "templates", "root"} & set(path) and "source" not in path
    return kind == "word" and bool(judged or path[-2:] == ("diffusion", "model"))


def lines_of(path: Path) -> dict[int, str]:
    return dict(enumerate(path.read_text().splitlines(), 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_a_typo_anywhere_is_an_error_that_names_it_at_its_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path("x.yaml")
    file.write_text(yaml.safe_dump(SPECS[name], sort_keys=False, width=300))
    load_spec(file)  # it is right as it is
    seen = 0
    for kind, path, word in positions(SPECS[name]):
        file.write_text(yaml.safe_dump(misspelt(SPECS[name], kind, path, word), sort_keys=False, width=300))
        where = f"{name}: {kind} {path}"
        if free(kind, path):
            load_spec(file)
            continue
        with pytest.raises(UserError) as refused:
            load_spec(file)
        naming = [problem for problem in refused.value.problems if f"{word}q" in problem.what]
        assert naming, f"{where}: {refused.value}"
        # its own line, or that of the small mapping or list that it is in: two bounds, {under: NAME}, a budget
        own = [line for line, written in lines_of(file).items() if f"{word}q" in written]
        said = [int(problem.where.rpartition(":")[2]) for problem in naming]
        near = word in ELSEWHERE or any(0 <= line - one <= 5 for line in own for one in said)
        assert near, f"{where}: {naming}"
        seen += 1
    assert seen > 3


GOOD = """\
task: {name: camera-traps}
pretrain:
  sources: {species: 1}
  num_images: 500
  epochs: 1
  lr: {loguniform: [1e-4, 1e-2]}
search: {method: random, trials: 4}
"""
NO_RANK = "pretrain.granularity: source species has no rank"
ONE_WRONG = {
    "a rank": ("granularity: {choice: [class, famly, ordre]}", [
        f"{NO_RANK} 'famly': it has order, family, species [granularity=famly]",
        f"{NO_RANK} 'ordre': it has order, family, species [granularity=ordre]"]),
    "a subtree": ("classes: {choice: [{under: Cervanta}, {under: Cervnta}]}", [
        "pretrain.classes: source species has no class or ancestor 'Cervnta'; did you mean Cervanta? "
        "[classes=under:Cervnta]"]),
    "a class": ("classes: {choice: [[sanor-vasarin, pimus-kerivel], [sanor-vasarin, pimus-kerivl]]}", [
        "pretrain.classes: source species has no class 'pimus-kerivl'; did you mean pimus-kerivel? "
        "[classes=sanor-vasarin,pimus-kerivl]"]),
    "a number of classes": ("num_classes: {choice: [20, 20_000]}", [
        "pretrain.num_classes: source species needs 20000 classes, supply is 200 (of 200 in all) [num_classes=20000]"]),
}  # fmt: skip


@pytest.mark.parametrize("plan_only", [True, False])
@pytest.mark.parametrize("name", ONE_WRONG)
def test_a_value_of_a_choice_that_no_draw_can_have_is_an_error_as_in_a_grid(name, plan_only, tmp_path, monkeypatch):
    """Only the data can judge it: with the plan, before anything runs."""
    monkeypatch.chdir(tmp_path)
    written, lines = ONE_WRONG[name]
    text = GOOD.replace("num_images: 500", "num_images: all").replace("search:", f"  {written}\nsearch:")
    Path("x.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        sweep.main(["x.yaml", "--out", "out", *(["--plan"] if plan_only else [])])
    assert [str(problem) for problem in refused.value.problems] == [f"x.yaml:7: {line}" for line in lines]
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_search_of_which_no_draw_can_be_run_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(GOOD.replace("num_images: 500", "num_images: 500\n  granularity: famly"))
    for more in ([], ["--plan"]):
        with pytest.raises(UserError) as refused:
            sweep.main(["x.yaml", "--out", "out", *more])
        assert [str(problem) for problem in refused.value.problems] == [
            "x.yaml:8: search: none of the first 1,000 draws can be run",
            "x.yaml:5: pretrain.granularity: source species has no rank 'famly': it has order, family, species",
        ]


def test_values_that_only_do_not_go_together_are_left_out_of_the_draws(tmp_path, monkeypatch):
    """Each value of both choices is possible, not each pair: such a draw is no mistake."""
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace("num_images: 500", "num_images: {choice: [30, 500]}\n  num_classes: {choice: [20, 100]}")
    Path("x.yaml").write_text(text)
    assert sweep.main(["x.yaml", "--plan"]) == 0
