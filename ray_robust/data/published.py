"""Stand-ins for pools whose data is not there, made of published counts: enough to plan with, never to run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ray_robust.data.pool import SPLITS, Catalog, Pixels, Pool, mix_bits, seed_of
from ray_robust.errors import DataAbsent
from ray_robust.spec.sections import Pretrain

Absent = Annotated[  # the key `absent` of a source that knows what was published
    Literal["fail", "drop"],
    Field(description="missing classes or images end the sweep, or are meant to be missing", examples=["absent: drop"]),
]
# keys that speak of classes by their names, or of what only the images have
NAMED = ("granularity", "classes", "subclasses_per_label", "label_space", "select", "dedupe", "label_noise")


def catalog_of_counts(
    name: str, images: int, classes: int, licence: str, splits: Mapping[str, int] | None = None
) -> Catalog:
    """Return a catalog of `images` in `classes` of near-equal size, without names; `splits`: images of each."""
    rows = np.arange(images)
    split = None
    if splits is not None:
        split = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [splits.get(s, 0) for s in SPLITS])
    return Catalog(
        labels=(rows % classes).astype(np.int32),
        classes=tuple(f"class {k}" for k in range(classes)),
        ids=mix_bits(rows.astype(np.uint64), seed_of("published", name)),
        fingerprint=f"published-{seed_of('published', name, images, classes):016x}",
        licence=licence,
        split=split,
    )


class StandIn(Pool):
    """In the place of a pool whose data is not there; `absent` says what is missing and how to obtain it."""

    def __init__(self, pool: Pool, catalog: Catalog, absent: DataAbsent) -> None:
        super().__init__(pool.name, pool.options)
        self.rendered = pool.rendered  # type: ignore[misc]  # of this pool, as it is of the one it stands for
        self._catalog, self.absent, self.line_caveat = catalog, absent, pool.line_caveat

    def list_images(self) -> Catalog:
        return self._catalog

    def keys(self, rows: np.ndarray) -> list[str]:
        raise self.absent

    def read(self, rows: np.ndarray, size: int) -> Pixels:
        raise self.absent

    def describe(self) -> str:
        """Return what a plan says of it, in one line."""
        splits = "" if self._catalog.split is None else " of its splits"
        return (
            f"{self.name}: the data is not there; planned with the published counts{splits}: {len(self._catalog):,} "
            f"images of {len(self._catalog.classes):,} classes"
        )


def checkable(mixture: Pretrain) -> Pretrain:
    """Return the mixture without what only the real list of classes can show: names of classes and ranks, and whether
    each class holds enough images. Totals stay."""
    fields = Pretrain.model_fields
    plain = {key: fields[key].get_default() for key in NAMED if key in fields}
    if mixture.images_per_class is not None and isinstance(mixture.num_classes, int):
        plain |= {"num_images": mixture.num_classes * mixture.images_per_class, "images_per_class": None}
    return mixture.model_copy(update=plain)
