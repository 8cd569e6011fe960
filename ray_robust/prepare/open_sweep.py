"""A spec with everything that it speaks of opened: the pools, the plan, and the images that every trial draws.

Finds every mistake that only the data can show, before anything is written. Hands on to the command and the benches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ray_robust.data.labels import read_map
from ray_robust.data.matching import match
from ray_robust.data.mixture import draw, offers
from ray_robust.data.opened import open_pool, usable
from ray_robust.data.pool import SPLITS, Catalog, Pool, Task
from ray_robust.data.published import StandIn, checkable
from ray_robust.data.store import ImageStore
from ray_robust.data.weights import ready
from ray_robust.errors import DataAbsent, Problem, UserError
from ray_robust.plan.plan import Details, Facts, Plan, Trial, hash_of, make_plan, pool_key
from ray_robust.spec.load import Level, PoolSection, Pretrain, Spec


@dataclass(frozen=True)
class Sweep:
    """A checked spec with everything it speaks of opened."""

    spec: Spec
    sources: dict[str, Pool]  # by pool_key
    tasks: dict[str, Pool]
    plan: Plan  # of a search: its baseline
    notes: tuple[str, ...] = ()  # on how its mixtures were matched, and on what may be mistakes in its data
    plan_of: Callable[[Spec], Plan] = lambda spec: Plan(())  # the trials of a spec with the same pools
    command: str = ""  # that runs it, and continues it

    def pools(self) -> list[tuple[str, Pool]]:
        """("source" or "task", pool) of each."""
        return [
            *(("source", pool) for pool in self.sources.values()),
            *(("task", pool) for pool in self.tasks.values()),
        ]

    def unread(self) -> list[Pool]:
        """The pools with files that have not been read yet: their fingerprints, and so the ids of trials, are
        provisional."""
        return [pool for _, pool in self.pools() if len(pool.unread())]

    def absent(self) -> list[StandIn]:
        """The pools whose data is not there: published counts stand in for them, and only a plan can be made."""
        return [pool for _, pool in self.pools() if isinstance(pool, StandIn)]


def open_sweep(spec: Spec, limit: int | None = None, plan_only: bool = False) -> Sweep:
    """Open every source and task of a spec and plan its trials. Raises UserError with the problems of all of them.

    `plan_only`: published counts may stand in for data that is not there.
    """
    problems: list[Problem] = []
    sources, tasks = {}, {}
    for mixture in spec.pretrains:
        for name, section in mixture.section.sources.items():
            sources[pool_key(name, section)] = ("source", name, section, ("pretrain", "sources", name))
    for level in spec.tasks:
        tasks[pool_key(level.section.name, level.section)] = ("task", level.section.name, level.section, ("task",))

    def opened(wanted: dict[str, tuple]) -> dict[str, Pool]:
        found = {}
        for key, (kind, name, section, path) in wanted.items():
            try:
                found[key] = _opened(kind, name, section, plan_only)
            except UserError as error:
                place = spec.location(*path)
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
            problems += [Problem(spec.location("pretrain", "weights"), str(problem)) for problem in error.problems]
    problems += _check_tables(spec)
    problems += _check_batches(spec, list(task_pools.values()))
    notes = [
        f"{kind} {pool.name}: {warning}"
        for kind, pools in (("source", source_pools), ("task", task_pools))
        for pool in pools.values()
        for warning in pool.warnings
    ]
    if spec.excluded and not spec.space.dimensions:
        notes.append(f"where: {spec.excluded:,} of {spec.excluded + len(spec.pretrains):,} mixtures do not meet it")
    if not problems and not spec.space.dimensions:
        try:
            spec, matched = _matched(spec, source_pools)
            notes += matched
        except UserError as error:
            problems += [Problem(_place(spec, problem), str(problem)) for problem in error.problems]
    if problems:
        raise UserError(*problems)
    facts = (
        {key: Facts(pool.meaning, len(pool.catalog)) for key, pool in source_pools.items()},
        {key: _task_facts(pool) for key, pool in task_pools.items()},
    )

    def plan_of(what: Spec, first: int | None = None) -> Plan:
        return make_plan(what, *facts, first, weights, lambda mixture: _details(mixture, source_pools))

    written = replace(spec, pretrains=()) if spec.space.dimensions else spec
    return Sweep(spec, source_pools, task_pools, plan_of(written, limit), tuple(notes), plan_of)


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
        yield Problem(spec.location("task", "metric"), f"task.metric: {task.name} has no groups, so no worst_group")
    held = len(catalog.rows("train"))
    of_its_own = spec.baseline_finetunes if "num_images" in spec.baseline.finetune else ()
    for path, levels in ((("finetune",), spec.finetunes), (("baseline", "finetune"), of_its_own)):
        asked = max((level.section.num_images or 0 for level in levels), default=0)
        if asked > held:
            what = f"{'.'.join(path)}.num_images: {asked:,} images, but {task.name} has {held:,} to train on"
            yield Problem(spec.location(*path, "num_images"), what)


def _check_batches(spec: Spec, tasks: list[Pool]) -> Iterator[Problem]:
    """Trainings whose batches are single images where a model's batch normalisation needs more; torch is only loaded
    where there is such a batch."""
    workers = spec.resources.workers
    lone: dict[tuple[str, ...], str] = {}
    for level in spec.pretrains:
        settings = level.section
        if settings.method in ("supervised", "simclr", "clip") and settings.batch_size < workers:
            what = f"pretrain.batch_size: {settings.batch_size} images cannot be shared out among {workers} workers"
            yield Problem(spec.location("pretrain", "batch_size"), what)
        elif settings.method == "supervised" and settings.batch_size // workers == 1:
            lone["pretrain", "batch_size"] = "" if workers == 1 else f" on each of {workers} workers"
    counts = [np.bincount(task.catalog.labels[task.catalog.rows("train")]).tolist() for task in tasks]
    for path, levels in ((("finetune",), spec.finetunes), (("baseline", "finetune"), spec.baseline_finetunes)):
        for tuned in (level.section for level in levels):
            trained = min((tuned.training_images(count) for count in counts), default=tuned.batch_size)
            key = "batch_size" if tuned.batch_size == 1 else "num_images"
            own = path if key in spec.baseline.finetune else ("finetune",)
            if min(tuned.batch_size, trained) == 1 and tuned.method != "linear":  # which trains the head alone
                lone[*own, key] = ""
    if not lone:
        return
    from ray_robust.train.models import trains_on_one

    for model in {level.section.name: level.section for level in spec.models}.values():
        for keys, where in lone.items() if not trains_on_one(model) else ():
            what = f"one image at a time{where} cannot pass the batch normalisation of {model.name} at "
            yield Problem(spec.location(*keys), f"{'.'.join(keys)}: {what}{model.image_size} px; give at least 2")


@dataclass(frozen=True)
class Told:
    """What is kept of a trial's drawn subset: its size and what it is made of."""

    images: int
    classes: tuple[str, ...]
    leaf_classes: int
    composition: tuple[dict[str, Any], ...]


class Draws(dict[str, Told]):
    """Every drawn subset by the id of its trial. The images themselves are kept once for all of them, since thousands
    of subsets would fill the memory: `rows` has a bool mask of each source's images by pool_key and px."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[tuple[str, int], np.ndarray] = {}

    def add(self, more: Draws) -> None:
        """Take in other draws."""
        self.update(more)
        for key, mask in more.rows.items():
            self.rows[key] = self.rows[key] | mask if key in self.rows else mask


def draw_all(sweep: Sweep, stores: dict[str, ImageStore], most: int | None = None) -> Draws:
    """The subset of every trial that pre-trains; at most `most` of them, spread over the plan.

    Raises UserError with every impossible mixture, each once, at the line of what it asks for.
    """
    found, drawn = Draws(), dict[tuple[int, int], list[Trial]]()
    problems: dict[str, Problem] = {}
    wanted = [trial for trial in sweep.plan if trial.draws]
    if most is not None and len(wanted) > most:
        wanted = [wanted[i] for i in np.linspace(0, len(wanted) - 1, most).astype(int)]
    for trial in wanted:  # trials of other models draw the same images
        drawn.setdefault((id(trial.pretrain), trial.subset_seed), []).append(trial)
    for trial, *others in drawn.values():
        assert trial.pretrain is not None
        keys = {name: pool_key(name, section) for name, section in trial.pretrain.sources.items()}
        masks = {name: usable(stores[key]) if key in stores else None for name, key in keys.items()}
        try:
            subset = draw(*_drawable(trial.pretrain, sweep.sources), masks, trial.subset_seed)
        except UserError as error:
            for problem in error.problems:
                said = f"{problem} [{trial.group}]"
                problems.setdefault(str(problem), Problem(_place(sweep.spec, problem), said))
            continue
        told = Told(len(subset), subset.classes, subset.leaf_classes, subset.composition)
        found |= {one.id: told for one in (trial, *others)}
        for size in {one.model.image_size for one in (trial, *others)}:
            for share in subset.shares:
                pool = sweep.sources[keys[share.source]]
                rows = found.rows.setdefault((keys[share.source], size), np.zeros(len(pool.catalog), dtype=bool))
                rows[share.rows] = rows[share.held_out_rows] = True
    if problems:
        raise UserError(*problems.values())
    return found


def _drawable(mixture: Pretrain, sources: dict[str, Pool]) -> tuple[Pretrain, dict[str, Catalog]]:
    """A mixture and the catalogs of its sources; where one of them is not there, only what can be checked without."""
    pools = {name: sources[pool_key(name, section)] for name, section in mixture.sources.items()}
    absent = any(isinstance(pool, StandIn) for pool in pools.values())
    return checkable(mixture) if absent else mixture, {name: pool.catalog for name, pool in pools.items()}


def _place(spec: Spec, problem: Problem) -> str:
    """Where in the file a mixture's problem lies: at the key that it begins with."""
    return spec.location(*problem.what.partition(":")[0].split("."))


def jobs_of(sweep: Sweep, todo: Plan, subsets: Draws) -> list[tuple[str, Pool, int, np.ndarray | None]]:
    """(pool_key, pool, px, rows) of everything that the trials will look at."""
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


# --- what only the data can say of a mixture


def _check_tables(spec: Spec) -> Iterator[Problem]:
    """What is wrong with the CSV files that mixtures name."""
    tables = {table: None for level in spec.pretrains for table in level.section.tables.items()}
    for key, file in tables:
        try:
            read_map(file)
        except UserError as error:
            for problem in error.problems:
                yield Problem(spec.location("pretrain", key), f"pretrain.{key}: {problem}")


def _matched(spec: Spec, sources: dict[str, Pool]) -> tuple[Spec, list[str]]:
    """The spec with equal numbers where its choice of classes varies, and what a plan says of it; see `matching`."""
    mixtures = [level.section for level in spec.pretrains]
    if any(isinstance(pool, StandIn) for pool in sources.values()):
        varies = len({repr(mixture.classes) for mixture in mixtures}) > 1
        return spec, ["not matched: numbers of classes and images, before the data is there"] if varies else []
    filled, lines = match(mixtures, lambda mixture: _drawable(mixture, sources)[1])
    levels = (Level(mixture, level.axes) for mixture, level in zip(filled, spec.pretrains, strict=True))
    return replace(spec, pretrains=tuple(levels)), lines


def _details(mixture: Pretrain, sources: dict[str, Pool]) -> Details:
    checked, catalogs = _drawable(mixture, sources)
    held = offers(checked, catalogs, dict.fromkeys(catalogs), [])
    return Details(
        {key: hash_of(sorted(read_map(file).items())) for key, file in mixture.tables.items()},
        {name: int(offer.supply[offer.allowed].sum()) for name, offer in held.items()},
    )
