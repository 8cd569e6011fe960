"""Which looks along fine-tuning ER is of: the mean of all of them, the last one, or the one that id_val chooses.

Owns which points of a group count under each (the baseline's all do: its line needs their spread), and the table of
mean ER under all three, with the difference from the one in use. Differences are of the same trials, so that what a
trial or the baseline's line does to both cancels. Effective robustness is gained and lost along fine-tuning
(Andreassen et al. 2021), so that the three may say different things.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.formatting import listed, name, signed, span
from analysis.stats import chosen_points, quantities
from analysis.stats.contrasts import LEVEL, UNKNOWN, adjust, claimed, row
from analysis.stats.group_means import MeanER, mean_er
from analysis.stats.quantities import Quantity
from analysis.stats.robustness import Baseline
from analysis.stats.study_group import Group
from ray_robust.run.analysis_settings import ID_VAL, LAST, LOOKS, MEAN

COLUMNS = ("group", "look", "used", "er", "er_low", "er_high", "n_used", "p", "p_adjusted", "equivalent", "difference",
           "difference_low", "difference_high", "difference_p", "difference_p_adjusted", "disagrees")  # fmt: skip
RULES = {LAST: chosen_points.LAST_EPOCH, ID_VAL: chosen_points.ID_VAL}
AT = {MEAN: "as", LAST: "at", ID_VAL: "at"}
NEEDS = {LAST: "epoch", ID_VAL: "id_val"}


@dataclass(frozen=True, eq=False)
class Looks:
    """What the looks say.

    used     the one that ER is of: the one asked for, or the mean where the points do not have what that needs
    several  whether there is a fine-tuning of a group with several looks: else all three are the same
    table    a row per group and look, columns `COLUMNS`, percentage points; empty without several looks or without ER
    disagreements  a sentence for every group whose ER at another look says something else
    """

    used: str = MEAN
    several: bool = False
    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    disagreements: tuple[str, ...] = ()

    def of(self, groups: Mapping[str, Group], baseline: Baseline, margin: float) -> Looks:
        """Return the same with its table and sentences. `groups` have the points of all looks, with ER."""
        if not self.several:
            return self
        table = look_table(groups, baseline, self.used, margin)
        return replace(self, table=table, disagreements=tuple(_sentences(table)))


def rows_at(points: pd.DataFrame, baseline: str, look: str) -> tuple[np.ndarray, str]:
    """Return the points that ER is of under a look, int rows in order, and "" or why it cannot be told: then all of
    them. Looks are chosen within each fine-tuning of a trial, so that all three are of the same fine-tunings."""
    every = np.arange(len(points))
    groups = (points["group"] != baseline).to_numpy()
    if look == MEAN or not several(points, baseline):
        return every, ""
    column = NEEDS[look]
    own = pd.to_numeric(points[column], errors="coerce")[groups] if column in points else pd.Series(dtype=float)
    keys = [points.loc[groups, key] for key in ("group", "trial", *_within(points))]
    complete = own.notna().groupby(keys, sort=False, dropna=False).any() if len(own) else pd.Series([False])
    if not complete.all():
        return every, f"ER is the mean of all looks, not that at {LOOKS[look]}: some fine-tuning has no {column}"
    chosen = chosen_points.rows_by(points, groups, RULES[look], _within(points))
    return np.sort(np.concatenate([every[~groups], chosen])), ""


def several(points: pd.DataFrame, baseline: str) -> bool:
    """Return whether some fine-tuning of a group was looked at more than once."""
    own = points.loc[points["group"] != baseline]
    if "epoch" not in own or own.empty:
        return False
    looks = own.groupby(["group", "trial", *_within(points)], sort=False, dropna=False)["epoch"].nunique()
    return bool((looks > 1).any())


def _within(points: pd.DataFrame) -> list[str]:
    return [column for column in ("finetune", "wise_alpha") if column in points]


def look_table(groups: Mapping[str, Group], baseline: Baseline, used: str, margin: float) -> pd.DataFrame:
    """Return mean ER of every group under every look, columns `COLUMNS`. `groups` have the points of all looks, with
    ER. Holm's correction is over the groups of a look, of differences over all of them."""
    own = {name: group for name, group in groups.items() if name != baseline.name}
    at = {look: _means(own, baseline, look) for look in LOOKS}
    rows, apart = [], []
    for group in own:
        for look in LOOKS:
            mean, *both = at[look].get(group), *(_quantity(at[one].get(group)) for one in (look, used))
            key = {"group": group, "look": look, "n_used": mean.points if mean else 0, "family": look}
            rows.append({**row(both[0], margin), **key})
            difference = quantities.weighted(both, [1.0, -1.0])
            apart.append({**row(difference, margin), "family": "looks" if look != used else "used"})
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS))
    table, differences = adjust(pd.DataFrame(rows)), adjust(pd.DataFrame(apart))
    table = table.assign(used=table["look"] == used, er=table["delta_er"], er_low=table["low"], er_high=table["high"])
    for column in ("delta_er", "low", "high", "p", "p_adjusted"):
        end = "" if column == "delta_er" else f"_{column}"
        table[f"difference{end}"] = differences[column].where(~table["used"])
    table["disagrees"] = _disagree(table, margin)
    return table[list(COLUMNS)]


def _quantity(mean: MeanER | None) -> Quantity:
    """The mean ER, unknown where no point lies in the baseline's range at that look."""
    return UNKNOWN if mean is None else mean.quantity


def _means(groups: Mapping[str, Group], baseline: Baseline, look: str) -> dict[str, MeanER]:
    means = {}
    for each, group in groups.items():
        rows, why = rows_at(group.points, baseline.name, look)
        chosen = np.zeros(len(group.points), bool)
        chosen[rows] = not why
        mean = mean_er(group, baseline, baseline.low, baseline.high, chosen)
        if mean is not None:
            means[each] = mean
    return means


def _sentences(table: pd.DataFrame) -> Iterator[str]:
    for group, own in table.groupby("group", sort=False):
        if own["disagrees"].any():
            rows = own.to_dict("records")
            used = next(one for one in rows if one["used"])
            others = listed([_text(one) for one in rows if not one["used"]])
            yield f"ER of {name(group)} depends on the look: {_text(used)}, which findings speak of; {others}"


def _text(one: Mapping[str, Any]) -> str:
    return f"{signed(one['er'])} points {span(one['er_low'], one['er_high'])} {AT[one['look']]} {LOOKS[one['look']]}"


def _disagree(table: pd.DataFrame, margin: float) -> np.ndarray:
    """Which rows say something else than the look in use: the claims contradict each other, or the difference is shown
    and larger than the margin."""
    used = table.loc[table["used"]].set_index("group").to_dict("index")
    rows = table.to_dict("records")
    return np.array([not one["used"] and _disagrees(one, used[one["group"]], margin) for one in rows], bool)


def _disagrees(one: Mapping[str, Any], used: Mapping[str, Any], margin: float) -> bool:
    kinds = {claimed(one), claimed(used)}
    turned = kinds == {"differs"} and np.sign(one["delta_er"]) != np.sign(used["delta_er"])
    shown = one["difference_p_adjusted"] <= LEVEL and abs(one["difference"]) > margin
    return bool(turned or kinds == {"differs", "equivalent"} or shown)
