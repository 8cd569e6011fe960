"""What a search draws: values named by key and number, whole where they must be, mistakes at their line."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from ray_robust.errors import UserError
from ray_robust.registry import SEARCHES
from ray_robust.spec.conditions import Undefined, namespace, parse_condition
from ray_robust.spec.dirichlet import draw_mixture
from ray_robust.spec.load import Spec, load_spec
from ray_robust.spec.mixture_axes import Simplex
from ray_robust.spec.search_space import Dimension, Space

DRAWING = " or ".join(name for name, method in SEARCHES.items() if method.draws)
LEARNING = " or ".join(name for name, method in SEARCHES.items() if method.learns)

SPEC = """\
task: {name: camera-traps}
pretrain:
  sources: {simplex: [species, fractals]}
  num_images: {loguniform: [1000, 16k]}
  num_classes: {uniform: [10, 200]}
  granularity: {choice: [class, family]}
  images_seen: 6400
search: {method: random, trials: 5}
"""
NUMBER = Dimension("a", ("pretrain", "a"), "uniform", 0.0, 1.0)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(*overrides: str, text: str = SPEC) -> Spec:
    Path("x.yaml").write_text(textwrap.dedent(text))
    return load_spec("x.yaml", overrides)


def mistakes(*overrides: str, text: str = SPEC) -> list[str]:
    with pytest.raises(UserError) as raised:
        load(*overrides, text=text)
    return [problem.what for problem in raised.value.problems]


def test_draws_are_named_by_key_and_number():
    spec = load()
    values = spec.space.draw(3)
    assert load("search.trials=500").space.draw(3) == values
    more = load("pretrain.lr={loguniform: [1e-4, 1e-2]}").space.draw(3)
    assert {key: more[key] for key in values} == values
    assert load("search.seed=1").space.draw(3) != values
    assert spec.space.draw(4) != values


def test_whole_numbers_are_whole_and_others_are_short():
    space = load("pretrain.lr={loguniform: [1e-4, 1e-2]}").space
    draws = [space.draw(i) for i in range(300)]
    images = [draw["pretrain.num_images"] for draw in draws]
    assert all(type(n) is int and 1000 <= n <= 16_000 for n in images)
    assert 100 < sum(n < 4000 for n in images) < 200  # half of them: the scale is a logarithm's
    classes = [draw["pretrain.num_classes"] for draw in draws]
    assert all(type(n) is int and 10 <= n <= 200 for n in classes)
    assert 100 < sum(n < 105 for n in classes) < 200
    rates = [draw["pretrain.lr"] for draw in draws]
    assert all(1e-4 <= rate <= 1e-2 and len(f"{rate:.12g}".lstrip("0.")) <= 4 for rate in rates)
    assert set(Counter(draw["pretrain.granularity"] for draw in draws)) == {"class", "family"}


def test_the_ends_are_drawn_as_often_as_what_lies_between():
    few = Dimension("a", ("a",), "uniform", 1.0, 4.0, whole=True)
    counts = Counter(few.draw(number, 0) for number in range(4000))
    assert sorted(counts) == [1, 2, 3, 4]
    assert min(counts.values()) > 850


def test_mixtures_are_those_of_a_grid_s_simplex_in_thousandths():
    space = load().space
    grid = Simplex(simplex=["species", "fractals"], draws=5).weights()
    for number, weights in enumerate(grid):
        assert tuple(space.draw(number)["pretrain.sources"].values()) == weights
    near = [draw_mixture(("a", "b", "c"), str(i), 50.0) for i in range(50)]
    assert all(sum(round(1000 * w) for w in one.values()) == 1000 and max(one.values()) < 0.6 for one in near)


def test_a_draw_is_a_spec_without_anything_open():
    spec = load()
    values = {**spec.space.draw(0), "pretrain.sources": {"species": 1.0, "fractals": 0.0}}
    (level,) = spec.at(values).pretrains
    assert list(level.section.sources) == ["species"]  # a source of weight 0 is absent
    assert level.section.num_images == values["pretrain.num_images"]
    assert level.label.startswith(f"sources=species:1, num_images={values['pretrain.num_images']}, num_classes=")
    assert "simplex" in spec.resolved  # the run's spec.yaml is that of the search
    Path("again.yaml").write_text(spec.resolved)
    assert load_spec("again.yaml").space == spec.space


def test_grids_beside_draws_are_levels_of_every_draw():
    spec = load("finetune.lr={grid: [1e-3, 3e-3]}", "pretrain.granularity={grid: [class, family, order]}")
    found = spec.at(spec.space.draw(0))
    assert (len(found.pretrains), len(found.finetunes)) == (3, 2)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["search.trials=null"], "search: give trials (how many mixtures to draw) or a budget"),
        (["search.method=grid"], f"search: trials belongs to method {DRAWING}; a grid runs all that is written"),
        (["search={method: grid}"],
         "pretrain.num_images: {loguniform: ...} is drawn by search.method "
         f"{DRAWING}; method grid wants {{grid: [...]}}"),
        (["search.objective=ood"],
         "search.objective: 'ood' is a score on a test split, which the objective of a search must not use; did you "
         "mean ood_val?"),
        (["search.budget={image: 3}"], "search.budget.image: unknown key; did you mean images?"),
        (["search.budget={}"], "search.budget: give images or device_hours, or both"),
        (["search.stop={milestones: [0.3, 0.1]}"],
         "search.stop.milestones: must rise, as shares of a pre-training: [0.1, 0.3]"),
        (["search.stop=asha", "search.objective=upstream_accuracy"],
         "search: stop needs mode max and an objective that a probe can tell: effective_robustness, id_val, ood_val"),
        (["search.startup=3"], f"search: startup belongs to method {LEARNING}; random draws do not learn"),
        (["pretrain.num_images={loguniform: [0, 10]}"], "pretrain.num_images: a log scale begins above 0, not at 0"),
        (["pretrain.num_images={uniform: [9, 2]}"], "pretrain.num_images: the lowest must come first, not 9,2"),
        (["pretrain.num_images={uniform: [9]}"],
         "pretrain.num_images: must be two numbers, the lowest and the highest: [1000, 64k]"),
        (["pretrain.num_images={uniform: [100.5, 900]}"],
         "pretrain.num_images: must be two whole numbers, not 100.5,900"),
        (["pretrain.granularity={choice: [class, class]}"], "pretrain.granularity: class is given twice"),
        (["pretrain.holdout={uniform: [0.5, 1.5]}"], "pretrain.holdout: must be below 1, not 1.5"),
        (["pretrain.num_imges={uniform: [1, 2]}"], "pretrain.num_imges: unknown key; did you mean num_images?"),
        (["pretrain.sources={simplex: [species, fractlas]}"],
         "pretrain.sources.fractlas: 'fractlas' is no known source; did you mean fractals?"),
        (["pretrain.sources={species: {species: {choice: [10, 50]}}}"],
         "pretrain.sources.species.species: cannot be drawn; of a source only its weight can"),
        (["model.image_size={choice: [32, 64]}"],
         "model.image_size: a search draws within pretrain and finetune; {grid: [...]} runs every draw on each"),
        (["finetune.lr={loguniform: [1e-4, 1e-2]}"],
         "finetune.lr: is drawn; say in baseline.finetune what the baseline takes"),
        (["search.method=optuna", "baseline=none"],
         "baseline: none leaves no line, so no effective_robustness; give scratch, or another search.objective"),
        (["search.where=num_imges < 5000"],
         "search.where: unknown name num_imges in 'num_imges < 5000'; did you mean num_images?"),
        (["search.where=images_per_class < 1"], "search.where: none of the first 1,000 draws meets it"),
    ],
)  # fmt: skip
def test_an_error_is_reported_at_its_place(overrides, said):
    assert said in mistakes(*overrides)


def test_a_search_that_draws_nothing_is_reported():
    (said,) = mistakes(
        text="""\
        task: {name: camera-traps}
        pretrain: {sources: {species: 1}, num_images: 1000, epochs: 1}
        search: {method: random, trials: 5}
        """
    )
    assert said.startswith("search: method random draws, but no value is left open; write one as {uniform: [a, b]}")


# --- conditions


NAMES = ("num_images", "num_classes", "images_per_class", "granularity")


def holds(text: str, shares=None, **values) -> bool:
    condition = parse_condition(text, NAMES, ("species", "my-birds"))
    return condition.holds(namespace({**dict.fromkeys(NAMES), **values}, shares or {}))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("num_classes * images_per_class <= 100_000", True),
        ("num_images > 6k", False),
        ("num_images == 6k and not num_classes > 100", True),
        ("4k <= num_images <= 0.1M", True),
        ("images_per_class >= 60 or num_classes < 5", True),
        ('granularity in ["class", "order"]', True),
        ('granularity != "class"', False),
        ("sources.species >= 0.25", True),
        ('sources["my-birds"] < 0.5', False),
        ("log10(num_images) - 3 < min(1, num_classes / 100)", True),
        ("-num_images % 7 // 2 >= 0", True),
    ],
)
def test_conditions_are_arithmetic_and_comparisons(text, wanted):
    shares = {"species": 0.25, "my-birds": 0.75}
    assert holds(text, shares, num_images=6000, num_classes=100, granularity="class") is wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_imges < 3", "unknown name num_imges in 'num_imges < 3'; did you mean num_images?"),
        ("sources.specis > 0.5", "no source 'specis' in 'sources.specis > 0.5'; did you mean species?"),
        ("num_images", "compares nothing; a condition has"),
        ("num_images <", "is no condition: it cannot be read"),
        ("__import__('os').system('true') == 0", "is not allowed: names, numbers, text"),
        ("num_images.__class__ == 1", "is not allowed"),
        ("num_images ** 9 ** 9 ** 9 > 1", "is not allowed"),
        ("[x for x in (1, 2)] == 1", "is not allowed"),
        ("(lambda: 1)() == 1", "is not allowed"),
        ("open('x') == 1", "unknown function open"),
        ("num_images < None", "is neither a number nor text"),
        ("f'{num_images}' == 'x'", "is not allowed"),
        ("1 < " * 200 + "2", "is longer than 500 characters"),
        (3, "must be a condition such as"),
    ],
)
def test_what_is_no_condition_is_reported_and_never_run(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_condition(text, NAMES, ("species",))


def test_of_total_classes_and_each_the_third_is_known():
    assert holds("images_per_class == 60", num_images=6000, num_classes=100)
    assert holds("num_images == 6000", num_images="all", num_classes=100, images_per_class=60)
    with pytest.raises(Undefined, match="num_images is all: there is no number to compare with"):
        holds("num_images < 5", num_images="all")
    with pytest.raises(Undefined, match="division by zero"):
        holds("num_images / 0 < 5", num_images=3)


def test_a_grid_leaves_out_what_does_not_meet_a_condition():
    text = """\
        task: {name: camera-traps}
        pretrain:
          sources: {grid: [{species: 1}, {species: 3, fractals: 1}]}
          num_images: {grid: [10, 1000, 4000]}
          num_classes: {grid: [20, 100]}
          epochs: 1
        search: {where: [num_images >= 10 * num_classes, "sources.species > 0.5"]}
        """
    spec = load(text=text)
    kept = [(level.section.num_images, level.section.num_classes) for level in spec.pretrains]
    assert sorted(kept) == sorted(2 * [(1000, 20), (1000, 100), (4000, 20), (4000, 100)])
    assert spec.excluded == 4  # of those, 10 images in 20 or 100 classes would be a mistake: a condition rules it out
    assert mistakes("search.where=num_images > 1M", text=text) == ["search.where: none of the 12 mixtures meets it"]


def test_a_cover_of_a_space_has_every_choice_and_both_ends():
    space = Space((NUMBER, Dimension("b", ("b",), "choice", choices=("x", "y"))))
    found = list(space.cover({"a": 0.5, "b": "x"}))
    assert found == [("a", {"a": 0.0, "b": "x"}), ("a", {"a": 1.0, "b": "x"}), ("b", {"a": 0.5, "b": "x"}),
                     ("b", {"a": 0.5, "b": "y"})]  # fmt: skip
    assert len({tuple(values.items()) for values in itertools.starmap(lambda _, values: values, found)}) == 4
