"""What varies in a section of a spec: grids, points, and mixtures of sources, expanded into every combination.

Owns `Axis` and `Combination`; knows nothing of what a key means. Hands on to `spec`, which checks each combination.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from ray_robust.errors import did_you_mean
from ray_robust.spec.dirichlet import mixture
from ray_robust.spec.search_space import way_of
from ray_robust.spec.sections import LARGEST_SEED, MOST_TRIALS, Positive, Rate, Section, parse_number
from ray_robust.spec.validation_messages import Places, dotted, explain, in_file, one_per_key, shown, text

POINTS = ("pretrain", "points")  # the axis of combinations that are no product
MOST_WEIGHTS = 10_000_000  # of all mixtures together
MOST_SOURCES = 1_000  # of a lattice, simplex or grid of mixtures
SOURCES = ("pretrain", "sources")  # may vary as a whole in more ways than a grid

Say = Callable[[tuple, str], None]  # (where in the file, what is wrong)


@dataclass(frozen=True)
class Choice:
    """One value of an axis, its names in tables (key and value as text), and where it stands in the file; `inner`: what
    of the value stands elsewhere, by its path in the value."""

    value: Any
    names: tuple[tuple[str, str], ...]
    place: tuple
    inner: Places = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    where: tuple  # the path of what varies
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Combination:
    """A section with one choice of each of its axes put in. `places`: what of it stands elsewhere in the file."""

    raw: Any
    names: tuple[tuple[str, str], ...]
    places: Places


class _Mixes(Section):
    """`pretrain.sources` as an axis. `options`: what holds for a source in every mixture, by its name."""

    options: dict[str, dict[str, Any]] = {}

    @property
    def names(self) -> list[str]:
        raise NotImplementedError

    def weights(self) -> Iterator[tuple[float, ...]]:
        """The weights of every mixture, in the order of the names."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        raise NotImplementedError

    @model_validator(mode="after")
    def _names_are_different(self) -> _Mixes:
        names = self.names
        if twice := next((name for name, times in Counter(names).items() if times > 1), None):
            raise ValueError(f"{twice!r} stands there twice")
        if len(names) > MOST_SOURCES:
            raise ValueError(f"names {len(names):,} sources; at most {MOST_SOURCES:,} are possible")
        if (count := self.count) > MOST_TRIALS:
            many = f"{count:,}" if count < 10**18 else "far too many"
            raise ValueError(f"makes {many} mixtures; at most {MOST_TRIALS:,} are possible")
        if count * len(names) > MOST_WEIGHTS:
            raise ValueError(f"makes {count:,} mixtures of {len(names):,} sources; give fewer of either")
        return self


class Lattice(_Mixes):
    """Every mixture of these sources with weights in `steps`-ths, each source alone included."""

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


class Simplex(_Mixes):
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
            yield tuple(mixture(self.names, f"{draw}|{self.seed}", self.concentration).values())


class _Grid(_Mixes):
    """A written list of mixtures."""

    grid: Any

    @property
    def names(self) -> list[str]:
        values = self.grid if isinstance(self.grid, list) else []
        return list(dict.fromkeys(name for value in values if isinstance(value, dict) for name in value))

    @property
    def count(self) -> int:
        return len(self.grid) if isinstance(self.grid, list) else 0


_WAYS: dict[str, type[_Mixes]] = {"grid": _Grid, "lattice": Lattice, "simplex": Simplex}


def axes_in(raw: Any, path: tuple) -> Iterator[tuple[tuple, dict]]:
    """(path, what is written there) of every axis below `raw`, in the file's order; points are not among them."""
    if isinstance(raw, dict):
        if set(raw) == {"grid"} or is_drawn(path, raw) or (path == SOURCES and set(raw) & set(_WAYS)):
            yield path, raw
            return
        for key, value in raw.items():
            if key != "points":
                yield from axes_in(value, (*path, key))


def is_drawn(path: tuple, raw: Any) -> bool:
    """Whether a value is left open for a search to draw. A source may be called `choice`: its options are no list."""
    way = way_of(raw)
    return bool(way) and (path != SOURCES or way == "simplex" or (way == "choice" and isinstance(raw[way], list)))


def combinations(
    key: str, raw: Any, own: Places, say: Say, drawn: Mapping[str, Any] | None = None
) -> Iterator[Combination]:
    """Every combination of a section's axes, in the file's order, the last axis fastest; none when one is wrong.

    own    says where those keys stand that are not below `key` itself: a baseline's fine-tuning is `finetune` with
           some keys replaced
    drawn  the value of everything that is left open, by its dotted key: an axis of one level
    """
    axes = []
    for where, written in axes_in(raw, (key,)):
        place = in_file(where, own)
        if dotted(where) in (drawn or {}):
            choices = _drawn(where, written, (drawn or {})[dotted(where)], place)
        elif is_drawn(where, written) and "simplex" not in written:  # nothing draws here, which has been said
            return
        elif where == SOURCES:
            choices = _mixes(written, place, say)
        else:
            choices = _grid(where, written["grid"], place, say)
        if not choices:
            return
        axes.append(Axis(where, choices))
    raw = copy.deepcopy(raw)
    if key == "pretrain" and isinstance(raw, dict) and "points" in raw:
        choices = _points(raw.pop("points"), {axis.where[:2] for axis in axes}, say)
        if not choices:
            return
        axes.append(Axis(POINTS, choices))
    if (count := math.prod(len(axis.choices) for axis in axes)) > MOST_TRIALS:
        say((key,), f"{key}: its grids make {count:,} combinations; at most {MOST_TRIALS:,} are possible")
        return
    bare = {key: raw}
    for axis in axes:  # their values are put in below; copied with every combination, a long grid would cost its square
        if axis.where != POINTS:
            put(bare, axis.where, None)
    for chosen in itertools.product(*(axis.choices for axis in axes)):
        tree: dict = copy.deepcopy(bare)
        places: dict[tuple, tuple] = dict(own)
        for axis, choice in zip(axes, chosen, strict=True):
            if axis.where == POINTS:
                tree[key].update(choice.value)
                places[()] = choice.place
                places |= {(key, name): (*choice.place, name) for name in choice.value}
            else:
                put(tree, axis.where, choice.value)
                places[axis.where] = choice.place
                places |= {(*axis.where, *part): at for part, at in choice.inner.items()}
        yield Combination(tree[key], tuple(name for choice in chosen for name in choice.names), places)


def put(tree: dict, path: tuple, value: Any) -> None:
    """Put a value at a path whose upper parts are there."""
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def _grid(where: tuple, values: Any, place: tuple, say: Say) -> tuple[Choice, ...]:
    if problem := _bad_grid(values):
        say(place, f"{dotted(place)}.grid: {problem}")
        return ()
    key = _name(where)

    def names(value: Any) -> tuple[tuple[str, str], ...]:
        if len(where) == 1 and isinstance(value, dict):  # the section itself varies: named by its keys
            return tuple((str(k), text(v)) for k, v in value.items())
        return ((key, text(value)),)

    return tuple(Choice(value, names(value), (*place, "grid", i)) for i, value in enumerate(values))


def _name(where: tuple) -> str:
    """What an axis is called in tables."""
    return ".".join(map(str, where[2:])) if where[:2] == SOURCES and where[2:] else str(where[-1])


def _drawn(where: tuple, written: dict, value: Any, place: tuple) -> tuple[Choice, ...]:
    """The one level of an axis that a search has drawn."""
    if where == SOURCES and "simplex" in written:
        value = _present(value)
        choice = Choice(value, (("sources", text(value)),), where, _names_in(written, "simplex", place))
        return (_with_options(choice, written.get("options") or {}, place),)
    listed = written.get("choice") or ()
    at = [i for i, one in enumerate(listed) if type(one) is type(value) and one == value]
    return (Choice(value, ((_name(where), text(value)),), (*place, "choice", at[0]) if at else place),)


def _names_in(written: Mapping[str, Any], way: str, place: tuple) -> dict[tuple, tuple]:
    """Where the sources of a lattice or simplex are named."""
    return {(name,): (*place, way, i) for i, name in enumerate(written[way])}


def _bad_grid(values: Any) -> str:
    """What is wrong with the values of an axis, or ""."""
    if not isinstance(values, list) or not values:
        return "must be a list with at least one value"
    seen = [repr(parse_number(value) if isinstance(value, str) else value) for value in values]
    seen = [repr(values[i]) if same == "None" else same for i, same in enumerate(seen)]
    first = {same: i for i, same in reversed(list(enumerate(seen)))}
    twice = next((values[i] for i, same in enumerate(seen) if first[same] != i), None)
    return f"{shown(twice)} stands there twice" if len(first) < len(seen) else ""


def _mixes(written: dict, place: tuple, say: Say) -> tuple[Choice, ...]:
    """The mixtures of `pretrain.sources` as an axis."""
    way = next(name for name in _WAYS if name in written)
    try:
        axis = _WAYS[way].model_validate(written)
    except ValidationError as error:
        for detail in one_per_key(_WAYS[way], error):
            say(*explain(_WAYS[way], detail, place, {}, False))
        return ()
    if unknown := [name for name in axis.options if name not in axis.names]:
        what = f"no source of the {way}{did_you_mean(unknown[0], axis.names)}"
        say((*place, "options", unknown[0]), f"{dotted(place)}.options.{unknown[0]}: {what}")
        return ()
    if isinstance(axis, _Grid):
        choices = _grid(SOURCES, axis.grid, place, say)
    else:
        points = [_present(dict(zip(axis.names, weights, strict=True))) for weights in axis.weights()]
        named = _names_in(written, way, place)
        choices = tuple(Choice(point, (("sources", text(point)),), place, named) for point in points)
    distinct = {repr(choice.value): choice for choice in choices}  # two draws may round to one mixture
    return tuple(_with_options(choice, axis.options, place) for choice in _told_apart(list(distinct.values())))


def _present(mixture: dict) -> dict:
    return {name: weight for name, weight in mixture.items() if weight != 0}


def _with_options(choice: Choice, options: Mapping[str, dict], place: tuple) -> Choice:
    """A mixture with what holds for its sources in all mixtures of the axis at `place`."""
    if not options or not isinstance(choice.value, dict):
        return choice
    value, inner = {}, dict(choice.inner)
    for name, part in choice.value.items():
        own = part if isinstance(part, dict) else {"weight": part}
        value[name] = {**options.get(name, {}), **own}
        inner |= {(name, key): (*place, "options", name, key) for key in options.get(name, {}) if key not in own}
    return replace(choice, value=value, inner=inner)


def _told_apart(choices: list[Choice]) -> list[Choice]:
    """Mixtures of equal weights differ in their options, so these must be in their names."""
    names = Counter(choice.names for choice in choices)
    return [
        replace(choice, names=(("sources", _with_details(choice.value)),))
        if names[choice.names] > 1 and isinstance(choice.value, dict)
        else choice
        for choice in choices
    ]


def _with_details(mixture: dict) -> str:
    """`species:1[species=50]`."""
    parts = []
    for name, part in mixture.items():
        more = {k: v for k, v in part.items() if k != "weight"} if isinstance(part, dict) else {}
        told = ",".join(f"{k}={text(v)}" for k, v in more.items())
        parts.append(text({name: part}) + (f"[{told}]" if told else ""))
    return "+".join(parts)


def _canonical(value: Any) -> str:
    """A text that is the same for equal values: keys in any order, 1 and 1.0 and true as Python compares them."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_canonical(part)}" for key, part in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return repr(float(value)) if isinstance(value, int) and abs(value) < 1 << 53 else repr(value)


def _points(points: Any, varying: set[tuple], say: Say) -> tuple[Choice, ...]:
    """`pretrain.points`; `varying` are the keys that are axes already."""
    if not isinstance(points, list) or not points or not all(isinstance(p, dict) and p for p in points):
        say(POINTS, "pretrain.points: must be a list of mappings, e.g. - {num_classes: 250}")
        return ()
    before: set[str] = set()
    for i, point in enumerate(points):
        if (same := _canonical(point)) in before:
            say((*POINTS, i), "pretrain.points: the same point stands there twice")
        before.add(same)
        for name in point:
            if ("pretrain", name) in varying:
                say((*POINTS, i, name), f"pretrain.points: {name} is also a grid; vary it in one place")
    return tuple(
        Choice(point, tuple((str(k), text(v)) for k, v in point.items()), (*POINTS, i))
        for i, point in enumerate(points)
    )
