"""What a spec or a flag asks for is done, or a line says why not: nothing of it goes without a word."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_robust.prepare import provenance
from ray_robust.prepare.estimate import measured_rate
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.subsets import draw_all
from ray_robust.run import throughput
from ray_robust.spec.load import load_spec
from ray_robust.spec.run_sections import Resources
from ray_robust.spec.values import parse_number
from tests import make_images
from tests.error_lines import problems
from tests.make_pools import open_pool

TWO = """\
task: {name: camera-traps}
model: {name: test_resnet}
pretrain: {sources: {species: 0.5, fractals: 0.5}, num_images: 1000, images_seen: 2000}
finetune: {epochs: 1}
"""
ALL = TWO.replace("num_images: 1000, images_seen: 2000", "epochs: 5").replace(
    "{species: 0.5, fractals: 0.5}", "{species: 1}"
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def opened(text: str, *flags: str):
    Path("x.yaml").write_text(text)
    return open_sweep(load_spec("x.yaml", flags))


def pretrained(sweep) -> list:
    return [trial for trial in sweep.plan if trial.pretrain is not None]


# --- the work of a plan is that of the run


@pytest.mark.parametrize(
    "flags",
    [
        ["pretrain.images_per_class=10"],
        ["pretrain.num_classes=20"],
        ["pretrain.holdout=0"],
        ["pretrain.subclasses_per_label=2", "pretrain.granularity=family"],
        ["pretrain.num_classes=20", "pretrain.images_per_class=10"],
        ["pretrain.num_images=500"],
        [],
    ],
)
def test_epochs_are_of_the_images_that_are_drawn(flags):
    sweep = opened(ALL, *flags)
    drawn = draw_all(sweep, {})
    for trial in pretrained(sweep):
        assert trial.pretrain_images == 5 * drawn[trial.id].images


@pytest.mark.parametrize("workers", [1, 4])
def test_a_measured_rate_is_of_one_worker(workers, tmp_path, monkeypatch):
    """Of a pre-training, which all workers share, and of a fine-tuning, which one of them has."""
    monkeypatch.setenv("RAY_ROBUST_CACHE", str(tmp_path / "cache"))
    sweep = opened(TWO)
    (trial,) = pretrained(sweep)
    stages = [SimpleNamespace(name="pretrain", kind="pretrain-supervised", cost=1000.0),
              SimpleNamespace(name=trial.finetunings[0].id, kind="finetune-full", cost=300.0)]  # fmt: skip
    row = {"finetune": trial.finetunings[0].id, "seconds_pretrain": 10.0 / workers, "seconds_finetune": 3.0}
    folder = SimpleNamespace(finished=dict, rows=lambda: [row])
    resources = Resources(workers=workers)
    provenance.record_throughput(
        SimpleNamespace(trial=lambda name: folder), [SimpleNamespace(trial=trial, stages=stages)], resources
    )
    assert {round(rate) for rate in throughput.measured_rates().values()} == {100}
    assert measured_rate(resources)(trial, stages[0]).images == pytest.approx(100 * workers)


# --- keys that decide nothing


def test_what_decides_nothing_is_noted():
    (weights,) = (note for note in opened(TWO, "pretrain={sources: {lattice: [species, fractals], steps: 4}, "
                  "images_per_class: 10}").notes if "weights decide nothing" in note)  # fmt: skip
    assert weights.startswith("pretrain.sources: ")
    assert any("at most 20 images of a class" in note for note in opened(TWO, "pretrain.holdout=0.5").notes)
    assert not any("weights" in note or "holdout" in note for note in opened(TWO).notes)


def test_groups_are_named_by_what_their_method_uses():
    sweep = opened(TWO, "pretrain.method={grid: [supervised, simclr]}", "pretrain.label_noise={grid: [0.2, 0.4]}",
                   "pretrain.temperature={grid: [0.1, 0.5]}")  # fmt: skip
    assert {trial.group for trial in pretrained(sweep)} == {
        "method=supervised, label_noise=0.2", "method=supervised, label_noise=0.4",
        "method=simclr, temperature=0.1", "method=simclr, temperature=0.5",
    }  # fmt: skip
    assert "pretrain: 4 combinations of its grids, equal in meaning to others, run once" in sweep.notes


def test_conditions_see_the_values_that_are_used():
    def methods(where: str) -> set[str]:
        sweep = opened(TWO.replace(", images_seen: 2000", ""), "pretrain.method={grid: [supervised, simclr]}",
                       f"search={{where: '{where}'}}")  # fmt: skip
        return {trial.pretrain.method for trial in pretrained(sweep)}

    assert methods('augment == "strong"') == {"simclr"}
    assert methods('augment == "crop"') == {"supervised"}
    assert methods("epochs <= 20") == {"supervised", "simclr"}


# --- flags


def test_a_flag_below_a_weight_keeps_it():
    sweep = opened(TWO, "pretrain.sources.species.seed=3")
    (trial,) = pretrained(sweep)
    assert {name: own.weight for name, own in trial.pretrain.sources.items()} == {"species": 0.5, "fractals": 0.5}


def test_a_flag_below_a_value_is_refused_and_one_that_varies_it_is_not():
    assert problems(lambda: opened(TWO, "pretrain.num_images.least=3")) == [
        "--set pretrain.num_images.least=3: pretrain.num_images is 1000, which has no keys; give the whole of it: "
        "--set pretrain.num_images={least: ...}"
    ]
    assert len(pretrained(opened(TWO, "pretrain.num_images.grid=[500, 1000]"))) == 2


POINTS = TWO.replace("num_images: 1000", "num_classes: 20, points: [{num_images: 500}, {num_images: 600}]")


def test_a_flag_that_every_point_overrides_is_refused():
    assert problems(lambda: opened(POINTS, "pretrain.num_images=100")) == [
        "--set pretrain.num_images=100: pretrain.num_images: has no effect: every one of pretrain.points sets it"
    ]
    assert len(pretrained(opened(POINTS, "pretrain.num_classes=10"))) == 2


# --- grids of whole sections, a simplex, numbers

WHOLE = TWO.replace("finetune: {epochs: 1}", "finetune: {grid: [{lr: 1e-3, epochs: 4}, {lr: 3e-3, epochs: 8}]}")


def test_the_baseline_of_a_grid_of_sections_has_its_own_keys_in_each():
    spec = load_spec_of(WHOLE + "baseline: {finetune: {weight_decay: 0.1}}\n")
    made = [(own.section.lr, own.section.epochs, own.section.weight_decay) for own in spec.baseline_finetunes]
    assert made == [(1e-3, 4, 0.1), (3e-3, 8, 0.1)]
    usual = load_spec_of(WHOLE)
    assert [own.section for own in usual.baseline_finetunes] == [own.section for own in usual.finetunes]


def test_no_flag_goes_into_a_grid_of_sections():
    assert problems(lambda: opened(WHOLE, "finetune.epochs=2")) == [
        "--set finetune.epochs=2: finetune is a grid of whole sections, which takes no key; give it anew: "
        "--set finetune={...}"
    ]


def load_spec_of(text: str):
    Path("x.yaml").write_text(text)
    return load_spec("x.yaml")


@pytest.mark.parametrize("key", ["pretrain.granularity", "model.name"])
def test_a_simplex_elsewhere_is_one_line(key):
    assert problems(lambda: opened(TWO, f"{key}={{simplex: [order, family]}}")) == [
        f"--set {key}={{simplex: [order, family]}}: {key}: a simplex is of pretrain.sources; wanted: a value, or "
        "{grid: [...]}"
    ]


def test_a_number_beyond_all_numbers_is_one_line():
    digits = "1" * 320
    for flag in (f"pretrain.label_noise={digits}", f"pretrain.sources={{species: {digits}}}", f"seeds={digits}"):
        (line,) = problems(lambda flag=flag: opened(TWO, flag))
        assert line.endswith(": a number of 320 digits; at most 300 are possible")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1_234_567.4", 1234567.4), ("1.2345674M", 1234567.4), ("1.2M", 1_200_000), ("64k", 64_000), ("3e-4", 3e-4),
     ("1e3", 1000), ("0", 0.0), ("0.5k", 500), ("1e400", None), ("1e1000000", None),
     ("nan", None), ("inf", None), ("1.1.1", None)],
)  # fmt: skip
def test_a_number_is_the_one_that_is_written(text, number):
    read = parse_number(text)
    assert json.dumps(read) == json.dumps(number)


def test_the_old_name_of_a_group_leads_to_its_new_one():
    text = TWO + 'baseline: "method=simclr, label_noise=0.2"\n'
    flags = ["pretrain.method={grid: [supervised, simclr]}", "pretrain.label_noise={grid: [0.2, 0.4]}"]
    assert problems(lambda: opened(text, *flags)) == [
        "x.yaml:5: baseline: 'method=simclr, label_noise=0.2' is no group; did you mean method=simclr?"
    ]


def test_weights_that_divide_labels_or_classes_are_not_said_to_decide_nothing():
    for more in ("granularity: 'random:10'", "classes: {nearest: 20, to: Cervanta}"):
        notes = opened(
            TWO, f"pretrain={{sources: {{species: 0.8, fractals: 0.2}}, images_per_class: 10, {more}}}"
        ).notes
        assert not any("weights decide nothing" in note for note in notes)


def test_levels_that_stand_for_draws_are_no_combinations_of_a_grid():
    flags = ["pretrain.method={choice: [simclr, supervised]}", "pretrain.label_noise={uniform: [0.1, 0.3]}",
             "pretrain.temperature={uniform: [0.1, 0.5]}", "search={method: random, trials: 3}"]  # fmt: skip
    assert not any("run once" in note for note in opened(TWO, *flags).notes)


def test_a_flag_below_a_short_form_writes_it_out():
    (trial,) = pretrained(
        opened(TWO.replace("num_images", "label_noise: 0.2, num_images"), "pretrain.label_noise.share=0.3")
    )
    assert trial.pretrain.label_noise.share == 0.3


def test_classes_in_place_of_splits_are_one_line(tmp_path):
    def task(path: Path) -> list[str]:
        return problems(lambda: open_pool("task", "folder", {"path": str(path)}).catalog)

    wanted = "images lie directly in cat, dog, without class folders between; wanted: <split>/<class>/*.jpg"
    assert task(make_images.tree(tmp_path / "few", {"cat": 3, "dog": 8})) == [f"{tmp_path}/few: {wanted}"]
    many = make_images.tree(tmp_path / "many", {f"c{i}": 1 for i in range(7)})
    assert "directly in c0, c1, c2, c3, c4 and 2 more, without" in task(many)[0]
