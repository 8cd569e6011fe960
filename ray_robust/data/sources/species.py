"""Source `species`: the animals of the built-in world, each image at a site of its own.

A rendered stand-in for a photographed pool, with a hierarchy order / family / species. Nothing is stored: any image is
drawn from its id at the moment it is asked for.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ray_robust.data import pool
from ray_robust.data.world.draws import normal
from ray_robust.data.world.scene import RENDERER, render
from ray_robust.data.world.sites import describe
from ray_robust.data.world.taxonomy import SOURCE_SPECIES, make_taxonomy


class Species(pool.Source):
    """`species` classes of `images_per_class` rendered images; `seed` makes another world of the same kind."""

    class Options(pool.Options):
        species: int = Field(default=200, ge=2, le=SOURCE_SPECIES, description="classes", examples=["species: 500"])
        images_per_class: int = Field(
            default=640,
            ge=1,
            le=1_000_000,
            description="images that can be drawn of each class",
            examples=["images_per_class: 1k"],
        )
        seed: int = Field(default=0, ge=0, description="of the world: its species and images", examples=["seed: 1"])

    options: Options

    rendered = True

    def list_images(self) -> pool.Catalog:
        o = self.options
        taxonomy = make_taxonomy(0, o.species, o.seed)
        labels = np.repeat(np.arange(o.species, dtype=np.int32), o.images_per_class)
        numbers = (labels.astype(np.uint64) << np.uint64(32)) | self._index(np.arange(len(labels))).astype(np.uint64)
        key = pool.seed_of("species", RENDERER, o.seed)
        return pool.Catalog(
            labels=labels,
            classes=taxonomy.classes,
            ids=pool.mix_bits(numbers, key),
            hierarchy=taxonomy.hierarchy,
            fingerprint=f"{pool.seed_of('species', RENDERER, o.seed, o.species, o.images_per_class):016x}",
            licence="rendered by this project (Apache-2.0)",
            notes=("A rendered world, not photographs: every image shows an animal in a place of its own.",),
        )

    def _index(self, rows: np.ndarray) -> np.ndarray:
        return rows % self.options.images_per_class

    def keys(self, rows: np.ndarray) -> list[str]:
        names = [self.catalog.classes[k] for k in self.catalog.labels[rows]]
        return [f"{name}/{i:06d}" for name, i in zip(names, self._index(np.asarray(rows)), strict=True)]

    def read(self, rows: np.ndarray, size: int) -> pool.Pixels:
        ids = self.catalog.ids[rows]
        taxonomy = make_taxonomy(0, self.options.species, self.options.seed)
        site = describe(lambda name: normal(ids, "place", name))
        return pool.Pixels(render(ids, taxonomy.of(self.catalog.labels[rows]), site, size), {})
