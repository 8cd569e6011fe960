"""How often does each check of the line fail? `python -m bench.line_checks [--replicates N] [--only NAME] ...`

Simulates baselines whose truth is known, straight or not, with groups beside them, and counts how often each check of
`analysis.line.checks` fails: on a straight line that is its rate of false alarms, else its power. The last line is one
JSON object. With `--write docs/statistics.md` the table replaces the one between its marks there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis.line.checks import check_line
from analysis.line.line_checks import FAILS, QUESTIONS, LineChecks
from analysis.options import Options
from analysis.scales import SCALES
from analysis.stats.transform import transformed
from bench import show, table_in, write_table
from bench.coverage import hash_seed
from bench.simulated import INTERCEPT, SLOPE

RATES, EPOCHS = (3e-4, 1e-3, 3e-3), (2, 4)  # of every trial: six points
TRIAL_SD, POINT_SD = 0.04, 0.03  # on the probit axis; about 1.2 and 0.9 points of OOD
Heights = Callable[[np.ndarray], np.ndarray]


def straight(x: np.ndarray) -> np.ndarray:
    return INTERCEPT + SLOPE * x


def curved(x: np.ndarray) -> np.ndarray:
    return straight(x) + 0.25 * x**2


def kinked(x: np.ndarray) -> np.ndarray:
    return straight(x) + 0.5 * np.maximum(x, 0)


@dataclass(frozen=True)
class Truth:
    """What a baseline is like.

    height         the expected OOD score at an ID score, both on the probit axis
    trials         of the baseline
    longer, rate   what training to the last epoch, and the middle learning rate, add to the height
    fan            how many times as widely points scatter at the lowest ID score as at the highest
    heavy          whether offsets and scatter are Student's t with three degrees of freedom
    images         of the ID test, None for infinitely many
    range          of ID scores on the probit axis, as a share of the usual
    empty          the range of x in which the baseline has no point, and the groups have theirs
    """

    height: Heights = straight
    trials: int = 5
    longer: float = 0.0
    rate: float = 0.0
    fan: float = 1.0
    heavy: bool = False
    images: int | None = None
    range: float = 1.0
    empty: tuple[float, float] | None = None


SCENARIOS = {
    "straight": Truth(),
    "straight, 3 trials": Truth(trials=3),
    "straight, 12 trials": Truth(trials=12),
    "straight, heavy tails": Truth(heavy=True),
    "curved": Truth(height=curved),
    "curved, 3 trials": Truth(height=curved, trials=3),
    "curved, 12 trials": Truth(height=curved, trials=12),
    "kinked": Truth(height=kinked),
    "kinked, 12 trials": Truth(height=kinked, trials=12),
    "longer training leaves the line": Truth(longer=0.15),
    "the learning rate leaves the line": Truth(rate=0.1),
    "scatter grows fourfold to low ID": Truth(fan=4.0),
    "scatter grows fourfold, 12 trials": Truth(fan=4.0, trials=12),
    "200 ID images": Truth(images=200),
    "2,000 ID images": Truth(images=2_000),
    "200 ID images, half the range": Truth(images=200, range=0.5),
    "2,000 ID images, half the range": Truth(images=2_000, range=0.5),
    "a gap with the groups inside": Truth(empty=(-0.35, 0.2)),
    "falling": Truth(height=lambda x: -1.0 - 0.3 * x),
    "flat": Truth(height=lambda x: -1.0 + 0.01 * x),
}  # fmt: skip
COLUMNS = tuple(QUESTIONS)


def simulate(truth: Truth, seed: int) -> pd.DataFrame:
    """Points of a baseline and of two groups of three trials on the same line, one at low and one at high ID scores."""
    random = np.random.default_rng(seed)
    draw = (lambda: random.standard_t(3) / np.sqrt(3)) if truth.heavy else random.standard_normal
    rows = []
    for group, trials, shift in (("scratch", truth.trials, 0.0), ("low", 3, -0.1), ("high", 3, 0.3)):
        for trial in range(trials):
            offset = TRIAL_SD * draw()
            for i, rate in enumerate(RATES):
                for epoch in EPOCHS:
                    x = -0.9 + truth.range * (0.45 * i + 0.2 * epoch + shift + 0.12 * random.standard_normal())
                    if truth.empty is not None:
                        x = _around(x, truth.empty, inside=group != "scratch")
                    wide = np.exp(np.log(truth.fan) * (0.6 - x) / 1.8) if truth.fan != 1 else 1.0
                    y = float(truth.height(np.array(x))) + offset + POINT_SD * wide * draw()
                    y += truth.longer * (epoch == EPOCHS[-1]) + truth.rate * (i == 1)
                    score = float(ndtr(x))
                    seen = random.binomial(truth.images, score) / truth.images if truth.images else score
                    rows.append({"trial": f"{group}-{trial}", "group": group, "task": "simulated", "epoch": epoch,
                                 "finetune_lr": rate, "id": seen, "ood": float(ndtr(y)), "metric": "accuracy",
                                 "id_images": truth.images or 10**6, "ood_images": 10**6})  # fmt: skip
    return pd.DataFrame(rows)


def _around(x: float, empty: tuple[float, float], inside: bool) -> float:
    """x moved into the gap, or out of it to the nearer side."""
    low, high = empty
    if inside:
        return low + (high - low) * (0.1 + 0.8 * float(ndtr(x)))
    return x if not low < x < high else low - 0.1 * (x - low) if x - low < high - x else high + 0.1 * (high - x)


def checked(truth: Truth, seed: int) -> LineChecks:
    """The checks of one simulated study."""
    options = Options("scratch")
    found = check_line(transformed(simulate(truth, seed), SCALES[options.scale], options), options)
    if found is None:
        raise RuntimeError("a simulated baseline made no line")
    return found


def failing(truth: Truth, seed: int) -> dict[str, bool]:
    """Which checks fail."""
    failed = {one.check for one in checked(truth, seed).verdicts if one.state == FAILS}
    return {check: check in failed for check in COLUMNS}


def run(name: str, replicates: int, processes: int = 1) -> dict[str, float]:
    """The share of simulations in which each check fails, 0 to 1."""
    work, seeds = partial(failing, SCENARIOS[name]), [hash_seed(name, i) for i in range(replicates)]
    if processes == 1:
        found = [work(seed) for seed in seeds]
    else:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            found = pool.map(work, seeds, chunksize=8)
    return {check: float(np.mean([one[check] for one in found])) for check in COLUMNS}


def main(argv: list[str]) -> None:
    """Run the scenarios, print the table and the JSON line, write the document's table when asked to."""
    parser = argparse.ArgumentParser("python -m bench.line_checks", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="these scenarios")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--write", type=Path, help="put the table into this document")
    args = parser.parse_args(argv)
    found = {name: run(name, args.replicates, args.processes) for name in args.only or SCENARIOS}
    header = ("baseline", "replicates", *COLUMNS)
    lines = [
        (name, str(args.replicates), *(f"{100 * shares[check]:.1f} %" for check in COLUMNS))
        for name, shares in found.items()
    ]
    if args.write:
        known = {row[0]: row for row in [*table_in(args.write, "line checks")[1:], *lines]}
        write_table(args.write, "line checks", [header, *(known[name] for name in SCENARIOS if name in known)])
    show(header, lines, found)


if __name__ == "__main__":
    main(sys.argv[1:])
