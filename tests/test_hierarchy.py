"""Hierarchies: WordNet and lists of pairs become ranks and subtrees; what is missing or ambiguous is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ray_robust.data.labels import wordnet
from ray_robust.data.labels.hierarchy import attach_hierarchy, distances, subtrees, tree_paths
from ray_robust.data.pool import Catalog
from ray_robust.errors import UserError
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.prepare.subsets import draw_all
from ray_robust.spec.load import load_spec
from tests import make_images as make

LISTS = Path(__file__).parents[2] / "shared/data/hierarchies"
PAIRS = """\
thing animal
thing tool
animal mammal
animal pet
animal bird
mammal carnivore
carnivore dog
pet dog
dog poodle
mammal whale
bird crane
tool crane_machine
tool hammer
"""
CLASSES = ("crane", "crane_machine", "dog", "hammer", "poodle", "whale")

# the format of wndb(5WN): offset, file, type, words (count in hex), pointers, gloss
DATA = """\
  1 This software and database is being provided to you, the LICENSEE
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | what is
00000002 03 n 02 animal 0 living_thing 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | it lives
00000003 05 n 01 crane 0 001 @ 00000002 n 0000 | a bird
00000004 06 n 02 crane 0 lifting_device 0 001 @ 00000001 n 0000 | a machine
00000005 18 n 01 Fido 0 002 @i 00000002 n 0000 #m 00000003 n 0000 | one animal
"""


def pool(classes: tuple[str, ...] = CLASSES) -> Catalog:
    count = len(classes)
    return Catalog(np.arange(count, dtype=np.int32), classes, np.arange(count, dtype=np.uint64), "f", "none")


@pytest.fixture
def pairs(tmp_path) -> str:
    (tmp_path / "pairs.txt").write_text(PAIRS)
    return str(tmp_path / "pairs.txt")


def below(catalog: Catalog, name: str) -> list[str]:
    return [catalog.classes[i] for i in subtrees(catalog)[name]]


# --- a list of pairs


def test_a_graph_becomes_one_path_per_class(pairs):
    """The dog is a carnivore and a pet: its path goes by the pet, which is nearer to the root."""
    placed = attach_hierarchy(pool(), pairs)
    assert placed.hierarchy is not None
    assert dict(zip(placed.classes, tree_paths(placed), strict=True)) == {
        "crane": ("animal", "bird", "crane"),
        "crane_machine": ("tool", "crane_machine"),
        "dog": ("animal", "pet", "dog"),
        "hammer": ("tool", "hammer"),
        "poodle": ("animal", "pet", "dog", "poodle"),
        "whale": ("animal", "mammal", "whale"),
    }
    assert list(placed.hierarchy.columns) == ["depth 1", "depth 2", "depth 3", "depth 4"]
    assert placed.hierarchy["depth 2"].tolist() == ["bird", "crane_machine", "pet", "hammer", "pet", "mammal"]
    assert placed.hierarchy["depth 4"].tolist() == list(CLASSES)


def test_a_subtree_counts_by_every_path(pairs):
    placed = attach_hierarchy(pool(), pairs)
    assert below(placed, "carnivore") == ["dog", "poodle"]
    assert below(placed, "pet") == ["dog", "poodle"]
    assert below(placed, "mammal") == ["dog", "poodle", "whale"]
    assert below(placed, "dog") == ["dog", "poodle"]  # a class with another below it
    assert below(placed, "hammer") == ["hammer"]
    assert below(placed, "thing") == list(CLASSES)


def test_distances_are_edges_of_the_tree(pairs):
    placed = attach_hierarchy(pool(), pairs)
    assert distances(placed, np.array([2])).tolist() == [4, 5, 0, 5, 1, 4]
    assert distances(placed, np.array([2, 3])).tolist() == [4, 2, 0, 0, 1, 4]
    assert distances(pool(), np.array([0])).tolist() == [0, 2, 2, 2, 2, 2]


def test_distances_agree_with_a_walk_between_every_two(pairs):
    placed = attach_hierarchy(pool(), pairs)
    paths = tree_paths(placed)
    for i, a in enumerate(paths):
        for j, b in enumerate(paths):
            common = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            assert distances(placed, np.array([j]))[i] == len(a) + len(b) - 2 * common


def test_the_fingerprint_changes_with_the_hierarchy_alone(pairs, tmp_path):
    (tmp_path / "same.txt").write_text("\n".join(reversed(PAIRS.splitlines())))
    (tmp_path / "other.txt").write_text(PAIRS + "tool whale\n")
    first, same, other = (attach_hierarchy(pool(), str(file)).fingerprint for file in (pairs, tmp_path / "same.txt",
                                                                           tmp_path / "other.txt"))  # fmt: skip
    assert first == same
    assert len({first, other, pool().fingerprint}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a b c\n", ":1: wanted: parent and child, a tab or blank between them"),
        (PAIRS.replace("tool hammer\n", ""), "class 'hammer' is not in {file}"),
        (PAIRS + "dog animal\n", "hierarchy: in {file} animal is above itself"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(text, said, tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        attach_hierarchy(pool(), str(file))
    wanted = said.format(file=file)
    assert str(caught.value) == (f"{file}{wanted}" if wanted.startswith(":") else wanted)


# --- WordNet


@pytest.fixture
def dictionary(tmp_path, monkeypatch) -> Path:
    (tmp_path / "data.noun").write_text(DATA)
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("classes", [("n00000003", "n00000005"), ("n00000003", "fido")])
def test_classes_are_ids_or_words_that_one_noun_has(classes, dictionary):
    placed = attach_hierarchy(pool(classes), "wordnet")
    assert tree_paths(placed) == [("animal", "n00000003"), ("animal", classes[1])]
    assert below(placed, "living thing") == list(classes)  # any word of a node
    assert below(placed, "n00000002") == list(classes)  # and its id
    assert attach_hierarchy(pool(classes), str(dictionary)).fingerprint == placed.fingerprint


def test_nodes_of_one_name_have_their_ids_behind_it(tmp_path):
    (tmp_path / "pairs.txt").write_text("n1 n2\nn1 n3\nn2 n4\nn3 n5\n")
    (tmp_path / "words.txt").write_text("n1\tthing\nn2\tcrane, bird\nn3\tcrane, machine\nn4\ta\nn5\tb\n")
    placed = attach_hierarchy(pool(("n4", "n5")), str(tmp_path / "pairs.txt"))
    assert placed.hierarchy is not None
    assert placed.hierarchy["depth 1"].tolist() == ["crane (n2)", "crane (n3)"]
    assert "crane" not in subtrees(placed)
    assert below(placed, "bird") == ["n4"]


def test_a_word_of_several_nouns_is_said(dictionary):
    with pytest.raises(UserError) as caught:
        attach_hierarchy(pool(("crane", "fido", "unicorn")), "wordnet")
    assert str(caught.value).splitlines() == [
        f"class 'crane' is the name of 2 nodes of {dictionary} (n00000003, n00000004); name the class by its id",
        f"class 'unicorn' is not in {dictionary}",
    ]


def test_two_classes_that_are_one_node_are_said(dictionary):
    with pytest.raises(
        UserError, match=r"classes 'fido' and 'n00000005' are the same node of .*, n00000005; merge them"
    ):
        attach_hierarchy(pool(("fido", "n00000005")), "wordnet")


def test_an_absent_dictionary_says_how_to_obtain_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    for option, begins in (
        ("wordnet", f"hierarchy: wordnet: there is no data.noun in {tmp_path}; {wordnet.OBTAIN}"),
        (str(tmp_path), f"{tmp_path}: has no data.noun, so it is no folder of WordNet; {wordnet.OBTAIN}"),
        (f"{tmp_path}/x", f"{tmp_path}/x: no such hierarchy: wordnet, WordNet's dict folder, or a file of pairs"),
    ):
        with pytest.raises(UserError, match=re.escape(begins)):
            attach_hierarchy(pool(), option)
    assert "wordnet-base" in wordnet.OBTAIN


# --- from the file


def test_a_folder_by_wordnet_is_cut_at_each_depth(pairs, tmp_path, monkeypatch):
    """A miniature: the plan of a sweep over depths has the labels, and the images of each, that the tree says."""
    make.tree(tmp_path / "images", {name: 2 + i for i, name in enumerate(CLASSES)})
    (tmp_path / "x.yaml").write_text("""\
        task: {name: camera-traps}
        pretrain:
          sources: {mini: {kind: folder, path: images, hierarchy: pairs.txt}}
          granularity: {grid: [depth:1, depth:2, depth:3, depth:4]}
          holdout: 0
          epochs: 1
        """)
    monkeypatch.chdir(tmp_path)
    sweep = open_sweep(load_spec("x.yaml"))
    told = {trial.group: trial.id for trial in sweep.plan}
    draws = draw_all(sweep, {})
    found = {f"depth:{d}": draws[told[f"granularity=depth:{d}"]] for d in (1, 2, 3, 4)}
    assert {depth: one.classes for depth, one in found.items()} == {
        "depth:1": ("animal", "tool"),
        "depth:2": ("bird", "crane_machine", "hammer", "mammal", "pet"),
        "depth:3": ("crane", "crane_machine", "dog", "hammer", "whale"),
        "depth:4": CLASSES,
    }
    (part,) = found["depth:1"].composition
    assert (part["labels"], part["fewest_per_label"], part["most_per_label"]) == (2, 3 + 5, 2 + 4 + 6 + 7)
    assert {one.images for one in found.values()} == {27}


@pytest.mark.data
@pytest.mark.skipif(not LISTS.exists(), reason="needs the published lists of hierarchies")
@pytest.mark.parametrize("option", [str(LISTS / "wordnet_is_a.txt"), "wordnet"])
def test_imagenet_has_the_animals_that_wordnet_counts(option):
    if option == "wordnet" and not any(Path(folder, "data.noun").is_file() for folder in wordnet.FOLDERS):
        pytest.skip("needs a local WordNet")
    placed = attach_hierarchy(pool(tuple(sorted((LISTS / "imagenet_synsets.txt").read_text().split()))), option)
    counts = {name: len(below(placed, name)) for name in ("animal", "dog", "bird", "mammal", "artifact", "vehicle")}
    assert counts == {"animal": 398, "dog": 118, "bird": 59, "mammal": 218, "artifact": 522, "vehicle": 67}
    assert placed.hierarchy is not None
    sizes = placed.hierarchy.nunique().tolist()
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (2, 1000)
