"""Open everything that a spec names (sources, tasks, weights) and plan its trials.

Reports every error that only the data can show, before anything is written. The commands and the benches use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ray_robust.data.columns import Column, columns_of
from ray_robust.data.duplicates.removal import meaning_of
from ray_robust.data.labels.class_labels import read_map
from ray_robust.data.mixtures.matching import match
from ray_robust.data.mixtures.mixture import images_drawn
from ray_robust.data.opened import open_pool
from ray_robust.data.pool import Catalog, Pool, Task
from ray_robust.data.published import StandIn, checkable
from ray_robust.data.weights import weights_facts
from ray_robust.errors import DataAbsent, Problem, UserError
from ray_robust.plan.plan import MixtureDetails, Plan, PoolFacts, WeightsFacts, hash_of, make_plan, pool_key
from ray_robust.prepare.data_checks import (
    called_alike,
    check_batches,
    check_deduplication,
    check_id_sets,
    check_objective,
    check_selections,
    check_shared,
    check_tables,
    check_task,
    unequal_sizes,
    without_effect,
)
from ray_robust.prepare.ready_weights import check_weights
from ray_robust.prepare.stored_form import DECODED, StoredForm, choose, with_form
from ray_robust.run.shifts import test_of
from ray_robust.spec.load import PoolSection, Pretrain, Spec


@dataclass(frozen=True)
class Sweep:
    """A checked spec with its data opened.

    sources, tasks  by pool_key
    plan            its trials; of a search those of the baseline
    notes           on how mixtures were matched, and on what may be wrong with the data
    plan_of         returns the trials of another spec with the same pools, at most so many
    command         that runs it, and continues it
    form            how images are stored where the spec leaves it open
    """

    spec: Spec
    sources: dict[str, Pool]
    tasks: dict[str, Pool]
    plan: Plan
    notes: tuple[str, ...] = ()
    plan_of: Callable[..., Plan] = lambda spec, limit=None: Plan(())
    command: str = ""
    form: StoredForm = DECODED

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


def open_sweep(spec: Spec, limit: int | None = None, plan_only: bool = False, form: StoredForm | None = None) -> Sweep:
    """Open every source and task of a spec and plan its trials, at most `limit`.

    plan_only  published counts may stand in for data that is not there
    form       how images are stored where the spec leaves it open; None: what there is room for

    Raise UserError with the problems of all.
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
    problems += check_selections(spec, sources)
    problems += check_deduplication(spec, sources, tasks)
    problems += check_objective(spec, tasks)
    problems += check_id_sets(spec, tasks.values())
    if problems:
        raise UserError(*problems)
    notes = _warnings("source", sources.values()) + _warnings("task", tasks.values())
    if not spec.space.dimensions:
        if spec.excluded:
            notes.append(f"where: {spec.excluded:,} of {spec.excluded + len(spec.pretrains):,} mixtures do not meet it")
        spec, matched = _matched(spec, sources)
        notes += matched
    if any(level.section.dedupe is not None for level in spec.pretrains):
        notes.append("dedupe: a plan counts images before repeated ones are left out; a run compares all, once decoded")
    notes += unequal_sizes(spec) + called_alike(spec) + without_effect(spec, sources)
    form = form or choose(spec, [*sources.values(), *tasks.values()])
    spec = with_form(spec, form)
    notes += [f"store: compact, since {form.why}"] if form.compact else []
    source_facts = {key: PoolFacts(pool.meaning, len(pool.catalog)) for key, pool in sources.items()}
    task_facts = {key: _task_facts(pool) for key, pool in tasks.items()}

    def plan_of(what: Spec, first: int | None = None) -> Plan:
        details = partial(_details, sources=sources, tasks=tasks)
        return make_plan(with_form(what, form), source_facts, task_facts, first, weights, details)

    written = replace(spec, pretrains=()) if spec.space.dimensions else spec
    plan = plan_of(written, limit)
    return Sweep(spec, sources, tasks, plan, (*notes, *check_weights(spec, plan)), plan_of, form=form)


def drawable(mixture: Pretrain, sources: dict[str, Pool]) -> tuple[Pretrain, dict[str, Catalog]]:
    """Return a mixture and the catalogs of its sources; where one has no data, only what can be checked without it."""
    pools = {name: sources[pool_key(name, section)] for name, section in mixture.sources.items()}
    absent = any(isinstance(pool, StandIn) for pool in pools.values())
    return checkable(mixture) if absent else mixture, {name: pool.catalog for name, pool in pools.items()}


def selected_by(mixture: Pretrain, sources: dict[str, Pool]) -> dict[str, Column]:
    """Return the columns that `select` of a mixture goes by, by source; see `columns_of`. Raise UserError."""
    return columns_of(mixture, {name: sources[pool_key(name, section)] for name, section in mixture.sources.items()})


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
    splits = {part: len(catalog.rows(part)) for part in catalog.parts}
    if isinstance(task, Task):
        splits |= {test_of(name): len(task.corrupted_rows()) for name in task.corrupted}
    meaning = task.scored if isinstance(task, Task) else task.meaning  # a stand-in is no Task
    without = task.without_shifts.scored if isinstance(task, Task) else ""
    return PoolFacts(meaning, len(catalog), splits, tuple(train.tolist()), without)


def _matched(spec: Spec, sources: dict[str, Pool]) -> tuple[Spec, list[str]]:
    """Return the spec with equal numbers where its selection of classes varies, and notes on it; see `matching`.
    Raise UserError."""
    mixtures = [level.section for level in spec.pretrains]
    if any(isinstance(pool, StandIn) for pool in sources.values()):
        varies = len({repr(mixture.classes) for mixture in mixtures}) > 1
        return spec, ["not matched: numbers of classes and images, before the data is there"] if varies else []
    try:
        filled, lines = match(
            mixtures, lambda mixture: drawable(mixture, sources)[1], lambda mixture: selected_by(mixture, sources)
        )
    except UserError as error:
        raise UserError(*(Problem(location_of(spec, problem), str(problem)) for problem in error.problems)) from None
    levels = (replace(level, section=mixture) for mixture, level in zip(filled, spec.pretrains, strict=True))
    return replace(spec, pretrains=tuple(levels)), lines


def _details(mixture: Pretrain, sources: dict[str, Pool], tasks: dict[str, Pool]) -> MixtureDetails:
    checked, catalogs = drawable(mixture, sources)
    columns = selected_by(checked, sources)
    meanings: dict[str, Any] = {key: hash_of(sorted(read_map(file).items())) for key, file in mixture.tables.items()}
    if checked.select is not None:  # by its values, wherever they are
        rule = checked.select.model_dump(mode="json", exclude={"table"}, exclude_defaults=True)
        meanings["select"] = {**rule, "values": {name: column.digest for name, column in columns.items()}}
    if checked.dedupe is not None:
        meanings["dedupe"] = meaning_of(checked.dedupe, list(tasks.values()))
    return MixtureDetails(
        meanings,
        lambda subset_seed: images_drawn(checked, catalogs, subset_seed, columns),
    )
