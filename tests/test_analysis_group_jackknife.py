"""The task's groups as a source of error: scores of resampled counts against scikit-learn and wilds, and what the draws
do to an analysis; a run's files on the way there."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from analysis import study
from analysis.input import run_counts
from analysis.input.run_points import read_run
from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats import group_jackknife, reliability
from analysis.stats.group_jackknife import Counts
from bench.coverage import Truth, simulate
from ray_robust.metrics import group_counts
from ray_robust.run.results_schema import SCORE_SPLITS
from tests.fake_run import run_folder, sweep

OPTIONS = Options("scratch")


def counted(truth: np.ndarray, predicted: np.ndarray, group: np.ndarray) -> Counts:
    """The counts of one point, made as a run makes and reads them."""
    columns = pd.DataFrame(group_counts(truth, predicted, group)).assign(point=0)
    found = run_counts.of_rows(columns, 1)
    assert found is not None
    return found


def cases(count: int = 40):
    """(truth, predicted, groups, a draw): classes that are in some groups only, groups without images."""
    random = np.random.default_rng(3)
    for _ in range(count):
        classes, number, images = random.integers(2, 9), random.integers(2, 9), random.integers(5, 80)
        group = random.integers(0, number, images)
        yield (
            *random.integers(0, classes, (2, images)),
            group,
            random.multinomial(number, np.full(number, 1 / number)),
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_of_drawn_groups_are_those_of_the_images_drawn():
    for truth, predicted, group, times in cases():
        found = counted(truth, predicted, group)
        draw = times[[int(name) for name in found.groups]]
        picked = np.concatenate([np.tile(np.flatnonzero(group == g), n) for g, n in enumerate(times)]).astype(int)
        if not len(picked):
            continue
        t, p = truth[picked], predicted[picked]
        wanted = {
            "accuracy": accuracy_score(t, p),
            "macro_f1": f1_score(t, p, average="macro", labels=np.unique(t), zero_division=0),
            "class_accuracy": balanced_accuracy_score(t, p),
            "worst_group": min(
                accuracy_score(t[group[picked] == g], p[group[picked] == g]) for g in set(group[picked])
            ),
        }
        for metric, score in wanted.items():
            assert group_jackknife.scores(metric, draw[None, :], found)[0, 0] == pytest.approx(score, abs=1e-12), metric


@pytest.fixture
def _in_double():
    import torch

    torch.set_default_dtype(torch.float64)  # wilds rounds its scores to torch's default
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("_in_double")
def test_macro_f1_of_drawn_groups_is_that_of_the_wilds_package():
    import torch

    from ray_robust.data.tasks.wilds import _wilds

    _wilds()
    from wilds.common.metrics.all_metrics import F1

    for truth, predicted, group, times in cases(20):
        picked = np.concatenate([np.tile(np.flatnonzero(group == g), n) for g, n in enumerate(times)]).astype(int)
        if not len(picked):
            continue
        found = counted(truth, predicted, group)
        ours = group_jackknife.scores("macro_f1", times[[int(name) for name in found.groups]][None, :], found)[0, 0]
        pair = torch.from_numpy(predicted[picked]), torch.from_numpy(truth[picked])
        assert ours == pytest.approx(F1(average="macro").compute(*pair)["F1-macro_all"], abs=1e-12)


def test_every_group_is_left_out_once():
    assert (group_jackknife.leave_one_out_weights(["c", "a", "b"]) == 1 - np.eye(3)[[1, 2, 0]]).all()
    many = group_jackknife.leave_one_out_weights([f"g{i:04d}" for i in range(1_100)])
    assert many.shape == (group_jackknife.MOST_LEFT_OUT, 1_100)
    assert ((many == 0).sum(0) == 1).all()


def test_the_variance_of_a_mean_is_that_of_its_groups():
    """Accuracy over groups of one size is a mean of their accuracies: s^2 / G."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(12), 50)
    truth = random.integers(0, 2, 600)
    predicted = np.where(random.random(600) < random.uniform(0.5, 0.9, 12)[group], truth, 1 - truth)
    found, by_group = counted(truth, predicted, group), (truth == predicted).reshape(12, 50).mean(1)
    where = group_jackknife.error_source("g", [found.images])
    made = group_jackknife.scores("accuracy", group_jackknife.leave_one_out_weights(found.groups), found)[0]
    assert np.var(made) * where.factor == pytest.approx(by_group.var(ddof=1) / 12)
    assert where.df == pytest.approx(11)


def test_uneven_groups_are_worth_fewer():
    some, few = (
        group_jackknife.error_source("g", [np.array([50] * 4 + [1] * 8)]),
        group_jackknife.error_source("g", [np.array([50] + [1] * 9)]),
    )
    assert 3 < some.df < 4
    assert np.isnan([few.df, few.factor]).all()  # nearly all images are of one: nothing is known of others


@pytest.fixture(scope="module")
def world():
    made = simulate(Truth(er=(0.0, 3.0, 6.0), trials=3, cameras=16), seed=1)
    return replace(made, points=made.points.drop(columns="seed"))  # else groups are paired by it


@pytest.fixture(scope="module")
def found(world):
    return study.analyse("simulated", world.points, OPTIONS, counts=world.counts)


@pytest.mark.slow
def test_the_groups_are_a_source_of_error_of_every_number(found, world):
    without = study.analyse("simulated", world.points, OPTIONS)
    sources = found.errors.groupby("group")["source"].agg(list)
    assert sources["num_images=1000"] == ["trials of num_images=1000", "baseline line", "ID groups", "OOD groups"]
    own = {f"trials of {g}" for g in without.groups["group"] if g != "scratch"}
    assert set(without.errors["source"]) == {"baseline line", "trials of scratch and baseline line", *own}
    assert found.groups["er"].tolist() == without.groups["er"].tolist()
    other = found.groups["group"] != "scratch"
    errors = found.errors.loc[found.errors["source"].str.endswith("groups")].groupby("group")["se"].max()
    assert (errors[found.groups.loc[other, "group"]] > 0.2).all()
    assert errors["scratch"] < 0.1  # its mean is 0 by construction, whatever the cameras
    assert "other test groups under shift of the same kind" in found.target
    assert without.target == "Intervals speak of the study repeated with other trials and the same test images."


def test_draws_are_the_same_for_every_model(world):
    """Two levels with the very same predictions differ by nothing, whatever the cameras."""
    points, counts = world.points.copy(), {}
    a, b = (np.flatnonzero(points["group"] == name) for name in ("num_images=1000", "num_images=10000"))
    points.loc[b, ["id", "ood"]] = points.loc[a, ["id", "ood"]].to_numpy()
    for side, own in world.counts.items():
        size = own.truth.size
        hits, guessed = own.hits.reshape(-1, size).copy(), own.guessed.reshape(-1, size).copy()
        hits[b], guessed[b] = hits[a], guessed[a]
        counts[side] = Counts(own.groups, own.classes, own.truth, own.images, own.starts, own.cells, hits.ravel(),
                              guessed.ravel())  # fmt: skip
    found = study.analyse("simulated", points, OPTIONS, counts=counts)
    row = found.contrasts.set_index(["a", "b"]).loc["num_images=10000", "num_images=1000"]
    assert row["delta_er"] == pytest.approx(0)
    own = found.errors.loc[found.errors["group"].isin(["num_images=1000", "num_images=10000"])
                           & found.errors["source"].str.startswith("trials"), "se"]  # fmt: skip
    assert row["se"] == pytest.approx(np.sqrt((own**2).sum()), rel=0.25)  # different draws of trials, no camera


def test_too_few_groups_say_nothing_of_others():
    world = simulate(Truth(trials=3, cameras=5), seed=1)
    found = study.analyse("simulated", world.points, OPTIONS, counts=world.counts)
    assert not found.errors["source"].str.endswith("groups").any()
    assert (
        "ood_test has 5 groups, too few to say anything about others (at least 8 are needed): intervals speak of these "
        "groups"
    ) in found.warnings


def test_the_worst_group_is_not_resampled(world):
    points = world.points.assign(metric="worst_group")
    for side, own in world.counts.items():
        points[side] = group_jackknife.scores("worst_group", np.ones((1, len(own.groups))), own)[:, 0]
    found = study.analyse("simulated", points, OPTIONS, counts=world.counts)
    assert any(w.startswith("worst_group is no mean over groups") for w in found.warnings)
    assert not found.errors["source"].str.endswith("groups").any()


def test_counts_that_do_not_give_the_scores_are_not_used(world):
    points = world.points.assign(ood=world.points["ood"] - 0.001)
    found = study.analyse("simulated", points, OPTIONS, counts=world.counts)
    assert any(w.startswith("the counts per group do not give the ood scores") for w in found.warnings)
    assert not found.errors["source"].str.endswith("groups").any()


@pytest.fixture
def run(tmp_path):
    """A run whose points carry counts of eight cameras a side, and the truth of its images."""
    points = sweep({"num_images=1000": 0.0}, trials=2, epochs=(3, 6))
    random = np.random.default_rng(5)
    truth, group = random.integers(0, 4, 200), np.repeat(np.arange(8), 25)
    folder = run_folder(tmp_path / "run", points)
    for trial, own in points.groupby("trial", sort=False):
        rows = folder.trial(trial).rows()
        for name, looks in own.groupby("finetune"):
            parts = []
            for epoch in looks["epoch"]:
                for side, split in SCORE_SPLITS.items():
                    guess = np.where(random.random(200) < 0.6, truth, random.integers(0, 4, 200))
                    columns = pd.DataFrame(group_counts(truth, guess, group))
                    columns = columns.assign(epoch=np.int32(epoch), split=split)
                    parts.append(columns.astype({"group": str, "class": str}))
                    for row in rows:
                        if (row["finetune"], row["epoch"]) == (name, epoch):
                            row[side] = f1_score(truth, guess, average="macro")
                            row[f"{side}_groups"] = 8
            buffer = io.BytesIO()
            pd.concat(parts).to_parquet(buffer, index=False)
            folder.trial(trial).storage.write(f"groups/{name}.parquet", buffer.getvalue())
        folder.trial(trial).finish(rows, {})
    return folder


def test_a_run_gives_its_counts(run):
    table, _ = read_run(run.storage.address)
    found, said = table.counts(table.points)
    assert said == []
    for side in group_jackknife.SIDES:
        again = group_jackknife.scores("macro_f1", np.ones((1, 8)), found[side])[:, 0]
        assert again == pytest.approx(table.points[side].to_numpy(), abs=1e-12)
    (analysis,) = study.analyse_all(table, OPTIONS)
    assert {"ID groups", "OOD groups"} <= set(analysis.errors["source"]) or analysis.refused


def test_how_well_id_is_measured_is_read_from_the_counts(run):
    """The report's checks of the line: each baseline point's own counts, in whatever order the points are."""
    table, options = read_run(run.storage.address)
    (analysis,) = study.analyse_all(table, replace(OPTIONS, min_r2=0.0))
    checks = analysis.line
    own = table.points.loc[table.points["group"] == options.baseline]
    variance = reliability.variance_of(table.counts(own.reset_index(drop=True))[0]["id"], "macro_f1")
    x = ndtri(own["id"].to_numpy())
    noise = (variance / SCALES["probit"].rate(x) ** 2).mean()
    (row,) = checks.reliability.to_dict("records")
    assert row["source"] == "counts per class"
    assert row["reliability"] == pytest.approx(max(1 - noise / x.var(ddof=1), 0), abs=1e-9)
    assert row["noise_sd"] == pytest.approx(noise**0.5)


def finish_again(run, trial: str) -> None:
    """Have the trial prove what is in its folder now, as if it had been trained so."""
    folder = run.trial(trial)
    folder.finish(folder.rows(), {})


def test_missing_counts_are_told(run):
    trial = run.plan()["trial"][0]
    folder = run.trial(trial).storage
    folder.delete(f"groups/{folder.names('groups')[0]}")
    finish_again(run, trial)
    table, _ = read_run(run.storage.address)
    assert table.counts(table.points) == (None, [
        "2 of 24 points have no counts per group (groups/*.parquet): intervals speak of the test groups as they are"
    ])  # fmt: skip


def test_points_that_saw_other_images_are_told(run):
    trial = run.plan()["trial"][0]
    folder = run.trial(trial).storage
    name = f"groups/{folder.names('groups')[0]}"
    rows = pd.read_parquet(io.BytesIO(folder.read(name)))
    buffer = io.BytesIO()
    rows.assign(fn=rows["fn"] + 1).to_parquet(buffer, index=False)
    folder.write(name, buffer.getvalue())
    finish_again(run, trial)
    table, _ = read_run(run.storage.address)
    found, said = table.counts(table.points)
    assert found is None
    assert said == [
        "not all points were tested on the same images of id_test: intervals speak of the test groups as they are"
    ]


def test_a_task_without_groups_misses_nothing(tmp_path):
    run_folder(tmp_path / "run", sweep({"num_images=1000": 0.0}))
    table, _ = read_run(str(tmp_path / "run"))
    assert table.counts(table.points) == (None, [])
