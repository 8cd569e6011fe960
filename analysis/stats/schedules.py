"""The schedule of fine-tuning: does its length, or its learning rate, move a model off the line?

Owns which of the two move the baseline, and the lines with them in: what is compared then is what each group would
score at the same schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import line_models
from analysis.stats.line_models import LineModel
from analysis.stats.study_group import Group

SCHEDULE = ("epoch", "finetune_lr")
MOVES = 0.10  # p under which one of them is taken to move the baseline off its line
MOST_RATES = 6  # learning rates that enter one by one; of more, their logarithm


def models(reference: Group, others: Sequence[Group], axes: tuple[str, ...]) -> Iterator[LineModel]:
    """Yield the baseline's line with epoch, with learning rate and with both in, of those that move it; and the line
    through its points of the other groups' epochs alone, where it has others too.

    Each is asked by itself as well: where both rise along the line neither is seen to move it beside the other.
    """
    varied = {name: columns(name, reference, others) for name in _varied(reference, others)}
    sets = [(name,) for name in varied] + ([tuple(varied)] if len(varied) > 1 else [])
    for names in sets:
        added = [column for name in names for column in varied[name]]
        model = line_models.with_columns(axes, added, f"with {' and '.join(names)}")
        if added and moves(model, reference, range(1 + len(axes), 1 + len(axes) + len(added)), MOVES):
            yield model
    theirs = {epoch for group in others for epoch in values(group, "epoch")}
    own = values(reference, "epoch")
    if own - theirs and own & theirs:
        yield LineModel(
            "equal epochs",
            line_models.straight(axes).design,
            weights=lambda points: points["epoch"].isin(theirs).to_numpy(float),
        )


def moving(reference: Group, others: Sequence[Group], axes: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of epoch and learning rate that move the baseline off its line by themselves."""
    made = {model.name for model in models(reference, others, axes)}
    return tuple(name for name in SCHEDULE if f"with {name}" in made)


def _varied(reference: Group, others: Sequence[Group]) -> list[str]:
    """Those that differ between the baseline's points, and are known of every point of all groups."""
    return [
        name for name in SCHEDULE
        if len(values(reference, name)) > 1
        and all(name in group.points and _numbers(group, name).notna().all() for group in (reference, *others))
    ] if others else []  # fmt: skip


def moves(model: LineModel, group: Group, columns: Sequence[int], p: float) -> bool:
    """Return whether any of these columns of a model moves the baseline's points off the straight line, at this p."""
    fit = model.fit(group.points, group.clusters())
    if fit is None:
        return False
    tests = [fit.coefficient(j).p for j in columns]
    return any(np.isfinite(test) and test <= p for test in tests)


def values(group: Group, name: str) -> set[float]:
    """Return the different numbers in a column of a group's points; empty where it has none."""
    return set(_numbers(group, name).dropna().astype(float)) if name in group.points else set()


def _numbers(group: Group, name: str) -> pd.Series:
    return pd.to_numeric(group.points[name], errors="coerce")


def columns(name: str, reference: Group, others: Sequence[Group] = ()) -> list[Any]:
    """Return how epoch or rate enters a line, functions of points: rates that all groups have one by one, else the
    logarithm."""
    levels = sorted(values(reference, name))
    shared = all(values(group, name) <= set(levels) for group in others)
    if name == "finetune_lr" and shared and len(levels) <= MOST_RATES:
        return [
            lambda points, level=level: (points[name].astype(float) == level).to_numpy(float) for level in levels[1:]
        ]
    if name == "epoch":  # zero is one: before any fine-tuning
        return [lambda points: points[name].to_numpy(float) / max(levels)]
    return [lambda points: np.log10(points[name].to_numpy(float))] if min(levels) > 0 else []
