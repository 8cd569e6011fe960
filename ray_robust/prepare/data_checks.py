"""Errors of a spec that only its data can show: in tasks, in the CSV files of mixtures, in batches of one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ray_robust.data.labels.class_labels import read_map
from ray_robust.data.pool import Pool, Task
from ray_robust.errors import Problem, UserError
from ray_robust.metrics import METRICS
from ray_robust.spec.load import Spec


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

    for model in {level.section.name: level.section for level in spec.models}.values():
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
