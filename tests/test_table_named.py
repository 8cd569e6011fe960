"""Columns that the analysis knows by name: what in them would mislead it is refused or noted, never passed over."""

from __future__ import annotations

from itertools import cycle, islice

import numpy as np
import pandas as pd
import pytest
from make_tables import models, read, refused

from analysis.notes import count_notes
from analysis.options import Options
from analysis.stats.task_points import pairing
from analysis.study import analyse_all


def mixed(*values: str, rows: int = 42) -> list[str]:
    return list(islice(cycle(values), rows))


def trainings(groups: tuple[str, ...] = ("standard", "a", "b"), count: int = 4, points: int = 5) -> pd.DataFrame:
    """Trainings of several points, each with luck of its own: columns trial, seed, epoch, type, val, v2."""
    random, rows = np.random.default_rng(1), []
    for group in groups:
        for number in range(count):
            luck = 0.02 * random.standard_normal()
            for epoch, x in enumerate(np.linspace(0.3, 0.8, points), 1):
                val = x + 0.01 * random.standard_normal()
                rows.append((f"{group}-{number}", str(number), str(epoch), group, round(val, 4),
                             round(0.7 * val + luck + 0.004 * random.standard_normal(), 4)))  # fmt: skip
    return pd.DataFrame(rows, columns=["trial", "seed", "epoch", "type", "val", "v2"])


def note(frame: pd.DataFrame, folder, word: str, **changed) -> str:
    """The one note with this word in it."""
    (found,) = [text for text in read(frame, folder, **changed).warnings if word in text]
    return found


def test_scores_of_two_metrics_are_refused_and_one_metric_in_two_spellings_is_not(tmp_path):
    two = models().assign(metric=mixed("accuracy", "macro_f1"))
    (line,) = refused(two, tmp_path)
    assert line.startswith("t.csv:1: metric: 'accuracy' in 21 rows, 'macro_f1' in 21 rows")
    read(models().assign(metric=mixed("macro_f1", "Macro-F1")), tmp_path)
    both = pd.concat([models().assign(task="A", metric="accuracy"), models().assign(task="B", metric="macro_f1")])
    read(both, tmp_path)  # each task has one


def test_a_task_without_a_name_is_refused_and_names_that_look_alike_are_noted(tmp_path):
    lines = refused(models().assign(task=mixed("A", "")), tmp_path)
    assert lines[0] == "t.csv:3: task: empty, though other rows name theirs"
    read(models().assign(task=""), tmp_path)  # nobody names one: it is one task
    both = pd.concat([models().assign(task="A"), models().assign(task="a")])
    assert "'A' (42 rows) and 'a' (42 rows) look alike" in note(both, tmp_path, "task:")


def test_a_group_column_called_task_is_no_task(tmp_path):
    table = read(models().rename(columns={"type": "task"}), tmp_path, group="task")
    assert set(table.points["task"]) == {"task"}
    assert set(table.points["group"]) == {"standard", "clip"}


@pytest.mark.parametrize(("name", "meant"), [("Task", "task"), ("dataset", "task"), ("Epoch", "epoch"),
                                             ("learning rate", "finetune_lr")])  # fmt: skip
def test_a_column_that_is_nearly_called_like_a_known_one_is_noted(name, meant, tmp_path):
    frame = models().assign(**{name: mixed("1", "2")})
    assert f"is not called {meant}" in note(frame, tmp_path, "rename it", cluster="none")
    known = frame.assign(**{meant: "1"})
    assert not any("rename it" in text for text in read(known, tmp_path, cluster="none").warnings)


@pytest.mark.parametrize("role", ["group", "cluster"])
def test_scores_name_no_groups_and_no_clusters(role, tmp_path):
    lines = refused(models(), tmp_path, **{role: "val"}, baseline=str(models()["val"][0]))
    assert any(f"--{role}: 'val' holds scores" in line for line in lines)


@pytest.mark.parametrize("size", ["-5", "0", "0.5", "1e30"])
def test_what_is_no_number_of_images_is_not_used(size, tmp_path):
    frame = models().assign(id_images=mixed("500", size))
    assert f"id_images: {size} is no number of images" in note(frame, tmp_path, "id_images")
    assert "id_images" not in read(frame, tmp_path).points
    assert "id_images" in read(models().assign(id_images=mixed("500", "")), tmp_path).points


def test_learning_rates_are_numbers_also_with_a_decimal_comma(tmp_path):
    frame = models().assign(finetune_lr=mixed("0,001", "3e-3"))
    assert sorted(set(read(frame, tmp_path).points["finetune_lr"])) == [0.001, 0.003]
    for bad in ("high", "0", "-1e-3", "3 %"):
        frame = models().assign(finetune_lr=mixed("0.001", bad))
        assert f"{bad!r} is no learning rate" in note(frame, tmp_path, "finetune_lr")
        assert "finetune_lr" not in read(frame, tmp_path).points
    for name in ("finetune_lr", "epoch"):
        assert "empty in 21 rows" in note(models().assign(**{name: mixed("3", "")}), tmp_path, name)


@pytest.mark.parametrize("weights", ['{"a": -1, "b": 2}', '{"a": 0}', '{"a": NaN}', '{"a": true}', '{"a": Infinity}'])
def test_weights_that_are_none_are_not_used(weights, tmp_path):
    frame = models().assign(sources=mixed('{"a": 1}', weights))
    assert "the column is not used" in note(frame, tmp_path, "sources")
    assert "sources" not in read(frame, tmp_path).points
    assert "sources" in read(models().assign(sources=mixed('{"a": 1}', "{}", "")), tmp_path).points


def test_levels_that_look_alike_or_have_no_name_are_noted(tmp_path):
    frame = models()
    own = frame["type"] == "clip"
    levels = np.where(own, mixed("fine", "Fine"), "")
    assert "'fine' (6 rows) and 'Fine' (6 rows) look alike" in note(frame.assign(granularity=levels), tmp_path, "alike")
    levels = np.where(own, mixed("fine", ""), "")  # the baseline needs none
    assert "empty in 6 rows" in note(frame.assign(granularity=levels), tmp_path, "granularity")
    levels = np.where(own, mixed("fine", "coarse"), "")
    assert not read(frame.assign(granularity=levels), tmp_path).warnings


def test_a_seed_that_is_not_given_is_shared_by_nobody(tmp_path):
    frame = trainings()
    assert pairing(read(frame, tmp_path, cluster="trial").points).seeds == 4
    without = frame.assign(seed=frame["seed"].replace("2", ""))
    assert pairing(read(without, tmp_path, cluster="trial").points).seeds == 0


def test_a_factor_that_differs_inside_clusters_is_noted(tmp_path):
    frame = trainings().assign(num_images=mixed("1000", "2000", rows=60))
    assert "differs inside 12 clusters" in note(frame, tmp_path, "num_images", cluster="trial")
    same = frame.assign(num_images=np.where(frame["type"] == "a", "1000", "2000"))
    assert not any("num_images" in text for text in read(same, tmp_path, cluster="trial").warnings)


def test_clusters_that_cut_across_trainings_are_noted(tmp_path):
    frame = trainings()
    assert "column 'trial' puts 60 rows into 12 sets" in note(frame, tmp_path, "'trial'", cluster="epoch")
    assert not read(frame, tmp_path, cluster="trial").warnings
    finer = frame.assign(run=[f"r{i // 2}" for i in range(60)])  # inside the clusters
    assert not any(
        "'run'" in text for text in read(finer.assign(family=frame["type"]), tmp_path, cluster="family").warnings
    )


def test_an_error_rate_is_asked_about(tmp_path):
    frame = models().rename(columns={"val": "val_err"})
    assert "val_err is read as a score" in note(frame, tmp_path, "error rate", id="val_err")


def test_a_group_that_is_gone_and_a_baseline_alone_are_noted(tmp_path):
    frame = models().assign(v2=lambda f: f["v2"].where(f["type"] != "clip"))
    table = read(frame, tmp_path)
    notes = count_notes(table.points.assign(extrapolated=False, clipped=False), table.left_out, None)
    assert "clip: no row with scores, so nothing is said about it" in notes
    assert "there is no other group than standard: nothing is compared" in notes


def test_a_column_that_reports_have_for_estimated_scores_is_left_out_and_said(tmp_path):
    table = models().assign(er_estimated=mixed("True", "False"))
    made = read(table, tmp_path, cluster="none")
    assert "not in the report's tables, which have columns of these names: er_estimated" in made.warnings
    (found,) = analyse_all(made, Options("standard"))
    assert found.groups["er"].notna().all()


@pytest.mark.parametrize("name", ["id_variance", "x", "clipped"])
def test_a_column_that_the_analysis_computes_is_left_out_and_said(tmp_path, name):
    made = read(models().assign(**{name: 4.0}), tmp_path)
    assert f"not in the report's tables, which have columns of these names: {name}" in made.warnings
    assert name not in made.points
