"""Equal numbers of classes and images where a sweep varies which classes it pre-trains on.

What is not given is set to the smallest supply among all mixtures of the sweep, so that semantics is not confounded
with quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ray_robust.data.columns import Column
from ray_robust.data.mixtures.mixture import Offer, offers, weights_of
from ray_robust.data.pool import Catalog
from ray_robust.data.rounding import apportion, most_to_apportion
from ray_robust.errors import UserError
from ray_robust.spec.sections import Pretrain


def match(
    mixtures: Sequence[Pretrain],
    catalogs_of: Callable[[Pretrain], Mapping[str, Catalog]],
    selected: Callable[[Pretrain], Mapping[str, Column]] = lambda mixture: {},
) -> tuple[list[Pretrain], list[str]]:
    """Return the mixtures, with `num_classes` and `num_images` set where `classes` varies, and lines that say so.

    Classes: as many as the mixture with the fewest has. Images: as many as the poorest mixture is sure to hold,
    whichever so many of its classes a seed draws - the sum of its smallest classes. Both can only be what every
    source can give by its weight. A mixture with `match: false` is neither changed nor looked at. `selected` returns
    the columns that `select` of a mixture goes by.

    Raises UserError with every choice of classes that a source cannot give.
    """
    varied = [mixture for mixture in mixtures if mixture.match and mixture.sources]
    if len({repr(mixture.classes) for mixture in varied}) < 2:
        return list(mixtures), []
    problems: list[str] = []
    offered = []
    for mixture in varied:
        catalogs = catalogs_of(mixture)
        offered.append(offers(mixture, catalogs, dict.fromkeys(catalogs), problems, selected(mixture)))
    if problems:
        raise UserError(*dict.fromkeys(problems))
    lines = []
    numbers: dict[str, int] = {}
    pairs = list(zip(varied, offered, strict=True))
    counted = [(_classes_held(mixture, offer), mixture) for mixture, offer in pairs if _lacks_classes(mixture)]
    if counted:
        fewest, poorest = min(counted, key=lambda pair: pair[0])
        numbers["num_classes"] = min([fewest, *(m.num_images for _, m in counted if isinstance(m.num_images, int))])
        lines.append(
            f"matched: {numbers['num_classes']:,} classes in every mixture; {_describe(poorest)} has {fewest:,}"
        )
    summed = [(_images_held(mixture, numbers, offer), mixture) for mixture, offer in pairs if _lacks_images(mixture)]
    if summed:
        numbers["num_images"], poorest = min(summed, key=lambda pair: pair[0])
        lines.append(
            f"matched: {numbers['num_images']:,} images in every mixture, which {_describe(poorest)} is sure to hold"
        )
    if lines:
        lines.append("match: false under pretrain leaves every mixture all that it has")
    if unmatched := "; ".join(_unmatched(varied)):
        lines.append(f"not matched: {unmatched}")
    return [_filled(mixture, numbers) for mixture in mixtures], lines


def _lacks_classes(mixture: Pretrain) -> bool:
    """Return whether the number of classes is for the rule to set."""
    return mixture.match and mixture.num_classes == "all" and mixture.subclasses_per_label is None


def _lacks_images(mixture: Pretrain) -> bool:
    free = mixture.num_images == "all" and mixture.images_per_class is None
    return mixture.match and free and mixture.subclasses_per_label is None


def _filled(mixture: Pretrain, numbers: Mapping[str, int]) -> Pretrain:
    lacking = {"num_classes": _lacks_classes(mixture), "num_images": _lacks_images(mixture)}
    return mixture.model_copy(update={key: number for key, number in numbers.items() if lacking[key]})


def _classes_held(mixture: Pretrain, offered: Mapping[str, Offer]) -> int:
    """Return the most classes that every source can give its share of."""
    least = mixture.images_per_class or 1
    have = [int((offer.allowed & (offer.supply >= least)).sum()) for offer in offered.values()]
    return most_to_apportion(weights_of(mixture), np.array(have))


def _images_held(mixture: Pretrain, numbers: Mapping[str, int], offered: Mapping[str, Offer]) -> int:
    """Return the most images that any draw of its number of classes can give."""
    weights = weights_of(mixture)
    number = mixture.num_classes if isinstance(mixture.num_classes, int) else numbers["num_classes"]
    have = [
        int(np.sort(offer.supply[offer.allowed & (offer.supply > 0)])[:count].sum())
        for offer, count in zip(offered.values(), apportion(number, weights), strict=True)
    ]
    return most_to_apportion(weights, np.array(have))


def _unmatched(mixtures: Sequence[Pretrain]) -> Iterator[str]:
    given = sorted({mixture.num_classes for mixture in mixtures if isinstance(mixture.num_classes, int)})
    if len(given) > 1:
        yield f"num_classes, which is given ({given[0]:,} to {given[-1]:,})"
    if any(mixture.subclasses_per_label for mixture in mixtures):
        yield "numbers of classes and images under subclasses_per_label"
    plain = ("class", "leaf", "random")
    if any(mixture.granularity.partition(":")[0] not in plain for mixture in mixtures):
        yield "the number of labels, which is each choice's own"
    if any(mixture.images_per_class is None and mixture.balance == "natural" for mixture in mixtures):
        yield "the images of single classes (balance: uniform evens them out)"


def _describe(mixture: Pretrain) -> str:
    return f"`{mixture.classes.text}`" if mixture.classes else "`all`"
