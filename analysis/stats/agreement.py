"""OOD accuracy without OOD labels, from how often pairs of models predict the same: `estimate_ood`.

Baek, Jiang, Raghunathan and Kolter, "Agreement-on-the-Line" (NeurIPS 2022): where the accuracies of models lie on a
line, so does the agreement of pairs of them, and the two lines have the same slope and intercept; agreement needs no
labels. Owns ALine-D, their estimate of each model's OOD accuracy, what makes it uncertain, and when agreement makes no
line, so that nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from analysis.formatting import interval, number
from analysis.scales import Scale
from analysis.stats import group_jackknife
from analysis.stats.estimates import Estimate
from analysis.stats.group_jackknife import JackknifeScores
from analysis.stats.quantities import ErrorSource
from ray_robust.text.names import count_noun
from ray_robust.text.percent import percent

BLOCKS = 32  # of images, left out in turn where a test has too few groups
AT_ONCE = 1 << 22  # predictions that are compared in one step, bytes
LEAST_TRIALS = 4  # of the baseline: fewer say nothing about the error of the agreement line
PARTNERS = "models that agree"  # the name of this source of error
ESTIMATE = "OOD estimated without labels"  # what all that is made of estimates is marked with
METHOD = "agreement on the line, ALine-D within groups"
ASSUMES = (
    "Whether estimates are right cannot be checked without labels: they are as far as accuracy lies on the line that "
    "agreement between models lies on, as it does on many published shifts and not on all. Where all models often give "
    "the same wrong answer, effects are estimated too small; a group that does so more often than the baseline is "
    "estimated too good. How often they do so under shift labels alone show."
)


@dataclass(frozen=True, eq=False)
class Test:
    """What every point predicted on the images of a test: int [points, images]; the labels of the images, int
    [images], None where they have none, and their test groups by number, int [images], with the groups' names. Of a
    run, the names of the images [images], and of the classes by number."""

    predicted: np.ndarray
    labels: np.ndarray | None
    group: np.ndarray | None = None
    groups: tuple[str, ...] = ()
    images: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.predicted.shape[1]

    @property
    def grouped(self) -> bool:
        """Whether it has enough test groups to be a sample of others."""
        return len(self.groups) >= group_jackknife.LEAST_GROUPS


@dataclass(frozen=True, eq=False)
class Estimated:
    """Estimated OOD accuracies, float [points], with the replicates that make them uncertain, aligned with the points.

    slope    of the baseline's agreement line, with its error over the trials; `intercept` and `r2` are of the same line
    alone    how many groups have a single trial, whose models are in pairs with those of all others
    coinciding  by group, of the ID images that two of its models get wrong, the share that they give the same wrong
                answer on, NaN where there are none
    baseline    which of them is the baseline
    refused  why nothing is estimated, or ""
    """

    ood: np.ndarray
    replicates: tuple[JackknifeScores, ...] = ()
    slope: Estimate = field(default_factory=lambda: Estimate(np.nan, np.nan, np.nan))
    intercept: float = np.nan
    r2: float = np.nan
    pairs: int = 0
    images: int = 0
    alone: int = 0
    coinciding: Mapping[str, float] = field(default_factory=dict)
    baseline: str = ""
    refused: str = ""

    @property
    def sentence(self) -> str:
        """What the estimate rests on, or why there is none."""
        slope = f"slope {number(self.slope.value, 2)} ({interval(self.slope.low, self.slope.high, 2)})"
        pairs = f"agreement of {self.pairs:,} pairs of baseline models on {self.images:,} images"
        own = percent(self.coinciding.get(self.baseline, np.nan))
        wrong = f"of ID images that two of them get wrong, {own} have the same wrong answer"
        others = [share for group, share in self.coinciding.items() if group != self.baseline and np.isfinite(share)]
        if others:
            wrong += f", of two models of another group {percent(min(others))} to {percent(max(others))}"
        alone = f"; {count_noun(self.alone, 'group')} of a single trial, in pairs with all: their ER is drawn together"
        return self.refused or f"{pairs}: R² {number(self.r2, 2)}, {slope}; {wrong}{alone if self.alone else ''}"


def matches(predicted: np.ndarray) -> np.ndarray:
    """Return on how many images each pair of points predicts the same, float [points, points]."""
    count = len(predicted)
    same = np.zeros((count, count))
    step = max(1, AT_ONCE // max(predicted.size, 1))
    for i in range(0, count, step):
        own = predicted[i : i + step, None] == predicted[i:]
        same[i : i + step, i:] = np.count_nonzero(own, axis=2)
    return np.maximum(same, same.T)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which points are paired: those of different trials, since two points of one training agree for another reason,
    and of one group, where it has two trials or more. Models of groups that are apart in OOD accuracy alone agree less
    than the line of models that are as far apart on both tests says, and would draw these groups together.

    trial     int [points]; `group` [points], one of which is the `baseline`
    """

    trial: np.ndarray
    group: np.ndarray
    baseline: Hashable

    @cached_property
    def of_baseline(self) -> np.ndarray:
        """Which points are the baseline's, bool [points]."""
        return np.asarray(self.group == self.baseline, bool)

    @property
    def count(self) -> int:
        """How many pairs of baseline points there are."""
        sizes = np.bincount(self.trial[self.of_baseline])
        return int(sizes.sum() ** 2 - (sizes**2).sum()) // 2

    def without(self, trial: int) -> np.ndarray:
        """Return which points are left as partners without a trial, bool [points]."""
        return self.trial != trial

    def line(self, x: np.ndarray, y: np.ndarray, partners: np.ndarray | None = None) -> tuple[float, float, float]:
        """Return slope, intercept and R² of the baseline's pairs: y on x, float [points, points] each."""
        own = np.flatnonzero(self.of_baseline if partners is None else self.of_baseline & partners)
        i, j = np.triu_indices(len(own), 1)
        i, j = own[i], own[j]
        apart = self.trial[i] != self.trial[j]
        first, second = x[i[apart], j[apart]], y[i[apart], j[apart]]
        if len(first) < 3 or not np.ptp(first) > 0:
            return np.nan, np.nan, np.nan
        u, v = first - first.mean(), second - second.mean()
        slope = float(u @ v / (u @ u))
        spread = float(v @ v)
        return slope, float(second.mean() - slope * first.mean()), float(slope * (u @ v) / spread) if spread else np.nan

    def solve(self, values: np.ndarray, partners: np.ndarray | None = None) -> np.ndarray:
        """Return w [points], least squares of (w_i + w_j)/2 = values[i, j] over the pairs of each group; of a group
        with a single trial over those of all groups. Points that are no `partners` are fitted to the others' w."""
        every = np.ones(len(self.trial), bool)
        keep = every if partners is None else partners
        solved = np.full(len(self.trial), np.nan)
        of_all = lru_cache(lambda left: _solved(self.trial, values, keep if left else every))
        for own, trials in self._groups:
            inside = values[np.ix_(own, own)]
            kept = len(np.unique(self.trial[own][keep[own]]))
            if kept > 2:
                solved[own] = _solved(self.trial[own], inside, keep[own])
            elif kept == 2:
                solved[own] = _solved(self.trial[own], inside, keep[own], of_all(True)[own])
            elif trials == 2:  # without its only pairs: what leaving it out changes among all, about what they say
                whole = of_all(False)[own]
                moved = _solved(self.trial[own], inside, every[own], whole) - whole
                solved[own] = of_all(True)[own] + moved.mean()
            else:
                solved[own] = of_all(True)[own]
        return solved

    @cached_property
    def _groups(self) -> list[tuple[np.ndarray, int]]:
        """The points of each group, int, and how many trials they are of."""
        groups = [np.flatnonzero(self.group == one) for one in dict.fromkeys(self.group.tolist())]
        return [(own, len(np.unique(self.trial[own]))) for own in groups]

    @property
    def alone(self) -> int:
        """How many groups have a single trial."""
        return sum(trials == 1 for _, trials in self._groups)

    @property
    def df(self) -> float:
        """Degrees of freedom of what leaving trials out in turn shows: those of the smallest group whose own pairs
        it is estimated from."""
        return min(trials for _, trials in self._groups if trials > 1) - 1.0


def _solved(trials: np.ndarray, values: np.ndarray, keep: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
    """Return w [points], least squares of (w_i + w_j)/2 = values[i, j] over pairs of different trials of the points to
    `keep`; the others are fitted to these.

    With P points, n in a trial t, M the sum of w and n m_t that of t's: the normal equation of a point of t is
    (P - n) w + M - n m_t = 2 sum_j values[., j] = b. Summed over t it gives the m. Those of two trials alone say what
    the mean of both m is; their difference is then that of `near` [points].
    """
    number, trial = np.unique(trials[keep], return_inverse=True)
    b = 2 * np.where(trials[:, None] != trials[keep], values[:, keep], 0.0).sum(1)
    size, total = np.bincount(trial), np.bincount(trial, b[keep])
    equations = (np.diag(size * (len(trial) - 2 * size)) + np.outer(size, size)).astype(float)
    if near is None:
        means = np.linalg.solve(equations, total)
    else:
        before = np.bincount(trial, near[keep]) / size
        means = before + np.linalg.lstsq(equations, total - equations @ before, rcond=None)[0]
    own = dict(zip(number, range(len(number)), strict=True))
    at = np.array([own.get(one, -1) for one in trials])
    sizes, sums = np.append(size, 0)[at], np.append(size * means, 0.0)[at]
    return (b - size @ means + sums) / (len(trial) - sizes)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Of every point the accuracy in distribution, `score`, and transformed, [points]; of every pair the transformed
    agreement in and out of distribution, [points, points]."""

    score: np.ndarray
    accuracy: np.ndarray
    id: np.ndarray
    ood: np.ndarray

    def estimate(self, pairs: Pairs, partners: np.ndarray | None = None) -> np.ndarray:
        """Return the transformed OOD accuracy of every point by ALine-D: the mean of a pair's is their agreement, moved
        along the line by what their ID accuracy and agreement are apart."""
        slope, *_ = pairs.line(self.id, self.ood, partners)
        middle = (self.accuracy[:, None] + self.accuracy) / 2
        return pairs.solve(self.ood + slope * (middle - self.id), partners)


@dataclass(frozen=True, eq=False)
class _Counts:
    """How often points are right in distribution, bool [points, images], and agree, by side [points, points]."""

    tests: Mapping[str, Test]
    scale: Scale
    right: np.ndarray
    same: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, tests: Mapping[str, Test], scale: Scale) -> _Counts:
        assert tests["id"].labels is not None
        same = {side: matches(test.predicted) for side, test in tests.items()}
        return cls(tests, scale, tests["id"].predicted == tests["id"].labels, same)

    @cached_property
    def _whole(self) -> dict[str, np.ndarray]:
        return {side: self._h(same, len(self.tests[side])) for side, same in self.same.items()}

    def coinciding(self, pairs: Pairs, group: Hashable) -> float:
        """Return on what share of the ID images that two models of a group get wrong both give the same answer, NaN
        where there are none."""
        own = np.flatnonzero(pairs.group == group)
        apart = np.triu(pairs.trial[own][:, None] != pairs.trial[own])
        right = self.right[own].astype(np.float32)
        both, hits = (right @ right.T).astype(float), self.right[own].sum(1)
        wrong = float((right.shape[1] - hits[:, None] - hits + both)[apart].sum())
        return float((self.same["id"][np.ix_(own, own)] - both)[apart].sum()) / wrong if wrong else np.nan

    def inputs(self, left_out: Mapping[str, np.ndarray] | None = None) -> _Inputs:
        """Return what an estimate is made of, without some images of each side (int)."""
        agreement = dict(self._whole)
        for side, images in (left_out or {}).items():
            if len(images):
                test = self.tests[side]
                rest = self.same[side] - matches(test.predicted[:, images])
                agreement[side] = self._h(rest, len(test) - len(images))
        gone = self.right[:, [] if left_out is None else left_out["id"]]
        size = self.right.shape[1] - gone.shape[1]
        hits = self.right.sum(1) - gone.sum(1)
        return _Inputs(hits / size, self._h(hits, size), agreement["id"], agreement["ood"])

    def _h(self, count: np.ndarray, of: int) -> np.ndarray:
        return self.scale.of(count / of, of)


def estimate_ood(
    tests: Mapping[str, Test], trials: np.ndarray, groups: np.ndarray, baseline: Hashable, scale: Scale, min_r2: float
) -> Estimated:
    """Return the estimated OOD accuracy of every point.

    tests     what the points predicted on both tests, "id" (with labels) and "ood" (whose labels are not looked at)
    trials    int [points], the trial of each
    groups    [points], the group of each; `baseline` is one of them
    min_r2    the R² of the baseline's agreement under which nothing is estimated
    """
    pairs = Pairs(np.asarray(trials), np.asarray(groups), baseline)
    nothing = np.full(len(pairs.trial), np.nan)
    if why := _too_few(pairs) or _two_classes(tests["id"]):
        return Estimated(nothing, refused=why, images=len(tests["ood"]))
    counts = _Counts.of(tests, scale)
    whole = counts.inputs()
    slope, intercept, r2 = pairs.line(whole.id, whole.ood)
    numbers = np.unique(pairs.trial)
    slopes = [
        pairs.line(whole.id, whole.ood, pairs.without(one))[0] for one in np.unique(pairs.trial[pairs.of_baseline])
    ]
    error = Estimate(slope, float(np.sqrt((len(slopes) - 1) * np.var(slopes))), len(slopes) - 1.0)
    refused = _off_the_line(error, r2, min_r2)
    coinciding = {str(group): counts.coinciding(pairs, group) for group in dict.fromkeys(pairs.group.tolist())}
    images, name = len(tests["ood"]), str(baseline)
    made = Estimated(nothing, (), error, intercept, r2, pairs.count, images, pairs.alone, coinciding, name, refused)
    if refused:
        return made

    def accuracy(transformed: np.ndarray) -> np.ndarray:
        return np.clip(scale.inverse(transformed), 0.0, 1.0)  # a line on the linear scale goes beyond

    over = [whole.estimate(pairs, pairs.without(one)) for one in numbers]
    partners = ErrorSource(PARTNERS, len(numbers), len(numbers) - 1.0, pairs.df)
    replicates = [JackknifeScores(partners, None, accuracy(np.stack(over, axis=1)))]
    for source, left in _left_out(tests):
        rest = [counts.inputs(images) for images in left]
        ids = np.stack([one.score for one in rest], axis=1) if any(len(images["id"]) for images in left) else None
        oods = np.stack([one.estimate(pairs) for one in rest], axis=1)
        replicates.append(JackknifeScores(source, ids, accuracy(oods)))
    return replace(made, ood=accuracy(whole.estimate(pairs)), replicates=tuple(replicates))


def _too_few(pairs: Pairs) -> str:
    trials = len(np.unique(pairs.trial[pairs.of_baseline]))
    if trials < LEAST_TRIALS:
        return f"the baseline has {trials} trials, and agreement between {LEAST_TRIALS} or more is needed"
    return ""


def _two_classes(test: Test) -> str:
    assert test.labels is not None
    if len(np.union1d(test.labels, test.predicted)) > 2:
        return ""
    return "with two classes all wrong answers are the same, so that agreement between models says little of accuracy"


def _off_the_line(slope: Estimate, r2: float, min_r2: float) -> str:
    """Why agreement makes no line, or ""."""
    if not np.isfinite(r2):
        return "agreement is off the line: all pairs of baseline models agree equally often"
    if not r2 >= min_r2:
        return (
            f"agreement is off the line: R² of the baseline's pairs is {number(r2, 3)}, under the floor of {min_r2:g}"
        )
    if not slope.low > 0:
        where = f"slope {number(slope.value, 2)} ({interval(slope.low, slope.high, 2)})"
        return f"agreement is off the line, which is not shown to rise: {where}"
    return ""


def _left_out(tests: Mapping[str, Test]) -> Iterator[tuple[ErrorSource, list[dict[str, np.ndarray]]]]:
    """Yield each source of error among the images: a set of test groups, or of blocks of images where there are too few
    groups, with the images of each side (int) that are left out in turn."""
    none = np.empty(0, np.int64)
    shared = set(tests["id"].groups) & set(tests["ood"].groups)
    if shared and all(test.grouped for test in tests.values()):
        names = sorted({*tests["id"].groups, *tests["ood"].groups})
        codes = {side: _codes(test, names) for side, test in tests.items()}
        sizes = [np.bincount(own, minlength=len(names)) for own in codes.values()]
        count = min(len(names), group_jackknife.MOST_LEFT_OUT)
        id_parts, ood_parts = (_parts(codes[side] % count, count) for side in ("id", "ood"))
        yield (
            group_jackknife.error_source("groups", sizes),
            [{"id": a, "ood": b} for a, b in zip(id_parts, ood_parts, strict=True)],
        )
        return
    for side, test in tests.items():
        if test.grouped:
            assert test.group is not None
            blocks = np.arange(len(test.groups)) % group_jackknife.MOST_LEFT_OUT
            own = _parts(blocks[test.group], int(blocks.max()) + 1)
            source = group_jackknife.error_source(f"{side.upper()} groups", [np.bincount(test.group)])
        else:
            order = np.random.default_rng(0).permutation(len(test))
            own = _parts(order % BLOCKS, min(BLOCKS, len(test)))
            source = ErrorSource(f"{side.upper()} images", len(test), len(own) - 1.0, len(own) - 1.0)
        yield source, [{"id": none, "ood": none} | {side: one} for one in own]


def _codes(test: Test, names: Sequence[str]) -> np.ndarray:
    assert test.group is not None
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[name] for name in test.groups])[test.group]


def _parts(codes: np.ndarray, count: int) -> list[np.ndarray]:
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes, minlength=count))[:-1])
