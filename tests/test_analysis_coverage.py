"""Simulated sweeps with a known truth, few of each: `python -m bench.coverage` runs them all by the hundred.

The bounds are those of a binomial count at 95 % and not of luck; every draw is seeded.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import analysis as bench_analysis
from bench import coverage, resampling
from bench.coverage import SCENARIOS, Truth, simulate

REPLICATES = 25
LEAST = 0.82  # 95 % less three standard errors of a share of 25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["planted ER", "slope change", "camera effects, accuracy", "three trials a group"])
def test_intervals_hold_the_truth(name):
    found = coverage.summary(name, coverage.run(name, REPLICATES, 1))
    assert found["no interval"] == 0
    assert all(share >= LEAST for share in found["coverage"].values()), found
    assert all(share <= 1 - LEAST for share in found["false positives"].values()), found


@pytest.mark.slow
def test_equivalence_is_seldom_claimed_at_the_margin():
    found = coverage.summary("at the margin", coverage.run("at the margin", REPLICATES, 1))
    assert found["equivalent at the margin"] <= 1 - LEAST


def test_the_planted_truth_is_what_many_cameras_show():
    """With 4,000 cameras' worth of luck averaged out, accuracies are those that were planted."""
    truth = Truth(cameras=24, trials=3, trial_sd=0.0, er=(0.0, 3.0, 6.0))
    worlds = [simulate(truth, seed) for seed in range(60)]
    planted = [simulate(Truth(trials=3, trial_sd=0.0, point_sd=0.0, er=truth.er), seed) for seed in range(60)]
    for side in ("id", "ood"):
        seen = np.mean([world.points[side].mean() for world in worlds])
        assert seen == pytest.approx(np.mean([world.points[side].mean() for world in planted]), abs=0.02)


def test_the_table_is_written_between_its_marks(tmp_path, capsys):
    document = tmp_path / "d.md"
    document.write_text("before\n<!-- coverage -->\nold\n<!-- /coverage -->\nafter\n")
    coverage.main(["--replicates", "2", "--only", "null", "--processes", "1", "--write", str(document)])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["null"]["replicates"] == 2
    lines = document.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert lines[2].startswith("| scenario | replicates |")
    assert lines[4].startswith("| null | 2 |")
    assert len(lines) == 7
    assert "old" not in lines


def test_scenarios_have_seeds_of_their_own():
    assert len({coverage.hash_seed(name, 0) for name in SCENARIOS}) == len(SCENARIOS)


def test_the_speed_bench_holds_both_ways_to_the_same_scores(capsys):
    bench_analysis.main(["--points", "2", "--replicates", "20", "--classes", "9", "--groups", "8", "--images", "300",
                         "--rows", "2000", "--sample", "3"])  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ours_over_sklearn_loop"] > 1
    assert told["rows"] == 2_000


def test_the_resampling_bench_compares_three_methods(capsys):
    resampling.main(["--replicates", "3"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(told["24 cameras, 16 species"]) == {"true_sd", "with replacement", "Bayesian", "leave one out"}
