"""Every metric against scikit-learn, the wilds package, or the definition written out."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from make_pools import open_pool
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_score
from test_views import shows_what_its_own_analysis_does

from analysis.input.run_points import read_run
from analysis.report import tables
from analysis.stats import group_jackknife
from analysis.study import analyse_all
from analysis.views import chosen, views
from ray_robust import metrics, registry
from ray_robust.errors import UserError
from ray_robust.metrics import METRICS, calibration_error, group_counts, tally
from ray_robust.prepare.open_sweep import open_sweep
from ray_robust.run.run_folder import RunFolder
from ray_robust.spec.load import load_spec
from ray_robust.train.context import Context
from ray_robust.trial.paths import RunPaths
from ray_robust.trial.run_trial import run_trial


def random_cases(count: int = 200):
    """(truth, predicted, groups), with classes and groups that are absent from either."""
    random = np.random.default_rng(0)
    for _ in range(count):
        classes, groups, images = random.integers(2, 12), random.integers(1, 9), random.integers(1, 60)
        yield (*random.integers(0, classes, (2, images)), random.integers(0, groups, images))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_are_those_of_scikit_learn():
    for truth, predicted, groups in random_cases():
        seen = tally(truth, predicted, groups)
        there = np.unique(truth)
        assert metrics.accuracy(seen) == accuracy_score(truth, predicted)
        wanted = f1_score(truth, predicted, average="macro", labels=there)
        assert metrics.macro_f1(seen) == pytest.approx(wanted, abs=1e-12)
        assert metrics.class_accuracy(seen) == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
        by_group = [accuracy_score(truth[groups == g], predicted[groups == g]) for g in np.unique(groups)]
        assert metrics.worst_group(seen) == min(by_group)


@pytest.fixture
def _in_double():
    torch.set_default_dtype(torch.float64)  # the package rounds its scores to torch's default
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("_in_double")
def test_macro_f1_is_that_of_the_wilds_package():
    from ray_robust.data.tasks.wilds import _wilds

    _wilds()
    from wilds.common.metrics.all_metrics import F1

    for truth, predicted, _ in random_cases():
        wanted = F1(average="macro").compute(torch.from_numpy(predicted), torch.from_numpy(truth))["F1-macro_all"]
        assert metrics.macro_f1(tally(truth, predicted)) == pytest.approx(wanted, abs=1e-12)


def test_groups_aside_count_for_their_classes_only():
    truth, predicted, groups = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), np.array([0, 0, 1, 2])
    assert METRICS["worst_group"].score(tally(truth, predicted, groups)) == 0
    assert METRICS["worst_group"].score(tally(truth, predicted, groups, aside=(2,))) == 1
    assert metrics.accuracy(tally(truth, predicted, groups, aside=(2,))) == 0.75
    assert np.isnan(METRICS["worst_group"].score(tally(truth, predicted)))
    assert np.isnan(METRICS["worst_group"].score(tally(truth, predicted, groups, aside=(0, 1, 2))))


def test_calibration_error_is_its_definition():
    random = np.random.default_rng(1)
    edges = np.linspace(0, 1, metrics.CALIBRATION_BINS + 1)
    for images in (1, 50, 1000):
        confidence = np.concatenate([random.random(images), [1.0, edges[3]]])
        right = random.random(len(confidence)) < confidence
        wanted = 0.0
        for low, high in itertools.pairwise(edges):
            within = (confidence > low) & (confidence <= high)
            if within.any():
                wanted += within.mean() * abs(right[within].mean() - confidence[within].mean())
        assert calibration_error(right, confidence) == pytest.approx(wanted, abs=1e-12)
    assert calibration_error(np.array([True, False]), np.array([0.5, 0.5], np.float32)) == 0


def test_group_counts_add_up_to_every_score_of_any_groups():
    random = np.random.default_rng(2)
    for truth, predicted, groups in random_cases():
        counts = group_counts(truth, predicted, groups)
        drawn = random.integers(0, groups.max() + 1, 5)  # as a bootstrap draws them, with repeats
        picked = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        if not len(picked):
            continue
        times = np.bincount(drawn, minlength=groups.max() + 1)[counts["group"]]
        tp, fp, fn = (np.bincount(counts["class"], weights=times * counts[c]) for c in ("tp", "fp", "fn"))
        there = tp + fn > 0
        f1 = np.mean(2 * tp[there] / (2 * tp + fp + fn)[there])
        wanted = tally(truth[picked], predicted[picked])
        assert f1 == pytest.approx(metrics.macro_f1(wanted), abs=1e-12)
        assert tp.sum() / (tp + fn).sum() == pytest.approx(metrics.accuracy(wanted), abs=1e-12)


def contributed() -> dict[str, metrics.Metric]:
    """The entry in `METRICS` that CONTRIBUTING.md shows how to make."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    function, entry = re.findall(r"```python\n# ray_robust/metrics.py[^\n]*\n(.*?)```", text, re.DOTALL)
    space = dict(vars(metrics))
    exec(function, space)
    return eval("{" + entry + "}", space)


SPEC = """
# Question: Is precision another matter?
task: {name: camera-traps, metric: macro_precision, train_images: 400, id_val_images: 100, id_test_images: 300,
       ood_val_images: 100, ood_test_images: 300}
pretrain: {sources: {species: 1.0}, num_images: 200, num_classes: 20, epochs: 1}
finetune: {epochs: 2, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 1}
seeds: 2
"""


@pytest.mark.slow
def test_an_entry_is_all_that_a_new_metric_needs(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(SPEC)
    wrong = r"x.yaml:3: task.metric: must be one of accuracy, .*, not 'macro_precision'"
    with pytest.raises(UserError, match=wrong):
        open_sweep(load_spec(tmp_path / "x.yaml"))
    monkeypatch.setitem(METRICS, "macro_precision", contributed()["macro_precision"])
    torch.set_num_threads(1)
    plan = open_sweep(load_spec(tmp_path / "x.yaml")).plan
    paths = RunPaths(*(str(tmp_path / name) for name in ("run", "checkpoints", "store")))
    for trial in plan:
        run_trial(trial, paths, Context())
    run = RunFolder(paths.run)
    run.write_plan(plan.rows())
    results = run.write_results()
    assert (results["ood"] == results["ood_macro_precision"]).all()
    assert "id_macro_precision" in pd.read_csv(tmp_path / "run" / "results.csv")
    first = results.iloc[0]
    seen = pd.read_parquet(run.trial(first["trial"]).storage.local(f"predictions/{first['finetune']}.parquet"))
    truth, predicted = seen.loc[seen["split"] == "id_test", ["label", f"epoch_{first['epoch']}"]].astype(str).T.values
    wanted = precision_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)
    assert first["id"] == pytest.approx(wanted, abs=1e-12)

    table, options = read_run(paths.run)
    counts, _ = table.counts(table.points)
    resampled, notes = group_jackknife.leave_groups_out(counts, "macro_precision")
    assert ([each.source.name for each in resampled], notes) == (["ID groups", "OOD groups"], [])
    (analysis,) = analyse_all(table, options)
    drawn = views(analysis)
    assert {view.metric for view in drawn} == set(METRICS)
    assert chosen(drawn).metric == "macro_precision"
    shown = tables._views(analysis, drawn)
    assert {row[1] for row in shown.rows} >= {"macro-precision", "macro-F1"}
    assert shown.note.startswith("Worst_group is no mean over groups")
    for view in drawn:
        scores = {side: table.points[f"{side}_{view.metric}"] for side in ("id", "ood")}
        shows_what_its_own_analysis_does(view, table.points.assign(metric=view.metric, **scores), options, counts)


def test_a_task_with_a_metric_of_its_own_that_is_none_is_one_line(monkeypatch):
    monkeypatch.setattr(registry.find("task", "camera-traps"), "own_metric", "macro-f1")
    task = open_pool("task", "camera-traps", {})
    expected = r"task 'camera-traps': its own metric 'macro-f1' is none of ray_robust.metrics; did you mean macro_f1\?"
    with pytest.raises(UserError, match=expected):
        task.metric  # noqa: B018 - reading it is what fails
