"""What is analysed of a task on every shift: measured scores and counts as the run has them, or estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from analysis.input import run_agreement, run_shifts
from analysis.input.table import Table
from analysis.options import Options
from analysis.stats.agreement import Estimated
from analysis.stats.group_jackknife import Counts
from analysis.stats.shift_results import POOLED, OnShift, Shifts, shift_results
from ray_robust.run.shifts import OWN


def on_shifts(
    table: Table,
    points: pd.DataFrame,
    counts: Mapping[str, Counts] | None,
    options: Options,
    estimated: Estimated | None,
) -> Shifts:
    """Return the analysis of a task's own OOD test and of every further shift; nothing where there is none.

    points     of the task's own OOD test
    estimated  what its scores were estimated by, where it has no labels
    """
    further = table.shifts(points) if table.shifts else []
    pooled = POOLED if any(shift.part for shift in further) else ""
    tests = [OnShift(OWN, _scored(points, estimated), counts, pooled, estimated)]
    for one in further:
        made = run_agreement.estimated(table.runs, one.points, options, one.splits) if one.splits else None
        tests.append(OnShift(one.name, _scored(one.points, made), one.counts, estimated=made))
    shifts = shift_results(tests, options)
    if not further:
        return shifts
    more = [*run_shifts.repeated(table.runs, points), *run_shifts.left_out(table.runs, points)]
    return replace(shifts, notes=[*shifts.notes, *more])


def _scored(points: pd.DataFrame, estimated: Estimated | None) -> pd.DataFrame:
    return points if estimated is None else points.assign(ood=estimated.ood)
