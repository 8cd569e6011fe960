"""The raw scores of simulated sweeps beside what is true of them: intervals, tests, and claims.

Owns what `bench.coverage` counts of `analysis.stats.raw_scores`. The mean score of a group, of points that noisy
validation scores choose, has no formula: its truth is the mean of the estimates over all sweeps. Differences have one
where every group has the same ID scores (`World.apart`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from analysis.stats.contrasts import state
from analysis.stats.raw_scores import OOD, RawScores
from analysis.stats.score_differences import BASELINE, BEST
from bench.scenarios import MARGIN
from bench.simulated import FACTOR, World

MEAN, DIFFERENCE, BEHIND, TREND = "score", "score difference", "behind the best", "score trend"
LEADING = "leading group"  # the one with the highest score less the baseline, with the interval of the first sentence
SCORE_KINDS = (MEAN, DIFFERENCE, LEADING, BEHIND, TREND)
FAMILIES = {BASELINE: DIFFERENCE, BEST: BEHIND}
TINY = 1e-9


def score_numbers(scores: RawScores, world: World) -> dict[str, list[Any]]:
    """Return intervals (kind, what, truth or NaN, value, low, high), tests of true null hypotheses (kind, p, adjusted
    p), and whether differences exactly at the margin pass for equivalent."""
    intervals: list[Any] = [
        (MEAN, f"{row['score']} {row['group']}", np.nan, row["mean"], row["low"], row["high"])
        for row in scores.groups.to_dict("records")
    ]
    tests: list[Any] = []
    equivalent: list[bool] = []
    for row, true in _differences(scores, world):
        kind = FAMILIES[row["family"]]
        if np.isfinite(true) or row["family"] == BASELINE:  # which is the best differs from sweep to sweep
            what = f"{row['score']} {row['a']}-{row['b']}"
            intervals.append((kind, what, true, row["delta"], row["low"], row["high"]))
        if abs(true) < TINY:
            p = row["p"] if row["family"] == BASELINE else row["p_adjusted"]  # the best was picked by these scores
            tests.append((_family(row["score"], row["family"]), p, row["p_adjusted"]))
        if row["family"] == BASELINE and abs(abs(true) - MARGIN) < TINY:
            equivalent.append(bool(row["equivalent"]))
    for score in ("id", OOD):
        own = [(row, true) for row, true in _differences(scores, world)
               if (row["score"], row["family"]) == (score, BASELINE) and np.isfinite(true)]  # fmt: skip
        if own:
            row, true = max(own, key=lambda pair: pair[0]["delta"])
            intervals.append((LEADING, score, true, row["delta"], row["picked_low"], row["picked_high"]))
    for row in scores.factors.to_dict("records"):
        if row["per"] == "tenfold":
            ends = row["slope"], row["low"], row["high"]
            true = _slope(world, int(row["score"] == OOD)) if row["factor"] == FACTOR else np.nan
            intervals.append((TREND, f"{row['score']} {row['factor']}", true, *ends))
            if abs(true) < TINY:
                tests.append((f"{'OOD' if row['score'] == OOD else 'ID'} {TREND}", row["p"], row["p_adjusted"]))
    return {"intervals": intervals, "tests": tests, "equivalent": equivalent}


def _slope(world: World, side: int) -> float:
    """The true slope per tenfold of the factor over its levels; NaN where it is not known or there is no line."""
    levels = {match[1]: apart[side] for name, apart in world.apart.items()
              if (match := re.fullmatch(rf"{FACTOR}=(\d+)", name))}  # fmt: skip
    if len(levels) < 2:
        return float("nan")
    x, y = np.log10([float(level) for level in levels]), np.array(list(levels.values()))
    line = np.polyfit(x, y, 1)
    return float(line[0]) if np.abs(y - np.polyval(line, x)).max() < TINY else float("nan")


def _family(score: str, family: str) -> str:
    """The name of a family of tests, which Holm corrects by itself."""
    return f"{'OOD' if score == OOD else 'ID'} {FAMILIES[family]}"


def _differences(scores: RawScores, world: World) -> Iterator[tuple[Mapping[str, Any], float]]:
    """Every difference with its truth, percentage points; NaN where that is not known beforehand."""
    unknown = (np.nan, np.nan)
    table = scores.differences
    for row in table.loc[table["family"].isin(list(FAMILIES))].to_dict("records"):
        side = int(row["score"] == OOD)
        yield row, world.apart.get(row["a"], unknown)[side] - world.apart.get(row["b"], unknown)[side]


def false_scores(scores: RawScores, world: World) -> dict[str, list[Any]]:
    """Return of the raw scores the kinds of false claims of a difference and of "no effect", and for every true effect
    against the baseline whether it was claimed."""
    wrong, none, effects = [], [], []
    for row, true in _differences(scores, world):
        if not np.isfinite(true):
            continue
        kind, claim = FAMILIES[row["family"]], state(row)
        right = claim == "differs" and np.sign(row["delta"]) == np.sign(true) and abs(true) > TINY
        if claim == "differs" and not right:
            wrong.append(kind)
        if row["equivalent"] and claim != "fragile" and abs(true) >= MARGIN - TINY:
            none.append(kind)
        if row["family"] == BASELINE and abs(true) > TINY:
            effects.append(bool(right))
    return {"false": wrong, "none": none, "effects": effects}


def score_rows(found: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield the table of raw scores: a line per scenario, after the header."""
    families = [_family(score, family) for family in FAMILIES for score in ("id", OOD)]
    yield ("scenario", "replicates", *SCORE_KINDS, *(f"any false: {name}" for name in families),
           "equivalent at the margin", "any false claim", 'false "no effect"', "true: claimed",
           "without interval")  # fmt: skip
    for name, one in found.items():
        claims, false = one["claims"], one["any false positive after Holm"]
        shares = [
            *(one["coverage"].get(kind) for kind in SCORE_KINDS), *(false.get(name) for name in families),
            one["equivalent scores at the margin"], claims["false of scores"], claims["no effect on scores"],
            claims["claimed of scores"], one["no interval of a score"] or None,
        ]  # fmt: skip
        yield name, str(one["replicates"]), *("–" if s is None else f"{100 * s:.1f} %" for s in shares)
