"""The evaluation point of each trial that its raw score is read at: the one that a user would keep.

Owns `choose`. Validation scores in distribution choose among the epochs and learning rates of a trial, as they would in
practice; where a table has none, the last epoch or the mean of a trial's points stands for it, and a sentence says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats.factor_coding import MOST_LEVELS

ID_VAL, LAST_EPOCH, MEAN = "id_val", "last epoch", "mean"
SETTINGS = ("model", "finetune_images", "finetune_method")  # what two groups are compared at, if both have it


@dataclass(frozen=True, eq=False)
class Choice:
    """rows   the chosen points, int, in the order of the table; of a trial with several, their mean counts
    by     how: `id_val`, `last epoch` or `mean`
    notes  sentences on that, and on points of the baseline that no other group can be compared with
    """

    rows: np.ndarray
    by: str
    notes: tuple[str, ...]


def choose(points: pd.DataFrame, baseline: str, within: Sequence[str] = ()) -> Choice:
    """Return the points that the raw scores are read at, per group and trial (and value of the columns `within`).

    id_val      the highest id_val; points that share it count alike
    last epoch  where a trial has no id_val: of each fine-tuning the last epoch
    mean        where there is no epoch either: all points

    One rule for all trials: a chosen point and a mean are no fair comparison. Points of the baseline with a model, a
    number of fine-tuning images or a method of fine-tuning that no other group has are left out: they make the line
    wide, and nothing can be compared with them.
    """
    comparable, notes = _comparable(points, baseline)
    own = points.loc[comparable]
    keys = ["group", "trial", *within]
    by, why = _rule(own)
    if by == MEAN:
        return Choice(np.flatnonzero(comparable), by, (*notes, *why))
    finest = [*keys, *(["finetune"] if by == LAST_EPOCH and "finetune" in own else [])]
    column = "id_val" if by == ID_VAL else "epoch"
    values = pd.to_numeric(own[column], errors="coerce").astype("float64")
    top = values.groupby([own[key] for key in finest], sort=False, dropna=False).transform("max")
    chosen = np.zeros(len(points), bool)
    chosen[np.flatnonzero(comparable)[(values == top).to_numpy()]] = True
    return Choice(np.flatnonzero(chosen), by, (*notes, *why))


def _rule(points: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
    """How points are chosen, and a sentence where it is not by id_val and makes a difference."""
    trials = points.groupby(["group", "trial"], sort=False)
    if "id_val" in points:
        with_scores = trials["id_val"].count()
        if (with_scores > 0).all():
            return ID_VAL, ()
        missing = f"{int((with_scores == 0).sum())} of {len(with_scores)} have no id_val"
    else:
        missing = "there is no column id_val"
    if (trials.size() == 1).all():
        return MEAN, ()  # of one point each: there is nothing to choose
    if "epoch" in points and pd.to_numeric(points["epoch"], errors="coerce").notna().all():
        return LAST_EPOCH, (f"raw scores are those of the last epoch of every fine-tuning: {missing} to choose by",)
    return MEAN, (f"raw scores are means over all points of a trial: {missing} to choose by",)


def _comparable(points: pd.DataFrame, baseline: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which points enter, bool [points]: all but those of the baseline in settings that no other group has."""
    everything = np.ones(len(points), bool)
    reference = (points["group"] == baseline).to_numpy()
    columns = [c for c in SETTINGS if c in points and 2 <= points[c].nunique(dropna=False) <= MOST_LEVELS]
    if not columns or reference.all() or not reference.any():
        return everything, ()
    settings = points.groupby(columns, sort=False, dropna=False).ngroup().to_numpy()
    shared = np.isin(settings, settings[~reference])
    left_out = reference & ~shared
    if not left_out.any() or not (reference & shared).any():
        return everything, ()
    note = (
        f"raw scores of {baseline} are those of the {int((reference & shared).sum())} of {int(reference.sum())} points "
        f"whose {' and '.join(columns)} other groups have too"
    )
    return ~left_out, (note,)
