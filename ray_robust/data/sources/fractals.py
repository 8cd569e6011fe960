"""Source `fractals`: iterated function systems, one per class, as FractalDB does.

A rendered, wholly unnatural pool to pre-train on. Nothing is stored: any image is drawn from its id.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ray_robust.data import pool
from ray_robust.data.world.fractal import RENDERER, make_systems, render


class Fractals(pool.Source):
    """`classes` fractals of `images_per_class` rendered images; `seed` makes other fractals.

    FractalDB-1k is `{classes: 1000, images_per_class: 1000}`, at any size.
    """

    class Options(pool.Options):
        classes: int = Field(
            default=200, ge=2, le=10_000, description="classes; FractalDB-1k has 1000", examples=["classes: 1000"]
        )
        images_per_class: int = Field(
            default=640,
            ge=1,
            le=1_000_000,
            description="images that can be drawn of each class",
            examples=["images_per_class: 1k"],
        )
        seed: int = Field(default=0, ge=0, description="of the fractals", examples=["seed: 1"])

    options: Options

    rendered = True

    def list_images(self) -> pool.Catalog:
        o = self.options
        labels = np.repeat(np.arange(o.classes, dtype=np.int32), o.images_per_class)
        numbers = (labels.astype(np.uint64) << np.uint64(32)) | self._index(np.arange(len(labels))).astype(np.uint64)
        return pool.Catalog(
            labels=labels,
            classes=tuple(f"fractal-{k:04d}" for k in range(o.classes)),
            ids=pool.mix_bits(numbers, pool.seed_of("fractals", RENDERER, o.seed)),
            fingerprint=f"{pool.seed_of('fractals', RENDERER, o.seed, o.classes, o.images_per_class):016x}",
            licence="rendered by this project (Apache-2.0)",
            notes=("Rendered fractals (iterated function systems), not photographs.",),
        )

    def _index(self, rows: np.ndarray) -> np.ndarray:
        return rows % self.options.images_per_class

    def keys(self, rows: np.ndarray) -> list[str]:
        labels = self.catalog.labels[rows]
        return [f"fractal-{k:04d}/{i:06d}" for k, i in zip(labels, self._index(np.asarray(rows)), strict=True)]

    def read(self, rows: np.ndarray, size: int) -> pool.Pixels:
        systems = make_systems(self.options.classes, self.options.seed)
        return pool.Pixels(render(self.catalog.ids[rows], systems, self.catalog.labels[rows], size), {})
