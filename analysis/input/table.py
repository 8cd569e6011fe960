"""The input of an analysis: points with finite scores, and where they come from.

`run_points` reads them from a run folder, `join_runs` from several, `plain_table` from any CSV.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from analysis.input.declared import Declared
from analysis.input.run_shifts import ShiftPoints
from analysis.stats.group_jackknife import Counts
from ray_robust.run.interim import Interim
from ray_robust.run.run_folder import RunFolder

LEFT_OUT = ("trial", "group", "task", "reason")  # columns of the rows without scores


def own_folder(name: str) -> str:
    """Return the folder of a plain table's report where nobody has named one: in the working directory."""
    return f"{name}-analysis"


@dataclass(frozen=True, eq=False)
class Table:
    """Points with finite scores in 0..1, one per row, and what is known about them.

    points    columns trial (the cluster), group, task, id, ood, [id_val, ood_val], and `keys`
    keys      the columns that say which point a row is, in order; they lead robustness.csv
    left_out  rows without scores: trial, group, task, reason; of runs also finetune, where it is not the whole trial
    warnings  one sentence each
    runs      the run folders that the points come from, none for a plain table
    title     what the report is called, empty unless somebody has said
    interim   what is missing, of runs that are not complete
    declared  what the runs decided before their scores were seen; None for a plain table
    shifts    points of one task -> the same on every further shift (see `run_shifts.read`)
    counts    points -> (Counts per side or None, sentences): what they predicted per group, where a run keeps it
    file      the file of a plain table, empty where there is none
    """

    name: str
    points: pd.DataFrame
    keys: tuple[str, ...]
    left_out: pd.DataFrame
    warnings: tuple[str, ...] = ()
    runs: tuple[RunFolder, ...] = ()
    counts: Callable[[pd.DataFrame], tuple[dict[str, Counts] | None, list[str]]] | None = None
    shifts: Callable[[pd.DataFrame], list[ShiftPoints]] | None = None
    title: str = ""
    interim: Interim | None = None
    declared: Declared | None = None
    file: str = ""

    def missing(self, task: str) -> pd.DataFrame:
        """Return the rows without scores of a task. A trial that failed before it could name its task is missing from
        every one of them."""
        return self.left_out.loc[self.left_out["task"].isna() | (self.left_out["task"] == task), list(LEFT_OUT)]

    @property
    def run(self) -> RunFolder | None:
        """The run folder, of several the first."""
        return self.runs[0] if self.runs else None
