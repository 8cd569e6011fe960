"""What a run's trainings learned, and where it is lost: `learned(table, points, ...) -> Learned`, every table of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pandas as pd

from analysis.input import run_agreement, run_curves, run_predictions
from analysis.input.table import Table
from analysis.learned import shift, task, upstream
from analysis.stats.raw_scores import RawScores
from ray_robust.text.names import count_noun


def _empty(columns: tuple[str, ...]) -> Callable[[], pd.DataFrame]:
    return partial(pd.DataFrame, columns=list(columns))


@dataclass(frozen=True, eq=False)
class Learned:
    """Tables of one task, of the points that the raw scores are read at.

    upstream     upstream accuracy and chance by group: `upstream.TABLE`
    curves       learning curves: `run_curves.CURVES`
    tasks        the highest ID accuracy and chance by group: `task.TABLE`
    classes, confusions, test_groups   see `shift`
    compared     the group with the highest OOD score, the baseline aside; "" where there is none
    warnings     on trainings that hardly learned or were still improving
    notes        what is missing, a sentence each
    """

    upstream: pd.DataFrame = field(default_factory=_empty(upstream.TABLE))
    tasks: pd.DataFrame = field(default_factory=_empty(task.TABLE))
    curves: pd.DataFrame = field(default_factory=_empty(run_curves.CURVES))
    classes: pd.DataFrame = field(default_factory=_empty(shift.CLASSES))
    confusions: pd.DataFrame = field(default_factory=_empty(shift.CONFUSIONS))
    test_groups: pd.DataFrame = field(default_factory=_empty(shift.TEST_GROUPS))
    compared: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def learned(table: Table, points: pd.DataFrame, scores: RawScores, baseline: str) -> Learned:
    """Return the tables of one task's points; empty ones of a table that no sweep wrote, or without points."""
    if not table.runs or points.empty or "finetune" not in points:
        return Learned()
    chosen = points.iloc[scores.choice.rows].reset_index(drop=True)
    order = list(dict.fromkeys(scores.groups["group"]))
    pretraining, curves, missing = run_curves.curves(table.runs, chosen)
    of_groups = upstream.upstream_table(run_curves.upstream(table.runs, chosen), pretraining, order)
    notes = []
    if missing:
        notes.append(
            f"{count_noun(missing, 'training')} left no learning curve: an earlier version trained them, or "
            "curves/*.json cannot be read"
        )
    if run_agreement.is_estimated(points):
        confusion, lost = None, "images of the OOD test have no labels"
    else:
        confusion, lost = run_predictions.count(table.runs, chosen)
    notes += [f"{lost}: nothing is shown by class and test group"] if lost else []
    compared = scores.leading(baseline)
    if confusion is None:
        return Learned(of_groups, curves=curves, compared=compared, warnings=tuple(upstream.warnings(of_groups)),
                       notes=tuple(notes))  # fmt: skip
    classes = shift.class_table(confusion)
    of_tasks = task.task_table(points, classes)
    return Learned(
        of_groups,
        of_tasks,
        curves,
        classes,
        shift.confusion_table(confusion, [baseline, compared]),
        shift.test_group_table(confusion, baseline),
        compared,
        (*upstream.warnings(of_groups), *task.warnings(of_tasks)),
        tuple(notes),
    )
