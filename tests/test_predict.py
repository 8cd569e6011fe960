"""Prediction over mixtures: a known surface is found, intervals hold it, noise is refused, nothing lies outside."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import ndtr

import analysis.__main__ as analysis_command
from analysis.input.table import Table
from analysis.options import Options
from analysis.predict import surface
from analysis.predict.mixtures import Mixture, Space, mixtures_of, spec_with, varied_beside
from analysis.predict.predict import confirm, predict
from analysis.study import analyse
from bench import foresight
from ray_robust.errors import UserError
from ray_robust.spec.load import load_spec
from tests.fake_run import INTERCEPT, RATES, SLOPE, run_folder

pytestmark = pytest.mark.slow  # searches are simulated and predicted
OPTIONS = Options("scratch")
BEST = {"images": 6000, "species": 0.7}  # where the planted surface has its top, with many classes


def planted(images: float, classes: float, species: float) -> float:
    """A smooth ER surface in percentage points."""
    total, label = np.log10(images / 1000), np.log10(classes / 20)
    top = np.log10(BEST["images"] / 1000)
    return float(6 - 9 * (total - top) ** 2 + 2 * label - 14 * (species - BEST["species"]) ** 2)


def searched(
    count: int, effect=planted, seed: int = 0, trial_sd: float = 0.006, images: int | None = None
) -> pd.DataFrame:
    """Points of a search over images, classes and two sources, one trial a mixture, with a baseline of four trials."""
    random = np.random.default_rng(seed)
    rows = []

    def trial(name: str, group: str, er: float, columns: dict) -> None:
        offset = er / 100 + trial_sd * random.standard_normal()
        for i, rate in enumerate(RATES):
            for epoch in (3, 12):
                x = -0.9 + 0.35 * i + 0.09 * epoch + 0.08 * random.standard_normal()
                ood = float(
                    np.clip(ndtr(INTERCEPT + SLOPE * x) + offset + 0.004 * random.standard_normal(), 0.001, 0.999)
                )
                rows.append({"trial": name, "group": group, "status": "done", "model": "test_resnet",
                             "task": "camera-traps", "finetune": f"lr{rate:g}", "finetune_lr": rate, "epoch": epoch,
                             "step": epoch * 31, "metric": "macro_f1", "id": float(ndtr(x)), "ood": ood,
                             "id_val": float(ndtr(x)), "ood_val": ood, "id_images": 1500, "ood_images": 2000,
                             "seed": 1, "subset_seed": 1, **columns})  # fmt: skip

    for number in range(4):
        trial(f"scratch-{number}-{number:06x}", "scratch", 0.0, {"num_images": 0, "num_classes": 0, "sources": "{}"})
    for number in range(count):
        total = images or round(10 ** random.uniform(3, 4.2))
        classes, species = round(10 ** random.uniform(np.log10(20), np.log10(200))), round(random.uniform(0, 1), 3)
        columns = {"num_images": total, "num_classes": classes, "granularity": "class", "pretrain_method": "supervised",
                   "sources": json.dumps({"species": species, "fractals": round(1 - species, 3)})}  # fmt: skip
        trial(f"mix-{number}-{number + 99:06x}", f"mix {number}", effect(total, classes, species), columns)
    return pd.DataFrame(rows)


def predicted(points: pd.DataFrame):
    table = Table("search", points, (), pd.DataFrame(columns=["trial", "group", "task", "reason"]))
    return predict(table, analyse("camera-traps", points, OPTIONS))


@pytest.fixture(scope="module")
def found():
    return predicted(searched(22))


def test_the_space_is_what_varies(found):
    assert found.space.text.startswith("num_images 1,")
    assert found.space.sources == ("species", "fractals")
    assert not found.space.levels  # granularity is the same everywhere
    numbers = found.space.places[:, :2]
    assert numbers.min(0) == pytest.approx([0, 0])
    assert numbers.max(0) == pytest.approx([1, 1])


def test_the_top_of_a_planted_surface_is_found_inside(found):
    best = found.best
    assert found.space.inside(best)
    top = max(planted(m.images, m.classes, m.share("species")) for m in found.space.between(2000, seed=5))
    assert planted(best.images, best.classes, best.share("species")) >= top - 1.0
    _, low, high = (end[0] for end in found.targets["er"].at(found.space.at([best])))
    assert low <= planted(best.images, best.classes, best.share("species")) <= high
    assert best in found.as_good
    assert len(found.as_good) < found.looked_at


def test_proposals_are_inside_new_and_apart(found):
    assert len(found.proposals) == 6
    assert len(set(found.proposals)) == 6
    assert all(found.space.inside(mixture) for mixture in found.proposals)
    assert all(abs(sum(share for _, share in m.shares) - 1) < 1e-9 for m in found.proposals)
    places = found.space.at(found.proposals)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(places, 2)) >= 0.1


def test_mixtures_to_confirm_have_one_total_and_span_the_ranks(found):
    assert {mixture.images for mixture in found.confirm} == {found.reference}
    value = found.targets["er"].at(found.space.at(found.confirm))[0]
    assert np.all(np.diff(value) <= 0)
    assert np.ptp(value) > 3


def test_noise_is_refused():
    x = np.random.default_rng(0).random((30, 3))
    checks = [
        surface.cross_validate(x, np.random.default_rng(seed).standard_normal(30), np.ones(30)) for seed in range(4)
    ]
    assert sum(check.trusted for check in checks) <= 2  # a test at 5 %: three of four come once in 2,100
    refused = predicted(searched(16, lambda *_: 3.0, seed=1))
    assert refused.targets["er"].check.p > 0.05
    assert (refused.best, refused.proposals, refused.confirm) == (None, (), ())


def test_too_few_mixtures_are_refused():
    assert "mixtures are too few for a surface over num_images" in predicted(searched(6)).refused
    assert predicted(searched(1)).refused == "there are not two different mixtures with ER"


def test_a_baseline_of_one_trial_predicts_nothing():
    """The error of its line is not known, so that no interval is."""
    points = searched(22)
    first = points.loc[points["group"] == "scratch", "trial"].iloc[0]
    prediction = predicted(points[(points["group"] != "scratch") | (points["trial"] == first)])
    assert prediction.refused == (
        "a single trial decides the line of the baseline 'scratch', which has 1 trial: the error of ER is not known"
    )
    assert prediction.best is None


def test_inside_is_the_hull_and_not_the_box():
    corner = [Mixture(1000, 20), Mixture(10_000, 20), Mixture(1000, 200)]
    space = Space.of(corner)
    assert space.inside(Mixture(2000, 50))
    assert not space.inside(Mixture(9000, 180))
    assert not space.inside(Mixture(20_000, 20))
    assert all(space.inside(mixture) for mixture in space.between(100))
    levels = Space.of([*corner, Mixture(1000, 20, (), (("granularity", "order"),))])
    assert not levels.inside(Mixture(2000, 50, (), (("granularity", "order"),)))


def test_a_slice_of_the_region_has_the_total_asked_for():
    space = Space.of([Mixture(1000, 20), Mixture(10_000, 20), Mixture(1000, 200), Mixture(10_000, 200)])
    slice_ = space.between(50, images=3000)
    assert {mixture.images for mixture in slice_} == {3000}
    assert np.ptp([mixture.classes for mixture in slice_]) > 100
    assert space.between(50, images=50_000) == []


def test_numbers_never_varied_apart_are_one_axis():
    tried = [Mixture(1000 * k, 20 * k) for k in range(1, 9)]
    assert surface.rank(Space.of(tried).places) == 2


def test_a_plane_is_found_exactly_where_there_is_nothing_else():
    random = np.random.default_rng(0)
    x = random.random((30, 2))
    y = 1 + 2 * x[:, 0] - x[:, 1]
    fitted = surface.fit(x, y, np.ones(30))
    there = random.random((50, 2))
    assert fitted.at(there).value == pytest.approx(1 + 2 * there[:, 0] - there[:, 1], abs=1e-6)
    assert fitted.at(there).smoother @ y == pytest.approx(fitted.at(there).value)


def test_trials_of_one_mixture_weigh_as_many():
    """Two trials of a mixture are one row of weight two: with the plane alone, textbook regression over the trials."""
    random = np.random.default_rng(1)
    x, each = random.random((20, 1)), random.standard_normal((20, 2))
    fitted = surface.fit(x, each.mean(1), np.full(20, 2.0), float(((each - each.mean(1)[:, None]) ** 2).sum()), 20.0)
    assert fitted.df == 20 - 2 + 20
    assert fitted.noise == pytest.approx(1.0, rel=0.2)


def test_a_larger_run_is_compared_by_rank(found):
    large = searched(9, seed=8, images=50_000, effect=lambda images, *rest: 5 + 3 * planted(BEST["images"], *rest))
    table = Table("large", large, (), pd.DataFrame(columns=["trial", "group", "task", "reason"]))
    compared = confirm(found, table, analyse("camera-traps", large, OPTIONS))
    assert len(compared.table) == 9
    rho, low, high = compared.spearman
    assert low < rho < high
    assert rho > 0.6
    assert compared.regret >= 0
    turned = searched(9, seed=8, images=50_000, effect=lambda images, *rest: 25 - 3 * planted(BEST["images"], *rest))
    other = confirm(found, table, analyse("camera-traps", turned, OPTIONS))
    assert other.spearman[0] < 0


@pytest.mark.slow
def test_the_command_writes_specs_that_load(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.fake_run._SPEC", _SPEC)
    run_folder(tmp_path / "search", searched(20))
    run_folder(tmp_path / "large", searched(6, seed=4, images=64_000))
    assert analysis_command.main(["search", "--predict", "--at", "64000", "--confirm", "large"]) == 0
    said = capsys.readouterr().out
    assert "over 6 compositions: Spearman" in said
    assert len(pd.read_csv(tmp_path / "search/report/confirmation.csv")) == 6
    assert "Best inside the tried region: " in said
    assert "varied: num_images 1," in said
    report = tmp_path / "search/report"
    facts = json.loads((report / "prediction.json").read_text())
    assert facts["targets"]["er"]["used"]
    assert facts["refused"] is None
    rows = pd.read_csv(report / "prediction.csv")
    assert list(rows["kind"].value_counts()[["tried", "next", "best"]]) == [20, 6, 1]
    assert rows.loc[rows["kind"] == "best", ["er_predicted", "er_low", "er_high"]].notna().all(axis=None)
    for name in ("prediction.svg", "prediction.png", "prediction.pdf"):
        assert (report / name).stat().st_size > 1000
    spec = load_spec(str(report / "next.yaml"))
    assert len(spec.pretrains) == 6
    first = spec.pretrains[0].section
    assert first.sources["species"].options.species == 50  # what held for the source holds in the proposals
    assert {level.section.num_images for level in load_spec(str(report / "confirm.yaml")).pretrains} == {64_000}


@pytest.mark.slow
def test_a_refusal_is_said_and_proposes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "search", searched(6))
    assert analysis_command.main(["search", "--predict"]) == 0
    assert "Not established: any prediction, because 6 mixtures are too few" in capsys.readouterr().out
    assert not (tmp_path / "search/report/next.yaml").exists()
    two = searched(6)
    run_folder(
        tmp_path / "two",
        pd.concat([two, two.assign(task="birds", finetune="birds-" + two["finetune"])], ignore_index=True),
    )
    assert analysis_command.main(["two", "--predict"]) == 0
    assert "this is of the task camera-traps alone; for birds: --task NAME, with --out DIR" in capsys.readouterr().out
    assert analysis_command.main(["two", "--predict", "--task", "birds", "--out", "birds"]) == 0
    assert "alone" not in capsys.readouterr().out
    assert json.loads((tmp_path / "birds/prediction.json").read_text())["task"] == "birds"
    with pytest.raises(UserError, match="--task: the run has no task 'bird'; did you mean birds"):
        analysis_command.main(["two", "--predict", "--task", "bird"])
    with pytest.raises(UserError, match="--at: 0 is no number of images"):
        analysis_command.main(["search", "--predict", "--at", "0"])


def test_what_varies_and_is_no_axis_is_said():
    pretrain = {"num_images": {"grid": [1000, 4000]}, "images_seen": {"loguniform": [6400, 64000]}, "lr": 1e-3,
                "sources": {"simplex": ["species", "fractals"]}}  # fmt: skip
    assert varied_beside({"pretrain": pretrain}) == ("pretrain.images_seen",)
    points = [{"num_images": 1000, "epochs": 5}, {"num_images": 4000, "epochs": 50}]
    assert varied_beside({"pretrain": {"points": points, "lr": {"grid": [1e-3, 3e-3]}}}) == (
        "pretrain.lr",
        "pretrain.epochs",
    )
    assert varied_beside({"pretrain": {"points": [{"num_images": 1000}, {"num_images": 2000}]}}) == ()
    assert varied_beside({"pretrain": "none"}) == ()


@pytest.mark.parametrize("column", ["semantics", "select", "label_noise"])
def test_choices_of_classes_and_images_are_not_written_as_a_spec(column):
    space = Space.of([Mixture(1000, 20, (), ((column, "all"),)), Mixture(2000, 20, (), ((column, "cat"),))])
    assert spec_with(_SPEC, space, space.tried, "?") is None


def test_mixtures_of_other_images_are_others():
    """As many of the same classes and sources, by a column: a surface must not take them for one."""
    points = searched(4)
    points = points.assign(select=np.where(points["group"] == "mix 0", "score top 0.3", None))
    space = Space.of(list(mixtures_of(Table("search", points, (), pd.DataFrame()), points).values()))
    assert set(space.levels["select"]) == {"", "score top 0.3"}


@pytest.mark.slow
def test_intervals_hold_a_known_surface_and_noise_is_refused():
    """`bench.foresight` in small; the bounds are five standard errors, as far as few replicates go."""
    hill, noise = foresight.surface_rows(25, map, ("a hill, 30 mixtures", "nothing but noise, 30 mixtures"))
    assert 0.85 <= hill["covered"] <= 1
    assert hill["refused"] == 0
    assert hill["behind the top"] < 1
    assert noise["refused"] >= 0.8
    assert 0.88 <= noise["left out, inside"] <= 0.99


_SPEC = yaml.safe_load("""
question: Which mixture?
task: {name: camera-traps}
model: {name: test_resnet, image_size: 32}
pretrain:
  sources: {lattice: [species, fractals], steps: 4, options: {species: {species: 50}}}
  num_images: {grid: [1000, 4000]}
  num_classes: {grid: [20, 50]}
  images_seen: 24000
finetune: {epochs: 6, lr: {grid: [1e-3, 3e-3]}, evaluate_every: 2}
seeds: [1]
baseline: {name: scratch}
analysis: {scale: probit, margin: 2.0, min_r2: 0.8}
provenance: {ray_robust: 0.1.0}
""")
