"""Where half of the gain is reached: on curves whose answer is known, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.options import Options
from analysis.study import analyse
from tests.fake_run import sweep

OPTIONS = Options("scratch")
QUIET = {"trial_sd": 0.002, "noise_sd": 0.002}


def gain_of(planted: dict[int, float], **more):
    return analyse(
        "task", sweep({f"num_images={n}": er for n, er in planted.items()}, **{**QUIET, **more}), OPTIONS
    ).half_gain


def test_half_of_a_straight_rise_is_in_its_middle():
    row = gain_of({1_000: 0.0, 10_000: 4.0, 100_000: 8.0}).iloc[0]
    assert row["factor"] == "num_images"
    assert row["gain_low"] < 8 < row["gain_high"]
    assert row["half_at"] == pytest.approx(10_000, rel=0.25)
    assert row["half_low"] < 10_000 < row["half_high"]


def test_what_is_reached_at_once_has_no_lower_end():
    row = gain_of({1_000: 6.0, 10_000: 7.0, 100_000: 8.0}).iloc[0]
    assert np.isnan(row["half_at"])
    assert np.isnan(row["half_low"])


def test_a_wide_spread_leaves_the_amount_open():
    """Where ER scatters, half of the gain may lie anywhere between the levels, or beyond them."""
    sure = gain_of({1_000: 0.0, 10_000: 4.0, 100_000: 8.0}).iloc[0]
    loose = gain_of({1_000: 0.0, 10_000: 4.0, 100_000: 8.0}, trial_sd=0.012, trials=5).iloc[0]
    assert np.isnan(loose["half_high"]) or loose["half_high"] > sure["half_high"]


def test_no_gain_has_no_half():
    assert gain_of({1_000: 0.0, 10_000: 0.0, 100_000: 0.0}).empty
    assert gain_of({1_000: 0.0, 10_000: 8.0}).empty  # two levels are no curve


def test_two_factors_at_once_have_no_single_amount():
    points = sweep({f"num_images={n}": 2.0 * i for i, n in enumerate((1_000, 10_000, 100_000))}, **QUIET)
    points["num_classes"] = points["num_images"].map({0: 0, 1_000: 50, 10_000: 200, 100_000: 100})
    assert analyse("task", points, OPTIONS).half_gain.empty


def test_what_only_follows_does_not_matter():
    points = sweep({f"num_images={n}": 3.0 * i for i, n in enumerate((1_000, 10_000, 100_000))}, **QUIET)
    points["pretrain_images_seen"] = 20 * points["num_images"]
    assert analyse("task", points, OPTIONS).half_gain["half_at"][0] == pytest.approx(10_000, rel=0.3)
