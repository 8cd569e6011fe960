"""The evaluation point of each trial that its raw score is read at: the one that a user would keep.

Owns `choose`, and which points of the baseline are compared with groups. Validation scores in distribution
choose among the epochs and learning rates of a trial, as they would in practice; where a table has none, the last epoch
or the mean of a trial's points stands for it, and a sentence says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.stats.factor_coding import MOST_LEVELS

TRIAL = "trial"  # what a training of a sweep is called: those of a plain table are rows or clusters
ID_VAL, LAST_EPOCH, MEAN = "id_val", "last epoch", "mean"
# what two groups are compared at, if both have it: columns, or the length of a fine-tuning, and what they are called
LENGTH = "length"
SETTINGS = {
    "model": "model", "finetune_images": "finetune_images", "finetune_method": "finetune_method",
    "finetune_lr": "finetune_lr", "finetune_weight_decay": "finetune_weight_decay", LENGTH: "number of epochs",
}  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """What the points of a group are chosen from: `images` of its largest fine-tuning set, `epochs` of its longest
    fine-tuning, and `tries`, fine-tunings per trial; NaN where the table does not have them."""

    images: float = float("nan")
    epochs: float = float("nan")
    tries: float = float("nan")


@dataclass(frozen=True, eq=False)
class Choice:
    """rows    the chosen points, int, in the order of the table; of a trial with several, their mean counts
    by      how: `id_val`, `last epoch` or `mean`
    notes   sentences on that, and on points of the baseline that no other group can be compared with
    effort  of every group, what they were chosen from
    alike   whether groups can be taken to have the same kinds of models: see `raw_scores`
    """

    rows: np.ndarray
    by: str
    notes: tuple[str, ...]
    effort: Mapping[str, Effort] = field(default_factory=dict)
    alike: bool = True


def choose(points: pd.DataFrame, baseline: str, within: Sequence[str] = (), unit: str = TRIAL) -> Choice:
    """Return the points that the raw scores are read at, per group and trial (and value of the columns `within`).

    id_val      the highest id_val; points that share it count alike
    last epoch  where a trial has no id_val: of each fine-tuning the last epoch
    mean        where there is no epoch either: all points

    One rule for all trials: a chosen point and a mean are no fair comparison. Points of the baseline in `SETTINGS` that
    no other group has are left out: they make the line wide, and nothing can be compared with them. `unit` is what a
    trial is called.
    """
    comparable, notes = comparable_points(points, baseline)
    own = points.loc[comparable]
    by, why = _rule(own, unit)
    return Choice(rows_by(points, comparable, by, within), by, (*notes, *why), _effort(own))


def rows_by(points: pd.DataFrame, among: np.ndarray, by: str, within: Sequence[str] = ()) -> np.ndarray:
    """Return which points a rule chooses per group and trial (and value of `within`) among some, bool [points]: int
    rows, in order."""
    if by == MEAN:
        return np.flatnonzero(among)
    own = points.loc[among]
    finest = ["group", "trial", *within, *(["finetune"] if by == LAST_EPOCH and "finetune" in own else [])]
    column = "id_val" if by == ID_VAL else "epoch"
    values = pd.to_numeric(own[column], errors="coerce").astype("float64")
    top = values.groupby([own[key] for key in finest], sort=False, dropna=False).transform("max")
    return np.flatnonzero(among)[(values == top).to_numpy()]


def _effort(points: pd.DataFrame) -> dict[str, Effort]:
    groups: dict[str, Effort] = {}
    for name, own in points.groupby("group", sort=False):
        images, epochs = _numbers(own, "finetune_images").max(), _numbers(own, "epoch").max()
        tries = own.groupby("trial")["finetune"].nunique().mean() if "finetune" in own else np.nan
        groups[str(name)] = Effort(float(images), float(epochs), float(tries))
    return groups


def _numbers(points: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers, NaN where there is none."""
    values = points[column] if column in points else pd.Series(np.nan, index=points.index)
    return pd.to_numeric(values, errors="coerce").astype("float64")


def _rule(points: pd.DataFrame, unit: str) -> tuple[str, tuple[str, ...]]:
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
    if _numbers(points, "epoch").notna().all():
        return LAST_EPOCH, (f"raw scores are those of the last epoch of every fine-tuning: {missing} to choose by",)
    if unit != TRIAL and "id_val" not in points:  # nobody asked a table for one
        return MEAN, (f"raw scores are means over all rows of a {unit}",)
    return MEAN, (f"raw scores are means over all points of a {unit}: {missing} to choose by",)


def same_settings(points: pd.DataFrame) -> bool:
    """Return whether every group has the same models, fine-tuning sets, methods and rates, by the columns that name
    them; not where no such column varies."""
    columns = [column for column in SETTINGS if column in points and len(points[column].unique()) > 1]
    if not columns:
        return False
    cells = points[columns].astype(str).agg(tuple, axis=1)
    return len(set(cells.groupby(points["group"]).agg(frozenset))) == 1


def comparable_points(points: pd.DataFrame, baseline: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return which points enter, bool [points], and a sentence if not all do: those of the baseline in settings that no
    other group has are left out."""
    everything = np.ones(len(points), bool)
    reference = (points["group"] == baseline).to_numpy()
    settings = settings_of(points)
    if settings.empty or reference.all() or not reference.any():
        return everything, ()
    codes = settings.groupby(list(settings), sort=False, dropna=False).ngroup().to_numpy()
    shared = np.isin(codes, codes[~reference])
    left_out = reference & ~shared
    if not left_out.any() or not (reference & shared).any():
        return everything, ()
    apart = [SETTINGS[c] for c in settings if not settings.loc[left_out, c].isin(settings.loc[~reference, c]).all()]
    note = (
        f"raw scores of {baseline} are those of the {int((reference & shared).sum())} of {int(reference.sum())} points "
        f"whose {' and '.join(apart or [SETTINGS[c] for c in settings])} other groups have too"
    )
    return ~left_out, (note,)


def settings_of(points: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `SETTINGS` that vary over few values, rows aligned with `points`; what varies over
    many was drawn for each trial, and no two groups share it."""
    settings = points[[column for column in SETTINGS if column in points]].reset_index(drop=True)
    if {"finetune", "epoch"} <= set(points):
        one = [points[key].to_numpy() for key in ("group", "trial", "finetune")]
        settings[LENGTH] = _numbers(points, "epoch").groupby(one, dropna=False).transform("max").to_numpy()
    few = [column for column in settings if 2 <= settings[column].nunique(dropna=False) <= MOST_LEVELS]
    return settings[few]
