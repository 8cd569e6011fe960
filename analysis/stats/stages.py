"""Errors of a study in two stages, whose second has as many seeds as the first one's variances asked for.

Stein (1945): a variance estimated in the first stage alone, with its degrees of freedom, gives intervals that hold
exactly however many trials it made the second stage have; that of all trials would be too small, since few are added
where the first ones happened to scatter little. So here every trial of the second stage is taken to vary as those of
the first did. Owns `over_stages`, the error of any fit over both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.options import FirstStage
from analysis.stats.cluster_robust import Robust


def of_first_stage(points: pd.DataFrame, rule: FirstStage) -> np.ndarray:
    """Return which points are of the first stage, bool [points]; all of trials without a seed."""
    if "seed" not in points:
        return np.ones(len(points), bool)
    seed = pd.to_numeric(points["seed"], errors="coerce").to_numpy(float)
    last = np.where(points["group"] == rule.baseline, rule.baseline_seeds, rule.seeds)
    return ~(seed > last)


@dataclass(frozen=True, eq=False)
class Stages:
    """Which clusters of a unit are of the first stage, bool [count]; `bonferroni` as in `FirstStage`."""

    first: np.ndarray
    bonferroni: float = 1.0

    @staticmethod
    def of(rule: FirstStage | None, codes: np.ndarray, first: np.ndarray, count: int) -> Stages | None:
        """Return the stages of clusters, int codes [points], whose points are of the first stage or not, bool
        [points]; None of a study in one stage."""
        if rule is None:
            return None
        early = np.zeros(count, bool)
        early[codes[first]] = True
        return Stages(early, rule.bonferroni)


def over_stages(
    fit: Callable[[np.ndarray], Robust | None], clusters: np.ndarray, stages: Stages | None
) -> Robust | None:
    """Return the error of `fit` over both stages; None where it has none.

    fit       rows, bool [n] -> the error of what is fitted to them alone
    clusters  int [n], the cluster of every row
    """
    whole = fit(np.ones(len(clusters), bool))
    if stages is None or whole is None:
        return whole
    if stages.first.all():
        return replace(whole, bonferroni=stages.bonferroni)
    rows, early = stages.first[clusters], np.flatnonzero(stages.first)
    there = np.isin(np.flatnonzero(~stages.first), clusters)
    first = fit(rows) if rows.any() else None
    if first is None:
        none = np.zeros((len(early) * (1 + len(there)), whole.without.shape[1]))
        return Robust(whole.unit, whole.name, none, whole.without, lambda _: np.nan, 0, stages.bonferroni)
    first = replace(first, effects=first.effects[early], without=whole.without, bonferroni=stages.bonferroni)
    return extended(first, first.used, first.used / len(np.unique(clusters)), there)


def extended(first: Robust, clusters: int, weight: float, there: np.ndarray) -> Robust:
    """Return the error of coefficients fitted to the clusters of a first stage and later ones.

    first     the error that the first stage has, of so many `clusters`
    weight    of one cluster, relative to what it has there: n0/n, if n0 of the n clusters are of the first stage
    there     which of the unit's later clusters the coefficients rest on, bool [later]

    A later cluster has the mean square of the first ones, and what it moves together in two groups is as they did:
    it is a copy of all of them, each with 1/n0 of its weight. So contributions of one seed still add up before they
    are squared, and a group that lacks the seed adds nothing to it.
    """
    own = first.effects * weight
    again = own / np.sqrt(clusters)
    return replace(first, effects=np.concatenate([own, *(again if one else np.zeros_like(again) for one in there)]))
