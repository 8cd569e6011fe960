"""Notes on the points and trials of an analysis, a sentence each, whatever its result."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.formatting import percent
from analysis.stats.group_means import MeanER
from analysis.stats.robustness import Baseline
from analysis.stats.study_group import Group
from analysis.stats.task_points import TaskPoints

TARGET = "Intervals speak of the study repeated with {}."


def count_notes(points: pd.DataFrame, left_out: pd.DataFrame, baseline: Baseline | None) -> list[str]:
    """Return sentences on rows left out, points outside the baseline's range, clipped scores and lonely groups."""
    notes = []
    if len(left_out):
        notes.append(f"{len(left_out)} failed or empty rows are left out of every mean and line; they are listed")
    groups = list(dict.fromkeys(points["group"]))
    gone = [str(name) for name in dict.fromkeys(left_out["group"].dropna()) if name not in groups]
    if gone:
        notes.append(
            f"{', '.join(gone)}: no row with scores, so nothing is said about {'it' if len(gone) == 1 else 'them'}"
        )
    if len(groups) == 1:
        notes.append(f"there is no other group than {groups[0]}: nothing is compared")
    outside = points.loc[points["extrapolated"]]
    if len(outside) and baseline is not None:
        where = ", ".join(f"{name} {count}" for name, count in outside["group"].value_counts(sort=False).items())
        notes.append(
            f"{len(outside)} of {len(points)} points lie outside the baseline's ID range of {percent(baseline.low)} to "
            f"{percent(baseline.high)}: they are marked extrapolated and enter no mean ({where})"
        )
    clipped = int(points["clipped"].sum())
    if clipped:
        notes.append(
            f"{clipped} points have a score of 0 or 1, or so near to it, and were moved off it by half an example of "
            "their split"
        )
    for name, group in points.groupby("group", sort=False):
        if baseline is not None and group["extrapolated"].all():
            notes.append(f"{name}: no point lies in the baseline's ID range, so nothing is said about this group")
    return notes


def few_trials(groups: Mapping[str, Group], means: Mapping[str, MeanER], unit: str) -> list[str]:
    """Return a sentence on groups of one trial, and one on groups of two: what their intervals lack. Counted are the
    trials that a group's mean ER is of, where it has one."""
    trials = {name: means[name].trials if name in means else group.trials for name, group in groups.items()}
    one, two = ([name for name, own in trials.items() if own == count] for count in (1, 2))
    notes = []
    if one:
        notes.append(
            f"{', '.join(one)}: a single {unit}, so no interval can be given; the spread between {unit}s is unknown"
        )
    if two:
        wide = f"two {unit}s, whose spread is hardly known; intervals are as wide as that"
        if any(own > 2 for own in trials.values()):  # Satterthwaite's degrees of freedom are then too many
            wide += f", and beside groups of more {unit}s hold the truth less often than in 95 % of cases"
        notes.append(f"{', '.join(two)}: {wide}")
    return notes


def target(task_points: TaskPoints) -> str:
    """Return the sentence that names the repetition of the study that the intervals are about."""
    options, jackknife_scores = task_points.options, task_points.jackknife_scores
    names = {
        "ID groups": "test groups in distribution",
        "OOD groups": "test groups under shift",
        "groups": "test groups",
        "ID images": "test images in distribution",
        "OOD images": "test images under shift",
    }
    seeds = task_points.pairing.seeds
    trials = f"other {options.unit}s" if not seeds else f"{seeds} other seeds, which all groups share"
    if options.first_stage is not None:
        trials += f", and as many more as the scatter of the first {options.first_stage.seeds} asks for"
    others = [trials, *(f"other {names[scores.source.name]} of the same kind" for scores in jackknife_scores
                        if scores.source.name in names)]  # fmt: skip
    same = "" if len(jackknife_scores) else " and the same test images"
    return TARGET.format(f"{', '.join(others)}{same}")


def repetition(target: str) -> str:
    """Return what the repetition that `target` names has: `other trials and the same test images`."""
    before, after = TARGET.split("{}")
    return target.removeprefix(before).removesuffix(after)
