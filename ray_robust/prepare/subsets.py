"""The subset of images that every trial draws, and the images that a plan's trials need decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_robust.data.images.form import Form, form_of
from ray_robust.data.images.store import ImageStore
from ray_robust.data.mixtures.from_stores import draw_from
from ray_robust.data.mixtures.mixture import Subset
from ray_robust.data.opened import open_store
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
          source's images, by pool_key and form
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[tuple[str, Form], np.ndarray] = {}

    def add(self, more: Subsets) -> None:
        """Add the subsets of other trials."""
        self.update(more)
        for key, mask in more.rows.items():
            self.rows[key] = self.rows[key] | mask if key in self.rows else mask


def draw_all(sweep: Sweep, stores: dict[str, ImageStore], most: int | None = None) -> Subsets:
    """Return the subset of every trial that pre-trains; of at most `most` trials, spread over the plan.

    Raise UserError with every impossible mixture, each once, at the line of what it asks for.
    """
    subsets, same = Subsets(), dict[tuple[int, int, Form | None], list[Trial]]()
    problems: dict[str, Problem] = {}
    wanted = [trial for trial in sweep.plan if trial.draws]
    if most is not None and len(wanted) > most:
        wanted = [wanted[i] for i in np.linspace(0, len(wanted) - 1, most).astype(int)]
    for trial in wanted:  # trials of other models draw the same images, unless what is repeated depends on their size
        compared_at = form_of(trial.model) if trial.pretrain is not None and trial.pretrain.dedupe else None
        same.setdefault((id(trial.pretrain), trial.subset_seed, compared_at), []).append(trial)
    for trials in same.values():
        mixture, seed = trials[0].pretrain, trials[0].subset_seed
        assert mixture is not None
        keys = {name: pool_key(name, section) for name, section in mixture.sources.items()}
        filled = {name: stores[key] for name, key in keys.items() if key in stores}
        tasks = []
        if mixture.dedupe is not None and filled:
            form = form_of(trials[0].model)
            filled = {name: _at(form, store) for name, store in filled.items()}
            tasks = [_at(form, stores[key]) for key in sweep.tasks if key in stores and mixture.dedupe.against]
        try:
            pools = {name: sweep.sources[key] for name, key in keys.items()}
            subset = draw_from(drawable(mixture, sweep.sources)[0], pools, filled, tasks, seed)
        except UserError as error:
            for problem in error.problems:
                what = f"{problem} [{trials[0].group}]"
                problems.setdefault(str(problem), Problem(location_of(sweep.spec, problem), what))
            continue
        subsets.update(dict.fromkeys((trial.id for trial in trials), _summary(subset)))
        for form in {form_of(trial.model) for trial in trials}:
            for share in subset.shares:
                images = len(sweep.sources[keys[share.source]].catalog)
                rows = subsets.rows.setdefault((keys[share.source], form), np.zeros(images, dtype=bool))
                rows[share.rows] = rows[share.held_out_rows] = True
    if problems:
        raise UserError(*problems.values())
    return subsets


def _at(form: Form, store: ImageStore) -> ImageStore:
    """Return the store of the same pool in a form, filled."""
    if store.form == form or store.pool.rendered:
        return store
    other = open_store(store.root, store.pool, form)
    other.fill(other.missing())
    return other


def _summary(subset: Subset) -> SubsetSummary:
    return SubsetSummary(len(subset), subset.classes, subset.leaf_classes, subset.composition)


def decode_jobs(sweep: Sweep, todo: Plan, subsets: Subsets) -> list[tuple[str, Pool, Form, np.ndarray | None]]:
    """Return (pool_key, pool, form, rows) of all images that the trials of `todo` use; rows None: all of the pool."""
    wanted: dict[tuple[str, Form], None] = {}
    for trial in todo:
        wanted |= dict.fromkeys((pool_key(f.task.name, f.task), form_of(trial.model)) for f in trial.finetunings)
        if trial.pretrain is not None and trial.draws:
            keys = (pool_key(name, section) for name, section in trial.pretrain.sources.items())
            wanted |= dict.fromkeys((key, form_of(trial.model)) for key in keys)
    pools = {**sweep.sources, **sweep.tasks}
    return [
        (key, pools[key], form, np.flatnonzero(subsets.rows[key, form]) if (key, form) in subsets.rows else None)
        for key, form in wanted
    ]
