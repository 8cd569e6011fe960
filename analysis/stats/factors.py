"""Which property matters: the mean ER of every trial regressed on what the sweep varies, one row per trial.

Owns the regression: slopes with intervals clustered by pre-training run, whether ER is straight in a number, the
differences of its levels, partial R^2, standardised slopes, the condition number, and the refusal of factors that were
never varied apart. The least squares are in `factor_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.stats import contrasts
from analysis.stats.estimates import Estimate
from analysis.stats.factor_coding import MOST_LEVELS, WORST_CONDITION, Block, blocks_of, without_followers
from analysis.stats.factor_rows import Fit, Layout, Rows, varied
from analysis.stats.quantities import Quantity
from analysis.stats.robustness import Baseline
from analysis.stats.study_group import Group

MOST_BENDS = 4  # kinds of bend that a line is tested against
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
    quantity      the slope with all that makes it uncertain
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
    quantity: Quantity | None = field(default=None, compare=False, repr=False)


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
    """Return every factor's slope with its tests, columns `FACTOR_TABLE`: ER in percentage points, p adjusted by Holm
    over the factors of the regression. `equivalent`: between any two levels (of a category, to its first; of a source,
    from none to all) ER differs by less than the margin, Holm likewise."""
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


def factors(groups: Mapping[str, Group], baseline: Baseline, margin: float, layout: Layout | None) -> Regression:
    """Return the regression over the trials of all groups but the baseline, each with its mean ER inside the baseline's
    range.

    Ordinary least squares. Where every combination of factors was trained several times, a slope is a weighted sum of
    the means of these combinations and has their errors: over each one's own trials (Welch), the baseline's line and
    the task's groups. Else the error over trials is that of the residuals ("CR2" of Bell and McCaffrey 2002, with their
    degrees of freedom, which hold for few and uneven clusters). A slope over an ordered factor is one test of a trend
    in place of all pairs, and means something where ER is straight: see `Factor.straight_p`.
    `layout` is that of the `varied` groups.
    """
    return regression(Rows.of(varied(groups, baseline.name), layout), baseline, margin)


def regression(rows: Rows | None, baseline: Baseline | None, margin: float) -> Regression:
    """Return the regression over these rows, empty where there are none; see `factors`. Without a baseline the values
    were measured from no line."""
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
    columns = _Columns.of(x)
    if len(columns.confounded):
        mixed = list(dict.fromkeys(blocks[owner[j]].factor for j in columns.confounded))
        notes.append(
            f"{' and '.join(mixed)} were never varied apart: their effects cannot be told from each other"
            if len(mixed) > 1
            else f"the levels of {mixed[0]} cannot be told from each other"
        )
    fit = Fit(columns.design, rows, baseline)
    made, tables = [], []
    for j in np.setdiff1d(np.arange(x.shape[1]), columns.confounded):
        block = blocks[owner[j]]
        same = [k for k in range(x.shape[1]) if owner[k] == owner[j]]
        quantity = fit.quantity(columns.slope(j))
        shape = _shape(block, [b for b in blocks if b is not block], rows, baseline, quantity.estimate, margin)
        tables.append(shape.levels)
        made.append(_factor(block, same.index(j), quantity, shape, columns.deviation[j], rows.er, fit.sse,
                            np.delete(columns.z, same, axis=1)))  # fmt: skip
        if not np.isfinite(quantity.estimate.se):
            notes.append(f"{made[-1].name}: too few trials for an interval of its slope")
    total = float(((rows.er - rows.er.mean()) ** 2).sum())
    r2 = 1 - fit.sse / total if total > 0 else np.nan
    levels = pd.concat(tables, ignore_index=True) if any(len(t) for t in tables) else _no_levels()
    return Regression(made, len(rows.er), rows.trials, r2, columns.condition, notes, levels)


@dataclass(frozen=True, eq=False)
class _Columns:
    """The factors' columns, standardised (`z` [rows, k], of `deviation` [k] each), and which can be told apart.

    kept        the directions in which they vary, float [directions, k]
    confounded  columns that have a part in any other direction, int
    condition   the number of the standardised columns
    """

    z: np.ndarray
    deviation: np.ndarray
    kept: np.ndarray
    confounded: np.ndarray
    condition: float

    @staticmethod
    def of(x: np.ndarray) -> _Columns:
        deviation = x.std(0)
        z = (x - x.mean(0)) / deviation
        _, sizes, directions = np.linalg.svd(z, full_matrices=False)
        lost = directions[sizes < sizes[0] / WORST_CONDITION]
        confounded = np.flatnonzero((lost**2).sum(0) > APART) if len(lost) else np.array([], int)
        determined = directions[sizes >= sizes[0] / WORST_CONDITION]
        return _Columns(z, deviation, determined, confounded, float(sizes[0] / max(sizes[-1], 1e-12)))

    @property
    def design(self) -> np.ndarray:
        """The confounded stay in it, unnamed, for the others' sake: float [rows, 1 + directions]."""
        return np.column_stack([np.ones(len(self.z)), self.z @ self.kept.T])

    def slope(self, j: int) -> np.ndarray:
        """Return the combination of the design's coefficients that is the slope over column j."""
        return np.concatenate([[0.0], self.kept[:, j]]) / self.deviation[j]


def _factor(
    block: Block, at: int, quantity: Quantity, shape: _Shape, deviation: float, er: np.ndarray, sse: float,
    others: np.ndarray,
) -> Factor:  # fmt: skip
    """The row of a block's column number `at`; `others` are the standardised columns of all other blocks."""
    slope = quantity.estimate
    return Factor(
        name=block.names[at],
        slope=slope,
        partial_r2=_partial_r2(np.column_stack([np.ones(len(er)), others]), sse, er),
        levels=block.levels,
        label=block.labels[at],
        per=block.per,
        against=block.against,
        standardised=slope.value * deviation / er.std() if er.std() > 0 else np.nan,
        straight_p=shape.straight_p,
        inner=shape.inner,
        p_equivalent=shape.p_equivalent,
        without=quantity.without_one,
        without_level=shape.without_level,
        quantity=quantity,
    )


@dataclass(frozen=True, eq=False)
class _Shape:
    """What the slope of a factor leaves out, and what "no effect" rests on; see `Factor`."""

    inner: tuple[float, float]
    p_equivalent: float
    straight_p: float = float("nan")
    levels: pd.DataFrame = field(default_factory=_no_levels)
    without_level: tuple[float, float] = (float("nan"), float("nan"))


def _shape(
    block: Block, others: Sequence[Block], rows: Rows, baseline: Baseline | None, slope: Estimate, margin: float
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
    fit = Fit(np.column_stack([rest, at[:, None] == np.arange(1, len(values))]), rows, baseline)

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
    finite = straight[np.isfinite(straight)]
    names = [f"{block.factor}={_amount(10**value)}" for value in values]
    table = pd.DataFrame(
        [{"factor": block.factor, "a": names[i + 1], "b": names[i], "family": block.factor,
          **contrasts.row(pairs[i, i + 1], margin)} for i in range(len(values) - 1)],
        columns=list(LEVELS),
    )  # fmt: skip
    straight_p = float(finite.min()) if len(finite) else np.nan
    without_each = [at != i for i in range(len(values))]
    slopes = np.array([_slope(block.columns[chosen, 0], rest[chosen], rows.er[chosen]) for chosen in without_each])
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
    block: Block, rest: np.ndarray, rows: Rows, baseline: Baseline | None, slope: Estimate, margin: float
) -> _Shape:
    """Of a number with too many values for levels: its square tells whether ER is straight, and its slope over the
    whole range what "no effect" is."""
    x = block.columns[:, 0]
    whole = replace(slope, value=slope.value * float(np.ptp(x)), se=slope.se * float(np.ptp(x)))
    fit = Fit(np.column_stack([rest, x, (x - x.mean()) ** 2]), rows, baseline)
    combination = np.eye(fit.design.shape[1])[-1]
    bend = fit.quantity(combination).estimate.p if fit.estimable(combination) else np.nan
    return _Shape(whole.inner, whole.p_outside(margin), bend)


def _polynomials(x: np.ndarray) -> list[np.ndarray]:
    """Orthogonal polynomials of degree 2 and over at the levels x, float [levels] each, at most `MOST_BENDS`: contrasts
    that a straight line has none of."""
    basis = np.linalg.qr(np.vander((x - x.mean()) / np.ptp(x), len(x), increasing=True))[0]
    return [basis[:, degree] for degree in range(2, min(len(x), 2 + MOST_BENDS))]


def _partial_r2(others: np.ndarray, sse: float, er: np.ndarray) -> float:
    """(SSE without the factor - SSE with it) / SSE without it."""
    left = er - others @ np.linalg.lstsq(others, er, rcond=None)[0]
    without = float(left @ left)
    return 1 - sse / without if without > 0 else float("nan")
