"""Which of a task's training images a fine-tuning sees: all of them, a total, or so many of every class.

Owns the draw. Smaller sets lie inside larger ones; every seed of a sweep draws its own, and all mixtures of one seed
are fine-tuned on the same images, so that their comparison is paired.
"""

from __future__ import annotations

import numpy as np

from ray_robust.data.mixtures.mixture import apportion
from ray_robust.data.pool import Catalog, mix_bits, seed_of
from ray_robust.spec.sections import Finetune


def training_rows(catalog: Catalog, usable: np.ndarray | None, settings: Finetune, seed: int) -> np.ndarray:
    """Return rows of the train split to fine-tune on, ascending int64; `usable` is a bool mask [n], None for all.

    `num_images` keeps the shares of the classes (so the rarest may be left out of a small total), `per_class` takes as
    many of each and all of a class that holds fewer. Within a class the images of lowest hashed priority come first.
    """
    rows = catalog.rows("train")
    rows = rows if usable is None else rows[usable[rows]]
    if settings.num_images is None and settings.per_class is None:
        return rows
    labels = catalog.labels[rows]
    supply = np.bincount(labels, minlength=len(catalog.classes))
    if settings.per_class is not None:
        counts = np.minimum(supply, settings.per_class)
    else:
        ties = np.array([seed_of("fine-tuning class", label, seed) >> 1 for label in catalog.classes])
        counts = apportion(min(settings.num_images or 0, len(rows)), supply, ties)
    priority = mix_bits(catalog.ids[rows], seed_of("fine-tuning images", seed))
    order = np.lexsort((priority, labels))
    position = np.arange(len(rows)) - (np.cumsum(supply) - supply)[labels[order]]
    return np.sort(rows[order[position < counts[labels[order]]]])
