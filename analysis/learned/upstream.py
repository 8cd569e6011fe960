"""Did the pre-trainings learn, and had they learned what they could? Upstream accuracy beside chance, and its curve.

Owns the two rules. *Hardly learned*: upstream accuracy, or the lower end of its 95 % interval, is not above chance,
and its upper end is less than `ROOM` above it: an interval that leaves room for more is of too few held-out images.
*Still improving*: the second half of the training brought more than `LATE` of the fall of its loss, with 95 %
confidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.formatting import interval, name, percent, some
from analysis.scales import PP
from analysis.stats.estimates import TWO_SIDED
from ray_robust.run.learning_curve import LearningCurve

LATE = 0.2  # of the fall of the loss in the second half, from which on more training would add: docs/report.md
ROOM = 15.0  # percentage points above chance, which something that was learned would have shown
LEAST_POINTS = 8  # of a curve that is judged
SHOWN = 3  # groups that a sentence names
TABLE = ("group", "method", "n_trials", "images", "labels", "accuracy", "low", "high", "chance", "per_label",
         "hardly_learned", "n_curves", "n_improving", "late_share", "late_low", "late_high",
         "still_improving")  # fmt: skip


@dataclass(frozen=True)
class LateFall:
    """The share of the fall of the loss that the second half of a training brought, with its 95 % interval, and the
    change of held-out accuracy in it, NaN where that was not measured."""

    share: float
    low: float
    high: float
    gain: float = math.nan

    @property
    def improving(self) -> bool:
        """Whether more training would add: not where accuracy on held-out images has stopped to rise."""
        return self.low > LATE and not self.gain <= 0


def late_fall(curve: LearningCurve) -> LateFall | None:
    """Return how much of the fall came late; None of a curve that is too short, or of a loss that did not fall.

    The loss at the start is that of the first twentieth of the points, in the middle that around it (40 to 60 %), at
    the end that of the last tenth; noise is estimated from differences of neighbouring points of the second half.
    """
    losses = np.array(curve.loss, float)
    along = np.array(curve.step, float) / max(1, curve.steps)
    if len(losses) < LEAST_POINTS or not np.isfinite(losses).all():
        return None
    first = losses[: max(1, len(losses) // 20)]
    middle, last = losses[np.abs(along - 0.5) <= 0.1], losses[-max(2, len(losses) // 10) :]
    late = losses[along >= 0.5]
    noise = math.sqrt(float(np.mean(np.diff(late) ** 2)) / 2)
    fall = float(first.mean() - last.mean())
    if not len(middle) or fall <= 3 * noise * math.sqrt(1 / len(first) + 1 / len(last)):
        return None
    share = float(middle.mean() - last.mean()) / fall
    reach = float(stats.norm.ppf(TWO_SIDED)) * noise * math.sqrt(1 / len(middle) + 1 / len(last)) / fall
    return LateFall(share, share - reach, share + reach, _held_out_gain(curve))


def _held_out_gain(curve: LearningCurve) -> float:
    accuracy = dict(zip(curve.held_out_step, curve.held_out_accuracy, strict=True))
    half, end = accuracy.get(round(curve.steps / 2)), accuracy.get(curve.steps)
    return math.nan if half is None or end is None else end - half


def upstream_table(
    trials: pd.DataFrame, curves: Mapping[str, tuple[str, LearningCurve]], order: Sequence[str]
) -> pd.DataFrame:
    """Return one row per group with a pre-training: columns `TABLE`, accuracies in percentage points.

    The interval is Wilson's over all held-out images of the group's trials: it is about these very weights. Where an
    earlier version did not record how many there were it is Student's over trials. Chance is what a constant guess
    reaches, the share of the most frequent label, and at least one in the number of labels.
    """
    rows = []
    for group in order:
        own = trials.loc[trials["group"] == group]
        falls = [fall for of, curve in curves.values() if of == group and (fall := late_fall(curve)) is not None]
        if own.empty and not falls:
            continue
        count = sum(fall.improving for fall in falls)
        late = [
            float(np.mean([getattr(f, part) for f in falls])) if falls else math.nan
            for part in ("share", "low", "high")
        ]
        rows.append((group, *_accuracy(own), len(falls), count, *late, count > len(falls) / 2))
    return pd.DataFrame(rows, columns=list(TABLE))


def _accuracy(own: pd.DataFrame) -> tuple[object, ...]:
    """The columns of a group's upstream accuracy, `method` to `hardly_learned`."""
    if own.empty:
        return ("", 0, *[math.nan] * 7, False)
    per_label = float((1 / own["labels"]).mean())
    chance = float(np.fmax(own["largest"], 1 / own["labels"]).mean())
    low, high = _interval(own["accuracy"].to_numpy(float), own["images"].to_numpy(float))
    images, accuracy = float(own["images"].mean()), float(own["accuracy"].mean())
    return (str(own["method"].iloc[0]), len(own), images, float(own["labels"].mean()), PP * accuracy,
            PP * low, PP * high, PP * chance, PP * per_label,
            not_above(accuracy, low, high, chance))  # fmt: skip


def not_above(accuracy: float, low: float, high: float, chance: float) -> bool:
    """Return whether an accuracy with its 95 % interval, as fractions, shows that nothing was learned; False where the
    interval leaves room for more."""
    return (low <= chance or accuracy <= chance) and not PP * (high - chance) >= ROOM


def wilson(right: int, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    ends = stats.binomtest(right, images).proportion_ci(0.95, "wilson")
    return float(ends.low), float(ends.high)


def _interval(accuracies: np.ndarray, images: np.ndarray) -> tuple[float, float]:
    if np.isfinite(images).all():
        return wilson(round(float((accuracies * images).sum())), int(images.sum()))
    if len(accuracies) < 2:
        return math.nan, math.nan
    reach = stats.t.ppf(TWO_SIDED, len(accuracies) - 1) * stats.sem(accuracies)
    return float(accuracies.mean() - reach), float(accuracies.mean() + reach)


def described(row: Mapping[str, object]) -> str:
    """Return a group's accuracy, upstream or of its task, beside chance, as text."""
    ends = interval(float(str(row["low"])), float(str(row["high"])))
    return f"{name(row['group'])} {percent(float(str(row['accuracy'])) / PP)} ({ends}; chance {row['chance']:.1f})"


def warnings(table: pd.DataFrame) -> list[str]:
    """Return a sentence on pre-trainings that hardly learned, one on those of which too few held-out images tell, and
    one on those that were still improving."""
    sentences = []
    open_ = table.loc[~table["hardly_learned"].astype(bool) & (table["low"] <= table["chance"])].to_dict("records")
    if open_:
        what = some(
            [f"{described(row)} on {row['n_trials'] * row['images']:.0f} images" for row in open_], SHOWN, "group"
        )
        sentences.append(f"too few held-out images tell whether pre-training learned: upstream accuracy of {what}")
    hardly = table.loc[table["hardly_learned"].astype(bool)].to_dict("records")
    if hardly:
        what = some([described(row) for row in hardly], SHOWN, "group")
        sentences.append(
            f"pre-training hardly learned: upstream accuracy is not clearly above chance of {what}; scores of "
            "these groups do not show what such images teach. Another rate or a longer pre-training "
            "(pretrain.lr, pretrain.epochs or images_seen) comes first"
        )
    improving = [
        row for row in table.loc[table["still_improving"].astype(bool)].to_dict("records") if row not in hardly
    ]
    if improving:
        late = [f"{name(row['group'])} ({percent(row['late_share'], 0)})" for row in improving]
        what = some(late, SHOWN, "group")
        sentences.append(
            f"pre-training was still improving at its end: the second half brought more than {percent(LATE, 0)} of "
            f"the fall of the loss of {what}; a longer one (pretrain.epochs or images_seen) would learn more"
        )
    return sentences


def headline(table: pd.DataFrame, interim: bool = False) -> str:
    """Return what stands beside the first sentence on scores where a pre-training is not what it was meant to be: that
    the question was not tested, or only by an unfinished one; "" otherwise, and while trials are missing."""
    if interim:
        return ""
    hardly = table.loc[table["hardly_learned"].astype(bool)]
    improving = table.loc[table["still_improving"].astype(bool)]
    if len(hardly):
        groups = some(list(map(name, hardly["group"])), SHOWN, "group")
        numbers = f"upstream accuracy {_range(hardly['accuracy'])}, chance {_range(hardly['chance'])}"
        what = "The question was not tested" if len(hardly) == len(table) else f"Not tested for {groups}"
        return f"{what}: pre-training learned nothing that shows ({numbers})."
    if len(improving):
        groups = some(list(map(name, improving["group"])), SHOWN, "group")
        return f"Tested with an unfinished pre-training: that of {groups} was still improving at its end."
    return ""


def _range(points: pd.Series) -> str:
    ends = dict.fromkeys(percent(float(end) / PP) for end in (points.min(), points.max()))
    return " to ".join(ends)
