"""The classes of every source that a mixture uses, and the label that each is trained under.

Implements `pretrain.classes` and `pretrain.granularity` for a pool's classes, with the errors of a pool that cannot
provide them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ray_robust.data.labels.hierarchy import class_index, distances, subtrees
from ray_robust.data.pool import Catalog, seed_of
from ray_robust.data.readers.table import read_table
from ray_robust.data.rounding import apportion
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.spec.class_selection import ClassSelection
from ray_robust.spec.sections import Pretrain

CLASSES, GRANULARITY = "pretrain.classes", "pretrain.granularity"


def by_name(kind: str, source: str, classes: Sequence[str], *more: object) -> np.ndarray:
    """Return int64 [classes]: a random order of the classes, by their names and these alone."""
    seeds = np.array([seed_of(kind, source, name, *more) for name in classes], dtype=np.uint64)
    return np.argsort(np.argsort(seeds, kind="stable"), kind="stable")


def read_map(file: str) -> dict[str, str]:
    """Return class to label, from a CSV with these columns; of a CSV without `label`, class to class.

    Raises UserError.
    """
    path = Path(file)
    return _read_map(file, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=8)
def _read_map(file: str, _changed: int) -> dict[str, str]:
    if not Path(file).is_file():
        raise UserError(Problem(file, "no such file"))
    table, lines = read_table(Path(file), ("class", "label"))
    if "class" not in table:
        raise UserError(
            Problem(f"{file}:{lines.header}", f"has no column 'class'{did_you_mean('class', table.columns)}")
        )
    labels = table["label" if "label" in table else "class"].str.strip()
    names = table["class"].str.strip()
    problems = [
        Problem(f"{file}:{lines[int(i)]}", "the class or its label is empty")
        for i in np.flatnonzero((names == "") | (labels == ""))[:5]
    ]
    label_of: dict[str, str] = {}
    for i, (name, label) in enumerate(zip(names, labels, strict=True)):
        if label_of.setdefault(name, label) != label:
            problems.append(
                Problem(f"{file}:{lines[i]}", f"class {name!r} has two labels, {label_of[name]!r} and {label!r}")
            )
    if problems:
        raise UserError(*problems[:5])
    return label_of


def choose(
    choice: ClassSelection | None, catalogs: Mapping[str, Catalog], weights: np.ndarray, problems: list[str]
) -> dict[str, np.ndarray]:
    """Return a bool mask of classes per source. A number (`nearest: K`) is divided among the sources by their weights;
    a name need only be known to one of them, but every source must have a class of the choice."""
    if choice is None:
        return {name: np.ones(len(catalog.classes), dtype=bool) for name, catalog in catalogs.items()}
    if choice.nearest is not None or choice.farthest is not None:
        return _by_distance(choice, catalogs, weights, problems)
    wanted = choice.under or choice.names or tuple(read_map(str(choice.file)))
    members = {name: subtrees(c) if choice.under else class_index(c) for name, c in catalogs.items()}
    _check_known(wanted, members, catalogs, "class or ancestor" if choice.under else "class", problems)
    masks = {name: _mask(catalog, wanted, members[name]) for name, catalog in catalogs.items()}
    if not problems:
        empty = [name for name, mask in masks.items() if not mask.any()]
        problems += [f"{CLASSES}: source {name} has no class that is {choice.text}" for name in empty]
    return masks


def _by_distance(
    choice: ClassSelection, catalogs: Mapping[str, Catalog], weights: np.ndarray, problems: list[str]
) -> dict[str, np.ndarray]:
    """Return the classes at the smallest or largest distances; ties by a random order that every seed shares."""
    below = {name: subtrees(catalog) for name, catalog in catalogs.items()}
    _check_known(choice.to, below, catalogs, "class or ancestor", problems)
    masks = {}
    for (name, catalog), need in zip(catalogs.items(), apportion(choice.number, weights), strict=True):
        masks[name] = np.zeros(len(catalog.classes), dtype=bool)
        to = np.flatnonzero(_mask(catalog, choice.to, below[name]))
        if need > len(catalog.classes):
            problems.append(
                f"{CLASSES}: {choice.text}: source {name} needs {need} classes, supply is {len(catalog.classes)}"
            )
        elif not len(to):
            if not problems:
                problems.append(f"{CLASSES}: source {name} has no class below {', '.join(choice.to)}")
        else:
            far = distances(catalog, to)
            order = np.lexsort((by_name("tie", name, catalog.classes), far if choice.nearest else -far))
            masks[name][order[:need]] = True
    return masks


def _mask(catalog: Catalog, wanted: Sequence[str], members: Mapping[str, Any]) -> np.ndarray:
    mask = np.zeros(len(catalog.classes), dtype=bool)
    for name in wanted:
        if name in members:
            mask[members[name]] = True
    return mask


def _check_known(
    wanted: Sequence[str],
    members: Mapping[str, Mapping[str, Any]],
    catalogs: Mapping[str, Catalog],
    what: str,
    problems: list[str],
) -> None:
    """Say which names none of the sources has."""
    who = f"source {next(iter(members))} has no" if len(members) == 1 else f"none of {', '.join(members)} has a"
    everything = set().union(*members.values())
    unknown = [name for name in wanted if name not in everything]
    flat = "" if any(c.hierarchy is not None for c in catalogs.values()) or what == "class" else " (and no hierarchy)"
    problems += [f"{CLASSES}: {who} {what} {name!r}{flat}{did_you_mean(name, everything)}" for name in unknown[:5]]
    if len(unknown) > 5:
        problems.append(f"{CLASSES}: and {len(unknown) - 5} more names like the last one")


def label_classes(
    mixture: Pretrain,
    catalogs: Mapping[str, Catalog],
    chosen: Mapping[str, np.ndarray],
    weights: np.ndarray,
    subset_seed: int,
    problems: list[str],
) -> dict[str, list[str]]:
    """Return the label of every class of every source, by name; what stands for classes that are not `chosen` says
    nothing.

    A number of labels is divided among the sources by their weights, unless they share their labels: then each is cut
    to that number, and random labels are dealt to all their classes at once.
    """
    how, _, value = mixture.granularity.partition(":")
    shared = mixture.label_space == "shared"
    number = int(value) if how in ("labels", "random") and value.isdecimal() else 0
    numbers = [number] * len(catalogs) if shared else apportion(number, weights).tolist()
    named = {name: [catalog.classes[i] for i in np.flatnonzero(chosen[name])] for name, catalog in catalogs.items()}
    together = sorted(set().union(*named.values()))
    labels = {}
    for (name, catalog), number in zip(catalogs.items(), numbers, strict=True):
        try:
            if how == "labels" and value:
                labels[name] = _cut(catalog, chosen[name], number)
            elif how == "random" and value:
                dealt = ("", together) if shared else (name, named[name])
                labels[name] = _dealt(catalog, *dealt, number, subset_seed)
            elif how == "map" and value:
                labels[name] = _mapped(catalog, chosen[name], value)
            else:
                labels[name] = _rank(catalog, mixture.granularity)
        except ValueError as error:
            problems.append(f"{GRANULARITY}: source {name} {error}")
            labels[name] = list(catalog.classes)
    return labels


def coarse_labels(catalog: Catalog, granularity: str, chosen: np.ndarray) -> list[str]:
    """Return the label of every class at a rank, at `depth:N` (1 is the coarsest) or at the cut that has about N labels
    of the `chosen` classes (bool), `labels:N`.

    Raises ValueError, whose text goes on from the name of the pool, where its hierarchy has none."""
    how, _, value = granularity.partition(":")
    if how == "labels" and value:
        return _cut(catalog, chosen, int(value))
    return _rank(catalog, granularity)


def _rank(catalog: Catalog, granularity: str) -> list[str]:
    """Return the ancestors at a rank, or at a depth: 1 is the coarsest rank."""
    if granularity in ("class", "leaf"):
        return list(catalog.classes)
    ranks = _ranks(catalog)
    how, _, depth = granularity.partition(":")
    if how == "depth" and depth and ranks:
        if int(depth) > len(ranks):
            raise ValueError(f"has no depth {depth}: its hierarchy has {len(ranks)}")
        granularity = ranks[int(depth) - 1]
    if granularity not in ranks:
        hint = f"it has {', '.join(ranks)}" if ranks else "it has no hierarchy; use class"
        raise ValueError(f"has no rank {granularity!r}: {hint}")
    return [str(name) for name in catalog.hierarchy[granularity]]  # type: ignore[index]  # it has ranks


def _ranks(catalog: Catalog) -> list[str]:
    return [] if catalog.hierarchy is None else [str(rank) for rank in catalog.hierarchy.columns]


def _cut(catalog: Catalog, chosen: np.ndarray, number: int) -> list[str]:
    """Return the rank with the number of labels nearest to that asked for; of two as near, the one with fewer."""
    if catalog.hierarchy is None:
        raise ValueError("has no hierarchy to cut; use class")
    cuts = [_rank(catalog, rank) for rank in (*_ranks(catalog), "class")]
    sizes = [len({cut[i] for i in np.flatnonzero(chosen)}) for cut in cuts]
    return cuts[min(range(len(cuts)), key=lambda i: (abs(sizes[i] - number), sizes[i], i))]


def _dealt(catalog: Catalog, name: str, classes: Sequence[str], number: int, subset_seed: int) -> list[str]:
    """Return the control: `classes` in a random order, dealt one by one to so many labels.

    Every subset seed deals anew, so that no finding depends on one lucky deal; `subset_seed` fixes it.
    """
    if number > len(classes):
        raise ValueError(f"needs {number} classes for {number} random labels, supply is {len(classes)}")
    if number == 0:
        raise ValueError("gets none of the random labels by its weight; ask for more")
    order, width = by_name("label", name, classes, subset_seed), len(str(number))
    dealt = {one: f"random {i % number + 1:0{width}d}" for one, i in zip(classes, order, strict=True)}
    return [dealt.get(one, "") for one in catalog.classes]


def _mapped(catalog: Catalog, chosen: np.ndarray, file: str) -> list[str]:
    """By a table; classes that it does not name must not be chosen."""
    label_of = read_map(file)
    lacking = [catalog.classes[i] for i in np.flatnonzero(chosen) if catalog.classes[i] not in label_of]
    if lacking:
        few = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        raise ValueError(f"needs a label for each of its {int(chosen.sum())} classes, but {file} has none for {few} "
                         f"({len(lacking)} in all)")  # fmt: skip
    return [label_of.get(name, name) for name in catalog.classes]
