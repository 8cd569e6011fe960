"""Errors of a spec that only its data can show: in tasks, in the CSV files of mixtures, in batches of one image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ray_robust.data.columns import columns_of
from ray_robust.data.labels.class_labels import read_map
from ray_robust.data.mixtures.mixture import HELD_OUT_PER_CLASS
from ray_robust.data.pool import Pool, Task
from ray_robust.data.published import StandIn
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.metrics import METRICS
from ray_robust.plan.plan import pool_key
from ray_robust.spec.class_selection import granularity_text
from ray_robust.spec.load import Pretrain, Spec
from ray_robust.spec.search_section import EFFECTIVE_ROBUSTNESS
from ray_robust.text.names import count_noun


def check_task(spec: Spec, task: Pool) -> Iterator[Problem]:
    """Yield what a fine-tuning or a metric needs and the task does not have."""
    catalog = task.catalog
    if isinstance(task, Task) and METRICS[task.metric].needs_groups and catalog.group is None:
        yield Problem(spec.location("task", "metric"), f"task.metric: {task.name} has no groups, so no {task.metric}")
    held = len(catalog.rows("train"))
    baseline = spec.baseline_finetunes if "num_images" in spec.baseline.finetune else ()
    for path, levels in ((("finetune",), spec.finetunes), (("baseline", "finetune"), baseline)):
        asked = max((level.section.num_images or 0 for level in levels), default=0)
        if asked > held:
            what = f"{'.'.join(path)}.num_images: {asked:,} images, but {task.name} has {held:,} to train on"
            yield Problem(spec.location(*path, "num_images"), what)


def check_shared(spec: Spec, task: Pool, sources: Mapping[str, Pool]) -> Iterator[Problem]:
    """Yield the sources that the images of a task come from as well; of files their contents would show it later."""
    for source in sources.values():
        if isinstance(task, Task) and task.shares_images(source):
            what = f"task {task.name} is made of the images of source {source.name}, which would be pre-trained on"
            yield Problem(spec.location("task", "source"), f"{what}; give one of them another seed")


def check_tables(spec: Spec) -> Iterator[Problem]:
    """Yield what is wrong with the CSV files that mixtures name."""
    tables = {table: None for level in spec.pretrains for table in level.section.tables.items()}
    for key, file in tables:
        try:
            read_map(file)
        except UserError as error:
            for problem in error.problems:
                yield Problem(spec.location("pretrain", key), f"pretrain.{key}: {problem}")


def check_selections(spec: Spec, sources: Mapping[str, Pool]) -> Iterator[Problem]:
    """Yield what is wrong with the columns that mixtures select images by, each once."""
    where, seen = spec.location("pretrain", "select"), set[str]()
    mixtures = [level.section for level in spec.pretrains if level.section.select is not None]
    names = {name for mixture in mixtures for name in mixture.sources}
    tables: dict[str, str | None] = {}
    for mixture in mixtures:
        assert mixture.select is not None
        table, text = mixture.select.table, mixture.select.text
        if tables.setdefault(text, table) != table and text not in seen:
            seen.add(text)
            what = f"{tables[text]} and {table} have one name, by which results tell selections apart ({text})"
            yield Problem(where, f"pretrain.select.table: {what}; give one of them another")
        if strangers := [name for name in mixture.select.source if name not in names]:
            what = f"pretrain.select.source: {strangers[0]!r} is no source here{did_you_mean(strangers[0], names)}"
            problems: tuple[Problem, ...] = (Problem(where, what),)
        else:
            pools = {name: sources.get(pool_key(name, section)) for name, section in mixture.sources.items()}
            if None in pools.values() or any(isinstance(pool, StandIn) for pool in pools.values()):
                continue
            try:
                columns_of(mixture, {name: pool for name, pool in pools.items() if pool is not None})
                continue
            except UserError as error:
                problems = error.problems
        for problem in problems:
            if problem.what not in seen:
                seen.add(problem.what)
                yield Problem(where, problem.what)


def check_deduplication(spec: Spec, sources: Mapping[str, Pool], tasks: Mapping[str, Pool]) -> Iterator[Problem]:
    """Yield the mixtures in which no image can be there more than once, so that `dedupe` has nothing to compare."""
    made = all(task.rendered for task in tasks.values())
    problems: dict[str, Problem] = {}
    for mixture in (level.section for level in spec.pretrains if level.section.dedupe is not None):
        assert mixture.dedupe is not None
        pools = [sources.get(pool_key(name, section)) for name, section in mixture.sources.items()]
        what = ""
        if all(pool is not None and pool.rendered for pool in pools):
            what = f"images of {', '.join(mixture.sources)} are made here, each from random numbers of its own"
        elif made and tasks and not mixture.dedupe.within:
            what = f"images of task {', '.join(task.name for task in tasks.values())} are made here"
        if what:
            what = f"pretrain.dedupe: {what}, so that none is a repeated file; leave the key out"
            problems[what] = Problem(spec.location("pretrain", "dedupe"), what)
    yield from problems.values()


def check_objective(spec: Spec, tasks: Mapping[str, Pool]) -> Iterator[Problem]:
    """Yield the tasks whose OOD validation images are not there, where a search goes by them."""
    objective = spec.search.objective
    if spec.search.draws and objective in (EFFECTIVE_ROBUSTNESS, "ood_val"):
        for task in tasks.values():
            if not isinstance(task, StandIn) and not len(task.catalog.rows("ood_val")):
                what = f"search.objective: {objective} needs ood_val, which task {task.name} lacks; take id_val"
                yield Problem(spec.location("search", "objective"), what)


def unequal_sizes(spec: Spec) -> list[str]:
    """Return a note where a sweep compares images that are selected with others, and their number differs as well."""
    mixtures = [level.section for level in spec.pretrains if level.section.sources]
    free = [m for m in mixtures if m.num_images == "all" and m.images_per_class is None]
    selections = {m.select.text if m.select else "" for m in free}
    if len(selections) < 2 or any(m.select is not None and m.select.random for m in free):
        return []
    what = "select varies and num_images is not given: mixtures differ in their number of images as well"
    return [f"not matched: {what}; give num_images, or a control of equal size by random: {{grid: [false, true]}}"]


def without_effect(spec: Spec, sources: Mapping[str, Pool]) -> list[str]:
    """Return a note on each part of a mixture that decides nothing: weights, `holdout`, and combinations that mean the
    same as another."""
    mixtures = [level.section for level in spec.pretrains]
    notes = []
    if any(map(_unweighted, mixtures)):
        notes.append("pretrain.sources: weights decide nothing where images_per_class is given and num_classes is all: "
                     "each class of each source has as many images; give num_classes")  # fmt: skip
    share = max((m.holdout for m in mixtures if "holdout" in m.model_fields_set), default=0.0)
    if share and int(share * max(map(_largest_class, sources.values()), default=0)) > HELD_OUT_PER_CLASS:
        notes.append(f"pretrain.holdout: at most {HELD_OUT_PER_CLASS} images of a class are held out, whatever share")
    kinds = {mixture.model_dump_json(exclude={"match"}) for mixture in mixtures}
    if (again := len(mixtures) - len(kinds)) and not spec.space.dimensions:
        notes.append(f"pretrain: {count_noun(again, 'combination')} of its grids, equal in meaning to others, run once")
    return notes


def _largest_class(pool: Pool) -> int:
    """The most images that a class of a source has."""
    labels = pool.catalog.labels
    return int(np.bincount(labels[labels >= 0]).max(initial=0))


def _unweighted(mixture: Pretrain) -> bool:
    """Whether the weights of its sources divide nothing: neither classes, nor labels, nor images."""
    whole = mixture.images_per_class is not None and mixture.num_classes == "all"
    by_weight = mixture.granularity.startswith(("labels:", "random:")) or mixture.classes is not None
    return len(mixture.sources) > 1 and whole and not by_weight


def called_alike(spec: Spec) -> list[str]:
    """Return a note for each text by which results would call two choices of classes, labellings, or inputs."""
    called: dict[tuple[str, str], set[str]] = {}
    for mixture in (level.section for level in spec.pretrains):
        if mixture.classes is not None:
            called.setdefault(("classes", mixture.classes.text), set()).add(repr(mixture.classes.model_dump()))
        text = granularity_text(mixture.granularity)
        called.setdefault(("granularity", text), set()).add(mixture.granularity)
    models: dict[str, set[str]] = {}
    for model in (level.section for level in spec.models):
        models.setdefault(model.name, set()).add(repr((model.image_size, model.store)))
    notes = [
        f"model: {len(inputs)} sizes or forms of the images of {name} are called alike in results, and share the "
        "baseline's line; run a sweep for each"
        for name, inputs in models.items()
        if len(inputs) > 1
    ]
    return notes + [
        f"{key}: {len(choices)} choices are called {text!r} in results, and their regression takes them for one; give "
        "each in a .csv file of a name of its own"
        for (key, text), choices in called.items()
        if len(choices) > 1
    ]


def check_batches(spec: Spec, tasks: list[Pool]) -> Iterator[Problem]:
    """Yield the trainings whose batches are single images where the model's batch normalisation needs more. Load torch
    only where there is such a batch."""
    workers = spec.resources.workers
    for settings in (level.section for level in spec.pretrains):
        if settings.method in ("supervised", "simclr", "clip") and settings.batch_size < workers:
            what = f"pretrain.batch_size: {settings.batch_size} images cannot be shared out among {workers} workers"
            yield Problem(spec.location("pretrain", "batch_size"), what)
    single = _single_images(spec, tasks)
    if not single:
        return
    from ray_robust.train.models import trains_on_one

    for model in {(each.section.name, each.section.image_size): each.section for each in spec.models}.values():
        for keys, where in single.items() if not trains_on_one(model) else ():
            what = f"one image at a time{where} cannot pass the batch normalisation of {model.name} at "
            yield Problem(spec.location(*keys), f"{'.'.join(keys)}: {what}{model.image_size} px; give at least 2")


def _single_images(spec: Spec, tasks: list[Pool]) -> dict[tuple[str, ...], str]:
    """Return the keys of the spec that make batches of one image, each with where: "" or ` on each of N workers`."""
    single: dict[tuple[str, ...], str] = {}
    workers = spec.resources.workers
    for settings in (level.section for level in spec.pretrains):
        if settings.method == "supervised" and settings.batch_size // workers == 1:
            single["pretrain", "batch_size"] = "" if workers == 1 else f" on each of {workers} workers"
    counts = [np.bincount(task.catalog.labels[task.catalog.rows("train")]).tolist() for task in tasks]
    for path, levels in ((("finetune",), spec.finetunes), (("baseline", "finetune"), spec.baseline_finetunes)):
        for tuned in (level.section for level in levels):
            trained = min((tuned.training_images(count) for count in counts), default=tuned.batch_size)
            key = "batch_size" if tuned.batch_size == 1 else "num_images"
            own = path if key in spec.baseline.finetune else ("finetune",)
            if min(tuned.batch_size, trained) == 1 and tuned.method != "linear":  # which trains the head alone
                single[*own, key] = ""
    return single


def check_id_sets(spec: Spec, tasks: Iterable[Pool]) -> list[Problem]:
    """Return the error that tasks of one sweep have different ID sets: one analysis has one plane over them."""
    sets, where = {}, spec.location("task", "id_sets")
    for task in tasks:
        sets[task.name] = tuple(getattr(task.options, "id_sets", None) or ())
        if sets[task.name] and getattr(task.catalog, "unlabelled", ()):
            what = "task.id_sets: accuracy without labels is estimated over one ID test; omit these, or labels: none"
            return [Problem(where, what)]
    if len(set(sets.values())) < 2:
        return []
    each = "; ".join(f"{name}: {', '.join(names) or 'none'}" for name, names in sets.items())
    what = f"task.id_sets: tasks of one sweep have the same ID sets ({each}); run the others apart"
    return [Problem(where, what)]
