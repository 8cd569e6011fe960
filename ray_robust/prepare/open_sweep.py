"""Open everything that a spec names (sources, tasks, weights) and plan its trials.

Reports every error that only the data can show, before anything is written. The commands and the benches use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from ray_robust.data.labels.class_labels import read_map
from ray_robust.data.mixtures.matching import match
from ray_robust.data.mixtures.mixture import offers
from ray_robust.data.opened import open_pool
from ray_robust.data.pool import SPLITS, Catalog, Pool, Task
from ray_robust.data.published import StandIn, checkable
from ray_robust.data.weights import weights_facts
from ray_robust.errors import DataAbsent, Problem, UserError
from ray_robust.plan.plan import MixtureDetails, Plan, PoolFacts, WeightsFacts, hash_of, make_plan, pool_key
from ray_robust.prepare.data_checks import check_batches, check_shared, check_tables, check_task
from ray_robust.prepare.ready_weights import check_weights
from ray_robust.spec.load import Level, PoolSection, Pretrain, Spec


@dataclass(frozen=True)
class Sweep:
    """A checked spec with its data opened.

    sources, tasks  by pool_key
    plan            its trials; of a search those of the baseline
    notes           on how mixtures were matched, and on what may be wrong with the data
    plan_of         returns the trials of another spec with the same pools, at most so many
    command         that runs it, and continues it
    """

    spec: Spec
    sources: dict[str, Pool]
    tasks: dict[str, Pool]
    plan: Plan
    notes: tuple[str, ...] = ()
    plan_of: Callable[..., Plan] = lambda spec, limit=None: Plan(())
    command: str = ""

    def pools(self) -> list[tuple[str, Pool]]:
        """Return ("source" or "task", pool) of each."""
        return [
            *(("source", pool) for pool in self.sources.values()),
            *(("task", pool) for pool in self.tasks.values()),
        ]

    def unread(self) -> list[Pool]:
        """Return the pools with files not yet read: their fingerprints, and so the ids of trials, are provisional."""
        return [pool for _, pool in self.pools() if len(pool.unread())]

    def absent(self) -> list[StandIn]:
        """Return the pools without data: published counts stand in for them, and only a plan can be made."""
        return [pool for _, pool in self.pools() if isinstance(pool, StandIn)]


def open_sweep(spec: Spec, limit: int | None = None, plan_only: bool = False) -> Sweep:
    """Open every source and task of a spec and plan its trials, at most `limit`.

    `plan_only`: published counts may stand in for data that is not there. Raise UserError with the problems of all.
    """
    problems: list[Problem] = []
    sources = _open_sources(spec, plan_only, problems)
    tasks = _open_tasks(spec, plan_only, problems)
    for task in tasks.values():
        problems += [problem for problem in check_task(spec, task) if problem not in problems]
        problems += check_shared(spec, task, sources)
    weights = _weights(spec, problems)
    problems += check_tables(spec)
    problems += check_batches(spec, list(tasks.values()))
    if problems:
        raise UserError(*problems)
    notes = _warnings("source", sources.values()) + _warnings("task", tasks.values())
    if not spec.space.dimensions:
        if spec.excluded:
            notes.append(f"where: {spec.excluded:,} of {spec.excluded + len(spec.pretrains):,} mixtures do not meet it")
        spec, matched = _matched(spec, sources)
        notes += matched
    source_facts = {key: PoolFacts(pool.meaning, len(pool.catalog)) for key, pool in sources.items()}
    task_facts = {key: _task_facts(pool) for key, pool in tasks.items()}

    def plan_of(what: Spec, first: int | None = None) -> Plan:
        return make_plan(what, source_facts, task_facts, first, weights, lambda mixture: _details(mixture, sources))

    written = replace(spec, pretrains=()) if spec.space.dimensions else spec
    plan = plan_of(written, limit)
    return Sweep(spec, sources, tasks, plan, (*notes, *check_weights(spec, plan)), plan_of)


def drawable(mixture: Pretrain, sources: dict[str, Pool]) -> tuple[Pretrain, dict[str, Catalog]]:
    """Return a mixture and the catalogs of its sources; where one has no data, only what can be checked without it."""
    pools = {name: sources[pool_key(name, section)] for name, section in mixture.sources.items()}
    absent = any(isinstance(pool, StandIn) for pool in pools.values())
    return checkable(mixture) if absent else mixture, {name: pool.catalog for name, pool in pools.items()}


def location_of(spec: Spec, problem: Problem) -> str:
    """Return `file:line` of a mixture's problem: that of the key that its message begins with."""
    return spec.location(*problem.what.partition(":")[0].split("."))


def _open_sources(spec: Spec, plan_only: bool, problems: list[Problem]) -> dict[str, Pool]:
    sections = {
        pool_key(name, section): (name, section)
        for mixture in spec.pretrains
        for name, section in mixture.section.sources.items()
    }
    pools = {}
    for key, (name, section) in sections.items():
        try:
            pools[key] = _open("source", name, section, plan_only)
        except UserError as error:
            location = spec.location("pretrain", "sources", name)
            problems += [Problem(location, str(problem)) for problem in error.problems]
    return pools


def _open_tasks(spec: Spec, plan_only: bool, problems: list[Problem]) -> dict[str, Pool]:
    sections = {pool_key(level.section.name, level.section): level.section for level in spec.tasks}
    pools = {}
    for key, section in sections.items():
        try:
            pools[key] = _open("task", section.name, section, plan_only)
        except UserError as error:
            problems += [Problem(spec.location("task"), str(problem)) for problem in error.problems]
    return pools


def _open(kind: str, name: str, section: PoolSection, plan_only: bool) -> Pool:
    """Return a pool with its catalog read, or the published counts of one without data. Raise UserError."""
    pool = open_pool(kind, name, section)
    try:
        _ = pool.catalog
    except DataAbsent as absent:
        if plan_only and (catalog := pool.published()) is not None:
            return StandIn(pool, catalog, absent)
        raise
    return pool


def _weights(spec: Spec, problems: list[Problem]) -> dict[str, WeightsFacts]:
    """Return the facts of the published weights that mixtures name, by their tag or path."""
    weights = {}
    for text in {level.section.weights: None for level in spec.pretrains if level.section.weights}:
        try:
            weights[text] = weights_facts(text)
        except UserError as error:
            location = spec.location("pretrain", "weights")
            problems += [Problem(location, str(problem)) for problem in error.problems]
    return weights


def _warnings(kind: str, pools: Iterable[Pool]) -> list[str]:
    return [f"{kind} {pool.name}: {warning}" for pool in pools for warning in pool.warnings]


def _task_facts(task: Pool) -> PoolFacts:
    catalog = task.catalog
    train = np.bincount(catalog.labels[catalog.rows("train")], minlength=len(catalog.classes))
    splits = {split: len(catalog.rows(split)) for split in SPLITS}
    meaning = task.scored if isinstance(task, Task) else task.meaning  # a stand-in is no Task
    return PoolFacts(meaning, len(catalog), splits, tuple(train.tolist()))


def _matched(spec: Spec, sources: dict[str, Pool]) -> tuple[Spec, list[str]]:
    """Return the spec with equal numbers where its selection of classes varies, and notes on it; see `matching`.
    Raise UserError."""
    mixtures = [level.section for level in spec.pretrains]
    if any(isinstance(pool, StandIn) for pool in sources.values()):
        varies = len({repr(mixture.classes) for mixture in mixtures}) > 1
        return spec, ["not matched: numbers of classes and images, before the data is there"] if varies else []
    try:
        filled, lines = match(mixtures, lambda mixture: drawable(mixture, sources)[1])
    except UserError as error:
        raise UserError(*(Problem(location_of(spec, problem), str(problem)) for problem in error.problems)) from None
    levels = (Level(mixture, level.axes) for mixture, level in zip(filled, spec.pretrains, strict=True))
    return replace(spec, pretrains=tuple(levels)), lines


def _details(mixture: Pretrain, sources: dict[str, Pool]) -> MixtureDetails:
    checked, catalogs = drawable(mixture, sources)
    held = offers(checked, catalogs, dict.fromkeys(catalogs), [])
    return MixtureDetails(
        {key: hash_of(sorted(read_map(file).items())) for key, file in mixture.tables.items()},
        {name: int(offer.supply[offer.allowed].sum()) for name, offer in held.items()},
    )
