"""Simulated sweeps with a known truth: how often the 95 % intervals hold it, with three trials a group.

Few replicates, so that it stays quick; the bounds are those of a binomial count at 95 % and not of luck.
"""

from __future__ import annotations

import numpy as np
import pytest

from analysis.study import analyse
from analysis.table import Options
from tests.fake_run import SLOPE, sweep

TRUTH = {"num_images=1000": 0.0, "num_images=10000": 3.0, "num_images=100000": 6.0}  # 3 points of ER per tenfold


@pytest.mark.slow
@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy tails"])
def test_intervals_hold_the_truth(heavy):
    options, replicates = Options("scratch", replicates=200), 40
    held: dict[str, list[bool]] = {"er": [], "pair": [], "factor": [], "line": [], "false alarm": []}
    for seed in range(replicates):
        found = analyse("task", sweep(TRUTH, epochs=(3, 12), seed=seed, heavy=heavy), options)
        groups, contrasts = found.groups.set_index("group"), found.contrasts.set_index(["a", "b"])
        held["er"] += [groups.er_low[g] <= er <= groups.er_high[g] for g, er in TRUTH.items()]
        pair = contrasts.loc[("num_images=100000", "num_images=1000")]
        held["pair"].append(pair.low <= 6.0 <= pair.high)
        held["factor"].append(found.factors[0].slope.low <= 3.0 <= found.factors[0].slope.high)
        held["line"].append(found.trends.slope_low[0] <= SLOPE <= found.trends.slope_high[0])
        held["false alarm"].append(contrasts.p.loc[("num_images=1000", "scratch")] < 0.05)
    share = {name: float(np.mean(values)) for name, values in held.items()}
    assert share["er"] >= 0.9
    assert all(share[name] >= 0.85 for name in ("pair", "factor", "line")), share  # 95 % less 2.5 standard errors
    assert share["false alarm"] <= 0.15, share
