"""Tests without labels, `labels: none`: how they are listed, what a trial writes of them, and every mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_shifts as small
from make_pools import open_pool

from analysis.verify.scores import differences
from ray_robust.data.duplicates.comparison import within
from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import Task
from ray_robust.data.samples import tiles_of
from ray_robust.data.tasks.shifted import with_shifts
from ray_robust.errors import UserError
from ray_robust.ingest import _summary
from ray_robust.launch.ingest import ingest as launch
from tests.make_images import write


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task whose images of ood_test lie beside each other, without ood_val; a shift `mine` without labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for part, (split, count) in enumerate({"train": 24, "id_val": 6, "id_test": 30}.items()):
        small.images(folder / "task" / split, small.CLASSES, count, part)
    for place, part in (("task/ood_test", 3), ("mine", 5)):
        for number in range(120):
            write(folder / place / f"{number:03d}.png", small.shot(number % 4, number, part))
    return folder


def task_at(path: Path, **options: object) -> Task:
    task = open_pool("task", "folder", {"path": str(path), **options})
    assert isinstance(task, Task)
    return task


def mistake(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        _ = task_at(path, **options).catalog
    return str(caught.value)


def test_images_of_the_ood_test_need_no_class_folder(root: Path):
    catalog = task_at(root / "task", labels="none").catalog
    rows = catalog.rows("ood_test")
    assert (len(rows), set(catalog.labels[rows])) == (120, {-1})
    assert (catalog.classes, catalog.unlabelled) == (small.CLASSES, ("ood_test",))
    assert len(catalog.rows("ood_val")) == 0
    assert set(catalog.class_names(catalog.labels[rows])) == {""}
    assert (catalog.labels[catalog.rows("id_test")] >= 0).all()
    assert not any("look alike" in warning or "labels" in warning for warning in catalog.warnings)
    assert set(tiles_of(catalog, rows[:3])["classes"]) == {""}
    assert [line for line in _summary(task_at(root / "task", labels="none")) if line.startswith("classes")] == [
        "classes      ant 60, bee 60, cat 60, dog 60"
    ]


def test_without_the_key_they_are_refused_as_ever(root: Path):
    text = mistake(root / "task")
    assert ".png lies in no class folder; wanted: <split>/<class>/*.jpg" in text


def test_no_image_lacks_its_group_and_no_rank_is_asked_of_one_without_a_label(root: Path, tmp_path: Path):
    lines = ["path,label,split,group,family"]
    for split in ("train", "id_val", "id_test"):
        lines += [f"{split}/{label}/000.png,{label},{split},home,insect" for label in small.CLASSES]
    lines += [f"ood_test/{i:03d}.png,,ood_test,{'away' if i else ' '}," for i in range(3)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    where = {"images": str(root / "task"), "labels": "none", "parents": ["family"]}
    text = mistake(tmp_path / "x.csv", **where)
    assert text == f"{tmp_path}/x.csv:{len(lines) - 2}: ood_test/000.png: the group is empty"
    (tmp_path / "x.csv").write_text("\n".join(lines).replace(",ood_test, ,", ",ood_test,away,"))
    assert task_at(tmp_path / "x.csv", **where).catalog.groups == ("away", "home")


def test_a_csv_may_leave_the_cells_empty_and_given_labels_are_not_read(root: Path):
    rows = [
        {"path": f"{split}/{label}/{i:03d}.png", "label": label, "split": split}
        for split, count in {"train": 24, "id_val": 6, "id_test": 30}.items()
        for label in small.CLASSES
        for i in range(count)
    ]
    rows += [{"path": f"ood_test/{i:03d}.png", "label": "elk" if i < 7 else "", "split": "ood_test"} for i in range(50)]
    table = root / "task" / "index.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    catalog = task_at(table, labels="none").catalog
    assert set(catalog.labels[catalog.rows("ood_test")]) == {-1}
    assert catalog.classes == small.CLASSES
    assert "The labels of 7 images are not read: `labels: none`." in catalog.notes
    text = mistake(table)
    assert "ood_test/007.png: the label is empty" in text
    rows[0]["label"] = ""
    pd.DataFrame(rows).to_csv(table, index=False)
    assert "train/ant/000.png: the label is empty" in mistake(table, labels="none")


def test_the_metric_is_accuracy(root: Path, tmp_path: Path):
    assert task_at(root / "task", labels="none").metric == "accuracy"
    wanted = "agreement between models estimates accuracy alone; say `metric: accuracy`"
    with pytest.raises(Exception, match=wanted):
        task_at(root / "task", labels="none", metric="macro_f1")
    for split in ("train", "id_val", "id_test"):
        (tmp_path / split).symlink_to(root / "task" / split)
    for split in ("ood_val", "ood_test"):
        small.images(tmp_path / split, small.CLASSES, 3, 4)
    shifts = {"mine": {"path": str(root / "mine"), "labels": "none"}}
    with pytest.raises(UserError) as caught:
        _ = with_shifts(task_at(tmp_path, shifts=shifts)).catalog
    text = str(caught.value)
    assert f"shifts.mine: labels: none: {wanted}" in text
    catalog = with_shifts(task_at(tmp_path, shifts=shifts, metric="accuracy")).catalog
    assert catalog.unlabelled == ("shift:mine",)
    assert set(catalog.labels[catalog.rows("shift:mine")]) == {-1}


def test_a_search_cannot_be_steered_by_a_split_that_is_not_there(root: Path, tmp_path: Path):
    from ray_robust.prepare.open_sweep import open_sweep
    from ray_robust.spec.load import load_spec

    file = tmp_path / "search.yaml"
    file.write_text(f"""
task: {{name: folder, path: {root}/task, labels: none}}
model: {{image_size: 8}}
pretrain: {{sources: {{species: 1}}, num_images: {{loguniform: [100, 200]}}, epochs: 1}}
search: {{method: random, trials: 2}}
""")
    with pytest.raises(UserError) as caught:
        open_sweep(load_spec(file))
    assert "search.objective: effective_robustness needs ood_val, which task folder lacks; take id_val" in str(
        caught.value
    )
    open_sweep(load_spec(file, ("search.objective=id_val",)))


def test_images_without_labels_are_duplicates_of_no_other_label(root: Path, tmp_path: Path):
    for number in range(4):
        write(tmp_path / "task" / "ood_test" / f"x{number}.png", small.shot(0, number, 0))  # those of train/ant
    for split in ("train", "id_val", "id_test"):
        (tmp_path / "task" / split).symlink_to(root / "task" / split)
    task = task_at(tmp_path / "task", labels="none")
    (store,) = launch.ingest([(task, 8, None)], tmp_path / "store")
    assert isinstance(store, ImageStore)
    found = within(store).table
    assert set(zip(found["split"], found["where"], strict=True)) == {("ood_test", "train")}
    assert set(found["label"]) == {""}


@pytest.mark.slow
def test_a_trial_leaves_the_scores_to_the_analysis(root: Path, tmp_path: Path):
    shifts = f"{{mine: {{path: {root}/mine, labels: none}}}}, labels: none"
    opened = small.sweep(root, tmp_path, shifts)
    assert any(
        "Shift mine: 120 images without labels" in line for task in opened.tasks.values() for line in task.outline()
    )
    run, table = small.table_of(opened.plan, tmp_path)
    assert table["shift"].tolist() == ["ood", "mine"] * 2
    assert table["er_estimated"].tolist() == [True] * 4
    scores = [c for c in table if c.startswith("ood_") and c not in ("ood_images", "ood_groups")]
    assert table[["ood", *scores]].isna().all(axis=None)
    assert (table["ood_images"] == 120).all()
    assert table["id"].equals(table["id_accuracy"])
    assert (table["metric"] == "accuracy").all()
    (name,) = table["trial"].unique()
    (finetune,) = table["finetune"].unique()
    kept = pd.read_parquet(tmp_path / f"run/trials/{name}/predictions/{finetune}.parquet")
    assert kept.groupby("split", observed=True)["label"].agg(lambda labels: labels.isna().all()).to_dict() == {
        "id_val": False, "id_test": False, "ood_test": True, "shift:mine": True,
    }  # fmt: skip
    assert set(kept["epoch_8"]) <= set(small.CLASSES)
    assert [*differences(run.trial(name), run.trial(name).rows(every_shift=True))] == []
    assert not np.isnan(table["id_ece"]).any()
