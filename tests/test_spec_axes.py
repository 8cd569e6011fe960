"""What varies in a spec: grids, points, mixtures of sources, lattices and draws from the simplex."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from ray_robust.errors import UserError
from ray_robust.spec.load import Spec, load_spec


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str) -> Spec:
    Path("x.yaml").write_text(textwrap.dedent(text))
    return load_spec("x.yaml")


def test_a_grid_makes_levels_in_the_files_order_the_last_fastest():
    spec = load("""\
        task: {name: camera-traps}
        pretrain: {sources: {species: 1}, num_images: {grid: [2k, 1000]}, epochs: {grid: [1, 2]}}
        """)
    assert [level.label for level in spec.pretrains] == [
        "num_images=2000, epochs=1",
        "num_images=2000, epochs=2",
        "num_images=1000, epochs=1",
        "num_images=1000, epochs=2",
    ]
    assert spec.pretrains[1].short == "2000-2"


def test_points_are_combinations_that_are_no_product():
    spec = load("""\
        task: {name: camera-traps}
        pretrain:
          sources: {species: 1}
          epochs: 1
          lr: {grid: [1e-3, 2e-3]}
          points:
            - {num_classes: 20, images_per_class: 12}
            - {num_classes: 40, images_per_class: 6}
        """)
    found = [(p.section.lr, p.section.num_classes, p.section.images_per_class) for p in spec.pretrains]
    assert found == [(1e-3, 20, 12), (1e-3, 40, 6), (2e-3, 20, 12), (2e-3, 40, 6)]
    assert spec.pretrains[0].label == "lr=0.001, num_classes=20, images_per_class=12"


def test_sources_tasks_and_whole_sections_can_vary():
    spec = load("""\
        task: {grid: [{name: camera-traps}, {name: camera-traps, shift: 0}]}
        pretrain:
          sources: {grid: [{species: 1}, {species: 0.5, fractals: {weight: 0.5, classes: 9}}]}
          epochs: 1
        finetune: {grid: [{lr: 1e-3, epochs: 2}, {lr: 1e-2, epochs: 4}]}
        model: {name: {grid: [test_resnet, test_vit]}}
        """)
    assert [level.section.options.shift for level in spec.tasks] == [1.0, 0.0]
    assert [level.label for level in spec.pretrains] == ["sources=species:1", "sources=species:0.5+fractals:0.5"]
    assert spec.pretrains[1].section.sources["fractals"].options.classes == 9
    assert [(level.section.lr, level.section.epochs) for level in spec.finetunes] == [(1e-3, 2), (1e-2, 4)]
    assert [level.section.name for level in spec.models] == ["test_resnet", "test_vit"]


def test_weights_can_vary_one_by_one():
    spec = load("""\
        task: {name: camera-traps}
        pretrain: {sources: {species: {weight: {grid: [0.25, 0.75]}}, fractals: 1}, num_images: 100, epochs: 1}
        """)
    assert [level.section.sources["species"].weight for level in spec.pretrains] == [0.25, 0.75]


def mixtures(sources: str) -> list[dict[str, float]]:
    """The weights of every level of these `sources`."""
    spec = load(f"""\
        task: {{name: camera-traps}}
        pretrain: {{sources: {sources}, num_images: 100, epochs: 1}}
        """)
    return [{name: s.weight for name, s in level.section.sources.items()} for level in spec.pretrains]


def test_a_source_of_weight_nothing_is_absent():
    assert mixtures("{grid: [{species: 1, fractals: 0}, {species: 0.0, fractals: 2}]}") == [
        {"species": 1},
        {"fractals": 2},
    ]
    assert mixtures("{species: {weight: {grid: [0, 1]}}, fractals: 1}") == [
        {"fractals": 1},
        {"species": 1, "fractals": 1},
    ]


def test_options_of_a_source_are_given_once_beside_the_axis():
    spec = load("""\
        task: {name: camera-traps}
        pretrain:
          sources:
            grid: [{species: 1}, {species: 0.5, mine: {weight: 0.5, classes: 9}}, {species: {species: 70}, mine: 1}]
            options: {species: {species: 50}, mine: {kind: fractals, classes: 30, seed: 4}}
          num_images: 100
          epochs: 1
        """)
    sources = [level.section.sources for level in spec.pretrains]
    assert [s["species"].options.species for s in sources] == [50, 50, 70]
    assert [(s["mine"].kind, s["mine"].options.classes, s["mine"].options.seed) for s in sources[1:]] == [
        ("fractals", 9, 4),
        ("fractals", 30, 4),
    ]
    assert [level.short for level in spec.pretrains] == ["species:1", "species:0.5+mine:0.5", "species:1+mine:1"]


def test_mixtures_of_equal_weights_are_told_apart_by_their_options():
    spec = load("""\
        task: {name: camera-traps}
        pretrain: {sources: {grid: [{species: {species: 50}}, {species: {weight: 1, species: 90}}]}, epochs: 1}
        """)
    assert [level.short for level in spec.pretrains] == ["species:1[species=50]", "species:1[species=90]"]


def test_a_lattice_has_every_mixture_in_so_many_steps():
    assert mixtures("{lattice: [species, fractals], steps: 4}") == [
        {"fractals": 1.0},
        {"species": 0.25, "fractals": 0.75},
        {"species": 0.5, "fractals": 0.5},
        {"species": 0.75, "fractals": 0.25},
        {"species": 1.0},
    ]
    three = mixtures("{lattice: [species, fractals, other], steps: 3, options: {other: {kind: fractals, seed: 1}}}")
    assert len(three) == 10
    assert {len(mixture) for mixture in three} == {1, 2, 3}
    assert all(sum(mixture.values()) == pytest.approx(1) for mixture in three)


def test_draws_on_the_simplex_are_the_same_however_many():
    names = "[species, fractals, other], options: {other: {kind: fractals, seed: 1}}"
    few, many = (mixtures(f"{{simplex: {names}, draws: {n}}}") for n in (5, 300))
    assert few == many[:5]
    assert few[0] == {"species": 0.262, "fractals": 0.02, "other": 0.718}, "other draws would be other trials"
    assert all(sum(mixture.values()) == pytest.approx(1) for mixture in many)
    assert mixtures(f"{{simplex: {names}, draws: 5, seed: 1}}") != few
    for name in ("species", "fractals", "other"):
        assert sum(mixture.get(name, 0) for mixture in many) / 300 == pytest.approx(1 / 3, abs=0.05)
    # uniform on the triangle: where one source has more than half are three of its four quarters
    assert sum(max(mixture.values()) > 0.5 for mixture in many) / 300 == pytest.approx(0.75, abs=0.08)
    near = mixtures(f"{{simplex: {names}, draws: 50, concentration: 100}}")
    assert all(abs(weight - 1 / 3) < 0.15 for mixture in near for weight in mixture.values())
    corners = mixtures(f"{{simplex: {names}, draws: 50, concentration: 0.01}}")
    assert sum(len(mixture) == 1 for mixture in corners) == 3, "what is drawn twice is one mixture"
    assert len(corners) < 25


def groups_of(weights, tmp_path, extra=""):
    (tmp_path / "w.yaml").write_text(
        f"task: {{name: camera-traps}}\npretrain: {{method: weights, weights: {{grid: {weights}}}}}\n{extra}"
    )
    spec = load_spec(tmp_path / "w.yaml")
    return [level.label for level in spec.pretrains], [level.short for level in spec.pretrains]


def test_weights_that_are_files_are_called_by_their_names(tmp_path):
    """Ids go by what was written, as before; tables need no folders of one machine."""
    written = ["$DATA/w/lite0", "/srv/w/lite1.pth", "~/w/lite2", "ViT-B-32/openai", "resnet18.a1_in1k"]
    labels, short = groups_of(f"[{', '.join(written)}]", tmp_path)
    names = ["lite0", "lite1.pth", "lite2", "ViT-B-32/openai", "resnet18.a1_in1k"]
    assert labels == [f"weights={name}" for name in names]
    assert short == written
    spec = "baseline: weights=lite2\n"
    assert groups_of(f"[{', '.join(written)}]", tmp_path, spec)[0] == labels
    with pytest.raises(UserError, match=r"'weights=~/w/lite2' is no group; did you mean weights=lite2\?"):
        groups_of(f"[{', '.join(written)}]", tmp_path, 'baseline: "weights=~/w/lite2"\n')


def test_weights_that_are_called_alike_keep_their_paths(tmp_path):
    assert groups_of("[$DATA/a/model.pth, $DATA/b/model.pth]", tmp_path)[0] == [
        "weights=$DATA/a/model.pth", "weights=$DATA/b/model.pth",
    ]  # fmt: skip


def test_mixtures_of_equal_shares_are_one():
    twice = "pretrain: {sources: {grid: [{species: 1, fractals: 1}, {species: 2, fractals: 2}]}}"
    with pytest.raises(UserError, match=r"is the mixture species:1\+fractals:1 once more: weights"):
        load(f"task: {{name: camera-traps}}\n{twice}")
    other = "pretrain: {sources: {grid: [{species: 1, fractals: 1}, {species: {weight: 1, species: 50}, fractals: 1}]}}"
    assert len(load(f"task: {{name: camera-traps}}\n{other}").pretrains) == 2


@pytest.mark.parametrize("key", ["method: linear", "wise_ft: [0.5]", "probe_epochs: 3"])
def test_a_baseline_from_scratch_refuses_what_it_would_ignore(key):
    with pytest.raises(UserError, match=f"{key.partition(':')[0]}: a model from scratch is fine-tuned"):
        load(f"task: {{name: camera-traps}}\npretrain: none\nbaseline: {{name: scratch, finetune: {{{key}}}}}")


def test_seeds_of_names_a_group_of_one_mixture():
    seeds = "seeds: {first: 4, until: 4, of: [NAME, scratch]}"
    text = f"task: {{name: camera-traps}}\npretrain: {{sources: {{species: 1}}}}\n{seeds}"
    assert load(text.replace("NAME", "pretrained")).stages.of == ("pretrained", "scratch")
    with pytest.raises(UserError, match="'pretraind' is no group; did you mean pretrained"):
        load(text.replace("NAME", "pretraind"))
