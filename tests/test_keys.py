"""The reference of keys is that of the models; misplaced keys and lists get a line that names what would be right."""
# ruff: noqa: E501 - messages stand whole here, as people read them

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from error_lines import GOOD, WHOLE, error_lines

from bench import keys as reference
from ray_robust.plan.plan import PoolFacts, make_plan
from ray_robust.spec.keys import SECTIONS, TOP, keys_of, parents
from ray_robust.spec.load import load_spec

REQUIRED = {  # keys that a source or task cannot do without
    "path": "~/images", "root": "~/data", "train": ["photo"], "model": "maker/model", "classes": ["cat", "dog"],
    "source": {"name": "species"}, "labels": "order",
}  # fmt: skip
EXAMPLES = [
    (path, example)
    for _, path, models in reference.sections()
    for model in models
    for field in keys_of(model).values()
    for example in field.examples or ()
]
MISTAKES = """\
task: {name: camera-traps, shfit: 0, lr: 3}
model: {image_size: {grid: []}, precision: half}
pretrain:
  sources: {species: 1.0}
  num_images: {grid: [1k, 1000]}
  num_images: {grid: [1k, 1000]}
  batch_size: none
  epochs: 2
  images_seen: 3
finetune: {epochs: 0, num_images: 5, per_class: 5}
seeds: 0
baseline: {name: scratch, epochs: 24}
search: {method: random, trails: 3, budget: {image: 3, device_hours: -1}}
resources: {workers: {grid: [1, 2]}, cpus_per_worker: 0}
analysis: {scale: lin}
track: [cvs]
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def spec_of(path: str, example: str) -> dict[str, Any]:
    """Return a whole spec with the example of a key in its place."""
    part = yaml.safe_load(f"{{{example}}}")
    tree: dict[str, Any] = {"task": {"name": "camera-traps"}, "pretrain": {"sources": {"species": 1.0}}}
    if path.partition(" ")[0] in ("task", "source") and " " in path:
        kind, name = path.split()
        fields = next(models[0].model_fields for _, p, models in reference.sections() if p == path)
        part = {key: REQUIRED[key] for key, field in fields.items() if field.is_required()} | part
        if kind == "task":
            tree["task"] = {"name": "wilds:iwildcam" if name == "wilds" else name, **part}
        else:
            tree["pretrain"]["sources"] = {name: part}
    elif path.startswith("pretrain.sources"):
        tree["pretrain"]["sources"] = part
    elif path.startswith("search"):
        tree["search"] = part
        tree["pretrain"]["num_images"] = "4k"
        if part.get("method"):
            tree["pretrain"]["num_images"] = {"loguniform": ["1k", "64k"]}
    elif path:
        section = path.partition(".")[0]
        tree[section] = {**tree.get(section, {}), **part}
    else:
        tree |= part
    if not {"epochs", "images_seen"} & set(tree["pretrain"]):
        tree["pretrain"]["epochs"] = 1
    if any(way in example for way in ("uniform:", "choice:")) or ("simplex" in example and "draws" not in example):
        tree["search"] = {"method": "random", "trials": 2}
    return tree


def lines_of(text: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    Path("x.yaml").write_text(text)
    return error_lines("x.yaml", "--plan", "--out", "out", capsys=capsys)


def test_the_reference_is_that_of_the_models():
    assert reference.DOCUMENT.read_text("utf-8") == reference.markdown(), "run python -m bench.keys"


def test_every_key_has_a_meaning_and_an_example_of_it():
    covered = set()
    for title, _, models in reference.sections():
        for model in models:
            for name, field in keys_of(model).items():
                assert field.description, f"{title}: {name} has no description"
                assert field.examples, f"{title}: {name} has no example"
                assert any(f"{name}:" in example for example in field.examples) or name == "method", f"{title}: {name}"
            covered.add(model)
    assert covered >= {one.model for one in parents({}) if one.model} | set(SECTIONS.values())


@pytest.mark.parametrize(("path", "example"), EXAMPLES)
def test_every_example_loads(path, example):
    Path("x.yaml").write_text(yaml.safe_dump(spec_of(path, example)))
    assert load_spec("x.yaml").models


def test_an_example_that_is_wrong_does_not_load():
    Path("x.yaml").write_text(yaml.safe_dump(spec_of("pretrain", "temprature: 0.2")))
    with pytest.raises(Exception, match="unknown key"):
        load_spec("x.yaml")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  num_images", "  options: {species: {seed: 1}}\n  num_images", "5: pretrain.options: unknown key; options belongs under pretrain.sources"),
        ("camera-traps}", "camera-traps, lr: 1e-3}", "1: task.lr: unknown key; lr belongs under pretrain, finetune or baseline.finetune"),
        ("model:", "num_images: 3\nmodel:", "2: num_images: unknown key; num_images belongs under pretrain, finetune or baseline.finetune"),
        ("finetune:", "baseline: {epochs: 24}\nfinetune:", "7: baseline.epochs: unknown key; epochs belongs under baseline.finetune, pretrain or finetune; known here: finetune, name, seeds, spread, stop_if_no_line"),
        ("{epochs: 2}", "{seeds: 3}", "7: finetune.seeds: unknown key; seeds belongs at the top of the file or under baseline"),
        ("  num_images", "  shift: 0\n  num_images", "5: pretrain.shift: unknown key; shift belongs under task"),
        ("{species: 1.0}", "{species: 1.0, num_images: 4k}", "4: pretrain.sources.num_images: 'num_images' is no known source; num_images belongs under pretrain, finetune or baseline.finetune"),
        ("finetune:", "metric: macro_f1\nfinetune:", "7: metric: unknown key; metric belongs under task"),
        ("finetune:", "seed: 3\nfinetune:", "7: seed: unknown key; did you mean seeds? (seed belongs under search, pretrain.sources, task or pretrain.sources.species)"),
        ("{epochs: 2}", "{images: 3}", "7: finetune.images: unknown key; did you mean num_images? (images belongs under search.budget)"),
        ("finetune:", "resources: {marginn: 3}\nfinetune:", "7: resources.marginn: unknown key; did you mean margin, which belongs under analysis?"),
    ],
)  # fmt: skip
def test_a_misplaced_key_is_told_every_parent_that_it_has(old, new, line, capsys):
    assert GOOD.count(old) == 1
    assert lines_of(GOOD.replace(old, new), capsys) == [f"x.yaml:{line}"]


def test_every_key_of_a_section_is_told_where_it_belongs(capsys):
    """No list of keys: each, at the top of the file, names its own section."""
    for section, model in SECTIONS.items():
        for key in set(keys_of(model)) - set(TOP) - {"name", "kind"}:
            line = lines_of(f"{key}: 3\n{GOOD}", capsys)[0]
            assert f"{key} belongs under" in line
            assert section in line.partition(" belongs under ")[2].replace(",", "").strip(")").split()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("1000", "[1k, 4k]", f"5: pretrain.num_images: {WHOLE} a list; a value that varies is written {{grid: [1k, 4k]}}"),
        ("{epochs: 2}", "{lr: [1e-3, 3e-3]}", "7: finetune.lr: must be a number, not a list; a value that varies is written {grid: [1e-3, 3e-3]}"),
        ("{epochs: 2}", "{num_images: [500, all]}", "7: finetune.num_images: must be a whole number above 0 or all, not a list; a value that varies is written {grid: [500, all]}"),
        ("{epochs: 2}", "{augment: [flip, crop]}", "7: finetune.augment: must be one of none, flip, vflip, rotate90, crop, strong, randaugment, trivialaugment, or some joined as in rotate90+crop, not a list; a value that varies is written {grid: [flip, crop]}"),
        ("{epochs: 2}", "{}\nbaseline: {finetune: {epochs: [12, 24]}}", "8: baseline.finetune.epochs: must be a whole number, not a list; a value that varies is written {grid: [12, 24]}"),
        ("  num_images", "  granularity: [order, family]\n  num_images", "5: pretrain.granularity: must be text, not a list; a value that varies is written {grid: [order, family]}"),
        ("  num_images", "  classes: [all, {under: order1}]\n  num_images", "5: pretrain.classes: names must be text, not {'under': 'order1'}; quote it; a value that varies is written {grid: [all, {under: order1}]}"),
        ("{species: 1.0}", "{species: [1, 2]}", "4: pretrain.sources.species: the weight must be a number above 0, not a list; a value that varies is written {grid: [1, 2]}"),
        ("{species: 1.0}", "[{species: 1}, {fractals: 1}]", "4: pretrain.sources: must map at least one source to its weight, e.g. {species: 1.0}; a value that varies is written {grid: [{species: 1}, {fractals: 1}]}"),
        ("{species: 1.0}", "[species, fractals]", "4: pretrain.sources: must map at least one source to its weight, e.g. {species: 1.0, fractals: 1.0}"),
        ("camera-traps}", "camera-traps, shift: [0, 1]}", "1: task.shift: must be a number, not a list; a value that varies is written {grid: [0, 1]}"),
        ("test_resnet", "[test_resnet, resnet18]", "2: model.name: must be text, not a list; a value that varies is written {grid: [test_resnet, resnet18]}"),
        ("num_images: 1000", "points: [{num_images: [1, 2]}]", f"5: pretrain.num_images: {WHOLE} a list; in points nothing varies: write a point for each value"),
        ("{epochs: 2}", "{epochs: {grid: [[1, 2]]}}", "7: finetune.epochs: must be a whole number, not a list"),
        ("{epochs: 2}", "{grid: [{epochs: [1, 2]}, {epochs: 3}]}", "7: finetune.epochs: must be a whole number, not a list"),
        ("finetune:", "resources: {workers: [1, 2]}\nfinetune:", "7: resources.workers: must be a whole number, not a list"),
    ],
)  # fmt: skip
def test_a_list_where_a_grid_is_meant_is_shown_as_one(old, new, line, capsys):
    assert GOOD.count(old) == 1
    assert lines_of(GOOD.replace(old, new), capsys) == [f"x.yaml:{line}"]


class Pools(dict):
    def __missing__(self, key: str) -> PoolFacts:
        return PoolFacts(key, 50_000, {"train": 4000, "id_val": 10, "id_test": 10, "ood_val": 10, "ood_test": 10})


def test_a_fine_tuning_on_all_images_is_the_one_without_the_key():
    def trials(keys: str) -> list[tuple]:
        Path("x.yaml").write_text(GOOD.replace("{epochs: 2}", f"{{epochs: 2{keys}}}"))
        plan = make_plan(load_spec("x.yaml"), Pools(), Pools())
        return [(trial.id, [one.id for one in trial.finetunings]) for trial in plan.trials]

    plain, small = trials(""), trials(", num_images: 1k")
    assert trials(", num_images: all") == plain
    assert trials(", num_images: {grid: [1k, all]}") == [
        (trial, [*few, *whole]) for (trial, whole), (_, few) in zip(plain, small, strict=True)
    ]
    assert trials(", num_images: all}\nbaseline: {finetune: {num_images: all}") == plain
    assert trials(", num_images: {grid: [all, null]}") == plain
    assert small != plain


def test_all_is_in_the_resolved_spec_as_it_was_meant():
    Path("x.yaml").write_text(GOOD.replace("{epochs: 2}", "{epochs: 2, num_images: {grid: [1k, all]}}"))
    Path("y.yaml").write_text(load_spec("x.yaml").resolved)
    assert [level.section.num_images for level in load_spec("y.yaml").finetunes] == [1000, None]


def test_mistakes_in_all_sections_are_reported_in_one_round(capsys):
    lines = lines_of(MISTAKES, capsys)
    assert lines == [
        "x.yaml:6: pretrain.num_images: is given twice, first in line 5",
        "x.yaml:13: search.budget.device_hours: must be above 0, not -1",
        "x.yaml:13: search.budget.image: unknown key; did you mean images?",
        "x.yaml:13: search.trails: unknown key; did you mean trials?",
        "x.yaml:1: task.shfit: unknown key; did you mean shift?",
        "x.yaml:1: task.lr: unknown key; lr belongs under pretrain, finetune or baseline.finetune",
        "x.yaml:2: model.image_size.grid: must be a list with at least one value",
        "x.yaml:2: model.precision: must be one of auto, bf16, float32, not 'half'",
        "x.yaml:6: pretrain.num_images.grid: 1000 is given twice",
        "x.yaml:7: pretrain.batch_size: must be a whole number, not 'none'",
        "x.yaml:3: pretrain: give images_seen or epochs, one of the two",
        "x.yaml:10: finetune.epochs: must be above 0, not 0",
        "x.yaml:10: finetune: give num_images or per_class, one of the two",
        "x.yaml:12: baseline.epochs: unknown key; epochs belongs under baseline.finetune, pretrain or finetune; known here: finetune, name, seeds, spread, stop_if_no_line",
        "x.yaml:14: resources.workers: cannot vary; {grid: ...} belongs to task, model, pretrain, finetune",
        "x.yaml:14: resources.cpus_per_worker: must be above 0, not 0",
        "x.yaml:15: analysis.scale: must be one of probit, logit, linear, not 'lin'",
        "x.yaml:11: seeds: must be how many, at least 1, or a list of different whole numbers, not 0",
        "x.yaml:16: track: 'cvs' is no known log; did you mean csv?",
    ]


def test_a_wrong_search_hides_no_error_of_what_it_draws_from(capsys):
    text = GOOD.replace("  num_images: 1000\n", "  num_images: {loguniform: [9, 2]}\n  lr: fast\n")
    text = text.replace("{epochs: 2}", "{epochs: 0, lr: {uniform: [1e-3, 1e-2]}}")
    assert lines_of(f"{text}search: {{method: optuna, trials: 0, startup: 0}}\nanalysis: {{margin: -1}}\n", capsys) == [
        "x.yaml:9: search.trials: must be above 0, not 0",
        "x.yaml:9: search.startup: must be above 0, not 0",
        "x.yaml:5: pretrain.num_images: the lowest must come first, not 9,2",
        "x.yaml:6: pretrain.lr: must be a number, not 'fast'",
        "x.yaml:8: finetune.epochs: must be above 0, not 0",
        "x.yaml:10: analysis.margin: must be above 0, not -1",
        "x.yaml:8: finetune.lr: is drawn; say in baseline.finetune what the baseline takes",
    ]


def test_contradictions_are_reported_beside_wrong_values_unless_they_follow_from_them(capsys):
    both = GOOD.replace("  images_seen: 2000\n", "  images_seen: many\n  num_classes: 2000\n")
    assert lines_of(both, capsys) == [
        "x.yaml:6: pretrain.images_seen: must be a whole number, not 'many'",
        "x.yaml:3: pretrain: 1000 images cannot fill 2000 classes",
    ]
    misspelt = GOOD.replace("images_seen", "image_seen").replace("num_images: 1000", "num_images: 1000\n  holdout: 2")
    assert lines_of(misspelt, capsys) == [
        "x.yaml:6: pretrain.holdout: must be below 1, not 2",
        "x.yaml:7: pretrain.image_seen: unknown key; did you mean images_seen?",
    ]
    several = GOOD.replace("  images_seen: 2000\n", "  num_classes: 2000\n  subclasses_per_label: 2\n")
    assert lines_of(several, capsys) == [
        "x.yaml:3: pretrain: subclasses_per_label needs a granularity coarser than class",
        "x.yaml:3: pretrain: subclasses_per_label says how many classes there are; leave num_classes out",
        "x.yaml:3: pretrain: 1000 images cannot fill 2000 classes",
    ]
