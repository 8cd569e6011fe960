"""Which property matters: the mean ER of every trial regressed on what the sweep varies, one row per trial.

Owns the regression: slopes with intervals clustered by pre-training run,
partial R^2, standardised slopes, the condition number, and the refusal of factors that were never varied apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from analysis import clustered, contrasts, robustness, uncertainty
from analysis.factor_coding import (
    CATEGORIES,
    FACTORS,
    MOST_LEVELS,
    WORST_CONDITION,
    Block,
    blocks_of,
    without_followers,
)
from analysis.robustness import PP, Arm, Baseline
from analysis.uncertainty import Estimate, Quantity

WITHIN_TRIALS = ("finetune_images", "finetune_method")  # may differ between the fine-tunings of one trial
MOST_BENDS = 4  # kinds of bend that a line is tested against
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
    straight_p    of a number of three levels or more: p of "ER is straight in its logarithm", else NaN
    without       the lowest and highest slope without any one trial; `without_level` of a number of three levels or
                  more, without any one level
    inner         the 90 % interval that "no effect" rests on, percentage points: of the slope, or, of a number, the
                  widest ends over all pairs of its levels; `p_equivalent` is the largest p over them (Berger 1982)
    """

    name: str
    slope: Estimate
    partial_r2: float
    levels: int
    label: str = ""
    per: str = "tenfold"
    against: str = ""
    standardised: float = float("nan")
    straight_p: float = float("nan")
    inner: tuple[float, float] = (float("nan"), float("nan"))
    p_equivalent: float = float("nan")
    without: tuple[float, float] = (float("nan"), float("nan"))
    without_level: tuple[float, float] = (float("nan"), float("nan"))


LEVELS = (
    "factor", "a", "b", "delta_er", "low", "high", "p", "p_adjusted", "margin", "equivalent", "smallest_detectable",
    "low90", "high90", "se", "df", "family", "p_equivalent", "without_low", "without_high",
    "survived", "not_robust_to",
)  # fmt: skip


def _no_levels() -> pd.DataFrame:
    return pd.DataFrame(columns=list(LEVELS))


@dataclass(frozen=True)
class Regression:
    """All factors of one regression: rows (trials, or trial x fine-tuning set), R^2, and the condition number of the
    standardised factors (1 is best). `levels` has, of every number with three levels or more, the difference of each
    level to the one below it, the other factors held: columns `LEVELS`, Holm within a factor. `notes` are sentences on
    what had to be left out."""

    factors: list[Factor] = field(default_factory=list)
    rows: int = 0
    trials: int = 0
    r2: float = float("nan")
    condition: float = float("nan")
    notes: list[str] = field(default_factory=list)
    levels: pd.DataFrame = field(default_factory=_no_levels)


FACTOR_TABLE = (
    "factor", "label", "per", "against", "slope", "low", "high", "p", "p_adjusted", "margin", "equivalent", "low90",
    "high90", "standardised", "partial_r2", "levels", "straight_p", "p_equivalent", "without_low", "without_high",
    "without_level_low", "without_level_high", "survived", "not_robust_to",
)  # fmt: skip


def factor_table(regression: Regression, margin: float) -> pd.DataFrame:
    """Every factor's slope with its tests, columns `FACTOR_TABLE`: ER in percentage points, p adjusted by Holm over the
    factors of the regression. `equivalent`: between any two levels (of a category, to its first; of a source, from none
    to all) ER differs by less than the margin, Holm likewise."""
    rows = [
        {
            "factor": f.name, "label": f.label, "per": f.per, "against": f.against, "slope": f.slope.value,
            "low": f.slope.low, "high": f.slope.high, "p": f.slope.p, "margin": margin, "low90": f.inner[0],
            "high90": f.inner[1], "standardised": f.standardised, "partial_r2": f.partial_r2, "levels": f.levels,
            "straight_p": f.straight_p, "p_equivalent": f.p_equivalent, "without_low": f.without[0],
            "without_high": f.without[1], "without_level_low": f.without_level[0],
            "without_level_high": f.without_level[1], "survived": "", "not_robust_to": "",
        }
        for f in regression.factors
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(FACTOR_TABLE))
    p = contrasts.holm(table["p_equivalent"].to_numpy(float))
    return table.assign(
        p_adjusted=contrasts.holm(table["p"].to_numpy(float)), p_equivalent=p, equivalent=p <= contrasts.LEVEL
    )


def factors(arms: Mapping[str, Arm], baseline: Baseline, margin: float, layout: Layout | None = None) -> Regression:
    """The regression over the trials of all arms but the baseline's, each with its mean ER inside the baseline's range.

    Ordinary least squares. Where every combination of factors was trained several times, a slope is a weighted sum of
    the means of these combinations and has their errors: over each one's own trials (Welch), the baseline's line and
    the task's groups. Else the error over trials is that of the residuals ("CR2" of Bell and McCaffrey 2002, with their
    degrees of freedom, which hold for few and uneven clusters). A slope over an ordered factor is one test of a trend
    in place of all pairs, and means something where ER is straight: see `Factor.straight_p`.
    `layout` is that of `varied` arms, if it is there already.
    """
    own = varied(arms, baseline.name)
    rows = _Rows.of(own, layout or Layout.of(own))
    if rows is None:
        return Regression()
    blocks, notes = blocks_of(rows.values)
    if not blocks:
        return Regression(notes=notes)
    blocks, more = without_followers(blocks)
    notes += more
    x = np.column_stack([block.columns for block in blocks])
    owner = [i for i, block in enumerate(blocks) for _ in block.names]
    if len(rows.er) < x.shape[1] + 2 or len(np.unique(np.round(x, 9), axis=0)) < 2:
        named = " and ".join(block.factor for block in blocks)
        few = f"{len(rows.er)} trials are too few for a trend over {named}"
        return Regression(rows=len(rows.er), notes=[*notes, few])
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
    fit = _Fit(design, rows, baseline)
    made, tables = [], []
    for j in np.setdiff1d(np.arange(x.shape[1]), confounded):
        block = blocks[owner[j]]
        own = [k for k in range(x.shape[1]) if owner[k] == owner[j]]
        at = own.index(j)
        quantity = fit.quantity(np.concatenate([[0.0], kept[:, j]]) / deviation[j])
        slope = quantity.estimate
        shape = _shape(block, [b for b in blocks if b is not block], rows, baseline, slope, margin)
        tables.append(shape.levels)
        notes += shape.notes
        others = np.column_stack([np.ones(len(z)), np.delete(z, own, axis=1)])
        made.append(
            Factor(
                name=block.names[at],
                slope=slope,
                partial_r2=_partial_r2(others, fit.sse, rows.er),
                levels=block.levels,
                label=block.labels[at],
                per=block.per,
                against=block.against,
                standardised=slope.value * deviation[j] / rows.er.std() if rows.er.std() > 0 else np.nan,
                straight_p=shape.straight_p,
                inner=shape.inner,
                p_equivalent=shape.p_equivalent,
                without=quantity.without_one,
                without_level=shape.without_level,
            )
        )
        if not np.isfinite(slope.se):
            notes.append(f"{block.names[at]}: too few trials for an interval of its slope")
    total = float(((rows.er - rows.er.mean()) ** 2).sum())
    r2 = 1 - fit.sse / total if total > 0 else np.nan
    levels = pd.concat(tables, ignore_index=True) if any(len(t) for t in tables) else _no_levels()
    return Regression(made, len(rows.er), rows.trials, r2, condition, notes, levels)


@dataclass(frozen=True, eq=False)
class Layout:
    """Which points make one row of a regression: the same whatever line ER is measured from.

    cells   a row per trial (and per value of what varies inside a trial): arm (its number), trial, cluster and the
            factors' columns
    codes   int [points of all arms], the cell of each
    unit    what `cluster` counts: trials, or seeds where arms are paired by them
    """

    cells: pd.DataFrame
    codes: np.ndarray
    unit: str

    @staticmethod
    def of(arms: Sequence[Arm]) -> Layout | None:
        """None where the arms have no factor's column."""
        keys = [c for c in (*FACTORS, *CATEGORIES, "sources") if any(c in arm.points for arm in arms)]
        parts = [arm.points.reindex(columns=["trial", *keys]).assign(arm=i, cluster=arm.codes)
                 for i, arm in enumerate(arms)]  # fmt: skip
        points = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        if points.empty or not keys:
            return None
        inner = [key for key in WITHIN_TRIALS if key in keys]
        by = points.groupby(["arm", "trial", *inner], sort=False, dropna=False)
        cells = by[["cluster", *(key for key in keys if key not in inner)]].first().reset_index()
        units = {arm.unit for arm in arms}
        return Layout(cells, by.ngroup().to_numpy(), units.pop() if len(units) == 1 and len(arms) > 1 else "")


def varied(arms: Mapping[str, Arm], baseline: str) -> list[Arm]:
    """The arms whose trials enter the regression: all but the baseline's, and but points between weights."""
    return [arm for arm in arms.values() if arm.name != baseline and not _between_weights(arm.points)]


@dataclass(frozen=True, eq=False)
class _Rows:
    """One row per cell with a point inside the baseline's range: mean ER, and which points it is the mean of."""

    values: pd.DataFrame  # the factors' columns
    er: np.ndarray  # [rows]
    clusters: np.ndarray  # int [rows]: trials, or seeds where arms are paired by them
    unit: str
    arms: list[tuple[Arm, np.ndarray]]  # every arm with its points inside (int), in the order of `codes`
    codes: np.ndarray  # int [points], the row of each

    @staticmethod
    def of(arms: Sequence[Arm], layout: Layout | None) -> _Rows | None:
        chosen = [(arm, np.flatnonzero(arm.inside)) for arm in arms]
        if layout is None or not sum(len(rows) for _, rows in chosen):
            return None
        cells = layout.codes[np.concatenate([arm.inside for arm in arms])]
        used, first, codes = np.unique(cells, return_index=True, return_inverse=True)
        order = np.argsort(first)  # as they come
        values = layout.cells.iloc[used[order]].reset_index(drop=True)
        keys = [key for key in values if key not in ("arm", "trial", "cluster")]
        same = [key for key in keys if len(values[key].unique()) < 2]
        if len(same) == len(keys):
            return None
        codes = np.argsort(order)[codes]
        er = np.concatenate([arm.points["er"].to_numpy(float)[rows] for arm, rows in chosen])
        paired = bool(layout.unit)
        clusters = values["cluster"].to_numpy() if paired else pd.factorize(values["trial"].astype(str))[0]
        means = np.bincount(codes, er) / np.bincount(codes)
        unit = layout.unit if paired else "trials"
        return _Rows(values.drop(columns=same), means, clusters, unit, chosen, codes)

    @property
    def trials(self) -> int:
        """Different ones."""
        return int(self.values["trial"].nunique())

    @cached_property
    def gradients(self) -> np.ndarray:
        """What one unit of every coefficient of the line does to the mean expectation of each row: float [rows, k]."""
        return self.means(np.concatenate([arm.gradient[points] for arm, points in self.arms]))

    def means(self, per_point: np.ndarray) -> np.ndarray:
        """The mean over each row's points: [points, k] -> [rows, k]."""
        sums = np.zeros((len(self.er), per_point.shape[1]))
        np.add.at(sums, self.codes, per_point)
        return sums / np.bincount(self.codes)[:, None]


class _Fit:
    """Least squares of the rows' ER on a design: any combination of its coefficients with its error."""

    def __init__(self, design: np.ndarray, rows: _Rows, baseline: Baseline) -> None:
        self.design, self.rows, self.baseline = design, rows, baseline
        self.inverse = np.linalg.pinv(design)  # [k, rows]
        self.residuals = rows.er - design @ (self.inverse @ rows.er)
        self.sse = float(self.residuals @ self.residuals)
        self._patterns = np.unique(np.round(design, 9), axis=0, return_inverse=True)[1].ravel()
        own = pd.Series(list(zip(self._patterns, rows.values["arm"], strict=True)))
        self._cells = pd.factorize(own)[0]  # rows that were trained on the same
        self.repeated = bool((np.bincount(self._cells) >= 2).all())

    def estimable(self, combination: np.ndarray) -> bool:
        """Whether the design determines it."""
        return bool(np.abs(combination - self.inverse @ (self.design @ combination)).max() < 1e-7)

    def quantity(self, combination: np.ndarray) -> Quantity:
        """`combination` [k] @ coefficients: from the means of what was trained several times, else from residuals."""
        by_row = combination @ self.inverse  # it is by_row @ er
        return self._of_means(by_row) if self.repeated else self._of_residuals(by_row, combination)

    def _of_means(self, by_row: np.ndarray) -> Quantity:
        return uncertainty.weighted(self._means, np.bincount(self._cells, by_row).tolist())

    @cached_property
    def _means(self) -> list[Quantity]:
        """The mean ER of every cell."""
        row_of_point, quantities = np.split(self.rows.codes, self._ends), []
        for cell in range(int(self._cells.max()) + 1):
            member = self._cells == cell
            number = int(self.rows.values["arm"].to_numpy()[member][0])
            arm, points = self.rows.arms[number]
            chosen = np.zeros(len(arm.points), bool)
            chosen[points[member[row_of_point[number]]]] = True
            mean = robustness.mean_of(arm, self.baseline, -np.inf, np.inf, chosen)
            assert mean is not None  # a row has points
            quantities.append(mean.quantity)
        return quantities

    @property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(points) for _, points in self.rows.arms])[:-1]

    def _of_residuals(self, by_row: np.ndarray, combination: np.ndarray) -> Quantity:
        rows, baseline = self.rows, self.baseline
        line = -PP * (by_row @ rows.gradients)
        left = 1 - np.einsum("ij,ji->i", self.design, self.inverse)
        groups, twice = {}, {}
        for i, drawn in enumerate(rows.arms[0][0].redrawn):
            er = rows.means(np.concatenate([arm.redrawn[i].er[points] for arm, points in rows.arms]))
            apart = np.var(er - self.design @ (self.inverse @ er), axis=1)
            groups[drawn.source] = by_row @ er
            twice[drawn.source] = float(by_row**2 @ (apart / np.maximum(left, 1e-9))) * drawn.source.factor
        return Quantity(float(by_row @ rows.er), {self._errors: combination, baseline.errors: line}, groups, twice)

    @cached_property
    def _errors(self) -> clustered.Robust:
        """Of the coefficients, from the residuals."""
        rows = self.rows
        count = max(int(rows.clusters.max()) + 1, max(arm.count for arm, _ in rows.arms))
        return clustered.robust(self.design, self.residuals, rows.clusters, rows.unit, "trials", LEAST_DF, count)


@dataclass(frozen=True, eq=False)
class _Shape:
    """What a straight line does not say of a factor, and what "no effect" rests on; see `Factor`."""

    inner: tuple[float, float]
    p_equivalent: float
    straight_p: float = float("nan")
    levels: pd.DataFrame = field(default_factory=_no_levels)
    notes: list[str] = field(default_factory=list)
    without_level: tuple[float, float] = (float("nan"), float("nan"))


def _shape(
    block: Block, others: Sequence[Block], rows: _Rows, baseline: Baseline, slope: Estimate, margin: float
) -> _Shape:
    """Of a number: whether ER is straight in it, the differences between neighbouring levels, and the equivalence of
    all pairs of levels (a margin per tenfold would be none over three decades). Of another factor: of its slope."""
    if block.per != "tenfold":
        return _Shape(slope.inner, slope.p_outside(margin))
    values, at = np.unique(np.round(block.columns[:, 0], 9), return_inverse=True)
    rest = np.column_stack([np.ones(len(rows.er)), *(b.columns for b in others)])
    if len(values) > MOST_LEVELS:
        return _continuous(block, rest, rows, baseline, slope, margin)
    count = rest.shape[1]
    fit = _Fit(np.column_stack([rest, at[:, None] == np.arange(1, len(values))]), rows, baseline)

    def difference(weights: np.ndarray) -> Quantity | None:
        combination = np.concatenate([np.zeros(count), weights[1:]])
        return fit.quantity(combination) if fit.estimable(combination) else None

    unit = np.eye(len(values))
    every = {(i, j): difference(unit[j] - unit[i]) for i, j in combinations(range(len(values)), 2)}
    pairs = {levels: quantity for levels, quantity in every.items() if quantity is not None}
    if len(pairs) < len(every) or len(rows.er) <= fit.design.shape[1]:
        return _Shape(slope.inner, np.nan)
    estimates = [quantity.estimate for quantity in pairs.values()]
    inner = np.array([estimate.inner for estimate in estimates])
    p = np.array([estimate.p_outside(margin) for estimate in estimates])
    hull = (float(inner[:, 0].min()), float(inner[:, 1].max()))
    if len(values) < 3:
        return _Shape(hull, float(p.max()))
    bends = [difference(weights) for weights in _polynomials(values)]
    straight = contrasts.holm([bend.estimate.p for bend in bends if bend is not None])
    known = straight[np.isfinite(straight)]
    names = [f"{block.factor}={_amount(10**value)}" for value in values]
    table = pd.DataFrame(
        [{"factor": block.factor, "a": names[i + 1], "b": names[i], "family": block.factor,
          **contrasts.row(pairs[i, i + 1], margin)} for i in range(len(values) - 1)],
        columns=list(LEVELS),
    )  # fmt: skip
    straight_p = float(known.min()) if len(known) else np.nan
    kept = [at != i for i in range(len(values))]
    slopes = np.array([_slope(block.columns[chosen, 0], rest[chosen], rows.er[chosen]) for chosen in kept])
    ends = (float(slopes.min()), float(slopes.max()))  # NaN where one level alone makes it known
    return _Shape(hull, float(p.max()), straight_p, contrasts.adjust(table), without_level=ends)


def _slope(x: np.ndarray, rest: np.ndarray, y: np.ndarray) -> float:
    """The slope of y on x given the columns `rest`; NaN where they determine x."""
    left = x - rest @ np.linalg.lstsq(rest, x, rcond=None)[0]
    return float(left @ y / (left @ left)) if left @ left > 1e-9 * len(x) else np.nan


def _amount(value: float) -> str:
    """A level as groups are named by it: whole where it is but for rounding."""
    return str(round(value)) if abs(value - round(value)) < 1e-6 * value else f"{value:.7g}"


def _continuous(
    block: Block, rest: np.ndarray, rows: _Rows, baseline: Baseline, slope: Estimate, margin: float
) -> _Shape:
    """Of a number with too many values for levels: its square tells whether ER is straight, and its slope over the
    whole range what "no effect" is."""
    x = block.columns[:, 0]
    whole = Estimate(slope.value * float(np.ptp(x)), slope.se * float(np.ptp(x)), slope.df)
    fit = _Fit(np.column_stack([rest, x, (x - x.mean()) ** 2]), rows, baseline)
    combination = np.eye(fit.design.shape[1])[-1]
    bend = fit.quantity(combination).estimate.p if fit.estimable(combination) else np.nan
    return _Shape(whole.inner, whole.p_outside(margin), bend)


def _polynomials(x: np.ndarray) -> list[np.ndarray]:
    """Orthogonal polynomials of degree 2 and over at the levels x, float [levels] each, at most `MOST_BENDS`: contrasts
    that a straight line has none of."""
    basis = np.linalg.qr(np.vander((x - x.mean()) / np.ptp(x), len(x), increasing=True))[0]
    return [basis[:, degree] for degree in range(2, min(len(x), 2 + MOST_BENDS))]


def _between_weights(points: pd.DataFrame) -> bool:
    """Whether these are points of WiSE-FT: their trials already enter as what they were fine-tuned to."""
    return "wise_alpha" in points and bool(points["wise_alpha"].notna().any())


def _partial_r2(others: np.ndarray, sse: float, er: np.ndarray) -> float:
    """(SSE without the factor - SSE with it) / SSE without it."""
    left = er - others @ np.linalg.lstsq(others, er, rcond=None)[0]
    without = float(left @ left)
    return 1 - sse / without if without > 0 else float("nan")
