"""What a doubter asks: does one trial carry the result, and would choosing on OOD data have changed it?

Owns the influence table (leave one trial out) and the selection table (best checkpoint by id_val, and by ood_val).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.bootstrap import Weights, lines
from analysis.robustness import PP, Baseline

INFLUENCE = ("trial", "group", "moves", "change", "slope_without")
SELECTION = ("group", "trials", "er_by_id_val", "er_by_ood_val", "change", "ood_by_id_val", "ood_by_ood_val")


def influence(groups: Mapping[str, pd.DataFrame], weights: Mapping[str, Weights], baseline: Baseline) -> pd.DataFrame:
    """Leave each trial out in turn: the group whose mean ER moves most, by how much (percentage points), strongest
    first. For a trial of the baseline the line is refitted, and `slope_without` is its slope then."""
    rows: list[dict[str, object]] = []
    means = {name: points.loc[~points["extrapolated"], "er"].mean() for name, points in groups.items()}
    own = weights[baseline.name]
    if own.clusters > 1:
        points = groups[baseline.name]
        x, y = points["x"].to_numpy(), points["y"].to_numpy()
        without = Weights(1.0 - np.eye(own.clusters), own.codes)
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes, intercepts = lines(without, x, y)
        names = points["trial"].to_numpy()
        trials = [names[np.argmax(own.codes == c)] for c in range(own.clusters)]
        others = {n: p.loc[~p["extrapolated"]] for n, p in groups.items() if n != baseline.name}
        for trial, slope, intercept in zip(trials, slopes, intercepts, strict=True):
            if not np.isfinite(slope):
                continue
            moved = {
                n: (PP * (p["ood"] - baseline.scale.inverse(intercept + slope * p["x"]))).mean() - means[n]
                for n, p in others.items()
                if len(p)
            }
            name = max(moved, key=lambda n: abs(moved[n]), default="")
            rows.append(
                {"trial": trial, "group": baseline.name, "moves": name, "change": moved.get(name, np.nan),
                 "slope_without": slope}
            )  # fmt: skip
    for name, points in groups.items():
        inside = points.loc[~points["extrapolated"]]
        if name == baseline.name or inside["trial"].nunique() < 2:
            continue
        by_trial = inside.groupby("trial", sort=False)["er"].agg(["sum", "count"])
        rest = by_trial.sum() - by_trial
        for trial, mean in (rest["sum"] / rest["count"]).items():
            rows.append({"trial": trial, "group": name, "moves": name, "change": mean - means[name]})
    table = pd.DataFrame(rows, columns=list(INFLUENCE))
    return table.sort_values("change", key=lambda c: -c.abs(), kind="stable", ignore_index=True)


def selection(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean ER (percentage points) and OOD score (a fraction) of each trial's best checkpoint: by id_val, as one should,
    and by ood_val, which looks at the shift. Empty where the table has no validation scores."""
    rows = []
    for name, points in groups.items():
        if not {"id_val", "ood_val"} <= set(points):
            continue
        inside = points.loc[~points["extrapolated"]].dropna(subset=["id_val", "ood_val"])
        if inside.empty:
            continue
        by = {key: inside.loc[inside.groupby("trial", sort=False)[key].idxmax()] for key in ("id_val", "ood_val")}
        er = {key: chosen["er"].mean() for key, chosen in by.items()}
        rows.append(
            {
                "group": name,
                "trials": inside["trial"].nunique(),
                "er_by_id_val": er["id_val"],
                "er_by_ood_val": er["ood_val"],
                "change": er["ood_val"] - er["id_val"],
                "ood_by_id_val": by["id_val"]["ood"].mean(),
                "ood_by_ood_val": by["ood_val"]["ood"].mean(),
            }
        )
    return pd.DataFrame(rows, columns=list(SELECTION))
