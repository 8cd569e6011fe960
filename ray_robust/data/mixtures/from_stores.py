"""A mixture drawn from stores that are filled: without images that cannot be read, and without those that `dedupe`
leaves out. Before they are filled all that are listed count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ray_robust.data.columns import columns_of
from ray_robust.data.duplicates.removal import deduplicate
from ray_robust.data.images.store import ImageStore
from ray_robust.data.mixtures.mixture import Subset, draw
from ray_robust.data.opened import usable
from ray_robust.data.pool import Pool
from ray_robust.errors import UserError
from ray_robust.spec.sections import Pretrain


def draw_from(
    mixture: Pretrain,
    pools: Mapping[str, Pool],
    stores: Mapping[str, ImageStore],
    tasks: Sequence[ImageStore],
    subset_seed: int,
) -> Subset:
    """Return the images of a mixture under a subset seed; see `draw`.

    pools   its sources, by name
    stores  those of them that are filled
    tasks   filled stores of the tasks that `dedupe` compares with, of the same size
    """
    masks = {name: usable(stores[name]) if name in stores else None for name in mixture.sources}
    notes = {}
    for name, store in stores.items() if mixture.dedupe is not None else ():
        assert mixture.dedupe is not None
        left = deduplicate(mixture.dedupe, store, tasks)
        if left.mask is not None:
            masks[name] = left.mask if masks[name] is None else left.mask & masks[name]
            notes[name] = left.note
            if not np.asarray(masks[name]).any():
                raise UserError(f"pretrain.dedupe: leaves no image of source {name}: {left.note}")
    catalogs = {name: pools[name].catalog for name in mixture.sources}
    subset = draw(mixture, catalogs, masks, subset_seed, columns_of(mixture, pools))
    if not notes:
        return subset
    composition = (
        {**part, "dedupe_note": notes[part["source"]]} if part["source"] in notes else part
        for part in subset.composition
    )
    return replace(subset, composition=tuple(composition))
