"""Which images of a source `pretrain.select` leaves to draw from, and how many its random control has.

Owns the order of images by a column (ties by a hash of the image that no seed changes), and the counts of the control:
both nested in the share that is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np

from ray_robust.data.columns import Column
from ray_robust.data.mixtures.selection import count_labels, lowest
from ray_robust.data.pool import Catalog, mix_bits, seed_of
from ray_robust.data.rounding import apportion
from ray_robust.spec.image_selection import ImageSelection

SELECT = "pretrain.select"
NAMED = 3  # classes or images that a message or note lists


@dataclass(frozen=True, eq=False)
class Selected:
    """What is left of a source.

    free    bool [n]: the images to draw from; of a control those that it is drawn from
    supply  int64 [classes]: how many of every class are left
    facts   for the composition of a subset
    """

    free: np.ndarray
    supply: np.ndarray
    facts: dict[str, Any]


def select_images(
    selection: ImageSelection,
    column: Column,
    name: str,
    catalog: Catalog,
    free: np.ndarray,
    allowed: np.ndarray,
    problems: list[str],
) -> Selected:
    """Return what a selection leaves of a source's `free` images (bool [n]) of the classes `allowed` (bool); nothing,
    and a problem, where an image lacks a value that it must have, or none is left."""
    of = free & allowed[catalog.labels]
    lacking = of & ~column.present
    count = int(lacking.sum())
    if count and selection.missing == "fail":
        problems.append(
            f"{SELECT}: column {selection.column!r} has no value for {count:,} of the {int(of.sum()):,} images of "
            f"source {name}; give them one, or leave them out with missing: drop"
        )
        return Selected(np.zeros_like(free), np.zeros(len(catalog.classes), np.int64), {})
    of &= column.present
    chosen, limit = _chosen(selection, column, catalog, of)
    supply, held = count_labels(catalog, chosen), count_labels(catalog, of)
    if not supply.any():
        problems.append(f"{SELECT}: no image of source {name} has {selection.condition}{_range(selection, column, of)}")
    counts = supply
    if selection.random:
        total = int(supply.sum())
        counts = supply if selection.control_by_class else apportion(total, held)
    note = _note(selection, catalog, counts, held, limit)
    if count:
        note += f"; {count:,} images without a value are left out"
    facts = {"select": selection.text, "select_from": int(held.sum()), "select_note": note}
    return Selected(of if selection.random else chosen, counts, facts)


def control(catalog: Catalog, free: np.ndarray, supply: np.ndarray, name: str, subset_seed: int) -> np.ndarray:
    """Return bool [n]: of every class `supply` of its `free` images, at random by a seed, and nested in the supply."""
    return lowest(catalog, free, count_labels(catalog, free), supply, seed_of("select", name, subset_seed))


def _chosen(
    selection: ImageSelection, column: Column, catalog: Catalog, of: np.ndarray
) -> tuple[np.ndarray, tuple[float, int, int] | None]:
    """Return bool [n], the images that are selected `of` these; of a share the value at its limit (NaN where every
    class has one of its own), how many images have exactly that, and how many of these are selected."""
    if selection.matches is not None:
        search = re.compile(selection.matches).search
        chosen = np.zeros(len(of), bool)
        rows = np.flatnonzero(of)
        chosen[rows] = [search(text) is not None for text in column.values[rows]]
        return chosen, None
    if selection.share is None:
        low = -np.inf if selection.at_least is None else selection.at_least
        high = np.inf if selection.at_most is None else selection.at_most
        with np.errstate(invalid="ignore"):
            return of & (column.values >= low) & (column.values <= high), None
    values = column.values if selection.top is not None else -column.values
    rows = np.flatnonzero(of)
    share = Fraction(repr(selection.share))  # 0.1 of 30 images are 3, and not the 3.0000000000000004 of binary numbers
    if not selection.per_class:
        highest, limit = _highest(values, rows, ceil(share * len(rows)), catalog)
        chosen = np.zeros(len(of), bool)
        chosen[highest] = True
        if limit is not None and selection.top is None:
            limit = (-limit[0], *limit[1:])
        return chosen, limit
    chosen, ties, taken = np.zeros(len(of), bool), 0, 0
    rows = rows[np.argsort(catalog.labels[rows], kind="stable")]
    labels, starts = np.unique(catalog.labels[rows], return_index=True)
    for part in np.split(rows, starts[1:]) if len(labels) else ():
        own, limit = _highest(values, part, ceil(share * len(part)), catalog)
        chosen[own] = True
        if limit is not None and limit[2] < limit[1]:
            ties, taken = ties + limit[1], taken + limit[2]
    return chosen, (np.nan, ties, taken)


def _highest(
    values: np.ndarray, rows: np.ndarray, count: int, catalog: Catalog
) -> tuple[np.ndarray, tuple[float, int, int] | None]:
    """Return the `count` of these rows with the highest values, of equal ones those of lowest hash; and the lowest
    value that is in, how many rows have it, and how many of these are in."""
    if not count:
        return rows[:0], None
    own = values[rows]
    limit = np.partition(own, len(own) - count)[len(own) - count]
    ties = rows[own == limit]
    need = count - int((own > limit).sum())
    order = np.argsort(mix_bits(catalog.ids[ties], seed_of("select tie")), kind="stable")
    return np.concatenate([rows[own > limit], ties[order[:need]]]), (float(limit), len(ties), need)


def _range(selection: ImageSelection, column: Column, of: np.ndarray) -> str:
    """Return what values there are, for a selection that leaves nothing."""
    if not of.any():
        return ": none is left of the classes that `classes` allows"
    if not selection.numeric:
        return f"; the first has {column.values[np.flatnonzero(of)[0]][:60]!r}"
    return f"; its values go from {column.values[of].min():g} to {column.values[of].max():g}"


def _note(
    selection: ImageSelection, catalog: Catalog, counts: np.ndarray, held: np.ndarray,
    limit: tuple[float, int, int] | None,
) -> str:  # fmt: skip
    """Return a selection's result in a sentence: counts, the limit with its ties, and classes that lose all images."""
    note = f"{int(counts.sum()):,} of {int(held.sum()):,} images"
    if selection.random:
        note += " drawn at random" + (", of every class as many" if selection.control_by_class else "")
    elif limit is not None:
        value, ties, taken = limit
        if not np.isnan(value):
            note += f", {selection.column} at {'least' if selection.top is not None else 'most'} {value:.6g}"
        if taken < ties:
            at = "have exactly that" if not np.isnan(value) else "are at the limit of their class"
            note += f" ({ties:,} {at}: {taken:,} of them by a hash of the image, the same for every seed)"
    empty = np.flatnonzero((held > 0) & (counts == 0))
    if len(empty):
        names = ", ".join(catalog.classes[i] for i in empty[:NAMED]) + (", ..." if len(empty) > NAMED else "")
        note += f"; {len(empty)} of {int((held > 0).sum())} classes have none left and are not learned: {names}"
    return note
