"""Influence and selection: does one point or trial carry the result, and would choosing on OOD data have changed it?

Owns Cook's distances, the influence table (leave one trial out) and the selection table (best checkpoint by id_val, and
by ood_val).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.stats.chosen_points import comparable_points
from analysis.stats.estimates import Part, combine
from analysis.stats.robustness import Baseline, effective_robustness
from analysis.stats.study_group import Group

INFLUENCE = ("trial", "group", "moves", "change", "slope_without", "cook")
SELECTION = (
    "group", "trials", "er_by_id_val", "er_by_ood_val", "change", "ood_by_id_val", "ood_by_ood_val", "change_low",
    "change_high", "changed",
)  # fmt: skip
MOST_LEFT_OUT = 30  # trials of the baseline, those of the largest Cook's distance, whose absence is followed through


def cook_distances(points: pd.DataFrame, baseline: Baseline) -> np.ndarray:
    """Return Cook's (1977) distance of every point of the baseline, float [points]: how far all fitted values move when
    it is left out, in units of the residual variance and the number of coefficients. Over 4/n a point deserves
    attention."""
    design = np.column_stack([np.ones(len(points)), *(points[name] for name, _, _ in baseline.ids)])
    residual = points["y"].to_numpy() - baseline.line.at(points["x"].to_numpy())
    leverage = np.einsum("ij,jk,ik->i", design, np.linalg.pinv(design.T @ design), design)
    k, n = design.shape[1], len(points)
    variance = float(residual @ residual) / max(n - k, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return residual**2 / (k * variance) * leverage / (1 - leverage) ** 2


def influence_table(groups: Mapping[str, Group], baseline: Baseline) -> pd.DataFrame:
    """Return the influence of every trial, left out in turn: the group whose mean ER moves most, by how much
    (percentage points), strongest first. For a trial of the baseline the line is refitted: `slope_without` is its slope
    then, and `cook` is Cook's distance of the trial, all its points left out at once."""
    rows: list[dict[str, object]] = []
    inside = {name: group.points.loc[~group.points["extrapolated"]] for name, group in groups.items()}
    means = {name: _by_trial(points).mean() for name, points in inside.items()}
    own = groups[baseline.name]
    if own.trials > 1:
        rows += _without_baseline_trials(own, groups, means, baseline)
    for name, points in inside.items():
        by_trial = _by_trial(points)
        if name == baseline.name or len(by_trial) < 2:
            continue
        for trial, mean in ((by_trial.sum() - by_trial) / (len(by_trial) - 1)).items():
            rows.append({"trial": trial, "group": name, "moves": name, "change": mean - means[name]})
    table = pd.DataFrame(rows, columns=list(INFLUENCE))
    return table.sort_values("change", key=lambda c: -c.abs(), kind="stable", ignore_index=True)


def _without_baseline_trials(
    own: Group, groups: Mapping[str, Group], means: Mapping[str, float], baseline: Baseline
) -> list[dict[str, object]]:
    columns = [name for name, _, _ in baseline.ids]
    x, y = own.points[columns].to_numpy(float), own.points["y"].to_numpy()
    codes, trials = pd.factorize(own.points["trial"])
    fitted = np.array([baseline.line.intercept, *(baseline.line.slope * baseline.shares)])
    design = np.column_stack([np.ones(len(x)), x])
    k = design.shape[1]
    products = np.zeros((len(trials), k, k + 1))
    np.add.at(products, codes, design[:, :, None] * np.column_stack([design, y])[:, None, :])
    rest = products.sum(0) - products
    solved = np.linalg.matrix_rank(rest[:, :, :k], hermitian=True) == k
    without = np.full((len(trials), k), np.nan)
    without[solved] = np.linalg.solve(rest[solved, :, :k], rest[solved, :, k:])[:, :, 0]
    shift = without - fitted
    distance = np.einsum("ti,ij,tj->t", shift, design.T @ design, shift) / (k * max(baseline.line.variance, 1e-300))
    strongest = [t for t in np.argsort(-np.nan_to_num(distance, nan=-1.0), kind="stable") if solved[t]][:MOST_LEFT_OUT]
    others = {n: group.points.loc[~group.points["extrapolated"]] for n, group in groups.items() if n != baseline.name}
    rows: list[dict[str, object]] = []
    for t in strongest:
        moved = {}
        for name, points in others.items():
            if len(points):
                height = without[t, 0] + points[columns].to_numpy(float) @ without[t, 1:]
                er = effective_robustness(points["ood"], height, baseline.scale)
                moved[name] = _by_trial(points.assign(er=er)).mean() - means[name]
        name = max(moved, key=lambda n: abs(moved[n]), default="")
        rows.append(
            {"trial": trials[t], "group": baseline.name, "moves": name, "change": moved.get(name, np.nan),
             "slope_without": without[t, 1:].sum(), "cook": distance[t]}
        )  # fmt: skip
    return rows


def _by_trial(points: pd.DataFrame) -> pd.Series:
    """Mean ER by trial."""
    return points.groupby("trial", sort=False)["er"].mean()


def selection_table(points: pd.DataFrame, baseline: str, refused: bool) -> pd.DataFrame:
    """Return mean OOD score (a fraction) and ER (percentage points) of each trial's best checkpoint: by id_val, as one
    should, and by ood_val, which looks at the shift; the change of ER with its 95 % interval over trials, and in how
    many trials another checkpoint is chosen. Empty where the table has no validation scores.

    Points are chosen among those that the raw scores are (see `chosen_points`), of ties all count. ER is NaN where it
    is `refused`, and of trials whose chosen points do not all lie in the baseline's ID range.
    """
    if not {"id_val", "ood_val"} <= set(points):
        return pd.DataFrame(columns=list(SELECTION))
    rows = []
    comparable, _ = comparable_points(points, baseline)
    given = points["er"].where(~points["extrapolated"].astype(bool) & (not refused)).astype(float)
    table = points.assign(er_given=given).loc[comparable].dropna(subset=["id_val", "ood_val"])
    for name, own in table.groupby("group", sort=False):
        top = {key: own[key] == own.groupby("trial")[key].transform("max") for key in ("id_val", "ood_val")}
        means = {key: _trial_means(own.loc[mask]) for key, mask in top.items()}
        inside = pd.concat([mean["er_given"] for mean in means.values()], axis=1, keys=list(means)).dropna()
        er = {key: float(inside[key].mean()) for key in means}
        moved = (inside["ood_val"] - inside["id_val"]).to_numpy()
        spread = Part(float(moved.var(ddof=1)) / len(moved), len(moved) - 1) if len(moved) > 1 else None
        change = combine(er["ood_val"] - er["id_val"], [spread] if spread else [])
        differ = (top["id_val"] != top["ood_val"]).groupby(own["trial"]).any()
        rows.append(
            {
                "group": name,
                "trials": len(differ),
                "er_by_id_val": er["id_val"],
                "er_by_ood_val": er["ood_val"],
                "change": change.value,
                "ood_by_id_val": means["id_val"]["ood"].mean(),
                "ood_by_ood_val": means["ood_val"]["ood"].mean(),
                "change_low": change.low,
                "change_high": change.high,
                "changed": int(differ.sum()),
            }
        )
    return pd.DataFrame(rows, columns=list(SELECTION))


def _trial_means(points: pd.DataFrame) -> pd.DataFrame:
    """OOD score and ER by trial; NaN where one point has none."""
    return points.groupby("trial")[["ood", "er_given"]].agg(lambda values: values.mean(skipna=False))
