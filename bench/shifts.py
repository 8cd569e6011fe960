"""Is what the analysis says of several shifts right? `python -m bench.shifts [--sweeps 300] [--write FILE]`.

Simulated sweeps of a baseline and two groups, tested on several shifts: every trial has luck of its own on all shifts
(`common`), and on each one (`apart`). The true effect of a group is the same on all shifts, or scatters between them.
Of each world: how often the test of one size is significant (5 % is right where it is of one size), how often the
intervals of the mean over the shifts, and of the mean over shifts of their kind, hold the true one, and the error of
the estimated spread. Beside the test, Cochran's Q, which takes the effects for independent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import chi2

from analysis.options import Options
from analysis.stats.shift_results import OnShift, Shifts, shift_results
from bench.worlds import arguments, simulate_worlds

BASELINE, GROUPS, RATES, EFFECT = "scratch", ("some", "more"), 4, 2.0
TABLE = "shifts"


@dataclass(frozen=True)
class World:
    """Shifts, trials of each group, and standard deviations in percentage points: of a trial's luck on all shifts and
    on each one, and of the true effect between shifts."""

    name: str
    shifts: int
    trials: int
    common: float
    apart: float
    spread: float


WORLDS = (
    World("9 shifts, 4 trials", 9, 4, 1.2, 0.6, 0.0),
    World("9 shifts, 4 trials, luck alike on all", 9, 4, 1.5, 0.2, 0.0),
    World("3 shifts, 8 trials", 3, 8, 1.2, 0.6, 0.0),
    World("9 shifts, 4 trials, effects scatter", 9, 4, 1.2, 0.6, 1.0),
    World("9 shifts, 8 trials, effects scatter", 9, 8, 1.2, 0.6, 1.0),
)


def simulate(world: World, seed: int) -> tuple[list[OnShift], dict[str, np.ndarray]]:
    """Return the points on every shift, and the true effect of each group on each."""
    random = np.random.default_rng(seed)
    true = {group: EFFECT + world.spread * random.standard_normal(world.shifts) for group in GROUPS}
    every = {BASELINE: np.zeros(world.shifts), **true}
    rows: list[list[dict[str, object]]] = [[] for _ in range(world.shifts)]
    for group, effects in every.items():
        for trial in range(world.trials):
            luck = world.common * random.standard_normal() + world.apart * random.standard_normal(world.shifts)
            for rate in range(RATES):
                x = -0.6 + 0.3 * rate + 0.08 * random.standard_normal()
                for shift in range(world.shifts):
                    height = ndtr(-0.86 - 0.05 * shift + 0.76 * x)
                    ood = height + (effects[shift] + luck[shift] + 0.5 * random.standard_normal()) / 100
                    rows[shift].append({"trial": f"{group}-{trial}", "group": group, "finetune": f"lr{rate}",
                                        "epoch": 1, "metric": "accuracy", "id": float(ndtr(x)),
                                        "ood": float(np.clip(ood, 0.001, 0.999))})  # fmt: skip
    return [OnShift(f"s{i}", pd.DataFrame(own)) for i, own in enumerate(rows)], true


def looked_at(world: World, seed: int) -> list[tuple[float, ...]]:
    """Return, for every group of one sweep: p of one size, p of Cochran's Q, whether each interval holds the truth, and
    the spread."""
    shifts, true = simulate(world, seed)
    found = shift_results(shifts, Options(BASELINE, margin=1.0))
    rows = []
    for row in found.means.loc[found.means["family"] == "baseline"].to_dict("records"):
        here = row["low"] <= true[row["a"]].mean() <= row["high"]
        kind = row["kind_low"] <= EFFECT <= row["kind_high"]
        rows.append((row["p_spread"], _cochran(found, row["a"]), here, kind, row["spread"]))
    return rows


def _cochran(found: Shifts, group: str) -> float:
    """p of Cochran's Q, which weighs effects by their standard errors."""
    on_shifts = (one.effects.effects for one in found.results)
    each = [effects[group, BASELINE].estimate for effects in on_shifts if (group, BASELINE) in effects]
    value, weight = np.array([one.value for one in each]), np.array([1 / one.se**2 for one in each])
    q = float((weight * (value - np.average(value, weights=weight)) ** 2).sum())
    return float(chi2.sf(q, len(each) - 1))


def main(argv: list[str]) -> None:
    """Simulate, print the table and the JSON line."""
    args = arguments("bench.shifts", __doc__, "sweeps", 300, WORLDS).parse_args(argv)
    head = ("world", "sweeps", "of one size: p < 5 %", "Cochran's Q: p < 5 %", "mean: coverage",
            "mean of the kind: coverage", "spread, true", "spread, estimated")  # fmt: skip

    def row(world: World, each: Callable[..., list]) -> tuple[Sequence[str], dict[str, float]]:
        parts = each(partial(looked_at, world), range(args.sweeps))
        table = np.array([one for part in parts for one in part], float)
        size, cochran = (float(100 * np.mean(table[:, i] < 0.05)) for i in (0, 1))
        here, kind = (float(100 * table[:, i].mean()) for i in (2, 3))
        spread = float(np.sqrt(np.mean(table[:, 4] ** 2)))
        cells = (str(args.sweeps), f"{size:.1f} %", f"{cochran:.1f} %", f"{here:.1f} %", f"{kind:.1f} %",
                 f"{world.spread:.1f}", f"{spread:.1f}")  # fmt: skip
        return cells, {"one_size": size, "cochran": cochran, "mean": here, "kind": kind, "spread": spread}

    simulate_worlds(args, TABLE, head, WORLDS, row)


if __name__ == "__main__":
    main(sys.argv[1:])
