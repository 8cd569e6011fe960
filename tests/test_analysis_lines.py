"""Lines compared, several ID sets on one axis, influence of points: each against statsmodels on the same rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.special import ndtr, ndtri
from statsmodels.stats.outliers_influence import OLSInfluence

from analysis.input.plain_table import read_csv
from analysis.options import Options
from analysis.stats.trend import shares
from analysis.study import analyse
from bench.coverage import Truth, simulate
from ray_robust.errors import UserError
from tests.fake_run import sweep

OPTIONS = Options("scratch")
QUIET = {"trial_sd": 0.002, "point_sd": 0.002}


@pytest.fixture(scope="module")
def bent():
    """Every level's line is flatter than the baseline's by 0.3."""
    return analyse("simulated", simulate(Truth(slope=-0.3, **QUIET), 4).points, OPTIONS)


def test_slopes_and_heights_are_those_of_an_analysis_of_covariance(bent):
    row = bent.ancova.set_index(["a", "b"]).loc["num_images=1000", "scratch"]
    ends = bent.contrasts.set_index(["a", "b"]).loc[("num_images=1000", "scratch"), ["id_low", "id_high"]]
    both = bent.points.loc[bent.points["group"].isin(["scratch", "num_images=1000"]) & bent.points["id"].between(*ends)]
    both = both.assign(arm=(both["group"] != "scratch").astype(int))
    apart, common = (smf.ols(f, both).fit().params for f in ("y ~ x * arm", "y ~ x + arm"))
    assert row["slope_difference"] == pytest.approx(apart["x:arm"], abs=1e-10)
    assert row["height_difference"] == pytest.approx(common["arm"], abs=1e-10)


def test_a_planted_change_of_slope_is_found_and_told_at_three_scores(bent):
    table = bent.ancova.loc[bent.ancova["family"] == "baseline"]
    assert table["slopes_differ"].all()
    assert ((table["slope_low"] < -0.3) & (table["slope_high"] > -0.3)).all()
    at = bent.at_ids.loc[(bent.at_ids["a"] == "num_images=1000") & (bent.at_ids["b"] == "scratch")]
    range_ = bent.contrasts.set_index(["a", "b"]).loc["num_images=1000", "scratch"]
    assert len(at) == 3
    assert at["id"].between(range_["id_low"], range_["id_high"]).all()
    x = ndtri(at["id"])
    truth = 100 * (ndtr(-0.86 + 0.46 * x) - ndtr(-0.86 + 0.76 * x))
    assert ((at["low"] < truth) & (truth < at["high"])).all()
    assert at["delta_er"].to_numpy() == pytest.approx(truth, abs=0.5)


def test_equal_slopes_need_no_three_scores():
    found = analyse("simulated", simulate(Truth(**QUIET), 4).points, OPTIONS)
    assert not found.ancova[["slopes_differ", "heights_differ"]].any(axis=None)
    assert found.at_ids.empty


def test_parallel_lines_differ_in_height_alone():
    points = simulate(Truth(**QUIET), 4).points
    higher = points["group"] != "scratch"
    points.loc[higher, "ood"] = ndtr(ndtri(points.loc[higher, "ood"]) + 0.1)
    found = analyse("simulated", points, OPTIONS)
    rows = found.ancova.loc[found.ancova["family"] == "baseline"]
    assert rows["heights_differ"].all()
    assert not rows["slopes_differ"].any()
    assert ((rows["height_low"] < 0.1) & (rows["height_high"] > 0.1)).all()


def two_sets(rows: int = 40) -> pd.DataFrame:
    """Scores on two ID sets that decide the OOD score by 0.5 and 0.3; group `new` lies 4 points higher."""
    random = np.random.default_rng(7)
    x = random.uniform(-0.5, 1.0, (rows, 2))
    kind = np.where(np.arange(rows) < rows * 3 // 4, "base", "new")
    ood = ndtr(-0.4 + x @ [0.5, 0.3] + 0.01 * random.standard_normal(rows)) + 0.04 * (kind == "new")
    return pd.DataFrame({"kind": kind, "a": ndtr(x[:, 0]), "b": ndtr(x[:, 1]), "ood": ood})


@pytest.fixture
def several(tmp_path):
    two_sets().to_csv(tmp_path / "t.csv", index=False)
    options = Options("base", id_names=("a", "b"), unit="row")
    table = read_csv(str(tmp_path / "t.csv"), id=["a", "b"], ood="ood", group="kind", options=options)
    return table, analyse("task", table.points, options)


def test_several_id_sets_are_one_plane(several):
    _, found = several
    base = two_sets().query("kind == 'base'").assign(a=lambda f: ndtri(f["a"]), b=lambda f: ndtri(f["b"]),
                                                     y=lambda f: ndtri(f["ood"]))  # fmt: skip
    plane = smf.ols("y ~ a + b", base).fit()
    assert found.id_sets["id_set"].tolist() == ["a", "b"]
    assert found.id_sets["slope"].to_numpy() == pytest.approx(plane.params[["a", "b"]].to_numpy(), abs=1e-9)
    assert found.baseline.line.r2 == pytest.approx(plane.rsquared, abs=1e-9)
    assert found.baseline.line.intercept == pytest.approx(plane.params["Intercept"], abs=1e-9)
    assert found.baseline.line.variance == pytest.approx(plane.mse_resid, abs=1e-9)
    both = two_sets()
    expected = ndtr(plane.predict(both.assign(a=ndtri(both["a"]), b=ndtri(both["b"]))))
    assert found.points["expected_ood"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-9)
    new = found.groups.set_index("group").loc["new"]
    assert new["er_low"] < 4 < new["er_high"]
    inside = found.points.loc[found.points["group"] == "base"]
    for name in ("id_1", "id_2"):
        outside = ~found.points[name].between(inside[name].min(), inside[name].max())
        assert found.points.loc[outside, "extrapolated"].all()


def test_what_one_id_set_says_is_not_what_two_say(several, tmp_path):
    table, found = several
    one = Options("base")
    alone = analyse("task", table.points.assign(id=table.points["id_1"]), one)
    assert alone.baseline.line.r2 < found.baseline.line.r2


def test_copies_of_an_id_set_make_no_plane(several):
    table, _ = several
    options = Options("base", id_names=("a", "b"))
    found = analyse("task", table.points.assign(id_2=table.points["id_1"], id=table.points["id_1"]), options)
    assert found.baseline is None
    assert "no effective robustness: the ID sets of the baseline 'base' cannot be told apart, or its plane falls: no " \
        "expectation can be made of them" in found.warnings  # fmt: skip


def test_mistakes_in_several_id_columns(tmp_path):
    two_sets().to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError) as error:
        read_csv(str(tmp_path / "t.csv"), id=["a", "a", "c"], ood="ood", group="kind", options=Options("base"))
    said = [str(problem).partition("t.csv")[2] for problem in error.value.problems]
    assert said == [":1: --id: no column 'c'; known: a, b, kind, ood", ": --id: 'a' is given twice"]


def test_shares_of_a_single_set_are_all_of_it():
    assert shares(np.zeros((5, 1)), np.arange(5.0)).tolist() == [1.0]
    assert shares(np.random.default_rng(0).normal(size=(3, 2)), np.arange(3.0)) is None


def test_cooks_distances_are_those_of_statsmodels():
    found = analyse("task", sweep({"num_images=1000": 0.0}), OPTIONS)
    own = found.points.loc[found.points["group"] == "scratch"]
    wanted = OLSInfluence(smf.ols("y ~ x", own).fit()).cooks_distance[0]
    assert own["cook"].to_numpy() == pytest.approx(wanted.to_numpy(), rel=1e-9)
    assert found.points.loc[found.points["group"] != "scratch", "cook"].isna().all()


def test_leaving_a_baseline_trial_out_refits_the_line():
    found = analyse("task", sweep({"num_images=1000": 3.0}), OPTIONS)
    rows = found.influence.loc[found.influence["group"] == "scratch"]
    points = found.points
    for row in rows.itertuples():
        rest = points.loc[(points["group"] == "scratch") & (points["trial"] != row.trial)]
        line = smf.ols("y ~ x", rest).fit().params
        other = points.loc[(points["group"] == row.moves) & ~points["extrapolated"]]
        er = 100 * (other["ood"] - ndtr(line["Intercept"] + line["x"] * other["x"]))
        before, after = (values.groupby(other["trial"]).mean().mean() for values in (other["er"], er))
        assert row.slope_without == pytest.approx(line["x"], abs=1e-9)
        assert row.change == pytest.approx(after - before, abs=1e-9)
        assert row.cook > 0
