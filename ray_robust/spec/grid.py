"""Expand what varies in a section of a spec (grids, points, mixtures of sources) into every combination.

Owns `Axis` and `Combination`; knows nothing of what a key means. `section_parser` checks each combination.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from ray_robust.errors import did_you_mean
from ray_robust.spec.image_selection import text_of
from ray_robust.spec.mixture_axes import MIXTURE_AXES, MixtureGrid
from ray_robust.spec.search_space import distribution_of
from ray_robust.spec.section import MOST_TRIALS
from ray_robust.spec.validation_messages import Origins, describe_error, dotted, first_per_key, format_value, origin_of
from ray_robust.spec.values import parse_number, short_repr

POINTS = ("pretrain", "points")  # the axis of combinations that are no product
SOURCES = ("pretrain", "sources")  # may vary as a whole in more ways than a grid
WITHIN = ("select", "dedupe", "label_noise")  # of pretrain: what varies in one is called by both keys, `select.top`

Report = Callable[[tuple, str], None]  # (path in the file, what is wrong)


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis.

    names   its names in tables: (key, value as text)
    origin  the path in the file where it was written
    inner   origins of parts of the value that were written elsewhere, by their path in the value
    """

    value: Any
    names: tuple[tuple[str, str], ...]
    origin: tuple
    inner: Origins = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """What varies, by its path in the section, and its values."""

    path: tuple
    values: tuple[AxisValue, ...]


@dataclass(frozen=True)
class Combination:
    """A section with one value of each of its axes put in.

    origins  which parts were written elsewhere
    broken   paths of axes that are wrong, which are left out of `raw`
    """

    raw: Any
    names: tuple[tuple[str, str], ...]
    origins: Origins
    broken: tuple[tuple, ...] = ()


def axes_in(raw: Any, path: tuple) -> Iterator[tuple[tuple, dict]]:
    """Yield (path, what is written there) of every axis below `raw`, in the file's order; points are not among
    them."""
    if isinstance(raw, dict):
        if set(raw) == {"grid"} or is_drawn(path, raw) or (path == SOURCES and set(raw) & set(MIXTURE_AXES)):
            yield path, raw
            return
        for key, value in raw.items():
            if key != "points":
                yield from axes_in(value, (*path, key))


def is_drawn(path: tuple, raw: Any) -> bool:
    """Return whether a search draws this value. A source may be called `choice`: its options are no list."""
    name = distribution_of(raw)
    return bool(name) and (path != SOURCES or name == "simplex" or (name == "choice" and isinstance(raw[name], list)))


def combinations(
    key: str,
    raw: Any,
    origins: Origins,
    report: Report,
    drawn: Mapping[str, Any] | None = None,
    drawing: bool = False,
) -> Iterator[Combination]:
    """Yield every combination of a section's axes, in the file's order, the last axis fastest. Axes that are wrong are
    reported and left out.

    origins  of keys that were not written below `key` itself: a baseline's fine-tuning is `finetune` with some keys
             replaced
    drawn    the value of everything that a search draws, by its dotted key: an axis of one value
    drawing  whether the sweep is a search
    """
    axes, broken = _axes(key, raw, origins, report, drawn or {}, drawing)
    if (key,) in broken:
        return
    raw = copy.deepcopy(raw)
    if key == "pretrain" and isinstance(raw, dict) and "points" in raw:
        values = _points(raw.pop("points"), {path[:2] for path in (*broken, *(axis.path for axis in axes))}, report)
        axes += [Axis(POINTS, values)] if values else []
        broken += [] if values else [POINTS]
    raw = without(raw, broken)
    if (count := math.prod(len(axis.values) for axis in axes)) > MOST_TRIALS:
        report((key,), f"{key}: its grids make {count:,} combinations; at most {MOST_TRIALS:,} are possible")
        return
    bare = {key: raw}
    for axis in axes:  # their values are put in below; copied with every combination, a long grid would cost its square
        if axis.path != POINTS:
            put(bare, axis.path, None)
    for chosen in itertools.product(*(axis.values for axis in axes)):
        one = _combination(key, copy.deepcopy(bare), origins, list(zip(axes, chosen, strict=True)))
        yield replace(one, broken=tuple(broken))


def without(raw: Any, paths: Iterable[tuple]) -> Any:
    """Return a section without what is at these paths, each of which begins with the section's own name."""
    raw = copy.deepcopy(raw)
    for path in paths:
        tree = raw
        for part in path[1:-1]:
            tree = tree.get(part) if isinstance(tree, dict) else None
        if isinstance(tree, dict):
            tree.pop(path[-1], None)
    return raw


def put(tree: dict, path: tuple, value: Any) -> None:
    """Put a value at a path whose upper parts are there."""
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def _axes(
    key: str, raw: Any, origins: Origins, report: Report, drawn: Mapping[str, Any], drawing: bool
) -> tuple[list[Axis], list[tuple]]:
    """Return the axes of a section but its points, and the paths of those that are wrong, which is reported."""
    axes: list[Axis] = []
    broken: list[tuple] = []
    for path, written in axes_in(raw, (key,)):
        origin = origin_of(path, origins)
        values: tuple[AxisValue, ...] = ()
        if dotted(path) in drawn:
            values = _drawn(path, written, drawn[dotted(path)], origin)
        elif is_drawn(path, written) and (drawing or "simplex" not in written):
            pass  # `space_parser` reports what is wrong with it
        elif path == SOURCES:
            values = _mixtures(written, origin, report)
        elif "grid" in written:
            values = _grid(path, written["grid"], origin, report)
        else:
            what = f"a {next(iter(written))} is of pretrain.sources; wanted: a value, or {{grid: [...]}}"
            report(origin, f"{dotted(path)}: {what}")
        if values:
            axes.append(Axis(path, values))
        else:
            broken.append(path)
    return axes, broken


def _combination(key: str, tree: dict, origins: Origins, chosen: list[tuple[Axis, AxisValue]]) -> Combination:
    """Put one value of each axis into `tree`, which is the combination's own."""
    own: dict[tuple, tuple] = dict(origins)
    for axis, one in chosen:
        if axis.path == POINTS:
            tree[key].update(one.value)
            own[()] = one.origin
            own |= {(key, name): (*one.origin, name) for name in one.value}
        else:
            put(tree, axis.path, one.value)
            own[axis.path] = one.origin
            own |= {(*axis.path, *part): at for part, at in one.inner.items()}
    return Combination(tree[key], tuple(name for _, one in chosen for name in one.names), own)


def _grid(path: tuple, values: Any, origin: tuple, report: Report) -> tuple[AxisValue, ...]:
    if problem := _bad_grid(values):
        report(origin, f"{dotted(origin)}.grid: {problem}")
        return ()
    key = _name(path)
    texts = [_text(path[0], key, value) for value in values]
    if len(set(texts)) < len(values):  # two that read the same: by columns of two tables called alike
        texts = [format_value(value) for value in values]

    def names(value: Any, text: str) -> tuple[tuple[str, str], ...]:
        if len(path) == 1 and isinstance(value, dict):  # the section itself varies: named by its keys
            return tuple((str(k), _text(path[0], k, v)) for k, v in value.items())
        return ((key, text),)

    return tuple(
        AxisValue(value, names(value, text), (*origin, "grid", i))
        for i, (value, text) in enumerate(zip(values, texts, strict=True))
    )


def _text(section: str, key: Any, value: Any) -> str:
    """Return a level as text: a mapping that says which images in the words of the results, any other value as it is
    written."""
    return (text_of(key, value) if section == "pretrain" else None) or format_value(value)


def _name(path: tuple) -> str:
    """Return what an axis is called in tables."""
    if path[:1] == ("pretrain",) and path[2:] and path[1] in WITHIN:
        return ".".join(map(str, path[1:]))
    return ".".join(map(str, path[2:])) if path[:2] == SOURCES and path[2:] else str(path[-1])


def _bad_grid(values: Any) -> str:
    """Return what is wrong with the values of an axis, or ""."""
    if not isinstance(values, list) or not values:
        return "must be a list with at least one value"
    seen = [repr(parse_number(value) if isinstance(value, str) else value) for value in values]
    seen = [repr(values[i]) if same == "None" else same for i, same in enumerate(seen)]
    first = {same: i for i, same in reversed(list(enumerate(seen)))}
    twice = next((values[i] for i, same in enumerate(seen) if first[same] != i), None)
    return f"{short_repr(twice)} is given twice" if len(first) < len(seen) else ""


def _drawn(path: tuple, written: dict, value: Any, origin: tuple) -> tuple[AxisValue, ...]:
    """Return the one value of an axis that a search has drawn."""
    if path == SOURCES and "simplex" in written:
        value = _present(value)
        one = AxisValue(value, (("sources", format_value(value)),), path, _origins_of_names(written, "simplex", origin))
        return (_with_options(one, written.get("options") or {}, origin),)
    listed = written.get("choice") or ()
    at = [i for i, one in enumerate(listed) if type(one) is type(value) and one == value]
    return (AxisValue(value, ((_name(path), format_value(value)),), (*origin, "choice", at[0]) if at else origin),)


def _mixtures(written: dict, origin: tuple, report: Report) -> tuple[AxisValue, ...]:
    """Return the mixtures of `pretrain.sources` as an axis."""
    kind = next(name for name in MIXTURE_AXES if name in written)
    try:
        axis = MIXTURE_AXES[kind].model_validate(written)
    except ValidationError as error:
        for detail in first_per_key(MIXTURE_AXES[kind], error):
            for line in describe_error(MIXTURE_AXES[kind], detail, origin, {}, False, {}):
                report(*line)
        return ()
    if strangers := [name for name in axis.options if name not in axis.names]:
        for name in strangers:
            what = f"no source of the {kind}{did_you_mean(name, axis.names)}"
            report((*origin, "options", name), f"{dotted(origin)}.options.{name}: {what}")
        return ()
    if isinstance(axis, MixtureGrid):
        values = _grid(SOURCES, axis.grid, origin, report)
    else:
        points = [_present(dict(zip(axis.names, weights, strict=True))) for weights in axis.weights()]
        inner = _origins_of_names(written, kind, origin)
        values = tuple(AxisValue(point, (("sources", format_value(point)),), origin, inner) for point in points)
    distinct = {repr(one.value): one for one in values}  # two draws may round to one mixture
    alike = dict[Any, AxisValue]()
    for one in distinct.values() if isinstance(axis, MixtureGrid) else ():
        if (first := alike.setdefault(_shares(one.value), one)) is not one:
            what = (
                f"{format_value(one.value)} is the mixture {format_value(first.value)} once more: weights are relative"
            )
            report(one.origin, f"{dotted(origin)}: {what}")
    return tuple(_with_options(one, axis.options, origin) for one in _distinctly_named(list(distinct.values())))


def _origins_of_names(written: Mapping[str, Any], kind: str, origin: tuple) -> dict[tuple, tuple]:
    """Return where the sources of a lattice or simplex are named."""
    return {(name,): (*origin, kind, i) for i, name in enumerate(written[kind])}


def _shares(mixture: Any) -> Any:
    """Return what a mixture means: every source's share and options. One that is no mixture is reported elsewhere."""
    if not isinstance(mixture, dict):
        return repr(mixture)
    parts = {name: part if isinstance(part, dict) else {"weight": part} for name, part in mixture.items()}
    numbers = {name: parse_number(str(part.get("weight", 1))) for name, part in parts.items()}
    weights = {name: number for name, number in numbers.items() if number is not None}
    total = sum(weights.values())
    if len(weights) < len(parts) or not total:
        return repr(mixture)
    return tuple(
        (name, round(weights[name] / total, 9), repr({**parts[name], "weight": 0}))
        for name in sorted(parts)
        if weights[name]
    )


def _present(mixture: dict) -> dict:
    return {name: weight for name, weight in mixture.items() if weight != 0}


def _with_options(one: AxisValue, options: Mapping[str, dict], origin: tuple) -> AxisValue:
    """Return a mixture with what holds for its sources in all mixtures of the axis at `origin`."""
    if not options or not isinstance(one.value, dict):
        return one
    value, inner = {}, dict(one.inner)
    for name, part in one.value.items():
        own = part if isinstance(part, dict) else {"weight": part}
        value[name] = {**options.get(name, {}), **own}
        inner |= {(name, key): (*origin, "options", name, key) for key in options.get(name, {}) if key not in own}
    return replace(one, value=value, inner=inner)


def _distinctly_named(values: list[AxisValue]) -> list[AxisValue]:
    """Put the options into the names of mixtures with equal weights, which differ in nothing else."""
    names = Counter(one.names for one in values)
    return [
        replace(one, names=(("sources", _with_details(one.value)),))
        if names[one.names] > 1 and isinstance(one.value, dict)
        else one
        for one in values
    ]


def _with_details(mixture: dict) -> str:
    """Return `species:1[species=50]`."""
    parts = []
    for name, part in mixture.items():
        more = {k: v for k, v in part.items() if k != "weight"} if isinstance(part, dict) else {}
        options = ",".join(f"{k}={format_value(v)}" for k, v in more.items())
        parts.append(format_value({name: part}) + (f"[{options}]" if options else ""))
    return "+".join(parts)


def _points(points: Any, varying: set[tuple], report: Report) -> tuple[AxisValue, ...]:
    """Return `pretrain.points` as an axis; `varying` are the keys that are axes already."""
    if not isinstance(points, list) or not points or not all(isinstance(p, dict) and p for p in points):
        report(POINTS, "pretrain.points: must be a list of mappings, e.g. - {num_classes: 250}")
        return ()
    before: set[str] = set()
    for i, point in enumerate(points):
        if (same := _canonical(point)) in before:
            report((*POINTS, i), "pretrain.points: the same point is given twice")
        before.add(same)
        for name in point:
            if ("pretrain", name) in varying:
                report((*POINTS, i, name), f"pretrain.points: {name} is also a grid; vary it in one place")
    return tuple(
        AxisValue(point, tuple((str(k), _text("pretrain", k, v)) for k, v in point.items()), (*POINTS, i))
        for i, point in enumerate(points)
    )


def _canonical(value: Any) -> str:
    """Return a text that is the same for equal values: keys in any order, 1 and 1.0 and true as Python compares
    them."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_canonical(part)}" for key, part in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return repr(float(value)) if isinstance(value, int) and abs(value) < 1 << 53 else repr(value)
