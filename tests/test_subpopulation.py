"""Any pool with a hierarchy as a shifted task: which subclass and image is in which split, and that nothing leaks."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_pools import open_pool

from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import SPLITS
from ray_robust.data.tasks.shifted import with_shifts
from ray_robust.data.tasks.subpopulation import Subpopulation
from ray_robust.errors import UserError
from ray_robust.launch.ingest.ingest import ingest
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.spec.load import load_spec
from tests import make_images as make

SPECIES = {"name": "species", "species": 60, "images_per_class": 30}


def task_of(**options) -> Subpopulation:
    task = open_pool("task", "subpopulation", {"source": SPECIES, "labels": "order", **options})
    assert isinstance(task, Subpopulation)
    return task


def table_of(task: Subpopulation) -> pd.DataFrame:
    """A row per image: its label, subclass, split and key."""
    catalog = task.catalog
    assert catalog.split is not None
    assert catalog.group is not None
    return pd.DataFrame({
        "label": np.array(catalog.classes)[catalog.labels],
        "subclass": np.array(catalog.groups)[catalog.group],
        "split": np.array(SPLITS)[catalog.split],
        "key": task.keys(np.arange(len(catalog))),
    })  # fmt: skip


def unseen_of(table: pd.DataFrame) -> set[str]:
    return set(table.loc[table["split"].str.startswith("ood"), "subclass"])


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    """A CSV of 2 kinds of fruit and 2 of bread, one drink alone, 40 photographs each, with the rank `kind`."""
    root = tmp_path_factory.mktemp("shops")
    lines = ["path,label,kind"]
    kinds = {"apple": "fruit", "pear": "fruit", "rye": "bread", "oat": "bread", "milk": "drink"}
    for k, (label, kind) in enumerate(kinds.items()):
        for i in range(40):
            make.write(root / f"{label}-{i}.jpg", seed=100 * k + i)
            lines.append(f"{label}-{i}.jpg,{label},{kind}")
    (root / "shops.csv").write_text("\n".join(lines))
    return root / "shops.csv"


@settings(max_examples=15, deadline=None)
@given(unseen=st.floats(0.05, 0.95), seed=st.integers(0, 1000), rank=st.sampled_from(["order", "family", "depth:1", 9]))
def test_every_label_is_learned_from_some_subclasses_and_tested_on_others(unseen, seed, rank):
    task = task_of(unseen=unseen, split_seed=seed, labels=rank)
    table = table_of(task)
    hierarchy = task.source.catalog.hierarchy
    assert table["key"].is_unique
    inside = table[~table["split"].str.startswith("ood")]
    assert not unseen_of(table) & set(inside["subclass"])
    assert set(table["label"]) == set(inside["label"])
    for label, own in table.groupby("label"):
        every, out = own["subclass"].nunique(), len(unseen_of(own))
        assert out == min(max(round(unseen * every), 1), every - 1)
        assert any(set(hierarchy.index[hierarchy[c] == label]) == set(own["subclass"]) for c in hierarchy)


def test_images_are_divided_in_the_shares_that_are_asked_for():
    table = table_of(task_of(val=0.1, test=0.3))
    shares = table["split"].value_counts()
    inside, outside = shares[["train", "id_val", "id_test"]], shares[["ood_val", "ood_test"]]
    assert (inside / inside.sum()).to_dict() == pytest.approx({"train": 0.6, "id_val": 0.1, "id_test": 0.3}, abs=0.04)
    assert (outside / outside.sum()).to_dict() == pytest.approx({"ood_val": 0.25, "ood_test": 0.75}, abs=0.06)


def test_two_draws_share_no_more_unseen_subclasses_than_chance_lets_them():
    """Of n subclasses k are unseen: two draws share k^2/n of them on average, whatever label they are of."""
    draws = [unseen_of(table_of(task_of(split_seed=seed))) for seed in range(24)]
    table = table_of(task_of())
    expected = sum(len(unseen_of(own)) ** 2 / own["subclass"].nunique() for _, own in table.groupby("label"))
    shared = [len(a & b) for i, a in enumerate(draws) for b in draws[:i]]
    assert abs(np.mean(shared) - expected) < 3 * np.std(shared) / np.sqrt(len(draws))
    assert min(shared) < expected < max(shared)


def test_a_draw_depends_on_names_and_seed_alone():
    """More labels, or fewer images, move no subclass to another side."""
    of_all = table_of(task_of())
    node = of_all["label"].iloc[0]
    parts = (task_of(under=node, labels="family"), task_of(labels="family"))
    a, b = (table_of(task).query("label in @names", local_dict={"names": set(table_of(parts[0])["label"])})
            for task in parts)  # fmt: skip
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))
    assert unseen_of(table_of(task_of(images_per_subclass=7))) == unseen_of(of_all)


def test_a_number_of_labels_is_that_below_the_node():
    families = task_of(under="Cervanta", labels="family")
    ranks = families.source.catalog.hierarchy
    assert ranks is not None
    number = ranks["family"][ranks["order"] == "Cervanta"].nunique()
    assert task_of(under="Cervanta", labels=str(number)).catalog.classes == families.catalog.classes


def test_a_cap_on_images_and_subclasses_holds():
    table = table_of(task_of(images_per_subclass=12, subclasses=4))
    assert (table.groupby("subclass").size() == 12).all()
    assert (table.groupby("label")["subclass"].nunique() == 4).all()
    assert set(table["key"]) < set(table_of(task_of(images_per_subclass=13, subclasses=4))["key"])


def test_a_table_of_files_gives_what_pandas_gives(shops, tmp_path):
    task = open_pool("task", "subpopulation", {"source": {"name": "folder", "path": str(shops)}, "labels": "kind"})
    table = table_of(task)
    listed = pd.read_csv(shops).set_index("path").loc[table["key"]].reset_index()
    assert (table["label"] == listed["kind"]).all()
    assert (table["subclass"] == listed["label"]).all()
    assert set(listed["kind"]) == {"fruit", "bread"}
    assert "1 labels with fewer than 2 subclasses are left out: drink." in task.catalog.notes
    assert task.catalog.provisional
    before = task.meaning
    store = ImageStore.open(tmp_path, task, 8)
    store.fill(np.arange(len(table)))
    assert not task.catalog.provisional
    assert task.meaning != before
    rows = np.array([0, 57, len(table) - 1])
    assert (store.take(rows) == task.read(rows, 8).images).all()
    whole = open_pool("source", "folder", {"path": str(shops)})
    same = ImageStore.open(tmp_path, whole, 8)
    assert len(same.missing()) == 40, "the pool's images are shared; those of `drink` are not the task's"
    more = tmp_path / "more"  # the same files elsewhere, and a class that has nothing to do with the task
    shutil.copytree(shops.parent, more)
    make.write(more / "tea.jpg", seed=7)
    (more / "shops.csv").write_text(shops.read_text() + "\ntea.jpg,tea,hot drink")
    source = {"name": "folder", "path": str(more / "shops.csv")}
    again = open_pool("task", "subpopulation", {"source": source, "labels": "kind"})
    store = ImageStore.open(tmp_path, again, 8)
    store.fill(np.arange(store.n))
    assert again.meaning == task.meaning
    assert (again.catalog.ids == task.catalog.ids).all()
    make.write(more / "pear-3.jpg", seed=99)
    edited = open_pool("task", "subpopulation", {"source": source, "labels": "kind"})
    edited.recall(tmp_path)
    edited.digests(np.arange(len(table)))
    assert edited.meaning != task.meaning


def test_a_broken_file_is_that_of_its_row(shops, tmp_path):
    root = shops.parent
    copied = tmp_path / "pool"
    shutil.copytree(root, copied)
    (copied / "pear-3.jpg").write_bytes(b"no image")
    task = open_pool(
        "task", "subpopulation", {"source": {"name": "folder", "path": str(copied / "shops.csv")}, "labels": "kind"}
    )
    store = ImageStore.open(tmp_path / "store", task, 8)
    store.fill(np.arange(store.n))
    assert task.keys(np.array(list(store.broken))) == ["pear-3.jpg"]


@pytest.mark.parametrize("corruptions", [{}, {"corruptions": {"kinds": ["jpeg"], "severities": [3], "images": 4}}])
def test_a_broken_file_fails_or_is_left_out_as_the_source_has_it(shops, tmp_path, corruptions):
    copied = tmp_path / "pool"
    shutil.copytree(shops.parent, copied)
    (copied / "pear-3.jpg").write_bytes(b"no image")
    source = {"name": "folder", "path": str(copied / "shops.csv")}

    def filled(source):
        options = {"source": source, "labels": "kind", **corruptions}
        task = open_pool("task", "subpopulation", options)
        return ingest([(with_shifts(task), 8, None)], tmp_path / "store")[0]  # type: ignore[arg-type]

    with pytest.raises(UserError) as error:
        filled(source)
    lines = str(error.value).splitlines()
    assert "pear-3.jpg: is no JPEG" in lines[0]
    assert lines[-1].endswith("1 of 160 images are broken; mend or remove them, or say `broken: drop`")
    assert len(filled({**source, "broken": "drop"}).broken) == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"labels": "genera"}, "task subpopulation: labels: source species has no rank 'genera': it has order, family"),
        ({"labels": "depth:9"}, "labels: source species has no depth 9"),
        ({"labels": "class"}, "0 of its labels have 2 subclasses or more; take a coarser cut"),
        ({"under": "ordr1"}, "under: source species has no node 'ordr1'"),
        ({"subclasses": 50}, "labels have 50 subclasses or more"),
        (
            {"images_per_subclass": 1, "subclasses": 2, "under": "Cervanta", "labels": "family"},
            "no images of Hacoridae, Lubelidae in train: too few for these shares",
        ),
        ({"images_per_subclass": 1, "subclasses": 2, "val": 0.01, "test": 0.01}, "no images in id_val, id_test"),
    ],
)
def test_what_makes_no_task_is_refused_in_a_line(options, line):
    with pytest.raises(UserError) as error:
        _ = task_of(**options).catalog
    assert line in str(error.value)


TEXT = """
task: {{name: subpopulation, source: {source}, labels: order}}
pretrain: {{sources: {{species: 1.0}}, num_images: 100, epochs: 1}}
finetune: {{epochs: 1}}
"""


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("{name: spcies}", "task.source: name: 'spcies' is no known source; did you mean species?"),
        ("{species: 60}", "task.source: name: missing; must name a source"),
        ("{name: folder}", "task.source: path: Field required"),
        ("{name: species, sed: 1}", "task.source: sed: unknown key; did you mean seed?"),
        ("{name: diffusion}", "task.source: name: images of diffusion are made for pre-training alone"),
        ("species", "task.source"),
        ("{name: species}", "is made of the images of source species, which would be pre-trained on; give one of them"),
    ],
)
def test_mistakes_about_the_source_are_lines(tmp_path, source, line):
    file = tmp_path / "x.yaml"
    file.write_text(TEXT.format(source=source))
    with pytest.raises(UserError) as error:
        open_sweep(load_spec(str(file)))
    assert line in str(error.value)
    assert re.match(rf"{re.escape(str(file))}:\d+: ", str(error.value))


def test_a_sweep_over_draws_has_a_task_each_and_shows_the_tree(tmp_path, capsys):
    file = tmp_path / "x.yaml"
    text = TEXT.format(source="{name: species, species: 60, images_per_class: 1k, seed: 1}, split_seed: {grid: [0, 1]}")
    file.write_text(text)
    sweep = open_sweep(load_spec(str(file)))
    labels = {f.task_label for trial in sweep.plan for f in trial.finetunings}
    assert labels == {"subpopulation[split_seed=0]", "subpopulation[split_seed=1]"}
    (first, *_) = sweep.tasks.values()
    assert isinstance(first, Subpopulation)
    table = table_of(first)
    for label, line in zip(first.catalog.classes, first.outline(), strict=True):
        own = table[table["label"] == label]
        name, _, rest = line.partition(": trained on ")
        seen, _, unseen = rest.partition("; OOD ")
        assert name == label
        for part, out in ((seen, False), (unseen, True)):
            of_part = own[own["subclass"].isin(unseen_of(own)) == out]
            assert part.endswith(f"({len(of_part):,} images)")
            assert part.split(",")[0].split(" and ")[0].split(" (")[0] in set(of_part["subclass"])
    again = load_spec_of(sweep.spec.resolved, tmp_path)
    assert [trial.id for trial in open_sweep(again).plan] == [trial.id for trial in sweep.plan]


def load_spec_of(text: str, folder):
    """The resolved spec of a run, read again."""
    file = folder / "again" / "x.yaml"
    file.parent.mkdir()
    file.write_text(text)
    return load_spec(str(file))
