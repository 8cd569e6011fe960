"""The images of a source that `pretrain.dedupe` leaves: which are there more than once is for `comparison` to say.

The result stays with the pool and travels with it, so that all trials of a run leave out the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_robust.data.duplicates import phash
from ray_robust.data.duplicates.comparison import Images, Search, occurring, repeated
from ray_robust.data.images.store import ImageStore
from ray_robust.data.pool import Pool, Task
from ray_robust.spec.image_selection import Deduplication

_ATTACHED = "_deduplicated"  # in a pool's __dict__: what was left, by what was asked


@dataclass(frozen=True, eq=False)
class Deduplicated:
    """Which images are left, bool [n] (None: all, of a source that is drawn from random numbers), and how many are not,
    in a sentence."""

    mask: np.ndarray | None
    note: str


def meaning_of(dedupe: Deduplication, tasks: Sequence[Pool]) -> dict[str, object]:
    """Return what of it decides results: what is compared, and the images of the tasks."""
    images = sorted({of_images(task) for task in tasks if not task.rendered}) if dedupe.against else []
    return {**dedupe.model_dump(mode="json", exclude_defaults=True), **({"images": images} if images else {})}


def of_images(task: Pool) -> str:
    """Return the meaning of the images that a task has, or a stand-in for one that is not there yet."""
    return task.of_images if isinstance(task, Task) else task.meaning


def deduplicate(dedupe: Deduplication, source: ImageStore, tasks: Sequence[ImageStore]) -> Deduplicated:
    """Return what is left of a source's images; stores must be filled, and all of one size. Images that are left out
    for a task are so whichever of them comes first; of the rest the first by name stays.

    Raises UserError for an image that is damaged on disk.
    """
    if source.pool.rendered:
        return Deduplicated(None, "")
    compared = [task for task in tasks if not task.pool.rendered] if dedupe.against else []
    results: dict[tuple, Deduplicated] = source.pool.__dict__.setdefault(_ATTACHED, {})
    key = (source.form, dedupe.within, *sorted(of_images(task.pool) for task in compared))
    if key not in results:
        results[key] = _compare(dedupe, source, compared)
    return results[key]


def _compare(dedupe: Deduplication, source: ImageStore, tasks: Sequence[ImageStore]) -> Deduplicated:
    mask, parts, search = np.ones(source.n, bool), [], Search()
    for task in tasks:
        rows = occurring(source, task, search)
        parts.append(f"{int(mask[rows].sum()):,} that task {task.pool.name} has")
        mask[rows] = False
    if dedupe.within:
        images = Images.of(source, np.flatnonzero(mask))
        again = images.rows[repeated(images, search)]
        parts.append(f"{len(again):,} that occur before")
        mask[again] = False
    few = "; near-identical ones are not looked for under " + f"{phash.LEAST_SIZE} px"
    note = f"{int((~mask).sum()):,} of {source.n:,} images left out: {', '.join(parts)}"
    note += few if source.size < phash.LEAST_SIZE else ""
    return Deduplicated(mask, "; ".join(filter(None, [note, search.note])))
