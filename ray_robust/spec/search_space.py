"""The search space: one dimension for each value that a spec leaves to a search, and seeded draws from all of them.

A draw of a dimension is seeded by its key, the draw's number and the search's seed, so that more draws or another key
change no earlier draw. Owns how distributions are written; knows nothing of what a key means. `grid` puts drawn values
in the place of distributions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from ray_robust.spec.dirichlet import THOUSAND, draw_mixture
from ray_robust.spec.section import Section
from ray_robust.spec.validation_messages import format_value
from ray_robust.spec.values import parse_number

DIGITS = 4  # significant ones of a drawn number that is not whole: it can be typed again, and is short in a name


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Bounds(Section):
    """`{uniform: [a, b]}` or `{loguniform: [a, b]}`."""

    uniform: tuple[float, float] | None = Field(
        default=None, description="a number between two, both included", examples=["holdout: {uniform: [0.05, 0.2]}"]
    )
    loguniform: tuple[float, float] | None = Field(
        default=None, description="the same on a log scale", examples=["num_images: {loguniform: [1k, 64k]}"]
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        name, ends = next(iter(raw.items()))
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError("must be two numbers, the lowest and the highest: [1000, 64k]")
        low: Any
        high: Any
        low, high = (parse_number(end) if isinstance(end, str) else end for end in ends)
        if not (_finite(low) and _finite(high)):
            raise ValueError(f"must be two numbers, the lowest and the highest, not {format_value(ends)}")
        if low >= high:
            raise ValueError(f"the lowest must come first, not {format_value(ends)}")
        if name == "loguniform" and low <= 0:
            raise ValueError(f"a log scale begins above 0, not at {format_value(low)}")
        return {name: (low, high)}


class Choice(Section):
    """`{choice: [...]}`."""

    choice: tuple[Any, ...] = Field(
        min_length=1, description="one of these values", examples=["granularity: {choice: [order, species]}"]
    )

    @model_validator(mode="after")
    def _differ(self) -> Choice:
        texts = [format_value(value) for value in self.choice]
        if twice := [one for i, one in enumerate(texts) if one in texts[:i]]:
            raise ValueError(f"{twice[0]} is given twice")
        return self


class SourceSimplex(Section):
    """`{simplex: [names]}`: every mixture of these sources. `concentration`, of the Dirichlet distribution that is
    drawn from: 1 is uniform over the simplex, below is near its corners, above near the even mixture."""

    simplex: list[str] = Field(
        min_length=2, description="mixtures of these sources", examples=["sources: {simplex: [species, fractals]}"]
    )
    concentration: float = Field(
        default=1.0,
        ge=0.01,
        le=1000,
        allow_inf_nan=False,
        description="of a simplex, as in `pretrain.sources`",
        examples=["sources: {simplex: [species, fractals], concentration: 0.5}"],
    )
    options: dict[str, dict[str, Any]] = Field(
        default={},
        description="keys of a source that hold in every mixture, by its name",
        examples=["sources: {simplex: [species, fractals], options: {species: {seed: 1}}}"],
    )

    @model_validator(mode="after")
    def _differ(self) -> SourceSimplex:
        if twice := [name for i, name in enumerate(self.simplex) if name in self.simplex[:i]]:
            raise ValueError(f"{twice[0]!r} is given twice")
        return self


DISTRIBUTIONS: dict[str, type[Section]] = {
    "uniform": Bounds,
    "loguniform": Bounds,
    "choice": Choice,
    "simplex": SourceSimplex,
}


def distribution_of(raw: Any) -> str:
    """Return the name of the distribution that is written here, "" where there is none."""
    if not isinstance(raw, dict):
        return ""
    if "simplex" in raw:
        return "" if "draws" in raw else "simplex"  # with a number of draws it is an axis of a grid
    return next(iter(raw)) if len(raw) == 1 and next(iter(raw)) in DISTRIBUTIONS else ""


@dataclass(frozen=True)
class Dimension:
    """One value that a search draws. `key` is dotted and names it everywhere; `path` is its path in the file.

    distribution  one of `DISTRIBUTIONS`
    low, high     the ends of a number, both included; `whole` when it is a whole one, `log` on a log scale
    choices       the values of a choice
    names         the sources of a simplex
    """

    key: str
    path: tuple[str, ...]
    distribution: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    choices: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    concentration: float = 1.0

    @property
    def log(self) -> bool:
        """Whether it is drawn on a log scale."""
        return self.distribution == "loguniform"

    def meaning(self) -> dict[str, Any]:
        """Return what is drawn, in plain values, for a hash that names a study. Its keys are in the names of studies on
        disk: `way` is the distribution, and no key may be renamed."""
        return {
            "key": self.key, "path": self.path, "way": self.distribution, "low": self.low, "high": self.high,
            "whole": self.whole, "choices": self.choices, "names": self.names, "concentration": self.concentration,
        }  # fmt: skip

    def draw(self, number: int, seed: int) -> Any:
        """Return the value of a draw: a number, one of the choices, or the weights of the sources in thousandths."""
        if self.distribution == "simplex":
            return draw_mixture(self.names, f"{number}|{seed}", self.concentration)
        share = random.Random(f"search|{self.key}|{number}|{seed}").random()
        if self.distribution == "choice":
            return self.choices[int(share * len(self.choices))]
        return self.at(share)

    def at(self, share: float) -> int | float:
        """Return the number at a share (0-1) of the way from one end to the other."""
        wide = 0.5 if self.whole else 0.0  # so that the ends are drawn as often as what lies between
        low, high = self.low - wide, self.high + wide
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return self.rounded(value)

    def rounded(self, value: float) -> int | float:
        """Return a number as a search draws it: whole, or of few digits, and never beyond the ends."""
        if self.whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def representatives(self) -> Iterator[Any]:
        """Yield values that stand for the whole dimension: the ends of a number, every choice, the even mixture."""
        if self.distribution == "simplex":
            ends = [round(THOUSAND * i / len(self.names)) for i in range(len(self.names) + 1)]
            yield {name: (ends[i + 1] - ends[i]) / THOUSAND for i, name in enumerate(self.names)}
        elif self.distribution == "choice":
            yield from self.choices
        else:
            yield from (self.at(0.0), self.at(1.0))

    def describe(self) -> str:
        """Return it for people: `1000 to 64000, log scale`."""
        if self.distribution == "simplex":
            prior = "" if self.concentration == 1 else f", concentration {self.concentration:g}"
            return f"mixtures of {', '.join(self.names)}{prior}"
        if self.distribution == "choice":
            return " | ".join(format_value(value) for value in self.choices)
        whole = "whole numbers, " if self.whole else ""
        return f"{self.low:,.12g} to {self.high:,.12g} ({whole}{'log' if self.log else 'linear'} scale)"


@dataclass(frozen=True)
class Space:
    """Everything that a search draws. Drawn values are by dimension key, in the file's order."""

    dimensions: tuple[Dimension, ...]
    seed: int = 0

    def draw(self, number: int) -> dict[str, Any]:
        """Return one draw from the prior."""
        return {one.key: one.draw(number, self.seed) for one in self.dimensions}

    def cover(self, base: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (changed key, values): `base` with each dimension in turn at each of its representatives."""
        for one in self.dimensions:
            for value in one.representatives():
                yield one.key, {**base, one.key: value}


NO_SPACE = Space(())


def dimension(path: tuple[str, ...], raw: Mapping[str, Any], whole: bool) -> Dimension:
    """Return the dimension of a distribution that the file has at `path`.

    Raise pydantic's ValidationError, or ValueError where a `whole` number has ends that are not whole.
    """
    name = distribution_of(raw)
    checked = DISTRIBUTIONS[name].model_validate(raw)
    key = ".".join(path)
    if isinstance(checked, SourceSimplex):
        return Dimension(key, path, name, names=tuple(checked.simplex), concentration=checked.concentration)
    if isinstance(checked, Choice):
        return Dimension(key, path, name, choices=checked.choice)
    low, high = getattr(checked, name)
    if whole and (low != int(low) or high != int(high)):
        raise ValueError(f"must be two whole numbers, not {format_value([low, high])}")
    return Dimension(key, path, name, low, high, whole)
