"""Which of a task's classes each class of a further test set is: by its name alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ray_robust.data.pool import Catalog
from ray_robust.data.readers.file_pool import FilePool
from ray_robust.data.readers.label_checks import other_forms
from ray_robust.data.readers.table import first_few
from ray_robust.data.tasks.shift_options import TestSet
from ray_robust.errors import Problem, UserError, did_you_mean
from ray_robust.text.names import count_noun, describe_difference, quoted

SHOWN = 3  # classes in a message


def numbers_in_task(pool: FilePool, shift: TestSet, own: Sequence[str]) -> np.ndarray:
    """Return int32 per class of a test set, its number among the task's classes `own`; -1 of one that the task lacks.

    Raises UserError for such a class, unless `unseen: drop` leaves it out, and for one that is only written otherwise.
    """
    classes, place = pool.catalog.classes, {label: i for i, label in enumerate(own)}
    numbers = np.array([place.get(label, -1) for label in classes], np.int32)
    unknown = [label for label, number in zip(classes, numbers, strict=True) if number < 0]
    if problems := [*_written_otherwise(pool.catalog, pool.where, own)]:
        raise UserError(*first_few(len(problems), lambda i: problems[i]))
    if unknown and (shift.unseen == "fail" or len(unknown) > len(classes) - 2):
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        hint = did_you_mean(unknown[0], own)
        what = f"{len(unknown)} of its {len(classes)} classes are none of the task's: "
        right = "; leave them out with `unseen: drop`" if len(unknown) <= len(classes) - 2 else ""
        raise UserError(Problem(pool.where, f"{what}{', '.join(unknown[:SHOWN])}{more}{hint}{right}"))
    return numbers


def _written_otherwise(catalog: Catalog, where: str, own: Sequence[str]) -> Iterator[Problem]:
    """Yield the classes that the task has under another form of the name: left out, they would be missed."""
    counts = np.bincount(catalog.labels[catalog.labels >= 0], minlength=len(catalog.classes))
    count_of = dict(zip(catalog.classes, counts.tolist(), strict=True))
    for name, task_name in other_forms(catalog.classes, own):
        what = f"class {quoted(name)} ({count_noun(count_of[name], 'image')}) is {quoted(task_name)} in the task"
        yield Problem(
            where, f"{what}: they differ in {describe_difference([task_name, name])}; write both the same way"
        )
