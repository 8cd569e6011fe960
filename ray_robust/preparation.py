"""A spec with everything that it speaks of opened: the pools, the plan, and the images that every trial draws.

Finds every mistake that only the data can show, before anything is written. Hands on to the command and the benches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ray_robust.data.mixture import Subset, draw
from ray_robust.data.opened import open_pool, usable
from ray_robust.data.pool import SPLITS, Pool, Task
from ray_robust.data.published import StandIn, checkable
from ray_robust.data.store import ImageStore
from ray_robust.data.weights import ready
from ray_robust.errors import DataAbsent, Problem, UserError
from ray_robust.plan import Facts, Plan, make_plan, pool_key
from ray_robust.spec import PoolSection, Spec


@dataclass(frozen=True)
class Sweep:
    """A checked spec with everything it speaks of opened."""

    spec: Spec
    sources: dict[str, Pool]  # by pool_key
    tasks: dict[str, Pool]
    plan: Plan

    def pools(self) -> list[tuple[str, Pool]]:
        """("source" or "task", pool) of each."""
        return [
            *(("source", pool) for pool in self.sources.values()),
            *(("task", pool) for pool in self.tasks.values()),
        ]

    def absent(self) -> list[StandIn]:
        """The pools whose data is not there: published counts stand in for them, and only a plan can be made."""
        return [pool for _, pool in self.pools() if isinstance(pool, StandIn)]


def open_sweep(spec: Spec, limit: int | None = None, plan_only: bool = False) -> Sweep:
    """Open every source and task of a spec and plan its trials. Raises UserError with the problems of all of them.

    `plan_only`: published counts may stand in for data that is not there.
    """
    problems: list[Problem] = []
    sources, tasks = {}, {}
    for level in spec.pretrains:
        for name, section in level.section.sources.items():
            sources[pool_key(name, section)] = ("source", name, section, ("pretrain", "sources", name))
    for level in spec.tasks:
        tasks[pool_key(level.section.name, level.section)] = ("task", level.section.name, level.section, ("task",))

    def opened(wanted: dict[str, tuple]) -> dict[str, Pool]:
        found = {}
        for key, (kind, name, section, path) in wanted.items():
            try:
                found[key] = _opened(kind, name, section, plan_only)
            except UserError as error:
                place = spec.place(*path)
                problems.extend(Problem(place, str(problem)) for problem in error.problems)
        return found

    source_pools, task_pools = opened(sources), opened(tasks)
    for task in task_pools.values():
        problems += [problem for problem in _check_task(spec, task) if problem not in problems]
    weights = {}
    for text in {level.section.weights: None for level in spec.pretrains if level.section.weights}:
        try:
            weights[text] = ready(text)
        except UserError as error:
            problems += [Problem(spec.place("pretrain", "weights"), str(problem)) for problem in error.problems]
    if problems:
        raise UserError(*problems)
    plan = make_plan(
        spec,
        {key: Facts(pool.meaning, len(pool.catalog)) for key, pool in source_pools.items()},
        {key: _task_facts(pool) for key, pool in task_pools.items()},
        limit,
        weights,
    )
    return Sweep(spec, source_pools, task_pools, plan)


def _opened(kind: str, name: str, section: PoolSection, plan_only: bool) -> Pool:
    pool = open_pool(kind, name, section)
    try:
        _ = pool.catalog
    except DataAbsent as absent:
        if plan_only and (catalog := pool.published()) is not None:
            return StandIn(pool, catalog, absent)
        raise
    return pool


def _task_facts(task: Pool) -> Facts:
    catalog = task.catalog
    train = np.bincount(catalog.labels[catalog.rows("train")], minlength=len(catalog.classes))
    splits = {split: len(catalog.rows(split)) for split in SPLITS}
    meaning = task.scored if isinstance(task, Task) else task.meaning  # a stand-in is no Task
    return Facts(meaning, len(catalog), splits, tuple(train.tolist()))


def _check_task(spec: Spec, task: Pool) -> Iterator[Problem]:
    """What a fine-tuning or a metric asks of a task that does not have it."""
    catalog = task.catalog
    if isinstance(task, Task) and task.metric == "worst_group" and catalog.group is None:
        yield Problem(spec.place("task", "metric"), f"task.metric: {task.name} has no groups, so no worst_group")
    held = len(catalog.rows("train"))
    of_its_own = spec.baseline_finetunes if "num_images" in spec.baseline.finetune else ()
    for path, levels in ((("finetune",), spec.finetunes), (("baseline", "finetune"), of_its_own)):
        asked = max((level.section.num_images or 0 for level in levels), default=0)
        if asked > held:
            what = f"{'.'.join(path)}.num_images: {asked:,} images, but {task.name} has {held:,} to train on"
            yield Problem(spec.place(*path, "num_images"), what)


def draw_all(sweep: Sweep, stores: dict[str, ImageStore], most: int | None = None) -> dict[str, Subset]:
    """The subset of every trial that pre-trains, by trial id; at most `most` of them, spread over the plan.

    Raises UserError with every impossible mixture, each once, at the line of what it asks for.
    """
    found: dict[str, Subset] = {}
    problems: dict[str, Problem] = {}
    wanted = [trial for trial in sweep.plan if trial.draws]
    if most is not None and len(wanted) > most:
        wanted = [wanted[i] for i in np.linspace(0, len(wanted) - 1, most).astype(int)]
    for trial in wanted:
        assert trial.pretrain is not None
        keys = {name: pool_key(name, section) for name, section in trial.pretrain.sources.items()}
        catalogs = {name: sweep.sources[key].catalog for name, key in keys.items()}
        masks = {name: usable(stores[key]) if key in stores else None for name, key in keys.items()}
        try:
            stands_in = any(isinstance(sweep.sources[key], StandIn) for key in keys.values())
            mixture = checkable(trial.pretrain) if stands_in else trial.pretrain
            found[trial.id] = draw(mixture, catalogs, masks, trial.subset_seed)
        except UserError as error:
            for problem in error.problems:
                path = tuple(problem.what.partition(":")[0].split("."))
                problems.setdefault(problem.what, Problem(sweep.spec.place(*path), f"{problem.what} [{trial.group}]"))
    if problems:
        raise UserError(*problems.values())
    return found


def jobs_of(sweep: Sweep, todo: Plan, subsets: dict[str, Subset]) -> list[tuple[str, Pool, int, np.ndarray | None]]:
    """(pool_key, pool, px, rows) of everything that the trials will look at."""
    rows: dict[tuple[str, int], list[np.ndarray]] = {}
    for trial in todo:
        for key in {pool_key(f.task.name, f.task) for f in trial.finetunings}:
            rows.setdefault((key, trial.model.image_size), [])
        if trial.pretrain is not None and trial.draws:
            for share in subsets[trial.id].shares:
                key = pool_key(share.source, trial.pretrain.sources[share.source])
                rows.setdefault((key, trial.model.image_size), []).extend((share.rows, share.held_out_rows))
    pools = {**sweep.sources, **sweep.tasks}
    return [
        (key, pools[key], size, np.unique(np.concatenate(parts)) if parts and key in sweep.sources else None)
        for (key, size), parts in rows.items()
    ]
