"""The least squares behind the factors: which points make a row, and any combination of coefficients with its error.

Owns `Layout` and `Rows` (one row per trial, whose ER is its mean inside the baseline's range) and `Fit`. What a sweep's
factors are is in `factor_coding`, what is asked of them in `factors`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.stats import quantities
from analysis.stats.cluster_robust import Robust
from analysis.stats.factor_coding import CATEGORIES, FACTORS, WITHIN_TRIALS, nested_in
from analysis.stats.group_means import mean_er
from analysis.stats.least_squares import Clusters, errors_of
from analysis.stats.quantities import Quantity
from analysis.stats.robustness import Baseline, er_gradient
from analysis.stats.stages import Stages
from analysis.stats.study_group import Group

LEAST_DF = 2.0  # of a slope: with fewer its interval is not to be trusted
RANK = 1e-10  # singular values of a design, as a share of the largest, that are rounding


@dataclass(frozen=True, eq=False)
class Layout:
    """Which points make one row of a regression: the same whatever line ER is measured from.

    cells   a row per trial (and per value of what varies inside a trial): group (its number), trial, cluster, whether
            it is of the first stage, and the factors' columns
    codes   int [points of all groups], the cell of each
    unit    what `cluster` counts: trials, or seeds where groups are paired by them
    """

    cells: pd.DataFrame
    codes: np.ndarray
    unit: str

    @staticmethod
    def of(groups: Sequence[Group], names: Collection[str] = ()) -> Layout | None:
        """Return the layout of these groups; None where they have no factor's column. Columns in `names` are none."""
        columns = [c for c in (*FACTORS, *CATEGORIES, "sources") if c not in names]
        keys = [c for c in columns if any(c in group.points for group in groups)]
        parts = [group.points.reindex(columns=["trial", *keys]).assign(group=i, cluster=group.codes, first=group.first)
                 for i, group in enumerate(groups)]  # fmt: skip
        points = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        if points.empty or not keys:
            return None
        inner = [key for key in WITHIN_TRIALS if key in keys]
        by = points.groupby(["group", "trial", *inner], sort=False, dropna=False)
        cells = by[["cluster", "first", *(key for key in keys if key not in inner)]].first().reset_index()
        units = {group.unit for group in groups}
        return Layout(cells, by.ngroup().to_numpy(), units.pop() if len(units) == 1 and len(groups) > 1 else "")


def varied(groups: Mapping[str, Group], baseline: str) -> list[Group]:
    """Return the groups whose trials enter the regression: all but the baseline and points between weights."""
    return [group for group in groups.values() if group.name != baseline and not _between_weights(group.points)]


def names_of_rows(groups: Mapping[str, Group]) -> list[str]:
    """Return the categories whose levels are names within groups, the baseline among them (see `nested_in`): a level of
    one group less that of another is a difference of the groups, and no effect of the level."""
    names = []
    for column in CATEGORIES:
        own = [group.points[[column]].assign(group=name) for name, group in groups.items() if column in group.points]
        cells = pd.concat(own).dropna() if own else pd.DataFrame({column: [], "group": []})
        cells = cells.loc[cells[column].astype(str) != ""]
        if nested_in(cells[column].to_numpy(), cells["group"].to_numpy()):
            names.append(column)
    return names


@dataclass(frozen=True, eq=False)
class Rows:
    """One row per cell with a point inside the baseline's range: mean ER, and which points it is the mean of."""

    values: pd.DataFrame  # the factors' columns
    er: np.ndarray  # [rows]
    clusters: np.ndarray  # int [rows]: trials, or seeds where groups are paired by them
    unit: str
    groups: list[tuple[Group, np.ndarray]]  # every group with its points inside (int), in the order of `codes`
    codes: np.ndarray  # int [points], the row of each
    stages: Stages | None = None  # of the clusters

    @staticmethod
    def of(groups: Sequence[Group], layout: Layout | None) -> Rows | None:
        """Return the rows of these groups; None where no point lies in the baseline's range, or nothing varies."""
        chosen = [(group, np.flatnonzero(group.inside)) for group in groups]
        if layout is None or not sum(len(rows) for _, rows in chosen):
            return None
        cells = layout.codes[np.concatenate([group.inside for group in groups])]
        used, first, codes = np.unique(cells, return_index=True, return_inverse=True)
        order = np.argsort(first)  # as they come
        values = layout.cells.iloc[used[order]].reset_index(drop=True)
        keys = [key for key in values if key not in ("group", "trial", "cluster", "first")]
        same = [key for key in keys if len(values[key].unique()) < 2]
        if len(same) == len(keys):
            return None
        codes = np.argsort(order)[codes]
        er = np.concatenate([group.points["er"].to_numpy(float)[rows] for group, rows in chosen])
        paired = bool(layout.unit)
        clusters = values["cluster"].to_numpy() if paired else pd.factorize(values["trial"].astype(str))[0]
        means = np.bincount(codes, er) / np.bincount(codes)
        unit = layout.unit if paired else "trials"
        stages = groups[0].stages
        if stages is not None and not paired:
            first = np.zeros(int(clusters.max()) + 1, bool)
            first[clusters[values["first"].to_numpy(bool)]] = True
            stages = Stages(first, stages.bonferroni)
        return Rows(values.drop(columns=[*same, "first"]), means, clusters, unit, chosen, codes, stages)

    @property
    def trials(self) -> int:
        """The number of different trials."""
        return int(self.values["trial"].nunique())

    @cached_property
    def gradients(self) -> np.ndarray:
        """What one unit of every coefficient of the line does to the mean expectation of each row: float [rows, k]."""
        return self.means(np.concatenate([group.gradient[points] for group, points in self.groups]))

    def means(self, per_point: np.ndarray) -> np.ndarray:
        """Return the mean over each row's points: [points, k] -> [rows, k]."""
        sums = np.zeros((len(self.er), per_point.shape[1]))
        np.add.at(sums, self.codes, per_point)
        return sums / np.bincount(self.codes)[:, None]


class Fit:
    """Least squares of the rows' ER on a design: any combination of its coefficients with its error. Without a baseline
    the values have no error of a line (see `mean_er`)."""

    def __init__(self, design: np.ndarray, rows: Rows, baseline: Baseline | None) -> None:
        self.design, self.rows, self.baseline = design, rows, baseline
        self.inverse = np.linalg.pinv(design, rcond=RANK)  # [k, rows]
        self.residuals = rows.er - design @ (self.inverse @ rows.er)
        self.sse = float(self.residuals @ self.residuals)
        self._patterns = np.unique(np.round(design, 9), axis=0, return_inverse=True)[1].ravel()
        own = pd.Series(list(zip(self._patterns, rows.values["group"], strict=True)))
        self._cells = pd.factorize(own)[0]  # rows that were trained on the same
        self.repeated = bool((np.bincount(self._cells) >= 2).all())

    def estimable(self, combination: np.ndarray) -> bool:
        """Return whether the design determines it."""
        return bool(np.abs(combination - self.inverse @ (self.design @ combination)).max() < 1e-7)

    def quantity(self, combination: np.ndarray) -> Quantity:
        """Return `combination` [k] @ coefficients with its error: from the means of what was trained several times,
        else from residuals."""
        by_row = combination @ self.inverse  # it is by_row @ er
        return self._of_means(by_row) if self.repeated else self._of_residuals(by_row, combination)

    def _of_means(self, by_row: np.ndarray) -> Quantity:
        return quantities.weighted(self._means, np.bincount(self._cells, by_row).tolist())

    @cached_property
    def _means(self) -> list[Quantity]:
        """The mean ER of every cell."""
        row_of_point, quantities = np.split(self.rows.codes, self._ends), []
        for cell in range(int(self._cells.max()) + 1):
            member = self._cells == cell
            number = int(self.rows.values["group"].to_numpy()[member][0])
            group, points = self.rows.groups[number]
            chosen = np.zeros(len(group.points), bool)
            chosen[points[member[row_of_point[number]]]] = True
            mean = mean_er(group, self.baseline, -np.inf, np.inf, chosen)
            assert mean is not None  # a row has points
            quantities.append(mean.quantity)
        return quantities

    @property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(points) for _, points in self.rows.groups])[:-1]

    def _of_residuals(self, by_row: np.ndarray, combination: np.ndarray) -> Quantity:
        rows, baseline = self.rows, self.baseline
        left = 1 - np.einsum("ij,ji->i", self.design, self.inverse)
        replicates, double_counted = {}, {}
        for i, source in enumerate(jackknife.source for jackknife in rows.groups[0][0].jackknife):
            er = rows.means(np.concatenate([group.jackknife[i].er[points] for group, points in rows.groups]))
            apart = np.var(er - self.design @ (self.inverse @ er), axis=1)
            replicates[source] = by_row @ er
            double_counted[source] = float(by_row**2 @ (apart / np.maximum(left, 1e-9))) * source.factor
        own = self._basis.T @ combination
        trials = {self._errors: own}
        if baseline is not None:
            trials[baseline.errors] = er_gradient(by_row @ rows.gradients)
        return Quantity(float(by_row @ rows.er), trials, replicates, double_counted)

    @cached_property
    def _basis(self) -> np.ndarray:
        """What the design determines, float [k, rank]: other factors may never have been varied apart."""
        _, sizes, directions = np.linalg.svd(self.design, full_matrices=False)
        determined = sizes > RANK * sizes[0]
        return directions[determined].T if determined.sum() < self.design.shape[1] else np.eye(self.design.shape[1])

    @cached_property
    def _errors(self) -> Robust:
        """Of the coefficients in the directions of `_basis`, from the residuals."""
        rows, design = self.rows, self.design @ self._basis
        count = max(int(rows.clusters.max()) + 1, max(group.count for group, _ in rows.groups))
        clusters = Clusters(rows.clusters, count, rows.unit, stages=rows.stages)
        return errors_of(design, rows.er, self.residuals, clusters, LEAST_DF)


def _between_weights(points: pd.DataFrame) -> bool:
    """Whether these are points of WiSE-FT: their trials already enter as what they were fine-tuned to."""
    return "wise_alpha" in points and bool(points["wise_alpha"].notna().any())
