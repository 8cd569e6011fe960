"""The rows of the results table of a fine-tuning: every score of every evaluation, and the counts behind them.

Owns which scores a point has. Computed from predictions, labels and groups; needs no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from ray_robust.metrics import CONFIDENCE_SCORES, METRICS, group_counts
from ray_robust.run.shifts import OWN, shift_of, tests_of
from ray_robust.train.evaluate import Predictions, Split
from ray_robust.train.finetune import Finetuned


def points(done: Finetuned, splits: Mapping[str, Split], metric: str) -> list[dict[str, Any]]:
    """Return one dict per evaluation and shift, in order: the contract's point columns, then every other score of both
    tests. The task's own OOD test comes first, then each further shift, with the ID score over its classes.

    `metric` names the score that `id`, `ood`, `id_val` and `ood_val` hold. A score that does not exist is None.
    """
    return [
        {**asdict(point), "metric": metric, **_scores(predicted, splits, metric, tests), **of_shift}
        for point, predicted in done.predictions.items()
        for tests, of_shift in _shifts(splits)
    ]


def _shifts(splits: Mapping[str, Split]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Yield for each shift the tests by score, and what its rows say of it."""
    own = tests_of(OWN, False)
    yield own, {"shift": OWN, "shift_classes": None, "er_estimated": _estimated(splits[own["ood"]])}
    for test in filter(shift_of, splits):
        name, only = shift_of(test), splits[test].only
        yield (
            tests_of(name, only is not None),
            {
                "shift": name,
                "shift_classes": None if only is None else len(only),
                "er_estimated": _estimated(splits[test]),
            },
        )


def _estimated(test: Split) -> bool | None:
    """Whether the OOD score is left to the analysis: the images have no labels."""
    return None if test.labelled else True


def _scores(
    predicted: Mapping[str, Predictions], splits: Mapping[str, Split], metric: str, tests: Mapping[str, str]
) -> dict[str, Any]:
    both = list(tests.items())
    scores: dict[str, float | int | None] = {
        **{name: splits[name].score(METRICS[metric], predicted[name].classes) for name in ("id_val", "ood_val")},
        **{side: splits[name].score(METRICS[metric], predicted[name].classes) for side, name in both},
        **{f"{side}_groups": _groups(splits[name]) for side, name in both},
        **{f"{side}_images": len(splits[name].labels) for side, name in both},
    }
    for what, each in METRICS.items():
        scores |= {f"{side}_{what}": splits[name].score(each, predicted[name].classes) for side, name in both}
    for side, name in both:
        right = predicted[name].classes == splits[name].labels
        for what, measure in CONFIDENCE_SCORES.items():
            value = measure.function(right, predicted[name].confidence)
            scores[f"{side}_{what}"] = value if splits[name].labelled else None
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in scores.items()}


def _groups(split: Split) -> int | None:
    return None if split.groups is None else len(np.unique(split.groups))


def counts(done: Finetuned, splits: Mapping[str, Split]) -> pd.DataFrame | None:
    """Return counts per evaluation, split, group and class: the columns epoch, split and those of `group_counts`, with
    groups and classes as numbers, and wise_alpha for interpolated weights; no test without labels. None for a task
    without groups."""
    parts, tests = [], [name for name in splits if name != "train" and splits[name].labelled]
    for point, predicted in done.predictions.items():
        for name in tests:
            groups = splits[name].groups
            if groups is None:
                return None
            columns = group_counts(splits[name].labels, predicted[name].classes, groups)
            between = {} if point.wise_alpha is None else {"wise_alpha": point.wise_alpha}
            parts.append(pd.DataFrame({"epoch": np.int32(point.epoch), "split": name, **columns, **between}))
    return pd.concat(parts, ignore_index=True)
