"""The rows of the results table of a fine-tuning: every score of every evaluation, and the counts behind them.

Owns which scores a point has. Computed from predictions, labels and groups; needs no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from ray_robust.metrics import CONFIDENCE_SCORES, METRICS
from ray_robust.plan.plan import TEST_SPLITS
from ray_robust.run.results_schema import SCORE_SPLITS
from ray_robust.train.counts import group_counts
from ray_robust.train.evaluate import Predictions, Split
from ray_robust.train.finetune import Finetuned


def points(done: Finetuned, splits: Mapping[str, Split], metric: str) -> list[dict[str, Any]]:
    """Return one dict per evaluation, in order: the contract's point columns, then every other score of both tests.

    `metric` names the score that `id`, `ood`, `id_val` and `ood_val` hold. A score that does not exist is None.
    """
    return [
        {**asdict(point), "metric": metric, **_scores(predicted, splits, metric)}
        for point, predicted in done.predictions.items()
    ]


def _scores(predicted: Mapping[str, Predictions], splits: Mapping[str, Split], metric: str) -> dict[str, Any]:
    counted = {name: splits[name].tally(predicted[name].classes) for name in TEST_SPLITS}
    both = list(SCORE_SPLITS.items())
    scores: dict[str, float | int | None] = {
        **{name: METRICS[metric].score(counted[name]) for name in ("id_val", "ood_val")},
        **{side: METRICS[metric].score(counted[name]) for side, name in both},
        **{f"{side}_groups": _groups(splits[name]) for side, name in both},
        **{f"{side}_images": len(splits[name].labels) for side, name in both},
    }
    for what, each in METRICS.items():
        scores |= {f"{side}_{what}": each.score(counted[name]) for side, name in both}
    for side, name in both:
        right = predicted[name].classes == splits[name].labels
        for what, measure in CONFIDENCE_SCORES.items():
            scores[f"{side}_{what}"] = measure.function(right, predicted[name].confidence)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in scores.items()}


def _groups(split: Split) -> int | None:
    return None if split.groups is None else len(np.unique(split.groups))


def counts(done: Finetuned, splits: Mapping[str, Split]) -> pd.DataFrame | None:
    """Return counts per evaluation, split, group and class: the columns epoch, split and those of `group_counts`, with
    groups and classes as numbers, and wise_alpha for interpolated weights. None for a task without groups."""
    parts = []
    for point, predicted in done.predictions.items():
        for name in TEST_SPLITS:
            groups = splits[name].groups
            if groups is None:
                return None
            columns = group_counts(splits[name].labels, predicted[name].classes, groups)
            between = {} if point.wise_alpha is None else {"wise_alpha": point.wise_alpha}
            parts.append(pd.DataFrame({"epoch": np.int32(point.epoch), "split": name, **columns, **between}))
    return pd.concat(parts, ignore_index=True)
