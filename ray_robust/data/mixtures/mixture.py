"""The images that a trial pre-trains on: exact counts, nested draws, and a composition that can be checked.

Divides classes and images among sources and chooses them by a priority hashed from names alone; sets images aside for
upstream accuracy; reports sources that hold too little. `labels.class_labels` says what classes are called, `rounding`
divides exactly, `selection` picks the images, `image_selection` says which may be picked, `label_noise` which labels
are wrong. In this order: images held out, `classes`, `select`, `num_classes`, numbers of images, `label_noise`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ray_robust.data.columns import Column
from ray_robust.data.labels.class_labels import by_name, choose, label_classes
from ray_robust.data.mixtures.image_selection import control, select_images
from ray_robust.data.mixtures.label_noise import families_of, noisy_labels, total
from ray_robust.data.mixtures.selection import count_labels, lowest
from ray_robust.data.pool import Catalog, mix_bits, seed_of
from ray_robust.data.rounding import apportion, fill_evenly
from ray_robust.errors import UserError
from ray_robust.spec.load import Pretrain

HELD_OUT_PER_CLASS = 20  # at most: enough for an accuracy, whatever the size of the source
HELD_OUT_SHOWN = 2_000  # upstream accuracy is measured on no more than these


@dataclass(frozen=True, eq=False)
class Share:
    """What a mixture takes from one source: rows of its catalog (ascending) and their labels in the mixture. Where
    `label_noise` makes some of these wrong, `true_labels` has all as they were."""

    source: str
    rows: np.ndarray  # int64 [n]
    labels: np.ndarray  # int64 [n]
    held_out_rows: np.ndarray
    held_out_labels: np.ndarray
    true_labels: np.ndarray | None = None  # int64 [n]


@dataclass(frozen=True, eq=False)
class Subset:
    """The drawn images of a mixture. `composition` has one dict per source: what was asked, held and taken."""

    shares: tuple[Share, ...]
    classes: tuple[str, ...]  # the label names of the pre-training head
    leaf_classes: int  # the finest classes that feed them
    composition: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return sum(len(share.rows) for share in self.shares)

    def images_per_label(self) -> dict[str, int]:
        """Return how many images every label has, in the order of `classes`."""
        counts = sum(np.bincount(share.labels, minlength=len(self.classes)) for share in self.shares)
        return dict(zip(self.classes, np.asarray(counts).tolist(), strict=True))

    def held_out(self) -> dict[str, int]:
        """Return how many images upstream accuracy is measured on, and how many of them the most frequent label has."""
        counts = np.asarray(sum(np.bincount(s.held_out_labels, minlength=len(self.classes)) for s in self.shares))
        return {"images": int(counts.sum()), "most_per_label": int(counts.max(initial=0))}


@dataclass(frozen=True, eq=False)
class Offer:
    """What a source has for a mixture: `free` images (bool [n]), how many of every class (`supply`), and which classes
    the mixture may take (`allowed`, bool). The rows `held_out` are no supply. `facts` are those of `select`, for the
    composition."""

    catalog: Catalog
    held_out: np.ndarray
    free: np.ndarray
    supply: np.ndarray
    allowed: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)


def offers(
    mixture: Pretrain,
    catalogs: Mapping[str, Catalog],
    usable: Mapping[str, np.ndarray | None],
    problems: list[str],
    columns: Mapping[str, Column],
) -> dict[str, Offer]:
    """Return every source's offer; problems with the choice of classes or images are added to `problems`. Which images
    a random control has is yet to be drawn: `free` are all that it is drawn from."""
    offered = {}
    allowed = choose(mixture.classes, {name: catalogs[name] for name in mixture.sources}, weights_of(mixture), problems)
    by_column = mixture.select if not problems else None
    for name in mixture.sources:
        mask = usable[name]
        if mask is None:
            held, supply = _held_out(catalogs[name], None, mixture.holdout, name)
        else:
            held, supply = _held_out_of(catalogs[name], mask, mixture.holdout, name)
        free = np.ones(len(catalogs[name]), dtype=bool) if mask is None else mask.copy()
        free[held] = False
        facts: Mapping[str, Any] = {}
        if by_column is not None and by_column.applies_to(name):
            left = select_images(by_column, columns[name], name, catalogs[name], free, allowed[name], problems)
            free, supply, facts = left.free, left.supply, left.facts
        offered[name] = Offer(catalogs[name], held, free, supply, allowed[name], facts)
    return offered


def _held_out_of(catalog: Catalog, usable: np.ndarray | None, part: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that no mixture may train on, the same for every seed and total, and how many of every class are
    left."""
    sizes = count_labels(catalog, usable)
    wanted = np.minimum(HELD_OUT_PER_CLASS, np.floor(sizes * part)).astype(np.int64)
    return np.flatnonzero(lowest(catalog, usable, sizes, wanted, seed_of("held out", name))), sizes - wanted


_held_out = lru_cache(maxsize=64)(_held_out_of)  # of whole pools: the same for all mixtures of a sweep


def weights_of(mixture: Pretrain) -> np.ndarray:
    """Return float64, in the order of the sources."""
    return np.array([section.weight for section in mixture.sources.values()])


def draw(
    mixture: Pretrain,
    catalogs: Mapping[str, Catalog],
    usable: Mapping[str, np.ndarray | None],
    subset_seed: int,
    columns: Mapping[str, Column] | None = None,
) -> Subset:
    """Return the images of a mixture under a subset seed.

    usable   a bool mask per source, or None for all: images that could not be decoded, or that `dedupe` leaves out, are
             no supply
    columns  of the sources that `select` applies to (see `data.columns.columns_of`)

    Raises UserError, all problems at once, naming source, need and supply.
    """
    problems: list[str] = []
    weights = weights_of(mixture)
    offered, labels, counts = _taken(mixture, catalogs, usable, subset_seed, columns)
    heads = _heads(mixture, labels, counts)
    of_sources = [head for of in heads.values() for head in sorted({*of} - {""})]  # the sources in their order
    classes = tuple(sorted({*of_sources}) if mixture.label_space == "shared" else of_sources)
    number = {head: i for i, head in enumerate(classes)}
    shares, entries = [], []
    for (name, offer), weight in zip(offered.items(), weights / weights.sum(), strict=True):
        index = np.array([number.get(head, -1) for head in heads[name]], dtype=np.int64)
        shares.append(_share(mixture, name, offer, counts[name], index, subset_seed))
        entries.append(_composition(name, offer, counts[name], index, float(weight)))
        if mixture.label_noise is not None:
            shares[-1] = _with_noise(mixture, shares[-1], offer.catalog, labels[name], index, subset_seed, problems)
            entries[-1]["wrong_labels"] = total(mixture.label_noise, len(shares[-1].rows))
    if problems:
        raise UserError(*problems)
    images = sum(len(share.rows) for share in shares)
    composition = tuple({**one, "share": one["selected"] / images} for one in entries)
    return Subset(tuple(shares), classes, sum(c["classes"] for c in composition), composition)


def images_drawn(
    mixture: Pretrain, catalogs: Mapping[str, Catalog], subset_seed: int, columns: Mapping[str, Column] | None = None
) -> int | None:
    """Return how many images `draw` gives where every image is usable, without drawing any; None where it would raise
    UserError."""
    try:
        _, _, counts = _taken(mixture, catalogs, dict.fromkeys(catalogs), subset_seed, columns)
    except UserError:
        return None
    return sum(int(of.sum()) for of in counts.values())


def _taken(
    mixture: Pretrain,
    catalogs: Mapping[str, Catalog],
    usable: Mapping[str, np.ndarray | None],
    subset_seed: int,
    columns: Mapping[str, Column] | None,
) -> tuple[dict[str, Offer], dict[str, list[str]], dict[str, np.ndarray]]:
    """Return by source what it offers, the label of every class, and how many images of every class are taken. Raises
    UserError, all problems at once."""
    problems: list[str] = []
    weights, offered = weights_of(mixture), offers(mixture, catalogs, usable, problems, columns or {})
    if problems and mixture.select is not None:  # what is lacking would follow from them
        raise UserError(*problems)
    priority = {name: by_name("class", name, o.catalog.classes, subset_seed) for name, o in offered.items()}
    chosen = _choose_classes(mixture, weights, offered, priority, problems)
    catalog_of = {name: offer.catalog for name, offer in offered.items()}
    labels = label_classes(mixture, catalog_of, chosen, weights, subset_seed, problems)
    if problems:
        raise UserError(*problems)
    chosen = _subclasses(mixture, labels, chosen, priority, problems)
    counts = _count_images(mixture, weights, offered, priority, chosen, problems)
    problems += [f"pretrain.sources: {name} has no image to give" for name, of in counts.items() if not of.any()]
    if problems:
        raise UserError(*problems)
    return offered, labels, counts


def _share(mixture: Pretrain, name: str, offer: Offer, taken: np.ndarray, index: np.ndarray, subset_seed: int) -> Share:
    """Return the images that one source gives: `taken` of every class, under the labels `index`, int64 [classes]."""
    free, of_class = offer.free, offer.catalog.labels
    if mixture.select is not None and mixture.select.random and offer.facts:
        free = control(offer.catalog, free, offer.supply, name, subset_seed)
    rows = np.flatnonzero(lowest(offer.catalog, free, offer.supply, taken, seed_of("image", name, subset_seed)))
    shown = _shown(offer, taken, name)
    return Share(name, rows, index[of_class[rows]], shown, index[of_class[shown]])


def _with_noise(
    mixture: Pretrain,
    share: Share,
    catalog: Catalog,
    names: Sequence[str],
    index: np.ndarray,
    subset_seed: int,
    problems: list[str],
) -> Share:
    """Return the share with some labels wrong. `names` has the label of every class, `index` its number, or -1."""
    noise, name, before = mixture.label_noise, share.source, len(problems)
    assert noise is not None
    families = families_of(mixture, name, catalog, names, index, len(share.rows), problems)
    if len(problems) > before:
        return share
    wrong = noisy_labels(noise, name, catalog.ids[share.rows], share.labels, families, subset_seed)
    return replace(share, labels=wrong, true_labels=share.labels)


def _heads(
    mixture: Pretrain, labels: Mapping[str, list[str]], counts: Mapping[str, np.ndarray]
) -> dict[str, list[str]]:
    """Return per source the head that every class trains, "" for a class that gives no image."""
    apart = len(labels) > 1 and mixture.label_space == "separate"
    return {
        name: [
            (f"{name}/{label}" if apart else label) if count else ""
            for label, count in zip(of, counts[name], strict=True)
        ]
        for name, of in labels.items()
    }


def _shown(offer: Offer, taken: np.ndarray, name: str) -> np.ndarray:
    """Return the held-out rows that upstream accuracy is measured on: of the classes that are learned."""
    held = offer.held_out
    held = held[taken[offer.catalog.labels[held]] > 0]
    order = np.argsort(mix_bits(offer.catalog.ids[held], seed_of("held out shown", name)))
    return np.sort(held[order[:HELD_OUT_SHOWN]])


def _composition(name: str, offer: Offer, taken: np.ndarray, index: np.ndarray, target: float) -> dict[str, Any]:
    """Return one source's line of the composition."""
    some = taken[taken > 0]
    per_label = np.bincount(index[taken > 0], weights=some)
    per_label = per_label[per_label > 0].astype(np.int64)
    return {
        "source": name,
        "available": int(offer.supply[offer.allowed].sum()),
        "held_out": len(offer.held_out),
        "selected": int(taken.sum()),
        "target_share": target,
        "classes": len(some),
        "fewest_per_class": int(some.min()),
        "most_per_class": int(some.max()),
        "labels": len(per_label),
        "fewest_per_label": int(per_label.min()),
        "most_per_label": int(per_label.max()),
        **offer.facts,
    }


def _choose_classes(
    mixture: Pretrain,
    weights: np.ndarray,
    offered: Mapping[str, Offer],
    priority: Mapping[str, np.ndarray],
    problems: list[str],
) -> dict[str, np.ndarray]:
    """Return a bool mask of classes per source: nested in their number, by priority."""
    least = mixture.images_per_class or 1
    enough = {name: offer.allowed & (offer.supply >= least) for name, offer in offered.items()}
    if mixture.num_classes == "all":
        for name, offer in offered.items():
            short = int((offer.allowed & ~enough[name]).sum())
            if mixture.images_per_class and short:
                problems.append(
                    f"pretrain.images_per_class: source {name} needs {least} images in every class, but {short} of its "
                    f"{int(offer.allowed.sum())} classes hold fewer (the smallest {offer.supply[offer.allowed].min()})"
                    f"{_selected_from(offer)}"
                )
        return enough
    chosen = {}
    for (name, offer), need in zip(offered.items(), apportion(mixture.num_classes, weights), strict=True):
        have = int(enough[name].sum())
        if need == 0:
            problems.append(f"pretrain.sources: the weight of {name} gives it no class of {mixture.num_classes}")
        if have < need:
            each = f" with at least {least} images each" if mixture.images_per_class else ""
            which = "in all" if mixture.classes is None else mixture.classes.text
            problems.append(
                f"pretrain.num_classes: source {name} needs {need} classes{each}, supply is {have} "
                f"(of {int(offer.allowed.sum())} {which}){_selected_from(offer)}"
            )
        chosen[name] = _first(enough[name], priority[name], int(need))
    return chosen


def _selected_from(offer: Offer) -> str:
    """Return how many images `select` has left, for a message on too few."""
    return f"; select leaves {offer.supply.sum():,} of {offer.facts['select_from']:,} images" if offer.facts else ""


def _first(of: np.ndarray, priority: np.ndarray, count: int) -> np.ndarray:
    """Return a bool mask of the `count` classes of a mask that come first by priority."""
    mask = np.zeros(len(of), dtype=bool)
    rows = np.flatnonzero(of)
    mask[rows[np.argsort(priority[rows])[:count]]] = True
    return mask


def _subclasses(
    mixture: Pretrain,
    labels: Mapping[str, list[str]],
    chosen: dict[str, np.ndarray],
    priority: Mapping[str, np.ndarray],
    problems: list[str],
) -> dict[str, np.ndarray]:
    """Return the classes that feed the labels: so many of every source and label, by priority, so that fewer lie in
    more."""
    need = mixture.subclasses_per_label
    if need is None:
        return chosen
    masks, short = {}, []
    for name, of in labels.items():
        masks[name] = np.zeros(len(of), dtype=bool)
        members = defaultdict(list)
        for i in np.flatnonzero(chosen[name])[np.argsort(priority[name][chosen[name]])]:
            members[of[i]].append(i)
        for label, rows in sorted(members.items()):
            masks[name][rows[:need]] = True
            if len(rows) < need:
                short.append(f"label {label!r} of source {name} needs {need} classes, supply is {len(rows)}")
    problems += [f"pretrain.subclasses_per_label: {what}" for what in short[:5]]
    if len(short) > 5:
        problems.append(f"pretrain.subclasses_per_label: and {len(short) - 5} more labels have too few classes")
    return masks


def _count_images(
    mixture: Pretrain,
    weights: np.ndarray,
    offered: Mapping[str, Offer],
    priority: Mapping[str, np.ndarray],
    chosen: Mapping[str, np.ndarray],
    problems: list[str],
) -> dict[str, np.ndarray]:
    """Return how many images of every class of every source."""
    if mixture.images_per_class is not None:
        return {name: np.where(chosen[name], mixture.images_per_class, 0) for name in offered}
    supply = {name: np.where(chosen[name], offer.supply, 0) for name, offer in offered.items()}
    if mixture.num_images == "all":
        if len(offered) > 1:
            problems.append("pretrain.num_images: all is not defined for a mixture of sources; give a number of images")
        return supply
    counts = {}
    for name, need in zip(offered, apportion(mixture.num_images, weights), strict=True):
        have = int(supply[name].sum())
        if have < need:
            problems.append(
                f"pretrain.num_images: source {name} needs {need} images, supply is {have} "
                f"(in {int(chosen[name].sum())} classes, without the images held out for upstream accuracy)"
                f"{_selected_from(offered[name])}"
            )
            continue
        if need == 0:
            problems.append(f"pretrain.sources: the weight of {name} gives it no image of {mixture.num_images}")
            continue
        if mixture.subclasses_per_label is not None and need < (classes := int(chosen[name].sum())):
            problems.append(
                f"pretrain.num_images: source {name} gets {need} images, which cannot fill its {classes} classes"
            )
            continue
        if mixture.balance == "uniform":
            counts[name] = fill_evenly(int(need), supply[name], priority[name])
        else:  # so many classes asked for means an image of each, however rare; of `all` the rarest may be left out
            asked = mixture.num_classes != "all" or mixture.subclasses_per_label is not None
            each = np.where(chosen[name], int(asked), 0)
            counts[name] = each + apportion(int(need - each.sum()), supply[name] - each, priority[name])
    return counts
