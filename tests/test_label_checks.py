"""Labels and groups that look alike, labels that stand for nothing, and classes that are called like splits."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from make_pools import open_pool

from analysis.input.run_points import read_run
from ray_robust import ingest as command
from ray_robust.data.pool import SPLITS
from ray_robust.data.readers.label_checks import SPLIT_NAMES
from ray_robust.errors import UserError
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.text.names import describe_difference, lookalikes, printable, quoted
from tests import make_images as make

NFC, NFD = "caf\xe9", "cafe\u0301"


def opened(kind: str, path: Path, **options):
    return open_pool(kind, "folder", {"path": str(path), **options}).catalog


def mistakes(kind: str, path: Path, **options) -> list[str]:
    with pytest.raises(UserError) as caught:
        opened(kind, path, **options)
    return str(caught.value).splitlines()


def listed(tmp_path: Path, labels: list[str], splits: tuple[str, ...] = SPLITS) -> Path:
    """A CSV with these labels in every split, an image each; a label may be written `split/label` for that split."""
    rows = []
    for split in splits:
        for label in labels:
            only, slash, name = label.rpartition("/")
            if not slash or only == split:
                rows.append({"path": f"{split}-{len(rows)}.jpg", "label": name, "split": split})
    return make.table(tmp_path / "index.csv", rows)


# --- names


@given(st.text(st.characters(categories=["L", "M", "N", "P", "Zs"]), max_size=12).filter(str.strip))
def test_other_ways_to_write_a_name_are_alike(name):
    others = {
        name, f" {name}", f"{name}\u200b", name.replace(" ", "  "), unicodedata.normalize("NFD", name),
        unicodedata.normalize("NFC", name), name.casefold(),
    }  # fmt: skip
    assert lookalikes(others) == ([] if len(others) == 1 else [list(others)])


@given(st.text(), st.text())
@example(NFC, NFD)
@example("a", "\u0430")  # Latin and Cyrillic
def test_different_names_never_look_the_same(one, other):
    assert (quoted(one) == quoted(other)) == (one == other)
    assert quoted(one).isprintable() or not one.isprintable()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("Dog", "dog"), "case"),
        (("cat", "cat "), "blanks"),
        ((NFC, NFD), "Unicode form"),
        (("Caf\xe9", "cafe\u0301 "), "Unicode form and blanks and case"),
        (("1", "1.0", "01", "1e0"), "how a number is written"),
        (("tap", "t\u200bap"), "invisible signs"),
        (("great dane", "great-dane", "great_dane"), "hyphens"),
        (("cap", "c\u0430p"), "letters of other scripts"),
        (("\xc5ngstrom", "\u212bngstrom"), "the signs they are written with"),  # by form as by case
    ],
)
def test_what_names_differ_in(names, words):
    assert lookalikes(names) == [list(names)]
    assert describe_difference(names) == words


@pytest.mark.parametrize("names", [("cat", "cats"), ("1", "10"), ("1.5", "15"), ("a1", "a01"), ("puma", "pumá")])
def test_names_that_are_different(names):
    assert lookalikes(names) == []


# --- in a pool


def test_labels_written_in_several_ways_are_shown_side_by_side(tmp_path):
    seen = opened("task", listed(tmp_path, ["0", "1", "1.0", "dog", "Dog", NFC, NFD]))
    assert seen.warnings == (
        "labels that look alike count as different: '1' (5 images), '1.0' (5 images); they differ in how a number is "
        "written",
        "labels that look alike count as different: 'Dog' (5 images), 'dog' (5 images); they differ in case",
        "labels that look alike count as different: 'caf\xe9' (cafe\\u0301) (5 images), "
        "'caf\xe9' (caf\\xe9) (5 images); they differ in Unicode form",
    )  # fmt: skip


def test_folders_too(tmp_path):
    seen = opened("source", make.tree(tmp_path, {"dog": 2, "Dog": 1, "cat": 1, "cat ": 1}))
    assert seen.classes == ("Dog", "cat", "cat ", "dog")
    assert [warning.partition(": ")[2] for warning in seen.warnings] == [
        "'Dog' (1 image), 'dog' (2 images); they differ in case",
        "'cat' (1 image), 'cat ' (1 image); they differ in blanks",
    ]


def test_a_label_that_says_nothing_is_pointed_out(tmp_path):
    seen = opened("task", listed(tmp_path, ["nan", "None", "dog"]))
    assert seen.warnings == (
        "the label 'None' (5 images) counts as a name, not as a missing value",
        "the label 'nan' (5 images) counts as a name, not as a missing value",
    )


def test_groups_too(tmp_path):
    rows = [{"path": f"{s}-{c}-{g}.jpg", "label": c, "split": s, "group": g}
            for s in SPLITS for c in "ab" for g in ("Site 1", "site 1")]  # fmt: skip
    warning, *_ = opened("task", make.table(tmp_path / "index.csv", rows)).warnings
    assert warning.startswith("groups that look alike count as different: 'Site 1' (10 images), 'site 1' (10 images)")


def test_coarser_labels_too(tmp_path):
    """A task of such a rank would learn them as different labels."""
    kinds = {"apple": "fruit", "pear": "Fruit", "rye": "nan", "oat": "bread", "fruit": "bread"}
    rows = [{"path": f"{label}-{i}.jpg", "label": label, "kind": kind} for label, kind in kinds.items() for i in (0, 1)]
    assert opened("source", make.table(tmp_path / "x.csv", rows)).warnings == (
        "names of the rank kind that look alike count as different: 'Fruit' (2 images), 'fruit' (2 images); they "
        "differ in case",
        "the rank kind 'nan' (2 images) counts as a name, not as a missing value",
    )


def rows_of(parts):
    """Two images of every (split, label, group)."""
    return [{"path": f"{split}-{label}-{group}-{i}.jpg", "label": label, "split": split, "group": group}
            for split, label, group in parts for i in range(2)]  # fmt: skip


def test_a_group_of_train_that_is_in_the_ood_test_too_is_a_leak(tmp_path):
    """No error: where another thing than the group shifts, it may be meant."""
    apart = [(split, label, split) for split in SPLITS for label in "ab"]
    assert opened("task", make.table(tmp_path / "apart.csv", rows_of(apart))).warnings == ()
    shared = [*apart, ("train", "a", "oslo"), ("ood_test", "a", "oslo"), ("id_test", "a", "train")]
    (warning,) = opened("task", make.table(tmp_path / "shared.csv", rows_of(shared))).warnings
    assert warning.startswith("'oslo' (2 and 2 images) is a group of train and of ood_test: their OOD images come from")
    every = [(split, label, f"camera {i}") for split in SPLITS for label in "ab" for i in range(7)]
    val, test = opened("task", make.table(tmp_path / "every.csv", rows_of(every))).warnings
    assert "'camera 4' (4 and 4 images) and 2 more are groups of train and of ood_val: " in val
    assert " are groups of train and of ood_test: " in test


def test_labels_that_one_test_lacks_make_two_scores_of_different_labels(tmp_path):
    whole = [(split, label, split) for split in SPLITS for label in "abc"]
    lacks = [part for part in whole if part[:2] not in {("ood_test", "c"), ("id_test", "a")}]
    ood, id_ = opened("task", make.table(tmp_path / "x.csv", rows_of(lacks))).warnings
    assert ood.startswith(
        "id_test has labels that ood_test lacks, 'c' (2 images): ID and OOD scores are over different"
    )
    assert id_.startswith("ood_test has labels that id_test lacks, 'a' (2 images): ")
    neither = [part for part in whole if part[0] == "train" or part[1] != "c"]  # trained on, and never asked for
    assert opened("task", make.table(tmp_path / "y.csv", rows_of(neither))).warnings == ()


def test_many_sets_are_counted(tmp_path):
    labels = [text for i in range(8) for text in (f"a{chr(97 + i)}", f"A{chr(97 + i)}")]
    assert opened("task", listed(tmp_path, labels)).warnings[-1] == "and 3 more sets of labels that look alike"


@pytest.mark.parametrize("options", [{}, {"unseen": "drop"}])
@pytest.mark.parametrize("wrong", [NFD, "Caf\xe9", "caf\xe9\u200b"])
def test_a_label_that_train_writes_in_another_way_is_an_error(tmp_path, options, wrong):
    right = [f"{split}/{NFC}" for split in SPLITS if split not in ("id_test", "ood_test")]
    path = listed(tmp_path, ["dog", *right, f"id_test/{wrong}", f"ood_test/{wrong}"])
    (line,) = mistakes("task", path, **options)
    assert line == (
        f"{path}: label {printable(quoted(wrong))} of id_test, ood_test (2 images) is 'caf\xe9' (caf\\xe9) in train: "
        f"they differ in {describe_difference([NFC, wrong])}; write both the same way"
    )
    assert NFD not in line


def test_a_domain_that_writes_a_class_in_another_way(tmp_path):
    counts = {f"{domain}/{label}": 40 for domain in ("photo", "art_painting") for label in ("dog", "cup")}
    counts |= {"cartoon/dog": 40, "cartoon/Cup": 40}
    make.tree(tmp_path, counts)
    pool = open_pool("task", "domains", {"root": str(tmp_path), "train": ["photo", "art_painting"],
                                         "ood": ["cartoon"], "unseen": "drop"})  # fmt: skip
    with pytest.raises(
        UserError, match=r"label 'Cup' of ood_val, ood_test .40 images. is 'cup' in train: they differ in"
    ):
        _ = pool.catalog


# --- classes called like splits


def test_the_folder_above_the_splits_is_no_source(tmp_path):
    root = make.tree(
        tmp_path, {f"{split}/{label}": 2 for split in ("train", "val", "test") for label in ("cat", "dog")}
    )
    assert mistakes("source", root) == [
        f"{root}: its classes test, train, val are called like splits; to pre-train on one of them, give {root}/train"
    ]
    assert opened("source", root / "train").classes == ("cat", "dog")


@pytest.mark.parametrize("names", [("Training", "Validation"), ("dev", "holdout"), ("id_val", "ood_test", "valid")])
def test_splits_have_many_names(tmp_path, names):
    root = make.tree(tmp_path, dict.fromkeys(names, 2))
    (line,) = mistakes("source", root)
    assert f"give {root}/{names[0]}" in line


def test_a_single_split_is_called_what_it_is(tmp_path):
    root = make.tree(tmp_path, {"train/cat": 2, "train/dog": 2})
    assert (
        f"{root}: its class train is called like a split; to pre-train on one of them, give {root}/train"
        in mistakes("source", root)
    )


def test_a_column_of_splits_is_no_label(tmp_path):
    rows = [{"path": f"{i}.jpg", "label": ("train", "test")[i % 2], "kind": "ab"[i % 2]} for i in range(4)]
    path = make.table(tmp_path / "index.csv", rows)
    assert mistakes("source", path) == [
        f"{path}: its classes test, train are called like splits; name the column of the labels with `label`"
    ]


def test_some_classes_called_like_splits_are_questioned(tmp_path):
    root = make.tree(tmp_path / "a", {"train/cat": 2, "val/cat": 2, "extra": 1})
    assert opened("source", root).warnings == (
        f"classes train, val are called like splits: if they are, the images of one lie in {root}/train",
    )
    root = make.tree(tmp_path / "b", {"train/cat": 1, "train/dog": 1, "meta": 5})
    assert opened("source", root).warnings == (
        f"class train is called like splits: if they are, the images of one lie in {root}/train",
    )


def test_a_class_of_trains_is_no_split(tmp_path):
    assert opened("source", make.tree(tmp_path, {"bus": 3, "train": 2, "car": 3})).warnings == ()
    assert "train" in SPLIT_NAMES


# --- where it is told


def test_every_command_tells(tmp_path, capsys):
    counts = {f"{split}/{label}": 2 for split in SPLITS for label in ("cat", "Cat")}
    root, pre = make.tree(tmp_path / "t", counts), make.tree(tmp_path / "s", {"x": 2, "y": 2})
    words = "labels that look alike count as different: 'Cat' (10 images), 'cat' (10 images); they differ in case"
    assert command.main(["folder", "--task", "--root", str(root), "--out", str(tmp_path / "store")]) == 0
    assert f"warning      {words}" in capsys.readouterr().out
    (tmp_path / "s.yaml").write_text(
        f"task: {{name: folder, path: {root}}}\n"
        f"pretrain: {{sources: {{folder: {{path: {pre}, weight: 1.0}}}}, num_images: 2, epochs: 1}}\n"
    )
    assert open_sweep(load_spec(tmp_path / "s.yaml")).notes == (f"task folder: {words}",)
    run = RunFolder(tmp_path / "run")
    run.write_plan([])
    run.write("plan.csv", "trial,group,model,finetunes\n")
    run.write("data.json", json.dumps({"pools": [{"kind": "task", "name": "folder", "warnings": [words]}]}))
    assert f"task folder: {words}" in read_run(run.storage.address)[0].warnings
