"""Random mixtures of sources: normalised gamma variates, a Dirichlet distribution, in thousandths.

Each variate is seeded by its source's name, so that another source leaves the others' variates as they were.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

THOUSAND = 1000  # a drawn mixture has weights in thousandths: short enough for a group's name, and to be typed again


def draw_mixture(names: Sequence[str], draw: str, concentration: float) -> dict[str, float]:
    """Return the weight of every source in one draw, which sum to 1. A variate is seeded by `simplex|<name>|<draw>`.

    concentration  1: uniform over the simplex; below: near its corners; above: near the even mixture
    """
    variates = [random.Random(f"simplex|{name}|{draw}").gammavariate(concentration, 1.0) for name in names]
    return in_thousandths(names, variates)


def in_thousandths(names: Sequence[str], parts: Sequence[float]) -> dict[str, float]:
    """Return these parts as weights in thousandths that sum to 1."""
    whole = sum(parts) or 1.0
    ends = [0, *(round(THOUSAND * part / whole) for part in itertools.accumulate(parts))]
    return {name: (high - low) / THOUSAND for name, (low, high) in zip(names, itertools.pairwise(ends), strict=True)}
