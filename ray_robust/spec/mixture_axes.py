"""Ways to write `pretrain.sources` as an axis: a grid of mixtures, a lattice, or draws from the simplex.

Owns which mixtures each way makes, and the limits on their number. `grid` puts them into the section.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, model_validator

from ray_robust.spec.dirichlet import draw_mixture
from ray_robust.spec.sections import LARGEST_SEED, MOST_TRIALS, Positive, Rate, Section

MOST_WEIGHTS = 10_000_000  # of all mixtures together
MOST_SOURCES = 1_000  # of a lattice, simplex or grid of mixtures


class MixtureAxis(Section):
    """`pretrain.sources` as an axis. `options`: what holds for a source in every mixture, by its name."""

    options: dict[str, dict[str, Any]] = {}

    @property
    def names(self) -> list[str]:
        """The sources of its mixtures."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """How many mixtures it makes, known before any of them is made."""
        raise NotImplementedError

    def weights(self) -> Iterator[tuple[float, ...]]:
        """Yield the weights of every mixture, in the order of the names."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _is_small_enough(self) -> MixtureAxis:
        names = self.names
        if twice := next((name for name, times in Counter(names).items() if times > 1), None):
            raise ValueError(f"{twice!r} is given twice")
        if len(names) > MOST_SOURCES:
            raise ValueError(f"names {len(names):,} sources; at most {MOST_SOURCES:,} are possible")
        if (count := self.count) > MOST_TRIALS:
            many = f"{count:,}" if count < 10**18 else "far too many"
            raise ValueError(f"makes {many} mixtures; at most {MOST_TRIALS:,} are possible")
        if count * len(names) > MOST_WEIGHTS:
            raise ValueError(f"makes {count:,} mixtures of {len(names):,} sources; give fewer of either")
        return self


class Lattice(MixtureAxis):
    """Every mixture of these sources with weights in `steps`-ths, each source alone included: a simplex lattice
    design (Scheffe, "Experiments with Mixtures", JRSS B 1958)."""

    lattice: Annotated[list[str], Field(min_length=2)]
    steps: Positive

    @property
    def names(self) -> list[str]:
        return self.lattice

    @property
    def count(self) -> int:
        return math.comb(self.steps + len(self.names) - 1, self.steps)

    def weights(self) -> Iterator[tuple[float, ...]]:
        for bars in itertools.combinations(range(self.steps + len(self.names) - 1), len(self.names) - 1):
            edges = (-1, *bars, self.steps + len(self.names) - 1)  # stars and bars
            yield tuple((high - low - 1) / self.steps for low, high in itertools.pairwise(edges))


class Simplex(MixtureAxis):
    """`draws` random mixtures of these sources: normalised gamma variates, a Dirichlet distribution.

    concentration  1: uniform over the simplex; below: near its corners; above: near the even mixture
    Each variate is seeded by the source's name, the draw's number and `seed`: more draws leave the first as they were.
    """

    simplex: Annotated[list[str], Field(min_length=2)]
    draws: Positive
    seed: Annotated[int, Field(ge=0, lt=LARGEST_SEED)] = 0
    concentration: Annotated[Rate, Field(ge=0.01, le=1000)] = 1.0

    @property
    def names(self) -> list[str]:
        return self.simplex

    @property
    def count(self) -> int:
        return self.draws

    def weights(self) -> Iterator[tuple[float, ...]]:
        for draw in range(self.draws):
            yield tuple(draw_mixture(self.names, f"{draw}|{self.seed}", self.concentration).values())


class MixtureGrid(MixtureAxis):
    """A written list of mixtures; its values are read like those of any grid."""

    grid: Any

    @property
    def names(self) -> list[str]:
        values = self.grid if isinstance(self.grid, list) else []
        return list(dict.fromkeys(name for value in values if isinstance(value, dict) for name in value))

    @property
    def count(self) -> int:
        return len(self.grid) if isinstance(self.grid, list) else 0


MIXTURE_AXES: dict[str, type[MixtureAxis]] = {"grid": MixtureGrid, "lattice": Lattice, "simplex": Simplex}
