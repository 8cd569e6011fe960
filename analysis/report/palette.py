"""Colour and shape of every group and of every kind of finding, the same in all figures and in the page's tables.

A group's colour follows from its name, not from its place in the report, so that another run of the same sweep, or of
one with a level more or less, shows it in the same colour. Shapes follow likewise, but no two are alike while there are
enough of them. Names with a number (`num_images=4000`) have a place on a
ramp by that number, others a colour of `COLOURS` by a hash. Other groups matter only where two would look alike.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression
from scipy.special import expit

from analysis.study import Analysis

BASELINE_COLOUR = "#8a909a"
# Chosen by search: the least distance in OKLab (x 100) is 13 as most people see them and 7.9 with protanopia,
# deuteranopia or tritanopia (Machado et al. 2009), and all stand out from white, from near-black and from the grey.
COLOURS = ("#d2780f", "#a500e1", "#008778", "#e1005a", "#a569b4", "#2d5aa5", "#87b469", "#6987ff", "#5ab4d2", "#69690f")
RAMP = ("#6a3d9a", "#4a62c4", "#2488b8", "#1aa58a", "#74b83e", "#dcae10")  # of numbers, low to high
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
STATE_STYLES = {
    "differs": ("#00917f", "circle"),
    "equivalent": ("#3b82c4", "square"),
    "fragile": ("#b5537a", "triangle-down"),
    "open": ("#b08a1e", "diamond"),
}
BASELINE_SHAPE = "circle"

# decimal logarithm of the number in the middle of the ramp, and decades from there to 73 % of it
MIDDLE = {
    "num_images": (4.0, 0.9), "images_per_class": (2.0, 0.9), "num_classes": (2.0, 0.9),
    "subclasses_per_label": (0.5, 0.9), "images_seen": (5.5, 0.9), "pretrain_images_seen": (5.5, 0.9),
    "finetune_images": (3.0, 0.9),
}  # fmt: skip
OTHER_NUMBERS = (1.0, 1.5)
LEAST_STEP = 0.075  # of the ramp, between neighbours: about 4 in OKLab (x 100)
NEIGHBOURS = 0.09  # of the ramp: nearer ones differ in shape
SECOND = 0.03  # of the ramp, what all but the first number of a name can add
TOO_NEAR = 6.0  # in OKLab (x 100): a group without a number takes no colour that near to one on the ramp
SALT = "21"  # the groups of the shipped sweeps, and the types of ImageNet-Testbed, get their first choice with it


@dataclass(frozen=True)
class GroupStyle:
    """Colour and shape of a group, the same in every figure."""

    group: str
    colour: str
    shape: str


def group_styles(analysis: Analysis) -> list[GroupStyle]:
    """Return one style per group, in the order of the report: the baseline grey, levels of a number along a ramp."""
    baseline = analysis.options.baseline
    names = [str(name) for name in analysis.groups["group"]]
    styles = styles_of([name for name in names if name != baseline], _numbers(analysis))
    return ([GroupStyle(baseline, BASELINE_COLOUR, BASELINE_SHAPE)] if baseline in names else []) + styles


def styles_of(names: Sequence[str], numbers: Mapping[str, Mapping[str, float]] | None = None) -> list[GroupStyle]:
    """Return one style for each of these different names, in their order. `numbers` has those of names that hold
    none (or hold a word for one, as `num_images=all`): name -> key -> number."""
    numbers = numbers or {}
    levels = {name: level for name in names if (level := _level(name, numbers.get(name, {}))) is not None}
    chosen = _along_ramp(levels)
    chosen |= _by_hash([name for name in names if name not in levels], [colour for colour, _ in chosen.values()])
    shapes = _unlike({name: shape for name, (_, shape) in chosen.items()})
    return [GroupStyle(name, chosen[name][0], shapes[name]) for name in names]


def _unlike(wanted: Mapping[str, str]) -> dict[str, str]:
    """Name -> shape: of few names no two alike, and none the baseline's where there are enough others. By hash of the
    name the first keeps what it wants, so that a name more or less changes the shape of few others."""
    if len(wanted) > len(SHAPES):
        return dict(wanted)
    chosen: dict[str, str] = {}
    for name in sorted(wanted, key=_hash):
        start = SHAPES.index(wanted[name])
        turned = [*SHAPES[start:], *SHAPES[:start]]
        turned.sort(key=lambda shape: shape == BASELINE_SHAPE)  # last
        chosen[name] = next(shape for shape in turned if shape not in chosen.values())
    return chosen


@dataclass(frozen=True)
class _Level:
    """The place on the ramp that a name asks for, 0 to 1, and the number of its shape."""

    place: float
    shape: int


def _numbers(analysis: Analysis) -> dict[str, dict[str, float]]:
    """The numbers of every group that are factors of the regression, where a group has a single one."""
    keys = [factor.name for factor in analysis.factors if factor.per == "tenfold" and factor.name in analysis.points]
    numbers: dict[str, dict[str, float]] = {}
    for key in keys:
        values = pd.to_numeric(analysis.points[key], errors="coerce").groupby(analysis.points["group"])
        for name, (low, high) in values.agg(["min", "max"]).iterrows():
            if low == high:
                numbers.setdefault(str(name), {})[key] = float(low)
    return numbers


def _level(name: str, numbers: Mapping[str, float]) -> _Level | None:
    """Where a name with a number has its place; None for one without."""
    parts = dict(re.findall(r"(?:^|, )([^=,]+)=([^,=]*)", name))
    own = {key: value for key, text in parts.items() if (value := _number(key, text, numbers)) is not None}
    words = [f"{key}={text}" for key, text in parts.items() if key not in own]
    if not own:
        own, words = dict(numbers), [name]
    if not own:
        return None
    (first, value), *rest = own.items()
    place, shape = _place(first, value), _octave(value)
    more = [_place(key, number) for key, number in rest] + [_hash(word) / 2**64 for word in words if word]
    shape += 2 * sum(_octave(number) for _, number in rest) + sum(_hash(word) for word in words if word)
    return _Level(place + SECOND * (float(np.mean(more)) - 0.5 if more else 0.0), shape)


def _number(key: str, text: str, numbers: Mapping[str, float]) -> float | None:
    """The number that a level is written as; `all` images or classes are as many as the column has, or more than any
    number."""
    if text == "all" and key in MIDDLE:
        return numbers.get(key, math.inf)
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value >= 0 else None


def _place(key: str, value: float) -> float:
    """How far along the ramp a number lies, whatever other levels there are: never quite at an end."""
    middle, decades = MIDDLE.get(key, OTHER_NUMBERS)
    return float(expit((math.log10(value) - middle) / decades)) if value > 0 else 0.0


def _octave(value: float) -> int:
    """A whole number that differs, modulo 8, between numbers apart by a factor of 1.2 to 6.8."""
    return round(3 * math.log2(value)) if 0 < value < math.inf else 0


def _along_ramp(levels: Mapping[str, _Level]) -> dict[str, tuple[str, str]]:
    """Name -> colour and shape. Places nearer than `LEAST_STEP` are moved apart, no further than that takes (in least
    squares), and of neighbours on the ramp with one shape the second gets the next."""
    names = sorted(levels, key=lambda name: (levels[name].place, name))
    if not names:
        return {}
    step = min(LEAST_STEP, 1 / max(len(names) - 1, 1))
    even = step * np.arange(len(names))
    wanted = np.array([levels[name].place for name in names])
    places = np.clip(isotonic_regression(wanted - even).x, 0, 1 - even[-1]) + even
    chosen: dict[str, tuple[str, str]] = {}
    shape, before = 0, -math.inf
    for name, colour, place in zip(names, ramp_colours(places), places, strict=True):
        own = (levels[name].shape + 1) % len(SHAPES)
        alike = own == shape and place - before < NEIGHBOURS
        shape, before = (own + alike) % len(SHAPES), place
        chosen[name] = colour, SHAPES[shape]
    return chosen


def _by_hash(names: Sequence[str], taken: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name -> colour and shape. Each name orders the colours by its hash and gets the first that no name before it, by
    hash, has got. So a name more or less changes the colour of another only where both want the same."""
    near = [any(colour_distance(one, other) < TOO_NEAR for other in taken) for one in COLOURS]
    free = [slot for slot in range(len(COLOURS)) if not near[slot]] or list(range(len(COLOURS)))
    chosen: dict[str, tuple[str, str]] = {}
    used: set[tuple[int, int]] = set()
    for name in sorted(names, key=_hash):
        order = sorted(free, key=lambda slot: _hash(f"{name}\0{slot}"))
        turn = next(turn for turn in range(len(names)) if any((slot, turn) not in used for slot in order))
        slot = next(slot for slot in order if (slot, turn) not in used)
        used.add((slot, turn))
        chosen[name] = COLOURS[slot], SHAPES[(slot + 1 + turn) % len(SHAPES)]  # of one colour, each another shape
    return chosen


def _hash(text: str) -> int:
    """64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{SALT}{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest())


def ramp_colours(places: np.ndarray) -> list[str]:
    """Return the colours of places along `RAMP`, each 0 to 1: equal steps look equally far."""
    anchors = np.array([_rgb(colour) for colour in RAMP])
    steps = [colour_distance(*pair) for pair in pairwise(RAMP)]
    along = np.concatenate([[0.0], np.cumsum(steps)]) / np.sum(steps)
    mixed = np.column_stack([np.interp(places, along, anchors[:, i]) for i in range(3)])
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in (255 * mixed).round().astype(int)]


def colour_distance(one: str, other: str) -> float:
    """Return the distance of two colours in OKLab (Ottosson 2020), times 100: under 2 hardly anybody sees any."""
    return float(100 * np.linalg.norm(_oklab(_rgb(one)) - _oklab(_rgb(other))))


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _oklab(rgb: np.ndarray) -> np.ndarray:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return _LMS_TO_LAB @ np.cbrt(_RGB_TO_LMS @ linear)


_RGB_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_LMS_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip
