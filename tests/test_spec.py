"""A good spec: how numbers, aliases and overrides are read, and that a run's spec.yaml reads the same."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

from ray_robust.errors import UserError
from ray_robust.spec.load import Spec, load_spec, parse_number
from ray_robust.spec.yaml_lines import parse

GOOD = """\
# Question: Does one thing
#           lead to another?
# Run:      python -m ray_robust.sweep x.yaml
task: {name: camera-traps}
pretrain:
  sources: {species: 1.0}
  num_images: {grid: [1000, 16k]}
  epochs: 2
finetune: {lr: {grid: [3e-4, 1e-3]}, epochs: 2}
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str = GOOD, *overrides: str) -> Spec:
    Path("x.yaml").write_text(textwrap.dedent(text))
    return load_spec("x.yaml", overrides)


# --- numbers and words


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("64k", 64_000), ("1.2M", 1_200_000), ("1_000", 1000), ("3e-4", 3e-4), ("1e3", 1000), ("0.1k", 100), ("-5", -5),
        (" 7 ", 7), ("2.5", 2.5), ("0.0", 0.0), ("nan", None), ("inf", None), ("1e400", None), ("1e308M", None),
        ("k", None), ("", None), ("many", None), ("1,000", None), ("0x10", None), ("64K", None), ("1h", None),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, number):
    assert parse_number(text) == number
    assert type(parse_number(text)) is type(number)


@given(some.integers(-(10**12), 10**12))
def test_whole_numbers_stay_whole(number):
    assert parse_number(str(number)) == number
    assert parse_number(f"{number:_}") == number


@given(some.floats(1e-12, 1e12))
def test_real_numbers_stay_as_they_are(number):
    assert parse_number(repr(number)) == pytest.approx(number, rel=1e-6)


def test_yaml_words_are_what_they_look_like():
    Path("x.yaml").write_text("a: no\nb: on\nc: 010\nd: 1_0\ne: 12:30\nf: 3e-4\ng: true\nh: ~\ni: 2020-01-01\nj: 1.5\n")
    assert parse(Path("x.yaml")).tree == {
        "a": "no", "b": "on", "c": 10, "d": "1_0", "e": "12:30", "f": "3e-4", "g": True, "h": None, "i": "2020-01-01",
        "j": 1.5,
    }  # fmt: skip


def test_the_types_of_fields_decide_how_text_is_read():
    spec = load(
        GOOD + "seeds: 3e0\nanalysis: {margin: 1_0}\nmodel: {compile: true}\nresources: {gpus_per_worker: 0.5}\n"
    )
    assert [level.section.lr for level in spec.finetunes] == [3e-4, 1e-3]
    assert [level.section.num_images for level in spec.pretrains] == [1000, 16_000]
    assert spec.seeds == (1, 2, 3)
    assert spec.analysis.margin == 10.0
    assert spec.models[0].section.compile is True
    assert spec.resources.gpus_per_worker == 0.5


def test_a_byte_order_mark_and_the_header_are_read():
    Path("x.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    spec = load_spec("x.yaml")
    assert (spec.name, spec.question) == ("x", "Does one thing lead to another?")
    assert load(GOOD + "question: Really?\n").question == "Really?"


# --- baseline, seeds, aliases


def test_no_pretraining_is_the_baseline_alone():
    spec = load("""\
        task: {name: camera-traps}
        model: {name: {grid: [test_resnet, test_vit]}}
        pretrain: none
        """)
    assert (spec.pretrains, len(spec.baseline_finetunes), len(spec.models)) == ((), 1, 2)


def test_the_baseline_is_the_fine_tuning_with_some_keys_replaced():
    spec = load(GOOD + "baseline: {seeds: 5, finetune: {epochs: 7}}\n")
    assert [(level.section.lr, level.section.epochs) for level in spec.baseline_finetunes] == [(3e-4, 7), (1e-3, 7)]
    assert spec.baseline.seeds == 5
    one = load(GOOD + "baseline: {finetune: {lr: 2e-3}}\n")
    assert [level.section.lr for level in one.baseline_finetunes] == [2e-3]
    group = load(GOOD + "baseline: num_images=1000\n")
    assert (group.baseline.name, group.baseline_finetunes) == ("num_images=1000", ())
    for nothing in ("none", "~", '"none"'):
        assert load(GOOD + f"baseline: {nothing}\n").baseline.name == "none"


def test_aliases_and_merge_keys_are_yaml_as_ever():
    spec = load("""\
        task: {name: camera-traps}
        pretrain: {sources: {species: 1}, epochs: 1}
        finetune: &usual {epochs: 2, batch_size: 64}
        baseline: {finetune: {<<: *usual, epochs: 3}}
        """)
    assert spec.baseline_finetunes[0].section.epochs == 3
    assert spec.baseline_finetunes[0].section.batch_size == 64


def test_seeds_are_a_number_or_a_list():
    assert load().seeds == (1,)
    assert load(GOOD + "seeds: 3\n").seeds == (1, 2, 3)
    assert load(GOOD + "seeds: [7, 0]\n").seeds == (7, 0)


# --- overrides


def test_an_override_replaces_one_value_and_is_read_as_yaml():
    spec = load(
        GOOD, "pretrain.epochs=5", "finetune.lr={grid: [1e-2]}", "baseline.seeds=2", "task.shift=0", "seeds=[3]"
    )
    assert {level.section.epochs for level in spec.pretrains} == {5}
    assert [level.section.lr for level in spec.finetunes] == [1e-2]
    assert (spec.baseline.seeds, spec.baseline.name, spec.seeds) == (2, "scratch", (3,))
    assert spec.tasks[0].section.options.shift == 0


def test_the_last_override_of_a_key_holds():
    assert load(GOOD, "pretrain.epochs=5", "pretrain.epochs=6").pretrains[0].section.epochs == 6
    spec = load(GOOD, "finetune.epochs=9", "finetune={epochs: 4}")
    assert spec.finetunes[0].section.epochs == 4


def test_places_are_the_line_or_the_override():
    spec = load(GOOD, "pretrain.epochs=5")
    assert spec.location("finetune", "lr") == "x.yaml:9"
    assert spec.location("pretrain", "sources", "species", "weight") == "x.yaml:6"
    assert spec.location("pretrain", "epochs") == "--set pretrain.epochs=5"
    assert spec.location("pretrain") == "x.yaml:5 with --set pretrain.epochs=5"
    assert spec.location("analysis", "scale") == "x.yaml"


def test_a_spec_is_frozen():
    spec = load()
    with pytest.raises(ValueError, match="frozen"):
        spec.pretrains[0].section.epochs = 3
    with pytest.raises(AttributeError):
        spec.seeds = (1,)


# --- round trip

ROUND_TRIPS = {
    "plain": GOOD,
    "everything": """\
        task: {grid: [{name: camera-traps, shift: 0}, {name: camera-traps}]}
        model: {name: {grid: [test_resnet, test_vit]}, image_size: 48, precision: float32}
        pretrain:
          sources: {species: {weight: {grid: [1, 2]}, species: 30}, other: {kind: species, seed: 5}, fractals: 0.5}
          granularity: {grid: [class, order]}
          images_seen: 64k
          balance: uniform
          points: [{num_images: 500}, {num_images: 400, num_classes: 20, images_seen: 1k}]
        finetune: {lr: {grid: [3e-4, 1e-3]}, warmup: 0, evaluate_every: 1}
        seeds: [4, 2]
        baseline: {seeds: 4, finetune: {epochs: 5, lr: {grid: [1e-3, 2e-3, 4e-3]}}}
        resources: {workers: 2}
        analysis: {scale: logit, margin: 1.5}
        question: "what: now?"
        """,
    "a lattice": """\
        task: {name: camera-traps}
        pretrain:
          sources: {lattice: [species, mine], steps: 2, options: {mine: {kind: fractals, seed: 3}}}
          num_images: {grid: [100, 200]}
          epochs: 1
        """,
    "weights": """\
        task: {name: camera-traps}
        pretrain: {sources: {species: {weight: {grid: [0, 2]}, seed: 2}, fractals: 1}, num_images: 100, epochs: 1}
        """,
    "nothing": """\
        task: {name: camera-traps}
        pretrain: none
        """,
    "sections": """\
        task: {name: camera-traps, train_images: {grid: [400, 1k]}}
        pretrain: {grid: [{sources: {species: 1}, epochs: 1}, {sources: {fractals: 1}, images_seen: 10}]}
        finetune: {grid: [{lr: 1e-3}, {lr: 1e-2, epochs: 4}]}
        baseline: none
        """,
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_the_resolved_spec_means_the_same(name):
    first = load(ROUND_TRIPS[name])
    Path("spec.yaml").write_text(first.resolved + yaml.safe_dump({"provenance": {"ray": "2"}}))
    second = load_spec("spec.yaml")
    for part in ("tasks", "models", "pretrains", "finetunes", "baseline_finetunes"):
        assert getattr(second, part) == getattr(first, part), part
    for part in ("seeds", "question", "baseline", "search", "resources", "analysis"):
        assert getattr(second, part) == getattr(first, part), part
    assert second.resolved == first.resolved


# --- any text at all

words = some.sampled_from(["task", "pretrain", "finetune", "grid", "points", "sources", "species", "name", "num_images",
                           "lr", "seeds", "baseline", "epochs", "kind", "folder", "path", "weight", "<<"])  # fmt: skip
scalars = words | some.sampled_from(["camera-traps", "all", "scratch", ""]) | some.integers(-2, 10**30)
leaves = scalars | some.booleans() | some.none() | some.floats() | some.text(max_size=5)
short = some.text(max_size=3)
trees = some.recursive(
    leaves,
    lambda below: some.lists(below, max_size=3) | some.dictionaries(words | short, below, max_size=4),
    max_leaves=12,
)
sections = some.sampled_from(["task", "pretrain", "finetune", "model", "baseline", "seeds", "analysis"])


def ends_in_a_spec_or_in_lines(text: str) -> None:
    Path("x.yaml").write_text(text, "utf-8")
    try:
        load_spec("x.yaml")
    except UserError as error:
        lines = [str(problem) for problem in error.problems]
        assert lines
        assert len(set(lines)) == len(lines)
        assert all(line.startswith(("x.yaml:", "--set")) and "\n" not in line and len(line) < 500 for line in lines)


@settings(max_examples=100)
@given(
    some.dictionaries(
        some.sampled_from(["task", "pretrain", "finetune", "model", "baseline", "seeds", "analysis"]), trees
    )
)
def test_any_tree_is_a_spec_or_reported(tree):
    ends_in_a_spec_or_in_lines(yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=100)
@given(trees, some.sampled_from(["pretrain", "finetune", "task", "model"]), words)
def test_any_value_in_a_good_spec_is_read_or_reported(value, section, key):
    tree = {"task": {"name": "camera-traps"}, "pretrain": {"sources": {"species": 1}, "epochs": 1}, "finetune": {}}
    tree["model"] = {}
    tree[section][key] = value
    ends_in_a_spec_or_in_lines(yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=100)
@given(some.text(some.characters(codec="utf-8"), max_size=60))
def test_any_text_is_a_spec_or_reported(text):
    ends_in_a_spec_or_in_lines(GOOD + text)
