"""Where a score is lost under shift: recall by class, what classes are taken for, accuracy by test group.

Owns the three tables, in percentage points, made of `input.run_predictions.Confusion`. Errors are over trials, and for
classes over test images too: over the task's test groups, left out one at a time, or over single images without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr

from analysis.input.run_predictions import Confusion
from analysis.scales import PP
from analysis.stats.contrasts import holm
from analysis.stats.estimates import TWO_SIDED, quantiles, tied
from analysis.stats.task_points import pairing

SIDES = ("id", "ood")
CLASSES = ("group", "class", "id_images", "ood_images", "id_recall", "ood_recall", "change", "low", "high", "n_trials")
CONFUSIONS = ("group", "class", "taken_for", "id_images", "ood_images", "id_share", "ood_share", "change", "low",
              "high", "more_images", "n_trials")  # fmt: skip
TEST_GROUPS = ("split", "test_group", "images", "group", "score", "low", "high", "baseline_score", "delta", "delta_low",
               "delta_high", "p", "p_adjusted", "n_trials")  # fmt: skip
MOST_PAIRS = 2_000  # of classes that are taken for others, per group: those that grow most


def class_table(confusion: Confusion) -> pd.DataFrame:
    """Return the recall of every class and group in and out of distribution, and its change: columns `CLASSES`, the
    largest loss of a group first. Classes that one of the tests lacks have no change."""
    units_of, tables = _units(confusion), []
    for group, cells in _cells_of(confusion).items():
        units = units_of[group]
        right = cells[cells["label"].to_numpy() == cells["guess"].to_numpy()]
        hits, images = _dense(confusion, right, units, "label"), _images(confusion, cells, units)
        rows = _change(hits, images, confusion.grouped)
        rows = rows.rename(columns={"id": "id_recall", "ood": "ood_recall"})
        rows = rows.assign(group=group, n_trials=len(units), **{"class": confusion.classes})
        tables.append(rows.sort_values("change", kind="stable"))
    return _joined(tables, CLASSES)


def confusion_table(confusion: Confusion, groups: list[str]) -> pd.DataFrame:
    """Return which class is taken for which other one, as a share of its images, in and out of distribution, for these
    groups: columns `CONFUSIONS`. `more_images` is how many more images of the shifted test than at the ID share; the
    pairs with most of them come first, at most `MOST_PAIRS` of a group."""
    units_of, tables = _units(confusion), []
    for group, cells in _cells_of(confusion).items():
        if group not in groups:
            continue
        units, images = units_of[group], _images(confusion, cells, units_of[group])
        wrong = cells[cells["label"] != cells["guess"]]
        own = wrong.assign(pair=lambda t: t["label"] * len(confusion.classes) + t["guess"])
        totals = {side: own[own["side"] == side].groupby("pair")["n"].sum() / len(units) for side in SIDES}
        every = pd.Index(np.sort(own["pair"].unique()))
        label = (every // len(confusion.classes)).to_numpy(np.int64)
        shares = {
            s: totals[s].reindex(every, fill_value=0.0).to_numpy() / _over(images[s].sum(1)[label]) for s in SIDES
        }
        more = (shares["ood"] - shares["id"]) * images["ood"].sum(1)[label]
        top = np.argsort(-np.nan_to_num(more, nan=-np.inf), kind="stable")[:MOST_PAIRS]
        place = pd.Series(np.arange(len(top)), index=every[top])
        listed = own[own["pair"].isin(place.index)].assign(item=lambda t, place=place: place.loc[t["pair"]].to_numpy())
        hits = _dense(confusion, listed, units, "item", len(top))
        rows = _change(hits, {side: images[side][label[top]] for side in SIDES}, confusion.grouped)
        names, taken = np.asarray(confusion.classes, object), (every[top] % len(confusion.classes)).to_numpy(np.int64)
        rows = rows.rename(columns={"id": "id_share", "ood": "ood_share"})
        tables.append(rows.assign(group=group, taken_for=names[taken], more_images=more[top], n_trials=len(units),
                                  **{"class": names[label[top]]}))  # fmt: skip
    return _joined(tables, CONFUSIONS)


def test_group_table(confusion: Confusion, baseline: str) -> pd.DataFrame:
    """Return the accuracy of every group in every test group, and its difference from the baseline: columns
    `TEST_GROUPS`. Intervals are Student's over trials, of differences over seeds where groups share them, else Welch's;
    p is adjusted by Holm over the test groups of one split and group. Empty for a task without test groups."""
    if not confusion.grouped:
        return pd.DataFrame(columns=list(TEST_GROUPS))
    own_units, paired, tables = _units(confusion), pairing(confusion.units), []
    for side in SIDES:
        scores, images = _accuracies(confusion, side)
        tested = np.flatnonzero(images > 0)
        for group, units in own_units.items():
            own = scores[np.ix_(units, tested)]
            means = _means(own)
            table = pd.DataFrame({
                "split": f"{side}_test", "test_group": np.asarray(confusion.clusters, object)[tested],
                "images": images[tested], "group": group, "score": means.value, "low": np.maximum(0.0, means.low),
                "high": np.minimum(PP, means.high), "n_trials": len(units),
            })  # fmt: skip
            if baseline in own_units and group != baseline:
                reference = scores[np.ix_(own_units[baseline], tested)]
                codes = (paired.codes[units], paired.codes[own_units[baseline]]) if paired.seeds else None
                apart = _differences(own, reference, codes)
                table = table.assign(
                    baseline_score=reference.mean(0), delta=apart.value, delta_low=apart.low, delta_high=apart.high,
                    p=apart.p, p_adjusted=holm(apart.p.tolist()),
                )  # fmt: skip
            tables.append(table)
    return _joined(tables, TEST_GROUPS)


def _units(confusion: Confusion) -> dict[str, np.ndarray]:
    """The numbers of the trials of every group, in the order of the groups."""
    return {str(name): rows for name, rows in confusion.units.groupby("group", sort=False).indices.items()}


def _cells_of(confusion: Confusion) -> dict[str, pd.DataFrame]:
    """The cells of every group, in the order of the groups. They are sorted once, so that the time of a table grows
    with the cells and not with cells times groups."""
    numbers, names = pd.factorize(confusion.units["group"])
    own = numbers[confusion.cells["unit"].to_numpy()]
    cells = confusion.cells.iloc[np.argsort(own, kind="stable")]
    ends = np.cumsum(np.bincount(own, minlength=len(names)))
    return {str(name): cells.iloc[start:end] for name, start, end in zip(names, [0, *ends], ends, strict=False)}


def _dense(
    confusion: Confusion, cells: pd.DataFrame, units: np.ndarray, item: str, count: int = 0
) -> dict[str, np.ndarray]:
    """Images by side, float [units, items, clusters], of cells of these units whose item is a column."""
    shape = len(units), count or len(confusion.classes), len(confusion.clusters)
    place = np.full(len(confusion.units), -1)
    place[units] = np.arange(len(units))
    dense = {}
    for side in SIDES:
        own = cells[(cells["side"] == side).to_numpy()]
        at = np.ravel_multi_index(
            (place[own["unit"].to_numpy()], own[item].to_numpy(), own["cluster"].to_numpy()), shape
        )
        dense[side] = np.bincount(at, own["n"].to_numpy(), int(np.prod(shape))).reshape(shape)
    return dense


def _images(confusion: Confusion, cells: pd.DataFrame, units: np.ndarray) -> dict[str, np.ndarray]:
    """Test images of a class and cluster by side, float [classes, clusters]."""
    return {side: own.mean(0) for side, own in _dense(confusion, cells, units, "label").items()}


def _change(hits: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], grouped: bool) -> pd.DataFrame:
    """The share of images that were hit, by side and out less in distribution, percentage points: `id`, `ood`,
    `change`, `low`, `high`, and the images.

    hits    by side float [units, items, clusters]
    images  by side float [items, clusters]
    """
    count = len(hits["id"])
    totals = {side: images[side].sum(1) for side in SIDES}
    rates = {side: hits[side].sum(2) / _over(totals[side]) for side in SIDES}
    change = rates["ood"] - rates["id"]
    variances = [change.var(0, ddof=1) / count if count > 1 else np.full(change.shape[1], np.nan)]
    dfs = [np.full(change.shape[1], float(count - 1))]
    for side in SIDES:
        variance, df = _over_images(hits[side].mean(0), images[side], grouped)
        variances.append(variance)
        dfs.append(df)
    total = np.sum(variances, axis=0)
    df = total**2 / sum(v**2 / np.maximum(d, 1) for v, d in zip(variances, dfs, strict=True))
    reach = quantiles(TWO_SIDED, df) * np.sqrt(total)
    middle = change.mean(0)
    return pd.DataFrame({
        "id": PP * rates["id"].mean(0), "ood": PP * rates["ood"].mean(0), "change": PP * middle,
        "low": PP * np.maximum(middle - reach, -1), "high": PP * np.minimum(middle + reach, 1),
        "id_images": totals["id"], "ood_images": totals["ood"],
    })  # fmt: skip


def _over_images(hits: np.ndarray, images: np.ndarray, grouped: bool) -> tuple[np.ndarray, np.ndarray]:
    """The variance of a share of images over other test images, and its degrees of freedom, [items] each.

    Binomial, of a share moved two images of each kind towards a half (Agresti and Coull 1998), so that 0 of 5 has an
    error; with test groups the larger of that and the jackknife over them, none where one test group has all images.
    """
    n, x = images.sum(1), hits.sum(1)
    moved = (x + 2) / (n + 4)
    variance, df = moved * (1 - moved) / _over(n), n - 1
    if not grouped:
        return variance, df
    there = images > 0
    groups = there.sum(1)
    left = np.where(there, (x[:, None] - hits) / _over(n[:, None] - images), 0.0)
    mean = left.sum(1) / _over(groups)
    spread = (np.where(there, left - mean[:, None], 0.0) ** 2).sum(1) * (groups - 1) / _over(groups)
    spread[groups < 2] = np.nan
    return np.where(spread < variance, variance, spread), np.where(spread < variance, df, groups - 1.0)


def _accuracies(confusion: Confusion, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of every trial in every test group, percentage points [units, clusters], and images [clusters]."""
    own = confusion.cells[confusion.cells["side"] == side]
    shape = len(confusion.units), len(confusion.clusters)
    at = np.ravel_multi_index((own["unit"].to_numpy(), own["cluster"].to_numpy()), shape)
    right = np.where(own["label"] == own["guess"], own["n"], 0.0)
    images, hits = (np.bincount(at, n, int(np.prod(shape))).reshape(shape) for n in (own["n"].to_numpy(), right))
    return PP * hits / _over(images), images.max(0, initial=0)


@dataclass(frozen=True, eq=False)
class _Estimates:
    """Numbers with their standard errors and degrees of freedom, [n] each: `stats.estimates.Estimate` of many."""

    value: np.ndarray
    se: np.ndarray
    df: np.ndarray

    @property
    def low(self) -> np.ndarray:
        return self.value - self._reach

    @property
    def high(self) -> np.ndarray:
        return self.value + self._reach

    @property
    def _reach(self) -> np.ndarray:
        return np.where(tied(self.value, self.se), np.nan, quantiles(TWO_SIDED, self.df) * self.se)

    @property
    def p(self) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            p = 2 * stdtr(self.df, -np.abs(self.value) / self.se)
        return np.where((self.se > 0) & ~tied(self.value, self.se), p, np.nan)


def _means(values: np.ndarray) -> _Estimates:
    """Means over trials of [trials, n]."""
    count, unknown = len(values), np.full(values.shape[1], np.nan)
    if count < 2:
        return _Estimates(values.mean(0), unknown, unknown)
    return _Estimates(values.mean(0), values.std(0, ddof=1) / np.sqrt(count), np.full(values.shape[1], count - 1.0))


def _differences(a: np.ndarray, b: np.ndarray, codes: tuple[np.ndarray, np.ndarray] | None) -> _Estimates:
    """Means of a less means of b, [trials, n] each: of pairs where `codes` name their seeds, else by Welch."""
    if codes is not None:
        return _means(a[np.argsort(codes[0])] - b[np.argsort(codes[1])])
    one, other = _means(a), _means(b)
    variance = one.se**2 + other.se**2
    with np.errstate(invalid="ignore", divide="ignore"):
        df = variance**2 / (one.se**4 / one.df + other.se**4 / other.df)
    return _Estimates(one.value - other.value, np.sqrt(variance), np.where(variance > 0, df, one.df))


def _over(count: np.ndarray) -> np.ndarray:
    """A divisor that is NaN where it would be 0."""
    return np.where(count > 0, count, np.nan)


def _joined(tables: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame(columns=list(columns))
    return pd.concat(tables, ignore_index=True).reindex(columns=list(columns))
