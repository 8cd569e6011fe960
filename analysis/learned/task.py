"""Did the fine-tunings learn their task? The highest ID accuracy of every group beside chance.

Owns the rule: a group has *not learned the task* where even its best point, of all its settings and looks, is not above
what naming the most frequent class gives, by the rule of `upstream`, nor its best mean recall over classes above one in
their number, which any constant answer has: a test with a frequent class shows by the second what the first hides.
The best of many points is held against chance as if it were the only one: models at chance may pass.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import pandas as pd
from scipy import stats

from analysis.formatting import some
from analysis.learned.upstream import SHOWN, described, not_above, wilson
from analysis.scales import PP
from analysis.stats.estimates import TWO_SIDED

TABLE = ("group", "images", "accuracy", "low", "high", "chance", "not_learned")


def task_table(points: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Return one row per group: columns `TABLE`, accuracies in percentage points with Wilson's 95 % interval.

    points   every point of a task, with `id_accuracy`, `id_class_accuracy` and `id_images`
    classes  the test images by group and class: `shift.CLASSES`; a group that it lacks has no row
    """
    rows = []
    needed = ["id_accuracy", "id_class_accuracy", "id_images"]
    if not {*needed} <= set(points):
        return pd.DataFrame(columns=list(TABLE))
    for group, own in points.dropna(subset=needed).groupby("group", sort=False):
        counts = classes.loc[classes["group"] == group, "id_images"].to_numpy(float)
        counts = counts[counts > 0]
        if not counts.sum():
            continue
        best = own.loc[own["id_accuracy"].idxmax()]
        accuracy, images = float(best["id_accuracy"]), int(best["id_images"])
        low, high = wilson(round(accuracy * images), images)
        chance = float(counts.max() / counts.sum())
        rows.append((group, images, PP * accuracy, PP * low, PP * high, PP * chance,
                     not_above(accuracy, low, high, chance)
                     and _recalls_nothing(float(own["id_class_accuracy"].max()), counts)))  # fmt: skip
    return pd.DataFrame(rows, columns=list(TABLE))


def _recalls_nothing(recall: float, counts: np.ndarray) -> bool:
    """Whether a mean recall over classes of so many images each is not clearly above that of a constant answer, by the
    binomial errors of classes that all have this recall."""
    error = sqrt(recall * (1 - recall) * float((1 / counts).sum())) / len(counts)
    return recall - float(stats.norm.ppf(TWO_SIDED)) * error <= 1 / len(counts)


def warnings(table: pd.DataFrame) -> list[str]:
    """Return a sentence on the groups that have not learned the task; none where there is no such group."""
    own = table.loc[table["not_learned"].astype(bool)]
    if own.empty:
        return []
    what = some(list(map(described, own.to_dict("records"))), SHOWN, "group")
    return [f"the task was not learned: even the highest ID accuracy is not clearly above chance of {what}; the scores "
            "of these groups say nothing on robustness. A longer fine-tuning or another rate (finetune.epochs, "
            "finetune.lr) comes first"]  # fmt: skip
