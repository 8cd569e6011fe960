"""Ways to write `pretrain.sources` as an axis: a grid of mixtures, a lattice, or draws from the simplex.

Owns which mixtures each way makes, and the limits on their number. `grid` puts them into the section.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from ray_robust.spec.dirichlet import draw_mixture
from ray_robust.spec.section import LARGEST_SEED, MOST_TRIALS, Section
from ray_robust.spec.values import Positive

MOST_WEIGHTS = 10_000_000  # of all mixtures together
MOST_SOURCES = 1_000  # of a lattice, simplex or grid of mixtures


class MixtureAxis(Section):
    """`pretrain.sources` as an axis. `options`: what holds for a source in every mixture, by its name."""

    options: dict[str, dict[str, Any]] = Field(
        default={},
        description="keys of a source that hold in every mixture, by its name",
        examples=["lattice: [species, fractals], steps: 2, options: {species: {seed: 1}}"],
    )

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

    lattice: list[str] = Field(
        min_length=2,
        description="the sources: every mixture of them with weights in `steps`-ths",
        examples=["lattice: [species, fractals], steps: 4"],
    )
    steps: Positive = Field(
        description="into how many parts the weights divide", examples=["lattice: [species, fractals], steps: 4"]
    )

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

    simplex: list[str] = Field(
        min_length=2,
        description="the sources: random mixtures of them; a search draws them itself, without `draws`",
        examples=["simplex: [species, fractals], draws: 8"],
    )
    draws: Positive = Field(
        description="how many mixtures; more leave the first as they were",
        examples=["simplex: [species, fractals], draws: 20"],
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=LARGEST_SEED,
        description="of the draws",
        examples=["simplex: [species, fractals], draws: 8, seed: 1"],
    )
    concentration: float = Field(
        default=1.0,
        ge=0.01,
        le=1000,
        allow_inf_nan=False,
        description="1: uniform over all mixtures; below: near single sources; above: near the even mixture",
        examples=["simplex: [species, fractals], draws: 8, concentration: 0.5"],
    )

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

    grid: Any = Field(
        description="a list of mixtures", examples=["grid: [{species: 1}, {species: 0.5, fractals: 0.5}]"]
    )

    @property
    def names(self) -> list[str]:
        values = self.grid if isinstance(self.grid, list) else []
        return list(dict.fromkeys(name for value in values if isinstance(value, dict) for name in value))

    @property
    def count(self) -> int:
        return len(self.grid) if isinstance(self.grid, list) else 0


MIXTURE_AXES: dict[str, type[MixtureAxis]] = {"grid": MixtureGrid, "lattice": Lattice, "simplex": Simplex}
