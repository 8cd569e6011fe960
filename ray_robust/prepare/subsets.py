"""The subset of images that every trial draws, and the images that a plan's trials need decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_robust.data.images.store import ImageStore
from ray_robust.data.mixtures.mixture import Subset, draw
from ray_robust.data.opened import usable
from ray_robust.data.pool import Pool
from ray_robust.errors import Problem, UserError
from ray_robust.plan.plan import Plan, Trial, pool_key
from ray_robust.prepare.open_sweep import Sweep, drawable, location_of


@dataclass(frozen=True)
class SubsetSummary:
    """The size of a trial's drawn subset, and what it is made of."""

    images: int
    classes: tuple[str, ...]
    leaf_classes: int
    composition: tuple[dict[str, Any], ...]


class Subsets(dict[str, SubsetSummary]):
    """The drawn subset of every trial, by trial id.

    rows  the images of all subsets together: thousands of lists of them would fill the memory. A bool mask of each
          source's images, by pool_key and px
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[tuple[str, int], np.ndarray] = {}

    def add(self, more: Subsets) -> None:
        """Add the subsets of other trials."""
        self.update(more)
        for key, mask in more.rows.items():
            self.rows[key] = self.rows[key] | mask if key in self.rows else mask


def draw_all(sweep: Sweep, stores: dict[str, ImageStore], most: int | None = None) -> Subsets:
    """Return the subset of every trial that pre-trains; of at most `most` trials, spread over the plan.

    Raise UserError with every impossible mixture, each once, at the line of what it asks for.
    """
    subsets, same = Subsets(), dict[tuple[int, int], list[Trial]]()
    problems: dict[str, Problem] = {}
    wanted = [trial for trial in sweep.plan if trial.draws]
    if most is not None and len(wanted) > most:
        wanted = [wanted[i] for i in np.linspace(0, len(wanted) - 1, most).astype(int)]
    for trial in wanted:  # trials of other models draw the same images
        same.setdefault((id(trial.pretrain), trial.subset_seed), []).append(trial)
    for trials in same.values():
        mixture, seed = trials[0].pretrain, trials[0].subset_seed
        assert mixture is not None
        keys = {name: pool_key(name, section) for name, section in mixture.sources.items()}
        masks = {name: usable(stores[key]) if key in stores else None for name, key in keys.items()}
        try:
            subset = draw(*drawable(mixture, sweep.sources), masks, seed)
        except UserError as error:
            for problem in error.problems:
                what = f"{problem} [{trials[0].group}]"
                problems.setdefault(str(problem), Problem(location_of(sweep.spec, problem), what))
            continue
        subsets.update(dict.fromkeys((trial.id for trial in trials), _summary(subset)))
        for size in {trial.model.image_size for trial in trials}:
            for share in subset.shares:
                images = len(sweep.sources[keys[share.source]].catalog)
                rows = subsets.rows.setdefault((keys[share.source], size), np.zeros(images, dtype=bool))
                rows[share.rows] = rows[share.held_out_rows] = True
    if problems:
        raise UserError(*problems.values())
    return subsets


def _summary(subset: Subset) -> SubsetSummary:
    return SubsetSummary(len(subset), subset.classes, subset.leaf_classes, subset.composition)


def decode_jobs(sweep: Sweep, todo: Plan, subsets: Subsets) -> list[tuple[str, Pool, int, np.ndarray | None]]:
    """Return (pool_key, pool, px, rows) of all images that the trials of `todo` use; rows None: all of the pool."""
    wanted: dict[tuple[str, int], None] = {}
    for trial in todo:
        wanted |= dict.fromkeys((pool_key(f.task.name, f.task), trial.model.image_size) for f in trial.finetunings)
        if trial.pretrain is not None and trial.draws:
            keys = (pool_key(name, section) for name, section in trial.pretrain.sources.items())
            wanted |= dict.fromkeys((key, trial.model.image_size) for key in keys)
    pools = {**sweep.sources, **sweep.tasks}
    return [
        (key, pools[key], size, np.flatnonzero(subsets.rows[key, size]) if (key, size) in subsets.rows else None)
        for key, size in wanted
    ]
