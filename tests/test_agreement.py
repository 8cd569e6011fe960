"""OOD scores estimated without labels: ALine-D, when it is refused, and that everything made of it says so."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_run
import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console
from scipy.special import ndtri

from analysis.input import run_agreement
from analysis.input.declared import Earlier
from analysis.input.run_points import read_run
from analysis.interface.study import Study
from analysis.report import terminal
from analysis.scales import SCALES
from analysis.stats import agreement, group_jackknife
from analysis.stats.agreement import ASSUMES, ESTIMATE, Estimated, Pairs, estimate_ood, matches
from analysis.study import Analysis, analyse_all
from analysis.verdict import verdict
from bench.agreement import (
    BASELINE,
    GROUPS,
    INTERCEPT,
    SLOPE,
    Sweep,
    World,
    _agreement,
    _on_the_line,
    hidden,
    simulate,
)  # fmt: skip
from ray_robust.run.run_folder import RunFolder

PROBIT = SCALES["probit"]
SCHEMA = json.loads((Path(run_agreement.__file__).parents[1] / "verdict.schema.json").read_text("utf-8"))
WORLD = World("small", trials=4, of_group=4, images=500)


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return simulate(WORLD, 0)


def estimate_of(sweep: Sweep, rows: np.ndarray | None = None, min_r2: float = 0.8) -> Estimated:
    rows = np.arange(len(sweep.points)) if rows is None else rows
    points = sweep.points.iloc[rows]
    tests = {side: replace(test, predicted=test.predicted[rows]) for side, test in sweep.tests.items()}
    trials, _ = pd.factorize(points["trial"])
    return estimate_ood(tests, trials, points["group"].to_numpy(object), BASELINE, PROBIT, min_r2)


def test_it_is_least_squares_over_pairs_of_different_trials_of_a_group(sweep: Sweep):
    """The points of a group with a single trial are in pairs with all others."""
    few = np.flatnonzero(~sweep.points["trial"].isin(["more-0", "more-1", "more-2"]))
    points = sweep.points.iloc[few].reset_index(drop=True)
    tests = {side: replace(test, predicted=test.predicted[few]) for side, test in sweep.tests.items()}
    trial, group = pd.factorize(points["trial"])[0], points["group"].to_numpy(object)
    agreement = {side: PROBIT.of((t.predicted[:, None] == t.predicted).mean(2), len(t)) for side, t in tests.items()}
    accuracy = PROBIT.of(points["id"].to_numpy(), WORLD.images)
    i, j = np.triu_indices(len(points), 1)
    i, j = i[trial[i] != trial[j]], j[trial[i] != trial[j]]
    of_baseline = (group[i] == BASELINE) & (group[j] == BASELINE)
    slope, intercept = np.polyfit(agreement["id"][i, j][of_baseline], agreement["ood"][i, j][of_baseline], 1)
    wanted = agreement["ood"][i, j] + slope * ((accuracy[i] + accuracy[j]) / 2 - agreement["id"][i, j])

    def solved(pairs: np.ndarray) -> np.ndarray:
        design = np.zeros((len(pairs), len(points)))
        design[np.arange(len(pairs)), i[pairs]] = design[np.arange(len(pairs)), j[pairs]] = 0.5
        return np.linalg.lstsq(design, wanted[pairs], rcond=None)[0]

    within, of_all = solved(np.flatnonzero(group[i] == group[j])), solved(np.arange(len(i)))
    found = estimate_of(sweep, few)
    np.testing.assert_allclose(found.ood, PROBIT.inverse(np.where(group == "more", of_all, within)), atol=1e-9)
    assert (found.slope.value, found.intercept, found.pairs) == pytest.approx((slope, intercept, of_baseline.sum()))


def test_without_partners_the_rest_is_fitted_as_if_they_were_not_there(sweep: Sweep):
    trial, _ = pd.factorize(sweep.points["trial"])
    values = np.random.default_rng(0).normal(size=(len(trial), len(trial)))
    values += values.T
    keep = trial != 3
    found = Pairs(trial, np.zeros(len(trial)), 0).solve(values, keep)
    rest = Pairs(trial[keep], np.zeros(int(keep.sum())), 0).solve(values[np.ix_(keep, keep)])
    np.testing.assert_allclose(found[keep], rest)
    others = values[~keep][:, keep]
    np.testing.assert_allclose(found[~keep], 2 * others.mean(1) - rest.mean())


def test_of_two_trials_of_a_group_their_pairs_say_what_the_mean_of_both_is():
    """How they differ is said by pairs with all others, which may be off as a whole."""
    trial, wanted = np.repeat(np.arange(6), 2), np.repeat([0.1, 0.2, 0.3, 0.4, 1.0, 1.4], 2)
    group = np.where(trial < 4, "scratch", "more")
    values = (wanted[:, None] + wanted) / 2 - 0.2 * (group[:, None] != group)
    solved = Pairs(trial, group, "scratch").solve(values)
    np.testing.assert_allclose(solved, wanted)


def test_matches_are_counted_for_every_pair():
    predicted = np.random.default_rng(1).integers(0, 3, (5, 40))
    np.testing.assert_array_equal(matches(predicted), (predicted[:, None] == predicted).sum(2))


def test_estimates_are_near_the_scores_that_nobody_looked_at(sweep: Sweep):
    found = estimate_of(sweep)
    bare = replace(sweep, tests={**sweep.tests, "ood": replace(sweep.tests["ood"], labels=None)})
    np.testing.assert_array_equal(found.ood, estimate_of(bare).ood)
    assert np.abs(found.ood - sweep.points["ood"]).mean() < 0.03
    assert [each.source.name for each in found.replicates] == ["models that agree", "ID images", "OOD images"]


def test_it_is_told_how_often_wrong_answers_are_the_same():
    """A share of the wrong answers is the same for all models, on both tests; those of others differ."""
    assert set(estimate_of(simulate(WORLD, 0)).coinciding.values()) == {0}
    found = estimate_of(simulate(replace(WORLD, common=0.3), 0))
    shares = list(found.coinciding.values())
    assert list(found.coinciding) == list(GROUPS)
    assert shares == pytest.approx([0.3] * 4, abs=0.05)
    assert f"{100 * shares[0]:.1f} % have the same wrong answer, of two models of another group" in found.sentence


def test_test_groups_are_left_out_where_there_are_enough():
    found = estimate_of(simulate(replace(WORLD, cameras=10), 0))
    assert [(each.source.name, each.ood.shape[1]) for each in found.replicates[1:]] == [("groups", 10)]


def off_the_line(sweep: Sweep) -> Sweep:
    """The same with predictions under shift that have nothing to do with each other."""
    test = sweep.tests["ood"]
    guesses = np.random.default_rng(0).integers(0, 5, test.predicted.shape, np.int32)
    return replace(sweep, tests={**sweep.tests, "ood": replace(test, predicted=guesses)})


def test_it_is_refused_where_agreement_is_off_the_line(sweep: Sweep):
    assert estimate_of(sweep, min_r2=0.999).refused.startswith("agreement is off the line: R² of the baseline's pairs")
    assert "agreement is off the line" in estimate_of(off_the_line(sweep)).refused
    few = np.flatnonzero(~sweep.points["trial"].isin(["scratch-0", "none-0"]))
    assert estimate_of(sweep, few).refused == "the baseline has 3 trials, and agreement between 4 or more is needed"
    assert np.isnan(estimate_of(sweep, few).ood).all()


@pytest.mark.parametrize("sizes", [(4, 2, 2, 1), (4, 2, 2), (7, 1, 1, 1)])
def test_trials_of_very_different_numbers_of_points_are_solved(sizes: tuple[int, ...]):
    trial = np.repeat(np.arange(len(sizes)), sizes)
    wanted = np.random.default_rng(0).normal(size=len(trial))
    np.testing.assert_allclose(pairs_of_all(trial, (wanted[:, None] + wanted) / 2), wanted, atol=1e-9)


def test_leaving_a_trial_out_moves_little_where_every_group_is_on_its_line():
    """Pairs of different groups agree less; a group of two trials has no others once one of them is left out."""
    trial = np.repeat(np.arange(9), 2)
    group = np.repeat([0, 0, 0, 0, 1, 1, 2, 2, 2], 2)
    wanted = np.array([0.0, 0.4, 0.9])[group]
    values = (wanted[:, None] + wanted) / 2 - 0.1 * (wanted[:, None] - wanted) ** 2
    pairs = Pairs(trial, group, 0)
    assert (pairs.alone, pairs.df) == (0, 1)
    np.testing.assert_allclose(pairs.solve(values), wanted)
    left = np.stack([pairs.solve(values, pairs.without(one)) for one in range(9)])
    np.testing.assert_allclose(left[:, group != 1], np.broadcast_to(wanted[group != 1], (9, 14)), atol=1e-9)
    np.testing.assert_allclose(left[[0, 1, 2, 3, 6, 7, 8]][:, group == 1], 0.4)
    off = np.abs(pairs_of_all(trial, values)[group == 1] - 0.4).max()
    assert np.abs(left[4:6][:, group == 1] - 0.4).max() < off / 2


def pairs_of_all(trial: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What points of a single group get, or those of a group that has no pairs of its own."""
    return Pairs(trial, np.zeros(len(trial)), 0).solve(values)


def test_estimates_on_a_linear_scale_are_accuracies(sweep: Sweep):
    trials, _ = pd.factorize(sweep.points["trial"])
    high = {side: replace(test, predicted=np.where(np.arange(len(test)) < 490, 0, test.predicted))
            for side, test in sweep.tests.items()}  # fmt: skip
    found = estimate_ood(high, trials, sweep.points["group"].to_numpy(object), BASELINE, SCALES["linear"], -1.0)
    assert not found.refused
    for values in (found.ood, *(each.ood for each in found.replicates)):
        assert 0 <= values.min() <= values.max() <= 1


def test_two_classes_are_refused(sweep: Sweep):
    """All wrong answers are the same."""
    tests = {side: replace(test, predicted=np.minimum(test.predicted, 1)) for side, test in sweep.tests.items()}
    assert estimate_of(replace(sweep, tests=tests)).refused.startswith(
        "with two classes all wrong answers are the same"
    )


def test_models_that_all_agree_equally_make_no_line(sweep: Sweep):
    same = replace(sweep.tests["ood"], predicted=np.zeros_like(sweep.tests["ood"].predicted))
    found = estimate_of(replace(sweep, tests={**sweep.tests, "ood": same}))
    assert found.refused == "agreement is off the line: all pairs of baseline models agree equally often"


@pytest.mark.parametrize("name", ["a", "z"])
def test_a_group_of_one_test_alone_changes_nothing_by_its_name(name: str):
    world = simulate(replace(WORLD, cameras=10), 0)
    ood = world.tests["ood"]
    names = tuple(sorted((*ood.groups, name)))
    group = np.array([names.index(one) for one in ood.groups])[ood.group]
    group[-1] = names.index(name)
    found = estimate_of(replace(world, tests={**world.tests, "ood": replace(ood, group=group, groups=names)}))
    (groups,) = [each for each in found.replicates if each.source.name == "groups"]
    assert groups.id is not None
    assert groups.ood.shape[1] == 11


def test_of_very_many_test_groups_blocks_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(group_jackknife, "MOST_LEFT_OUT", 50)
    world = simulate(replace(WORLD, cameras=400), 0)
    ((source, left),) = agreement._left_out(world.tests)
    assert (source.clusters, source.factor, len(left)) == (400, 49, 50)
    assert sum(len(one["id"]) for one in left) == len(world.tests["id"])


def test_groups_of_a_single_trial_are_told(sweep: Sweep):
    few = np.flatnonzero(~sweep.points["trial"].isin([f"more-{one}" for one in range(1, 4)]))
    found = estimate_of(sweep, few)
    assert found.alone == 1
    assert "1 group of a single trial, in pairs with all: their ER is drawn together" in found.sentence
    assert "single trial" not in estimate_of(sweep).sentence


def test_simulated_agreement_is_on_the_line_of_accuracy():
    x = np.array([-0.6, 0.0, 0.7])
    y = INTERCEPT + SLOPE * x
    random, apart = np.random.default_rng(0), []
    image, own = random.normal(size=(1, 100_000)), random.normal(size=(2, 3, 100_000))
    for height, alike in ((x, np.full(3, 0.7)), (y, _on_the_line(x, y, 0.7))):
        latent = np.sqrt(alike)[:, None] * image + np.sqrt(1 - alike)[:, None] * own
        both = (latent < height[:, None]).all(0).mean(1)
        np.testing.assert_allclose(_agreement(height, alike), ndtri(both), atol=0.02)
        apart.append(height - _agreement(height, alike))
    np.testing.assert_allclose(apart[1], SLOPE * apart[0], atol=1e-9)


# --- a run


def run_of(sweep: Sweep, path: Path, own: bool = True, labels: bool = False) -> RunFolder:
    """A run whose OOD test has no labels, or with labels and a further shift without them."""
    points = sweep.points.assign(
        status="done", seed=sweep.points["trial"].str[-1].astype(int), task="camera-traps", step=31, model="tiny",
        num_images=sweep.points["group"].map({group: i * 1000 for i, group in enumerate(GROUPS)}), sources="{}",
        id_val=sweep.points["id"], ood_val=None, id_accuracy=sweep.points["id"], shift="ood",
        ood_accuracy=sweep.points["ood"] if labels or not own else None, er_estimated=None,
    )  # fmt: skip
    points["trial"] = points["trial"] + "-" + points["trial"].map(lambda name: fake_run.hash_of(name, 6))
    bare = points.assign(ood=np.nan, ood_accuracy=None, er_estimated=True)
    rows = points if labels else bare if own else pd.concat([points, bare.assign(shift="mine")], ignore_index=True)
    run = fake_run.run_folder(path, rows)
    without = "ood_test" if own else "shift:mine"
    sides = {"id_test": sweep.tests["id"], without: sweep.tests["ood"]}
    if not own:
        sides["ood_test"] = sweep.tests["ood"]
    for row, trial, finetune in zip(range(len(points)), points["trial"], points["finetune"], strict=True):
        parts = [
            pd.DataFrame({
                "split": split, "image": [f"{split}/{i}" for i in range(len(test))],
                "label": [f"c{label}" for label in test.labels] if labels or split != without else None,
                "epoch_1": [f"c{guess}" for guess in test.predicted[row]], "confidence_1": np.float16(0.5),
            })
            for split, test in sides.items()
        ]  # fmt: skip
        buffer = io.BytesIO()
        pd.concat(parts, ignore_index=True).to_parquet(buffer)
        run.trial(trial).storage.write(f"predictions/{finetune}.parquet", buffer.getvalue())
    return run


def analysed(run: RunFolder) -> Analysis:
    (analysis,) = analyse_all(*read_run(run.storage.address))
    return analysis


@pytest.fixture(scope="module")
def bare(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_of(sweep, tmp_path_factory.mktemp("bare") / "run")


def test_a_run_without_ood_labels_has_er_of_the_estimates(sweep: Sweep, bare: RunFolder):
    analysis, found = analysed(bare), estimate_of(sweep)
    np.testing.assert_allclose(np.sort(analysis.points["ood"]), np.sort(found.ood))
    assert not analysis.refused
    assert set(analysis.errors["source"]) >= {"models that agree", "ID images", "OOD images"}
    assert "other test images under shift of the same kind" in analysis.target


def test_predictions_are_read_once_for_all_settings(bare: RunFolder, monkeypatch: pytest.MonkeyPatch):
    table, options = read_run(bare.storage.address)
    calls, read = [], run_agreement.read_tests
    monkeypatch.setattr(run_agreement, "read_tests", lambda *args: calls.append(1) or read(*args))
    earlier = SimpleNamespace(earlier=lambda _: [Earlier(replace(options, margin=m), "") for m in (1.0, 3.0)])
    (analysis,) = analyse_all(replace(table, declared=earlier), options)
    assert [other.options.margin for _, other in analysis.earlier] == [1.0, 3.0]
    assert all(other.points["ood"].equals(analysis.points["ood"]) for _, other in analysis.earlier)
    assert len(calls) == 1


@pytest.mark.slow
def test_everything_made_of_estimates_says_so(bare: RunFolder, tmp_path: Path):
    table, options = read_run(bare.storage.address)
    study = Study(table, analyse_all(table, options), "")
    made = study.verdict
    Draft202012Validator(SCHEMA).validate(made)
    assert made["estimated"]["assumes"] == ASSUMES
    assert made["estimated"]["pairs"] == 6 * 16
    sentences = [one["text"] for one in (*made["findings"], *made["scores"]["findings"], made["scores"]["deployment"])]
    sentences += [one["text"] for one in made["best_sets"].values()]
    assert sentences
    assert all(text.startswith(f"{ESTIMATE}: ") for text in sentences)
    assert made["scores"]["robustness"].startswith(f"{ESTIMATE}: ")
    study.write(str(tmp_path))
    page = (tmp_path / "index.html").read_text("utf-8")
    assert f"<title>{ESTIMATE}: " in page
    assert ASSUMES in page
    points = pd.read_csv(tmp_path / "robustness.csv")
    assert points["er_estimated"].all()
    for name in ("trend.svg", *(f"export/{file.name}" for file in (tmp_path / "export").glob("*.svg"))):
        assert "estimated" in (tmp_path / name).read_text("utf-8"), name
    for file in (tmp_path / "export").glob("*.tex"):
        assert ESTIMATE in file.read_text("utf-8"), file.name
    console = Console(width=200, file=io.StringIO())
    terminal.show(table, study.analyses, "page", console=console)
    printed = console.file.getvalue()
    assert f"{ESTIMATE}: agreement of 96 pairs of baseline models on 500 images" in printed


def test_where_agreement_is_off_the_line_there_is_no_er_and_the_reason(sweep: Sweep, tmp_path: Path):
    run = run_of(off_the_line(sweep), tmp_path / "run")
    analysis = analysed(run)
    assert analysis.refused
    assert "agreement is off the line" in analysis.refusals[0]
    table, _ = read_run(run.storage.address)
    made = verdict([analysis], table)
    Draft202012Validator(SCHEMA).validate(made)
    assert "because agreement is off the line" in made["findings"][0]["text"]
    assert "agreement is off the line" in made["estimated"]["refused"]
    assert {row["reason"] for row in made["left_out"]} == {f"no OOD score: {analysis.refusals[0]}"}


def test_a_shift_without_labels_stands_apart_from_the_measured_ones(sweep: Sweep, tmp_path: Path):
    run = run_of(sweep, tmp_path / "run", own=False)
    analysis = analysed(run)
    own, mine = analysis.shifts.results
    assert analysis.mark == ""
    assert (mine.name, mine.aside) == ("mine", "its scores are estimates")
    assert analysis.shifts.lines["estimated"].tolist() == [False, True]
    np.testing.assert_allclose(np.sort(mine.points["ood"]), np.sort(estimate_of(sweep).ood))
    assert own.estimated is None
    assert any("OOD scores on mine are estimated without labels: " in note for note in analysis.warnings)


def test_missing_predictions_and_other_metrics_are_refused(sweep: Sweep, tmp_path: Path):
    run = run_of(sweep, tmp_path / "run")
    table, options = read_run(run.storage.address)
    first = table.points.iloc[0]
    run.trial(first["trial"]).storage.delete(f"predictions/{first['finetune']}.parquet")
    found = run_agreement.estimated([run], table.points, options)
    assert (
        found.refused
        == f"predictions of 1 of {len(table.points)} points are missing or damaged (predictions/*.parquet)"
    )
    other = run_agreement.estimated([run], table.points.assign(metric="macro_f1"), options)
    assert other.refused == "agreement between models estimates accuracy, not macro_f1"


def test_the_bench_hides_the_labels_of_a_run(sweep: Sweep, tmp_path: Path):
    run = run_of(sweep, tmp_path / "run", labels=True)
    made, refused, without_line = hidden(run.storage.address)
    assert [one.group for one in made] == [name for name in GROUPS if name != BASELINE]
    assert refused == without_line == []
    truth = {one.group: one.labelled for one in made}
    assert all(abs(one.estimate - truth[one.group]) < 4 for one in made)
