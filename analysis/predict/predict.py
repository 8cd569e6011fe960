"""From many small trials to the next ones: `predict` fits ER, ID and OOD over the mixtures of a run, tests itself on
mixtures left out, and proposes the next ones; `confirm` compares it with a larger run.

Owns the choice of what a trial's value is, the best mixture, the proposals and the rank correlation. The surface is
`surface`'s, the space of mixtures `mixtures`'. Files and sentences are `text`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import kendalltau, spearmanr

from analysis.input.table import Table
from analysis.predict.mixtures import Mixture, Space, mixtures_of, varied_beside
from analysis.predict.surface import SPARE, Check, Surface, cross_validate, fit, rank
from analysis.scales import PP
from analysis.stats.best_set import ER
from analysis.stats.estimates import TWO_SIDED
from analysis.stats.quantities import Quantity, errors_named
from analysis.stats.robustness import LINE
from analysis.study import Analysis
from ray_robust.text.names import count_noun

TARGETS = {"er": "ER", "id": "ID score", "ood": "OOD score"}
CANDIDATES = 1_500  # mixtures between the tried ones that are looked at
REFINED = 500  # more of them, around the best
NEXT = 6  # proposals at most
NEAR = 0.1  # of the tried range
PROMISING = 0.9  # a proposal is judged by the upper end of its 80 % interval
CONFIRMED = 8  # mixtures that a larger run is proposed for
FEWEST_PAIRS = 5  # of mixtures, for an interval of a rank correlation


@dataclass(frozen=True, eq=False)
class Target:
    """One score over the mixtures, percentage points. `surface` is None where it does no better than the mean.

    values, counts   of every group of trials: their mean and how many they are
    shared           what moves all values together (the baseline line, the task's groups), for ER
    """

    name: str
    values: np.ndarray
    counts: np.ndarray
    check: Check
    surface: Surface | None
    shared: tuple[Quantity, ...] = ()

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the surface at places [m, axes] and its 95 % interval."""
        value, se, df = self.error(places)
        reach = stdtrit(df, TWO_SIDED) * se
        return value, value - reach, value + reach

    def error(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return value, standard error and degrees of freedom at places, [m] each: the surface's own error, and what
        moves all trials alike."""
        assert self.surface is not None
        surface = self.surface.at(places)
        variances, dfs = self._moved(surface.smoother)
        return surface.value, *_joined([surface.se**2, *variances], [surface.df, *dfs])

    def apart(self, places: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return how far places [m, axes] lie below the place `best` [1, axes], [m] each with standard error and
        degrees of freedom."""
        assert self.surface is not None
        here, there = self.surface.at(places), self.surface.at(best)
        own = here.se**2 + there.se**2 - 2 * self.surface.covariance(places, best)[:, 0]
        variances, dfs = self._moved(there.smoother - here.smoother)
        return there.value - here.value, *_joined([np.maximum(own, 0.0), *variances], [here.df, *dfs])

    def _moved(self, smoother: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
        named = dict.fromkeys(source for quantity in self.shared for source in quantity.replicates)
        sources = [source for source in named if np.isfinite(source.df)]  # else nothing is known of other groups
        variances, dfs = [], []
        for line, pulls, df in errors_named(self.shared, LINE):
            variances.append((((smoother @ pulls) @ line.effects.T) ** 2).sum(1))
            dfs.append(df)
        for source in sources:
            drawn = np.array([quantity.replicates[source] for quantity in self.shared])
            double_counted = np.array([quantity.double_counted.get(source, 0.0) for quantity in self.shared])
            left = np.var(smoother @ drawn, axis=1) * source.factor - smoother**2 @ double_counted
            variances.append(np.maximum(left, 0.0))
            dfs.append(source.df)
        return variances, dfs


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for mixtures that a run did not train.

    groups      the run's groups, in the order of the values; `mixtures` what each was trained on
    best        the mixture with the highest predicted ER inside the tried region, None where ER is not predicted
    as_good     how many of the mixtures looked at cannot be told from it (95 %), and over which ranges they lie
    proposals   what to try next, `confirm` what to train at a larger total, from best to worst
    reference   the total at which compositions are compared with a larger run
    refused     why nothing is predicted; empty where something is
    beside      keys of the spec that vary and are no axis of the space: what they do is in the numbers
    mark        what all numbers are marked with, e.g. that OOD scores are estimated; "" where there is nothing
    best_set    of the `compared` groups that were trained those that may have the highest ER (`stats.best_set`)
    """

    task: str
    space: Space | None
    groups: tuple[str, ...] = ()
    mixtures: tuple[Mixture, ...] = ()
    targets: dict[str, Target] = field(default_factory=dict)
    best: Mixture | None = None
    as_good: tuple[Mixture, ...] = ()
    looked_at: int = 0
    proposals: tuple[Mixture, ...] = ()
    confirm: tuple[Mixture, ...] = ()
    reference: int = 0
    refused: str = ""
    left_out: int = 0
    best_set: tuple[str, ...] = ()
    compared: int = 0
    beside: tuple[str, ...] = ()
    mark: str = ""


def predict(table: Table, analysis: Analysis, seed: int = 0) -> Prediction:
    """Return the prediction from one task of a run, and which of the groups trained may be best, whatever becomes of
    it."""
    own = analysis.best.loc[analysis.best["measure"] == ER]
    within = tuple(own.loc[own["in_set"].astype(bool), "group"])
    beside = () if table.run is None else varied_beside(table.run.spec())
    made = _predicted(table, analysis, seed)
    return replace(made, best_set=within, compared=len(own), beside=beside, mark=analysis.mark)


def _predicted(table: Table, analysis: Analysis, seed: int) -> Prediction:
    points, baseline = analysis.points, analysis.options.baseline
    if analysis.baseline is None or analysis.refused:
        return Prediction(analysis.task, None, refused=f"there is no ER to predict: {'; '.join(analysis.refusals)}")
    own = points.loc[points["group"] != baseline]
    if "wise_alpha" in own:
        own = own.loc[own["wise_alpha"].isna()]
    of_trial = mixtures_of(table, own)
    own = own.loc[own["trial"].isin(of_trial)]
    with_er = {g: rows for g, rows in own.groupby("group", sort=False) if g in analysis.means}
    left_out = own["group"].nunique() - len(with_er)
    mixtures = [of_trial[rows["trial"].iloc[0]] for rows in with_er.values()]
    if len(set(mixtures)) < 2:
        return Prediction(analysis.task, None, refused="there are not two different mixtures with ER")
    space = Space.of(mixtures)
    least = rank(space.places) + SPARE
    if len(np.unique(space.places, axis=0)) < least:
        few = f"{len(set(mixtures))} mixtures are too few for a surface over {space.text}: at least {least} are needed"
        return Prediction(analysis.task, space, refused=few)
    lines = errors_named([analysis.means[group].quantity for group in with_er], LINE)
    if not all(np.isfinite(df) for *_, df in lines):
        trials = points.loc[points["group"] == baseline, "trial"].nunique()
        one = f"a single trial decides the line of the baseline {baseline!r}, which has {count_noun(trials, 'trial')}"
        return Prediction(analysis.task, space, refused=f"{one}: the error of ER is not known")
    targets = {name: _target(name, with_er, space, analysis, seed) for name in TARGETS}
    prediction = Prediction(analysis.task, space, tuple(with_er), tuple(mixtures), targets, left_out=left_out)
    return _with_proposals(prediction, targets["er"], seed)


def _target(name: str, rows_of_group: dict[str, pd.DataFrame], space: Space, analysis: Analysis, seed: int) -> Target:
    """One score's surface. A trial's ER is the mean over its points in the baseline's range; its ID and OOD are those
    of the point that is best on id_val, the model that one would take."""
    by_trial = [_er(rows) if name == "er" else _chosen(rows, name) for rows in rows_of_group.values()]
    values, counts = np.array([one.mean() for one in by_trial]), np.array([float(len(one)) for one in by_trial])
    within, df = sum(float(((one - one.mean()) ** 2).sum()) for one in by_trial), float(counts.sum() - len(counts))
    shared = tuple(analysis.means[group].quantity for group in rows_of_group) if name == "er" else ()
    check = cross_validate(space.places, values, counts, within, df, seed)
    surface = fit(space.places, values, counts, within, df) if check.trusted else None
    return Target(name, values, counts, check, surface, shared)


def _er(rows: pd.DataFrame) -> np.ndarray:
    return rows.loc[~rows["extrapolated"]].groupby("trial", sort=False)["er"].mean().to_numpy()


def _chosen(rows: pd.DataFrame, score: str) -> np.ndarray:
    by = "id_val" if "id_val" in rows and rows["id_val"].notna().all() else "id"
    return PP * rows.loc[rows.groupby("trial", sort=False)[by].idxmax(), score].to_numpy(float)


def _with_proposals(prediction: Prediction, er: Target, seed: int) -> Prediction:
    space = prediction.space
    assert space is not None
    if er.surface is None:
        return prediction
    tried = list(dict.fromkeys(prediction.mixtures))
    candidates = list(dict.fromkeys([*tried, *space.between(CANDIDATES // _levels(space), seed)]))
    best = _best(er, space, candidates)
    around = _among(space, [best, *sorted(tried, key=lambda m: _far(space, m, best))[:5]])
    candidates = list(dict.fromkeys([*candidates, *around.between(REFINED, seed + 1)]))
    best = _best(er, space, candidates)
    below, se, df = er.apart(space.at(candidates), space.at([best]))
    near = below <= stdtrit(df, TWO_SIDED) * se  # of the best itself a difference and an error of rounding alone
    same = tuple(m for m, alike in zip(candidates, near, strict=True) if alike or m == best)
    totals = sorted(mixture.images for mixture in tried)
    reference = totals[len(totals) // 2]
    return replace(
        prediction, best=best, as_good=same, looked_at=len(candidates), proposals=_proposals(er, space, candidates),
        confirm=_to_confirm(er, space, reference, seed), reference=reference,
    )  # fmt: skip


def _among(space: Space, mixtures: Sequence[Mixture]) -> Space:
    """The same axes with only these mixtures as the tried ones."""
    return Space(space.numbers, space.sources, space.widest, space.levels, tuple(mixtures), space.at(mixtures))


def _levels(space: Space) -> int:
    return max(1, len({tuple(sorted(m.levels)) for m in space.tried}))


def _far(space: Space, a: Mixture, b: Mixture) -> float:
    first, second = space.at([a, b])
    return float(((first - second) ** 2).sum()) + (10.0 if a.levels != b.levels else 0.0)


def _best(er: Target, space: Space, candidates: Sequence[Mixture]) -> Mixture:
    """The highest predicted ER inside the tried region; what rounding has moved out is passed over."""
    order = np.argsort(-er.at(space.at(candidates))[0], kind="stable")
    return next(candidates[i] for i in order if space.inside(candidates[i]))


def _proposals(er: Target, space: Space, candidates: Sequence[Mixture]) -> tuple[Mixture, ...]:
    """Where ER may be high: the highest upper end of the 80 % interval (an upper confidence bound, Srinivas et al.
    2010), one after another; each as if the value there had become known as predicted, which narrows what lies near it
    (Ginsbourger et al. 2010). None lies within `NEAR` of a mixture that was tried or proposed before it."""
    assert er.surface is not None
    places = space.at(candidates)
    value, se, df = er.error(places)
    own = er.surface.covariance(places)
    shared = np.maximum(se**2 - own, 0.0)
    chosen, narrowed = list[int](), list[np.ndarray]()
    passed = _near(places, space.places)
    while len(chosen) < NEXT and not passed.all():
        promise = value + stdtrit(df, PROMISING) * np.sqrt(np.maximum(own, 0.0) + shared)
        pick = int(np.argmax(np.where(passed, -np.inf, promise)))
        passed[pick] = True
        if not space.inside(candidates[pick]):
            continue
        chosen.append(pick)
        passed |= _near(places, places[[pick]])
        with_pick = er.surface.covariance(places, places[[pick]])[:, 0] - sum(
            column * column[pick] for column in narrowed
        )
        narrowed.append(with_pick / np.sqrt(max(with_pick[pick], 1e-12)))
        own = own - narrowed[-1] ** 2
    return tuple(candidates[i] for i in chosen)


def _near(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which places lie within `NEAR` of one of the others, bool [m]."""
    square = (places**2).sum(1)[:, None] + (others**2).sum(1) - 2 * places @ others.T
    return np.asarray((square < NEAR**2).any(1))


def _to_confirm(er: Target, space: Space, reference: int, seed: int) -> tuple[Mixture, ...]:
    """Compositions at the reference total from the best predicted one to the worst, evenly over their values: a rank
    correlation needs the bad ones as well."""
    slice_ = [
        m for m in space.between(CANDIDATES // _levels(space), seed + 2, images=reference) if m.images == reference
    ]
    if len(slice_) < 2:
        return ()
    value = er.at(space.at(slice_))[0]
    order, wanted = np.argsort(-value, kind="stable"), np.linspace(value.max(), value.min(), CONFIRMED)
    chosen: dict[Mixture, None] = {}
    for level in wanted:
        near = min((i for i in order), key=lambda i: abs(value[i] - level))
        chosen[slice_[near]] = None
    return tuple(m for m in chosen if space.inside(m))


def _joined(variances: Sequence[np.ndarray], dfs: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Standard error and Welch-Satterthwaite degrees of freedom of sums of independent parts, [m] each; NaN where those
    of a part are not known."""
    if not all(map(np.isfinite, dfs)):  # of a part nothing is known
        return np.full_like(variances[0], np.nan), np.full_like(variances[0], np.nan)
    total = np.sum(variances, axis=0)
    below = np.sum([v**2 / df for v, df in zip(variances, dfs, strict=True)], axis=0)
    return np.sqrt(total), np.where(below > 0, total**2 / np.maximum(below, 1e-300), min(dfs))


# --- a larger run


@dataclass(frozen=True, eq=False)
class Confirmation:
    """A larger run beside the prediction from a smaller one.

    table     one row per composition: group, mixture, predicted, predicted_low, predicted_high (at the reference total
              of the small run), inside (the tried region), observed (ER in the larger run), er_low, er_high
    spearman, kendall   rank correlation of predicted and observed, with 95 % intervals; NaN for too few compositions
    regret    ER of the best composition of the larger run less that of the one predicted to be best
    """

    task: str
    table: pd.DataFrame
    reference: int
    spearman: tuple[float, float, float]
    kendall: tuple[float, float, float]
    regret: float


def confirm(small: Prediction, table: Table, large: Analysis) -> Confirmation | str:
    """Return the compositions of the larger run with what is predicted for them at the small run's reference total, or
    a sentence where there is nothing to compare."""
    er, space = small.targets.get("er"), small.space
    if space is None or er is None or er.surface is None:
        return "the smaller run predicts no ER, so there is nothing to confirm"
    if large.baseline is None or large.refused:
        return f"the larger run has no ER: {'; '.join(large.refusals)}"
    own = large.points.loc[large.points["group"] != large.options.baseline]
    of_trial, rows = mixtures_of(table, own), []
    for group, points in own.groupby("group", sort=False):
        mixture = of_trial.get(points["trial"].iloc[0])
        if mixture is None or group not in large.means:
            continue
        trained_there = all(dict(mixture.levels).get(c, "") in values for c, values in space.levels.items())
        if not trained_there or (space.sources and any(name not in space.sources for name, _ in mixture.shares)):
            continue
        at = Mixture(small.reference, mixture.classes, mixture.shares, mixture.levels)
        value, low, high = (float(compositions[0]) for compositions in er.at(space.at([at])))
        estimate = large.means[group].quantity.estimate
        rows.append(
            (
                group,
                space.describe(mixture),
                value,
                low,
                high,
                space.inside(at),
                estimate.value,
                estimate.low,
                estimate.high,
            )
        )
    columns = [
        "group",
        "mixture",
        "predicted",
        "predicted_low",
        "predicted_high",
        "inside",
        "observed",
        "er_low",
        "er_high",
    ]
    compositions = pd.DataFrame(rows, columns=columns).sort_values("predicted", ascending=False, ignore_index=True)
    if len(compositions) < 2:
        return "the larger run has no two compositions of the smaller run's kind"
    rho = float(spearmanr(compositions["predicted"], compositions["observed"]).statistic)
    tau = float(kendalltau(compositions["predicted"], compositions["observed"]).statistic)
    count = len(compositions)
    regret = float(compositions["observed"].max() - compositions["observed"].iloc[0])
    spread = (np.sqrt((1 + rho**2 / 2) / (count - 3)), np.sqrt(0.437 / (count - 4))) if count >= FEWEST_PAIRS else None
    return Confirmation(
        small.task, compositions, small.reference, _fisher(rho, spread[0] if spread else np.nan),
        _fisher(tau, spread[1] if spread else np.nan), regret,
    )  # fmt: skip


def _fisher(correlation: float, error: float) -> tuple[float, float, float]:
    """The correlation with its 95 % interval on Fisher's z scale: standard errors by Bonett and Wright (2000) for
    Spearman's, by Fieller, Hartley and Pearson (1957) for Kendall's."""
    z = np.arctanh(np.clip(correlation, -1 + 1e-9, 1 - 1e-9))
    reach = 1.959964 * error
    return correlation, float(np.tanh(z - reach)), float(np.tanh(z + reach))
