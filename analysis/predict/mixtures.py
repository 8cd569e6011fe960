"""The mixtures of a run as places in a space: what was varied, on which axes, and what lies within what was tried.

Owns `Mixture`, `Space` (from mixtures to coordinates, and whether a place is inside), the mixtures that could be tried
next, and how they are written as a spec's `points`. The surface over the space is in `surface` and `predict`.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.optimize import linprog

from analysis.input.table import Table
from ray_robust.run.trial_folder import key_of

NUMBERS = {"num_images": "images", "num_classes": "classes"}
# columns of results that are levels, and the key of a spec's point; "" where it is not written, as an axis of its own
LEVELS = {"granularity": "granularity", "pretrain_method": "method", "semantics": "", "select": "", "dedupe": "",
          "label_noise": "", "model": ""}  # fmt: skip
UNWRITTEN = {"semantics", "select", "dedupe", "label_noise"}  # whose text in the results is not what a spec says
AXES = ("grid", "lattice", "simplex")
DRAWN = ("uniform", "loguniform", "choice")
OF_MIXTURES = {"num_images", "num_classes", "images_per_class", "sources", "classes", "granularity", "method", "select",
               "dedupe", "label_noise", "points"}  # keys of `pretrain` that are axes of a space  # fmt: skip
THOUSAND = 1000  # shares of proposed mixtures are in thousandths
OUTSIDE = 0.01  # of the tried range: rounding to whole images and classes may move a place so far
Place = np.ndarray


@dataclass(frozen=True)
class Mixture:
    """What a trial is pre-trained on: images in all, classes, every source's share, and levels such as granularity."""

    images: int
    classes: int | None = None
    shares: tuple[tuple[str, float], ...] = ()
    levels: tuple[tuple[str, str], ...] = ()

    def share(self, source: str) -> float:
        """Return the share of a source, 0 where it is not in the mixture."""
        return dict(self.shares).get(source, 0.0)


def mixtures_of(table: Table, points: pd.DataFrame) -> dict[str, Mixture]:
    """Return the mixture of every trial of a run that pre-trains on images, by trial. Numbers that the spec left to the
    data ("all") are what was drawn."""
    composition = {} if table.run is None else {
        key_of(trial["trial"]): trial.get("composition") or [] for trial in table.run.trials()
    }  # fmt: skip
    mixtures = {}
    for row in points.drop_duplicates("trial").to_dict("records"):
        weights = json.loads(row.get("sources") or "{}")
        total = sum(weights.values())
        images = row.get("num_images")
        if pd.isna(images):
            images = sum(part["selected"] for part in composition.get(key_of(str(row["trial"])), ()))
        if not images or not total:
            continue  # from scratch, or weights that were made elsewhere
        classes = row.get("num_classes")
        levels = tuple((name, str(row[name])) for name in LEVELS if name in row and not pd.isna(row[name]))
        shares = tuple((name, weight / total) for name, weight in weights.items())
        mixtures[row["trial"]] = Mixture(int(images), None if pd.isna(classes) else int(classes), shares, levels)
    return mixtures


@dataclass(frozen=True, eq=False)
class Space:
    """Coordinates of mixtures. Numbers are decimal logarithms over their tried range, so that it is 0 to 1; shares are
    over the widest range of any share; a source in place of another, or a level in place of another, is a way of 1.

    numbers   the varied ones of `NUMBERS`, with the lowest and highest value tried
    sources   those whose shares vary; empty where the mix is the same everywhere
    levels    columns of `LEVELS` that vary, with their values
    tried     every mixture tried, and its place
    """

    numbers: Mapping[str, tuple[int, int]]
    sources: tuple[str, ...]
    widest: float
    levels: Mapping[str, tuple[str, ...]]
    tried: tuple[Mixture, ...]
    places: Place

    @staticmethod
    def of(tried: Sequence[Mixture]) -> Space:
        """Return the space that these mixtures span. What is the same in all of them is no axis."""
        numbers = {}
        for name, attribute in NUMBERS.items():
            values = [getattr(mixture, attribute) for mixture in tried]
            if None not in values and min(values) < max(values):
                numbers[name] = (min(values), max(values))
        names = list(dict.fromkeys(name for mixture in tried for name, _ in mixture.shares))
        ranges = {name: float(np.ptp([mixture.share(name) for mixture in tried])) for name in names}
        sources = tuple(name for name in names if ranges[name] > 1e-9)
        columns = list(dict.fromkeys(name for mixture in tried for name, _ in mixture.levels))
        written = {c: tuple(dict.fromkeys(dict(m.levels).get(c, "") for m in tried)) for c in columns}
        levels = {column: values for column, values in written.items() if len(values) > 1}
        space = Space(
            numbers, sources, max(ranges.values(), default=1.0) or 1.0, levels, tuple(tried), np.zeros((0, 0))
        )
        return replace(space, places=space.at(tried))

    def at(self, mixtures: Sequence[Mixture]) -> Place:
        """Return the places of mixtures on the axes, float [mixtures, axes]."""
        columns = [
            [math.log10(getattr(m, NUMBERS[name]) / low) / math.log10(high / low) for m in mixtures]
            for name, (low, high) in self.numbers.items()
        ]
        columns += [[m.share(name) / self.widest / math.sqrt(2) for m in mixtures] for name in self.sources]
        for column, values in self.levels.items():
            held = [dict(m.levels).get(column, "") for m in mixtures]
            columns += [[(level == value) / math.sqrt(2) for level in held] for value in values]
        return np.array(columns, float).reshape(-1, len(mixtures)).T

    def inside(self, mixture: Mixture) -> bool:
        """Return whether it lies in the convex hull of the tried mixtures of its levels, but for rounding
        (`OUTSIDE`)."""
        same = self._with_levels(self._levels(mixture))
        if not same:
            return False
        points, place = self.places[same], self.at([mixture])[0]
        # the least t with |sum of weights * points - place| <= t on every axis
        ones, axes = np.ones((len(place), 1)), points.T
        solution = linprog(
            np.r_[np.zeros(len(same)), 1.0],
            A_ub=np.block([[axes, -ones], [-axes, -ones]]),
            b_ub=np.r_[place, -place],
            A_eq=np.r_[np.ones(len(same)), 0.0][None],
            b_eq=[1.0],
            method="highs",
        )
        return bool(solution.success and solution.fun <= OUTSIDE)

    def between(self, count: int, seed: int = 0, images: float | None = None) -> list[Mixture]:
        """Return about so many mixtures between the tried ones (random weights of two to five tried mixtures of the
        same levels), different from each other and rounded as a spec would write them. With `images` all have this
        total."""
        random, mixtures = np.random.default_rng(seed), dict[Mixture, None]()
        for levels in dict.fromkeys(map(self._levels, self.tried)):
            same = [self.tried[i] for i in self._with_levels(levels)]
            if images is not None:
                same = self._with_total(same, images)
            for _ in range(count if same else 0):
                most = min(len(same), 5)
                chosen = random.choice(len(same), random.integers(min(2, most), most + 1), replace=False)
                mixtures[self._blend([same[i] for i in chosen], random.dirichlet(np.ones(len(chosen))))] = None
        return list(mixtures)

    def _levels(self, mixture: Mixture) -> tuple[str, ...]:
        return tuple(dict(mixture.levels).get(column, "") for column in self.levels)

    def _with_levels(self, levels: tuple[str, ...]) -> list[int]:
        return [i for i, mixture in enumerate(self.tried) if self._levels(mixture) == levels]

    def _with_total(self, same: Sequence[Mixture], images: float) -> list[Mixture]:
        """Where the lines between two tried mixtures cross this total: the corners of that slice of the region."""
        mixtures = {m: None for m in same if m.images == round(images)}
        for low, high in itertools.permutations(same, 2):
            if low.images < images < high.images:
                part = math.log(images / low.images) / math.log(high.images / low.images)
                mixtures[replace(self._blend([low, high], np.array([1 - part, part])), images=round(images))] = None
        return list(mixtures)

    def _blend(self, mixtures: Sequence[Mixture], weights: np.ndarray) -> Mixture:
        """The mixture at the weighted mean of their places, rounded."""
        first, numbers = mixtures[0], dict[str, Any]()
        for attribute in NUMBERS.values():
            values = [getattr(m, attribute) for m in mixtures]
            numbers[attribute] = values[0]
            if len(set(values)) > 1:
                mean = 10 ** float(weights @ np.log10(values))
                digits = 3 - len(str(round(mean)))  # images and classes in three figures
                numbers[attribute] = min(max(round(mean, min(digits, 0)), min(values)), max(values))
        shares = first.shares
        if self.sources:
            names = list(dict.fromkeys(name for m in mixtures for name, _ in m.shares))
            ends = np.cumsum([weights @ [m.share(name) for m in mixtures] for name in names])
            parts = np.diff(np.r_[0, np.round(THOUSAND * ends / ends[-1])]) / THOUSAND
            shares = tuple((n, float(p)) for n, p in zip(names, parts, strict=True) if p > 0)
        return Mixture(int(numbers["images"]), numbers["classes"] and int(numbers["classes"]), shares, first.levels)

    def describe(self, mixture: Mixture) -> str:
        """Return `12,000 images, 80 classes, species 0.7, fractals 0.3`; of levels only those that vary."""
        parts = [f"{mixture.images:,} images", *([f"{mixture.classes:,} classes"] if mixture.classes else [])]
        parts += [f"{name} {share:.3g}" for name, share in mixture.shares if share] if self.sources else []
        return ", ".join([*parts, *(f"{name} {level}" for name, level in mixture.levels if name in self.levels)])

    @property
    def text(self) -> str:
        """What was varied, over which range."""
        parts = [f"{name} {low:,} to {high:,}" for name, (low, high) in self.numbers.items()]
        if self.sources:
            parts.append(f"shares of {', '.join(self.sources)}")
        return "; ".join([*parts, *(f"{column}: {', '.join(values)}" for column, values in self.levels.items())])

    def ranges(self, mixtures: Sequence[Mixture]) -> str:
        """Return the least and the most of every axis among these, as text."""
        texts = []
        for name in self.numbers:
            values = [getattr(m, NUMBERS[name]) for m in mixtures]
            texts.append(f"{name} {min(values):,} to {max(values):,}")
        for name in self.sources:
            shares = [m.share(name) for m in mixtures]
            texts.append(f"{name} {min(shares):.2f} to {max(shares):.2f}")
        for column in self.levels:
            texts.append(f"{column}: {', '.join(dict.fromkeys(dict(m.levels).get(column, '') for m in mixtures))}")
        return "; ".join(texts)


# --- as a spec


def varied_beside(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of a resolved spec's `pretrain` that vary between trials and are no axis of a space."""
    pretrain = spec.get("pretrain")
    if not isinstance(pretrain, Mapping):
        return ()
    of_points = [point for point in pretrain.get("points") or () if isinstance(point, Mapping)]
    varied = [key for key, value in pretrain.items() if isinstance(value, Mapping) and set(value) & {*AXES, *DRAWN}]
    varied += [key for point in of_points for key in point if len({str(one.get(key)) for one in of_points}) > 1]
    return tuple(f"pretrain.{key}" for key in dict.fromkeys(varied) if key not in OF_MIXTURES)


def spec_with(spec: Mapping[str, Any], space: Space, mixtures: Sequence[Mixture], question: str) -> str | None:
    """Return a spec that trains these mixtures and is otherwise the run's own (`spec`, as resolved); None where they
    cannot be written: choices of classes and images have no short form."""
    if UNWRITTEN & set(space.levels):
        return None
    tree = copy.deepcopy({key: value for key, value in spec.items() if key not in ("provenance", "search")})
    pretrain, points = tree["pretrain"], [_point(mixture, space, spec["pretrain"]) for mixture in mixtures]
    for key in {"points", *(key for point in points for key in point), *_numbers_of(spec["pretrain"])}:
        pretrain.pop(key, None)
    for value in pretrain.values():
        if isinstance(value, dict) and set(value) & set(DRAWN):
            return None  # varied, but no part of a mixture: which value to take is not for the analysis to say
    pretrain["points"] = points
    text = yaml.safe_dump({**tree, "question": question}, sort_keys=False, allow_unicode=True, width=120)
    return str(text)


def _numbers_of(pretrain: Mapping[str, Any]) -> list[str]:
    """The keys that say how many: a point says them all, or none of them."""
    return [key for key in ("num_images", "num_classes", "images_per_class") if key in pretrain]


def _point(mixture: Mixture, space: Space, pretrain: Mapping[str, Any]) -> dict[str, Any]:
    """A point of `pretrain.points`, in the keys that the run itself used."""
    point: dict[str, Any] = {"num_images": mixture.images}
    if mixture.classes is not None:
        point["num_classes"] = mixture.classes
    elif "num_classes" in pretrain:
        point["num_classes"] = pretrain["num_classes"]
    if space.sources:
        held = _options(pretrain.get("sources") or {})
        point["sources"] = {n: {**held.get(n, {}), "weight": share} for n, share in mixture.shares if share > 0}
    for column, level in mixture.levels:
        if column in space.levels and LEVELS[column]:
            point[LEVELS[column]] = level
    return point


def _options(sources: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What holds for every source besides its weight, however the spec's `sources` is written."""
    held: dict[str, dict[str, Any]] = {}
    written = [sources]
    if set(sources) & set(AXES):
        held = copy.deepcopy(sources.get("options") or {})
        written = [mixture for mixture in sources.get("grid") or [] if isinstance(mixture, dict)]
    for mixture in written:
        for name, part in mixture.items():
            if isinstance(part, dict):
                held.setdefault(name, {key: value for key, value in part.items() if key != "weight"})
    return held
