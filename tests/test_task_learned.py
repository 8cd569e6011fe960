"""Models that never learned their task: told as such, whatever else their line lacks."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.advice.advise import advise
from analysis.advice.causes import cause_of
from analysis.input import run_points
from analysis.learned import task
from analysis.options import Options
from analysis.study import Analysis, analyse, analyse_all
from tests.fake_run import run_folder, sweep

COUNTS = {"fox": 450, "hare": 300, "owl": 750}  # images of the ID test by class: naming owls is right in half


def classes(*groups: str) -> pd.DataFrame:
    return pd.DataFrame([{"group": g, "class": c, "id_images": n} for g in groups for c, n in COUNTS.items()])


def points(accuracy: dict[str, list[float]], images: int = 1500, recall: float = 1 / 3) -> pd.DataFrame:
    return pd.DataFrame([{"group": group, "id_accuracy": one, "id_class_accuracy": recall, "id_images": images}
                         for group, own in accuracy.items() for one in own])  # fmt: skip


def refused(accuracy: float, images: int = 1500, level: bool = False) -> Analysis:
    """An analysis whose baseline makes no line, and whose best ID accuracy is this."""
    made = sweep({"n=1": 3.0})
    base = made["group"] == "scratch"
    made.loc[base, "ood"] = np.random.default_rng(0).uniform(0.2, 0.4, base.sum())
    if level:
        made.loc[base, ["id", "ood"]] = 0.5, 0.4
    analysis = analyse("task", made, Options("scratch"))
    assert analysis.refused
    table = task.task_table(points({"scratch": [0.4, accuracy]}, images), classes("scratch"))
    return replace(analysis, learned=replace(analysis.learned, tasks=table))


def test_the_best_point_of_a_group_is_held_against_the_most_frequent_class():
    own = points({"scratch": [0.3, 0.503, 0.5], "n=1": [0.3, 0.61], "n=2": [0.1]})
    table = task.task_table(own, classes("scratch", "n=1")).set_index("group")
    assert table.index.tolist() == ["scratch", "n=1"]  # of n=2 no predictions are kept: nothing is said
    row, ends = table.loc["scratch"], stats.binomtest(round(0.503 * 1500), 1500).proportion_ci(0.95, "wilson")
    assert row[["accuracy", "low", "high", "chance"]].tolist() == pytest.approx(
        [50.3, 100 * ends.low, 100 * ends.high, 50.0]
    )
    assert table["not_learned"].tolist() == [True, False]


def test_too_few_images_show_nothing():
    table = task.task_table(points({"scratch": [0.55]}, images=20), classes("scratch"))
    assert not table["not_learned"].any()


def test_of_a_test_with_a_frequent_class_recall_shows_what_accuracy_hides():
    """85 % of both classes are right, which is less than the share of the frequent one."""
    test = pd.DataFrame({"group": "scratch", "class": ["usual", "rare"], "id_images": [1350, 150]})
    own = points({"scratch": [0.85]}, recall=0.85)
    assert not task.task_table(own, test)["not_learned"].any()
    assert task.task_table(own.assign(id_class_accuracy=0.51), test)["not_learned"].all()


def test_points_without_accuracies_have_no_table():
    assert task.task_table(pd.DataFrame({"group": ["scratch"]}), classes("scratch")).empty


@pytest.mark.parametrize("level", [False, True])
def test_longer_fine_tuning_comes_before_every_other_remedy(level):
    analysis = refused(0.505, level=level)
    cause = cause_of(analysis)
    assert cause.reason == "task_not_learned"
    assert cause.evidence.startswith("The highest ID accuracy is not clearly above chance: scratch 50.5 % (")
    assert cause.evidence.endswith("; chance 50.0).")
    first = advise(analysis)[0]
    assert first.reason == "task_not_learned"
    assert first.action == ("First fine-tune for longer (finetune.epochs), and if that does not help, at another rate "
                            "(finetune.lr).")  # fmt: skip


def test_models_that_learned_the_task_get_the_advice_of_their_line():
    assert cause_of(refused(0.7)).reason != "task_not_learned"


@pytest.mark.slow
def test_a_run_of_constant_classifiers_says_so(tmp_path):
    """On the real path: predictions of a run folder that all name the most frequent class."""
    made = sweep({"num_images=1000": 0.0}, epochs=(3, 6)).assign(metric="accuracy")
    made["id"] = made["id_accuracy"] = made["id_val"] = 0.5
    made["id_class_accuracy"] = 1 / 3
    made["ood"] = made["ood_accuracy"] = 0.4
    run = run_folder(tmp_path / "run", made)
    truth = {split: np.repeat(list(COUNTS), [n // 5 for n in COUNTS.values()])
             for split in ("id_val", "ood_val", "id_test", "ood_test")}  # fmt: skip
    table = pd.concat([
        pd.DataFrame({"split": split, "image": [f"{split}-{i}" for i in range(len(own))], "label": own,
                      "epoch_3": "owl", "epoch_6": "owl"})
        for split, own in truth.items()
    ])  # fmt: skip
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    for trial, finetune in made[["trial", "finetune"]].drop_duplicates().itertuples(index=False):
        run.trial(trial).storage.write(f"predictions/{finetune}.parquet", buffer.getvalue())
    read, options = run_points.read_run(run.storage.address)
    (analysis,) = analyse_all(read, options)
    assert analysis.refused
    first = advise(analysis, read)[0]
    assert first.reason == "task_not_learned"
    assert first.action.startswith("First fine-tune the baseline for ")
    assert "baseline:" in (first.yaml or "")
    (warning,) = (text for text in analysis.warnings if text.startswith("the task was not learned"))
    assert "scratch 50.0 %" in warning
    assert "num_images=1000 50.0 %" in warning
