"""Which comparison with the best group is honest? `python -m bench.best [--replicates N]`.

Simulates studies whose groups are all equally good, and counts in how many each procedure calls some group lower than
the one that happens to score highest, at 5 %: Holm's for all pairs, as `analysis.stats.score_differences` has it;
Dunnett's (1980) T3 for all pairs; and the one-sided steps of Hsu's (1984) multiple comparisons with the best, by
Bonferroni. Trials are paired by seed, or not (Welch). The last line is one JSON object.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from analysis.stats.contrasts import LEVEL
from bench import show

STUDIES = tuple((groups, trials) for groups in (3, 4, 6, 21) for trials in (3, 5, 12))
PROCEDURES = ("Holm", "T3", "Hsu")
DRAWS = 20_000  # of the largest of several |t|


def shares(groups: int, trials: int, paired: bool, replicates: int, seed: int = 0) -> dict[str, float]:
    """Return by procedure the share of studies with a false claim."""
    random = np.random.default_rng(seed)
    scores = random.standard_normal((replicates, groups, trials))
    means, rows = scores.mean(2), np.arange(replicates)
    best = means.argmax(1)
    behind = np.arange(groups)[None, :] != best[:, None]
    variances = scores.var(2, ddof=1) / trials
    own, highest = variances, variances[rows, best][:, None]
    df = (own + highest) ** 2 / (own**2 + highest**2) * (trials - 1)
    variance = own + highest
    if paired:  # as `quantities` has it: the differences' own variance, fewer degrees of freedom than seeds
        variance = (scores[rows, best][:, None] - scores).var(2, ddof=1) / trials
        df = np.minimum(df, trials - 1)
    t = np.where(behind, (means[rows, best][:, None] - means) / np.sqrt(np.where(behind, variance, 1.0)), 0.0)
    pairs = groups * (groups - 1) // 2
    holm = 2 * stats.t.sf(t, df) * pairs  # the smallest p of all pairs decides whether there is any claim
    hsu = stats.t.sf(t, df) * (groups - 1)
    limits = {"Holm": holm <= LEVEL, "T3": t >= _modulus(pairs, df, random), "Hsu": hsu <= LEVEL}
    return {name: float((limit & behind).any(1).mean()) for name, limit in limits.items()}


def _modulus(count: int, df: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The 95 % quantile of the studentized maximum modulus, between a few degrees of freedom."""
    grid = np.geomspace(df.min(), df.max() + 1e-9, 12)
    largest = np.sqrt(stats.chi2.ppf(random.random(DRAWS) ** (1 / count), 1))
    quantiles = [np.quantile(largest / np.sqrt(random.chisquare(each, DRAWS) / each), 1 - LEVEL) for each in grid]
    return np.interp(df, grid, quantiles)


def main(argv: list[str]) -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser("python -m bench.best", description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=4_000)
    args = parser.parse_args(argv)
    found = {
        f"{groups} groups, {trials} trials{', seeds shared' * paired}": shares(groups, trials, paired, args.replicates)
        for paired in (False, True)
        for groups, trials in STUDIES
    }
    rows = [(name, *(f"{100 * one[p]:.1f} %" for p in PROCEDURES)) for name, one in found.items()]
    show(("all groups alike", *PROCEDURES), rows, found)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
