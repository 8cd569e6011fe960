"""Which property matters: the mean ER of every trial regressed on what the sweep varies, one row per trial.

Owns the choice of the factors, their coding, and the regression: slopes with intervals clustered by pre-training run,
partial R^2, standardised slopes, the condition number, and the refusal of factors that were never varied apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis import clustered
from analysis.bootstrap import Estimate, Quantity
from analysis.robustness import PP, Arm, Baseline

# numbers enter as decimal logarithms, so that a slope reads "points of ER per tenfold"
FACTORS = {
    "num_images": "pre-training images",
    "num_classes": "classes",
    "finetune_images": "fine-tuning images",
    "pretrain_images_seen": "pre-training images processed",
}
FOLLOWS = ("pretrain_images_seen",)  # is left out where it only follows from the others, as at a fixed number of epochs
CATEGORIES = {
    "granularity": "labels",
    "semantics": "choice of classes",
    "pretrain_method": "method of pre-training",
    "model": "model",
    "finetune_method": "method of fine-tuning",
}
WORST_CONDITION = 30.0  # Belsley, Kuh and Welsch (1980): beyond it two factors cannot be told apart
WITHIN_TRIALS = ("finetune_images", "finetune_method")  # may differ between the fine-tunings of one trial
MOST_LEVELS = 12  # of a category: more is no factor but a name, as is the column `model` of a table of models
LEAST_DF = 2.0  # of a slope: with fewer its interval is not to be trusted
APART = 1e-6


@dataclass(frozen=True)
class Factor:
    """The slope of one factor, or of one level of a category, with all others held.

    name          the column, and for a category or a mixture the level: `num_images`, `granularity=order`,
                  `sources=fractals`
    label         the same for people
    per           what the slope is per: `tenfold`, `all of it` (a source's share from none to all, at the expense of
                  `against`), or `level` (this level less `against`)
    slope         percentage points of ER
    standardised  the slope in standard deviations of ER per standard deviation of the factor, over trials
    partial_r2    share of the variance between trials that the whole factor (all its levels) explains beyond the others
    levels        how many different values it has
    """

    name: str
    slope: Estimate
    partial_r2: float
    levels: int
    label: str = ""
    per: str = "tenfold"
    against: str = ""
    standardised: float = float("nan")


@dataclass(frozen=True)
class Regression:
    """All factors of one regression: rows (trials, or trial x fine-tuning set), R^2, and the condition number of the
    standardised factors (1 is best). `notes` are sentences on what had to be left out."""

    factors: list[Factor] = field(default_factory=list)
    rows: int = 0
    trials: int = 0
    r2: float = float("nan")
    condition: float = float("nan")
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Block:
    """The columns that code one factor."""

    factor: str
    columns: np.ndarray  # float [rows, k]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    per: str
    against: str
    levels: int


def factors(arms: Mapping[str, Arm], baseline: Baseline) -> Regression:
    """The regression over the trials of all arms but the baseline's, each with its mean ER inside the baseline's range.

    Ordinary least squares; the error of a slope is that of the trials (clusters' residuals, bias-reduced: "CR2" of Bell
    and McCaffrey 2002, with their degrees of freedom, which hold for few and uneven clusters), of the baseline's line
    and of the task's groups, which all trials share. A slope over an ordered factor is one test of a trend in place of
    all pairs.
    """
    rows = _Rows.of([arm for arm in arms.values() if arm.name != baseline.name and not _between_weights(arm.points)])
    if rows is None:
        return Regression()
    blocks, notes = _blocks(rows.values)
    if not blocks:
        return Regression(notes=notes)
    blocks, more = _without_followers(blocks)
    notes += more
    x = np.column_stack([block.columns for block in blocks])
    owner = [i for i, block in enumerate(blocks) for _ in block.names]
    if len(rows.er) < x.shape[1] + 2 or len(rows.patterns(x)) < 2:
        told = " and ".join(block.factor for block in blocks)
        return Regression(
            rows=len(rows.er), notes=[*notes, f"{len(rows.er)} trials are too few for a trend over {told}"]
        )
    deviation = x.std(0)
    z = (x - x.mean(0)) / deviation
    _, sizes, directions = np.linalg.svd(z, full_matrices=False)
    condition = float(sizes[0] / max(sizes[-1], 1e-12))
    lost = directions[sizes < sizes[0] / WORST_CONDITION]
    confounded = np.flatnonzero((lost**2).sum(0) > APART) if len(lost) else np.array([], int)
    if len(confounded):
        mixed = list(dict.fromkeys(blocks[owner[j]].factor for j in confounded))
        notes.append(
            f"{' and '.join(mixed)} were never varied apart: their effects cannot be told from each other"
            if len(mixed) > 1
            else f"the levels of {mixed[0]} cannot be told from each other"
        )
    kept = directions[sizes >= sizes[0] / WORST_CONDITION]
    design = np.column_stack([np.ones(len(z)), z @ kept.T])  # the confounded stay in it, unnamed, for the others' sake
    fit = _Fit.of(design, rows)
    found = []
    for j in np.setdiff1d(np.arange(x.shape[1]), confounded):
        block = blocks[owner[j]]
        combination = np.concatenate([[0.0], kept[:, j]]) / deviation[j]
        own = [k for k in range(x.shape[1]) if owner[k] == owner[j]]
        at = own.index(j)
        slope = fit.slope(combination, rows, baseline)
        others = np.delete(z, own, axis=1)
        found.append(
            Factor(
                name=block.names[at],
                slope=slope.estimate,
                partial_r2=_partial_r2(np.column_stack([np.ones(len(z)), others]), fit.sse, rows.er),
                levels=block.levels,
                label=block.labels[at],
                per=block.per,
                against=block.against,
                standardised=slope.value * deviation[j] / rows.er.std() if rows.er.std() > 0 else np.nan,
            )
        )
        if not np.isfinite(slope.estimate.se):
            notes.append(f"{block.names[at]}: too few trials for an interval of its slope")
    total = float(((rows.er - rows.er.mean()) ** 2).sum())
    r2 = 1 - fit.sse / total if total > 0 else np.nan
    return Regression(found, len(rows.er), len(np.unique(rows.clusters)), r2, condition, notes)


@dataclass(frozen=True, eq=False)
class _Rows:
    """One row per trial (and per value of what varies inside a trial): mean ER, its cluster, and which points it is
    the mean of."""

    values: pd.DataFrame  # the factors' columns
    er: np.ndarray  # [rows]
    clusters: np.ndarray  # int [rows]
    arms: list[tuple[Arm, np.ndarray]]  # every arm with its points inside (int), in the order of `codes`
    codes: np.ndarray  # int [points], the row of each

    @staticmethod
    def of(arms: Sequence[Arm]) -> _Rows | None:
        keys = [c for c in (*FACTORS, *CATEGORIES, "sources") if any(c in arm.points for arm in arms)]
        chosen = [(arm, np.flatnonzero(~arm.points["extrapolated"].to_numpy())) for arm in arms]
        parts = [arm.points.iloc[rows].reindex(columns=["trial", "er", *keys]).assign(arm=i)
                 for i, (arm, rows) in enumerate(chosen)]  # fmt: skip
        points = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        keys = [key for key in keys if len(points[key].unique()) > 1]
        if points.empty or not keys:
            return None
        inner = [key for key in WITHIN_TRIALS if key in keys]
        by = points.groupby(["arm", "trial", *inner], sort=False, dropna=False)
        codes = by.ngroup().to_numpy()
        values = by[[key for key in keys if key not in inner]].first().reset_index()
        return _Rows(values, by["er"].mean().to_numpy(), pd.factorize(values["trial"].astype(str))[0], chosen, codes)

    def means(self, per_point: np.ndarray) -> np.ndarray:
        """The mean over each row's points: [points, k] -> [rows, k]."""
        sums = np.zeros((len(self.er), per_point.shape[1]))
        np.add.at(sums, self.codes, per_point)
        return sums / np.bincount(self.codes)[:, None]

    def patterns(self, x: np.ndarray) -> np.ndarray:
        """The different rows of a design."""
        return np.unique(np.round(x, 9), axis=0)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Least squares of the rows' ER on a design of full rank: its projection, and the error of any combination."""

    design: np.ndarray
    inverse: np.ndarray  # (X'X)^-1
    residuals: np.ndarray
    sse: float

    @staticmethod
    def of(design: np.ndarray, rows: _Rows) -> _Fit:
        inverse = np.linalg.inv(design.T @ design)
        residuals = rows.er - design @ (inverse @ (design.T @ rows.er))
        return _Fit(design, inverse, residuals, float(residuals @ residuals))

    def slope(self, combination: np.ndarray, rows: _Rows, baseline: Baseline) -> Quantity:
        """The combination of coefficients as a quantity: its trials, the baseline's line and the task's groups."""
        by_row = self.design @ (self.inverse @ combination)  # the slope is by_row @ er
        gradients = np.concatenate([baseline.gradient(arm.points.iloc[points]) for arm, points in rows.arms])
        shared = {baseline.source: -PP * (baseline.changes @ (by_row @ rows.means(gradients)))}
        twice = {}
        for i, drawn in enumerate(rows.arms[0][0].redrawn):
            er = rows.means(np.concatenate([arm.redrawn[i].er[points] for arm, points in rows.arms]))
            apart = np.var(er - self.design @ (self.inverse @ (self.design.T @ er)), axis=1)
            left = 1 - np.einsum("ij,jk,ik->i", self.design, self.inverse, self.design)
            shared[drawn.source] = by_row @ er
            twice[drawn.source] = float(by_row**2 @ (apart / np.maximum(left, 1e-9))) * drawn.source.factor
        own = clustered.part(self.design, self.residuals, combination, rows.clusters, "trials", LEAST_DF)
        return Quantity(float(by_row @ rows.er), (own,), shared, twice)


def _blocks(values: pd.DataFrame) -> tuple[list[_Block], list[str]]:
    """The factors that vary, coded; and what varies but cannot be one, as sentences."""
    blocks, notes = [], []
    for factor, label in FACTORS.items():
        if factor not in values:
            continue
        numbers = pd.to_numeric(values[factor], errors="coerce").astype("float64").to_numpy()
        known = numbers[np.isfinite(numbers)]
        if len(np.unique(known)) < 2:
            continue
        if len(known) < len(numbers) or (known <= 0).any():
            notes.append(f"{factor} has no single value in some groups: no trend is fitted over it")
            continue
        logs = np.log10(numbers)[:, None]
        blocks.append(_Block(factor, logs, (factor,), (label,), "tenfold", "", len(np.unique(known))))
    for factor, label in CATEGORIES.items():
        if factor not in values:
            continue
        text = values[factor].fillna("").astype(str)
        levels = list(dict.fromkeys(text))
        if not 2 <= len(levels) <= min(MOST_LEVELS, len(text) // 2):
            continue
        first, *rest = levels
        columns = np.column_stack([(text == level).to_numpy(float) for level in rest])
        names, labels = tuple(f"{factor}={v}" for v in rest), tuple(f"{label} {v} against {first}" for v in rest)
        blocks.append(_Block(factor, columns, names, labels, "level", first, len(levels)))
    mixed = _sources(values)
    return blocks + ([mixed] if mixed else []), notes


def _sources(values: pd.DataFrame) -> _Block | None:
    """Every source's share, but for the one that is most of all: what takes its place is what a slope compares with."""
    if "sources" not in values:
        return None
    weights = [json.loads(text) if isinstance(text, str) and text else {} for text in values["sources"]]
    names = list(dict.fromkeys(name for w in weights for name in w))
    table = np.array([[w.get(name, 0.0) for name in names] for w in weights]).reshape(len(weights), len(names))
    table = table / np.maximum(table.sum(1, keepdims=True), 1e-300)
    varied = [j for j in range(len(names)) if np.ptp(table[:, j]) > 1e-9]
    if not varied:
        return None
    first = max(varied, key=lambda j: table[:, j].sum())
    rest = [j for j in varied if j != first]
    labels = tuple(f"{names[j]} in place of {names[first]}" for j in rest)
    levels = len(np.unique(table.round(6), axis=0))
    tags = tuple(f"sources={names[j]}" for j in rest)
    return _Block("sources", table[:, rest], tags, labels, "all of it", names[first], levels)


def _without_followers(blocks: list[_Block]) -> tuple[list[_Block], list[str]]:
    """Leave out what only follows from the other factors, saying so: it was not varied, it came along."""
    kept = [block for block in blocks if block.factor not in FOLLOWS]
    notes = []
    for block in blocks:
        if block.factor not in FOLLOWS:
            continue
        if not kept:
            kept.append(block)
            continue
        others = np.column_stack([np.ones(len(block.columns)), *(b.columns for b in kept)])
        y = block.columns[:, 0]
        left = y - others @ np.linalg.lstsq(others, y, rcond=None)[0]
        if left @ left > ((y - y.mean()) ** 2).sum() / WORST_CONDITION**2:
            kept.append(block)
        else:
            notes.append(f"{block.factor} follows from {' and '.join(b.factor for b in kept)}: effects may be either's")
    return kept, notes


def _between_weights(points: pd.DataFrame) -> bool:
    """Whether these are points of WiSE-FT: their trials already enter as what they were fine-tuned to."""
    return "wise_alpha" in points and bool(points["wise_alpha"].notna().any())


def _partial_r2(others: np.ndarray, sse: float, er: np.ndarray) -> float:
    """(SSE without the factor - SSE with it) / SSE without it."""
    left = er - others @ np.linalg.lstsq(others, er, rcond=None)[0]
    without = float(left @ left)
    return 1 - sse / without if without > 0 else float("nan")
