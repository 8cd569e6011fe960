"""What a search draws: one dimension for each value that a spec leaves open, and draws that are named, not counted.

A draw of a dimension is seeded by its key, the draw's number and the search's seed, so that more draws or another key
leave what was drawn as it was. Owns how distributions are written; knows nothing of what a key means. Hands on to
`spec`, which puts drawn values in the place of distributions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from ray_robust.spec.dirichlet import THOUSAND, mixture
from ray_robust.spec.sections import Rate, Section, parse_number
from ray_robust.spec.validation_messages import text

DIGITS = 4  # significant ones of a drawn number that is not whole: it can be typed again, and is short in a name
WAYS = ("uniform", "loguniform", "choice", "simplex")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class _Bounds(Section):
    """`{uniform: [a, b]}` or `{loguniform: [a, b]}`."""

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        way, ends = next(iter(raw.items()))
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError("must be two numbers, the lowest and the highest: [1000, 64k]")
        low: Any
        high: Any
        low, high = (parse_number(end) if isinstance(end, str) else end for end in ends)
        if not (_finite(low) and _finite(high)):
            raise ValueError(f"must be two numbers, the lowest and the highest, not {text(ends)}")
        if low >= high:
            raise ValueError(f"the lowest must come first, not {text(ends)}")
        if way == "loguniform" and low <= 0:
            raise ValueError(f"a log scale begins above 0, not at {text(low)}")
        return {way: (low, high)}


class _Choice(Section):
    """`{choice: [...]}`."""

    choice: Annotated[tuple[Any, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _differ(self) -> _Choice:
        told = [text(value) for value in self.choice]
        if twice := [one for i, one in enumerate(told) if one in told[:i]]:
            raise ValueError(f"{twice[0]} stands there twice")
        return self


class Mixes(Section):
    """`{simplex: [names]}`: every mixture of these sources. `concentration`, of the Dirichlet distribution that is
    drawn from: 1 is uniform over the simplex, below is near its corners, above near the even mixture."""

    simplex: Annotated[list[str], Field(min_length=2)]
    concentration: Annotated[Rate, Field(ge=0.01, le=1000)] = 1.0
    options: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _differ(self) -> Mixes:
        if twice := [name for i, name in enumerate(self.simplex) if name in self.simplex[:i]]:
            raise ValueError(f"{twice[0]!r} stands there twice")
        return self


MODELS: dict[str, type[Section]] = {"uniform": _Bounds, "loguniform": _Bounds, "choice": _Choice, "simplex": Mixes}


def way_of(raw: Any) -> str:
    """The way in which a value is to be drawn, "" when it is none that is drawn."""
    if not isinstance(raw, dict):
        return ""
    if "simplex" in raw:
        return "" if "draws" in raw else "simplex"  # with a number of draws it is an axis of a grid
    return next(iter(raw)) if len(raw) == 1 and next(iter(raw)) in WAYS else ""


@dataclass(frozen=True)
class Dimension:
    """One open value. `key` is dotted and names it everywhere; `path` is where it stands in the file.

    low, high  the ends of a number, both included; `whole` when it is a whole one, `log` on a log scale
    choices    the values of a choice
    names      the sources of a simplex
    """

    key: str
    path: tuple[str, ...]
    way: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    choices: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    concentration: float = 1.0

    @property
    def log(self) -> bool:
        """Whether it is drawn on a log scale."""
        return self.way == "loguniform"

    def draw(self, number: int, seed: int) -> Any:
        """The value of a draw: a number, one of the choices, or the weights of the sources in thousandths."""
        if self.way == "simplex":
            return mixture(self.names, f"{number}|{seed}", self.concentration)
        share = random.Random(f"search|{self.key}|{number}|{seed}").random()
        if self.way == "choice":
            return self.choices[int(share * len(self.choices))]
        return self.at(share)

    def at(self, share: float) -> int | float:
        """The number at a share (0-1) of the way from one end to the other."""
        wide = 0.5 if self.whole else 0.0  # so that the ends are drawn as often as what lies between
        low, high = self.low - wide, self.high + wide
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return self.rounded(value)

    def rounded(self, value: float) -> int | float:
        """A number as it is drawn: whole, or of few digits, and never beyond the ends."""
        if self.whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def tried(self) -> Iterator[Any]:
        """Values that stand for the whole dimension: the ends of a number, every choice, the even mixture."""
        if self.way == "simplex":
            ends = [round(THOUSAND * i / len(self.names)) for i in range(len(self.names) + 1)]
            yield {name: (ends[i + 1] - ends[i]) / THOUSAND for i, name in enumerate(self.names)}
        elif self.way == "choice":
            yield from self.choices
        else:
            yield from (self.at(0.0), self.at(1.0))

    def told(self) -> str:
        """For people: `1000 to 64000, log scale`."""
        if self.way == "simplex":
            prior = "" if self.concentration == 1 else f", concentration {self.concentration:g}"
            return f"mixtures of {', '.join(self.names)}{prior}"
        if self.way == "choice":
            return " | ".join(text(value) for value in self.choices)
        whole = "whole numbers, " if self.whole else ""
        return f"{self.low:,.12g} to {self.high:,.12g} ({whole}{'log' if self.log else 'linear'} scale)"


@dataclass(frozen=True)
class Space:
    """Everything that a search draws. Values are by dimension key, in the file's order."""

    dimensions: tuple[Dimension, ...]
    seed: int = 0

    def draw(self, number: int) -> dict[str, Any]:
        """One draw from the prior."""
        return {one.key: one.draw(number, self.seed) for one in self.dimensions}

    def cover(self, base: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(what was changed, values): `base` with each dimension in turn at each of its tried values."""
        for one in self.dimensions:
            for value in one.tried():
                yield one.key, {**base, one.key: value}


NO_SPACE = Space(())


def dimension(path: tuple[str, ...], raw: Mapping[str, Any], whole: bool) -> Dimension:
    """A distribution as it was read from the file. Raises pydantic's ValidationError, or ValueError where a `whole`
    number has ends that are none."""
    way = way_of(raw)
    told = MODELS[way].model_validate(raw)
    key = ".".join(path)
    if isinstance(told, Mixes):
        return Dimension(key, path, way, names=tuple(told.simplex), concentration=told.concentration)
    if isinstance(told, _Choice):
        return Dimension(key, path, way, choices=told.choice)
    low, high = getattr(told, way)
    if whole and (low != int(low) or high != int(high)):
        raise ValueError(f"must be two whole numbers, not {text([low, high])}")
    return Dimension(key, path, way, low, high, whole)
