"""Which classes, under which labels: every way of `classes`, `granularity` and `subclasses_per_label`, and every
impossible request in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from ray_robust.data.mixtures.mixture import Subset, draw
from ray_robust.data.pool import Catalog
from ray_robust.errors import UserError
from tests.make_mixtures import ANIMALS, FAMILY, TOOLS, asked, pool


def taken(pools: dict[str, Catalog] | None = None, seed: int = 1, weights: dict | None = None, **keys: Any) -> Subset:
    pools = pools or {"a": pool()}
    return draw(asked(weights or dict.fromkeys(pools, 1.0), **keys), pools, dict.fromkeys(pools), seed)


def drawn_classes(subset: Subset, catalog: Catalog) -> set[str]:
    return {catalog.classes[k] for k in np.unique(catalog.labels[subset.shares[0].rows])}


def labels_of(subset: Subset, catalog: Catalog) -> dict[str, str]:
    """The label of every drawn class."""
    (share,) = subset.shares
    pairs = zip(catalog.labels[share.rows], share.labels, strict=True)
    return {catalog.classes[c]: subset.classes[k] for c, k in pairs}


# --- classes


@pytest.mark.parametrize(
    ("choice", "wanted", "text"),
    [
        ("all", {*ANIMALS, *TOOLS}, "all"),
        (["pen", "owl"], {"owl", "pen"}, "owl, pen"),
        (["cat", "pen", "owl", "fox"], {"cat", "pen", "owl", "fox"}, "4 classes (cat ...)"),
        ({"under": "animal"}, set(ANIMALS), "under animal"),
        ({"under": ["cats", "writers"]}, {"cat", "lion", "pen"}, "under cats, writers"),
        ({"under": "owl"}, {"owl"}, "under owl"),
        ({"nearest": 2, "to": "cats"}, {"cat", "lion"}, "nearest 2 to cats"),  # its own members come first
        ({"nearest": "5", "to": "cats"}, set(ANIMALS), "nearest 5 to cats"),
        ({"farthest": 3, "to": ["cats", "dogs"]}, set(TOOLS), "farthest 3 to cats, dogs"),
    ],
)
def test_a_choice_of_classes(choice, wanted, text):
    mixture = asked(classes=choice)
    assert drawn_classes(draw(mixture, {"a": pool()}, {"a": None}, 1), pool()) == wanted
    assert (mixture.classes.text if mixture.classes else "all") == text
    written = mixture.model_dump(mode="json")["classes"]
    assert asked(classes=written) == mixture  # as a run's spec.yaml keeps it


def test_a_csv_of_classes_and_of_labels(tmp_path):
    (tmp_path / "few.csv").write_text("class\nowl\npen\n")
    (tmp_path / "map.csv").write_text("class,label\nowl,flies\npen,lies\nfox,runs\n")
    files = {"classes": f"{tmp_path}/few.csv", "granularity": f"map:{tmp_path}/map.csv"}
    subset = taken(**files)
    assert labels_of(subset, pool()) == {"owl": "flies", "pen": "lies"}
    assert asked(**files).tables == {"classes": f"{tmp_path}/few.csv", "granularity": f"{tmp_path}/map.csv"}
    assert asked(**files).classes.text == "few"


def test_equals_in_distance_are_the_same_for_every_seed():
    found = [drawn_classes(taken(classes={"nearest": 6, "to": "animal"}, seed=seed), pool()) for seed in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 6


def test_classes_are_chosen_before_their_number():
    subsets = [taken(classes={"under": "animal"}, num_classes=k, num_images=k) for k in (2, 4)]
    fewer, more = (drawn_classes(subset, pool()) for subset in subsets)
    assert fewer < more < set(ANIMALS)


def test_a_number_of_classes_is_divided_by_weight():
    pools = {"a": pool(), "b": pool(TOOLS)}
    subset = taken(pools, weights={"a": 3.0, "b": 1.0}, classes={"nearest": 4, "to": "tool"}, num_images=8)
    assert [part["classes"] for part in subset.composition] == [3, 1]


# --- granularity


@pytest.mark.parametrize(
    ("granularity", "labels"),
    [
        ("class", 8),
        ("family", 5),
        ("kingdom", 2),
        ("depth:1", 2),
        ("depth:2", 5),
        ("labels:5", 5),
        (6, 5),
        ("7", 8),
        ("labels:3", 2),
        ("labels:1", 2),
        ("random:3", 3),
    ],
)
def test_a_cut_has_its_number_of_labels(granularity, labels):
    subset = taken(granularity=granularity)
    (part,) = subset.composition
    assert len(subset.classes) == part["labels"] == labels
    assert len(subset) == sum(subset.images_per_label().values()) == 95
    counts = subset.images_per_label().values()
    assert (part["fewest_per_label"], part["most_per_label"]) == (min(counts), max(counts))


def test_of_two_cuts_as_near_the_one_with_fewer_labels():
    two_and_four = dict.fromkeys(("cat", "wolf", "owl", "saw"), 3)  # 2 kingdoms, 4 families
    assert len(taken({"a": pool(two_and_four)}, granularity="labels:3").classes) == 2


def test_a_cut_counts_the_chosen_classes():
    assert len(taken(granularity="labels:3", classes={"under": "animal"}).classes) == 3  # cats, dogs, birds


def test_random_labels_are_of_near_equal_size_and_dealt_by_name():
    first = labels_of(taken(granularity="random:3"), pool())
    sizes = pd.Series(first).value_counts()
    assert sorted(sizes) == [2, 3, 3]
    assert labels_of(taken(granularity="random:3", num_images=50), pool()).items() <= first.items()
    assert labels_of(taken(granularity="random:3", seed=2), pool()) != first


def test_the_images_stay_while_labels_get_coarser():
    rows = [taken(granularity=g, num_images=40).shares[0].rows for g in ("class", "family", "random:2", 2)]
    assert all((other == rows[0]).all() for other in rows)


# --- subclasses and label spaces


def test_fewer_subclasses_lie_in_more_and_keep_labels_and_total():
    pools = {"a": pool({name: 20 for name in FAMILY if name != "pen" and name != "owl"})}  # three families of two
    one, two = (
        taken(pools, granularity="family", subclasses_per_label=n, num_images=30, balance="uniform") for n in (1, 2)
    )
    assert one.classes == two.classes == ("cats", "cutters", "dogs")
    assert set(one.images_per_label().values()) == set(two.images_per_label().values()) == {10}
    assert drawn_classes(one, pools["a"]) < drawn_classes(two, pools["a"])
    assert (one.leaf_classes, two.leaf_classes) == (3, 6)


def test_shared_label_spaces_merge_equal_labels():
    pools = {"a": pool(), "b": pool(TOOLS)}
    apart = taken(pools, granularity="family", num_images=60)
    shared = taken(pools, granularity="family", num_images=60, label_space="shared")
    assert apart.classes == ("a/birds", "a/cats", "a/cutters", "a/dogs", "a/writers", "b/cutters", "b/writers")
    assert shared.classes == ("birds", "cats", "cutters", "dogs", "writers")
    for one, other in zip(apart.shares, shared.shares, strict=True):
        assert (one.rows == other.rows).all()
        assert [apart.classes[k].partition("/")[2] for k in one.labels] == [shared.classes[k] for k in other.labels]
    assert sum(shared.images_per_label().values()) == 60


def test_random_labels_are_shared_like_any_other():
    pools = {"a": pool(), "b": pool(TOOLS)}
    shared = taken(pools, granularity="random:3", num_images=60, label_space="shared")
    apart = taken(pools, weights={"a": 2.0, "b": 1.0}, granularity="random:3", num_images=60)
    assert shared.classes == ("random 1", "random 2", "random 3")
    assert apart.classes == ("a/random 1", "a/random 2", "b/random 1")
    found = [
        {
            (pools[share.source].classes[c], k)
            for c, k in zip(pools[share.source].labels[share.rows], share.labels, strict=True)
        }
        for share in shared.shares
    ]
    assert found[1] <= found[0]  # a class of both sources has one label
    assert len(found[0]) == 8


# --- what cannot be


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        ({"classes": ["catt"]}, ["pretrain.classes: source a has no class 'catt'; did you mean cat?"]),
        (
            {"classes": {"under": ["animals", "cats"]}},
            ["pretrain.classes: source a has no class or ancestor 'animals'; did you mean animal?"],
        ),
        (
            {"classes": {"nearest": 9, "to": "cats"}},
            ["pretrain.classes: nearest 9 to cats: source a needs 9 classes, supply is 8"],
        ),
        (
            {"classes": {"under": "animal"}, "num_classes": 6},
            ["pretrain.num_classes: source a needs 6 classes, supply is 5 (of 5 under animal)"],
        ),
        (
            {"granularity": "depth:4"},
            ["pretrain.granularity: source a has no depth 4: its hierarchy has 3"],
        ),
        (
            {"granularity": "random:9"},
            ["pretrain.granularity: source a needs 9 classes for 9 random labels, supply is 8"],
        ),
        (
            {"granularity": "family", "subclasses_per_label": 2, "num_images": 8},
            [
                "pretrain.subclasses_per_label: label 'birds' of source a needs 2 classes, supply is 1",
                "pretrain.subclasses_per_label: label 'writers' of source a needs 2 classes, supply is 1",
            ],
        ),
        (
            {"granularity": "kingdom", "subclasses_per_label": 3, "num_images": 5},
            ["pretrain.num_images: source a gets 5 images, which cannot fill its 6 classes"],
        ),
    ],
)
def test_what_cannot_be_names_need_and_supply(keys, lines):
    with pytest.raises(UserError) as caught:
        taken(**keys)
    assert str(caught.value).splitlines() == lines


def test_a_source_without_a_hierarchy_says_so():
    for keys, line in (
        ({"granularity": "labels:3"}, "pretrain.granularity: source a has no hierarchy to cut; use class"),
        (
            {"granularity": "depth:1"},
            "pretrain.granularity: source a has no rank 'depth:1': it has no hierarchy; use class",
        ),
        (
            {"classes": {"under": "animal"}},
            "pretrain.classes: source a has no class or ancestor 'animal' (and no hierarchy); "
            "known: axe, cat, fox, lion, owl, pen, saw, wolf",
        ),
    ):
        with pytest.raises(UserError) as caught:
            taken({"a": pool(plain=True)}, **keys)
        assert str(caught.value) == line


def test_every_source_must_have_a_class_of_the_choice():
    pools = {"a": pool(), "b": pool(TOOLS)}
    with pytest.raises(UserError) as caught:
        taken(pools, classes={"under": "animal"}, num_images=6)
    assert str(caught.value) == "pretrain.classes: source b has no class that is under animal"
    with pytest.raises(UserError) as caught:
        taken(pools, classes={"under": "plant"}, num_images=6)
    assert str(caught.value).startswith("pretrain.classes: none of a, b has a class or ancestor 'plant'")
    with pytest.raises(UserError) as caught:
        taken(pools, weights={"a": 1.0, "b": 0.01}, num_classes=2, num_images=6)
    assert str(caught.value).splitlines()[0] == "pretrain.sources: the weight of b gives it no class of 2"


def test_a_source_of_which_nothing_can_be_read_gives_nothing():
    with pytest.raises(UserError) as caught:
        draw(asked(), {"a": pool()}, {"a": np.zeros(95, dtype=bool)}, 1)
    assert str(caught.value) == "pretrain.sources: a has no image to give"


def test_a_map_must_name_every_chosen_class(tmp_path):
    file = tmp_path / "map.csv"
    file.write_text("class,label\nowl,flies\nowl,swims\n")
    with pytest.raises(UserError) as caught:
        taken(granularity=f"map:{file}")
    assert str(caught.value) == f"{file}:3: class 'owl' has two labels, 'flies' and 'swims'"
    file.write_text("class,label\nowl,flies and more\n")
    with pytest.raises(UserError) as caught:
        taken(granularity=f"map:{file}")
    assert str(caught.value) == (
        f"pretrain.granularity: source a needs a label for each of its 8 classes, but {file} has none for axe, cat, "
        "fox, ... (7 in all)"
    )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"classes": 5}, "must be all, a list of class names, {under: NAME}, {nearest: K, to: NAME}, {farthest: K, to: "
                         "NAME} or a .csv file, not 5"),
        ({"classes": {"nearest": 5}}, "or a .csv file, not a mapping of nearest"),
        ({"classes": {"nearest": 0, "to": "x"}}, "nearest must be a whole number of classes above 0, not 0"),
        ({"classes": {"under": 7}}, "names must be text, not 7; quote it"),
        ({"classes": ["a", "b", "a"]}, "'a' is given twice"),
        ({"classes": []}, "names no class; give at least one, or leave the key out for all"),
        ({"granularity": "random:1"}, "random: must be followed by a whole number of at least 2, not '1'"),
        ({"granularity": "labels:few"}, "labels: must be followed by a whole number of at least 1, not 'few'"),
        ({"granularity": "map:x.txt"}, "map: must name a .csv file with the columns class and label, not 'x.txt'"),
        ({"subclasses_per_label": 2}, "subclasses_per_label needs a granularity coarser than class"),
        ({"subclasses_per_label": 2, "granularity": 3, "num_classes": 4},
         "subclasses_per_label says how many classes there are; leave num_classes out"),
    ],
)  # fmt: skip
def test_what_is_written_wrongly_is_said(keys, said):
    with pytest.raises(ValidationError) as caught:
        asked(**keys)
    (detail,) = caught.value.errors()
    assert said in str(detail["ctx"]["error"])
