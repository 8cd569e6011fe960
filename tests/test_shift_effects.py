"""Effects on several shifts of the same trials: their table, their mean, and whether they are of one size."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr
from statsmodels.stats.anova import AnovaRM

from analysis.options import Options
from analysis.stats import cluster_robust
from analysis.stats.group_jackknife import leave_groups_out
from analysis.stats.quantities import ErrorSource, Quantity
from analysis.stats.shift_effects import ShiftEffects, effect_table, heterogeneity, mean_table
from analysis.stats.shift_results import OTHER_TRIALS, OnShift, _named, shift_results
from bench.simulated import counted

OPTIONS = Options("scratch", margin=1.0)


def means_of(values: np.ndarray) -> list[Quantity]:
    """The mean over trials of each shift's values, float [trials, shifts], as a number with its error."""
    trials = np.arange(len(values))
    return [
        Quantity(own.mean(), {cluster_robust.mean(own, trials, "trials of a", "trials", len(own)): np.ones(1)})
        for own in values.T
    ]


def test_of_one_group_it_is_the_analysis_of_variance_of_repeated_measures():
    values = np.random.default_rng(0).normal(size=(9, 4)) + np.random.default_rng(1).normal(size=(9, 1))
    found = heterogeneity(means_of(values))
    frame = pd.DataFrame(values).rename_axis("trial").reset_index().melt("trial", var_name="shift", value_name="er")
    table = AnovaRM(frame, "er", "trial", within=["shift"]).fit().anova_table
    assert found.f == pytest.approx(table["F Value"].iloc[0])
    centre = np.eye(4) - 1 / 4
    covariance = centre @ np.cov(values.T) @ centre
    epsilon = np.trace(covariance) ** 2 / (3 * (covariance**2).sum())  # Greenhouse and Geisser's
    assert (found.df1, found.df2) == pytest.approx((3 * epsilon, 3 * epsilon * 8))


def test_what_trials_share_on_all_shifts_is_no_spread():
    luck = np.random.default_rng(0).normal(0, 5, (4, 1))
    own = np.random.default_rng(1).normal(0, 0.1, (4, 9))
    same, other = heterogeneity(means_of(luck + own)), heterogeneity(means_of(luck + own + np.arange(9)))
    assert same.p > 0.05
    assert other.p < 1e-4
    assert other.sd == pytest.approx(np.std(np.arange(9), ddof=1), rel=0.1)
    assert same.df1 <= 3  # four trials have no more directions, however many shifts there are


def test_no_error_no_test():
    lonely = heterogeneity(means_of(np.array([[1.0, 2.0, 3.0]])))
    assert np.isnan([lonely.p, lonely.f, lonely.sd]).all()


def test_the_mean_over_shifts_has_the_error_of_its_trials():
    values = np.random.default_rng(0).normal(1, 1, (8, 5)) + np.random.default_rng(1).normal(size=(8, 1))
    shifts = [ShiftEffects(f"s{i}", {("a", "b"): one}, {("a", "b"): (0.2, 0.4)}, {("a", "b"): "baseline"})
              for i, one in enumerate(means_of(values))]  # fmt: skip
    effects = effect_table(shifts, 1.0)
    (row,) = mean_table(shifts, effects, 1.0).to_dict("records")
    by_trial = values.mean(1)
    assert row["delta_er"] == pytest.approx(by_trial.mean())
    reach = 2.364624 * by_trial.std(ddof=1) / np.sqrt(8)  # t of 7 degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx((row["delta_er"] - reach, row["delta_er"] + reach), abs=1e-5)
    assert row["kind_low"] <= row["low"]
    assert (row["lowest"], row["highest"]) == (f"s{values.mean(0).argmin()}", f"s{values.mean(0).argmax()}")
    assert effects["p_adjusted"].min() == pytest.approx(min(5 * effects["p"].min(), 1.0))  # Holm over the shifts


def points(effect: float, seed: int, trials: int = 4) -> pd.DataFrame:
    """A baseline and one group `effect` points above its line, in the same trials whatever the seed of the noise."""
    random, shared = np.random.default_rng(seed), np.random.default_rng(99)
    rows = []
    for group, er in (("scratch", 0.0), ("more", effect)):
        for trial in range(trials):
            luck = shared.normal(0, 0.5)
            for rate in range(5):
                x = -0.6 + 0.25 * rate + 0.03 * shared.normal()
                ood = ndtr(-0.86 + 0.76 * x) + (er + luck + random.normal(0, 0.2)) / 100
                rows.append(
                    {"trial": f"{group}-{trial}", "group": group, "seed": trial, "task": "t", "metric": "accuracy",
                     "finetune": f"lr{rate}", "epoch": 1, "id": float(ndtr(x)), "ood": float(ood)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_every_shift_has_its_own_line_and_the_effects_are_compared():
    shifts = [
        OnShift(name, points(effect, i))
        for i, (name, effect) in enumerate({"ood": 4.0, "v2": 4.0, "sketch": 9.0}.items())
    ]
    found = shift_results(shifts, OPTIONS)
    assert found.compared == ["ood", "v2", "sketch"]
    assert found.lines["slope"].between(0.6, 0.9).all()
    effects = found.effects.set_index("shift")
    assert effects["delta_er"].tolist() == pytest.approx([4, 4, 9], abs=1.2)
    (row,) = found.means.to_dict("records")
    assert row["delta_er"] == pytest.approx(effects["delta_er"].mean())
    assert row["p_spread"] < 0.01
    assert (row["highest"], row["shown"], row["shifts"]) == ("sketch", 3, 3)
    equal = shift_results(shifts[:2], OPTIONS)
    assert equal.means["p_spread"].iloc[0] > 0.05


def test_a_shift_of_other_trials_or_without_a_line_is_shown_and_not_compared():
    flat = points(0.0, 3).assign(ood=lambda own: 0.5 + np.random.default_rng(5).normal(0, 0.01, len(own)))
    few = points(4.0, 2).query("trial != 'more-3'").reset_index(drop=True)
    shifts = [OnShift("ood", points(4.0, 0), aside="pooled"), OnShift("a", points(4.0, 1)),
              OnShift("b", points(4.0, 4)),
              OnShift("few", few), OnShift("flat", flat)]  # fmt: skip
    found = shift_results(shifts, OPTIONS)
    assert found.compared == ["a", "b"]
    by_name = {one.name: one for one in found.results}
    assert by_name["few"].aside == OTHER_TRIALS
    assert by_name["flat"].refused
    assert not np.isfinite(by_name["flat"].groups["er"]).any()
    assert np.isfinite(by_name["ood"].groups["er"]).all()
    assert [note.partition(":")[0] for note in found.notes] == ["few is not compared with the other shifts",
                                                                 "no effective robustness on flat"]  # fmt: skip


def test_shifts_share_the_error_of_id_groups_only_where_these_are_the_same():
    """Of two shifts with some of the classes each may lack another camera of the ID test: as many are left, and those
    that are left out in turn are others."""

    def source(shift: str, cameras: list[int]) -> ErrorSource:
        camera = np.repeat(cameras, 4)
        right = np.zeros((1, len(camera)), np.int64)
        counts = {"id": counted("id", camera, np.zeros(len(camera), np.int64), right, 1),
                  "ood": counted(shift, np.zeros(4, np.int64), np.zeros(4, np.int64), right[:, :4], 1)}  # fmt: skip
        (scores,), _ = leave_groups_out(counts, "accuracy")
        return _named(scores, OnShift(shift, pd.DataFrame(), counts), sources).source

    sources: dict[frozenset[str], ErrorSource] = {}
    without_2 = source("a", [0, 1, 3, 4, 5, 6, 7, 8, 9])
    without_7 = source("b", [0, 1, 2, 3, 4, 5, 6, 8, 9])
    assert without_2.clusters == without_7.clusters
    assert without_2 != without_7
    assert source("c", [0, 1, 3, 4, 5, 6, 7, 8, 9]) == without_2


def test_one_shift_alone_is_no_table():
    assert not shift_results([OnShift("ood", points(4.0, 0))], OPTIONS).results
