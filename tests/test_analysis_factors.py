"""The regression over trials: against statsmodels, on known surfaces, and where it must refuse."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analysis.options import Options
from analysis.stats.factor_coding import blocks_of
from analysis.study import analyse
from bench.simulated import Truth, simulate
from tests.fake_run import sweep

OPTIONS = Options("scratch")


def study(levels: dict[str, dict], trials: int = 3, seed: int = 0, **more) -> pd.DataFrame:
    """A sweep whose groups have the columns in `levels` and the ER there."""
    points = sweep({name: level["er"] for name, level in levels.items()}, trials=trials, seed=seed, **more)
    for column in next(iter(levels.values())):
        if column != "er":
            points[column] = points["group"].map({name: level[column] for name, level in levels.items()})
    return points.drop(columns="seed")  # else groups are paired by it


def trial_means(found) -> pd.DataFrame:
    inside = found.points.loc[~found.points["extrapolated"] & (found.points["group"] != "scratch")]
    keep = ["num_images", "num_classes", "granularity", "sources"]
    return inside.groupby(["group", "trial"], as_index=False).agg(
        er=("er", "mean"), **{c: (c, "first") for c in keep if c in inside}
    )


@pytest.fixture(scope="module")
def surface():
    """One point per tenfold of images, none for classes, two for fine labels."""
    cells = [(n, k, g) for n in (1_000, 10_000, 100_000) for k in (50, 200) for g in ("order", "species")]
    levels = {
        f"{n}/{k}/{g}": {
            "er": np.log10(n) - 3 + 2.0 * (g == "species"),
            "num_images": n,
            "num_classes": k,
            "granularity": g,
        }
        for n, k, g in cells
    }
    return analyse("task", study(levels), OPTIONS)


def test_slopes_are_those_of_least_squares_over_trials(surface):
    rows = trial_means(surface)
    fit = smf.ols(
        "er ~ np.log10(num_images.astype(float)) + np.log10(num_classes.astype(float)) + granularity", rows
    ).fit()
    slopes = {f.name: f for f in surface.regression.factors}
    assert list(slopes) == ["num_images", "num_classes", "granularity=species"]
    assert [f.slope.value for f in slopes.values()] == pytest.approx(fit.params.to_numpy()[[2, 3, 1]], abs=1e-8)
    assert surface.regression.r2 == pytest.approx(fit.rsquared, abs=1e-10)
    assert surface.regression.condition == pytest.approx(1.0, abs=0.05)
    assert (surface.regression.rows, surface.regression.trials) == (36, 36)
    without = smf.ols("er ~ np.log10(num_classes.astype(float)) + granularity", rows).fit()
    assert slopes["num_images"].partial_r2 == pytest.approx(1 - fit.ssr / without.ssr, abs=1e-10)
    deviation = np.log10(rows["num_images"].astype(float)).std(ddof=0) / rows["er"].std(ddof=0)
    assert slopes["num_images"].standardised == pytest.approx(slopes["num_images"].slope.value * deviation)


def test_a_known_surface_is_found(surface):
    slopes = {f.name: f for f in surface.regression.factors}
    for name, truth in (("num_images", 1.0), ("num_classes", 0.0), ("granularity=species", 2.0)):
        assert slopes[name].slope.low < truth < slopes[name].slope.high
    assert slopes["granularity=species"].label == "labels species against order"
    assert (slopes["num_images"].per, slopes["granularity=species"].per) == ("tenfold", "level")
    assert [f.name for f in surface.factors] == ["num_images", "num_classes"]


def test_where_every_level_has_its_own_mean_the_error_is_that_of_two_samples():
    """With two levels CR2 and its degrees of freedom are Welch's test."""
    levels = {"a": {"er": 0.0, "num_images": 1_000}, "b": {"er": 3.0, "num_images": 10_000}}
    found = analyse("task", study(levels, trials=4), OPTIONS)
    rows = trial_means(found)
    a, b = (rows.loc[rows["group"] == g, "er"] for g in "ab")
    own = found.errors.loc[found.errors["source"].isin(["trials of a", "trials of b"]), "se"]
    slope = found.factors[0].slope
    assert slope.value == pytest.approx(b.mean() - a.mean())
    assert slope.se**2 == pytest.approx(a.var() / 4 + b.var() / 4, rel=0.05)  # the line cancels but for its curvature
    assert (own**2).sum() == pytest.approx(a.var() / 4 + b.var() / 4)


def test_shares_of_sources_are_factors_against_the_commonest():
    weights = {0.0: {"a": 1.0}, 0.25: {"a": 0.75, "b": 0.25}, 0.5: {"a": 0.5, "b": 0.5}, 1.0: {"b": 1.0}}
    mixes = {f"mix{s}": {"er": 4.0 * s, "sources": json.dumps(w), "num_images": 1_000} for s, w in weights.items()}
    found = analyse("task", study(mixes, trials=3), OPTIONS)
    (factor,) = found.regression.factors
    assert (factor.name, factor.per, factor.against) == ("sources=b", "all of it", "a")
    assert factor.slope.low < 4 < factor.slope.high
    assert found.factors == []  # it is no tenfold


@pytest.mark.slow
def test_random_mixtures_need_no_repetition():
    """Twenty mixtures of one seed each: no group has an interval, the slope has one."""
    shares = np.linspace(0, 1, 20).round(3)
    mixes = {
        f"mix{s}": {"er": 5.0 * s, "sources": json.dumps({"a": 1 - s, "b": s}), "num_images": 1_000} for s in shares
    }
    found = analyse("task", pd.concat([study(mixes, trials=1), sweep({}, trials=4)]).drop_duplicates(
        ["trial", "finetune", "epoch"]), OPTIONS)  # fmt: skip
    (factor,) = found.regression.factors
    assert factor.slope.low < 5 < factor.slope.high
    assert found.groups.loc[found.groups["group"] != "scratch", "er_low"].isna().all()


def test_what_only_follows_is_told_and_what_is_confounded_refused():
    images = (1_000, 10_000, 100_000)
    levels = {f"{n}": {"er": np.log10(n), "num_images": n, "pretrain_images_seen": 20 * n} for n in images}
    found = analyse("task", study(levels), OPTIONS)
    assert [f.name for f in found.regression.factors] == ["num_images"]
    assert "pretrain_images_seen follows from num_images: effects may be either's" in found.warnings
    levels = {f"{n}": {"er": np.log10(n), "num_images": n, "num_classes": n // 10} for n in images}
    found = analyse("task", study(levels), OPTIONS)
    assert found.regression.factors == []
    assert "num_images and num_classes were never varied apart: their effects cannot be told from each other" \
        in found.warnings  # fmt: skip


def test_a_confounded_pair_leaves_the_third_factor_its_slope():
    cells = [(n, g) for n in (1_000, 10_000, 100_000) for g in ("order", "species")]
    levels = {f"{n}/{g}": {"er": 2.0 * (g == "species"), "num_images": n, "num_classes": n // 10, "granularity": g}
              for n, g in cells}  # fmt: skip
    found = analyse("task", study(levels), OPTIONS)
    (factor,) = found.regression.factors
    assert factor.name == "granularity=species"
    assert factor.slope.low < 2 < factor.slope.high


@pytest.mark.slow
@pytest.mark.parametrize("trials", [1, 3])
def test_a_confounded_pair_leaves_the_third_factor_its_levels_where_a_trial_is_lost(trials):
    """Not every combination was trained twice: the error is that of residuals, on a design that is short of rank."""
    cells = [(n, g) for n in (1_000, 10_000, 100_000) for g in ("order", "species")]
    levels = {f"{n}/{g}": {"er": np.log10(n), "num_images": n, "num_classes": 50 if g == "order" else 200,
                           "granularity": g} for n, g in cells}  # fmt: skip
    points = study(levels, trials=trials)
    lost = points.loc[points["group"] == "1000/order", "trial"].unique()[1:]
    points = points.loc[~points["trial"].isin(lost)].reset_index(drop=True)
    found = analyse("task", points, OPTIONS).regression
    alone = analyse("task", points.drop(columns="num_classes"), OPTIONS).regression
    assert "num_classes and granularity were never varied apart: their effects cannot be told from each other" \
        in found.notes  # fmt: skip
    assert [f.name for f in found.factors] == ["num_images"]
    numbers = ["delta_er", "se", "df", "p", "low90", "high90"]
    assert len(found.levels) == 2
    np.testing.assert_allclose(found.levels[numbers].astype(float), alone.levels[numbers].astype(float), rtol=1e-6)
    assert np.isfinite(found.levels["se"]).all() == (trials > 1)


def test_points_between_weights_enter_no_regression():
    points = sweep({"num_images=1000": 0.0, "num_images=4000": 1.0, "num_images=16000": 2.0})
    between = points.loc[points["group"] == "num_images=4000"].assign(wise_alpha=0.5, group="num_images=4000, wise_ft")
    found = analyse("task", pd.concat([points.assign(wise_alpha=np.nan), between], ignore_index=True), OPTIONS)
    assert found.regression.trials == 9


def test_a_table_of_models_has_no_factors():
    points = sweep({"num_images=1000": 0.0}).assign(num_images=0)
    points["model"] = [f"m{i}" for i in range(len(points))]
    assert analyse("task", points, OPTIONS).regression.factors == []


def test_a_number_that_hardly_varies_has_no_slope_per_tenfold():
    points = simulate(Truth(er=(0.0, 3.0, 6.0)), 1).points
    levels = sorted(points["num_images"].unique())
    points["num_images"] = points["num_images"].map(dict(zip(levels, (0, 1000, 1000.001, 1000.002), strict=True)))
    study = analyse("t", points, Options("scratch"))
    assert study.factors == []
    assert any(note.startswith("num_images hardly varies (1000 to 1000") for note in study.warnings)


def test_which_images_and_wrong_labels_are_factors_and_an_empty_cell_is_without():
    values = pd.DataFrame({
        "select": [None, "", "s top 0.3", "s top 0.3"] * 2, "dedupe": [np.nan] * 8,
        "label_noise": [None] * 4 + ["0.2"] * 4,
    })  # fmt: skip
    values.loc[values["select"] == "", "select"] = np.nan  # as an earlier run's results are read
    blocks, notes = blocks_of(values)
    assert [block.names for block in blocks] == [("select=s top 0.3",), ("label_noise=0.2",)]
    assert [block.labels for block in blocks] == [
        ("choice of images s top 0.3 against all",), ("wrong labels 0.2 against none",),
    ]  # fmt: skip
    assert not notes
