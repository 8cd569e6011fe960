"""Did the fine-tunings learn their task? The highest ID accuracy of every group beside chance.

Owns the rule: a group has *not learned the task* where even its best point, of all its settings and looks, is not above
what naming the most frequent class gives, by the rule of `upstream`.
"""

from __future__ import annotations

import pandas as pd

from analysis.formatting import interval, name, percent, some
from analysis.learned.upstream import SHOWN, not_above, wilson
from analysis.scales import PP

TABLE = ("group", "images", "accuracy", "low", "high", "chance", "not_learned")


def task_table(points: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Return one row per group: columns `TABLE`, accuracies in percentage points with Wilson's 95 % interval.

    points   every point of a task, with `id_accuracy` and `id_images`
    classes  the test images by group and class: `shift.CLASSES`; a group that it lacks has no row
    """
    rows = []
    if not {"id_accuracy", "id_images"} <= set(points):
        return pd.DataFrame(columns=list(TABLE))
    for group, own in points.dropna(subset=["id_accuracy", "id_images"]).groupby("group", sort=False):
        counts = classes.loc[classes["group"] == group, "id_images"]
        if not counts.sum():
            continue
        best = own.loc[own["id_accuracy"].idxmax()]
        accuracy, images = float(best["id_accuracy"]), int(best["id_images"])
        low, high = wilson(round(accuracy * images), images)
        chance = float(counts.max() / counts.sum())
        rows.append((group, images, PP * accuracy, PP * low, PP * high, PP * chance,
                     not_above(accuracy, low, high, chance)))  # fmt: skip
    return pd.DataFrame(rows, columns=list(TABLE))


def described(row: pd.Series) -> str:
    """Return a group's highest ID accuracy beside chance, as text."""
    ends = interval(float(row["low"]), float(row["high"]))
    return f"{name(row['group'])} {percent(float(row['accuracy']) / PP)} ({ends}; chance {row['chance']:.1f})"


def warnings(table: pd.DataFrame) -> list[str]:
    """Return a sentence on the groups that have not learned the task; none where there is no such group."""
    own = table.loc[table["not_learned"].astype(bool)]
    if own.empty:
        return []
    what = some([described(row) for _, row in own.iterrows()], SHOWN, "group")
    return [f"the task was not learned: even the highest ID accuracy is not clearly above chance of {what}; the scores "
            "of these groups say nothing on robustness. A longer fine-tuning or another rate (finetune.epochs, "
            "finetune.lr) comes first"]  # fmt: skip
